"""Every number against a slow literal loop written from its definition, and against other people's code."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score
from torchmetrics.functional.classification import binary_average_precision

from csra_lab.errors import CsraError
from csra_lab.metrics import average_precision, chance_average_precision, multilabel_metrics

DEFINITIONS = ["average", "voc11", "envelope"]
FRACTIONS = ["mAP", "CP", "CR", "CF1", "CF1_macro", "OP", "OR", "OF1"]


# ---- the definitions, literally ----------------------------------------------------------------------------------


def literal_ap(scores, targets, ap):
    """One class: walk down the thresholds, and write down precision and recall at each."""
    pairs = [(float(s), int(t)) for s, t in zip(scores, targets, strict=True) if t != -1]
    positives = sum(t == 1 for _, t in pairs)
    if positives == 0:
        return math.nan
    points = []  # (hits, precision), from the highest threshold to the lowest
    for threshold in sorted({s for s, _ in pairs}, reverse=True):
        taken = [t for s, t in pairs if s >= threshold]
        points.append((sum(taken), sum(taken) / len(taken)))
    if ap == "voc11":
        best = [max((p for hits, p in points if 10 * hits >= tenths * positives), default=0) for tenths in range(11)]
        return sum(best) / 11
    area, before = 0.0, 0
    for i, (hits, precision) in enumerate(points):
        height = precision if ap == "average" else max(p for _, p in points[i:])
        area += (hits - before) / positives * height
        before = hits
    return area


def literal_metrics(scores, targets, *, threshold=None, top_k=None, ap="average"):
    if threshold is None:
        threshold = 0.5 if top_k is None else 0.0
    num_images, num_classes = targets.shape
    predicted = [[False] * num_classes for _ in range(num_images)]
    for n in range(num_images):
        eligible = [c for c in range(num_classes) if targets[n, c] != -1]
        if top_k is None:
            chosen = [c for c in eligible if scores[n, c] >= threshold]
        else:
            best = sorted(eligible, key=lambda c: (-scores[n, c], c))[:top_k]
            chosen = [c for c in best if scores[n, c] >= threshold]
        for c in chosen:
            predicted[n][c] = True
    rows, sums = [], [0, 0, 0]
    for c in range(num_classes):
        correct = sum(predicted[n][c] and targets[n, c] == 1 for n in range(num_images))
        chosen = sum(predicted[n][c] for n in range(num_images))
        true = sum(targets[n, c] == 1 for n in range(num_images))
        sums = [sums[0] + correct, sums[1] + chosen, sums[2] + true]
        if true == 0:
            continue
        precision = correct / chosen if chosen else 0.0
        recall = correct / true
        rows.append((literal_ap(scores[:, c], targets[:, c], ap), precision, recall, harmonic(precision, recall)))
    mAP, CP, CR, CF1_macro = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    OP, OR = sums[0] / sums[1] if sums[1] else 0.0, sums[0] / sums[2]
    return dict(zip(FRACTIONS, [mAP, CP, CR, harmonic(CP, CR), CF1_macro, OP, OR, harmonic(OP, OR)], strict=True))


def harmonic(a, b):
    return 2 * a * b / (a + b) if a + b else 0.0


def assert_same_numbers(one, other):
    for name in [*FRACTIONS, "per_class_AP"]:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-12, err_msg=name)


def draw(seed, images=60, classes=7, *, levels=None, ignore=0.0):
    """Scores that know something of the targets; `levels` makes ties."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((images, classes)) < 0.25).astype(np.int64)
    scores = 1 / (1 + np.exp(-(rng.normal(size=targets.shape) + 1.5 * targets - 1)))
    if levels:
        scores = np.round(scores * levels) / levels
    targets[rng.random(targets.shape) < ignore] = -1
    return scores, targets


CASES = [
    pytest.param({}, id="plain"),
    pytest.param({"levels": 4}, id="ties"),
    pytest.param({"ignore": 0.3}, id="ignored"),
    pytest.param({"levels": 5, "ignore": 0.4}, id="ties and ignored"),
    pytest.param({"images": 4, "classes": 9, "levels": 3, "ignore": 0.2}, id="classes without a positive"),
]


@pytest.mark.parametrize(
    "options", [{}, {"threshold": 0.3}, {"top_k": 1}, {"top_k": 3}, {"top_k": 3, "threshold": 0.5}], ids=str
)
@pytest.mark.parametrize("ap", DEFINITIONS)
@pytest.mark.parametrize("case", CASES)
def test_every_number_is_the_literal_one(case, ap, options):
    for seed in range(3):
        scores, targets = draw(seed, **case)
        result = multilabel_metrics(scores, targets, ap=ap, **options)
        for name, value in literal_metrics(scores, targets, ap=ap, **options).items():
            assert getattr(result, name) == pytest.approx(value, abs=1e-12), name
        per_class = [literal_ap(scores[:, c], targets[:, c], ap) for c in range(targets.shape[1])]
        np.testing.assert_allclose(result.per_class_AP, per_class, atol=1e-12)


# ---- other people's code -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_average_precision_is_scikit_learns_and_torchmetrics(case):
    scores, targets = draw(11, **case)
    for c, value in enumerate(average_precision(scores, targets)):
        counted = targets[:, c] != -1
        if (targets[:, c] == 1).any():
            s, t = scores[counted, c], targets[counted, c]
            assert value == pytest.approx(average_precision_score(t, s), abs=1e-12)
            # torchmetrics works in float32
            assert value == pytest.approx(binary_average_precision(torch.tensor(s), torch.tensor(t)).item(), abs=1e-5)
        else:
            assert np.isnan(value)


def test_precision_recall_and_f1_are_scikit_learns():
    scores, targets = draw(12, images=200)
    scores[:, 2] = 0.1  # nothing of this class is predicted
    result, predicted = multilabel_metrics(scores, targets), scores >= 0.5
    for average, names in {"macro": ("CP", "CR", "CF1_macro"), "micro": ("OP", "OR", "OF1")}.items():
        for name, oracle in zip(names, (precision_score, recall_score, f1_score), strict=True):
            expected = oracle(targets, predicted, average=average, zero_division=0)
            assert getattr(result, name) == pytest.approx(expected, abs=1e-12)


# ---- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ap", DEFINITIONS)
def test_a_perfect_scorer_has_one_everywhere(ap):
    _, targets = draw(1)
    result = multilabel_metrics(targets.astype(float), targets, ap=ap)
    assert [getattr(result, name) for name in FRACTIONS] == pytest.approx([1.0] * len(FRACTIONS), abs=1e-12)


def test_the_three_definitions_on_an_example_worked_by_hand():
    # in order of the scores: 1 0 1 0 1, so that precision at the hits is 1, 2/3 and 3/5
    scores, targets = np.array([[0.9, 0.8, 0.7, 0.6, 0.5]]).T, np.array([[1, 0, 1, 0, 1]]).T
    assert average_precision(scores, targets)[0] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert average_precision(scores, targets, ap="envelope")[0] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert average_precision(scores, targets, ap="voc11")[0] == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11)
    # 0 1 1: precision rises from 1/2 to 2/3, and the envelope fills the first step up to 2/3
    scores, targets = np.array([[0.9, 0.8, 0.7]]).T, np.array([[0, 1, 1]]).T
    assert average_precision(scores, targets)[0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert average_precision(scores, targets, ap="envelope")[0] == pytest.approx(2 / 3)


def test_recall_three_tenths_is_reached_by_three_of_ten():
    # Three hits at the top, then ten misses, then the other seven hits: thresholds up to 3/10 see precision 1.
    targets = np.array([[1] * 3 + [0] * 10 + [1] * 7]).T
    scores = np.linspace(1, 0, 20)[:, None]
    assert average_precision(scores, targets, ap="voc11")[0] == pytest.approx((4 + 7 / 2) / 11)


def test_all_positives_last_is_the_least_there_is():
    images, positives = 10, 3
    targets = np.array([[0] * (images - positives) + [1] * positives]).T
    worst = np.mean([(i + 1) / (images - positives + i + 1) for i in range(positives)])
    assert average_precision(np.linspace(1, 0, images)[:, None], targets)[0] == pytest.approx(worst)


@pytest.mark.parametrize("ap", DEFINITIONS)
def test_equal_scores_give_the_share_of_positives(ap):
    targets = np.array([[1, 0, 0, 1, 0, -1]]).T
    assert average_precision(np.full((6, 1), 0.3), targets, ap=ap)[0] == pytest.approx(2 / 5)


@pytest.mark.parametrize("positives", range(1, 7))
def test_chance_is_the_mean_over_all_orders(positives):
    targets = np.array([[1] * positives + [0] * (6 - positives) + [-1]]).T
    orders = (np.array([[*order, 3]]).T for order in itertools.permutations(range(6)))
    by_hand = np.mean([average_precision(order, targets)[0] for order in orders])
    assert chance_average_precision(targets)[0] == pytest.approx(by_hand)


def test_chance_of_one_image_and_of_a_class_without_positives():
    assert chance_average_precision([[1, 0, -1]]) == pytest.approx([1, np.nan, np.nan], nan_ok=True)
    with pytest.raises(CsraError, match="must be 1, 0 or -1"):
        chance_average_precision([[2]])


@pytest.mark.parametrize("ap", DEFINITIONS)
def test_where_all_is_positive_ap_is_one_whatever_the_scores(ap):
    scores, targets = draw(2)
    np.testing.assert_allclose(average_precision(scores, np.ones_like(targets), ap=ap), 1)


def test_a_single_image():
    result = multilabel_metrics([[0.9, 0.2, 0.8]], [[1, 1, 0]])
    assert (result.mAP, result.CP, result.CR, result.OP, result.OR) == (1, 0.5, 0.5, 0.5, 0.5)
    assert result.excluded_classes == (2,)


def test_nothing_predicted_is_precision_zero():
    scores, targets = draw(3)
    result = multilabel_metrics(scores / 10, targets)
    assert (result.CP, result.CR, result.CF1, result.CF1_macro, result.OP, result.OR, result.OF1) == (0,) * 7
    assert result.mAP > 0.3  # the order of the images is as good as before


def test_the_two_f1s_differ():
    # One class found but over-predicted, one missed in part: the mean of the F1s is not the F1 of the means.
    result = multilabel_metrics([[0.9, 0.9], [0.9, 0.1], [0.9, 0.1]], [[1, 1], [0, 1], [0, 1]])
    assert pytest.approx(2 * (2 / 3) * (2 / 3) / (4 / 3)) == result.CF1
    assert pytest.approx(0.5) == result.CF1_macro


# ---- invariances -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"top_k": 2}])
@pytest.mark.parametrize("ap", DEFINITIONS)
def test_the_order_and_the_number_of_copies_of_the_images_do_not_matter(ap, options):
    scores, targets = draw(4, levels=6, ignore=0.1)
    result = multilabel_metrics(scores, targets, ap=ap, **options)
    shuffled = np.random.default_rng(0).permutation(len(scores))
    for order in (shuffled, np.tile(shuffled, 3)):
        assert_same_numbers(result, multilabel_metrics(scores[order], targets[order], ap=ap, **options))


@pytest.mark.parametrize("ap", DEFINITIONS)
def test_ap_looks_at_the_order_alone(ap):
    scores, targets = draw(5, levels=9, ignore=0.1)
    logits = np.arctanh(1.9 * scores - 0.95)
    np.testing.assert_array_equal(average_precision(logits, targets, ap=ap), average_precision(scores, targets, ap=ap))


def test_an_ignored_entry_may_hold_any_score():
    scores, targets = draw(6, ignore=0.3)
    other = np.where(targets == -1, np.random.default_rng(1).random(scores.shape), scores)
    for options in ({}, {"top_k": 3}):
        before, after = (multilabel_metrics(s, targets, **options) for s in (scores, other))
        assert_same_numbers(before, after)


def test_an_image_with_nothing_but_ignored_entries_changes_no_number():
    scores, targets = draw(7)
    empty = np.ones((1, 7)), np.full((1, 7), -1)
    after = multilabel_metrics(np.vstack([scores, empty[0]]), np.vstack([targets, empty[1]]))
    assert_same_numbers(multilabel_metrics(scores, targets), after)


def test_top_k_takes_the_first_of_equal_classes_and_passes_over_ignored_ones():
    scores = np.array([[0.4, 0.4, 0.4, 0.9]])
    assert multilabel_metrics(scores, [[0, 1, 1, -1]], top_k=2).OP == 0.5  # classes 0 and 1
    assert multilabel_metrics(scores, [[-1, 1, -1, -1]], top_k=3).OP == 1  # only class 1 is there to take


matrices = st.tuples(st.integers(1, 8), st.integers(1, 4)).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float32, shape, elements=st.floats(0, 1, width=16)),
        hnp.arrays(np.int8, shape, elements=st.sampled_from([-1, 0, 1])),
        st.sampled_from([None, 1, shape[1]]),
    )
)


@settings(max_examples=150, deadline=None)
@given(matrices, st.sampled_from(DEFINITIONS))
def test_small_arrays_of_every_kind(case, ap):
    scores, targets, top_k = case
    if not (targets == 1).any():
        with pytest.raises(CsraError):
            multilabel_metrics(scores, targets, top_k=top_k, ap=ap)
        return
    result = multilabel_metrics(scores, targets, top_k=top_k, ap=ap)
    for name, value in literal_metrics(scores, targets, top_k=top_k, ap=ap).items():
        assert getattr(result, name) == pytest.approx(value, abs=1e-9), name
        assert -1e-12 <= getattr(result, name) <= 1 + 1e-12
    assert (average_precision(scores, targets, ap="envelope") >= average_precision(scores, targets) - 1e-12)[
        (targets == 1).any(axis=0)
    ].all()


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32, list, torch.tensor])
def test_targets_of_other_types_mean_the_same(kind):
    scores, targets = draw(8)
    other = targets.tolist() if kind is list else kind(targets) if kind is torch.tensor else targets.astype(kind)
    assert multilabel_metrics(scores, other).to_dict() == multilabel_metrics(scores, targets).to_dict()


# ---- the result --------------------------------------------------------------------------------------------------


def test_a_class_without_a_positive_is_left_out_and_named():
    scores, targets = draw(9, classes=3)
    targets[:, 1] = np.where(targets[:, 1] == 1, -1, 0)
    result = multilabel_metrics(scores, targets, classes=["cat", "dog", "cup"])
    assert result.excluded_classes == ("dog",)
    assert np.isnan(result.per_class_AP).tolist() == [False, True, False]
    kept = multilabel_metrics(scores[:, [0, 2]], targets[:, [0, 2]])
    for name in ("mAP", "CP", "CR", "CF1", "CF1_macro", "OR"):
        assert getattr(result, name) == pytest.approx(getattr(kept, name))
    assert result.OP < kept.OP  # what was predicted of the dog is wrong, and the overall numbers say so


def test_to_dict_is_json_with_the_same_names():
    scores, targets = draw(10, images=3, classes=4)
    targets[:, 0], targets[0, 1] = 0, 1
    result = multilabel_metrics(scores, targets, top_k=2, ap="voc11", classes="abcd")
    found = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert set(FRACTIONS) < set(found)
    assert found["per_class_AP"][0] is None
    assert found["per_class_AP"][1] == result.per_class_AP[1]
    assert found["excluded_classes"][0] == "a"
    assert found["classes"] == list("abcd")
    assert (found["threshold"], found["top_k"], found["ap"], found["num_images"]) == (None, 2, "voc11", 3)


def test_the_result_cannot_be_changed():
    result = multilabel_metrics(*draw(13))
    with pytest.raises(AttributeError):
        result.mAP = 1.0
    with pytest.raises(ValueError, match="read-only"):
        result.per_class_AP[0] = 1.0


def test_the_arrays_that_came_in_are_as_they_were():
    scores, targets = draw(14, levels=4, ignore=0.2)
    copies = scores.copy(), targets.copy()
    multilabel_metrics(scores, targets, top_k=2, ap="envelope")
    np.testing.assert_array_equal(scores, copies[0])
    np.testing.assert_array_equal(targets, copies[1])


# ---- bad input ---------------------------------------------------------------------------------------------------

GOOD = np.array([[0.9, 0.1], [0.2, 0.8]])
HIT = np.array([[1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("scores", "targets", "options", "words"),
    [
        ([[0.9, np.nan], [0.2, 0.8]], HIT, {}, "image 0 and class 1 is nan"),
        ([[0.9, 0.1], [np.inf, 0.8]], HIT, {"classes": ["cat", "dog"]}, "image 1 and class cat is inf"),
        ([[0.9, 0.1], [0.2, 3.5]], HIT, {"classes": ["cat", "dog"]}, "class dog is 3.5.*apply a sigmoid"),
        ([[-0.5, 0.1], [0.2, 0.8]], HIT, {}, "class 0 is -0.5.*apply a sigmoid"),
        (GOOD, [[1, 0], [0, 2]], {}, "target of image 1 and class 1 is 2"),
        (GOOD, [[1, 0], [0, np.nan]], {}, "target of image 1 and class 1 is nan"),
        (GOOD, [[1, 0, 0], [0, 1, 0]], {}, r"\(2, 2\) and \(2, 3\)"),
        (GOOD[0], HIT[0], {}, r"must both be \(images, classes\)"),
        (np.zeros((0, 3)), np.zeros((0, 3)), {}, "nothing to measure"),
        (np.zeros((3, 0)), np.zeros((3, 0)), {}, "nothing to measure"),
        (GOOD, np.zeros((2, 2)), {}, "no target is 1"),
        (GOOD, HIT, {"threshold": 50}, "threshold must be .* not 50"),
        (GOOD, HIT, {"threshold": np.nan}, "threshold must be .* not nan"),
        (GOOD, HIT, {"top_k": 0}, "top_k must be .* not 0"),
        (GOOD, HIT, {"top_k": 3}, "top_k must be .* 2, not 3"),
        (GOOD, HIT, {"top_k": 1.5}, "top_k must be .* not 1.5"),
        (GOOD, HIT, {"ap": "voc12"}, "no average precision 'voc12'; choose average, voc11, envelope"),
        (GOOD, HIT, {"classes": ["cat"]}, "1 class names were given for 2 columns"),
    ],
)
def test_bad_input_is_one_sentence(scores, targets, options, words):
    with pytest.raises(CsraError, match=words) as error:
        multilabel_metrics(scores, targets, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ap", DEFINITIONS)
def test_many_scores_in_several_threads_are_each_class_alone(ap):
    rng = np.random.default_rng(0)
    scores = rng.random((4_100, 64)).astype(np.float32)
    targets = (rng.random(scores.shape) < 0.1).astype(np.int8)
    assert scores.size > 2**18
    alone = [average_precision(scores[:, [c]], targets[:, [c]], ap=ap)[0] for c in range(64)]
    assert average_precision(scores, targets, ap=ap).tolist() == alone


def test_tables_with_other_columns_are_refused_and_masked_labels_are_not_known():
    scores, targets = np.array([[0.9, 0.2], [0.1, 0.8], [0.6, 0.7]]), np.array([[1, 0], [0, 1], [1, 0]])
    table = pd.DataFrame(scores, columns=["a", "b"])
    with pytest.raises(CsraError, match="other names, or another order"):
        multilabel_metrics(table, pd.DataFrame(targets, columns=["b", "a"]))
    with pytest.raises(CsraError, match="columns are in another order"):
        multilabel_metrics(table, targets, classes=["b", "a"])
    assert multilabel_metrics(table, targets, classes=["cat", "dog"]).mAP == multilabel_metrics(scores, targets).mAP
    with pytest.raises(CsraError, match="some scores are masked"):
        multilabel_metrics(np.ma.masked_array(scores, mask=targets == 0), targets)
    labels = pd.DataFrame(targets, columns=["a", "b"])
    named = table.set_axis(["x", "y", "z"])  # the names of images
    for mine, other in ((table, labels[::-1]), (table[::-1], labels), (named, labels.set_axis(["z", "y", "x"]))):
        with pytest.raises(CsraError, match="rows of scores and targets"):
            multilabel_metrics(mine, other)
    assert multilabel_metrics(named, labels).mAP == multilabel_metrics(scores, targets).mAP  # one has no names
    same = multilabel_metrics(table, labels)
    assert same.mAP == multilabel_metrics(scores, targets).mAP
    masked = np.ma.masked_array(targets, mask=[[0, 0], [0, 0], [0, 1]])
    unknown = targets.copy()
    unknown[2, 1] = -1
    assert multilabel_metrics(scores, masked).mAP == multilabel_metrics(scores, unknown).mAP == 1
    with pytest.raises(CsraError, match="threshold must be"):
        multilabel_metrics(scores, targets, threshold="0.5")
