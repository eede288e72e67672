"""The lab's own splits, on devkits as they are downloaded."""

import pytest
from PIL import Image

from csra_lab._io.notice import CsraWarning
from csra_lab.catalog import load_dataset
from csra_lab.datasets import VOC_CLASSES
from csra_lab.datasets.pair import check_pair
from csra_lab.datasets.splits import NUM_FOLDS, fold_of, shipped_ids, shipped_splits
from csra_lab.errors import CsraError


def test_the_lists_that_ship():
    trainval, test = (shipped_ids("voc2012", f"sample-{s}") for s in ("trainval", "test"))
    assert (len(trainval), len(test)) == (1795, 1219)
    assert not set(trainval) & set(test)
    assert [len(shipped_ids("coco2014", f"sample-{s}")) for s in ("train", "val")] == [5000, 1049]
    tested = [i for k in range(NUM_FOLDS) for i in shipped_ids("voc2012", f"fold{k}-test")]
    assert sorted(tested) == sorted(trainval + test)  # each image once
    assert not set(shipped_ids("voc2012", "fold3-train")) & set(shipped_ids("voc2012", "fold3-test"))
    assert fold_of("2007_000063") == int("0x" + __import__("hashlib").md5(b"2007_000063").hexdigest(), 16) % 5
    assert shipped_splits("voc2007") == []
    with pytest.raises(CsraError, match="no split 'sample-x'"):
        shipped_ids("voc2012", "sample-x")


@pytest.fixture
def official(tmp_path):
    """VOC2012 as it is downloaded: train, val, trainval no test; some images of the lab's splits and two others."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    main = root / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    (root / "Annotations").mkdir()
    ours = [*shipped_ids("voc2012", "sample-trainval")[:6], *shipped_ids("voc2012", "sample-test")[:4]]
    ids = sorted([*ours, "2008_999998", "2008_999999"])
    for split, part in (("train", ids[::2]), ("val", ids[1::2]), ("trainval", ids)):
        (main / f"{split}.txt").write_text("\n".join(part))
        for c, name in enumerate(VOC_CLASSES):
            rows = [f"{i} {1 if (ids.index(i) + c) % 3 == 0 else -1}" for i in part]
            (main / f"{name}_{split}.txt").write_text("\n".join(rows))
    unlisted = shipped_ids("voc2012", "sample-test")[4]  # not in the lists, as images for other tasks are
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>2</ymax></bndbox>"
    xml = f"<annotation><object><name>horse</name>{box}</object></annotation>"
    (root / "Annotations" / f"{unlisted}.xml").write_text(xml)
    for i in [*ids, unlisted]:
        Image.new("RGB", (9, 9)).save(root / "JPEGImages" / f"{i}.jpg")
    return root, ids, unlisted


def test_official_voc2012_has_a_training_and_a_test_split(official):
    root, ids, unlisted = official
    with pytest.warns(CsraWarning, match="the lab's own sample|1,789 of 1,795 images are absent"):
        train = load_dataset("voc2012", root.parent, "trainval")
    with pytest.warns(CsraWarning, match="lists no test images"):
        test = load_dataset("voc2012", root.parent, "test")
    assert (len(train), len(test)) == (6, 5)
    assert test.split == "test"
    assert test.ids[-1] == unlisted or unlisted in test.ids
    horse = VOC_CLASSES.index("horse")
    assert test.targets[test.ids.index(unlisted), horse] == 1
    known = ids.index(train.ids[0])
    assert train.targets[0].tolist() == [int((known + c) % 3 == 0) for c in range(20)]
    assert check_pair(train, test).ids == test.ids  # no image is in both
    assert len(load_dataset("voc2012", root.parent, "train+val")) == 12  # VOC's own trainval


def test_folds_and_samples_by_name(official):
    root, ids, unlisted = official
    with pytest.warns(CsraWarning, match="are absent here"):
        parts = [load_dataset("voc2012", root.parent, f"fold{k}-test") for k in range(NUM_FOLDS) if any(
            fold_of(i) == k for i in [*ids, unlisted] if not i.startswith("2008_9999"))]  # fmt: skip
    assert sorted(i for part in parts for i in part.ids) == sorted([*ids[:-2], unlisted])


def test_a_devkit_with_none_of_our_images_is_left_as_it_is(official):
    root, _, _ = official
    main = root / "ImageSets" / "Main"
    for path in main.glob("*.txt"):
        lines = path.read_text().splitlines()
        path.write_text("\n".join(f"x{i:03d} " + line.partition(" ")[2] if " " in line else f"x{i:03d}"
                                  for i, line in enumerate(lines)))  # fmt: skip
    assert len(load_dataset("voc2012", root.parent, "trainval")) == 12
    with pytest.raises(CsraError, match="--train-split and --test-split"):
        load_dataset("voc2012", root.parent, "test")
