"""Precision, recall and calibration, which mAP does not see: at a threshold of 0.5, and at one chosen for each class.

Average pooling, the four lines on it, and CSRA, each trained on four fifths of the training images; the last fifth
chooses lambda of the four lines and the thresholds. The record is a folder of

run.json      question, recipes, lambda of each seed, data, versions
results.csv   method, seed, thresholds (0.5 or per class), and the metrics of `MEASURED` (fractions)
compared.csv  what is compared, its metric, and the difference with its interval; all hold together
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from csra_lab._io import strict_json
from csra_lab._io.atomic_write import atomic_write
from csra_lab.heads import ScoreMapHead, four_lines_head
from csra_lab.metrics import average_precision
from csra_lab.significance import difference_errors, draw_images, once_and_drawn
from csra_lab.study.calibration import BINS
from csra_lab.study.experiments import describe, drawn_together, source_features
from csra_lab.study.head_stack import learnt, score_heads, train_heads
from csra_lab.study.own_best import AVERAGE, CSRA, METHODS
from csra_lab.study.plans import FOUR_LINES, SOURCES
from csra_lab.thresholds import choose_thresholds
from csra_lab.training.feature_cache import FeatureMaps
from csra_lab.training.run_folder import environment
from csra_lab.training.sampling import hold_out

LINES = "four lines"
HALF, PER_CLASS = "0.5", "per class"
CALIBRATION = "calibration error"
MEASURED = ("CP", "CR", "CF1", "OP", "OR", "OF1", CALIBRATION)


def record_operating_points(
    source: str, out: Path, *, data: Path | None = None, seeds: int = 5, resamples: int = 1000
) -> Path:
    """Train, choose, measure, and write `out`/`source`, whole or not at all.

    Args:
        source: a key of `plans.SOURCES`. data: folder of the images, where the source has some.
        seeds: runs of each head. resamples: draws of the bootstrap.
    """
    where = SOURCES[source]
    sets, maps = source_features(where, data)
    fit, held_out = hold_out(sets["trainval"], 0.2)
    recipes = [
        where.recipe(name, **METHODS[name].changes, seed=seed) for name in (AVERAGE, CSRA) for seed in range(seeds)
    ]
    train, test = maps["trainval"], maps[where.splits[0]]
    heads = [t.head for t in learnt(train_heads(recipes, train, fit=fit))]
    held = train.subset(held_out)
    lines, lams = with_four_lines(heads[:seeds], held)
    groups = drawn_together(where, sets[where.splits[0]])
    weights = once_and_drawn(draw_images(len(test), groups=groups, resamples=resamples))
    methods = {AVERAGE: heads[:seeds], LINES: lines, CSRA: heads[seeds:]}
    found = operating_points(methods, held, test, weights)
    run = {
        "question": "What do the residuals do to precision, recall and calibration?",
        "source": {"name": source, **dataclasses.asdict(where)},
        "recipes": {r.name: r.to_json() for r in recipes if r.run.seed == 0},
        "lam of the four lines": lams,
        "seeds": seeds,
        "data": {split: describe(dataset) for split, dataset in sets.items()},
        "environment": environment(torch.device("cpu")),
    }
    folder = Path(out) / source
    with atomic_write(folder) as path:
        path.mkdir(parents=True)
        strict_json.write(path / "run.json", run, indent=1)
        pd.DataFrame(_lines(found)).to_csv(path / "results.csv", index=False, float_format="%.6f")
        table = pd.DataFrame(compared(found, len(test) if groups is None else len(np.unique(groups))))
        table.to_csv(path / "compared.csv", index=False, float_format="%.6f")
    return folder


def with_four_lines(heads: list[ScoreMapHead], held: FeatureMaps) -> tuple[list[ScoreMapHead], list[float]]:
    """Every head with the four lines, and the lambda of each: that of the best mAP on held-out images."""
    chosen: list[ScoreMapHead] = []
    lams: list[float] = []
    for head in heads:
        scores = score_heads([four_lines_head(head, lam) for lam in FOUR_LINES], held)
        best = int(np.argmax([np.nanmean(average_precision(s, held.targets)) for s in scores]))
        lams.append(FOUR_LINES[best])
        chosen.append(four_lines_head(head, FOUR_LINES[best]))
    return chosen, lams


def operating_points(
    methods: Mapping[str, list[ScoreMapHead]], held: FeatureMaps, test: FeatureMaps, weights: NDArray
) -> dict[tuple[str, str], NDArray]:
    """(method, thresholds) -> (S, M, 1 + R) of S seeds and the M metrics of `MEASURED`: on the images, and on R draws.

    Args:
        weights: (1 + R, N) how often each test image is there; once in the first row.
    """
    found = {}
    for name, heads in methods.items():
        on_held, on_test = score_heads(heads, held), score_heads(heads, test)  # (S, n, C), (S, N, C)
        chosen = [choose_thresholds(scores, held.targets) for scores in on_held]
        errors = [drawn_calibration(scores, test.targets, weights) for scores in on_test]  # no threshold moves these
        for kind, limits in ((HALF, [0.5] * len(heads)), (PER_CLASS, chosen)):
            found[name, kind] = np.stack([
                np.stack([*drawn_metrics(scores >= limit, test.targets, weights), error])
                for scores, limit, error in zip(on_test, limits, errors, strict=True)
            ])  # fmt: skip
    return found


def drawn_metrics(predicted: NDArray, targets: NDArray, weights: NDArray) -> list[NDArray]:
    """CP, CR, CF1, OP, OR and OF1 of (N, C) predictions, each (R,) on R draws of the images."""
    times, known, positive = weights.astype(np.float64), targets >= 0, targets == 1
    correct, chosen, true = (times @ m for m in (predicted & positive, predicted & known, positive))  # (R, C) each
    counted = true > 0
    share = np.where(counted, correct / np.maximum(chosen, 1), 0), correct / np.maximum(true, 1)
    CP, CR = (each.sum(axis=1) / counted.sum(axis=1) for each in share)
    correct, chosen, true = (each.sum(axis=1) for each in (correct, chosen, true))  # (R,)
    return [CP, CR, _f1(CP, CR), correct / np.maximum(chosen, 1), correct / true, 2 * correct / (chosen + true)]


def drawn_calibration(scores: NDArray, targets: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """(R,) the calibration error on R draws of the images, see `calibration.calibration_error`."""
    known = targets >= 0
    place = np.minimum((scores * BINS).astype(np.int64), BINS - 1)  # (N, C)
    gap = np.where(known, scores - (targets == 1), 0.0)
    by_image = np.stack([np.where(place == b, gap, 0.0).sum(axis=1) for b in range(BINS)], axis=1)  # (N, BINS)
    times = weights.astype(np.float64)
    return np.abs(times @ by_image).sum(axis=1) / (times @ known.sum(axis=1))


def compared(found: Mapping[tuple[str, str], NDArray], units: int) -> Iterator[dict]:
    """CSRA and the four lines against average pooling, and class thresholds against 0.5; all intervals hold together.

    Args:
        found: see `operating_points`. units: how many images, or groups drawn together, were drawn from.
    """
    shown = [MEASURED.index(key) for key in ("CF1", "OF1", "OP", "OR")]
    rows = [
        ((method, kind), (AVERAGE, kind), m)
        for method in (LINES, CSRA)
        for kind in (HALF, PER_CLASS)
        for m in (*shown, *([MEASURED.index(CALIBRATION)] if kind == HALF else []))
    ]
    rows += [((method, PER_CLASS), (method, HALF), m) for method in (AVERAGE, LINES, CSRA) for m in shown[:2]]
    for b, a, m in rows:
        difference = found[b][:, m] - found[a][:, m]  # (S, 1 + R)
        seen, draws = difference[:, 0], difference[:, 1:]
        *_, half = difference_errors([(seen, draws)], draws.mean(axis=0), units=units, comparisons=len(rows))
        yield {
            "method": b[0], "thresholds": b[1], "against": a[0], "against_thresholds": a[1], "metric": MEASURED[m],
            "difference": seen.mean(), "lower": seen.mean() - half, "upper": seen.mean() + half,
            "covers": "for other test images and seeds", "comparisons": len(rows),
        }  # fmt: skip


def _lines(found: Mapping[tuple[str, str], NDArray]) -> Iterator[dict]:
    for (method, kind), values in found.items():
        for seed, of_seed in enumerate(values[:, :, 0]):
            yield {"method": method, "seed": seed, "thresholds": kind} | dict(zip(MEASURED, of_seed, strict=True))


def _f1(precision: NDArray, recall: NDArray) -> NDArray[np.float64]:
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)
