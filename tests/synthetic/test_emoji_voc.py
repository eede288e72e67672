import csv
import hashlib
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from csra_lab._io import resources
from csra_lab._io.resources import asset
from csra_lab.datasets.voc import VOC_CLASSES, load_voc
from csra_lab.errors import CsraError
from csra_lab.synthetic import emoji_voc, prepare
from csra_lab.synthetic import sprites as emoji_drawings
from csra_lab.synthetic.backgrounds import KINDS, background, grain
from csra_lab.synthetic.emoji_voc import GRID, SPLITS, label_set, labels_of, load_emoji_voc, picture, prepare_emoji_voc

REAL = Path(__file__).parents[2].parent / "shared" / "VOCdevkit"
PAIRS = np.triu_indices(len(VOC_CLASSES), 1)


def table(name):
    with open(asset(f"tables/{name}"), encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


@pytest.fixture(scope="module")
def real():
    """The labels of the 9,963 real images, expanded from the table of label sets: (N, C) in {1, 0, -1}, VOC's own."""
    rows = []
    for row in table("voc2007_label_sets.csv"):
        present, hard = row["present"].split(), row["difficult_only"].split()
        labels = [1 if name in present else 0 if name in hard else -1 for name in VOC_CLASSES]
        rows += [labels] * (int(row["trainval"]) + int(row["test"]))
    return np.array(rows)


@pytest.fixture(scope="module")
def cooccurrence():
    return np.array([[int(row[name]) for name in VOC_CLASSES] for row in table("voc2007_cooccurrence.csv")])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return prepare_emoji_voc(tmp_path_factory.mktemp("cache"), size="tiny", image_size=64, progress=False)


# ---- the numbers of the real VOC2007


def test_tables_agree_with_each_other(real, cooccurrence):
    assert len(real) == 9963
    present = (real == 1).astype(int)
    np.testing.assert_array_equal(present.T @ present, cooccurrence)
    counts = {int(row["labels"]): int(row["trainval"]) + int(row["test"]) for row in table("voc2007_label_counts.csv")}
    assert counts == Counter(present.sum(1).tolist())
    for column, row in enumerate(table("voc2007_classes.csv")):
        assert row["class"] == VOC_CLASSES[column]
        assert int(row["present"]) == present[:, column].sum()
        assert int(row["difficult_only"]) == (real[:, column] == 0).sum()
        assert float(row["difficult_share"]) == pytest.approx(
            np.mean(real[real[:, column] >= 0, column] == 0), abs=1e-4
        )


def test_objects_an_image_are_called_assumed_or_come_with_the_images_they_were_counted_on():
    for row in table("voc2007_classes.csv"):
        assert 1 <= float(row["assumed_objects_per_image"]) < 3
        images = int(row["voc2012_images"])
        assert (row["voc2012_objects_per_image"] == "") == (images == 0)
        assert images == 0 or 1 <= float(row["voc2012_objects_per_image"]) < 3


def test_no_label_depends_on_the_assumed_number_of_objects(monkeypatch):
    """The classes of a scene are drawn from the real label sets before its objects are counted."""
    import csra_lab.synthetic.emoji_voc as emoji_voc

    before = [label_set(np.random.default_rng(i)) for i in range(50)]
    monkeypatch.setattr(emoji_voc, "_objects_per_image", lambda: dict.fromkeys(VOC_CLASSES, 5.0))
    assert [label_set(np.random.default_rng(i)) for i in range(50)] == before


@pytest.mark.skipif(not REAL.is_dir(), reason="the real lists are not here")
def test_tables_are_those_of_the_real_lists(cooccurrence):
    targets = np.concatenate([load_voc(REAL, "2007", split).targets for split in ("trainval", "test")])
    present = (targets == 1).astype(int)
    np.testing.assert_array_equal(present.T @ present, cooccurrence)


def test_sampled_label_sets_have_the_statistics_of_voc2007(real, cooccurrence):
    rng = np.random.default_rng(0)
    sampled = np.full((4000, len(VOC_CLASSES)), -1)
    for row in sampled:
        present, hard = label_set(rng)
        row[[VOC_CLASSES.index(name) for name in present]] = 1
        row[[VOC_CLASSES.index(name) for name in hard]] = 0
    assert_like_voc2007(sampled, real, cooccurrence, tolerance=0.02, pairs=0.98)
    np.testing.assert_allclose((sampled == 1).mean(0), (real == 1).mean(0), atol=0.025)


def assert_like_voc2007(labels, real, cooccurrence, *, tolerance, pairs):
    shares = [np.bincount((x == 1).sum(1), minlength=8) / len(x) for x in (labels, real)]
    assert np.abs(shares[0] - shares[1]).sum() / 2 < tolerance  # total variation of the label count
    present = (labels == 1).astype(int)
    assert np.corrcoef((present.T @ present)[PAIRS], cooccurrence[PAIRS])[0, 1] > pairs
    difficult = [(x == 0).sum() / (x >= 0).sum() for x in (labels, real)]
    assert difficult[0] == pytest.approx(difficult[1], abs=tolerance)


# ---- the layout


def test_scenes_show_what_was_sampled_and_keep_the_statistics(real, cooccurrence):
    scenes = [emoji_voc.scene("trainval", i) for i in range(500)]
    for i, objects in enumerate(scenes):
        present, hard = label_set(emoji_voc._rng("trainval", i, "objects"))
        expected = tuple(1 if name in present else 0 if name in hard else -1 for name in VOC_CLASSES)
        assert labels_of(objects) == expected
    assert_like_voc2007(np.array([labels_of(s) for s in scenes]), real, cooccurrence, tolerance=0.05, pairs=0.95)
    everything = [o for objects in scenes for o in objects]
    assert 2.5 < len(everything) / len(scenes) < 3.7  # VOC2007 trainval: 3.1
    assert 0.14 < np.mean([o.difficult for o in everything]) < 0.25  # VOC2007 trainval: 0.195
    assert np.mean([o.truncated for o in everything]) > 0.08
    assert np.mean([o.occluded for o in everything]) > 0.08
    assert 16 <= min(o.side for o in everything) < 20
    assert 120 < max(o.side for o in everything) <= 140


def test_difficult_is_what_is_small_or_hidden():
    for objects in map(emoji_voc.scene, ["test"] * 100, range(100)):
        for o in objects:
            left, top, right, bottom = o.box
            assert 0 <= left < right <= GRID
            assert 0 <= top < bottom <= GRID
            assert o.difficult == (max(right - left, bottom - top) < 20 or o.visible < 0.4)
            if o.truncated:
                assert min(left, top, GRID - right, GRID - bottom) <= 1 or o.occluded


SMALL_TO_COMPARE = 24  # cells; below, one row of pixels is a large share


@pytest.mark.parametrize("scale", [1, 2])
def test_boxes_and_visible_shares_are_those_of_the_drawn_pixels(scale):
    checked = 0
    for index in range(40):
        objects = emoji_voc.scene("trainval", index)
        covered = np.zeros((GRID * scale, GRID * scale), dtype=bool)
        for o in objects:  # front to back
            sprite = emoji_voc._rendered(o, scale)
            alpha = Image.new("L", covered.shape)
            at = round(o.x * scale - sprite.width / 2), round(o.y * scale - sprite.height / 2)
            alpha.paste(sprite.getchannel("A"), at)
            mask = np.asarray(alpha) >= 128
            seen = mask & ~covered
            covered |= mask
            whole = (np.asarray(sprite.getchannel("A")) >= 128).sum()
            if o.side < SMALL_TO_COMPARE:
                continue
            assert seen.sum() / whole == pytest.approx(o.visible, abs=0.08)
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            drawn = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / scale
            near = np.abs(drawn - o.box) <= 2
            assert near.all() or o.occluded  # a sliver beside a cover may be there or not
            assert near.sum() >= 3
            checked += 1
    assert checked > 60


# ---- the same everywhere


PINNED = "4e7a30cc3af63610"


def test_labels_and_boxes_are_pinned():
    text = repr([(s, i, labels_of(o), [(x.drawing, x.box) for x in o]) for s, i, o in some_scenes()])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == PINNED, "another version of the set needs another VERSION"


def some_scenes():
    for split in SPLITS:
        for index in range(40):
            yield split, index, emoji_voc.scene(split, index)


def test_prepared_twice_is_the_same_whatever_the_workers(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(emoji_voc.IMAGES, "tiny", (6, 3, 3))
    # forked, because two fresh processes would take ten seconds to import torch
    monkeypatch.setattr(prepare, "get_context", lambda _: get_context("fork"))
    one, two = (
        prepare_emoji_voc(tmp_path / str(n), size="tiny", image_size=64, progress=False, workers=n) for n in (1, 2)
    )
    files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(two) for p in two.rglob("*") if p.is_file())
    assert all((one / f).read_bytes() == (two / f).read_bytes() for f in files)
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):  # and the same as within a larger set
        first = Path("VOC2007", kind, f"000001.{suffix}")
        assert (one / first).read_bytes() == (tiny / first).read_bytes()


def test_order_does_not_matter():
    forward = [np.asarray(picture("test", i, 48)) for i in range(4)]
    backward = [np.asarray(picture("test", i, 48)) for i in reversed(range(4))][::-1]
    np.testing.assert_array_equal(forward, backward)


# ---- on disk


def test_our_reader_reads_it_unchanged(tiny):
    counts = {"trainval": 60, "test": 30, "test-unseen": 30, "train": 30, "val": 30}
    for split, count in counts.items():
        data = load_voc(tiny, "2007", split)
        assert len(data) == count
    for number, split in enumerate(SPLITS):
        data = load_emoji_voc(tiny, split)
        assert data.name == "emoji-voc-1-64px-tiny"
        assert data.ids[0] == f"{(0, 60, 90)[number] + 1:06d}"
        for i in range(len(data)):
            objects = emoji_voc.scene(split, i)
            meant = np.array(labels_of(objects))
            np.testing.assert_array_equal(data.targets[i], np.where(meant == 0, -1, np.maximum(meant, 0)))
            boxes = data.boxes(i)
            assert [(b.name, b.difficult, b.truncated, b.occluded) for b in boxes] == [
                (o.name, o.difficult, o.truncated, o.occluded) for o in objects
            ]
            for b, o in zip(boxes, objects, strict=True):
                exact = np.array(o.box) * 64 / GRID
                np.testing.assert_array_equal(b.xmin, np.floor(exact[0]))
                np.testing.assert_array_equal(b.ymin, np.floor(exact[1]))
                np.testing.assert_array_equal(b.xmax, np.ceil(exact[2]))
                np.testing.assert_array_equal(b.ymax, np.ceil(exact[3]))
    image, target = load_emoji_voc(tiny, "test")[3]
    assert image.size == (64, 64)
    assert target.shape == (20,)


def test_unseen_drawings_are_never_seen_in_training(tiny):
    used = {split: set() for split in SPLITS}
    for split in SPLITS:
        for image_id in load_emoji_voc(tiny, split).ids:
            text = (tiny / "VOC2007" / "Annotations" / f"{image_id}.xml").read_text()
            drawings = text.split("<image>")[1].split("</image>")[0].split()
            used[split] |= {d.split("/")[1].split("-")[0] for d in drawings}
    assert used == {"trainval": {"noto", "twemoji"}, "test": {"noto", "twemoji"}, "test-unseen": {"fluent"}}


def test_every_vendor_has_its_licence_here_and_beside_the_pictures(tiny):
    vendors = {p.name.split("-")[0] for p in asset("sprites").glob("*/*.png")}
    licences = {
        "noto": ("Apache-2.0.txt", "Apache License"),
        "twemoji": ("CC-BY-4.0.txt", "Attribution 4.0 International"),
        "fluent": ("MIT-Fluent-Emoji.txt", "Copyright (c) Microsoft Corporation"),
    }
    assert vendors == set(licences)
    for folder in (asset("sprites"), tiny):
        notice = (folder / "NOTICE.md").read_text()
        for vendor, (file, phrase) in licences.items():
            assert f"`{vendor}-*`" in notice
            assert file in notice
            assert phrase in (folder / "licenses" / file).read_text()
        assert "modified" in notice


def test_every_class_has_drawings_of_every_vendor():
    for name in VOC_CLASSES:
        for vendor in ("noto", "twemoji", "fluent"):
            keys = emoji_drawings.drawings_of(name, (vendor,))
            assert all(key.startswith(f"{name}/{vendor}-") for key in keys)
            image, solid = emoji_drawings.drawing(keys[0])
            assert image.mode == "RGBA"
            assert solid.shape == image.size[::-1]
            assert 0.1 < solid.mean() < 1


def test_a_preparation_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fails(split, index, image_size):
        if index == 5:
            raise KeyboardInterrupt
        return Image.new("RGB", (image_size, image_size))

    monkeypatch.setattr(emoji_voc, "picture", fails)
    with pytest.raises(KeyboardInterrupt):
        prepare_emoji_voc(tmp_path / "cache", size="tiny", image_size=64, progress=False)
    assert list((tmp_path / "cache").iterdir()) == []


def test_first_use_prepares_in_the_cache_and_later_use_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("CSRA_LAB_CACHE", str(tmp_path))
    monkeypatch.setitem(emoji_voc.IMAGES, "full", (4, 2, 2))
    monkeypatch.setattr(emoji_voc, "in_parallel", lambda work, count, **_: map(work, range(count)))
    data = load_emoji_voc(None, "test-unseen")
    assert (len(data), data.name) == (2, "emoji-voc-1-224px")
    assert data[0][0].size == (224, 224)
    monkeypatch.setattr(emoji_voc, "in_parallel", None)
    assert load_emoji_voc(None, "test").ids == load_emoji_voc(tmp_path, "test").ids


def test_bad_input_is_one_sentence(tiny, tmp_path, monkeypatch):
    with pytest.raises(CsraError, match="full or tiny, not 'huge'"):
        prepare_emoji_voc(tmp_path, size="huge")
    with pytest.raises(CsraError, match="not 16"):
        prepare_emoji_voc(tmp_path, image_size=16)
    with pytest.raises(CsraError, match="data prepare emoji-voc"):
        load_emoji_voc(tmp_path, "test")
    with pytest.raises(CsraError, match=r"no split 'exam'.*test-unseen"):
        load_emoji_voc(tiny, "exam")
    monkeypatch.setattr(resources.importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(CsraError, match="install csra-lab again"):
        asset("sprites/dog")


# ---- backgrounds


def test_backgrounds_are_pictures_at_any_size():
    for kind in KINDS:
        for size in (32, 75):
            painting = kind(np.random.default_rng(3), size)
            assert painting.shape == (size, size, 3)
            assert painting.dtype == np.float32
    painting = background(np.random.default_rng(0), 64)
    assert painting.min() >= 0
    assert painting.max() <= 255
    assert grain(np.random.default_rng(0), painting).dtype == np.uint8


def test_objects_do_not_touch_the_background(monkeypatch):
    for index in range(6):
        objects, whole = emoji_voc.scene("trainval", index), np.asarray(picture("trainval", index))
        with monkeypatch.context() as patch:
            patch.setattr(emoji_voc, "scene", lambda split, index: ())
            empty = np.asarray(picture("trainval", index))
        elsewhere = np.ones((GRID, GRID), dtype=bool)
        for o in objects:
            reach = int(o.side * 0.9) + 3  # soft edges end within
            x, y = int(o.x), int(o.y)
            elsewhere[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach] = False
        np.testing.assert_array_equal(whole[elsewhere], empty[elsewhere])


def test_a_classifier_that_sees_only_backgrounds_is_at_chance():
    paintings, labels = [], []
    for index in range(1200):
        paintings.append(background(emoji_voc._rng("trainval", index, "background"), 32))
        present, _ = label_set(emoji_voc._rng("trainval", index, "objects"))
        labels.append([name in present for name in VOC_CLASSES])
    paintings, labels = np.array(paintings), np.array(labels)  # (N, 32, 32, 3), (N, C)
    areas = areas_under_curve(paintings, labels)
    assert areas.mean() == pytest.approx(0.5, abs=0.03)
    assert areas[VOC_CLASSES.index("person")] == pytest.approx(0.5, abs=0.06)
    # the same classifier does find a background that is a little redder where there is a person
    person = labels[:, VOC_CLASSES.index("person")]
    paintings[person, :, :, 0] += 25
    assert areas_under_curve(paintings, labels)[VOC_CLASSES.index("person")] > 0.65


def areas_under_curve(paintings, labels):
    """ROC area of each class (C,) on the last third, of ridge regression on colours and gradients of the others."""
    thumbnails = paintings.reshape(len(paintings), 4, 8, 4, 8, 3)  # (N, 4, 8, 4, 8, 3): 4 x 4 fields of 8 x 8 pixels
    fields = [thumbnails.mean((2, 4)), thumbnails.std((2, 4))]
    gradients = [np.abs(np.diff(paintings, axis=axis)).mean((1, 2)) for axis in (1, 2)]
    x = np.concatenate([f.reshape(len(paintings), -1) for f in (*fields, *gradients)], axis=1)
    x = np.c_[(x - x.mean(0)) / x.std(0), np.ones(len(x))]
    cut = len(x) * 2 // 3
    weights = np.linalg.solve(x[:cut].T @ x[:cut] + 100 * np.eye(x.shape[1]), x[:cut].T @ labels[:cut])
    scores, truth = x[cut:] @ weights, labels[cut:]
    ranks = scores.argsort(0).argsort(0) + 1
    positive = truth.sum(0)
    return ((ranks * truth).sum(0) - positive * (positive + 1) / 2) / (positive * (len(truth) - positive))
