"""Configs of losses: what is recorded is what is computed."""

import json

import pytest
import torch

from csra_lab.errors import CsraError
from csra_lab.losses import ASL, LOSSES, SPLC, WeightedBCE, binary_cross_entropy, create_loss, two_way_loss

OPTIONS = {
    "bce": {"unknown": "negative"},
    "weighted-bce": {"positive": (1.0, 2.0, 3.0), "negative": (1.0, 0.5, 0.25)},
    "partial-bce": {"alpha": -1.0, "beta": 2.0, "gamma": 0.5},
    "focal": {"gamma": 1.0, "alpha": 0.3},
    "asl": {"gamma_negative": 2.0, "gamma_positive": 1.0, "margin": 0.1},
    "hill": {"lam": 1.7, "margin": 0.5, "gamma": 1.0},
    "splc": {"tau": 0.4, "margin": 0.5, "gamma": 1.0},
    "two-way": {"t_positive": 2.0, "t_negative": 0.5},
}


@pytest.fixture
def batch():
    return 2 * torch.randn(4, 3), torch.tensor([[1, 0, -1], [1, 1, 0], [-1, 0, 1], [0, 0, 0]])


@pytest.mark.parametrize("name", LOSSES)
def test_every_option_changes_the_loss_and_is_recorded(name, batch):
    default = LOSSES[name]
    assert set(OPTIONS[name]) | {"unknown"} == set(default.config())
    pairs = [OPTIONS[name]] if name == "weighted-bce" else [{k: v} for k, v in OPTIONS[name].items()]  # belong together
    for options in [*pairs, {"unknown": "negative"}]:
        loss = create_loss(name, **options)
        assert loss(*batch) != default(*batch)
        again = create_loss(name, **json.loads(json.dumps(loss.config())))
        assert again == loss
        assert torch.equal(again(*batch), loss(*batch))


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_as_negative_is_zero_for_minus_one(name, batch):
    loss = create_loss(name, unknown="negative")
    assert torch.equal(loss(*batch), LOSSES[name](batch[0], batch[1].clamp(min=0)))


@pytest.mark.parametrize("name", LOSSES)
def test_many_heads_at_once(name, batch):
    """torch.vmap over heads, as `train_heads` does it."""
    logits = torch.randn(5, *batch[0].shape)
    together = torch.vmap(LOSSES[name], (0, None))(logits, batch[1])
    torch.testing.assert_close(together, torch.stack([LOSSES[name](each, batch[1]) for each in logits]))


def test_weights_of_a_training_set(batch):
    loss = WeightedBCE.of(batch[1])
    assert len(loss.positive) == 3
    assert loss(*batch) > binary_cross_entropy(*batch)  # exp(1 - r) and exp(r) exceed 1
    with pytest.raises(CsraError, match="3 classes, not 2"):
        loss(batch[0][:, :2], batch[1][:, :2])


def test_two_way_sums_over_nothing_is_zero():
    logits = torch.randn(3, 2, requires_grad=True)
    for value in (-1, 0):
        loss = two_way_loss(logits, torch.full((3, 2), value))
        loss.backward()
        assert loss == 0
        assert torch.equal(logits.grad, torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("mse", {}, "no loss 'mse'; choose bce"),
        ("asl", {"gamma": 2}, "'asl' has the options unknown, gamma_negative.*not gamma"),
        ("bce", {"unknown": "positive"}, "ignore or negative, not 'positive'"),
        ("weighted-bce", {"positive": (1.0,)}, "1 weights of positives and 0"),
        ("weighted-bce", {"positive": 1.0}, "positive must be a list of which each is a number"),
        ("weighted-bce", {"positive": (-1.0,), "negative": (1.0,)}, "weighted loss must be from 0"),
        ("asl", {"margin": 1.5}, "loss ASL: margin must be from 0 to 1, not 1.5"),
        ("asl", {"margin": -0.1}, "margin must be from 0"),
        ("asl", {"margin": "x"}, "margin must be a number, not 'x'"),
        ("asl", {"gamma_negative": float("inf")}, "gamma_negative must be from 0 to 1,000, not inf"),
        ("two-way", {"t_positive": 0.0}, r"t_positive must be from 0\.001"),
        ("focal", {"gamma": float("nan")}, "gamma must be a number, not nan"),
        ("focal", {"alpha": 2}, "alpha must be from 0 to 1"),
        ("splc", {"tau": True}, "tau must be a number, not True"),
        ("hill", {"lam": 0.5}, "lam must be from 1"),
        ("partial-bce", {"alpha": "x"}, "alpha must be a number"),
    ],
)
def test_refusals(name, options, said):
    with pytest.raises(CsraError, match=said):
        create_loss(name, **options)


def test_configs_are_frozen():
    with pytest.raises(AttributeError):
        SPLC().tau = 1.0
    assert ASL() == LOSSES["asl"]
