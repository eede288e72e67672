"""Claims measured together: against `compare`, at their limits, and by how often they hold."""

import math

import numpy as np
import pytest

from csra_lab.claims import Claim, measure_claims
from csra_lab.errors import CsraError
from csra_lab.metrics import average_precision
from csra_lab.significance import compare, weighted_mAP


@pytest.fixture(scope="module")
def methods():
    rng = np.random.default_rng(0)
    targets = (rng.random((150, 4)) < [0.4, 0.3, 0.1, 0.1]).astype(int)
    quality = {"a": 0.5, "b": 0.9, "c": 0.5, "d": 0.7}
    return {k: q * targets + rng.normal(size=(3, 150, 4)) for k, q in quality.items()}, targets


def test_one_claim_is_what_compare_measures(methods):
    scores, targets = methods
    (claim,) = measure_claims([Claim.difference("b", "a")], scores, targets, resamples=200)
    expected = compare(scores["a"], scores["b"], targets, resamples=200)
    assert (claim.difference, claim.lower, claim.upper) == pytest.approx(
        (expected.difference, expected.lower, expected.upper), abs=1e-12
    )
    assert claim.covers == "for other test images and seeds"
    assert claim.distinguishable == expected.distinguishable


def test_more_claims_are_wider_and_count_themselves(methods):
    scores, targets = methods
    pairs = [Claim.difference(b, "a") for b in "bcd"]
    together = measure_claims(pairs, scores, targets, resamples=200)
    (alone,) = measure_claims(pairs[:1], scores, targets, resamples=200)
    assert together[0].upper - together[0].lower > alone.upper - alone.lower
    assert {claim.claims for claim in together} == {3}


def test_an_interaction_is_the_difference_of_differences(methods):
    scores, targets = methods
    claims = [Claim.difference("b", "a"), Claim.difference("d", "c"), Claim.interaction("x", "b", "a", "d", "c")]
    first, second, both = measure_claims(claims, scores, targets, resamples=100)
    assert both.difference == pytest.approx(first.difference - second.difference, abs=1e-12)


def test_training_sets_that_move_the_gain_widen_it(methods):
    scores, targets = methods
    again = {k: np.repeat(scores[k][:1], 6, axis=0) for k in "ab"}
    again["b"] = again["b"] + np.linspace(-3, 3, 6)[:, None, None] * targets  # from worse than a to nearly perfect
    (plain,) = measure_claims([Claim.difference("b", "a")], scores, targets, resamples=100)
    (wide,) = measure_claims([Claim.difference("b", "a")], scores, targets, resampled=again, resamples=100)
    gains = weighted_mAP(again["b"], targets, np.ones((1, 150), int)) - weighted_mAP(
        again["a"], targets, np.ones((1, 150), int)
    )
    assert wide.run_error == pytest.approx(gains.std(ddof=1))
    assert (wide.difference, wide.image_error) == (plain.difference, plain.image_error)
    assert wide.upper > plain.upper
    assert "training images" in wide.verdict()


def test_training_sets_that_move_nothing_leave_the_interval_alone(methods):
    scores, targets = methods
    still = {k: np.repeat(scores[k][:1], 4, axis=0) for k in "ab"}
    claim = Claim.difference("b", "a")
    (found,) = measure_claims([claim], scores, targets, resampled=still, resamples=100)
    (plain,) = measure_claims([claim], scores, targets, resamples=100)
    assert found.run_error == pytest.approx(0, abs=1e-15)
    assert (found.lower, found.upper) == pytest.approx((plain.lower, plain.upper), abs=1e-12)


def test_mean_over_positives_weighs_classes_by_their_positives(methods):
    scores, targets = methods
    ap, counts = average_precision(scores["a"][0], targets, ap="average"), (targets == 1).sum(axis=0)
    found = weighted_mAP(scores["a"][0], targets, np.ones((1, 150), int), mean_over="positives")[0]
    assert found == pytest.approx((ap * counts).sum() / counts.sum(), abs=1e-12)
    both = [measure_claims([Claim.difference("b", "a")], scores, targets, mean_over=m, resamples=50)[0].difference
            for m in ("classes", "positives")]  # fmt: skip
    assert both[0] != both[1]


def test_intervals_hold_together_about_as_often_as_they_say():
    """Two equal methods against a third, 60 tables: both intervals hold 0 in at least 85 % of them (95 % is said)."""
    held = 0
    for table in range(60):
        rng = np.random.default_rng(table)
        targets = (rng.random((80, 2)) < 0.4).astype(int)
        skill = {k: targets + rng.normal(size=(1, 80, 2)) * 1.5 for k in "abc"}  # what a method does on these images
        scores = {k: s + 0.3 * rng.normal(size=(3, 80, 2)) for k, s in skill.items()}
        claims = [Claim.difference("b", "a"), Claim.difference("c", "a")]
        held += not any(c.distinguishable for c in measure_claims(claims, scores, targets, resamples=100))
    assert held >= 51


def test_a_claim_takes_the_samples_that_all_its_methods_have(methods):
    scores, targets = methods
    claims = [Claim.difference("b", "a")]
    fewer = {"a": scores["a"], "b": scores["b"][:2]}
    both = {label: each[:2] for label, each in fewer.items()}
    found, expected = (measure_claims(claims, scores, targets, resampled=r, resamples=50) for r in (fewer, both))
    assert found == expected


def test_wrong_input_is_one_sentence(methods):
    scores, targets = methods
    with pytest.raises(CsraError, match="'z', which has no scores"):
        measure_claims([Claim.difference("z", "a")], scores, targets)
    with pytest.raises(CsraError, match="must add up to 0"):
        Claim("a alone", (("a", 1.0),))
    with pytest.raises(CsraError, match="names no method"):
        Claim("nothing", ())
    for odd in (None, [[1, 0], [1]]):
        with pytest.raises(CsraError, match="targets must be numbers"):
            measure_claims([Claim.difference("b", "a")], scores, odd)
    with pytest.raises(CsraError, match="mean_over must be"):
        measure_claims([Claim.difference("b", "a")], scores, targets, mean_over="positive")
    with pytest.raises(CsraError, match="as many runs"):
        measure_claims([Claim.difference("b", "a")], scores | {"b": scores["b"][:2]}, targets)
    with pytest.raises(CsraError, match="at least 2"):
        measure_claims([Claim.difference("b", "a")], scores, targets, resampled={"a": scores["a"][:1]})


def test_what_is_no_number_of_intervals_is_refused():
    random = np.random.default_rng(0)
    scores = {name: random.random((2, 20, 3)) for name in "ab"}
    targets = (random.random((20, 3)) < 0.5).astype(int)
    claim = Claim.difference("b", "a")
    for wrong in (-1, 0, 0.01):
        with pytest.raises(CsraError, match="comparisons must be a whole number"):
            measure_claims([claim], scores, targets, comparisons=wrong, resamples=20)
    with pytest.raises(CsraError, match="must be finite"):
        measure_claims([Claim("x", (("a", math.nan), ("b", -1.0)))], scores, targets, resamples=20)
    with pytest.raises(CsraError, match="'a' needs scores"):
        measure_claims([claim], scores | {"a": scores["a"][0]}, targets, resamples=20)
