"""The bootstrap against resamples that are written out, and the intervals against the truth of simulated methods."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from csra_lab.errors import CsraError
from csra_lab.metrics import average_precision, multilabel_metrics
from csra_lab.significance import (
    bootstrap_mAP,
    compare,
    critical_t,
    draw_images,
    image_interval,
    seed_spread,
    weighted_mAP,
)


def draw(seed, arrays=2, images=40, classes=5, *, levels=None, ignore=0.0, prevalence=0.25):
    """Probabilities (arrays, images, classes) that know something of the targets; `levels` makes ties."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((images, classes)) < prevalence).astype(np.int64)
    scores = 1 / (1 + np.exp(-(rng.normal(size=(arrays, images, classes)) + 1.5 * targets - 1)))
    if levels:
        scores = np.round(scores * levels) / levels
    targets[rng.random(targets.shape) < ignore] = -1
    targets[0, 0] = 1
    return scores, targets


CASES = [
    pytest.param({}, id="plain"),
    pytest.param({"levels": 4}, id="ties"),
    pytest.param({"levels": 1}, id="hardly anything but ties"),
    pytest.param({"ignore": 0.3}, id="ignored"),
    pytest.param({"levels": 5, "ignore": 0.4}, id="ties and ignored"),
    pytest.param({"prevalence": 0.03, "classes": 30, "levels": 9, "ignore": 0.1}, id="classes without a positive"),
]


# ---- the mAP of a resample, literally ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_resample_is_the_metric_of_its_rows_written_out(case):
    scores, targets = draw(1, **case)
    weights = draw_images(len(targets), resamples=25, seed=3)
    weights[:, 0] += 1  # image 0 has a positive, so that no resample is without
    result = weighted_mAP(scores, targets, weights)
    assert result.shape == (2, 25)
    for r, row in enumerate(weights):
        rows = np.repeat(np.arange(len(targets)), row)
        for s in range(2):
            assert result[s, r] == pytest.approx(multilabel_metrics(scores[s, rows], targets[rows]).mAP, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_all_weights_one_is_the_metric(case, kind):
    scores, targets = draw(2, **case)
    scores = scores.astype(kind)
    result = weighted_mAP(scores, targets, np.ones((1, len(targets)), dtype=int))[:, 0]
    assert result == pytest.approx([multilabel_metrics(each, targets).mAP for each in scores], abs=1e-12)


def test_only_the_weights_ratios_and_the_scores_order_matter():
    scores, targets = draw(3, levels=6, ignore=0.1)
    weights = draw_images(40, resamples=20) + np.uint16(1)
    expected = weighted_mAP(scores, targets, weights)
    np.testing.assert_allclose(weighted_mAP(scores, targets, 3 * weights), expected, atol=1e-12)
    np.testing.assert_allclose(weighted_mAP(1000 * scores**3 - 7, targets, weights), expected, atol=1e-12)
    images = np.random.default_rng(0).permutation(40)
    there = weighted_mAP(scores[:, images], targets[images], weights[:, images])
    np.testing.assert_allclose(there, expected, atol=1e-12)


def test_resamples_go_through_in_blocks_and_come_out_as_one_by_one():
    scores, targets = draw(4, images=20_000, classes=1, arrays=1, prevalence=0.01, levels=500)
    weights = draw_images(20_000, resamples=60)
    one_by_one = [weighted_mAP(scores, targets, row[None])[0, 0] for row in weights]
    assert weighted_mAP(scores, targets, weights)[0] == pytest.approx(one_by_one, abs=1e-12)


# ---- the draws ---------------------------------------------------------------------------------------------------


def test_draws_are_of_n_images_with_replacement():
    weights = draw_images(50, resamples=4000, seed=1)
    assert (weights.sum(axis=1) == 50).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.08)
    assert weights.var() == pytest.approx(1 - 1 / 50, rel=0.02)  # binomial
    assert (weights == draw_images(50, resamples=4000, seed=1)).all()
    assert (weights != draw_images(50, resamples=4000, seed=2)).any()


def test_groups_are_drawn_whole():
    groups = np.array(["b", "a", "b", "c", "a", "b", "d"])
    weights = draw_images(7, groups=groups, resamples=200)
    for name in "abcd":
        assert (weights[:, groups == name] == weights[:, groups == name][:, :1]).all()
    firsts = [groups.tolist().index(name) for name in "abcd"]
    assert (weights[:, firsts].sum(axis=1) == 4).all()


def test_copies_of_an_image_in_one_group_tell_nothing_new():
    scores, targets = draw(5, levels=20, ignore=0.1)
    copies = np.tile(np.arange(40), 3)
    once = bootstrap_mAP(scores, targets, resamples=50)
    np.testing.assert_allclose(
        bootstrap_mAP(scores[:, copies], targets[copies], groups=copies, resamples=50), once, atol=1e-12
    )
    a, b, targets = methods(np.random.default_rng(5), seeds=3, images=40)
    more, their = [each[:, copies] for each in (a, b)], targets[copies]
    singly, fooled = compare(a, b, targets, resamples=200), compare(*more, their, resamples=200)
    grouped = compare(*more, their, groups=copies, resamples=200)
    for name in ["difference", "lower", "upper", "image_error", "seed_error", "sd_difference"]:
        assert getattr(grouped, name) == pytest.approx(getattr(singly, name), abs=1e-12), name
    assert (grouped.images, grouped.groups, singly.groups) == (120, 40, None)
    assert fooled.image_error < 0.75 * grouped.image_error  # about 1/sqrt(3)
    assert replace(compare(a, b, targets, groups=np.arange(40), resamples=200), groups=None) == singly


def test_every_array_sees_the_same_draws():
    scores, targets = draw(6)
    both = bootstrap_mAP(scores, targets, resamples=80, seed=5)
    assert both.shape == (2, 80)
    for s in range(2):
        alone = bootstrap_mAP(scores[s], targets, resamples=80, seed=5)
        assert alone.shape == (80,)
        assert alone.tolist() == both[s].tolist()


# ---- is a difference real? ---------------------------------------------------------------------------------------


def methods(rng, *, seeds=5, images=120, classes=2, gap=0.0, seed_spread=0.0, shared=0.0, noise=0.4):
    """Scores of two methods, (seeds, images, classes) each, and targets.

    Args:
        gap: how much better b sees the classes.
        seed_spread: how far seeds move that; `shared` is what both methods' runs of a seed have in common.
        noise: what each run adds to each image by itself: seeds differ on finite images, though none is better.
    """
    targets = (rng.random((images, classes)) < 0.25).astype(int)
    targets[0] = 1
    hard, common = rng.normal(size=(images, classes)), shared * rng.normal(size=(seeds, 1, 1))
    sides = []
    for extra in (0.0, gap):
        sight = 1.3 + extra + common + seed_spread * rng.normal(size=(seeds, 1, 1))
        own = 0.5 * rng.normal(size=(images, classes))
        sides.append(sight * targets + hard + own + noise * rng.normal(size=(seeds, images, classes)))
    return *sides, targets


SIMULATIONS = [
    pytest.param({"images": 250}, id="images only"),
    pytest.param({"seed_spread": 0.4, "noise": 0.1}, id="mostly seeds"),
    pytest.param({"seed_spread": 0.2, "seeds": 3}, id="three seeds"),
    pytest.param({"seed_spread": 0.15, "gap": 0.6}, id="a true difference"),
]


@pytest.mark.parametrize("options", SIMULATIONS)
def test_the_interval_holds_the_truth_95_times_in_100(options):
    trials, rng, truth = 200, np.random.default_rng(7), 0.0
    if "gap" in options:  # the mean over 800 draws of seeds, images and all
        alike = (methods(rng, **options | {"seeds": 1, "classes": 10}) for _ in range(800))
        truth = np.mean([multilabel_mAP(b[0], targets) - multilabel_mAP(a[0], targets) for a, b, targets in alike])
        assert truth > 0.1
    found = [compare(*methods(rng, **options), resamples=60, seed=trial) for trial in range(trials)]
    held = np.mean([each.lower <= truth <= each.upper for each in found])
    assert 0.92 <= held <= 0.99  # the standard error of 0.95 is 0.015 here; the method may hold a little more
    if truth == 0:
        assert sum(each.distinguishable for each in found) == round(trials * (1 - held))
    # The error is the differences' own deviation: no part is counted twice or forgotten.
    error = math.sqrt(np.mean([each.image_error**2 + each.seed_error**2 for each in found]))
    assert error == pytest.approx(np.std([each.difference for each in found]), rel=0.12)
    if options.get("seed_spread", 0) >= 0.2:  # the images alone would not do
        assert np.mean([abs(each.difference - truth) < 1.96 * each.image_error for each in found]) < 0.85


def test_twenty_comparisons_of_equals_are_rarely_anything_but_equal():
    rng, tables, found = np.random.default_rng(8), 10, []
    for _ in range(tables):
        cells = [methods(rng, images=80, classes=2, seed_spread=0.3, noise=0.1) for _ in range(20)]
        found.append(any(compare(*cell, resamples=50, comparisons=20).distinguishable for cell in cells))
    assert sum(found) <= 2  # 5 in 100 tables; uncorrected it would be 2 in 3


def test_the_seeds_part_is_what_drawing_the_seeds_gives_with_its_loss_made_good():
    a, b, targets = methods(np.random.default_rng(1), seeds=4, seed_spread=0.6, noise=0.0)
    result = compare(a, b, targets)
    differences = [multilabel_mAP(y, targets) - multilabel_mAP(x, targets) for x, y in zip(a, b, strict=True)]
    assert result.difference == pytest.approx(np.mean(differences), abs=1e-12)
    assert result.sd_difference == pytest.approx(np.std(differences, ddof=1), abs=1e-12)
    drawn = np.random.default_rng(2).choice(differences, size=(100_000, 4)).mean(axis=1)
    assert drawn.std() * math.sqrt(4 / 3) == pytest.approx(np.std(differences, ddof=1) / 2, rel=0.02)
    assert result.seed_error == pytest.approx(np.std(differences, ddof=1) / 2, abs=1e-12)


def test_the_images_part_is_what_moves_all_seeds_together():
    a, b, targets = methods(np.random.default_rng(1), seeds=3, noise=0.8)
    result = compare(a, b, targets, resamples=300, seed=4)
    drawn = [
        [
            multilabel_mAP(y[rows], targets[rows]) - multilabel_mAP(x[rows], targets[rows])
            for x, y in zip(a, b, strict=True)
        ]
        for rows in (np.repeat(np.arange(120), row) for row in draw_images(120, resamples=300, seed=4))
    ]
    # two seeds share nothing but the images: the mean covariance of different seeds' differences over the draws
    covariance = np.cov(np.transpose(drawn))  # (3, 3)
    together = covariance[~np.eye(3, dtype=bool)].mean()
    assert result.image_error**2 == pytest.approx(together * 120 / 119, rel=1e-9)


def multilabel_mAP(scores, targets):
    return float(average_precision(scores, targets).mean())


@pytest.mark.parametrize("comparisons", [1, 6])
def test_the_interval_for_other_images_is_students_for_a_mean(comparisons):
    values = np.random.default_rng(3).normal(1, 2, size=12)
    drawn = draw_images(12, resamples=20_000) @ values / 12
    found = image_interval(values.mean(), drawn, units=12, comparisons=comparisons)
    expected = stats.t.interval(1 - 0.05 / comparisons, 11, values.mean(), stats.sem(values))
    assert found == pytest.approx(expected, abs=0.03)


def test_identical_methods_are_not_distinguishable():
    a, _, targets = methods(np.random.default_rng(3), seed_spread=0.3)
    result = compare(a, a, targets, resamples=100)
    assert (result.difference, result.lower, result.upper) == (0, 0, 0)
    assert result.verdict() == "CSRA and average pooling are not distinguishable (0.0 to 0.0 points of mAP)."
    assert compare(a, 5 * a + 1, targets, resamples=100).lower == 0  # the same order
    unpaired = compare(a, a[::-1], targets, resamples=100, paired_seeds=False)
    assert not unpaired.distinguishable
    assert unpaired.seed_error > 0


def test_a_large_difference_is_found_and_has_a_sign():
    a, b, targets = methods(np.random.default_rng(4), gap=2.0, seed_spread=0.1)
    better, worse = compare(a, b, targets, resamples=200), compare(b, a, targets, resamples=200)
    assert better.lower > 0.1
    assert better.verdict("b", "a").startswith("b is better than a by ")
    assert worse.verdict("a", "b").startswith("a is worse than b by ")
    assert (worse.lower, worse.upper) == pytest.approx((-better.upper, -better.lower))
    assert (worse.sd_a, worse.sd_b, worse.mAP_a) == (better.sd_b, better.sd_a, better.mAP_b)


def test_paired_seeds_see_through_what_they_share():
    a, b, targets = methods(np.random.default_rng(5), seeds=6, shared=0.6, seed_spread=0.02, gap=0.4, noise=0.05)
    paired = compare(a, b, targets, resamples=200)
    unpaired = compare(a, b, targets, resamples=200, paired_seeds=False)
    assert paired.difference == pytest.approx(unpaired.difference, abs=1e-12)
    assert paired.image_error == pytest.approx(unpaired.image_error, rel=0.1)
    assert paired.seed_error < 0.3 * unpaired.seed_error
    assert unpaired.sd_difference == pytest.approx(math.hypot(unpaired.sd_a, unpaired.sd_b))
    more = compare(a, b[:3], targets, resamples=200, paired_seeds=False)
    assert (more.seeds_a, more.seeds_b, more.images, more.resamples) == (6, 3, 120, 200)


def test_more_comparisons_widen_the_interval():
    a, b, targets = methods(np.random.default_rng(6), gap=0.5, seed_spread=0.1)
    found = {k: compare(a, b, targets, resamples=200, comparisons=k) for k in (1, 5, 20, 1000)}
    for k, result in found.items():
        # 200 draws of 120 images; 5 seeds
        t_images, t_seeds = (stats.t.isf(0.05 / k / 2, df) for df in (1 / (1 / 199 + 1 / 119), 4))
        half = math.hypot(t_images * result.image_error, t_seeds * result.seed_error)
        assert (result.lower, result.upper) == pytest.approx((result.difference - half, result.difference + half))
    assert found[1].distinguishable
    assert not found[1000].distinguishable


@pytest.mark.parametrize(
    ("lower", "upper", "sentence"),
    [
        (0.0187, 0.0341, "CSRA is better than average pooling by 1.9 to 3.4 points of mAP."),
        (-0.0341, -0.0187, "CSRA is worse than average pooling by 1.9 to 3.4 points of mAP."),
        (-0.004, 0.006, "CSRA and average pooling are not distinguishable (-0.4 to 0.6 points of mAP)."),
        (0.0003, 0.02, "CSRA is better than average pooling by 0.03 to 2.00 points of mAP."),
        (-0.02, 0.00004, "CSRA and average pooling are not distinguishable (-2.000 to 0.004 points of mAP)."),
        (-1e-9, 0.01, "CSRA and average pooling are not distinguishable (0.000 to 1.000 points of mAP)."),
    ],
)
def test_the_verdict_is_one_sentence(lower, upper, sentence):
    a, b, targets = methods(np.random.default_rng(0), images=30)
    assert replace(compare(a, b, targets, resamples=10), lower=lower, upper=upper).verdict() == sentence


def test_a_comparison_is_json():
    a, b, targets = methods(np.random.default_rng(0), images=30)
    result = compare(a.astype(np.float32), b, targets, groups=np.arange(30) // 2, resamples=np.int64(20))
    assert type(result)(**json.loads(json.dumps(result.to_dict()))) == result
    assert result.groups == 15


# ---- the spread of seeds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99999])
@pytest.mark.parametrize("seeds", [2, 3, 5, 40, 3000])
def test_the_spread_of_seeds_is_students(seeds, confidence):
    mAPs = np.random.default_rng(seeds).normal(0.6, 0.01, size=seeds)
    spread = seed_spread(mAPs, confidence=confidence)
    assert spread.mean == pytest.approx(mAPs.mean())
    assert spread.standard_deviation == pytest.approx(mAPs.std(ddof=1))
    interval = stats.t.interval(confidence, seeds - 1, loc=mAPs.mean(), scale=stats.sem(mAPs))
    assert (spread.lower, spread.upper) == pytest.approx(interval, rel=1e-9)
    assert (spread.seeds, spread.confidence) == (seeds, confidence)


# ---- bad input ---------------------------------------------------------------------------------------------------

SCORES, TARGETS = draw(8, arrays=3, images=12)
NAN = np.where(np.arange(36).reshape(3, 12, 1) == 17, np.nan, SCORES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": SCORES[:, :5]}, r"b\[0\]: scores and targets must both be \(images, classes\), not \(5, 5\)"),
        ({"b": NAN}, r"b\[1\]: the score of image 5 and class 0 is nan"),
        ({"a": SCORES[:1], "b": SCORES[:1]}, "one run cannot show how far seeds move mAP: train 5 seeds"),
        ({"a": SCORES[0]}, "a holds 1 and b 3 runs, and one run cannot"),
        ({"a": SCORES[0, 0]}, r"a must be \(seeds, images, classes\)"),
        ({"a": SCORES[:0]}, r"a must be \(seeds, images, classes\) with at least one of each, not \(0, 12, 5\)"),
        ({"a": [SCORES[0], SCORES[1, :4]]}, "a must be numbers, and as many of them for each seed"),
        ({"a": SCORES[:2]}, "2 seeds of a cannot be paired with 3 of b; pass paired_seeds=False"),
        ({"targets": 0 * TARGETS}, "no target is 1"),
        ({"targets": TARGETS + 5}, r"a\[0\]: the target of image 0 and class 0 is 6"),
        ({"groups": np.arange(4)}, "groups must hold one id for each of 12 images"),
        ({"groups": np.zeros(12)}, "draws need at least 2 groups, and there is 1"),
        ({"groups": np.array([*range(11), "a"], dtype=object)}, "groups must be ids of one kind"),
        ({"seed": -1}, "seed must be a whole number from 0, not -1"),
        ({"resamples": 1}, "resamples must be a whole number from 2, not 1"),
        ({"resamples": 10.5}, "resamples must be a whole number from 2, not 10.5"),
        ({"comparisons": 0}, "comparisons must be a whole number from 1, not 0"),
        ({"confidence": "0.95"}, "confidence must lie between 0 and 1, for instance 0.95, not '0.95'"),
        ({"confidence": 95}, "confidence must lie between 0 and 1, for instance 0.95, not 95"),
        ({"targets": np.eye(12, 5, dtype=int) * (np.arange(5) == 0)}, "a draw of the images holds no positive"),
    ],
)
def test_bad_input_is_said_in_one_sentence(change, message):
    given = {"a": SCORES, "b": SCORES, "targets": TARGETS, "resamples": 20} | change
    with pytest.raises(CsraError, match=message) as error:
        compare(given.pop("a"), given.pop("b"), given.pop("targets"), **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("weights", [np.ones(12, int), np.ones((2, 11), int), np.ones((2, 12)), -np.ones((2, 12), int)])
def test_weights_that_do_not_fit(weights):
    with pytest.raises(CsraError, match=r"weights must be whole numbers from 0, \(draws, 12 images\)"):
        weighted_mAP(SCORES, TARGETS, weights)


@pytest.mark.parametrize("mAPs", [[0.5], [0.5, math.nan], [[0.5, 0.6]], []])
def test_no_spread_of_one_run_or_of_a_failed_one(mAPs):
    with pytest.raises(CsraError, match="at least 2 finite mAPs"):
        seed_spread(mAPs)


@pytest.mark.parametrize("comparisons", [1, 20, 400])
def test_quantiles_of_t_are_those_of_closed_forms_and_of_its_density(comparisons):
    alpha = 0.05 / comparisons
    assert critical_t(0.95, comparisons, 1) == pytest.approx(1 / math.tan(math.pi * alpha / 2), rel=1e-8)
    p = 1 - alpha / 2  # for 2 degrees of freedom
    assert critical_t(0.95, comparisons, 2) == pytest.approx((2 * p - 1) / math.sqrt(2 * p * (1 - p)), rel=1e-8)
    for freedom in (4, 4.5, 30, 1048):  # twice the integral of the density from t on
        t, x = critical_t(0.95, comparisons, freedom), np.logspace(-8, 5, 200_001)
        constant = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(math.pi * freedom) / 2
        density = np.exp(constant - (freedom + 1) / 2 * np.log1p((t + x) ** 2 / freedom))
        assert 2 * np.trapezoid(density, x) == pytest.approx(alpha, rel=1e-5)


def test_targets_mean_the_same_as_for_average_precision():
    """Masked ones are not known, tables must have the same columns, and tensors may need gradients."""
    rng = np.random.default_rng(0)
    scores, targets = rng.random((2, 60, 3)), (rng.random((60, 3)) < 0.4).astype(int)
    masked = np.ma.masked_array(targets, mask=rng.random((60, 3)) < 0.3)
    unknown, once = masked.filled(-1), np.ones((1, 60), int)
    assert (weighted_mAP(scores, masked, once) == weighted_mAP(scores, unknown, once)).all()
    assert (weighted_mAP(scores, masked, once) != weighted_mAP(scores, targets, once)).all()
    assert compare(scores, scores[::-1], masked).to_dict() == compare(scores, scores[::-1], unknown).to_dict()
    tensor = torch.from_numpy(scores).requires_grad_()
    assert (bootstrap_mAP(tensor, targets, resamples=5) == bootstrap_mAP(scores, targets, resamples=5)).all()
    tables = pd.DataFrame(scores[0], columns=list("abc")), pd.DataFrame(targets, columns=list("abc"))
    assert weighted_mAP(*tables, once) == weighted_mAP(scores[0], targets, once)
    with pytest.raises(CsraError, match="other names"):
        weighted_mAP(tables[0], tables[1][["b", "a", "c"]], once)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean_over": "class"}, "mean_over must be classes or positives, not 'class'"),
        ({"weights": np.full((1, 60), 10**9)}, "too large to count 60 images"),
        ({"targets": -1}, "no target is 0"),
    ],
)
def test_what_would_mean_something_else_is_refused(change, message):
    scores = np.random.default_rng(0).random((60, 3))
    targets = np.where(scores > 0.5, 1, change.pop("targets", 0))
    with pytest.raises(CsraError, match=message):
        weighted_mAP(scores, targets, **{"weights": np.ones((1, 60), int)} | change)


def test_groups_that_are_not_known_are_refused():
    for groups in ([1.0, np.nan, 2.0], pd.Series(["a", pd.NA, "b"], dtype="string")):
        with pytest.raises(CsraError, match="some are NaN"):
            draw_images(3, groups=groups)


def test_tables_in_another_order_are_not_compared():
    tables = [pd.DataFrame(run, columns=list("abcde")) for run in SCORES]
    for other in ([t[list("ebcda")] for t in tables], [*tables[:2], tables[2][::-1]]):
        for pair in ((tables, other), (other, tables)):
            with pytest.raises(CsraError, match="in another order; give all alike"):
                compare(*pair, TARGETS, resamples=20)
    assert compare(tables, tables, TARGETS, resamples=20) == compare(SCORES, SCORES, TARGETS, resamples=20)


def test_runs_may_be_tensors_with_gradients():
    runs = [torch.tensor(run, requires_grad=True) for run in SCORES]
    assert compare(runs, SCORES, TARGETS, resamples=20).difference == 0
