import json
import pickle

import pytest
from PIL import Image

from csra_lab.catalog import load_dataset
from csra_lab.datasets import COCO_CLASSES, Box
from csra_lab.errors import CsraError

# The 91 ids of COCO less the eleven that were never used: category ids have gaps.
UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
CATEGORY_IDS = [i for i in range(1, 92) if i not in UNUSED]
CATEGORIES = [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, COCO_CLASSES, strict=True)]
PERSON, DOG, TOOTHBRUSH = 1, 18, 90


def thing(image, category, bbox=(1, 2, 3.5, 4), iscrowd=0):
    return {"image_id": image, "category_id": category, "bbox": list(bbox), "iscrowd": iscrowd}


def content(**changes):
    names = {7: "COCO_val2014_000000000007.jpg", 3: "COCO_val2014_000000000003.jpg", 5: "COCO_val2014_000000000005.jpg"}
    images = [{"id": i, "file_name": n, "width": 30, "height": 20} for i, n in names.items()]
    objects = [thing(3, DOG), thing(7, PERSON), thing(3, PERSON, (0, 0, 9, 9), 1), thing(3, DOG), thing(7, TOOTHBRUSH)]
    # the categories stand in no order in the file
    return {"images": images, "annotations": objects, "categories": CATEGORIES[::-1], **changes}


def save(root, data, part="val"):
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{part}2014.json").write_text(json.dumps(data))


@pytest.fixture
def root(tmp_path):
    save(tmp_path, content())
    (tmp_path / "val2014").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "val2014" / "COCO_val2014_000000000007.jpg")
    return tmp_path


def test_labels_crowds_and_images_without_objects(root):
    dataset = load_dataset("coco2014", root)
    assert (dataset.split, len(dataset), len(dataset.classes)) == ("val", 3, 80)
    assert dataset.ids[0] == "COCO_val2014_000000000007"
    present = [{dataset.classes[c] for c in row.nonzero()[0]} for row in dataset.targets]
    assert present == [{"person", "toothbrush"}, {"dog", "person"}, set()]
    assert dataset.targets.min() == 0
    assert dataset.image(0).size == (30, 20)
    with pytest.raises(CsraError, match="does not exist"):
        dataset.image(1)


def test_boxes(root):
    dataset = pickle.loads(pickle.dumps(load_dataset("coco2014", root)))
    dog = Box("dog", 1, 2, 4.5, 6)
    assert dataset.boxes(1) == [dog, Box("person", 0, 0, 9, 9, difficult=True), dog]
    assert dataset.boxes(2) == []
    assert dataset.subset([2, 1]).select_classes(["dog"]).boxes(1) == [dog, dog]


def test_splits_and_layouts(root):
    save(root, content(), "train")
    assert load_dataset("coco2014", root, "trainval").split == "train"
    (root / "coco2014").mkdir()
    (root / "annotations").rename(root / "coco2014" / "annotations")
    (root / "coco2014" / "images").mkdir()
    (root / "val2014").rename(root / "coco2014" / "images" / "val2014")
    assert load_dataset("coco2014", root, "test").image(0).size == (30, 20)
    with pytest.raises(CsraError, match="no split 'minival'"):
        load_dataset("coco2014", root, "minival")


def test_missing(tmp_path):
    with pytest.raises(CsraError, match=r"instances_val2014\.json.*csra-lab data download coco2014 --root DIR"):
        load_dataset("coco2014", tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"categories": CATEGORIES[:-1]}, "80 categories"),
        ({"annotations": [thing(99, DOG)]}, "unknown image_id 99"),
        ({"annotations": [thing(3, 12)]}, "unknown category_id 12"),
        ({"annotations": [thing(3, DOG, (0, 0, -1, 2))]}, "negative or infinite"),
        ({"annotations": [thing(3, DOG, (0, 0, 2))]}, "instances format"),
        ({"annotations": [{"image_id": 3}]}, "instances format"),
        ({"annotations": [4]}, "instances format"),
        ({"annotations": None}, "no list 'annotations'"),
        ({"images": [{"id": 3, "file_name": "../x.jpg"}]}, "does not lie inside"),
        ({"images": [{"id": 3, "file_name": "x.jpg"}] * 2, "annotations": []}, "image_id 3 twice"),
        ({"images": [], "annotations": []}, "lists no image_id"),
        ({"categories": []}, "instances format"),
    ],
)
def test_malformed(root, changes, says):
    save(root, content(**changes))
    with pytest.raises(CsraError, match=says) as caught:
        load_dataset("coco2014", root)
    assert "instances_val2014.json" in str(caught.value)


def test_a_set_without_any_object(root):
    save(root, content(annotations=[]))
    dataset = load_dataset("coco2014", root)
    assert dataset.positives().sum() == 0
    assert dataset.boxes(0) == []
