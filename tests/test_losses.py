"""Losses against literal loops, where entries are unknown, and where logits are extreme."""

import math

import pytest
import torch
import torch.nn.functional as F

from csra_lab.losses import LOSSES, asymmetric_loss, binary_cross_entropy


@pytest.fixture
def batch():
    logits = 4 * torch.randn(7, 5)
    targets = torch.randint(-1, 2, (7, 5), dtype=torch.int8)
    assert {-1, 0, 1} == set(targets.flatten().tolist())
    return logits, targets


def literal_asl(logits, targets, gamma_negative, gamma_positive, margin):
    """Ridnik et al., Eq. 5-7, one entry at a time."""
    total = 0.0
    for x, y in zip(logits.double().flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        if y == 1:
            total -= (1 - p) ** gamma_positive * math.log(p)
        elif y == 0:
            shifted = max(p - margin, 0)
            total -= shifted**gamma_negative * math.log(1 - shifted)
    return total / logits.numel()


def test_bce_is_torchs_on_the_known_entries(batch):
    logits, targets = batch
    known = targets >= 0
    expected = F.binary_cross_entropy_with_logits(logits[known], targets[known].float(), reduction="sum") / 35
    torch.testing.assert_close(binary_cross_entropy(logits, targets), expected)
    labelled = targets.clamp(min=0)
    torch.testing.assert_close(
        binary_cross_entropy(logits, labelled), F.binary_cross_entropy_with_logits(logits, labelled.float())
    )


@pytest.mark.parametrize("gamma_negative", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("gamma_positive", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("margin", [0.0, 0.05, 0.3])
def test_asl_is_the_literal_loop(batch, gamma_negative, gamma_positive, margin):
    logits, targets = batch
    options = {"gamma_negative": gamma_negative, "gamma_positive": gamma_positive, "margin": margin}
    expected = literal_asl(logits, targets, **options)
    assert asymmetric_loss(logits, targets, **options).item() == pytest.approx(expected, rel=1e-5)


def test_asl_defaults_are_the_papers(batch):
    assert asymmetric_loss(*batch).item() == pytest.approx(literal_asl(*batch, 4, 0, 0.05), rel=1e-5)


def test_asl_without_focus_or_margin_is_bce(batch):
    for logits in (batch[0], 10 * batch[0], torch.linspace(-1e4, 1e4, 35).view(7, 5)):
        plain = asymmetric_loss(logits, batch[1], gamma_negative=0, gamma_positive=0, margin=0)
        torch.testing.assert_close(plain, binary_cross_entropy(logits, batch[1]))


def test_asl_drops_the_easiest_negatives():
    """A negative whose probability is below the margin costs nothing and moves nothing."""
    logits = torch.tensor([[-3.0, -4.0, -50.0]], requires_grad=True)
    loss = asymmetric_loss(logits, torch.zeros(1, 3), margin=0.05)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert logits.grad.abs().max() < 1e-7
    harder = asymmetric_loss(torch.tensor([[-2.0]]), torch.zeros(1, 1), margin=0.05)
    assert harder > 0


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_entries_add_nothing(name, batch):
    logits, targets = batch
    logits.requires_grad_()
    loss = LOSSES[name](logits, targets)
    loss.backward()
    assert (logits.grad[targets == -1] == 0).all()
    assert (logits.grad[targets == 1] < 0).all()
    wild = torch.where(targets == -1, 1e4, logits.detach())
    torch.testing.assert_close(LOSSES[name](wild, targets), loss.detach())
    nothing = torch.full_like(targets, -1)
    assert LOSSES[name](logits, nothing) == 0


@pytest.mark.parametrize("name", LOSSES)
def test_parts_of_a_batch_add_up_to_it(name, batch):
    """The mean over equal parts is the loss of the batch, however the unknown entries fall; processes rely on it."""
    logits, targets = batch[0][:6], batch[1][:6]
    parts = [LOSSES[name](logits[i : i + 2], targets[i : i + 2]) for i in (0, 2, 4)]
    torch.testing.assert_close(sum(parts) / 3, LOSSES[name](logits, targets))


@pytest.mark.parametrize("options", [{}, {"gamma_negative": 0.5, "gamma_positive": 0.5}, {"margin": 0.0}], ids=str)
@pytest.mark.parametrize("size", [20.0, 100.0, 1e4])
def test_extreme_logits(options, size):
    losses = [lambda x, y: asymmetric_loss(x, y, **options)]
    if not options:
        losses.append(binary_cross_entropy)
    for loss_function in losses:
        for y in (0, 1):
            logits = torch.tensor([[-size], [size]], requires_grad=True)
            loss = loss_function(logits, torch.full((2, 1), y))
            loss.backward()
            assert math.isfinite(loss.item())
            assert torch.isfinite(logits.grad).all()
        assert loss.item() == pytest.approx(
            size / 2, rel=1e-5
        )  # y = 1: the wrong one costs its logit, the other nothing
        assert logits.grad[0].item() == pytest.approx(-0.5, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits(name, dtype, batch):
    logits, targets = batch[0].to(dtype), batch[1]
    loss = LOSSES[name](logits, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, LOSSES[name](logits.float(), targets))


@pytest.mark.parametrize("name", LOSSES)
def test_the_slope_is_the_slope(name, batch):
    """A step down the gradient lowers the loss by the step times the gradient's square."""
    logits, targets = batch[0].requires_grad_(), batch[1]
    loss = LOSSES[name](logits, targets)
    (slope,) = torch.autograd.grad(loss, logits)
    ahead = LOSSES[name](logits - 0.01 * slope / slope.norm(), targets)
    assert (loss - ahead).item() == pytest.approx(0.01 * slope.norm().item(), rel=2e-2)
