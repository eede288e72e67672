"""Heads trained together are heads trained alone: against the training loop itself, and against each other."""

import math

import numpy as np
import pytest
import torch

from csra_lab.backbones import create_backbone
from csra_lab.errors import CsraError
from csra_lab.heads import HEADS, create_head
from csra_lab.losses import BCE
from csra_lab.recipes import Recipe, average_twin
from csra_lab.study.head_stack import HeadStack, score_heads, train_heads
from csra_lab.training.feature_cache import FeatureMaps, compute_features
from csra_lab.training.loop import train
from csra_lab.training.sampling import hold_out
from tests import toy

BASE = Recipe.of(
    name="toy-csra", dataset="voc2012", backbone="test_efficientnet", image_size=64, weights="none", lam=0.3,
    classes=toy.CLASSES, epochs=3, batch_size=8, optimizer="adamw", head_lr=1e-2, schedule="cosine", warmup_epochs=0.5,
    freeze_backbone=True, normalize=False,
)  # fmt: skip
VARIED = [
    BASE,
    average_twin(BASE),
    BASE.replace(lam=1.0, temperatures=(math.inf,)),
    BASE.replace(num_heads=4, normalize=True, optimizer="sgd", head_lr=0.5),
    BASE.replace(num_heads=3, temperatures=(math.inf, 0.0, 2.5)),
    BASE.replace(head="max", head_lr=3e-3),
    BASE.replace(head="spatial", loss="asl"),
    BASE.replace(loss="weighted-bce"),
    BASE.replace(head="lse", weight_decay=0.1, momentum=0.8),
    BASE.replace(head="topk", schedule="one-cycle"),
    BASE.replace(head="gem", schedule="step", step_epochs=1.0, warmup_epochs=0.0),
    BASE.replace(head="gem", optimizer="sgd", head_lr=0.1),
    BASE.replace(head="wildcat", num_heads=2),
    BASE.replace(head="class-queries", width=8, attention_heads=2, head_lr=1e-3),
    BASE.replace(head="label-graph", threshold=0.1),
    BASE.replace(seed=1),
    BASE.replace(seed=1, loss=BCE(unknown="ignore"), batch_size=4),
    BASE.replace(epochs=2),
]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    devkit = toy.write_devkit(tmp_path_factory.mktemp("toy"))
    sets = toy.load(devkit, "trainval"), toy.load(devkit, "test")
    sets[0].targets[::5, 1] = -1  # some unknown labels
    return sets


@pytest.fixture(scope="module")
def maps(sets):
    torch.manual_seed(0)
    backbone = create_backbone("test_efficientnet", image_size=64)
    pixels = {"image_size": 64, "mean": backbone.mean, "std": backbone.std}
    return tuple(compute_features(backbone, s, mirror=m, **pixels) for s, m in zip(sets, (True, False), strict=True))


def random_maps(images, d, side, classes, views=1, seed=0):
    rng = np.random.default_rng(seed)
    maps = torch.from_numpy(rng.normal(size=(images, views, d, side, side))).abs().half()
    return FeatureMaps(maps, rng.integers(-1, 2, size=(images, classes)).astype(np.int8))


@pytest.mark.parametrize("validation", [0.0, 0.25])
def test_together_ends_where_the_training_loop_ends(sets, maps, tmp_path, validation):
    # The loop builds its backbone from the seed, so only recipes of seed 0 have these features.
    recipes = [r.replace(validation_fraction=validation) for r in VARIED if r.run.seed == 0]
    fit, held_out = hold_out(sets[0], validation)
    together = train_heads(recipes, maps[0], fit=fit, held_out=held_out)
    scores = score_heads([t.head for t in together], maps[1])
    for i, (recipe, ours) in enumerate(zip(recipes, together, strict=True)):
        alone = train(recipe, *sets, tmp_path / str(i), progress=False)
        assert alone.history.train_loss.tolist() == pytest.approx(ours.history.train_loss.tolist(), abs=1e-4)
        np.testing.assert_allclose(ours.head.weight.detach(), alone.model.head.weight.detach(), atol=1e-4)
        np.testing.assert_allclose(scores[i], alone.scores, atol=2e-4)
        assert ours.diverged is None
        if validation:
            expected = alone.history.validation_mAP.tolist()
            assert ours.history.validation_mAP.tolist() == pytest.approx(expected, abs=1e-6)


def test_together_is_one_by_one(maps):
    together = train_heads(VARIED, maps[0])
    for recipe, ours in zip(VARIED, together, strict=True):
        (alone,) = train_heads([recipe], maps[0])
        np.testing.assert_allclose(ours.head.weight.detach(), alone.head.weight.detach(), atol=1e-4)
        for name, value in alone.head.state_dict().items():
            torch.testing.assert_close(ours.head.state_dict()[name], value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_a_stack_gives_the_logits_of_its_heads(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    heads = []
    for kind in rng.permutation([*HEADS, *HEADS, "csra", "csra"]):
        options = {"normalize": bool(rng.integers(2))}
        if kind == "csra":
            count = int(rng.integers(1, 5))
            temperatures = rng.choice([0.0, 0.5, 1.0, 7.0, math.inf], size=count).tolist()
            options |= {"num_heads": count, "lam": float(rng.normal()), "temperatures": temperatures}
        if kind == "topk":
            options["k"] = int(rng.integers(1, 30))
        heads.append(create_head(str(kind), 6, 5, **options).double())
    x = torch.rand(3, 6, 4, 4, dtype=torch.double)
    stack = HeadStack(heads, groups=[str(g) for g in rng.integers(3, size=len(heads))]).double()
    logits = stack(x.flatten(2).transpose(1, 2))
    for ours, head in zip(logits, heads, strict=True):
        torch.testing.assert_close(ours, head(x))
    for back, head in zip(stack.heads(), heads, strict=True):
        torch.testing.assert_close(back(x), head(x))


@pytest.mark.parametrize("lam", [0.0, 0.1])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_classifier_of_a_head_counts_with_and_without_a_residual(count, lam):
    torch.manual_seed(0)
    head = create_head("csra", 6, 5, num_heads=count, lam=lam, normalize=False)
    x = torch.rand(3, 9, 6)
    stack = HeadStack([head])
    alone, together = head(x), stack(x)[0]
    torch.testing.assert_close(together, alone)
    alone.square().sum().backward()
    together.square().sum().backward()
    torch.testing.assert_close(stack.weights[0].grad, head.weight.grad)


def test_scores_are_probabilities_of_the_first_view():
    data = random_maps(70, 6, 3, 4, views=2)
    heads = [create_head("average", 6, 4), create_head("csra", 6, 4)]
    scores = score_heads(heads, data)
    first = torch.stack([torch.sigmoid(h(data.maps[:, 0].float())) for h in heads]).detach()
    np.testing.assert_allclose(scores, first, atol=1e-6)


def test_a_head_that_diverges_is_named_and_spoils_no_other(maps):
    wild = BASE.replace(optimizer="sgd", head_lr=1e30)
    alone = train_heads([BASE], maps[0])[0]
    calm, spoilt = train_heads([BASE, wild], maps[0])
    assert spoilt.diverged in (1, 2)
    assert calm.diverged is None
    np.testing.assert_allclose(calm.head.weight.detach(), alone.head.weight.detach(), atol=1e-6)


def test_a_head_that_only_its_last_step_spoils_has_diverged(maps):
    """Its losses are finite, each taken before a step; its weights are not."""
    brief = BASE.replace(epochs=1, batch_size=len(maps[0]), warmup_epochs=0.0, optimizer="sgd", schedule="constant")
    calm, spoilt = train_heads([brief, brief.replace(head_lr=1e38, weight_decay=1e6)], maps[0])
    assert np.isfinite(spoilt.history.train_loss).all()
    assert not spoilt.head.weight.isfinite().all()
    assert (calm.diverged, spoilt.diverged) == (None, 1)


def test_held_out_pictures_choose_the_epoch_and_teach_nothing():
    data = random_maps(60, 6, 3, 2)
    fit, held_out = np.arange(40), np.arange(40, 60)
    recipe = BASE.replace(epochs=6, schedule="constant", head_lr=0.3)
    (first,) = train_heads([recipe], data, fit=fit, held_out=held_out)
    best = int(first.history.validation_mAP.argmax()) + 1
    stopped = recipe.replace(epochs=best)
    data.targets[40:] = 1 - np.abs(data.targets[40:])  # other labels on what was held out
    (second,) = train_heads([stopped], data, fit=fit)
    np.testing.assert_allclose(first.head.weight.detach(), second.head.weight.detach(), atol=1e-6)


def test_what_cannot_be_done_together_is_refused(maps):
    with pytest.raises(CsraError, match="ema_decay"):
        train_heads([BASE.replace(ema_decay=0.9)], maps[0])
    with pytest.raises(CsraError, match="one size"):
        HeadStack([create_head("average", 6, 4), create_head("average", 7, 4)])
    with pytest.raises(CsraError, match="bias"):
        HeadStack([create_head("average", 6, 4, bias=True)])
    with pytest.raises(CsraError, match="batch_size"):
        train_heads([BASE.replace(batch_size=500)], maps[0])


@pytest.mark.parametrize("seed", [1, 2])
def test_random_numbers_of_others_are_left_alone(seed):
    features = random_maps(16, 4, 2, 3)
    torch.manual_seed(seed)
    before = torch.get_rng_state()
    train_heads([BASE.replace(epochs=1)], features)
    assert torch.equal(torch.get_rng_state(), before)
