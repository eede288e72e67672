"""Pictures of one's own: both layouts, and every fault that makes people report mAP 0 is found and named."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from csra_lab._io.notice import CsraWarning
from csra_lab.catalog import load_dataset
from csra_lab.cli import main
from csra_lab.datasets import open_image
from csra_lab.datasets.check import check_folder
from csra_lab.datasets.voc_xml import read_voc_labels
from csra_lab.errors import CsraError
from tests import toy

PICTURES = 12


@pytest.fixture
def own(tmp_path):
    """A faultless CSV folder: 12 + 12 pictures, two classes."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for split in ("trainval", "test"):
        lines = ["image,cat,dog"]
        for i in range(2 * PICTURES):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(
                tmp_path / f"photos/{split}{i}.png"
            )
            lines.append(f"photos/{split}{i}.png,{i % 2},{1 - i % 2}")
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def errors(folder) -> list[str]:
    return [f.message for f in check_folder(folder) if f.level == "error"]


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_csv_folders_load(own):
    data = load_dataset("folder", own, "trainval")
    assert data.classes == ("cat", "dog")
    assert data.targets[:3].tolist() == [[0, 1], [1, 0], [0, 1]]
    assert data.image(0).size == (32, 32)


def test_devkit_folders_load_with_their_own_classes(tmp_path):
    root = toy.write_devkit(tmp_path) / "VOC2012"
    main_lists = root / "ImageSets" / "Main"
    for path in main_lists.glob("*_*.txt"):
        if path.stem.rsplit("_", 1)[0] not in toy.CLASSES:
            path.unlink()
    for split in ("trainval", "test"):
        (main_lists / f"cat_{split}.txt").rename(main_lists / f"tabby_cat_{split}.txt")  # a class with an underscore
    data = load_dataset("folder", root, "test")
    assert data.classes == ("dog", "person", "tabby_cat")
    assert len(data) == 10
    assert not errors(root) or all("fewer" in e for e in errors(root))


def test_the_folder_above_a_devkit_names_it(tmp_path):
    toy.write_devkit(tmp_path)
    (message,) = errors(tmp_path / "VOCdevkit")
    assert message.endswith("name VOC2012 in it.")


def test_a_faultless_folder_has_no_finding_but_fine(own, capsys):
    assert {f.level for f in check_folder(own)} == {"fine"}
    main(["data", "check", str(own)])
    assert "fine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda d: rewrite(d / "test.csv", "image,cat,dog", "image,Cat,dog"), "spelt in two ways"),
        (lambda d: rewrite(d / "test.csv", "image,cat,dog", "image,cat,bird"), "only one of them has bird, dog"),
        (lambda d: rewrite(d / "trainval.csv", ",1,0", ",0,0"), "no image shows cat"),
        (lambda d: rewrite(d / "trainval.csv", ",0,1", ",1,1"), "present or unknown in every image"),
        (lambda d: (rewrite(d / "test.csv", ",0,", ",-1,"), rewrite(d / "test.csv", ",0\n", ",-1\n")), "not with 0"),
        (lambda d: (d / "photos/test3.png").unlink(), "test3.png"),
        (lambda d: (d / "photos/test3.png").write_text("text"), "test3.png"),
        (lambda d: shutil.copy(d / "photos/test0.png", d / "photos/trainval0.png"), "two splits under two names"),
        (lambda d: rewrite(d / "test.csv", "photos/test0.png", "photos/trainval0.png"), "are in test and in trainval"),
        (lambda d: rewrite(d / "test.csv", "photos/test5.png,1", "photos/test5.png,yes"), "line 7: 'yes'"),
        (lambda d: rewrite(d / "test.csv", "photos/test5.png", "../test5.png"), "../test5.png"),
        (lambda d: [Image.new("RGB", (32, 32), (i % 2,) * 3).save(p) for i, p in enumerate(d.glob("*/*"))], "0..255"),
    ],
)  # fmt: skip
def test_faults_are_found_and_named(own, break_it, sentence, capsys):
    break_it(own)
    assert any(sentence in e for e in errors(own)), errors(own)
    with pytest.raises(SystemExit) as exit_:
        main(["data", "check", str(own), "--json"])
    assert exit_.value.code == 2


def test_rare_classes_are_a_warning(own):
    header, *lines = (own / "test.csv").read_text().splitlines()
    lines[5:] = [line.replace(",1,0", ",0,0") for line in lines[5:]]  # two cats stay
    (own / "test.csv").write_text("\n".join([header, *lines]))
    assert {f.level for f in check_folder(own) if "cat" in f.message} == {"warning"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "needs a header"),
        ("image\nphotos/test0.png\n", "needs a header"),
        ("image,cat,cat\nphotos/test0.png,1,0\n", "distinct"),
        ("image,cat,dog\nphotos/test0.png,1\n", "line 2: 2 columns"),
        ("image,cat,dog\nphotos/test0.png,1,0\nphotos/test0.png,0,1\n", "listed twice"),
        (b"\xff\xfei\x00m\x00", "UTF-8"),
    ],
)
def test_malformed_csv_is_one_sentence(own, content, sentence):
    (own / "test.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CsraError, match=sentence):
        load_dataset("folder", own, "test")


def test_a_folder_that_is_neither_layout(tmp_path):
    with pytest.raises(CsraError, match="neither CSV"):
        load_dataset("folder", tmp_path, "test")
    assert errors(tmp_path)


def test_a_model_of_ones_own_trains_in_one_command(own, tmp_path, capsys):
    out = tmp_path / "run"
    main(["train", "folder-lite0-csra", "--data", str(own), "--out", str(out), "--backbone", "test_efficientnet",
          "--weights", "none", "--image-size", "64", "--epochs", "1", "--batch-size", "4"])  # fmt: skip
    assert (out / "metrics.json").exists()


def write_csv(folder, text, names=("1.png", "2.png")):
    folder.mkdir()
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(folder / name)
    (folder / "all.csv").write_text(text, encoding="utf-8")
    return folder


def test_one_file_under_two_names_is_refused(tmp_path):
    folder = write_csv(tmp_path / "own", "image,cat,dog\n1.png,1,0\n1,0,1\n")
    with pytest.raises(CsraError, match=r"'1\.png' and '1' are one file"):
        load_dataset("folder", folder, "all")


def test_a_name_that_two_images_have_is_told(tmp_path):
    folder = write_csv(tmp_path / "own", "image,cat,dog\n1,1,0\n2,0,1\n", ("1.bmp", "1.png", "2.png"))
    with pytest.warns(CsraWarning, match=r"1\.bmp is read, and 1\.png is not"):
        assert load_dataset("folder", folder, "all").paths[0].name == "1.bmp"


@pytest.mark.parametrize("header", [",cat,dog", "index,cat,dog", "Unnamed: 0,cat,dog"])
def test_numbers_beside_labels_name_images_and_not_lines(tmp_path, header):
    folder = write_csv(tmp_path / "own", f"{header}\n1,1,0\n2,0,1\n")
    found = load_dataset("folder", folder, "all")
    assert found.classes == ("cat", "dog")
    assert found.ids == ("1", "2")
    assert found.targets.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_only_ends_of_lines_end_a_line(tmp_path, ending):
    text = "image,cat\u2028fish,dog\n1.png,1,0\n2.png,0,1\n".replace("\n", ending)
    folder = write_csv(tmp_path / "own", "")
    (folder / "all.csv").write_bytes(text.encode())
    assert load_dataset("folder", folder, "all").classes == ("cat\u2028fish", "dog")


def test_splits_that_contradict_each_other_are_not_joined(tmp_path):
    folder = write_csv(tmp_path / "own", "")
    (folder / "all.csv").unlink()
    (folder / "train.csv").write_text("image,cat,dog\n1.png,1,0\n2.png,0,1\n")
    (folder / "val.csv").write_text("image,cat,dog\n1.png,0,1\n")
    with pytest.raises(CsraError, match=r"1\.png has other labels in train than in val"):
        load_dataset("folder", folder, "trainval")


@pytest.mark.parametrize("place", ["images", "train"])
def test_coco_names_that_begin_with_the_folder_are_found(tmp_path, place):
    write_csv(tmp_path / "own", "", (f"{place}/1.png", f"{place}/2.png"))
    (tmp_path / "own/all.csv").unlink()
    images = [{"id": i, "file_name": f"{place}/{i}.png", "width": 8, "height": 8} for i in (1, 2)]
    objects = [{"id": 0, "image_id": 1, "category_id": 0, "bbox": [1, 1, 2, 2]}]
    content = {"images": images, "annotations": objects, "categories": [{"id": 0, "name": "cat"}]}
    (tmp_path / "own/train.json").write_text(json.dumps(content))
    assert all(path.is_file() for path in load_dataset("folder", tmp_path / "own", "train").paths)


@pytest.mark.parametrize(("least", "most"), [(0, 260_000), (-1000, 3000)])
def test_whole_numbers_beyond_16_bits_have_no_agreed_range(tmp_path, least, most):
    path = tmp_path / "scan.tiff"
    Image.fromarray(np.linspace(least, most, 64, dtype=np.int32).reshape(8, 8)).save(path)
    with pytest.raises(CsraError, match=f"from {least} to {most}"):
        open_image(path)


def test_xml_is_read_in_the_encoding_that_it_declares(tmp_path):
    body = "<annotation><object><name>\u043a\u043e\u0442</name></object></annotation>"
    for encoding in ("windows-1251", "utf-8", "utf-16"):
        content = f"<?xml version='1.0' encoding='{encoding}'?>{body}".encode(encoding)
        (tmp_path / f"{encoding}.xml").write_bytes(content)
    for encoding in ("windows-1251", "utf-8"):
        assert set(read_voc_labels(tmp_path / f"{encoding}.xml")) == {"\u043a\u043e\u0442"}
    with pytest.raises(CsraError, match="not UTF-8"):
        read_voc_labels(tmp_path / "utf-16.xml")
