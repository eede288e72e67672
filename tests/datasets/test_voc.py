import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from csra_lab.catalog import load_dataset
from csra_lab.datasets import VOC_CLASSES, Box, write_voc_predictions
from csra_lab.errors import CsraError

REAL = Path(__file__).parents[2].parent / "shared" / "VOCdevkit"
XML = """<annotation><object><name>dog</name><truncated>1</truncated><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>
<object><name>cat</name><difficult>1</difficult><occluded>1</occluded>
<bndbox><xmax>8</xmax><xmin>4</xmin><ymax>9</ymax><ymin>3</ymin></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>
</annotation>"""
IDS = ("2007_000001", "2007_000002", "2007_000003")


@pytest.fixture
def devkit(tmp_path):
    """A devkit of three images: dog is -1, 0, 1 in them, every other class -1. With Windows line ends, as VOC2007."""
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    main = folder / "ImageSets" / "Main"
    main.mkdir(parents=True)
    for split in ("trainval", "test"):
        (main / f"{split}.txt").write_bytes("".join(f"{i}\r\n" for i in IDS).encode())
        for name in VOC_CLASSES:
            labels = ("-1", "0", "1") if name == "dog" else ("-1",) * 3
            rows = [f"{i} {label:>2}\r\n" for i, label in zip(IDS, labels, strict=True)]
            (main / f"{name}_{split}.txt").write_bytes("".join(rows).encode())
    for sub in ("JPEGImages", "Annotations"):
        (folder / sub).mkdir()
    for i in IDS[:2]:
        Image.new("RGB", (12, 20), (9, 9, 9)).save(folder / "JPEGImages" / f"{i}.jpg")
    (folder / "Annotations" / f"{IDS[0]}.xml").write_text(XML)
    return folder


def test_protocol(devkit):
    dataset = load_dataset("voc2012", devkit.parent)
    assert (dataset.name, dataset.split, dataset.classes) == ("voc2012", "test", VOC_CLASSES)
    assert dataset.ids == IDS
    dog = VOC_CLASSES.index("dog")
    assert dataset.targets[:, dog].tolist() == [0, -1, 1]
    assert np.delete(dataset.targets, dog, axis=1).max() == 0
    assert dataset.targets.dtype == np.int8
    assert dataset[0][0].size == (12, 20)
    with pytest.raises(CsraError, match=rf"{IDS[2]}\.jpg does not exist"):
        dataset[2]


def test_the_three_layouts_and_the_classes(devkit):
    for root in (devkit, devkit.parent, devkit.parent.parent, str(devkit)):
        assert len(load_dataset("voc2012", root, "trainval", classes=("dog", "cat"))) == 3
    with pytest.raises(CsraError, match="csra-lab data download voc2007 --root DIR"):
        load_dataset("voc2007", devkit)
    with pytest.raises(CsraError, match="no class 'unicorn'"):
        load_dataset("voc2012", devkit, classes=["unicorn"])


def test_plain_line_ends_blank_tail_and_bom(devkit):
    main = devkit / "ImageSets" / "Main"
    for path in main.glob("*_test.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r", b"") + b"\n\n")
    assert load_dataset("voc2012", devkit).positives().sum() == 1


def test_names_and_splits_that_do_not_exist(devkit):
    with pytest.raises(CsraError, match="voc2007, voc2012, wider, coco2014"):
        load_dataset("voc2077", devkit)
    with pytest.raises(CsraError, match=r"no split 'val'.*test, trainval"):
        load_dataset("voc2012", devkit, "val")
    with pytest.raises(CsraError, match=r"no split '\.\./x'"):
        load_dataset("voc2012", devkit, "../x")
    with pytest.raises(CsraError, match="csra-lab data download voc2012"):
        load_dataset("voc2012")


def test_a_split_without_class_lists_is_unknown_not_negative(devkit):
    main = devkit / "ImageSets" / "Main"
    for name in VOC_CLASSES:
        (main / f"{name}_test.txt").unlink()
    assert (load_dataset("voc2012", devkit).targets == -1).all()
    assert load_dataset("voc2012", devkit, "trainval").positives().sum() == 1


def test_one_missing_class_list_is_named(devkit):
    (devkit / "ImageSets" / "Main" / "sheep_test.txt").unlink()
    with pytest.raises(CsraError, match=r"lacks sheep_test\.txt"):
        load_dataset("voc2012", devkit)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"2007_000001 -1\n2007_000002 2\n2007_000003 1\n", "line 2: '2007_000002 2'"),
        (b"2007_000001 -1\n2007_000003 1\n", "line 2: '2007_000003' stands where test.txt has '2007_000002'"),
        (b"2007_000001 -1\n2007_000002 1\n", "ends after line 2"),
        (b"2007_000001 -1\n2007_000002 1\n2007_000003 1\n2007_000004 1\n", "line 4.*the end of the file"),
        (b"2007_000001\n2007_000002 1\n2007_000003 1\n", "line 1: '2007_000001'"),
        (b"2007_000001 -1 -1\n2007_000002 1\n2007_000003 1\n", "line 1"),
        (b"", "ends after line 0"),
        ("2007_000001 -1\n".encode("utf-16"), "not plain UTF-8"),
        (b"2007_000001 -1\n\xff\xfe\n", "not plain UTF-8"),
    ],
)
def test_malformed_class_list(devkit, content, says):
    path = devkit / "ImageSets" / "Main" / "cat_test.txt"
    path.write_bytes(content)
    with pytest.raises(CsraError, match=says) as caught:
        load_dataset("voc2012", devkit)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a\nb\na\n", "line 3: 'a' is listed twice"),
        (b"a\n../../etc/passwd\n", "line 2"),
        (b"a\nb..c\n", "line 2"),
        (b"a\n/b\n", "line 2"),
        (b"a\\b\n", "line 1"),
        (b"a 1\n", "line 1"),
        (b"a\n\nb\n", "line 2"),
        (b" \n", "names no image"),
        ("a\n".encode("utf-16-le"), "not plain UTF-8"),
    ],
)
def test_malformed_id_list(devkit, content, says):
    path = devkit / "ImageSets" / "Main" / "test.txt"
    path.write_bytes(content)
    with pytest.raises(CsraError, match=says) as caught:
        load_dataset("voc2012", devkit)
    assert str(path) in str(caught.value)


def test_boxes_become_zero_based_and_half_open(devkit):
    dataset = load_dataset("voc2012", devkit)
    assert dataset.boxes(0) == [
        Box("dog", 0.0, 1.5, 10.0, 20.0, truncated=True),
        Box("cat", 3.0, 2.0, 8.0, 9.0, difficult=True, occluded=True),
    ]
    assert [b.name for b in dataset.select_classes(["cat"]).subset([0]).boxes(0)] == ["cat"]
    with pytest.raises(CsraError, match=f"{IDS[1]}.xml cannot be read"):
        dataset.boxes(1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation/>', "DOCTYPE or ENTITY"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "DOCTYPE or ENTITY"),
        (XML[:-5], "not valid XML"),
        ("", "not valid XML"),
        (XML.replace("<xmax>10</xmax>", ""), "object 1 lacks a bndbox with four numbers"),
        (XML.replace("<xmax>10</xmax>", "<xmax>ten</xmax>"), "four numbers"),
        (XML.replace("<xmax>10</xmax>", "<xmax>0</xmax>"), "xmin <= xmax"),
        (XML.replace("<xmax>10</xmax>", "<xmax>nan</xmax>"), "xmin <= xmax"),
        (XML.replace("<name>dog</name>", ""), "no name"),
        (XML + " " * (1 << 20), "larger than 1 MiB"),
        (XML.encode("utf-16"), "not UTF-8"),
    ],
)
def test_bad_xml(devkit, content, says):
    path = devkit / "Annotations" / f"{IDS[0]}.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CsraError, match=says) as caught:
        load_dataset("voc2012", devkit).boxes(0)
    assert str(path) in str(caught.value)


def test_predictions_in_the_servers_format(devkit, tmp_path):
    dataset = load_dataset("voc2012", devkit)
    scores = np.random.default_rng(0).random((3, 20)) ** 30  # tiny values must keep their order
    scores[0], scores[1] = np.nextafter(1, 0), 1 - 1e-12  # and so must those near 1
    main = write_voc_predictions(tmp_path / "out", dataset, scores)
    assert main == tmp_path / "out" / "results" / "VOC2012" / "Main"
    assert sorted(p.name for p in main.iterdir()) == sorted(f"comp2_cls_test_{c}.txt" for c in VOC_CLASSES)
    rows = [line.split() for line in (main / "comp2_cls_test_dog.txt").read_text().splitlines()]
    assert [row[0] for row in rows] == list(IDS)
    assert [float(row[1]) for row in rows] == scores[:, VOC_CLASSES.index("dog")].tolist()
    with pytest.raises(CsraError, match="exists already"):
        write_voc_predictions(tmp_path / "out", dataset, scores)
    assert [p.name for p in main.parent.iterdir()] == ["Main"]  # nothing half-written lies about


def test_predictions_that_cannot_be_written(devkit, tmp_path):
    dataset = load_dataset("voc2012", devkit)
    scores = np.zeros((3, 20))
    for bad in (scores[:2], np.full((3, 20), np.nan)):
        with pytest.raises(CsraError, match="finite numbers of shape"):
            write_voc_predictions(tmp_path / "out", dataset, bad)
    with pytest.raises(CsraError, match="comp1"):
        write_voc_predictions(tmp_path / "out", dataset, scores, competition="comp7")
    with pytest.raises(CsraError, match="all 20"):
        write_voc_predictions(tmp_path / "out", dataset.select_classes(["dog"]), scores[:, :1])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CsraError, match="cannot be written"):
        write_voc_predictions(tmp_path / "file", dataset, scores)
    assert not (tmp_path / "out").exists()


# ---- the real lists, where they are at hand ------------------------------------------------------------------------

needs_real_lists = pytest.mark.skipif(not REAL.is_dir(), reason="no shared/VOCdevkit beside the repository")


@needs_real_lists
def test_real_voc2007():
    start = time.perf_counter()
    trainval, test = (load_dataset("voc2007", REAL, split) for split in ("trainval", "test"))
    print(f"all 9,963 VOC2007 images indexed in {time.perf_counter() - start:.3f} s")
    assert (len(trainval), len(test)) == (5011, 4952)
    train, val = (load_dataset("voc2007", REAL, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (2501, 2510)
    # trainval is train and val, label by label
    rows = {i: row for part in (train, val) for i, row in zip(part.ids, part.targets, strict=True)}
    assert rows.keys() == set(trainval.ids)
    assert np.array_equal(np.stack([rows[i] for i in trainval.ids]), trainval.targets)
    assert not set(trainval.ids) & set(test.ids)
    # against the file itself, read another way
    table = np.loadtxt(REAL / "VOC2007/ImageSets/Main/person_test.txt", dtype=np.int64)
    assert test.positives()[VOC_CLASSES.index("person")] == (table[:, 1] == 1).sum() == 2007
    assert (test.targets[:, VOC_CLASSES.index("person")] == -1).sum() == (table[:, 1] == 0).sum()
    with pytest.raises(CsraError, match="does not exist"):
        test.image(0)


@needs_real_lists
def test_real_voc2012():
    for split, count in (("trainval", 1795), ("test", 1219)):
        dataset = load_dataset("voc2012", REAL, split)
        assert len(dataset) == count
        for i in range(0, count, count // 20):
            image, target = dataset[i]
            boxes = dataset.boxes(i)
            shown = {VOC_CLASSES[c] for c in np.flatnonzero(target.numpy() == 1)}
            assert shown <= {b.name for b in boxes}
            assert all(0 <= b.xmin < b.xmax <= image.width and 0 <= b.ymin < b.ymax <= image.height for b in boxes)
