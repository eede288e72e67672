"""Boxes from maps, for a classifier that never saw a box: threshold, connected parts, CorLoc and mAP.

Rectangles are fractions of the image's sides, as in `localization`. The protocol is VOC's (Everingham et al.,
IJCV 2010): a detection takes the box of its class that it overlaps most. It is right where their intersection over
union is at least 0.5 and no better detection took that box; difficult boxes are neither right nor wrong.
"""

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from csra_lab.errors import ConfigError
from csra_lab.study.localization import Objects, Pairs, activation_maps, attention_maps, padded_rows

TOUCHING = np.zeros((3, 3, 3), dtype=bool)  # of cells of (P, h, w): at their sides, and never from mask to mask
TOUCHING[1] = [[False, True, False], [True, True, True], [False, True, False]]


@dataclass(frozen=True)
class Parts:
    """The connected parts of P masks, mask by mask, largest first.

    Attributes:
        mask: (D,) which mask the part belongs to.
        corners: (D, 4) the box around it, in fractions of the sides.
        area: (D,) the share of the image that the part covers.
        best: (D,) the largest value of its map.
    """

    mask: NDArray[np.int64]
    corners: NDArray[np.float64]
    area: NDArray[np.float64]
    best: NDArray[np.float32]


@dataclass(frozen=True)
class Detections:
    """D boxes, each with a class and a score.

    Attributes:
        image, label: (D,) which image, and which class. corners: (D, 4). score: (D,) larger is surer.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    corners: NDArray[np.float64]
    score: NDArray[np.float64]


def upsampled(maps: Tensor, size: int) -> Tensor:
    """(P, h, w) maps -> (P, size, size), bilinear between the cells' centres and constant outside them."""
    return F.interpolate(maps[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]


def connected_parts(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The connected parts of every mask; cells touch at their sides, not at corners.

    Args:
        mask: (P, h, w).

    Returns:
        (R, 4) the runs (stretches of neighbouring cells in a row) in order: mask, row, first column, and one past the
        last; and (R,) the part of each, 0 .. D - 1 in the order of their first runs.
    """
    labels, _ = ndimage.label(mask, structure=TOUCHING)  # (P, h, w) 1 .. D, 0 outside the masks
    starts = mask & ~np.pad(mask, ((0, 0), (0, 0), (1, 0)))[:, :, :-1]  # the left neighbour is not in the mask
    ends = mask & ~np.pad(mask, ((0, 0), (0, 0), (0, 1)))[:, :, 1:]
    picture, row, first = np.nonzero(starts)
    runs = np.stack([picture, row, first, np.nonzero(ends)[2] + 1], axis=1)  # (R, 4)
    return runs, labels[starts].astype(np.int64) - 1


def parts_above(maps: Tensor, threshold: float, *, size: int = 56) -> Parts:
    """The connected parts of each map where it reaches `threshold` times its own maximum.

    Args:
        maps: (P, h, w) maps >= 0, such as `activation_maps` or `attention_maps`.
        threshold: in (0, 1]. size: side of the grid to which maps are upsampled before.

    Raises:
        CsraError: a threshold outside its range, or maps that are not finite.
    """
    maps = maps.detach()
    if not maps.isfinite().all():
        raise ConfigError("a map holds a number that is not finite, so it has no part to box.")
    if not 0 < threshold <= 1:
        raise ConfigError(f"the threshold is a share of the map's maximum, above 0 and at most 1, not {threshold}.")
    fine = upsampled(maps, size).numpy()
    runs, part = connected_parts(fine >= threshold * fine.max(axis=(1, 2), keepdims=True))
    picture, row, first, last = runs.T
    parts = int(part.max(initial=-1)) + 1
    low, high = np.full((parts, 2), size), np.zeros((parts, 2), dtype=np.int64)
    for axis, (start, stop) in enumerate(((first, last), (row, row + 1))):
        np.minimum.at(low[:, axis], part, start)
        np.maximum.at(high[:, axis], part, stop)
    mask, best = np.zeros(parts, dtype=np.int64), np.zeros(parts, dtype=fine.dtype)
    mask[part] = picture
    begin = (picture * size + row) * size + first  # (R,) where each run starts in the flat maps
    ends = np.stack([begin, begin + last - first], axis=1).ravel()
    values = np.append(fine.ravel(), 0)  # reduceat needs a cell after the last run
    np.maximum.at(best, part, np.maximum.reduceat(values, ends)[::2])
    area = np.bincount(part, weights=last - first, minlength=parts) / size**2
    order = np.lexsort((-area, mask))
    corners = np.concatenate([low, high], axis=1) / size  # (D, 4)
    return Parts(mask[order], corners[order], area[order], best[order])


def largest_boxes(parts: Parts) -> NDArray[np.float64]:
    """(P, 4) the box around the largest part of each map; every map has one, since it reaches its own maximum."""
    return parts.corners[np.unique(parts.mask, return_index=True)[1]]


def boxes_of(scores: Tensor, temperature: float | None, threshold: float, *, size: int = 56) -> NDArray[np.float64]:
    """(P, h, w) score maps -> (P, 4) the box around the largest part of the attention map, or of the CAM for None."""
    maps = activation_maps(scores) if temperature is None else attention_maps(scores, temperature)
    return largest_boxes(parts_above(maps, threshold, size=size))


def overlap(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """Intersection over union of boxes (..., 4) and (..., 4), broadcast; 0 for rows of NaN.

    To nine decimals, so that a half is a half in fractions of a side as it is in pixels.
    """
    wide = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    high = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    both = np.maximum(wide, 0) * np.maximum(high, 0)
    area_a, area_b = ((x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b))
    return np.nan_to_num(both / (area_a + area_b - both)).round(9)


def localised(boxes: NDArray, truth: NDArray, *, least: float = 0.5) -> NDArray[np.bool_]:
    """CorLoc's question for each pair: does the one box overlap one of the objects by `least` (Deselaers et al., 2010)?

    Args:
        boxes: (P, 4). truth: (P, K, 4), `Pairs.boxes`.

    Returns:
        (P,); CorLoc is the mean.
    """
    return overlap(boxes[:, None], truth).max(axis=1) >= least


def outcomes(boxes: NDArray, pairs: Pairs) -> NDArray[np.str_]:
    """(P,) what became of each pair's one box: found, too large, too small, or elsewhere (IoU below 0.1)."""
    overlaps = overlap(boxes[:, None], pairs.boxes)  # (P, K)
    best = overlaps.argmax(axis=1)
    chosen = pairs.boxes[np.arange(len(pairs)), best]
    iou = overlaps.max(axis=1)
    area, wanted = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, chosen))
    return np.select([iou >= 0.5, iou < 0.1, area > wanted], ["found", "elsewhere", "too large"], "too small")


def match(
    detections: Detections, objects: Objects, *, least: float = 0.5
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """VOC's verdict on every detection.

    Returns:
        (D,) the detections by falling score, and in this order (D,) 1 right, 0 wrong, -1 not counted.
    """
    order = np.argsort(-detections.score, kind="stable")
    if not len(objects.label):
        return order, np.zeros(len(order), dtype=np.int8)
    classes = int(max(objects.label.max(initial=0), detections.label.max(initial=0))) + 1
    keys = objects.image * classes + objects.label  # (M,)
    groups, group = np.unique(keys, return_inverse=True)
    candidates = padded_rows(objects.corners, group, len(groups))  # (G, K, 4)
    numbers = padded_rows(np.repeat(np.arange(len(keys))[:, None], 4, axis=1).astype(float), group, len(groups))[..., 0]
    wanted = detections.image[order] * classes + detections.label[order]  # (D,)
    place = np.minimum(np.searchsorted(groups, wanted), len(groups) - 1)
    overlaps = overlap(detections.corners[order][:, None], candidates[place])  # (D, K)
    overlaps[groups[place] != wanted] = 0  # no object of this class in this image
    choice = overlaps.argmax(axis=1)
    found = overlaps[np.arange(len(order)), choice] >= least
    which = np.where(found, numbers[place, choice], -1).astype(np.int64)  # (D,) number of the object
    first = np.zeros(len(order), dtype=bool)
    first[np.unique(which, return_index=True)[1]] = True
    verdict = (found & first).astype(np.int8)
    verdict[found & objects.difficult[which]] = -1
    return order, verdict


def detection_precision(
    detections: Detections, objects: Objects, *, least: float = 0.5, weights: NDArray | None = None
) -> NDArray[np.float64]:
    """AP of each class: the area under the monotone envelope of precision against recall (VOC from 2010 on).

    Args:
        weights: (R, N) how often each image is there, for a bootstrap; None for once.

    Returns:
        (C,) APs of the classes 0 .. C - 1, C the largest label and one; NaN for a class without an object that is not
        difficult. With weights (R, C).
    """
    times = np.ones((1, objects.num_images)) if weights is None else np.asarray(weights)
    order, verdict = match(detections, objects, least=least)
    counted = verdict >= 0
    order, right = order[counted], verdict[counted] == 1
    plain = ~objects.difficult
    classes = int(max(objects.label.max(initial=0), detections.label.max(initial=0))) + 1
    result = np.full((len(times), classes), np.nan)
    for c in range(classes):
        of_class = detections.label[order] == c
        drawn = times[:, detections.image[order[of_class]]].astype(np.float64)  # (R, D)
        hits = right[of_class]
        found, seen = (drawn * hits).cumsum(axis=1), drawn.cumsum(axis=1)
        precision = found / np.maximum(seen, 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        total = times[:, objects.image[plain & (objects.label == c)]].sum(axis=1)  # (R,)
        with np.errstate(invalid="ignore"):
            result[:, c] = (envelope * drawn * hits).sum(axis=1) / np.where(total > 0, total, np.nan)
    return result[0] if weights is None else result
