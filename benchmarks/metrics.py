"""How fast are mAP and the F1s of COCO's test set, 40,137 images x 80 classes? Against scikit-learn and torchmetrics.

All three give the mean of the per-class average precisions, and precision, recall and F1 in both averages. The scores
are distinct, so that nothing depends on how ties are broken.

Predictions. Sorting one class's 40,137 scores takes N log2 N = 0.6 million comparisons, at 1 ns about 0.6 ms, so 50 ms
for 80 classes; all else passes over the 3.2 million scores and targets some ten times at a few bytes each, 20 ms.
scikit-learn sorts each class too and spends about 10 ms a class on checking and on its curve, 0.8 s, and a quarter
of that on precision, recall and F1: 15 times ours. torchmetrics keeps the scores as tensors and sorts
each class the same way, with few checks: 5 times. Time grows with N but for the logarithm, a slope of 1.05; memory in
proportion, a slope of 1: a transposed copy of scores and targets and a few masks, some 10 bytes a score.
"""

import json
import math
import sys
import warnings
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from machine import frugal, options, peak_memory, report, take_turns
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from torchmetrics.functional.classification import (
    multilabel_average_precision,
    multilabel_f1_score,
    multilabel_precision,
    multilabel_recall,
)

from csra_lab.metrics import multilabel_metrics

IMAGES, CLASSES = 40_137, 80
SIZES = (5_000, 10_000, 20_000, 40_000, 80_000)


def scores_and_targets(images: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """COCO's density, 2.9 labels an image, and scores that know something of them."""
    rng = np.random.default_rng(0)
    targets = (rng.random((images, classes)) < 2.9 / 80).astype(np.int8)
    targets[:1] = 1
    logits = rng.normal(size=(images, classes)) + 2 * targets - 1
    return (1 / (1 + np.exp(-logits))).astype(np.float32), targets


def ours(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    found = multilabel_metrics(scores, targets)
    return {name: getattr(found, name) for name in ("mAP", "CP", "CR", "CF1_macro", "OP", "OR", "OF1")}


def scikit_learn(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Average precision class by class, as its manual shows."""
    per_class = [average_precision_score(targets[:, c], scores[:, c]) for c in range(targets.shape[1])]
    predicted = scores >= 0.5
    options = {"zero_division": 0}
    CP, CR, CF1, _ = precision_recall_fscore_support(targets, predicted, average="macro", **options)
    OP, OR, OF1, _ = precision_recall_fscore_support(targets, predicted, average="micro", **options)
    return {"mAP": np.mean(per_class), "CP": CP, "CR": CR, "CF1_macro": CF1, "OP": OP, "OR": OR, "OF1": OF1}


def torchmetrics(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    s, t = torch.from_numpy(scores), torch.from_numpy(targets).long()
    number = targets.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {"mAP": multilabel_average_precision(s, t, num_labels=number, average="macro")}
        for average, prefix, f1 in (("macro", "C", "CF1_macro"), ("micro", "O", "OF1")):
            found[prefix + "P"] = multilabel_precision(s, t, num_labels=number, average=average)
            found[prefix + "R"] = multilabel_recall(s, t, num_labels=number, average=average)
            found[f1] = multilabel_f1_score(s, t, num_labels=number, average=average)
    return {name: float(value) for name, value in found.items()}


CANDIDATES = {"csra_lab": ours, "scikit-learn": scikit_learn, "torchmetrics": torchmetrics}


def memory(sizes: Sequence[int], classes: int) -> list[list[int | None]]:
    """Peak bytes of every candidate at the first size, then of ours at every size."""
    whole = scores_and_targets(sizes[0], classes)
    found = [[peak_memory(partial(f, *whole)) for f in CANDIDATES.values()]]
    return [*found, *([peak_memory(partial(ours, *scores_and_targets(n, classes)))] for n in sizes[1:])]


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the straight line through the points on logarithmic axes."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def main(argv: Sequence[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    images, classes, sizes = (200, 5, (100, 200, 400)) if chosen.tiny else (IMAGES, CLASSES, SIZES)
    if chosen.part == "memory":
        print(json.dumps(memory((images, *sizes), classes)))
        return []
    held = frugal([__file__, "--part", "memory", *["--tiny"] * chosen.tiny])
    repeats = 1 if chosen.tiny else 3
    pair = scores_and_targets(images, classes)
    best = take_turns({name: partial(f, *pair) for name, f in CANDIDATES.items()}, repeats=repeats)
    predicted = {"csra_lab": 1.0, "scikit-learn": 15.0, "torchmetrics": 5.0}
    rows = [
        {
            "part": f"{images} images x {classes} classes",
            "by": name,
            "seconds": best[name],
            "times_ours": best[name] / best["csra_lab"],
            "predicted": predicted[name],
            "memory_mb": use and use / 1e6,
        }
        for name, use in zip(CANDIDATES, held[0], strict=True)
    ]
    growing = [
        (n, take_turns({"ours": partial(ours, *scores_and_targets(n, classes))}, repeats=repeats)["ours"], use[0])
        for n, use in zip(sizes, held[1:], strict=True)
    ]
    known = all(use for *_, use in growing)
    rows += [
        {
            "part": f"growth with the images, {classes} classes",
            "images": n,
            "seconds": seconds,
            "memory_mb": use and use / 1e6,
            "bytes_a_score": use and use / (n * classes),
        }
        for n, seconds, use in growing
    ]
    ns = [n for n, *_ in growing]
    slopes = {
        "seconds": slope(ns, [s for _, s, _ in growing]),
        "memory": slope(ns, [use for *_, use in growing]) if known else math.nan,
    }
    rows += [
        {
            "part": "slopes on logarithmic axes",
            "of": name,
            "slope": value,
            "predicted": 1.05 if name == "seconds" else 1.0,
        }
        for name, value in slopes.items()
    ]
    return report("metrics", rows, chosen)


if __name__ == "__main__":
    main(sys.argv[1:])
