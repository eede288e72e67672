"""Many claims about mAP at once: intervals that hold together, and words for the chance that they cover.

A table of ten differences, each at 95 %, has a wrong interval more often than one time in twenty. Here every claim of a
table, or of all tables on one test set, is measured in one call, each at 1 - (1 - confidence) / claims (Bonferroni).

A measured difference moves with the test images, with the seed, and with the training images. The first two are those
of `significance`. For the third, both methods are trained again on K bootstrap samples of the training images, each
with its own seed; the spread of the K differences is one run's standard error, for new training images and a new seed
together. It is not divided by the number of seeds, since all seeds of the measured runs saw the same training images.
Where the seeds' own part is larger, that stands, so that no interval is narrower than without the third source.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from csra_lab.errors import ConfigError
from csra_lab.significance import (
    MeanOver,
    check_one_order,
    check_whole,
    critical_t,
    difference_errors,
    draw_images,
    once_and_drawn,
    weighted_mAP,
    without_gradients,
)


@dataclass(frozen=True)
class Claim:
    """A weighted sum of mAPs to be measured: a difference, or a difference of differences.

    Attributes:
        name: what is asked, for a table: "CSRA - average pooling".
        terms: label of a method -> its weight; the weights add up to 0.

    Raises:
        CsraError: they do not, one is not finite, or there is none.
    """

    name: str
    terms: tuple[tuple[str, float], ...]

    def __post_init__(self):
        if not self.terms:
            raise ConfigError(f"the claim {self.name!r} names no method; give it two, with weights 1 and -1.")
        if not all(math.isfinite(weight) for _, weight in self.terms):
            raise ConfigError(f"the weights of the claim {self.name!r} must be finite numbers.")
        if abs(sum(weight for _, weight in self.terms)) > 1e-9:
            raise ConfigError(f"the weights of a claim must add up to 0, and those of {self.name!r} do not.")

    @classmethod
    def difference(cls, b: str, a: str) -> "Claim":
        """Is b better than a?"""
        return cls(f"{b} - {a}", ((b, 1.0), (a, -1.0)))

    @classmethod
    def interaction(cls, name: str, b: str, a: str, d: str, c: str) -> "Claim":
        """Is b's gain over a larger than d's over c?"""
        return cls(name, ((b, 1.0), (a, -1.0), (d, -1.0), (c, 1.0)))


@dataclass(frozen=True)
class MeasuredClaim:
    """A claim with its interval. Differences and errors are fractions of mAP, not points.

    Attributes:
        difference, lower, upper: the estimate and its interval, which holds together with those of all `claims`.
        image_error: standard error from the test images. run_error: from seeds, or from training images and a seed.
        covers: the sources of chance in the interval, in words.
        mean_over: classes or positives. confidence, claims: that all `claims` intervals hold.
    """

    name: str
    difference: float
    lower: float
    upper: float
    image_error: float
    run_error: float
    covers: str
    mean_over: MeanOver
    confidence: float
    claims: int

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.lower > 0 or self.upper < 0

    def verdict(self) -> str:
        """One sentence in points of mAP, with what its interval covers."""
        low, high = 100 * self.lower, 100 * self.upper
        what = "above 0" if self.lower > 0 else "below 0" if self.upper < 0 else "not distinguishable from 0"
        return f"{self.name} is {what}: {100 * self.difference:.1f} ({low:.1f} to {high:.1f}) points, {self.covers}."

    def to_dict(self) -> dict:
        """The attributes by name, and the verdict: a line of a table."""
        return asdict(self) | {"verdict": self.verdict()}


def measure_claims(
    claims: Sequence[Claim],
    scores: Mapping[str, ArrayLike],
    targets: ArrayLike,
    *,
    resampled: Mapping[str, ArrayLike] | None = None,
    groups: ArrayLike | None = None,
    mean_over: MeanOver = "classes",
    resamples: int = 1000,
    confidence: float = 0.95,
    comparisons: int | None = None,
    seed: int = 0,
) -> list[MeasuredClaim]:
    """Every claim with an interval, all of which hold together.

    Args:
        claims: what is asked; Bonferroni's correction counts all of them.
        scores: label -> (S, N, C), run i of every method with the same seed.
        targets: (N, C) of 1, 0 and -1 (ignore).
        resampled: label -> (K, N, C), the same methods trained on K bootstrap samples of the training images; a claim
            all of whose methods are here covers the training images too. Sample i is the same for all methods; where
            one has more of them, a claim takes those that all its methods have.
        groups, resamples, seed: how the test images are drawn, see `draw_images`.
        mean_over: see `weighted_mAP`. confidence: that every interval holds.
        comparisons: how many intervals are to hold together, where this is a part of a larger table.

    Raises:
        CsraError: a label without scores, runs of unequal or too small number, and what `weighted_mAP` raises.
    """
    resampled, comparisons = resampled or {}, _checked_comparisons(claims, comparisons)
    used = dict.fromkeys(label for claim in claims for label, _ in claim.terms)
    scores, resampled = ({k: without_gradients(v) for k, v in runs.items()} for runs in (scores, resampled))
    _check(used, scores, resampled)
    try:
        num_images = np.shape(targets)[0]
    except (IndexError, TypeError, ValueError) as error:
        raise ConfigError("targets must be numbers, (images, classes), with rows of one length.") from error
    weights = draw_images(num_images, groups=groups, resamples=resamples, seed=seed)
    units = num_images if groups is None else len(np.unique(np.asarray(groups)))
    rows = once_and_drawn(weights)
    mAPs = {label: weighted_mAP(scores[label], targets, rows, mean_over=mean_over) for label in used}  # (S, 1 + R)
    again = {k: weighted_mAP(resampled[k], targets, rows[:1], mean_over=mean_over) for k in used if k in resampled}
    return claims_from_draws(
        claims, mAPs, units=units, resampled={label: each[:, 0] for label, each in again.items()},
        mean_over=mean_over, confidence=confidence, comparisons=comparisons,
    )  # fmt: skip


def claims_from_draws(
    claims: Sequence[Claim],
    mAPs: Mapping[str, NDArray],
    *,
    units: int,
    resampled: Mapping[str, NDArray] | None = None,
    mean_over: MeanOver = "classes",
    confidence: float = 0.95,
    comparisons: int | None = None,
) -> list[MeasuredClaim]:
    """Every claim with an interval, from mAPs that were measured before: see `measure_claims`.

    Args:
        mAPs: label -> (S, 1 + R): of S runs on the test images as they are, then on R draws of them, the same for all.
        units: how many images, or groups of them, were drawn from.
        resampled: label -> (K,) mAPs of the same methods trained on K bootstrap samples of the training images; see
            `measure_claims`.
    """
    again, comparisons = resampled or {}, _checked_comparisons(claims, comparisons)
    measured = []
    for claim in claims:
        runs = _combined(claim, mAPs)  # (S, 1 + R)
        seen, draws = runs[:, 0], runs[:, 1:]
        options: dict[str, Any] = {"units": units, "confidence": confidence, "comparisons": comparisons}
        by_images, by_seeds, half = difference_errors([(seen, draws)], draws.mean(axis=0), **options)
        covers, run_error = "for other test images and seeds", math.sqrt(by_seeds)
        if all(label in again for label, _ in claim.terms):
            common = min(len(again[label]) for label, _ in claim.terms)
            spread = _combined(claim, {label: again[label][:common] for label, _ in claim.terms})  # (K,)
            run_error = float(spread.std(ddof=1))
            by_runs = critical_t(confidence, comparisons, len(spread) - 1) * run_error
            by_seed_runs = critical_t(confidence, comparisons, len(seen) - 1) * math.sqrt(by_seeds)
            half = math.sqrt(half**2 - by_seed_runs**2 + max(by_runs, by_seed_runs) ** 2)  # never below seeds alone
            covers = "for other test images, training images and seeds"
        difference = float(seen.mean())
        measured.append(
            MeasuredClaim(claim.name, difference, difference - half, difference + half, math.sqrt(by_images), run_error,
                          covers, mean_over, float(confidence), comparisons)
        )  # fmt: skip
    return measured


def _combined(claim: Claim, mAPs: Mapping[str, NDArray]) -> NDArray[np.float64]:
    return sum((weight * mAPs[label] for label, weight in claim.terms), start=np.zeros(()))


def _checked_comparisons(claims: Sequence[Claim], comparisons: int | None) -> int:
    """How many intervals are to hold together; a CsraError for no number of them."""
    comparisons = max(1, len(claims)) if comparisons is None else comparisons
    check_whole("comparisons", comparisons, minimum=1)
    return comparisons


def _check(used, scores: Mapping[str, ArrayLike], resampled: Mapping[str, ArrayLike]) -> None:
    missing = [label for label in used if label not in scores]
    if missing:
        raise ConfigError(f"a claim names {missing[0]!r}, which has no scores.")
    check_one_order(*(runs[label] for runs in (scores, resampled) for label in used if label in runs))
    for runs in (scores, resampled):
        odd = next((label for label in used if label in runs and np.ndim(runs[label]) != 3), None)
        if odd is not None:
            raise ConfigError(f"{odd!r} needs scores (runs, images, classes), not of shape {np.shape(runs[odd])}.")
    counts = {label: np.shape(scores[label])[0] for label in used}
    if len(set(counts.values())) > 1 or min(counts.values(), default=2) < 2:
        raise ConfigError(f"scores must hold as many runs of each method, at least 2, not {counts}.")
    counts = {label: np.shape(resampled[label])[0] for label in used if label in resampled}
    if min(counts.values(), default=2) < 2:
        raise ConfigError(f"resampled must hold at least 2 runs of each method, not {counts}.")
