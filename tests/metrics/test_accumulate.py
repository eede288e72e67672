"""The metric object against `multilabel_metrics` on all images at once."""

import numpy as np
import pytest

from csra_lab.errors import CsraError
from csra_lab.metrics import MultilabelMetrics, average_precision, multilabel_metrics
from csra_lab.metrics.accumulate import MAX_LOGIT, histograms

OPTIONS = [
    {},
    {"top_k": 2, "threshold": 0.3},
    {"top_k": 2},
    {"ap": "voc11"},
    {"ap": "envelope", "classes": list("abcde")},
]


def draw(seed=0, images=97, classes=5):
    rng = np.random.default_rng(seed)
    targets = rng.integers(-1, 2, (images, classes))
    scores = 1 / (1 + np.exp(-(1.5 * targets + 2 * rng.normal(size=targets.shape))))
    return np.round(scores, 3), targets  # rounded: some scores tie


def fill(metric, scores, targets, size=10):
    for i in range(0, len(scores), size):
        metric.update(scores[i : i + size], targets[i : i + size])
    return metric


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_batches_are_the_whole(options):
    scores, targets = draw()
    whole = multilabel_metrics(scores, targets, **options)
    for size in (1, 10, 97):
        assert fill(MultilabelMetrics(5, **options), scores, targets, size).compute().to_dict() == whole.to_dict()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_bins_change_nothing_but_ties(options):
    """All counts are exact; AP is that of the scores rounded to bins."""
    scores, targets = draw()
    whole = multilabel_metrics(scores, targets, **options).to_dict()
    binned = fill(MultilabelMetrics(5, bins=64, **options), scores, targets).compute().to_dict()
    for name in whole.keys() - {"mAP", "per_class_AP"}:
        assert binned[name] == whole[name]
    with np.errstate(divide="ignore"):
        rounded = np.floor((np.log(scores / (1 - scores)) / (2 * MAX_LOGIT) + 0.5).clip(0, 1) * 64).clip(max=63)
    expected = average_precision(rounded, targets, ap=options.get("ap", "average"))
    np.testing.assert_allclose(binned["per_class_AP"], expected, rtol=1e-12)
    fine = fill(MultilabelMetrics(5, bins=2**16, **options), scores, targets).compute()
    np.testing.assert_allclose(fine.mAP, whole["mAP"], atol=1e-12)  # no two scores of three decimals share a bin


def test_memory_of_bins_does_not_grow():
    metric = MultilabelMetrics(3, bins=100)
    before = metric.histograms.nbytes + metric.counts.nbytes
    for seed in range(5):
        fill(metric, *draw(seed, 200, 3))
    assert metric.histograms.nbytes + metric.counts.nbytes == before
    assert (metric._scores, metric._targets) == ([], [])
    assert metric.compute().num_images == 1000


def test_extreme_probabilities_have_bins():
    counts = histograms(np.array([[0.0, 1.0, 0.5]]), np.array([[1, 0, -1]]), 10)
    assert counts[0].nonzero() == (0, 0)
    assert [a.tolist() for a in counts[1].nonzero()] == [[0, 1], [0, 9]]  # an ignored entry is in no bin


def test_reset_forgets_and_what_was_given_may_change():
    scores, targets = draw()
    metric = fill(MultilabelMetrics(5), *draw(1))
    metric.reset()
    batch, labels = scores.copy(), targets.copy()
    metric.update(batch, labels)
    batch[:], labels[:] = 0.5, 0  # a loop that reuses its buffers
    assert metric.compute().to_dict() == multilabel_metrics(scores, targets).to_dict()
    assert metric.compute().to_dict() == multilabel_metrics(scores, targets).to_dict()


@pytest.mark.parametrize("bins", [None, 50])
def test_a_refused_batch_is_not_added(bins):
    scores, targets = draw()
    metric = fill(MultilabelMetrics(5, bins=bins), scores, targets)
    before = metric.compute().to_dict()
    for bad, said in [(3 * scores, "sigmoid"), (scores[:, :4], "4 columns"), (scores * np.nan, "finite")]:
        with pytest.raises(CsraError, match=said):
            metric.update(bad, targets[:, : bad.shape[1]])
    assert metric.compute().to_dict() == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"num_classes": 0}, "num_classes"),
        ({"num_classes": 2, "classes": ["a"]}, "1 class names"),
        ({"num_classes": 2, "bins": 1}, "bins"),
        ({"num_classes": 2, "top_k": 3}, "top_k"),
        ({"num_classes": 2, "threshold": 2}, "threshold"),
        ({"num_classes": 2, "ap": "mean"}, "'mean'"),
    ],
)
def test_options_are_refused(args, said):
    with pytest.raises(CsraError, match=said):
        MultilabelMetrics(**args)


def test_nothing_to_compute():
    metric = MultilabelMetrics(2)
    with pytest.raises(CsraError, match="call update"):
        metric.compute()
    metric.update([[0.1, 0.2]], [[0, 0]])
    with pytest.raises(CsraError, match="no target is 1"):
        metric.compute()
