import json

import numpy as np
import pytest
from PIL import Image

from csra_lab.catalog import load_dataset
from csra_lab.datasets import WIDER_ATTRIBUTES
from csra_lab.errors import CsraError

POSITIVE = [1] * 14
MIXED = [1, 0, -1] + [-1] * 11


def person(bbox=(1, 2, 5, 6), attribute=MIXED):
    return {"bbox": list(bbox), "attribute": list(attribute)}


def save(root, images, name="wider_attribute_test.json", folder="Annotations"):
    (root / folder).mkdir(exist_ok=True)
    (root / folder / name).write_text(json.dumps({"images": images, "attribute_id_map": {}}))


@pytest.fixture
def root(tmp_path):
    for name in ("train/a.jpg", "val/b.jpg", "test/c.jpg"):
        path = tmp_path / "Image" / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (30, 20), (50, 60, 70)).save(path)
    trainval = [
        {"file_name": "train/a.jpg", "targets": [person(), person((10, 10, 30, 4.5), POSITIVE)]},
        {"file_name": "val/b.jpg", "targets": [person()]},
    ]
    save(tmp_path, trainval, "wider_attribute_trainval.json")
    save(tmp_path, [{"file_name": "test/c.jpg", "targets": [person(), person()]}])
    return tmp_path


def test_people_attributes_and_crops(root):
    dataset = load_dataset("wider", root, "trainval")
    assert dataset.classes == WIDER_ATTRIBUTES
    assert len(dataset.classes) == 14
    assert dataset.ids == ("train/a.jpg#0", "train/a.jpg#1", "val/b.jpg#0")
    assert dataset.targets[0].tolist() == [1, -1, 0] + [0] * 11  # unspecified is ignored, -1 is absent
    assert dataset.targets[1].tolist() == [1] * 14
    assert dataset.image(0).size == (5, 6)
    assert dataset.image(1).size == (20, 5)  # clipped at the right edge, half a row counts
    assert np.array_equal(dataset.crops[1], [10, 10, 30, 4.5])
    with pytest.raises(CsraError, match="no boxes"):
        dataset.boxes(0)


def test_splits(root):
    assert load_dataset("wider", root, "train").ids == ("train/a.jpg#0", "train/a.jpg#1")
    assert load_dataset("wider", root, "val").ids == ("val/b.jpg#0",)
    assert len(load_dataset("wider", root, "test")) == 2
    with pytest.raises(CsraError, match="no split 'all'; it has train, val, trainval, test"):
        load_dataset("wider", root, "all")


def test_other_layouts(root):
    (root / "Annotations").rename(root / "Anno")
    (root / "Image").rename(root / "images")
    assert load_dataset("wider", root).image(0).size == (5, 6)
    (root / "Anno" / "wider_attribute_test.json").rename(root / "wider_attribute_test.json")
    (root / "images" / "test").rename(root / "test")
    (root / "images").rename(root / "elsewhere")
    assert load_dataset("wider", root).image(0).size == (5, 6)


def test_missing_data_says_the_steps(tmp_path):
    with pytest.raises(CsraError, match=r"(?s)wider_attribute_test\.json.*1\. Open http"):
        load_dataset("wider", tmp_path)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([{"file_name": "test/c.jpg", "targets": [person(attribute=[1] * 13)]}], "has 13 attribute values"),
        ([{"file_name": "test/c.jpg", "targets": [person(attribute=[2] * 14)]}], "attribute value 2"),
        ([{"file_name": "test/c.jpg", "targets": [{"bbox": [0, 0, 1, 1]}]}], "has no attribute values"),
        ([{"file_name": "test/c.jpg", "targets": [person((0, 0, 0, 5))]}], "person 0 of test/c.jpg has the box"),
        ([{"file_name": "test/c.jpg", "targets": [person((0, 0, -3, 5))]}], "must be above 0"),
        ([{"file_name": "test/c.jpg", "targets": [person((0, 0, float("nan"), 5))]}], "must be above 0"),
        ([{"file_name": "test/c.jpg", "targets": [person((0, 0, 5))]}], "four numbers"),
        ([{"file_name": "test/c.jpg", "targets": [7]}], "four numbers"),
        ([{"file_name": "../c.jpg", "targets": [person()]}], "does not lie inside"),
        ([{"file_name": "/c.jpg", "targets": [person()]}], "does not lie inside"),
        ([{"file_name": 3, "targets": [person()]}], "does not lie inside"),
        ([{"file_name": "test/c.jpg"}], "no list of targets"),
        (["c.jpg"], "no list of targets"),
        ([], "lists no person"),
        (None, "no list 'images'"),
    ],
)
def test_malformed(root, images, says):
    save(root, images)
    with pytest.raises(CsraError, match=says) as caught:
        load_dataset("wider", root)
    assert "wider_attribute_test.json" in str(caught.value)


def test_not_json(root):
    path = root / "Annotations" / "wider_attribute_test.json"
    for content in (b"{", b"", b"\xff\xfe\x00", b"[" * 100_000, b"[]"):
        path.write_bytes(content)
        with pytest.raises(CsraError, match=r"wider_attribute_test\.json"):
            load_dataset("wider", root)


def test_a_box_outside_its_photograph(root):
    save(root, [{"file_name": "test/c.jpg", "targets": [person((100, 0, 5, 5))]}])
    dataset = load_dataset("wider", root)
    with pytest.raises(CsraError, match=r"x=100 .*outside .*c\.jpg, which is 30 x 20"):
        dataset.image(0)
