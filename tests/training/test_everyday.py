"""What a run says when a batch is too small for batch norm, what it writes for TensorBoard, and which list it reads."""

import builtins

import pytest
import torch

from csra_lab.catalog import load_dataset
from csra_lab.datasets.check import check_folder
from csra_lab.errors import CsraError, MissingFile
from csra_lab.recipes import RECIPES, get_recipe
from csra_lab.training import loop
from csra_lab.training.loop import train, write_history
from tests import toy

SMALL = {"weights": "none", "classes": toy.CLASSES, "epochs": 1, "batch_size": 8, "validation_fraction": 0.0}


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    return toy.write_devkit(tmp_path_factory.mktemp("toy"))


def test_one_image_a_part_on_a_map_of_one_place(devkit, tmp_path):
    small = {"backbone": "test_resnet", "image_size": 32, "accumulate": 8, "freeze_statistics": False}
    recipe = get_recipe("voc2012-lite0-avg").replace(**small, **SMALL)
    data = toy.load(devkit, "trainval")
    with pytest.raises(CsraError, match=r"single number to normalise by.*--freeze-statistics"):
        train(recipe, data, None, tmp_path / "run", progress=False)
    result = train(recipe.replace(freeze_statistics=True), data, None, tmp_path / "frozen", progress=False)
    assert result.history.train_loss.notna().all()


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_bfloat16_is_suggested_where_the_processor_has_it_and_nothing_was_chosen(
    devkit, tmp_path, monkeypatch, recwarn, precision
):
    monkeypatch.setattr(loop, "multiplies_in_bfloat16", lambda: True)
    recipe = get_recipe("voc2012-lite0-avg").replace(
        backbone="test_resnet", image_size=64, precision=precision, **SMALL
    )
    data, out = toy.load(devkit, "trainval"), tmp_path / "run"
    train(recipe, data, None, out, progress=True)
    assert any("--precision bf16" in str(w.message) for w in recwarn) == (precision == "auto")
    (out / "state.pt").write_bytes(b"x")  # a run that is refused says that alone
    recwarn.clear()
    with pytest.raises(CsraError, match="cannot be read"):
        train(recipe, data, None, out, progress=True)
    assert not any("--precision" in str(w.message) for w in recwarn)


def test_tensorboard_gets_every_number_of_the_history(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from torch.utils.tensorboard import SummaryWriter

    history = [
        {"epoch": 1, "train_loss": 0.5, "validation_mAP": None},
        {"epoch": 2, "train_loss": 0.4, "validation_mAP": 0.25},
    ]
    write_history(SummaryWriter, tmp_path / "events", history[:1])
    write_history(SummaryWriter, tmp_path / "events", history)  # a second time replaces the first
    events = accumulator.EventAccumulator(str(tmp_path / "events")).Reload()
    read = {tag: [(e.step, round(e.value, 6)) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert read == {"train_loss": [(1, 0.5), (2, 0.4)], "validation_mAP": [(2, 0.25)]}


def test_a_run_writes_its_history_for_tensorboard(devkit, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = get_recipe("voc2012-lite0-avg").replace(backbone="test_resnet", image_size=64, **SMALL)
    out = tmp_path / "run"
    result = train(recipe, toy.load(devkit, "trainval"), None, out, progress=False, tensorboard=True)
    events = accumulator.EventAccumulator(str(out / "tensorboard")).Reload()
    assert events.Scalars("train_loss")[0].value == pytest.approx(result.history.train_loss[0], rel=1e-5)


def test_tensorboard_that_is_not_installed_is_said_before_anything_else(devkit, tmp_path, monkeypatch):
    whole = builtins.__import__

    def without(name, *rest, **options):
        if name.startswith(("torch.utils.tensorboard", "tensorboard")):
            raise ImportError(name)
        return whole(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    recipe = get_recipe("voc2012-lite0-avg").replace(backbone="test_resnet", image_size=64, **SMALL)
    with pytest.raises(CsraError, match="pip install tensorboard"):
        train(recipe, toy.load(devkit, "trainval"), None, tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_the_papers_recipes_read_vocs_own_lists(devkit):
    recipes = [recipe for name, recipe in RECIPES.items() if "voc12-448px" in name]
    assert recipes
    for recipe in recipes:
        assert (recipe.data.train_split, recipe.data.test_split) == ("list:trainval", "list:test")
    lists = devkit / "VOC2012" / "ImageSets" / "Main"
    own = load_dataset("voc2012", devkit, "list:trainval")
    assert list(own.ids) == (lists / "trainval.txt").read_text().split()
    with pytest.raises(MissingFile, match="--train-split"):
        load_dataset("voc2012", devkit, "list:val")


def test_the_check_counts_annotations_that_write_a_class_in_another_case(tmp_path):
    for name in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (tmp_path / name).mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for i in range(12):
        shade = tuple(torch.randint(0, 256, (3,), generator=generator).tolist())
        toy.Image.new("RGB", (40, 40), shade).save(tmp_path / f"JPEGImages/{i}.jpg")
        name = "Cat" if i < 5 else "cat"
        (tmp_path / f"Annotations/{i}.xml").write_text(
            f"<annotation><object><name>{name}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
            "</bndbox></object></annotation>"
        )
    (tmp_path / "ImageSets/Main/trainval.txt").write_text("".join(f"{i}\n" for i in range(12)))
    (tmp_path / "ImageSets/Main/cat_trainval.txt").write_text("".join(f"{i} {1 if i else -1}\n" for i in range(12)))
    found = [finding for finding in check_folder(tmp_path) if "'Cat'" in finding.message]
    assert len(found) == 1
    assert found[0].level == "error"
    assert len(found[0].files) == 5
