"""Is a difference of mAP between two methods real? Paired bootstrap over the test images, and the spread over seeds.

A measured mAP moves for two reasons: other test images, and another seed of the training. The variance of a difference
of two mAPs, each the mean over S seeds, is the sum of two parts, and `compare` estimates both:

    seeds    s^2 / S, with s the standard deviation (ddof 1) of the seeds' differences; for seeds that are not paired,
             the sum of this over both methods. To draw the seeds anew along with the images would give it times
             (S - 1)/S, 20 % too little for 5 seeds; the formula has no such loss.
    images   The images are drawn anew with replacement, R times, the same draws for both methods and all their seeds
             (paired bootstrap; Efron and Tibshirani, 1993). The part is the variance of the difference over the draws,
             times n/(n - 1), since a bootstrap of n things falls short by (n - 1)/n. People who share a photograph are
             not independent: with `groups` whole groups are drawn, and n counts groups. The images move all seeds
             together, and each seed a little by itself; s holds the latter already, so it is measured and taken off.

The interval is difference -+ sqrt((t e)^2 of the images + (t e)^2 of the seeds), e the root of a part and t the
quantile for its own degrees of freedom, S - 1 for seeds. With normal errors it holds the truth at least as often as it
says (Banerjee, Sankhya 22, 1960). One t with pooled degrees of freedom falls short where few seeds agree by luck. So do
percentiles of the draws: those of 5 seeds are too narrow; a table of 20 comparisons asks for the 0.125 % quantile, the
first or second of 1,000 draws; and the AP of a draw is too high, since an image drawn twice ties with itself.

AP is `average_precision(..., ap="average")` throughout: equal scores are one threshold, ignored entries leave the
ranking, and a class without a positive in a draw is left out of that draw's mean.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from numbers import Real
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from csra_lab._io.validation import check_choice
from csra_lab.errors import ConfigError, CsraError
from csra_lab.metrics import average_precision
from csra_lab.metrics.functions import as_numpy, check_absent_of, checked

MeanOver = Literal["classes", "positives"]
"""What a mean of average precisions is over: classes, each counting once; or positives, where rare ones count less."""
MEANS: tuple[MeanOver, ...] = get_args(MeanOver)


@dataclass(frozen=True)
class Comparison:
    """What `compare` found about b minus a. Every mAP, difference, deviation and error is a fraction, not in points.

    Attributes:
        difference: mAP_b - mAP_a.
        lower, upper: the interval for the difference, corrected for the number of comparisons.
        mAP_a, mAP_b: each method's mean over its seeds.
        sd_a, sd_b: standard deviation of the mAP over seeds, ddof 1.
        sd_difference: the same of one run of b minus one run of a; of the pairs' differences where seeds are paired.
        image_error, seed_error: the two parts of the difference's standard error; their squares add up to its square.
        confidence, comparisons: of a table, and its differences; the interval is at 1 - (1 - confidence) / comparisons.
        paired_seeds: whether run i of b and run i of a share their seed.
        seeds_a, seeds_b, images, groups, resamples: how many of each; groups is None where images were drawn singly.
    """

    difference: float
    lower: float
    upper: float
    mAP_a: float
    mAP_b: float
    sd_a: float
    sd_b: float
    sd_difference: float
    image_error: float
    seed_error: float
    confidence: float
    comparisons: int
    paired_seeds: bool
    seeds_a: int
    seeds_b: int
    images: int
    groups: int | None
    resamples: int

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.lower > 0 or self.upper < 0

    def verdict(self, name_b: str = "CSRA", name_a: str = "average pooling") -> str:
        """One sentence, in points of mAP (100 x the fraction): "CSRA is better than average pooling by 1.9 to ..."."""
        if not self.distinguishable:
            low, high = _points(self.lower, self.upper)
            return f"{name_b} and {name_a} are not distinguishable ({low} to {high} points of mAP)."
        low, high = _points(*sorted((abs(self.lower), abs(self.upper))))
        return f"{name_b} is {'better' if self.lower > 0 else 'worse'} than {name_a} by {low} to {high} points of mAP."

    def to_dict(self) -> dict:
        """The attributes by name, as numbers that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class SeedSpread:
    """mAP over the seeds of one method, as fractions.

    Attributes:
        mean: over the seeds. standard_deviation: ddof 1.
        lower, upper: the t interval of the mean. confidence: that it holds the mean, such as 0.95.
        seeds: how many.
    """

    mean: float
    standard_deviation: float
    lower: float
    upper: float
    confidence: float
    seeds: int


def compare(
    a: ArrayLike,
    b: ArrayLike,
    targets: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    comparisons: int = 1,
    seed: int = 0,
    paired_seeds: bool = True,
) -> Comparison:
    """Is the mAP of b another than that of a, for other test images and other seeds? `csra_lab.significance` says how.

    Args:
        a, b: (Sa, N, C) and (Sb, N, C) scores of the same images, a row a seed; only their order in a class matters.
        targets: (N, C) of 1, 0 and -1 (ignore).
        groups, resamples, seed: how the images are drawn, see `draw_images`.
        confidence, comparisons: of all the table's intervals together, and how many it shows (Bonferroni's correction).
        paired_seeds: run i of a and run i of b had the same seed (the same order of the images, the same start), so
            their differences are compared. False where they share nothing, or where Sa and Sb differ.

    Raises:
        CsraError: fewer than 2 seeds, pairs of unequal numbers, and what `draw_images` and `weighted_mAP` raise.
    """
    check_one_order(a, b)
    (a, truth, seen_a), (b, _, seen_b) = _checked(a, targets, "a"), _checked(b, targets, "b")
    if min(len(a), len(b)) < 2:
        few = f"a holds {len(a)} and b {len(b)} runs, and one run cannot show how far seeds move mAP"
        raise ConfigError(f"{few}: train 5 seeds, at least 2, or look at the images alone with bootstrap_mAP.")
    if paired_seeds and len(a) != len(b):
        raise ConfigError(f"{len(a)} seeds of a cannot be paired with {len(b)} of b; pass paired_seeds=False.")
    check_whole("comparisons", comparisons, minimum=1)
    num_images = a.shape[1]
    weights = draw_images(num_images, groups=groups, resamples=resamples, seed=seed)
    units = num_images if groups is None else len(np.unique(np.asarray(groups)))
    drawn_a, drawn_b = (_weighted(arrays, truth, weights) for arrays in (a, b))  # (Sa, R), (Sb, R)

    # What is independent over seeds: the pairs' differences, or each side by itself. (S,), (S, R)
    sides = [(seen_b - seen_a, drawn_b - drawn_a)] if paired_seeds else [(seen_a, drawn_a), (seen_b, drawn_b)]
    means = drawn_b.mean(axis=0) - drawn_a.mean(axis=0)  # (R,)
    by_images, by_seeds, half = difference_errors(
        sides, means, units=units, confidence=confidence, comparisons=comparisons
    )
    difference, (sd_a, sd_b) = float(seen_b.mean() - seen_a.mean()), (float(x.std(ddof=1)) for x in (seen_a, seen_b))
    return Comparison(
        difference=difference,
        lower=difference - half,
        upper=difference + half,
        mAP_a=float(seen_a.mean()),
        mAP_b=float(seen_b.mean()),
        sd_a=sd_a,
        sd_b=sd_b,
        sd_difference=float((seen_b - seen_a).std(ddof=1)) if paired_seeds else math.hypot(sd_a, sd_b),
        image_error=math.sqrt(by_images),
        seed_error=math.sqrt(by_seeds),
        confidence=float(confidence),
        comparisons=int(comparisons),
        paired_seeds=bool(paired_seeds),
        seeds_a=len(a),
        seeds_b=len(b),
        images=num_images,
        groups=None if groups is None else units,
        resamples=int(resamples),
    )


def difference_errors(
    sides: Sequence[tuple[NDArray, NDArray]],
    means: NDArray,
    *,
    units: int,
    confidence: float = 0.95,
    comparisons: int = 1,
) -> tuple[float, float, float]:
    """How far other images and other seeds move a difference: of mAP in `compare`, or of any other statistic.

    Args:
        sides: what is independent over seeds, each (S,) as seen on all images and (S, R) on R draws of them: the
            differences of paired runs, or each of two methods by itself.
        means: (R,) the difference on each draw, its mean over the seeds.
        units: how many images, or groups of them, were drawn from. confidence, comparisons: see `compare`.

    Returns:
        The variance from images, the variance from seeds, and half the width of the interval.
    """
    t_images = critical_t(confidence, comparisons, 1 / (1 / (units - 1) + 1 / (len(means) - 1)))
    by_images, by_seeds, squares = means.var(ddof=1), 0.0, 0.0
    for seen, draws in sides:
        part = seen.var(ddof=1) / len(seen)
        by_seeds += part
        squares += critical_t(confidence, comparisons, len(seen) - 1) ** 2 * part
        alone = (draws - draws.mean(axis=0)).var(axis=1, ddof=1).sum() / (len(seen) - 1)  # images moving one seed
        by_images -= alone / len(seen)
    by_images = max(by_images, 0.0) * units / (units - 1)
    return by_images, by_seeds, math.sqrt(t_images**2 * by_images + squares)


def image_interval(
    seen: float, drawn: NDArray, *, units: int, confidence: float = 0.95, comparisons: int = 1
) -> tuple[float, float]:
    """The interval of a mAP, a difference or any other statistic of runs as they are: for other test images alone.

    It is -+ t(n - 1) x standard deviation over the draws x sqrt(n / (n - 1)), n the units. What another seed would give
    is not in it; `compare` tells that of several.

    Args:
        seen: on all images. drawn: (R,) on R draws of them.
        units: how many images, or groups of them, were drawn from. confidence, comparisons: see `compare`.

    Returns:
        Its lower and its upper end.
    """
    half = critical_t(confidence, comparisons, units - 1) * drawn.std(ddof=1) * math.sqrt(units / (units - 1))
    return float(seen - half), float(seen + half)


def seed_spread(mAPs: ArrayLike, *, confidence: float = 0.95) -> SeedSpread:
    """How far seeds move the mAP of one method on one test set; for error bars.

    The interval for the mean of the (S,) mAPs is -+ t(S - 1) x standard deviation / sqrt(S). Fewer than 2 mAPs have no
    spread, and raise a CsraError; so do one that is not finite, and a confidence that is not between 0 and 1.
    """
    needs = "a spread over seeds needs a list of at least 2 finite mAPs, not"
    try:
        mAPs = np.asarray(mAPs, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{needs} {mAPs!r}.") from error
    if mAPs.ndim != 1 or len(mAPs) < 2 or not np.isfinite(mAPs).all():
        raise ConfigError(f"{needs} {mAPs.tolist()}.")
    mean, deviation = float(mAPs.mean()), float(mAPs.std(ddof=1))
    half = critical_t(confidence, 1, len(mAPs) - 1) * deviation / math.sqrt(len(mAPs))
    return SeedSpread(mean, deviation, mean - half, mean + half, float(confidence), len(mAPs))


def bootstrap_mAP(
    scores: ArrayLike, targets: ArrayLike, *, groups: ArrayLike | None = None, resamples: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """mAP on R draws of the images, the same draws for all S arrays: `weighted_mAP` with the weights of `draw_images`.

    Shapes and errors are theirs: (S, N, C) scores give (S, R) mAPs, and (N, C) scores give (R,).
    """
    arrays, truth, _ = _checked(scores, targets, "scores")
    weights = draw_images(arrays.shape[1], groups=groups, resamples=resamples, seed=seed)
    mAPs = _weighted(arrays, truth, weights)  # (S, R)
    return mAPs if np.ndim(without_gradients(scores)) == 3 else mAPs[0]


def draw_images(
    num_images: int, *, groups: ArrayLike | None = None, resamples: int = 1000, seed: int = 0
) -> NDArray[np.uint16]:
    """Draw N of N images with replacement, R times: (R, N), how often each image is in each draw.

    Args:
        num_images: N.
        groups: (N,) ids; images with the same id are drawn together, as many groups as there are.
        resamples: R.
        seed: the same seed gives the same draws.

    Raises:
        CsraError: groups of another number or not known, fewer than 2 images or groups, fewer than 2 draws.
    """
    check_whole("resamples", resamples, minimum=2)
    check_whole("seed", seed, minimum=0)
    members = np.arange(num_images)  # (N,) the group of each image
    if groups is not None:
        if np.shape(groups) != (num_images,):
            raise ConfigError(f"groups must hold one id for each of {num_images} images, not shape {np.shape(groups)}.")
        ids = np.asarray(groups)
        if any(_is_missing(name) for name in ids.tolist()):
            raise ConfigError("groups must say of every image which group it is in, and some are NaN.")
        try:
            members = np.unique(ids, return_inverse=True)[1]
        except TypeError as error:
            raise ConfigError("groups must be ids of one kind, all texts or all numbers.") from error
    num_groups = int(members.max(initial=-1)) + 1
    if num_groups < 2:
        raise ConfigError(
            f"draws need at least 2 {'images' if groups is None else 'groups'}, and there is {num_groups}."
        )
    rng, weights = np.random.default_rng(seed), np.empty((resamples, num_images), np.uint16)
    for row in weights:  # (N,)
        row[:] = np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)[members]
    return weights


def _is_missing(name: object) -> bool:
    """Whether an id is None, or one of those that differ from themselves: NaN, NaT, NA."""
    try:
        return name is None or bool(name != name)
    except TypeError:  # NA of pandas is neither equal nor other
        return True


def once_and_drawn(weights: NDArray) -> NDArray:
    """(R, N) draws, see `draw_images` -> (1 + R, N): every image once, then the draws."""
    return np.concatenate([np.ones_like(weights[:1]), weights])


def weighted_mAP(
    scores: ArrayLike, targets: ArrayLike, weights: ArrayLike, *, mean_over: MeanOver = "classes"
) -> NDArray[np.float64]:
    """mAP where image n is there weights[r, n] times, for each row r; all weights 1 is the plain mAP.

    Args:
        scores: (S, N, C), or (N, C) for a single array; finite numbers, only their order within a class matters.
        targets: (N, C) of 1, 0 and -1 (ignore).
        weights: (R, N) whole numbers, 0 or more.
        mean_over: classes, each counting once; or positives, where a class counts as often as it has positives, so that
            rare classes do not decide.

    Returns:
        (S, R) mAPs, fractions; (R,) for a single array.

    Raises:
        CsraError: arrays that do not fit, scores that are not finite, no positive target in the data or in a draw,
            targets of which none is known to be absent, or another `mean_over`.
    """
    check_choice("mean_over", mean_over, MEANS)
    (arrays, truth, _), weights = _checked(scores, targets, "scores"), np.asarray(weights)
    num_images = arrays.shape[1]
    if weights.ndim != 2 or weights.shape[1] != num_images or weights.dtype.kind not in "iu" or (weights < 0).any():
        raise ConfigError(f"weights must be whole numbers from 0, (draws, {num_images} images), not {weights.shape}.")
    if int(weights.max(initial=0)) * num_images > np.iinfo(np.int32).max:
        raise ConfigError(f"a weight of {weights.max()} is too large to count {num_images} images with.")
    mAPs = _weighted(arrays, truth, weights, mean_over)
    return mAPs if np.ndim(without_gradients(scores)) == 3 else mAPs[0]


def _weighted(arrays: NDArray, targets: NDArray, weights: NDArray, mean_over: str = "classes") -> NDArray[np.float64]:
    """`weighted_mAP` of what was checked: (S, N, C), (N, C), (R, N) -> (S, R). Sorts once, and takes rows in blocks.

    The mean is over the classes, or over the positives: there a class counts as often as it has positives.
    """
    present = np.flatnonzero((targets == 1).any(axis=0))
    rankings = [[_ranking(scores[:, c], targets[:, c]) for c in present] for scores in arrays]
    mAPs = np.empty((len(arrays), len(weights)))
    size = max(16, 2**19 // len(targets))  # rows in a block: about 2 MB of it, which stay in a core's cache
    for start in range(0, len(weights), size):
        block = weights[start : start + size].T.astype(np.int32, order="C")  # (N, rows)
        total = np.array([block[targets[:, c] == 1].sum(axis=0) for c in present])  # (C, rows) positives drawn
        classes = (total > 0).sum(axis=0)  # (rows,) classes that have one
        if not classes.all():
            raise CsraError("a draw of the images holds no positive of any class; use a test set with more of them.")
        area = np.array([[_precision_sum(block, ranking) for ranking in each] for each in rankings])  # (S, C, rows)
        per_class = (area / np.maximum(total, 1)).sum(axis=1) / classes
        mAPs[:, start : start + size] = per_class if mean_over == "classes" else area.sum(axis=1) / total.sum(axis=0)
    return mAPs


def _ranking(scores: NDArray, targets: NDArray) -> tuple[NDArray[np.intp], ...]:
    """One class, (N,) and (N,): what can be known before the weights are.

    AP needs the precision at thresholds that a positive reaches, and nowhere else. Call them steps: a step's entries
    are those between the threshold before and this one, its positives and the negatives passed on the way. Returns the
    images by falling score, down to the last step; where in them each step starts; the same two of positives alone.
    """
    counted = np.flatnonzero(targets != -1)
    order = counted[np.argsort(-scores[counted], kind="stable")]
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # where each threshold's equals end
    positive = np.flatnonzero(targets[order] == 1)
    ends, first = np.unique(last[np.searchsorted(last, positive)], return_index=True)
    starts = np.append(0, ends[:-1] + 1)
    return order[: ends[-1] + 1], starts, order[positive], first


def _precision_sum(block: NDArray[np.int32], ranking: tuple[NDArray[np.intp], ...]) -> NDArray[np.float64]:
    """One class's sum, over the positives of a draw, of the precision at their threshold: (N, rows) -> (rows,)."""
    order, starts, positives, first = ranking
    new = np.add.reduceat(block[order], starts, axis=0, dtype=np.int32)  # (steps, rows)
    hits = np.add.reduceat(block[positives], first, axis=0, dtype=np.int32)  # (steps, rows)
    found, seen = hits.cumsum(axis=0, dtype=np.int32), new.cumsum(axis=0, dtype=np.int32)
    return np.einsum("sr,sr->r", hits, found / np.maximum(seen, 1))


def _checked(scores: ArrayLike, targets: ArrayLike, name: str) -> tuple[NDArray, NDArray[np.int8], NDArray]:
    """Scores as (S, N, C) float64, targets as (N, C), and the (S,) plain mAPs, or one sentence that says what is wrong.

    Targets that are masked are not known, as in `average_precision`.
    """
    scores = without_gradients(scores)
    try:
        dimensions = np.ndim(scores)  # type: ignore[arg-type]  # a tensor has its own
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be numbers, and as many of them for each seed.") from error
    if dimensions not in (2, 3) or not len(scores):  # type: ignore[arg-type]
        shape = np.shape(scores)  # type: ignore[arg-type]
        raise ConfigError(f"{name} must be (seeds, images, classes) with at least one of each, not {shape}.")
    runs, mAPs, truth = [], [], None
    for s, run in enumerate(scores if dimensions == 3 else [scores]):  # type: ignore[arg-type, var-annotated]
        try:
            array, truth = checked(run, targets)
            per_class = average_precision(array, truth)
        except CsraError as error:
            raise ConfigError(f"{name}[{s}]: {error}") from error
        if np.isnan(per_class).all():
            raise ConfigError("no target is 1, so there is nothing to find; check the class names and the annotations.")
        runs.append(array)
        mAPs.append(np.nanmean(per_class))
    assert truth is not None  # there is at least one run
    check_absent_of(truth)
    return np.stack(runs).astype(np.float64, copy=False), truth, np.array(mAPs)


def without_gradients(scores: ArrayLike) -> ArrayLike:
    """(S, N, C) scores whose runs, in a list, may be tensors that NumPy does not take: each an array, or as it was."""
    if not isinstance(scores, list | tuple):
        return scores
    return [as_numpy(run) if hasattr(run, "detach") else run for run in scores]


def check_one_order(*methods: ArrayLike) -> None:
    """Raise a CsraError for methods' scores in tables of pandas, of which two hold the same columns or rows otherwise.

    Each method is (S, N, C), a list of tables (N, C), or one of them; arrays name nothing.
    """
    tables = [t for m in methods for t in (m if isinstance(m, list | tuple) else [m]) if hasattr(t, "columns")]
    for axis in ("columns", "index"):
        orders = {tuple(getattr(table, axis)) for table in tables}
        if len({frozenset(order) for order in orders}) < len(orders):
            what = {"columns": "columns", "index": "rows"}[axis]
            raise ConfigError(f"two tables of scores hold the same {what} in another order; give all alike.")


def check_whole(name: str, value: int, *, minimum: int) -> None:
    """Raise a CsraError for what is no whole number, or one below the minimum."""
    if not isinstance(value, int | np.integer) or value < minimum:
        raise ConfigError(f"{name} must be a whole number from {minimum}, not {value!r}.")


def _points(low: float, high: float) -> tuple[str, str]:
    """Both in points, with one decimal, or up to three so that what is not 0 does not read as 0."""
    values = (100 * low, 100 * high)
    digits = next((d for d in (1, 2) if all(v == 0 or round(v, d) != 0 for v in values)), 3)
    lower, upper = (f"{round(v, digits) + 0.0:.{digits}f}" for v in values)  # + 0.0: no "-0.0"
    return lower, upper


def critical_t(confidence: float, comparisons: int, freedom: float) -> float:
    """t such that a t variable lies further from 0 with probability (1 - confidence) / comparisons."""
    if not (isinstance(confidence, Real) and 0 < confidence < 1):
        raise ConfigError(f"confidence must lie between 0 and 1, for instance 0.95, not {confidence!r}.")
    return _quantile(float(confidence), comparisons, freedom)


@cache
def _quantile(confidence: float, comparisons: int, freedom: float) -> float:
    return -float(stdtrit(freedom, (1 - confidence) / comparisons / 2))
