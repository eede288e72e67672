"""When does a head help? The gain against object size, number of objects and number of labels in the image.

A condition keeps part of the truth and ignores the rest, so that the metrics and their comparison need no other code:

    size       a class's positives count where its largest object covers this share of the image; the negatives stay,
               so rows differ in how hard the positives are, and in nothing else
    objects    only the images with this many objects count
    labels     only the images with this many labels count
"""

import itertools
import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from csra_lab.datasets import MultiLabelDataset
from csra_lab.datasets.images import image_size
from csra_lab.significance import compare

SIZES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0)
"""Bounds of the share of the image that the largest object of a class covers."""
COUNTS = {"objects": (1, 2, 4, 7, math.inf), "labels": (1, 2, 3, math.inf)}
"""First number of each bin, and infinity."""
MIN_POSITIVES = 20
"""A bin with fewer positives over all classes says nothing, and is left out."""


def largest_shares(dataset: MultiLabelDataset) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The share of image n that the largest object of class c covers, (N, C), 0 for none; and (N,) objects.

    Objects marked difficult are passed over, as the targets pass over them.
    """
    shares = np.zeros((len(dataset), len(dataset.classes)))
    counts = np.zeros(len(dataset), dtype=np.int64)
    for i, path in enumerate(dataset.paths):
        pixels = math.prod(image_size(path))
        for box in dataset.boxes(i):
            if not box.difficult:
                c = dataset.classes.index(box.name)
                area = max(box.xmax - box.xmin, 0) * max(box.ymax - box.ymin, 0)
                shares[i, c] = max(shares[i, c], min(area / pixels, 1.0))
                counts[i] += 1
    return shares, counts


def targets_by_condition(
    targets: NDArray[np.int8], shares: NDArray[np.float64], counts: NDArray[np.int64]
) -> dict[tuple[str, str], NDArray[np.int8]]:
    """(condition, bin) -> (N, C) targets in which all that does not count is ignored."""
    bins = {}
    for low, high in itertools.pairwise(SIZES):
        outside = (targets == 1) & ((shares <= low) | (shares > high))
        bins["size", f"{100 * low:g} to {100 * high:g} %"] = np.where(outside, -1, targets)
    labels = (targets == 1).sum(axis=1)
    for condition, numbers in (("objects", counts), ("labels", labels)):
        for low, high in itertools.pairwise(COUNTS[condition]):
            last = high - 1
            name = f"{low} or more" if math.isinf(high) else f"{low}" if last == low else f"{low} to {last}"
            outside = (numbers < low) | (numbers >= high)
            bins[condition, name] = np.where(outside[:, None], -1, targets)
    return {key: of_bin.astype(np.int8) for key, of_bin in bins.items() if (of_bin == 1).sum() >= MIN_POSITIVES}


def gains(scores: dict[str, NDArray], pairs: list[tuple[str, str]], dataset: MultiLabelDataset) -> pd.DataFrame:
    """Every pair of methods compared under every condition.

    Args:
        scores: method -> (S, N, C). pairs: (method, the one that it is compared with).
        dataset: with boxes.

    Returns:
        A line for each condition, bin and pair: positives, images and what `significance.compare` found, corrected
        for the number of lines of its condition.
    """
    shares, counts = largest_shares(dataset)
    conditions = targets_by_condition(dataset.targets, shares, counts)
    bins_of = pd.Series([condition for condition, _ in conditions]).value_counts()
    lines = []
    for (condition, name), targets in conditions.items():
        # A class without a positive here drops out of the mean, and images that count for nothing are left out.
        seen = (targets >= 0).any(axis=1)
        classes = (targets == 1).any(axis=0)
        part = np.ix_(seen, classes)
        for method, reference in pairs:
            a, b = (scores[m][:, seen][:, :, classes] for m in (reference, method))
            result = compare(a, b, targets[part], comparisons=int(bins_of[condition]) * len(pairs))
            line: dict[str, object] = {"condition": condition, "bin": name, "label": method, "against": reference}
            line |= {"positives": int((targets == 1).sum()), "pictures": int(seen.sum())}
            lines.append(line | result.to_dict() | {"verdict": result.verdict(method, reference)})
    return pd.DataFrame(lines)


def parts_of_mAP(
    scores: NDArray, targets: NDArray[np.integer], groups: NDArray[np.integer], weights: NDArray[np.integer]
) -> NDArray[np.float64]:
    """The part of the mAP that each group of positives gives. The parts add up to the mAP.

    The average precision of a class is the mean, over its positives, of the precision at the rank of each
    (scikit-learn's definition). So a sum over some of its positives is their part of it.

    Args:
        scores: (S, N, C). targets: (N, C) of 1, 0 and -1 (ignore).
        groups: (N, C) the group of each positive, from 0; elsewhere not read.
        weights: (R, N) how often each image is there, see `significance.draw_images`.

    Returns:
        (G, S, R) parts, fractions. A class without a positive in a draw is left out of that draw's mean.
    """
    present = np.flatnonzero((targets == 1).any(axis=0))
    total = np.stack([weights[:, targets[:, c] == 1].sum(axis=1) for c in present])  # (C, R)
    classes = (total > 0).sum(axis=0)  # (R,)
    parts = np.zeros((int(groups[targets == 1].max()) + 1, len(scores), len(weights)))
    for (s, of_seed), (k, c) in itertools.product(enumerate(scores), enumerate(present)):
        counted = np.flatnonzero(targets[:, c] >= 0)
        ranked = counted[np.argsort(-of_seed[counted, c], kind="stable")]
        falling = -of_seed[ranked, c]
        last = np.searchsorted(falling, falling, side="right") - 1  # images with equal scores share a place
        drawn, positive = weights[:, ranked], targets[ranked, c] == 1  # (R, n), (n,)
        above = drawn.cumsum(axis=1)[:, last]
        hits = (drawn * positive).cumsum(axis=1)[:, last]
        part = drawn * hits / np.maximum(above, 1) / np.maximum(total[k], 1)[:, None] / classes[:, None]
        for g in range(len(parts)):
            parts[g, s] += part[:, positive & (groups[ranked, c] == g)].sum(axis=1)
    return parts
