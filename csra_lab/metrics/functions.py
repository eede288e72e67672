"""Average precision of scores, and precision, recall and F1 of predictions, on whole arrays."""

import reprlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from csra_lab._io.notice import warn
from csra_lab.errors import ConfigError

AveragePrecision = Literal["average", "voc11", "envelope"]
"""The three definitions of average precision, by their names in `csra_lab.metrics`."""
MIN_IMAGES = 10
"""From here on targets of which none is 0 are refused."""
NOTHING_TO_FIND = "no target is 1, so there is nothing to find; check that the class names fit the annotations."


@dataclass(frozen=True, eq=False)
class MetricValues:
    """What `multilabel_metrics` found; every number is a fraction from 0 to 1.

    Attributes:
        mAP: the mean of `per_class_AP` over the classes that have a positive.
        CP, CR, CF1, CF1_macro: precision, recall and the two F1s, averaged over the same classes.
        OP, OR, OF1: precision, recall and F1 of all labels together, those of classes without a positive included.
        per_class_AP: (C,) float64, NaN where a class has no positive; read-only.
        excluded_classes: the classes without a positive, by name, or by index where no names were given.
        threshold: scores from here on were predictions; None where `top_k` alone chose them.
        top_k: labels predicted for each image, at most; None where the threshold alone chose them.
        ap: the definition of AP.
        num_images: N.
        classes: the C names, if they were given.
    """

    mAP: float
    CP: float
    CR: float
    CF1: float
    CF1_macro: float
    OP: float
    OR: float
    OF1: float
    per_class_AP: NDArray[np.float64]
    excluded_classes: tuple[str, ...] | tuple[int, ...]
    threshold: float | None
    top_k: int | None
    ap: AveragePrecision
    num_images: int
    classes: tuple[str, ...] | None

    def to_dict(self) -> dict:
        """The same names with values that JSON can hold: lists for arrays, None for NaN."""
        per_class = [None if np.isnan(value) else float(value) for value in self.per_class_AP]
        lists = {"excluded_classes": list(self.excluded_classes), "classes": self.classes and list(self.classes)}
        return asdict(self) | lists | {"per_class_AP": per_class}


def multilabel_metrics(
    scores: ArrayLike,
    targets: ArrayLike,
    *,
    threshold: float | None = None,
    top_k: int | None = None,
    ap: AveragePrecision = "average",
    classes: Sequence[str] | None = None,
) -> MetricValues:
    """Measure probabilities against targets.

    A class without a positive is left out of every mean over classes and named in `excluded_classes`. A class of which
    nothing is predicted has precision 0, as in ML-GCN's code and in scikit-learn; so has OP where nothing at all is.

    Args:
        scores: (N, C) probabilities.
        targets: (N, C) of 1, 0 and -1 (ignore).
        threshold: labels with this probability or more are predicted; 0.5 where neither this nor `top_k` is given.
        top_k: predict the k highest-scored labels of each image (of equal ones the first class), whatever their scores.
            With a threshold as well only those that reach it: ML-GCN's and CSRA's code take 3 and 0.5. Ignored labels
            are passed over.
        ap: the definition of average precision, see `csra_lab.metrics`.
        classes: C names, for `excluded_classes` and for messages.

    Returns:
        The metrics, fractions from 0 to 1.

    Raises:
        CsraError: shapes that do not fit, no images, no positive at all, ten images or more of which -1 is said and 0
            never, a score that is no probability, a target other than 1, 0 and -1, or an option out of range.
    """
    scores, targets = checked(scores, targets, classes)
    check_probabilities(scores, classes)
    num_images, num_classes = scores.shape
    threshold = checked_threshold(threshold, top_k, num_classes)
    positive = targets == 1
    predicted = predictions(scores, targets, threshold, top_k)
    counts = ((predicted & positive).sum(axis=0), predicted.sum(axis=0), positive.sum(axis=0))
    if not counts[2].any():
        raise ConfigError(NOTHING_TO_FIND)
    check_absent_of(targets)
    per_class = average_precision(scores, targets, ap=ap)
    return metric_values(
        *counts, per_class, num_images=num_images, threshold=threshold, top_k=top_k, ap=ap, classes=classes
    )


def metric_values(
    correct: NDArray,
    chosen: NDArray,
    true: NDArray,
    per_class_AP: NDArray,
    *,
    num_images: int,
    threshold: float | None,
    top_k: int | None,
    ap: AveragePrecision,
    classes: Sequence[str] | None,
) -> MetricValues:
    """All metrics from the (C,) numbers of correct, predicted and true labels of each class (Nc, Np, Ng) and its AP."""
    counted = true > 0
    per_class_AP.setflags(write=False)
    CP = float((correct / np.maximum(chosen, 1))[counted].mean())
    CR = float((correct[counted] / true[counted]).mean())
    excluded: list[int] = np.flatnonzero(~counted).tolist()
    return MetricValues(
        mAP=float(per_class_AP[counted].mean()),
        CP=CP,
        CR=CR,
        CF1=2 * CP * CR / (CP + CR) if CP + CR else 0.0,
        CF1_macro=float((2 * correct[counted] / (chosen + true)[counted]).mean()),
        OP=float(correct.sum() / max(chosen.sum(), 1)),
        OR=float(correct.sum() / true.sum()),
        OF1=float(2 * correct.sum() / (chosen.sum() + true.sum())),
        per_class_AP=per_class_AP,
        excluded_classes=tuple(excluded) if classes is None else tuple(classes[c] for c in excluded),
        threshold=None if threshold is None else float(threshold),
        top_k=None if top_k is None else int(top_k),
        ap=ap,
        num_images=num_images,
        classes=None if classes is None else tuple(classes),
    )


def average_precision(
    scores: ArrayLike, targets: ArrayLike, *, ap: AveragePrecision = "average"
) -> NDArray[np.float64]:
    """Average precision of every class, by one of the three definitions of `csra_lab.metrics`.

    Where no target is 0 every class is perfect, whatever the scores; `multilabel_metrics` refuses such targets.

    Args:
        scores: (N, C) finite numbers; only their order within a class matters, so logits do as well.
        targets: (N, C) of 1, 0 and -1 (ignore).
        ap: "average", "voc11" or "envelope".

    Returns:
        (C,) average precisions from 0 to 1; NaN where a class has no positive.

    Raises:
        CsraError: shapes that do not fit, a score that is not finite, a target other than 1, 0 and -1, or another `ap`.
    """
    check_ap(ap)
    scores, targets = checked(scores, targets)
    columns = np.ascontiguousarray(scores.T), np.ascontiguousarray(targets.T)
    if scores.size < 2**18:  # threads would cost more than they save
        return np.array([_class_AP(*column, ap) for column in zip(*columns, strict=True)])
    with ThreadPoolExecutor() as threads:  # nearly all of the work is sorting, which lets other threads run
        return np.array(list(threads.map(partial(_class_AP, ap=ap), *columns)))


def chance_average_precision(targets: ArrayLike) -> NDArray[np.float64]:
    """What average precision is for each class, by the definition "average", in the mean over all orders of the images.

    The i-th image of a random order is one of the P positives of N with probability P / N. Then the first i images hold
    1 + (i - 1) (P - 1) / (N - 1) positives in the mean. So this is (1/N) sum_i (1 + (i - 1) (P - 1) / (N - 1)) / i. It
    is more than the share P / N, which equal scores have.

    Args:
        targets: (N, C) of 1, 0 and -1 (ignore).

    Returns:
        (C,) average precisions from 0 to 1; NaN where a class has no positive.

    Raises:
        CsraError: targets that are not (N, C), no images, or a target other than 1, 0 and -1.
    """
    _, targets = checked(np.zeros(np.shape(targets)), targets)
    return np.array([_class_chance(int((t == 1).sum()), int((t != -1).sum())) for t in targets.T])


def _class_chance(positives: int, known: int) -> float:
    """Of one class. Other positives before the i-th image are those of a draw without replacement."""
    if not positives:
        return np.nan
    before = np.arange(known)  # i - 1
    return float(np.mean((1 + before * (positives - 1) / max(known - 1, 1)) / (before + 1)))


def _class_AP(scores: NDArray, targets: NDArray, ap: AveragePrecision) -> float:
    """AP of one class, from (N,) scores and targets. Precision is needed at the positives only, the worst first."""
    positive = np.sort(scores[targets == 1])
    if not len(positive):
        return np.nan
    known = np.sort(scores[targets != -1])
    # How many entries score as high as each positive or higher, and how many positives. Equal scores are one threshold.
    seen = len(known) - np.searchsorted(known, positive)
    hits = len(positive) - np.searchsorted(positive, positive)
    return area(hits, seen, ap)


def area(hits: NDArray, seen: NDArray, ap: AveragePrecision) -> float:
    """AP of one class from the threshold of each of its P positives, the lowest first.

    Args:
        hits, seen: (P,) positives, and all entries, that score at least as high as each positive.
        ap: the definition.
    """
    precision = hits / seen
    if ap == "voc11":
        # Recall t is reached where 10 hits >= 10 t total: whole numbers, so that no 0.3 falls short of 3/10.
        return np.mean([precision[10 * hits >= tenths * len(hits)].max() for tenths in range(11)])
    if ap == "envelope":
        precision = np.maximum.accumulate(precision)
    return precision.mean()


def predictions(scores: NDArray, targets: NDArray, threshold: float | None, top_k: int | None) -> NDArray[np.bool_]:
    """(N, C) the labels that are predicted; ignored ones are not."""
    predicted = targets != -1
    if threshold is not None:
        predicted &= scores >= threshold
    return predicted if top_k is None else predicted & top_k_mask(scores, targets, top_k)


def top_k_mask(scores: NDArray, targets: NDArray, k: int) -> NDArray[np.bool_]:
    """(N, C) mask of the k best labels of each image; of equal scores the first class, of ignored ones none."""
    scores = np.where(targets == -1, -np.inf, scores)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # (N, k)
    mask = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(mask, best, True, axis=1)
    return mask & (targets != -1)


def check_absent(present: int, absent: int, ignored: int, num_images: int) -> None:
    """Refuse targets of which none is known to be absent: any scores would be perfect. Warn of nearly none.

    Args:
        present, absent, ignored: how many targets of all classes are 1, 0 and -1. num_images: of fewer than
            `MIN_IMAGES` a warning is all, since chance alone can take the negatives of so few.

    Raises:
        CsraError: no known negative among so many images.
    """
    if ignored and not absent and num_images >= MIN_IMAGES:
        raise ConfigError(
            f"no target is 0 (absent): {present:,} are 1 and {ignored:,} are -1, which is ignored, so any scores would "
            "be perfect; if -1 says absent in your targets, pass np.maximum(targets, 0)."
        )
    if 2 * absent < min(present, ignored):
        warn(
            f"only {absent:,} targets are 0 (absent), {present:,} are 1 and {ignored:,} are -1 (ignored): if your "
            "labels say absent with -1, the metrics are far too good; turn -1 into 0 and unknown ones into -1."
        )


def check_absent_of(targets: NDArray) -> None:
    """`check_absent` of (N, C) targets."""
    present, absent, ignored = (int((targets == value).sum()) for value in (1, 0, -1))
    check_absent(present, absent, ignored, len(targets))


def check_ap(ap: str) -> None:
    """Raise a CsraError for a definition of average precision that there is not."""
    if ap not in get_args(AveragePrecision):
        raise ConfigError(f"there is no average precision {ap!r}; choose {', '.join(get_args(AveragePrecision))}.")


def checked_threshold(threshold: float | None, top_k: int | None, num_classes: int) -> float | None:
    """The threshold that holds; a CsraError for one that is no probability, or a top_k that is no number of classes."""
    if threshold is not None and not (isinstance(threshold, Real) and 0 <= threshold <= 1):
        raise ConfigError(f"threshold must be a probability from 0 to 1, not {threshold!r}.")
    if top_k is not None and (not isinstance(top_k, Integral) or not 1 <= top_k <= num_classes):
        raise ConfigError(f"top_k must be a whole number from 1 to the number of classes, {num_classes}, not {top_k}.")
    return 0.5 if threshold is None and top_k is None else threshold


def check_probabilities(scores: NDArray, classes: Sequence[str] | None) -> None:
    """Raise a CsraError for (N, C) scores below 0 or above 1, which are logits."""
    outside = (scores < 0) | (scores > 1)
    if outside.any():
        raise ConfigError(
            f"{_first(outside, scores, classes)}: scores must be probabilities; apply a sigmoid to logits."
        )


def as_numpy(values: Any) -> NDArray:
    """An array of anything array-like; tensors may need gradients, lie on a GPU or be bfloat16 (float32 here)."""
    if isinstance(values, list | tuple) and any(hasattr(row, "detach") for row in values):
        values = [as_numpy(row) for row in values]
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    return np.asarray(values)


def checked(scores: ArrayLike, targets: ArrayLike, classes: Sequence[str] | None = None) -> tuple[NDArray, NDArray]:
    """Both as (N, C) arrays of finite floats and of int8, or a CsraError that says what is wrong."""
    tables = [table for table in (scores, targets) if hasattr(table, "columns")]
    if len(tables) == 2:
        _check_names(*tables)
    if classes is not None:
        for table in tables:
            _check_columns(table, classes)
    if np.ma.isMaskedArray(scores) and np.ma.getmaskarray(scores).any():
        raise ConfigError("some scores are masked; every image needs a score of every class, or masked targets.")
    try:
        targets = np.ma.filled(targets, -1) if np.ma.isMaskedArray(targets) else targets  # masked: not known
        scores, targets = as_numpy(scores), as_numpy(targets)
    except ValueError as error:  # rows of different lengths
        raise ConfigError("scores and targets must both be (images, classes), with rows of one length.") from error
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ConfigError(f"scores and targets must both be (images, classes), not {scores.shape} and {targets.shape}.")
    if scores.size == 0:
        raise ConfigError(
            f"scores of shape {scores.shape} hold nothing to measure; check that the data set has images."
        )
    if classes is not None and len(classes) != scores.shape[1]:
        raise ConfigError(f"{len(classes)} class names were given for {scores.shape[1]} columns of scores.")
    if scores.dtype.kind not in "fiub" or targets.dtype.kind not in "fiub":
        raise ConfigError(f"scores and targets must be numbers, not of type {scores.dtype} and {targets.dtype}.")
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        raise ConfigError(
            f"{_first(~np.isfinite(scores), scores, classes)}: scores must be finite; look for a bad image or weights."
        )
    unknown = (targets != 1) & (targets != 0) & (targets != -1)
    if unknown.any():
        raise ConfigError(f"{_first(unknown, targets, classes, name='target')}: targets must be 1, 0 or -1 (ignore).")
    return scores, targets.astype(np.int8)


def _check_names(scores: Any, targets: Any) -> None:
    """Raise a CsraError for two tables of pandas whose columns, or whose rows, do not stand in one order."""
    if list(scores.columns) != list(targets.columns):
        raise ConfigError("the columns of scores and targets have other names, or another order; give both alike.")
    rows, others = list(scores.index), list(targets.index)
    plain = list(range(len(rows)))  # what pandas writes where no names were given
    if rows != others and (plain not in (rows, others) or set(rows) == set(others)):
        raise ConfigError("the rows of scores and targets have other names, or another order; give both alike.")


def _check_columns(table: Any, classes: Sequence[str]) -> None:
    """Raise a CsraError for a table of pandas whose columns have names, and these are not the classes in their order.

    Columns that nobody named are 0, 1, ...; other names than the classes' are somebody's own.
    """
    columns = list(table.columns)
    if columns != list(classes) and set(columns) == set(classes):
        raise ConfigError(
            f"the columns are in another order, {reprlib.repr(columns)}, than the classes; give both alike."
        )


def _first(bad: NDArray[np.bool_], values: NDArray, classes: Sequence[str] | None, *, name: str = "score") -> str:
    """'the score of image 3 and class dog is nan': the first bad entry, in words."""
    image, column = np.argwhere(bad)[0].tolist()
    who = column if classes is None else classes[column]
    return f"the {name} of image {image} and class {who} is {values[image, column]}"
