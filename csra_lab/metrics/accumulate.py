"""Metrics in anyone's loop, batch by batch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from csra_lab.errors import ConfigError, CsraError
from csra_lab.metrics.functions import (
    NOTHING_TO_FIND,
    AveragePrecision,
    MetricValues,
    area,
    average_precision,
    check_absent,
    check_ap,
    check_probabilities,
    checked,
    checked_threshold,
    metric_values,
    predictions,
)

MAX_LOGIT = 20.0
"""Probabilities beyond sigmoid(20) = 1 - 2e-9 share the last bin."""


class MultilabelMetrics:
    """`multilabel_metrics`, fed batch by batch.

        metrics = MultilabelMetrics(num_classes=80)
        for images, targets in batches:
            metrics.update(model(images).sigmoid(), targets)
        print(metrics.compute().mAP)

    Args:
        num_classes: C.
        threshold, top_k, ap, classes: see `multilabel_metrics`.
        bins: None keeps every score, 5 bytes an entry (16 MB for COCO's 40,137 x 80), and the values are exactly those
            of `multilabel_metrics`. A number of bins keeps two counts a bin and class instead, whatever the number of
            images: scores are rounded to bins of equal width in their logit, from -20 to 20, and scores of one bin are
            ties. AP then is the exact AP of the rounded scores; all other values stay exact. 4,096 bins take 5 MB for
            80 classes, and tell logits apart that differ by 0.01.

    Raises:
        CsraError: an option out of range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        threshold: float | None = None,
        top_k: int | None = None,
        ap: AveragePrecision = "average",
        classes: Sequence[str] | None = None,
        bins: int | None = None,
    ):
        if isinstance(num_classes, bool) or not isinstance(num_classes, (int, np.integer)) or num_classes < 1:
            raise ConfigError(f"num_classes must be a whole number from 1, not {num_classes!r}.")
        if classes is not None and len(classes) != num_classes:
            raise ConfigError(f"{len(classes)} class names were given for {num_classes} classes.")
        if bins is not None and (not isinstance(bins, (int, np.integer)) or bins < 2):
            raise ConfigError(f"bins must be a whole number from 2, or None to keep every score, not {bins!r}.")
        check_ap(ap)
        self.num_classes, self.bins, self.ap = num_classes, bins, ap
        self.threshold = checked_threshold(threshold, top_k, num_classes)
        self.top_k, self.classes = top_k, classes
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.num_images = 0
        self.num_absent = self.num_ignored = 0  # targets of all classes
        self.counts = np.zeros((3, self.num_classes), np.int64)  # correct, predicted and true labels
        self.histograms = np.zeros((2, self.num_classes, self.bins or 0), np.int64)  # positives, all known
        self._scores: list[NDArray] = []
        self._targets: list[NDArray] = []

    def update(self, scores: ArrayLike, targets: ArrayLike) -> None:
        """Add a batch.

        Args:
            scores: (B, C) probabilities; NumPy, or anything that becomes it, such as a tensor on the CPU.
            targets: (B, C) of 1, 0 and -1 (ignore).

        Raises:
            CsraError: what `multilabel_metrics` refuses, or another number of classes. The batch is not added then.
        """
        scores, targets = checked(scores, targets, self.classes)
        if scores.shape[1] != self.num_classes:
            raise ConfigError(f"the scores have {scores.shape[1]} columns; the metric was made for {self.num_classes}.")
        check_probabilities(scores, self.classes)
        positive = targets == 1
        predicted = predictions(scores, targets, self.threshold, self.top_k)
        self.counts += [(predicted & positive).sum(axis=0), predicted.sum(axis=0), positive.sum(axis=0)]
        self.num_images += len(scores)
        self.num_absent += int((targets == 0).sum())
        self.num_ignored += int((targets == -1).sum())
        if self.bins is None:
            self._scores.append(scores.copy())
            self._targets.append(targets)
        else:
            self.histograms += histograms(scores, targets, self.bins)

    def compute(self) -> MetricValues:
        """The metrics of all images since the last reset.

        Raises:
            CsraError: no image yet, or no positive among them.
        """
        if not self.num_images:
            raise CsraError("no image was measured yet; call update first.")
        if not self.counts[2].any():
            raise ConfigError(NOTHING_TO_FIND)
        check_absent(int(self.counts[2].sum()), self.num_absent, self.num_ignored, self.num_images)
        if self.bins is None:
            per_class = average_precision(np.concatenate(self._scores), np.concatenate(self._targets), ap=self.ap)
        else:
            per_class = binned_average_precision(self.histograms, self.ap)
        correct, chosen, true = self.counts
        return metric_values(
            correct,
            chosen,
            true,
            per_class,
            num_images=self.num_images,
            threshold=self.threshold,
            top_k=self.top_k,
            ap=self.ap,
            classes=self.classes,
        )


def histograms(scores: NDArray, targets: NDArray, bins: int) -> NDArray[np.int64]:
    """(B, C) probabilities and targets -> (2, C, bins) numbers of positives and of all known entries in each bin."""
    num_classes = scores.shape[1]
    with np.errstate(divide="ignore"):
        logits = np.log(scores, dtype=np.float64) - np.log1p(-scores, dtype=np.float64)
    place = (np.clip(logits / (2 * MAX_LOGIT) + 0.5, 0, 1) * bins).astype(np.int64).clip(max=bins - 1)
    place += bins * np.arange(num_classes)  # a row of bins for each class
    counts = [np.bincount(place[chosen], minlength=bins * num_classes) for chosen in (targets == 1, targets != -1)]
    return np.stack(counts).reshape(2, num_classes, bins)


def binned_average_precision(counts: NDArray, ap: AveragePrecision) -> NDArray[np.float64]:
    """(2, C, bins) histograms -> (C,) average precisions of the binned scores; NaN where a class has no positive."""
    from_here_on = counts[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]  # entries in this bin or a higher one
    values = np.full(counts.shape[1], np.nan)
    for c, positives in enumerate(counts[0]):
        if positives.any():
            hits, seen = (np.repeat(part[c], positives) for part in from_here_on)
            values[c] = area(hits, seen, ap)
    return values
