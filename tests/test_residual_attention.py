"""The equations against a slow literal loop in double precision, and at their limits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csra_lab.errors import CsraError
from csra_lab.residual_attention import (
    _column,
    attended_scores,
    attention_scores,
    csra_logits,
    gap_bound,
    gap_to_max,
    logit_weights,
    residual_max,
    residual_weights,
)

INF = math.inf
LISTS = [
    [1.0],
    [INF],
    [0.0],
    [1.0, INF],
    [INF, 1.0],
    [INF, INF],
    [1.0, 2.0, 4.0, INF],
    [INF, 0.5, INF, 3.0],
    [0.0, INF, 7.0, INF, INF, 1e4],
    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, INF],
]


def literal_attention(scores, temperature):
    """Eq. 2 on one map, a list of numbers. The exponentials are taken as they stand, so keep T * scores small."""
    if temperature == INF:
        best = scores.index(max(scores))
        return [float(k == best) for k in range(len(scores))]
    powers = [math.exp(temperature * (s - max(scores))) for s in scores]
    return [p / sum(powers) for p in powers]


def literal_logits(scores, temperatures, lam):
    """Eq. 7, 8 and 13, one number at a time."""
    images, heads, classes, locations = scores.shape
    logits = torch.zeros(images, classes, dtype=torch.float64)
    for b in range(images):
        for c in range(classes):
            for h in range(heads):
                values = scores[b, h, c].tolist()
                mean = sum(values) / locations
                weights = literal_attention(values, temperatures[h])
                attended = sum(a * s for a, s in zip(weights, values, strict=True))
                logits[b, c] += mean + lam * attended
    return logits


# ---- the logits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperatures", LISTS, ids=str)
@pytest.mark.parametrize(("images", "classes", "locations"), [(1, 1, 1), (2, 3, 4), (3, 2, 49)])
def test_logits_are_the_literal_loop(temperatures, images, classes, locations):
    scores = 3 * torch.randn(images, len(temperatures), classes, locations, dtype=torch.float64)
    for lam in (0.0, 0.1, 1.0, -0.5, 7.0):
        expected = literal_logits(scores, temperatures, lam)
        torch.testing.assert_close(csra_logits(scores, temperatures, lam), expected, rtol=1e-12, atol=1e-12)
        given_as_tensor = csra_logits(scores, torch.tensor(temperatures, dtype=torch.float64), lam)
        torch.testing.assert_close(given_as_tensor, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperatures", LISTS, ids=str)
def test_heads_together_are_heads_one_by_one(temperatures):
    scores = torch.randn(2, len(temperatures), 5, 9, dtype=torch.float64)
    one_by_one = sum(csra_logits(scores[:, i : i + 1], [t], 0.3) for i, t in enumerate(temperatures))
    torch.testing.assert_close(csra_logits(scores, temperatures, 0.3), one_by_one, rtol=1e-13, atol=1e-13)
    attended = torch.stack(
        [(attention_scores(scores[:, i], t) * scores[:, i]).sum(-1) for i, t in enumerate(temperatures)], dim=1
    )
    torch.testing.assert_close(attended_scores(scores, temperatures), attended, rtol=1e-13, atol=1e-13)


def test_off_the_cpu_temperatures_are_filled_in_and_not_copied(monkeypatch):
    """A copy to a GPU waits for all work before it."""
    scores = torch.empty(2, 3, 5, 9, device="meta")
    column = _column([1.0, 4.0], torch.randn(1, 2, 1, 1))
    assert column.flatten().tolist() == [1.0, 4.0]
    for copying in ("tensor", "as_tensor"):
        monkeypatch.delattr(torch, copying)
    assert _column([1.0, 4.0], scores).shape == column.shape
    assert attended_scores(scores, [1.0, 4.0, INF]).shape == (2, 3, 5)


def test_limits_in_the_temperature():
    scores = torch.randn(2, 1, 3, 16, dtype=torch.float64)
    mean, maximum = scores.mean(-1)[:, 0], scores.amax(-1)[:, 0]
    torch.testing.assert_close(csra_logits(scores, 0.0, 0.4), 1.4 * mean)
    torch.testing.assert_close(csra_logits(scores, 1e-9, 0.4), 1.4 * mean)
    torch.testing.assert_close(csra_logits(scores, INF, 0.4), mean + 0.4 * maximum, rtol=0, atol=1e-15)
    torch.testing.assert_close(csra_logits(scores, 1e6, 0.4), mean + 0.4 * maximum)
    torch.testing.assert_close(csra_logits(scores, INF, 0.4), residual_max(scores[:, 0], 0.4), rtol=0, atol=1e-15)
    torch.testing.assert_close(csra_logits(scores, 5.0, 0.0), mean, rtol=0, atol=0)


def test_the_attended_score_grows_with_the_temperature():
    scores = torch.randn(4, 1, 6, 25, dtype=torch.float64)
    ladder = [0.0, 1e-3, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0, 100.0, 1e4, INF]
    values = torch.stack([attended_scores(scores, t) for t in ladder])
    assert (values.diff(dim=0) >= -1e-12).all()
    assert (values[4] > values[3]).all()  # strictly, on maps that are not flat


def test_lam_zero_is_the_linear_classifier():
    """The mean of the scores is the score of the mean feature (section 3.1), whatever the temperatures."""
    features = torch.randn(2, 8, 12, dtype=torch.float64)  # (B, d, N)
    weight = torch.randn(3, 8, dtype=torch.float64)
    scores = (weight @ features)[:, None]  # (B, 1, C, N)
    torch.testing.assert_close(csra_logits(scores, [3.0], 0), features.mean(-1) @ weight.T)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 30.0, 1e4, 1e39, 1e300, INF])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_sum_to_one_and_before_division_to_one_plus_lam(temperature, dtype):
    scores = torch.randn(3, 5, 7, 11, dtype=dtype)
    attention = attention_scores(scores, temperature)
    assert attention.dtype == dtype
    assert (attention >= 0).all()
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, 5, 7, dtype=dtype))
    weights = logit_weights(scores, temperature, 0.25)
    torch.testing.assert_close(weights.sum(-1), torch.full((3, 5, 7), 1.25, dtype=dtype))
    shares = residual_weights(scores, temperature, 0.25)
    assert shares.dtype == dtype
    torch.testing.assert_close(shares.sum(-1), torch.ones(3, 5, 7, dtype=dtype))
    mixture = 1 / 1.25 / 11 + 0.25 / 1.25 * attention  # weights 1 / (1 + lam) and lam / (1 + lam)
    torch.testing.assert_close(shares, mixture)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 9.0, INF])
def test_weights_times_scores_are_the_logit(temperature):
    scores = torch.randn(3, 1, 4, 10, dtype=torch.float64)
    for lam in (0.0, 0.2, 2.0):
        summed = (logit_weights(scores, temperature, lam) * scores).sum(-1)[:, 0]
        torch.testing.assert_close(csra_logits(scores, temperature, lam), summed)
        shared = (residual_weights(scores, temperature, lam) * scores).sum(-1)[:, 0]
        torch.testing.assert_close(csra_logits(scores, temperature, lam), (1 + lam) * shared)


def test_eq_12_is_the_weight_of_each_feature_in_the_class_specific_feature():
    """Eq. 5 divided by 1 + lam, from the features, is the weighted mean with the weights of Eq. 12."""
    features = torch.randn(49, 16, dtype=torch.float64)  # (N, d)
    classifier = torch.randn(16, dtype=torch.float64)
    scores, lam = features @ classifier, 0.3
    attended = torch.softmax(2 * scores, dim=0) @ features
    feature = (features.mean(0) + lam * attended) / (1 + lam)
    torch.testing.assert_close(residual_weights(scores, 2.0, lam) @ features, feature)


def test_attention_is_the_literal_softmax_and_one_hot_at_infinity():
    scores = torch.randn(6, 8, dtype=torch.float64)
    for temperature in (0.0, 0.3, 1.0, 12.0, INF):
        for row, weights in zip(scores, attention_scores(scores, temperature), strict=True):
            expected = torch.tensor(literal_attention(row.tolist(), temperature), dtype=torch.float64)
            torch.testing.assert_close(weights, expected)
    tied = torch.tensor([0.0, 2.0, 2.0, 1.0])
    assert attention_scores(tied, INF).tolist() == [0, 1, 0, 0]
    torch.testing.assert_close(attention_scores(tied, 1e4), torch.tensor([0, 0.5, 0.5, 0]))


# ---- invariants --------------------------------------------------------------------------------------------------


def test_permuting_locations_changes_nothing():
    scores, order = torch.randn(2, 3, 4, 20, dtype=torch.float64), torch.randperm(20)
    for temperatures in ([1.0, 2.0, INF], [INF, 0.0, 50.0]):
        torch.testing.assert_close(
            csra_logits(scores[..., order], temperatures, 0.3), csra_logits(scores, temperatures, 0.3)
        )
    torch.testing.assert_close(attention_scores(scores, 2.0)[..., order], attention_scores(scores[..., order], 2.0))


@pytest.mark.parametrize("temperatures", LISTS, ids=str)
def test_a_shift_of_all_scores_shifts_the_logit(temperatures):
    scores, lam, shift = torch.randn(2, len(temperatures), 3, 9, dtype=torch.float64), 0.3, 5.5
    moved = csra_logits(scores + shift, temperatures, lam)
    by = (1 + lam) * shift * len(temperatures)
    torch.testing.assert_close(moved, csra_logits(scores, temperatures, lam) + by)


def test_scaling_scores_up_is_heating_the_softmax():
    scores = torch.randn(2, 1, 3, 9, dtype=torch.float64)
    torch.testing.assert_close(attended_scores(4 * scores, 0.5), 4 * attended_scores(scores, 2.0))


def test_images_and_classes_do_not_see_each_other():
    scores = torch.randn(3, 2, 4, 6)
    before = csra_logits(scores, [1.0, INF], 0.5)
    scores[1, :, 2] += 100
    changed = csra_logits(scores, [1.0, INF], 0.5) != before
    assert changed.nonzero().tolist() == [[1, 2]]


def test_four_lines_read_maps_and_flat_maps():
    scores = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    expected = scores.mean((2, 3)) + 0.7 * scores.amax((2, 3))
    torch.testing.assert_close(residual_max(scores, 0.7), expected)
    torch.testing.assert_close(residual_max(scores.flatten(2), 0.7), expected)
    torch.testing.assert_close(residual_max(scores.to(memory_format=torch.channels_last), 0.7), expected)
    torch.testing.assert_close(csra_logits(scores.flatten(2)[:, None], [INF], 0.7), expected)


# ---- number types ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1e-2), (torch.float64, 0)]
)
@pytest.mark.parametrize("temperatures", [[1.0, 2.0, 4.0, INF], [INF] * 4, [3.0] * 4], ids=str)
def test_types_lose_only_the_last_rounding(dtype, tolerance, temperatures):
    scores = torch.randn(2, 4, 3, 784).to(dtype)  # the same numbers for both sides: rounded once
    exact = csra_logits(scores.double(), temperatures, 0.3)
    logits = csra_logits(scores, temperatures, 0.3)
    assert logits.dtype == (dtype if dtype == torch.float64 else torch.float32)  # bfloat16 would tie ranks
    torch.testing.assert_close(logits.double(), exact, rtol=tolerance, atol=tolerance)
    attended = attended_scores(scores, temperatures)
    assert attended.dtype == dtype
    torch.testing.assert_close(
        attended.double(), attended_scores(scores.double(), temperatures), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.5, INF])
def test_whole_numbers_are_scores_like_others(temperature):
    whole = torch.tensor([[[[3, -1, 7, 7], [0, 0, 0, 0]]]])  # (B, H, C, N)
    real = whole.float()
    for compute in (
        lambda scores: attention_scores(scores, temperature),
        lambda scores: attended_scores(scores, [temperature]),
        lambda scores: csra_logits(scores, [temperature], 0.3),
        lambda scores: residual_max(scores[0], 0.3),
        lambda scores: logit_weights(scores, temperature, 0.3),
        lambda scores: gap_to_max(scores, temperature),
    ):
        assert torch.equal(compute(whole), compute(real))
        assert compute(whole).dtype == torch.float32


def test_under_autocast():
    features, weight = torch.randn(2, 16, 49), torch.randn(3 * 4, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = (weight @ features).unflatten(1, (3, 4))
        assert scores.dtype == torch.bfloat16
        logits = csra_logits(scores, [1.0, 50.0, INF], 0.2)
    torch.testing.assert_close(
        logits.double(), csra_logits(scores.double(), [1.0, 50.0, INF], 0.2), rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 1e4, 1e39, INF])
def test_no_overflow_and_finite_gradients(dtype, temperature):
    big = 6e4 if dtype is torch.float16 else 1e6
    scores = torch.tensor([[-big, 0.0, big, big], [1e-3, 0, 0, 0], [big, big, big, big], [0, 0, 0, 0]], dtype=dtype)
    scores = (scores / 4).view(1, 1, 4, 4).requires_grad_()
    logits = csra_logits(scores, [temperature], 0.5)
    assert torch.isfinite(logits).all()
    logits.sum().backward()
    assert torch.isfinite(scores.grad).all()
    # A step along the all-ones direction moves each logit by 1 + lam, so each map's gradient sums to that.
    torch.testing.assert_close(
        scores.grad.double().sum(-1), torch.full((1, 1, 4), 1.5, dtype=torch.float64), rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("temperatures", [[1.0, 2.0], [0.0, 5.0], [3.0, INF], [INF, INF]], ids=str)
def test_gradients_in_double_precision(temperatures):
    scores = torch.randn(2, 2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: csra_logits(s, temperatures, 0.7), scores)
    assert torch.autograd.gradcheck(lambda s: residual_max(s, 0.7), scores)
    if INF not in temperatures:
        assert torch.autograd.gradcheck(lambda s: attention_scores(s, temperatures[1]), scores)
        assert torch.autograd.gradgradcheck(lambda s: csra_logits(s, temperatures, 0.7), scores)


# ---- the gap to the maximum --------------------------------------------------------------------------------------


def test_the_bound_holds_on_thousands_of_maps():
    for seed in range(40):
        draw = torch.Generator().manual_seed(seed)
        locations = int(torch.randint(1, 400, (), generator=draw))
        spread = 10 ** torch.empty(200, 1, dtype=torch.float64).uniform_(-6, 4, generator=draw)
        scores = spread * torch.randn(200, locations, dtype=torch.float64, generator=draw)
        scores[:, 0] += spread[:, 0] * 5 * torch.rand(200, dtype=torch.float64, generator=draw)
        ranked = scores.sort(dim=-1, descending=True).values
        margin = ranked[:, 0] - ranked[:, 1] if locations > 1 else torch.zeros(200, dtype=torch.float64)
        for temperature in (1e-12, 1e-4, 0.1, 1.0, 7.0, 100.0, 1e6, 1e300, INF):
            gap, bound = gap_to_max(scores, temperature), gap_bound(margin, locations, temperature)
            assert (gap >= 0).all()
            assert (gap <= bound * (1 + 1e-9)).all(), (seed, temperature)


def holds(values, temperature):
    """Below the smallest normal number a softmax weight has few bits left, so the claim holds up to that number."""
    scores = torch.tensor(values, dtype=torch.float64)
    best, second = scores.topk(2).values
    gap = gap_to_max(scores, temperature)
    smallest = torch.finfo(scores.dtype).tiny
    assert 0 <= gap <= gap_bound(best - second, len(values), temperature) * (1 + 1e-9) + smallest
    mean_gap = float(scores.max() - scores.mean())
    assert gap <= mean_gap * (1 + 1e-9) + 1e-9  # the attended score is never below the mean


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30),
    st.floats(1e-12, 1e12) | st.sampled_from([1.0, INF, 1e-300, 1e300]),
)
def test_the_bound_holds_on_maps_that_try_to_break_it(values, temperature):
    holds(values, temperature)


@pytest.mark.parametrize(("values", "temperature"), [([0.0, 0.0, 740.5], 1.0), ([0.0, 1e-308], 1e300)])
def test_the_bound_where_weights_are_subnormal(values, temperature):
    scores = torch.tensor(values, dtype=torch.float64)
    assert 0 < attention_scores(scores, temperature).min() < 1  # nothing was flushed to zero
    holds(values, temperature)


def test_the_gap_is_the_maximum_less_the_attended_score():
    scores = torch.randn(3, 1, 4, 12, dtype=torch.float64)
    for temperature in (0.0, 1.0, 8.0, INF):
        gap = scores.amax(-1) - attended_scores(scores, temperature)
        torch.testing.assert_close(gap_to_max(scores, temperature), gap)
    assert (gap_to_max(scores, INF) == 0).all()
    assert gap_to_max(torch.tensor([1.5]), 2.0) == 0  # a single location is the maximum


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bound_falls_with_the_temperature_to_zero(dtype):
    margins = torch.tensor([0.0, 1e-9, 1e-3, 0.5, 2.0, 1e3, 1e30], dtype=dtype)
    ladder = [1e-40, 1e-9, 1e-3, 0.1, 1.0, 10.0, 1e3, 1e9, 1e39, INF]
    bounds = torch.stack([gap_bound(margins, 196, t) for t in ladder])
    assert torch.isfinite(bounds).all()
    assert (bounds >= 0).all()
    assert (bounds.diff(dim=0) <= 1e-6 * bounds[:-1]).all()
    assert (bounds[-1] == 0).all()
    assert (gap_bound(margins, 1, 3.0) == 0).all()  # one location has no gap
    assert (gap_bound(margins, 1, 1e-40) == 0).all()


def test_the_bound_is_met_by_two_levels():
    """One location a margin m above N - 1 equal ones, beyond the worst distance: the gap is the bound."""
    scores = torch.zeros(49, dtype=torch.float64)
    scores[7] = 1.0
    exact = 48 * math.exp(-20) / (1 + 48 * math.exp(-20))
    torch.testing.assert_close(gap_to_max(scores, 20.0).item(), exact, rtol=1e-12, atol=0)
    margin = torch.tensor(1.0, dtype=torch.float64)
    torch.testing.assert_close(gap_bound(margin, 49, 20.0).item(), exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize("temperature", [0.03, 1.0, 250.0])
@pytest.mark.parametrize("locations", [2, 3, 49, 784])
@pytest.mark.parametrize("scaled_margin", [0.0, 0.4, 0.999, 1.001, 3.0, 30.0])  # T m, as a multiple of 1 + W(n/e)
def test_the_bound_is_attained(scaled_margin, locations, temperature):
    others = locations - 1
    worst = 1.0  # x of x - 1 = n exp(-x), by bisection
    low, high = 1.0, 1.0 + others
    for _ in range(200):
        worst = (low + high) / 2
        low, high = (worst, high) if worst - 1 < others * math.exp(-worst) else (low, worst)
    margin = scaled_margin * worst / temperature
    scores = torch.full((locations,), -max(margin, worst / temperature), dtype=torch.float64)
    scores[0] = 0.0
    bound = gap_bound(torch.tensor(margin, dtype=torch.float64), locations, temperature)
    torch.testing.assert_close(gap_to_max(scores, temperature), bound, rtol=1e-12, atol=0)
    assert bound <= math.log(locations) / temperature  # the entropy bound, which needs no margin, is weaker


@pytest.mark.parametrize(("margin", "locations", "temperature"), [(0.0, 4, 1.0), (0.5, 9, 2.0), (2.0, 5, 3.0)])
def test_no_optimiser_finds_a_larger_gap(margin, locations, temperature):
    """Gradient ascent on all distances at once from many starts: it comes up to the bound, and not beyond."""
    torch.manual_seed(0)
    beyond = torch.rand(30, locations - 1, dtype=torch.float64).mul(6).requires_grad_()  # the margin
    optimiser = torch.optim.Adam([beyond], lr=0.05)
    for _ in range(600):
        below = torch.cat([torch.zeros(30, 1, dtype=torch.float64), margin + beyond], dim=1)
        gap = gap_to_max(-below, temperature)
        optimiser.zero_grad()
        (-gap).sum().backward()
        optimiser.step()
        beyond.data.clamp_(min=0)
    bound = gap_bound(torch.tensor(margin, dtype=torch.float64), locations, temperature).item()
    assert gap.max().item() <= bound * (1 + 1e-9)
    assert gap.max().item() >= bound * 0.999


def test_the_slope_in_the_temperature_is_the_variance():
    """dE/dT is the variance of the scores under the attention; at T = 0 that is their variance over the locations."""
    scores = torch.randn(5, 30, dtype=torch.float64)
    for temperature in (0.0, 0.5, 3.0):
        T = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
        attended = (torch.softmax(T * scores, dim=-1) * scores).sum(-1)
        slopes = torch.stack([torch.autograd.grad(e, T, retain_graph=True)[0] for e in attended])
        weights = attention_scores(scores, temperature)
        mean = (weights * scores).sum(-1, keepdim=True)
        torch.testing.assert_close(slopes, (weights * (scores - mean) ** 2).sum(-1))
    step = 1e-6
    rise = attended_scores(scores[:, None, None], step) - scores.mean(-1)[:, None, None]
    torch.testing.assert_close(rise.flatten() / step, scores.var(-1, correction=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 4.0, INF])
def test_the_gradient_that_reaches_each_location(temperature):
    """1/N + lam * a_k (1 + T (s_k - E)): the average reaches every location, the maximum one."""
    scores = torch.randn(1, 1, 1, 12, dtype=torch.float64, requires_grad=True)
    csra_logits(scores, [temperature], 0.3).sum().backward()
    s = scores.detach().flatten()
    weights = attention_scores(s, temperature)
    moved = 0 if math.isinf(temperature) else temperature * (s - (weights * s).sum())
    torch.testing.assert_close(scores.grad.flatten(), 1 / 12 + 0.3 * weights * (1 + moved))


def test_the_four_lines_of_half_precision_do_not_tie():
    scores = torch.randn(5000, 1, 49).bfloat16()
    logits = residual_max(scores, 0.1)
    assert torch.equal(logits, csra_logits(scores[:, None], math.inf, 0.1))
    assert len(logits.unique()) > 4900


# ---- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [-1.0, math.nan, -INF])
def test_temperatures_that_are_none(temperature):
    scores = torch.randn(2, 1, 3, 4)
    for call in (
        lambda: attention_scores(scores, temperature),
        lambda: csra_logits(scores, [temperature], 0.1),
        lambda: csra_logits(scores, [temperature], 0),
        lambda: attended_scores(scores, temperature),
        lambda: residual_weights(scores, temperature, 0.1),
        lambda: logit_weights(scores, temperature, 0.1),
        lambda: gap_to_max(scores, temperature),
        lambda: gap_bound(1.0, 4, temperature),
    ):
        with pytest.raises(CsraError, match=str(temperature)):
            call()


@pytest.mark.parametrize("lam", [0, 0.1])
def test_shapes_and_counts_are_named(lam):
    scores = torch.randn(2, 2, 3, 4)
    assert torch.equal(csra_logits(scores, np.array([1, INF]), lam), csra_logits(scores, [1.0, INF], lam))
    with pytest.raises(CsraError, match=r"\(2, 3, 4\)"):
        csra_logits(torch.randn(2, 3, 4), [1.0], lam)
    with pytest.raises(CsraError, match=r"3 temperatures.*2 heads"):
        csra_logits(torch.randn(2, 2, 3, 4), [1.0, 2.0, INF], lam)
    with pytest.raises(CsraError, match=r"1 temperatures.*2 heads"):
        csra_logits(torch.randn(2, 2, 3, 4), 1.0, lam)
    with pytest.raises(CsraError, match=r"\(3, 4\)"):
        residual_max(torch.randn(3, 4), lam)
    with pytest.raises(CsraError, match="0"):
        gap_bound(1.0, 4, 0.0)


@pytest.mark.parametrize("lam", [-1, -2.0, math.nan])
def test_weights_that_have_no_positive_sum_are_refused(lam):
    with pytest.raises(CsraError, match=f"{lam}"):
        residual_weights(torch.randn(3, 4), 1.0, lam)
