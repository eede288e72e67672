"""Recipes that say what they mean; scores that are those of the model, each picture once."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from csra_lab import create_classifier, multilabel_metrics
from csra_lab.datasets.transforms import eval_transform
from csra_lab.errors import CsraError
from csra_lab.heads import HEADS, build_head, config_kind
from csra_lab.losses import BCE
from csra_lab.recipes import MEASURED, RECIPES, Recipe, get_recipe
from csra_lab.training import evaluation
from csra_lab.training.evaluation import check_classes, evaluate, find_images, metrics_of, predict_image, predict_scores
from csra_lab.training.feature_cache import compute_features
from tests import toy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy.load(toy.write_devkit(tmp_path_factory.mktemp("toy"), test=9), "test")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return create_classifier("test_resnet", classes=toy.CLASSES, image_size=64, num_heads=2).eval()


def literal_scores(model, data) -> np.ndarray:
    """One picture at a time, nothing shared with the code under test but the transform."""
    transform = eval_transform(model.image_size, mean=model.mean, std=model.std)
    with torch.no_grad():
        rows = [torch.sigmoid(model(transform(data.image(i))[None]))[0] for i in range(len(data))]
    return torch.stack(rows).numpy()


def test_every_csra_recipe_has_a_twin_that_differs_in_the_head_only():
    csra = [r for r in RECIPES.values() if config_kind(r.head) == "csra"]
    assert len(csra) == len(RECIPES) / 2
    for recipe in csra:
        twin = RECIPES[recipe.name.replace("csra", "avg")]
        differing = {f.name for f in dataclasses.fields(Recipe) if getattr(recipe, f.name) != getattr(twin, f.name)}
        assert differing <= {"name", "head", "expected"}


def test_the_papers_recipes_are_the_papers():
    recipe = get_recipe("resnet101-csra_voc07-448px")
    assert (
        recipe.optimisation.optimizer,
        recipe.optimisation.momentum,
        recipe.optimisation.weight_decay,
        recipe.optimisation.epochs,
    ) == ("sgd", 0.9, 1e-4, 30)
    assert (
        recipe.optimisation.backbone_lr,
        recipe.optimisation.head_lr,
        recipe.model.image_size,
        recipe.optimisation.batch_size,
    ) == (0.01, 0.1, 448, 16)
    assert (recipe.head.lam, recipe.head.num_heads, recipe.head.normalize) == (0.1, 1, True)
    assert recipe.loss == BCE(unknown="negative")


OPTIONS = {
    "csra": {"num_heads": 2, "lam": 0.7, "temperatures": (0.5, math.inf), "normalize": False},
    "average": {"bias": True},
    "max": {"normalize": True},
    "spatial": {"temperature": 7.0},
    "lse": {"r": 2.5},
    "gem": {"p": 2.0},
    "topk": {"k": 2},
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_recipe_records_the_head_that_is_built(kind):
    """Every head and every option: build, save, read and build again gives the same module and logits."""
    recipe = get_recipe("emoji-lite0-csra").replace(head=kind, **OPTIONS.get(kind, {}))
    for name, value in OPTIONS.get(kind, {}).items():
        said = [0.5, "inf"] if name == "temperatures" else value
        assert recipe.to_json()["head"][name] == said
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json(), allow_nan=False)))
    assert again.head == recipe.head
    x = torch.rand(2, 6, 3, 3)
    first, second = (build_head(r.head, 6, 4) for r in (recipe, again))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))
    assert torch.equal(first.attention(x), second.attention(x))


def test_parts_of_another_kind_are_refused():
    recipe = get_recipe("voc2012-lite0-csra")
    with pytest.raises(CsraError, match="a head must be one of"):
        Recipe("x", recipe.data, recipe.model, head="csra")
    for changes, message in (
        ({"head": 3}, "a head must be one of"),
        ({"loss": 3}, "a loss must be one of"),
        ({"run": {"seed": 1}}, "run must be a RunConfig"),
    ):
        with pytest.raises(CsraError, match=message):
            dataclasses.replace(recipe, **changes)


def test_what_would_do_nothing_is_refused_by_name():
    recipe = get_recipe("voc2012-lite0-csra")
    for changes, message in (
        ({"head": "average", "lam": 0.3}, "'average' has no option 'lam'"),
        ({"head": "spatial", "temperatures": (7,)}, "'spatial' has no option 'temperatures'"),
        ({"freeze_backbone": True, "randaugment": True}, "randaugment would do nothing, since the backbone is frozen"),
        ({"step_epochs": 3.0}, "step_epochs would do nothing, since the schedule is cosine"),
        ({"augmentation": "flip", "crop_scale": 0.5}, "crop_scale would do nothing"),
        ({"epoch": 3}, "no option 'epoch'"),
    ):
        with pytest.raises(CsraError, match=message):
            recipe.replace(**changes)
    frozen = recipe.replace(freeze_backbone=True)
    assert "crop_scale" not in frozen.to_json()["optimisation"]  # what is not used is not recorded


def test_scores_that_recipes_promise_are_on_record():
    for name, (folder, begins, score) in MEASURED.items():
        files = sorted((ROOT / "data/runs" / folder).glob(f"{begins}*/metrics.json"))
        files = [f for f in files if re.fullmatch(rf"{begins}(-\d+)?", f.parent.name)]
        found = [json.loads(f.read_text())["mAP"] for f in files]
        assert found
        assert score == pytest.approx(100 * np.mean(found), abs=0.051)
        assert str(score) in get_recipe(name).expected
        recorded = Recipe.from_json(json.loads((files[0].parent / "recipe.json").read_text())["recipe"])
        now = get_recipe(name).to_json()
        assert {k: v for k, v in recorded.to_json()["optimisation"].items() if k != "seed"} == now["optimisation"]
        assert recorded.head == get_recipe(name).head


def test_recipes_are_frozen_and_named_as_in_the_table():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert re.fullmatch(r"[a-z0-9_-]+", name)
        with pytest.raises(dataclasses.FrozenInstanceError):
            recipe.head.lam = 1.0


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_scores_are_the_models_in_the_order_of_the_data(model, data, batch_size):
    _, scores = evaluate(model, data, batch_size=batch_size)
    np.testing.assert_allclose(scores, literal_scores(model, data), atol=1e-5)


def test_metrics_are_those_of_the_scores(model, data):
    metrics, scores = evaluate(model, data, ap="envelope", threshold=0.3)
    assert metrics.mAP == multilabel_metrics(scores, data.targets, ap="envelope", threshold=0.3).mAP
    assert metrics.classes == data.classes


def test_unknown_targets_are_ignored_or_counted_as_absent(model, data):
    _, scores = evaluate(model, data)
    half = data.subset(range(len(data)))
    half.targets = data.targets.copy()
    half.targets[::2][half.targets[::2] == 0] = -1
    ignored, counted = (metrics_of(scores, half, difficult=d) for d in ("ignore", "negative"))
    assert counted.mAP == metrics_of(scores, data).mAP
    assert ignored.mAP == multilabel_metrics(scores, half.targets).mAP
    assert ignored.mAP != counted.mAP
    with pytest.raises(CsraError, match="difficult must be ignore or negative, not 'negatives'"):
        metrics_of(scores, half, difficult="negatives")


def test_a_model_is_scored_where_it_is(model, data, monkeypatch):
    seen = []
    monkeypatch.setattr(evaluation, "to_device", lambda batch, device: seen.append(device) or batch)
    evaluate(model, data)
    assert set(seen) == {model.device}


def test_features_through_the_head_are_the_logits_and_the_mirror_is_the_mirror(model, data):
    pixels = {"image_size": 64, "mean": model.mean, "std": model.std}
    maps = compute_features(model.backbone, data, mirror=True, **pixels)
    with torch.no_grad():
        scores = torch.sigmoid(model.head(maps.maps[:, 0].float())).numpy()
        transform = eval_transform(64, mean=model.mean, std=model.std)
        mirrored = model.backbone(transform(data.image(3))[None].flip(-1))[0]
    np.testing.assert_allclose(scores, literal_scores(model, data), atol=2e-3)  # features are kept in float16
    torch.testing.assert_close(maps.maps[3, 1].float(), mirrored, atol=5e-3, rtol=5e-3)
    np.testing.assert_array_equal(maps.targets, data.targets)


def test_scoring_leaves_training_mode_as_it_was(model, data):
    inputs = data.with_transform(eval_transform(64, mean=model.mean, std=model.std))
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    predict_scores(model, inputs)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.eval()


def test_predict_image_gives_probabilities_and_attention(model, data):
    probabilities, attention = predict_image(model, data.image(0))
    np.testing.assert_allclose(probabilities, literal_scores(model, data)[0], atol=1e-5)
    assert attention.shape == (3, *model.backbone.grid)
    np.testing.assert_allclose(attention.sum((1, 2)), 1, atol=1e-5)


def test_find_images_looks_into_folders_and_names_what_is_missing(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.jpg", "deep/a.PNG", "notes.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in find_images([tmp_path])] == ["b.jpg", "a.PNG"]
    with pytest.raises(CsraError, match="nothere"):
        find_images([tmp_path / "nothere"])


def test_classes_must_agree_in_name_and_order(data):
    swapped = create_classifier("test_resnet", classes=["dog", "cat", "person"], image_size=64)
    with pytest.raises(CsraError, match="class 0 is 'dog' for the model and 'cat'"):
        check_classes(swapped, data)
    fewer = create_classifier("test_resnet", classes=["cat", "dog"], image_size=64)
    with pytest.raises(CsraError, match="2 classes"):
        check_classes(fewer, data)


def test_data_without_labels_cannot_be_measured(model, data):
    unlabelled = data.subset(range(3))
    unlabelled.targets = np.full_like(unlabelled.targets, -1)
    with pytest.raises(CsraError, match="no labels"):
        evaluate(model, unlabelled)
    with pytest.raises(CsraError, match="empty"):
        evaluate(model, data.subset([]))


def test_a_model_can_be_trained_and_take_the_four_lines_after_it_was_evaluated():
    torch.manual_seed(0)
    model = create_classifier("test_resnet", num_classes=2, image_size=64, head="average")
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # so that evaluation moves it
    images = [(torch.randn(3, 64, 64), 0) for _ in range(2)]
    predict_scores(model, images)
    model.train()(torch.stack([image for image, _ in images])).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    predict_scores(model, images)
    assert model.with_four_lines(0.2).eval()(images[0][0][None]).shape == (1, 2)
