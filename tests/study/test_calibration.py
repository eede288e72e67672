"""Calibration on labels whose probabilities are known."""

import numpy as np
import pytest

from csra_lab.errors import CsraError
from csra_lab.study.calibration import (
    calibration,
    calibration_error,
    fit_scale_and_shift,
    fit_temperature,
    log_loss,
)


def labels(scale, n=40000, seed=0):
    """(n, 1) logits that are `scale` times too large, and labels drawn from the right ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, size=(n, 1))
    return scale * logits, (rng.random((n, 1)) < 1 / (1 + np.exp(-logits))).astype(np.int8)


def test_error_of_a_constant_is_its_distance_and_unknown_labels_do_not_count():
    targets = np.array([[1], [0], [0], [0], [-1]])
    assert calibration_error(np.full((5, 1), 0.65), targets) == pytest.approx(0.4)
    assert calibration_error(targets.clip(0), targets) == 0
    assert calibration_error(np.array([[1.0]]), np.array([[1]])) == 0  # the last bin holds 1


@pytest.mark.parametrize(
    ("scores", "target", "words"), [(2.0, 1, "apply a sigmoid"), (0.5, -1, "no label is known"), (np.nan, 1, "finite")]
)
def test_what_is_no_probability_has_no_error(scores, target, words):
    with pytest.raises(CsraError, match=words):
        calibration_error([[scores]], [[target]])


@pytest.mark.parametrize("fit", [fit_temperature, fit_scale_and_shift])
@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([[0, 0], [0, -1]], "all 3 known labels are absent"),
        ([[1, 1], [1, 1]], "all 4 known labels are present"),
        ([[-1, -1], [-1, -1]], "no label is known"),
        ([[1], [0]], r"not \(2, 2\) and \(2, 1\)"),
    ],
)
def test_what_no_scale_can_be_fitted_to_is_one_sentence(fit, targets, words):
    with pytest.raises(CsraError, match=words):
        fit([[0.1, 2.0], [-1.0, 3.0]], targets)


@pytest.mark.parametrize(("targets", "words"), [([[-1, -1]], "no label is known"), ([[1]], "must both be")])
def test_a_log_loss_of_nothing_is_one_sentence(targets, words):
    with pytest.raises(CsraError, match=words):
        log_loss([[0.1, 2.0]], targets)


def test_bins_are_summed_by_hand():
    rng = np.random.default_rng(0)
    p, y = rng.random((50, 4)), rng.integers(-1, 2, (50, 4))
    total, count = 0.0, (y >= 0).sum()
    for b in range(15):
        inside = (y >= 0) & (p >= b / 15) & (p < (b + 1) / 15)
        if inside.any():
            total += inside.sum() / count * abs(p[inside].mean() - (y[inside] == 1).mean())
    assert calibration_error(p, y) == pytest.approx(total)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_is_the_factor_that_is_wrong(scale):
    logits, targets = labels(scale)
    assert fit_temperature(logits, targets) == pytest.approx(scale, rel=0.05)
    others, others_targets = labels(scale, seed=1)
    found = calibration(logits, targets, others, others_targets)
    assert found["ece_scaled"] < 0.01
    assert found["log_loss_scaled"] <= found["log_loss"] + 1e-3
    assert (found["ece"] > 0.02) == (scale != 1)


def test_log_loss_is_finite_where_logits_are_huge():
    assert log_loss([[1e4, -1e4]], [[1, 0]]) == 0
    assert log_loss([[1e4, 0.0]], [[0, -1]]) == 1e4


def test_a_shift_that_no_temperature_mends_is_found():
    logits, targets = labels(2.0)
    scale, shift = fit_scale_and_shift(logits + 3, targets)
    assert (scale, shift) == pytest.approx((0.5, -1.5), rel=0.06)
    others, others_targets = labels(2.0, seed=1)
    found = calibration(logits + 3, targets, others + 3, others_targets)
    assert found["ece_shifted"] < 0.01 < 0.1 < found["ece_scaled"]
