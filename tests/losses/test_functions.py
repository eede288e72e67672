"""Losses against literal loops, where entries are unknown, and where logits are extreme."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from csra_lab.errors import CsraError
from csra_lab.losses import (
    LOSSES,
    asymmetric_loss,
    binary_cross_entropy,
    class_weights,
    create_loss,
    fill_unknown,
    focal_loss,
    hill_loss,
    partial_binary_cross_entropy,
    splc_loss,
    two_way_loss,
    weighted_binary_cross_entropy,
)

PER_ENTRY = [name for name in LOSSES if name != "two-way"]


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


@pytest.mark.parametrize("name", PER_ENTRY)
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


# ---- the other losses, one entry at a time -----------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def literal(logits, targets, entry):
    """The sum of entry(x, y, image, class) over the known entries, over B * C."""
    total = 0.0
    for b, row in enumerate(logits.double().tolist()):
        for c, x in enumerate(row):
            if targets[b, c] >= 0:
                total += entry(x, int(targets[b, c]), b, c)
    return total / logits.numel()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal_is_the_literal_loop(batch, gamma, alpha):
    def entry(x, y, *_):
        p_t = sigmoid(x) if y else 1 - sigmoid(x)
        weight = 1 if alpha is None else alpha if y else 1 - alpha
        return -weight * (1 - p_t) ** gamma * math.log(p_t)

    assert focal_loss(*batch, gamma=gamma, alpha=alpha).item() == pytest.approx(literal(*batch, entry), rel=1e-5)


def test_focal_without_focus_is_bce(batch):
    torch.testing.assert_close(focal_loss(*batch, gamma=0), binary_cross_entropy(*batch))


@pytest.mark.parametrize(("lam", "margin", "gamma"), [(1.5, 1.0, 2.0), (1.2, 0.0, 0.5)])
def test_hill_is_the_literal_loop(batch, lam, margin, gamma):
    def entry(x, y, *_):
        p, q = sigmoid(x), sigmoid(x - margin)
        return -((1 - q) ** gamma) * math.log(q) if y else (lam - p) * p * p

    assert hill_loss(*batch, lam=lam, margin=margin, gamma=gamma).item() == pytest.approx(
        literal(*batch, entry), rel=1e-5
    )


def test_hill_lets_go_of_the_surest_negatives():
    """The slope of a negative is 3 p^2 (1 - p)^2 at lambda 1.5: it vanishes on both sides of the hill."""
    logits = torch.linspace(-8, 8, 33, dtype=torch.float64)[:, None].requires_grad_()
    (slope,) = torch.autograd.grad(hill_loss(logits, torch.zeros(33, 1)) * 33, logits)
    p = torch.sigmoid(logits.detach())
    torch.testing.assert_close(slope, 3 * p**2 * (1 - p) ** 2, rtol=1e-4, atol=1e-6)
    assert slope.argmax() == 16  # p = 1/2


@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
def test_splc_is_the_literal_loop(batch, tau):
    def entry(x, y, *_):
        p, q = sigmoid(x), sigmoid(x - 1)
        if y or p > tau:
            return -((1 - q) ** 2) * math.log(q)
        return -(p**2) * math.log(1 - p)

    assert splc_loss(*batch, tau=tau).item() == pytest.approx(literal(*batch, entry), rel=1e-5)


def test_splc_turns_confident_negatives_round():
    logits, absent = torch.tensor([[1.0, 0.3, -1.0]], requires_grad=True), torch.zeros(1, 3)  # p: 0.73, 0.57, 0.27
    (slope,) = torch.autograd.grad(splc_loss(logits, absent, tau=0.6), logits)
    assert (slope.sign() == torch.tensor([[-1.0, 1.0, 1.0]])).all()
    (slope,) = torch.autograd.grad(splc_loss(logits, absent, tau=1.0), logits)
    assert (slope > 0).all()


def test_partial_bce_is_the_literal_loop(batch):
    logits, targets = batch
    targets[0] = -1
    share = (targets >= 0).double().mean(dim=1).tolist()

    def entry(x, y, b, _):
        return -(-4.45 * share[b] + 5.45) * math.log(sigmoid(x) if y else 1 - sigmoid(x))

    assert partial_binary_cross_entropy(logits, targets).item() == pytest.approx(
        literal(logits, targets, entry), rel=1e-5
    )
    known = targets.clamp(min=0)
    torch.testing.assert_close(partial_binary_cross_entropy(logits, known), binary_cross_entropy(logits, known))


def test_weighted_bce_is_the_literal_loop(batch):
    positive, negative = torch.rand(5) + 0.5, torch.rand(5) + 0.5

    def entry(x, y, _, c):
        return -positive[c].item() * math.log(sigmoid(x)) if y else -negative[c].item() * math.log(1 - sigmoid(x))

    weighted = weighted_binary_cross_entropy(*batch, positive, negative)
    assert weighted.item() == pytest.approx(literal(*batch, entry), rel=1e-5)
    ones = torch.ones(5)
    torch.testing.assert_close(weighted_binary_cross_entropy(*batch, ones, ones), binary_cross_entropy(*batch))
    labelled = batch[1].clamp(min=0)
    torchs = F.binary_cross_entropy_with_logits(batch[0], labelled.float(), pos_weight=positive)
    torch.testing.assert_close(weighted_binary_cross_entropy(batch[0], labelled, positive, ones), torchs)


def test_class_weights_of_the_targets_of_a_data_set():
    targets = np.array([[1, 0], [0, 1], [1, -1], [0, 0]], dtype=np.int8)
    for ours, theirs in zip(class_weights(targets), class_weights(torch.from_numpy(targets)), strict=True):
        assert torch.equal(ours, theirs)


def test_class_weights():
    targets = torch.tensor([[1, 1], [0, 1], [0, 0], [0, -1]])  # shares of positives: 1/4 and 2/3
    positive, negative = class_weights(targets)
    torch.testing.assert_close(positive, torch.tensor([0.75, 1 / 3]).exp())
    torch.testing.assert_close(negative, torch.tensor([0.25, 2 / 3]).exp())
    positive, negative = class_weights(targets, "balanced")
    torch.testing.assert_close(positive * torch.tensor([1, 2]), negative * torch.tensor([3, 1]))  # both sides alike
    for beta in (0.0, 0.5, 0.999):
        positive, negative = class_weights(targets, "effective", beta=beta)
        expected = (1 - beta**3) / (1 - beta) if beta else 1  # 1 positive against 3 negatives
        assert positive[0] / negative[0] == pytest.approx(expected)
        assert positive[0] + 3 * negative[0] == pytest.approx(4)
    nearly = class_weights(targets, "effective", beta=1 - 1e-9)
    for pair in zip(nearly, class_weights(targets, "balanced"), strict=True):
        torch.testing.assert_close(*pair)


@pytest.mark.parametrize(
    ("targets", "options", "said"),
    [
        ([[1, 1], [0, 1]], {}, "class 1 has no positive or no negative"),
        ([[1, 0], [0, 1]], {"weighting": "inverse"}, "inverse.*exponential, balanced, effective"),
        ([[1, 0], [0, 1]], {"weighting": "effective", "beta": 1.0}, "beta must be"),
    ],
)
def test_class_weights_refuse(targets, options, said):
    with pytest.raises(CsraError, match=said):
        class_weights(torch.tensor(targets), **options)


# ---- the two-way loss --------------------------------------------------------------------------------------------


def literal_two_way(logits, targets, t_p=4.0, t_n=1.0):
    def rank(xs, ys):
        if 1 not in ys:
            return None
        negatives = sum(math.exp(x / t_n) for x, y in zip(xs, ys, strict=True) if y == 0)
        positives = sum(math.exp(-x / t_p) for x, y in zip(xs, ys, strict=True) if y == 1)
        if negatives == 0:
            return 0.0  # softplus of minus infinity
        return math.log1p(negatives**t_n * positives**t_p)

    total = 0.0
    for x, y in ((logits, targets), (logits.T, targets.T)):
        ranks = [rank(*row) for row in zip(x.double().tolist(), y.tolist(), strict=True)]
        ranks = [r for r in ranks if r is not None]
        total += sum(ranks) / len(ranks) if ranks else 0.0
    return total


@pytest.mark.parametrize("temperatures", [(4.0, 1.0), (1.0, 1.0), (0.5, 2.0)])
def test_two_way_is_the_literal_loop(batch, temperatures):
    logits, targets = batch
    targets[0], targets[1], targets[:, 2] = 1, 0, 0  # an image with no negative, one with no positive; such a class
    loss = two_way_loss(logits, targets, t_positive=temperatures[0], t_negative=temperatures[1])
    assert loss.item() == pytest.approx(literal_two_way(logits, targets, *temperatures), rel=1e-5)


def test_two_way_at_low_temperatures_is_the_hardest_pair(batch):
    logits, targets = batch
    loss = two_way_loss(logits, targets, t_positive=1e-3, t_negative=1e-3)
    total = 0.0
    for x, y in ((logits, targets), (logits.T, targets.T)):
        pairs = [
            (r[t == 0].max() - r[t == 1].min()).item() for r, t in zip(x, y, strict=True) if {0, 1} <= set(t.tolist())
        ]
        alone = sum(bool((t == 1).any() and not (t == 0).any()) for t in y)
        total += sum(math.log1p(math.exp(gap)) for gap in pairs) / (len(pairs) + alone)
    assert loss.item() == pytest.approx(total, rel=1e-3)


def test_two_way_compares_and_does_not_calibrate():
    """A constant added to all logits changes nothing: the loss ranks, and leaves the threshold open."""
    logits, targets = torch.randn(6, 3), torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 2)
    torch.testing.assert_close(two_way_loss(logits + 3, targets), two_way_loss(logits, targets))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(3,), (4, 1), (4, 2)])
def test_targets_of_another_shape_are_not_stretched(name, shape):
    with pytest.raises(CsraError, match=r"must both be \(images, classes\), not \(4, 3\) and"):
        create_loss(name)(torch.zeros(4, 3), torch.ones(shape))


def test_a_misspelt_treatment_of_unknown_labels_is_refused():
    with pytest.raises(CsraError, match="unknown must be ignore or negative, not 'negatives'"):
        fill_unknown(torch.tensor([[-1]]), "negatives")
