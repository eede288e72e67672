import hashlib
import itertools
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from csra_lab.datasets import WIDER_ATTRIBUTES
from csra_lab.datasets.wider import load_wider
from csra_lab.errors import CsraError
from csra_lab.synthetic.paperdoll import doll_shapes
from csra_lab.synthetic.paperdoll_body import GROUND, doll_regions
from csra_lab.synthetic.paperdoll_people import OCCASIONS, SKIN, pick_occasion, sample_attributes, sample_doll
from csra_lab.synthetic.paperdoll_scene import HEIGHT, REGIONS, SEEN, WIDTH, Person, sample_scene
from csra_lab.synthetic.paperdoll_wider import (
    NAME,
    SCENES,
    draw_paperdoll_wider,
    load_paperdoll_wider,
    picture_generator,
    prepare_paperdoll_wider,
    scene_record,
)
from csra_lab.synthetic.polygons import paint, place

SHEET = Path(__file__).parents[2] / "data" / "PAPERDOLL.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare_paperdoll_wider(tmp_path_factory.mktemp("cache"), size="tiny", progress=False)


@pytest.fixture(scope="module")
def people():
    """The attributes of 20,000 dolls, as {name: (N,) bool}."""
    rng = np.random.default_rng(1)
    sets = [sample_attributes(rng, OCCASIONS[pick_occasion(rng)]) for _ in range(20_000)]
    return {name: np.array([name in s for s in sets]) for name in WIDER_ATTRIBUTES}


@pytest.fixture(scope="module")
def dolls():
    rng = np.random.default_rng(2)
    return [sample_doll(rng, OCCASIONS[pick_occasion(rng)]) for _ in range(6000)]


# ---- the folder


def test_widers_own_reader_reads_it(folder):
    for split, parts in (("trainval", ("train", "val")), ("train", ("train",)), ("test", ("test",))):
        ours, theirs = load_paperdoll_wider(folder, split), load_wider(folder, split)
        assert ours.name == folder.name
        assert ours.classes == WIDER_ATTRIBUTES
        assert ours.ids == theirs.ids
        records = [scene_record(part, i) for part in parts for i in range(SCENES["tiny"][part])]
        given = np.array([t["attribute"] for r in records for t in r["targets"]])
        assert np.array_equal(ours.targets, np.where(given == 1, 1, np.where(given == -1, 0, -1)))
        assert np.array_equal(ours.crops, [t["bbox"] for r in records for t in r["targets"]])
    picture = ours.image(0)
    assert picture.mode == "RGB"
    assert picture.size == tuple(ours.crops[0, 2:])
    with Image.open(ours.paths[0]) as scene:
        assert scene.size == (WIDTH, HEIGHT)


def test_the_folder_that_was_given_and_the_one_that_was_returned_are_both_understood(folder, tmp_path):
    (tmp_path / NAME).symlink_to(folder)
    assert load_paperdoll_wider(tmp_path, "test").ids == load_paperdoll_wider(folder, "test").ids
    with pytest.raises(CsraError, match="no PaperdollWIDER in"):
        load_paperdoll_wider(tmp_path / "nothing", "test")
    with pytest.raises(CsraError, match="no size 'huge'"):
        prepare_paperdoll_wider(tmp_path, size="huge")


def test_boxes_lie_in_the_picture_and_every_person_says_something(folder):
    for name in ("wider_attribute_trainval.json", "wider_attribute_test.json"):
        images = json.loads((folder / "Annotations" / name).read_text())["images"]
        for target in (t for image in images for t in image["targets"]):
            x, y, w, h = target["bbox"]
            assert min(x, y) >= 0
            assert min(w, h) > 10
            assert x + w <= WIDTH
            assert y + h <= HEIGHT
            assert sum(v != 0 for v in target["attribute"]) >= 4


# ---- who the people are


def test_attributes_fit_each_other(people):
    p = people
    assert not (p["Tshirt"] & p["longSleeve"]).any()
    assert (~p["formal"] | (p["longSleeve"] & ~p["logo"] & ~p["stripe"] & ~p["shorts"] & ~p["jeans"])).all()
    assert (~p["jeans"] | p["longPants"]).all()
    assert (p["shorts"].astype(int) + p["longPants"] + p["skirt"] == 1).all()
    frequency = {name: values.mean() for name, values in p.items()}
    assert all(0.1 < f < 0.6 for f in frequency.values()), frequency


def test_no_attribute_is_tied_to_male(people, dolls):
    male = people["Male"]
    assert male.mean() == pytest.approx(0.5, abs=0.02)
    for name in WIDER_ATTRIBUTES[1:]:
        assert abs(np.corrcoef(male, people[name])[0, 1]) < 4 / np.sqrt(len(male)), name
    male = np.array(["Male" in d.present for d in dolls])
    for field in ("hair_style", "hat_style", "extra", "pattern", "neck_style", "formal_style", "logo_style"):
        for value in {getattr(d, field) for d in dolls}:
            has = np.array([getattr(d, field) == value for d in dolls])
            assert abs(np.corrcoef(male, has)[0, 1]) < 4.5 / np.sqrt(len(male)), (field, value)


def test_no_attribute_is_tied_to_skin(dolls):
    skin = np.array([SKIN.index(d.skin) for d in dolls])
    assert np.bincount(skin, minlength=len(SKIN)) == pytest.approx(len(dolls) / len(SKIN), rel=0.2)
    for name in WIDER_ATTRIBUTES:
        has = np.array([name in d.present for d in dolls])
        for tone in range(len(SKIN)):
            part = has[skin == tone]
            assert abs(part.mean() - has.mean()) < 4.5 * np.sqrt(has.mean() * (1 - has.mean()) / len(part)), name


def test_the_data_sheet_states_these_frequencies(people):
    rows = dict(re.findall(r"^\| (\w+) \| (\d+\.\d) \|", SHEET.read_text(), flags=re.M))
    assert tuple(rows) == WIDER_ATTRIBUTES
    for name, percent in rows.items():
        assert float(percent) / 100 == pytest.approx(people[name].mean(), abs=0.035), name


# ---- what is drawn, against masks that Pillow draws


def without(doll, name):
    """The same doll, its attribute `name` taken away; what must be worn instead is."""
    gone = doll.present - {name}
    if name == "Male":
        return replace(doll, present=gone, face_style="earrings")
    if name == "longHair":
        return replace(doll, present=gone, hair_style="crop")
    if name == "longPants":
        return replace(doll, present=gone - {"jeans"} | {"shorts"})
    instead = {"shorts": "longPants", "skirt": "longPants", "Tshirt": "longSleeve", "longSleeve": "Tshirt"}
    return replace(doll, present=gone | ({instead[name]} if name in instead else set()))


def canvas(doll, scale=1.0):
    placed = place([s.points for s in doll_shapes(doll)], scale=scale, lean=0, origin=(0, GROUND))
    picture, x, y = paint([s._replace(points=p) for s, p in zip(doll_shapes(doll), placed, strict=True)])
    scene = Image.new("RGB", (300, 320), (128, 140, 120))
    scene.paste(picture, (150 + x, 280 + y), picture)
    return np.asarray(scene).astype(int)


@pytest.mark.parametrize("name", WIDER_ATTRIBUTES)
def test_an_attribute_changes_the_place_where_it_is_said_to_be_seen(name, dolls):
    for doll in itertools.islice((d for d in dolls if name in d.present), 6):
        changed = np.abs(canvas(doll) - canvas(without(doll, name))).sum(axis=2) > 40
        region = Image.new("1", (300, 320))
        for polygon in doll_regions(doll)[REGIONS[name]]:
            ImageDraw.Draw(region).polygon((polygon - (0, GROUND) + (150, 280)).ravel().tolist(), fill=1)
        assert changed[np.asarray(region)].mean() > (0.03 if name in ("Male", "jeans") else 0.08), doll


def drawn_masks(figure):
    """What Pillow draws of a figure: (H, W) bool."""
    picture, x, y = paint(figure.shapes)
    scene = Image.new("L", (WIDTH, HEIGHT))
    scene.paste(picture.getchannel("A"), (figure.x + x, figure.y + y))
    return np.asarray(scene) > 127


def region_seen(figure, scale, lean, region, covered, margin=400):
    """The part of a region that is in the picture and not covered, by Pillow's polygons on a canvas with a margin."""
    image = Image.new("1", (WIDTH + 2 * margin, HEIGHT + 2 * margin))
    for polygon in place(doll_regions(figure.doll)[region], scale=scale, lean=lean, origin=(0, GROUND)):
        line = polygon / 16 + (figure.x + margin - 0.5, figure.y + margin - 0.5)
        ImageDraw.Draw(image).polygon(line.ravel().tolist(), fill=1)
    mask = np.asarray(image)
    inside = mask[margin:-margin, margin:-margin]
    return (inside & ~covered).sum() / mask.sum()


def test_labels_say_what_is_seen_and_boxes_hold_the_drawn_pixels(monkeypatch):
    poses = []
    import csra_lab.synthetic.paperdoll_scene as scenes

    original = scenes._attributes

    def remember(doll, covered, **pose):
        poses.append((doll, pose["scale"], pose["lean"]))
        return original(doll, covered, **pose)

    monkeypatch.setattr(scenes, "_attributes", remember)
    counts = {0: 0, 1: 0, -1: 0}
    for index in range(14):
        covered = np.zeros((HEIGHT, WIDTH), dtype=bool)
        for figure in sample_scene(picture_generator("test", 5000 + index)).figures:
            drawn = drawn_masks(figure)
            if isinstance(figure, Person):
                scale, lean = next((s, t) for doll, s, t in poses if doll is figure.doll)
                parts = {r: region_seen(figure, scale, lean, r, covered) for r in set(REGIONS.values())}
                for name, value in zip(WIDER_ATTRIBUTES, figure.attribute, strict=True):
                    part, least = parts[REGIONS[name]], SEEN[0] / SEEN[1]
                    assert part < least + 0.08 if value == 0 else part > least - 0.08
                    assert value != (-1 if name in figure.doll.present else 1)
                    counts[value] += 1
                rows, columns = np.nonzero(drawn & ~covered)
                edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                x, y, w, h = figure.bbox
                assert np.abs(np.subtract(edges, (x, y, x + w, y + h))).max() <= 2
            covered |= drawn
    assert min(counts.values()) > 20


# ---- the same everywhere


def test_labels_and_boxes_are_these():
    """Another hash is another version: raise VERSION, and change the hash with it."""
    records = [scene_record(part, i) for part in ("train", "val", "test") for i in range(12)]
    digest = hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()
    assert digest[:16] == "ef69733f0496e852"


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_files_depend_neither_on_the_run_nor_on_the_number_of_workers(folder, tmp_path):
    scenes = {"train": 2, "val": 1, "test": 1}
    for workers in (1, 2):
        (tmp_path / str(workers)).mkdir()
        draw_paperdoll_wider(tmp_path / str(workers), scenes=scenes, progress=False, workers=workers)
    one, two, tiny = files(tmp_path / "1"), files(tmp_path / "2"), files(folder)
    assert one == two
    assert len(one) == 6
    assert all(tiny[name] == data for name, data in one.items() if name.endswith(".jpg"))


def test_a_killed_preparation_leaves_no_set_and_the_next_one_is_whole(folder, tmp_path):
    code = (
        "import sys; from pathlib import Path; from csra_lab.synthetic.paperdoll_wider import prepare_paperdoll_wider;"
        "prepare_paperdoll_wider(Path(sys.argv[1]), progress=False, workers=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while not any(tmp_path.rglob("*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert any(tmp_path.rglob("*.jpg"))
    assert not (tmp_path / NAME).exists()
    tiny = prepare_paperdoll_wider(tmp_path, size="tiny", progress=False)
    assert files(tiny) == files(folder)
