"""Several hundred files that are odd, damaged or hostile: read rightly, or refused in one sentence, in little memory.

How many of each kind were tried, refused and read is printed at the end of the run.
"""

import json

import pytest

from csra_lab import MultiLabelClassifier
from csra_lab.catalog import load_dataset
from csra_lab.datasets import open_image
from csra_lab.datasets.voc import load_devkit
from csra_lab.datasets.voc_xml import read_voc_boxes
from csra_lab.study.plans import get_plan
from csra_lab.training.run_folder import read_evaluation, read_recipe
from csra_lab.weights.sources import read_state_dict
from tests.bad_input import arrays, images, objects, texts


def write(path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF", "ignore:Metadata Warning")
def test_images(each):
    cases = images.readable() + images.refused()
    each("images", cases, lambda folder, case: open_image(write(folder / case.name, case.content)))


def test_xml(each):
    def read(folder, case):
        write(folder / "a.xml", case.content)
        return read_voc_boxes(folder, "a")

    each("xml annotations", texts.xml(), read)


def read_devkit(folder, case):
    files = {"test.txt": texts.IDS.encode(), "dog_test.txt": texts.LABELS.encode(), **case.content}
    for name, content in files.items():
        write(folder / "ImageSets" / "Main" / name, content)
    return load_devkit(folder, "test", name="toy", classes=("dog",))


def test_id_lists(each):
    each("lists of images", texts.id_lists(), read_devkit)


def test_class_lists(each):
    each("lists of labels", texts.class_lists(), read_devkit)


def test_tables(each):
    def read(folder, case):
        write(folder / "test.csv", case.content)
        return load_dataset("folder", folder, "test")

    each("csv tables", texts.tables(), read)


def test_wider(each):
    def read(folder, case):
        write(folder / "wider_attribute_test.json", case.content)
        return load_dataset("wider", folder, "test")

    each("json of WIDER", objects.wider(), read)


def test_coco(each):
    def read(folder, case):
        write(folder / "annotations" / "instances_val2014.json", case.content)
        return load_dataset("coco2014", folder, "test")

    each("json of COCO", objects.coco(), read)


def test_configs(each, tmp_path_factory):
    from csra_lab import create_classifier

    saved = tmp_path_factory.mktemp("model")
    create_classifier("test_resnet", classes=["a", "b", "c"], image_size=64).save_pretrained(saved)
    assert json.loads((saved / "config.json").read_bytes()).keys() == objects.CONFIG.keys()
    weights = (saved / "model.safetensors").read_bytes()

    def read(folder, case):
        write(folder / "config.json", case.content)
        write(folder / "model.safetensors", weights)
        return MultiLabelClassifier.from_pretrained(folder)

    each("json of models", objects.configs(), read)


def test_recipes(each):
    def read(folder, case):
        write(folder / "recipe.json", case.content)
        return read_recipe(folder)

    each("json of recipes", objects.recipes(), read)


def test_plans(each):
    each("json of plans", objects.plans(), lambda folder, case: get_plan(str(write(folder / "p.json", case.content))))


@pytest.mark.filterwarnings("ignore:.*", "default::ResourceWarning")
def test_checkpoints(each, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    each(
        "checkpoints",
        arrays.checkpoints(),
        lambda folder, case: read_state_dict(write(folder / case.name, case.content)),
    )
    assert not list(tmp_path.rglob("was_run"))


def test_checkpoints_of_other_code(each):
    def read(folder, case):
        path = arrays.write_state(folder, case)
        return MultiLabelClassifier.from_checkpoint(path, backbone="test_resnet", num_classes=3, image_size=64)

    each("foreign checkpoints", arrays.foreign(), read)


def test_score_files(each, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(folder, case):
        write(folder / "scores.npz", case.content)
        return read_evaluation(folder)

    each("score files", arrays.score_files(), read)
    assert not list(tmp_path.rglob("was_run"))
