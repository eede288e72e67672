"""Where a classifier looks, and whether the object is there: maps of every class, measured against boxes.

Rectangles are (xmin, ymin, xmax, ymax) in fractions of the image's width and height. A network sees its image
resized to a square, which moves no fraction, so boxes and maps of any image lie in one unit square. The cell (i, j)
of an (h, w) map is the rectangle from (j/w, i/h) to ((j+1)/w, (i+1)/h).

What is measured, on every pair of an image and a class that it shows:

    pointing   whether the best cell's centre lies in a box of the class (Zhang et al., ECCV 2016)
    mass       the share of the map that lies in the boxes of the class, a cell's value spread evenly over the cell
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csra_lab.datasets import Box, MultiLabelDataset
from csra_lab.datasets.images import image_size
from csra_lab.errors import ConfigError, DataError
from csra_lab.residual_attention import attention_scores


@dataclass(frozen=True)
class Objects:
    """The M objects of N images, image by image.

    Attributes:
        image, label: (M,) which image, and which class.
        corners: (M, 4) fractions of the image's sides.
        difficult: (M,) whether the annotation says so.
        num_images: N.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    corners: NDArray[np.float64]
    difficult: NDArray[np.bool_]
    num_images: int


@dataclass(frozen=True)
class Pairs:
    """The P pairs of an image and a class with an object that is not difficult: what VOC calls present.

    Attributes:
        image, label: (P,) which image, and which class.
        boxes: (P, K, 4) all boxes of the class in the image, difficult ones too, since they show the class as well;
            rows of NaN fill up to K.
        share: (P,) the share of the image that its largest object that is not difficult covers.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    boxes: NDArray[np.float64]
    share: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.image)


def attention_maps(scores: Tensor, temperature: float) -> Tensor:
    """The attention of every class (Eq. 2): (..., h, w) score maps -> (..., h, w), each map summing to 1.

    Args:
        scores: such as (B, heads, C, h, w).
        temperature: T in [0, inf]; `inf` puts all on the best cell.
    """
    return attention_scores(scores.flatten(-2), temperature).view_as(scores)


def activation_maps(scores: Tensor) -> Tensor:
    """Class activation maps (Zhou et al., CVPR 2016): score maps from 0 at the least cell to 1 at the best.

    Args:
        scores: (..., h, w) score maps; for the CAM of the paper, those of an average-pooling head.

    Returns:
        (..., h, w); a flat map is 0 everywhere.
    """
    low, high = scores.amin(dim=(-2, -1), keepdim=True), scores.amax(dim=(-2, -1), keepdim=True)
    span = high - low
    return (scores - low) / torch.where(span > 0, span, torch.ones_like(span))


def objects_of(dataset: MultiLabelDataset) -> Objects:
    """The objects of a data set with boxes; of each image only the annotation and the size are read.

    Raises:
        CsraError: the set has no boxes, or an image is missing.
    """
    boxes, sizes = [], []
    for i, path in enumerate(dataset.paths):
        boxes.append(dataset.boxes(i))
        sizes.append(image_size(path))
    return place_boxes(boxes, sizes, dataset.classes)


def place_boxes(boxes: Sequence[Sequence[Box]], sizes: Sequence[tuple[int, int]], classes: Sequence[str]) -> Objects:
    """Boxes in pixels as objects in fractions, cut off at the image's edge.

    Args:
        boxes: of each image. sizes: (width, height) of each image. classes: names; boxes of others are an error.

    Raises:
        CsraError: a class that is not among `classes`, or a box with no area inside its image.
    """
    number = {name: c for c, name in enumerate(classes)}
    image, label, corners, difficult = [], [], [], []
    for i, (of_picture, (width, height)) in enumerate(zip(boxes, sizes, strict=True)):
        for box in of_picture:
            if box.name not in number:
                raise DataError(f"image {i} has a box of {box.name!r}, which is not among the classes.")
            image.append(i)
            label.append(number[box.name])
            corners.append((box.xmin / width, box.ymin / height, box.xmax / width, box.ymax / height))
            difficult.append(box.difficult)
    cut = np.array(corners, dtype=np.float64).reshape(-1, 4).clip(0, 1)  # (M, 4)
    empty = np.flatnonzero((cut[:, 2:] <= cut[:, :2]).any(axis=1))
    if len(empty):
        m = empty[0]
        raise DataError(f"image {image[m]} has a {classes[label[m]]} box with no area in the image; correct it.")
    return Objects(
        np.array(image, dtype=np.int64), np.array(label, dtype=np.int64), cut, np.array(difficult, bool), len(boxes)
    )


def pairs_of(objects: Objects) -> Pairs:
    """Every image with every class of which it shows an object that is not difficult, in order."""
    classes = int(objects.label.max(initial=0)) + 1
    key = objects.image * classes + objects.label  # (M,) one number for an image and a class
    present = np.unique(key[~objects.difficult])  # (P,)
    member = np.isin(key, present)
    corners, pair = objects.corners[member], np.searchsorted(present, key[member])
    boxes = padded_rows(corners, pair, len(present))
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    share = np.zeros(len(present))
    np.maximum.at(share, pair, np.where(objects.difficult[member], 0, area))
    return Pairs(present // classes, present % classes, boxes, share)


def padded_rows(rows: NDArray[np.float64], group: NDArray[np.int64], groups: int) -> NDArray[np.float64]:
    """(M, 4) rows, each of one of G groups -> (G, K, 4), in their order within a group, filled up with NaN."""
    counts = np.bincount(group, minlength=groups)  # (G,)
    order = np.argsort(group, kind="stable")
    place = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)  # (M,) 0, 1, ... within each group
    padded = np.full((groups, max(1, counts.max(initial=0)), 4), np.nan)
    padded[group[order], place] = rows[order]
    return padded


def cell_centres(grid: tuple[int, int]) -> NDArray[np.float64]:
    """(h * w, 2) the x and y of every cell's centre, row by row."""
    h, w = grid
    y, x = np.meshgrid((np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)


def peaks(maps: NDArray) -> NDArray[np.float64]:
    """(P, h, w) maps -> (P, 2) the centre of each map's best cell, the first of equals.

    Interpolation does not move it: a bilinear map has no higher value than its best cell's centre.
    """
    best = maps.reshape(len(maps), -1).argmax(axis=1)  # (P,)
    return cell_centres(maps.shape[1:])[best]


def points_inside(points: NDArray, boxes: NDArray, *, tolerance: float = 0.0) -> NDArray[np.bool_]:
    """Whether each point lies in a box, or at most `tolerance` away from one.

    Args:
        points: (P, Q, 2) or (1, Q, 2) x and y. boxes: (P, K, 4), rows of NaN are none; a box holds its edges.
        tolerance: Euclidean distance in fractions of a side; the pointing game's 15 pixels are 15 / 224 at 224.

    Returns:
        (P, Q) truth values.

    Raises:
        CsraError: a negative tolerance.
    """
    if not tolerance >= 0:
        raise ConfigError(f"the tolerance is a distance of 0 or more, in fractions of a side, not {tolerance}.")
    x, y = points[:, :, None, 0], points[:, :, None, 1]  # (P, Q, 1)
    xmin, ymin, xmax, ymax = np.moveaxis(boxes[:, None], -1, 0)  # (P, 1, K) each
    dx = np.maximum(np.maximum(xmin - x, x - xmax), 0)  # (P, Q, K)
    dy = np.maximum(np.maximum(ymin - y, y - ymax), 0)
    return (np.hypot(dx, dy) <= tolerance).any(axis=2)  # NaN is not <= anything


def box_coverage(boxes: NDArray, grid: tuple[int, int]) -> NDArray[np.float64]:
    """The share of each cell that the boxes cover together, exactly; where boxes overlap, it counts once.

    The edges of cells and boxes cut the square into small rectangles, each of which is covered or not.

    Args:
        boxes: (P, K, 4) within the unit square; rows of NaN are none. grid: (h, w).

    Returns:
        (P, h, w) in [0, 1]; their mean is the share of the image that the boxes cover.
    """
    boxes = np.nan_to_num(boxes)  # a box without area covers nothing
    xs, ys = (_cuts(boxes[..., [axis, axis + 2]], n) for axis, n in ((0, grid[1]), (1, grid[0])))  # (P, E + 1)
    (x, dx), (y, dy) = (((e[:, 1:] + e[:, :-1]) / 2, np.diff(e)) for e in (xs, ys))  # middles and lengths, (P, E)
    in_x = (boxes[:, :, None, 0] < x[:, None]) & (x[:, None] < boxes[:, :, None, 2])  # (P, K, E)
    in_y = (boxes[:, :, None, 1] < y[:, None]) & (y[:, None] < boxes[:, :, None, 3])
    covered = np.einsum("pky,pkx->pyx", in_y.astype(np.float32), in_x.astype(np.float32)) > 0  # (P, Ey, Ex)
    to_column, to_row = (_lengths_in_cells(m, d, n) for m, d, n in ((x, dx, grid[1]), (y, dy, grid[0])))
    return np.clip(to_row.transpose(0, 2, 1) @ covered @ to_column, 0, 1)


def _cuts(ends: NDArray, cells: int) -> NDArray[np.float64]:
    """Sorted edges of cells and boxes along one axis: (P, K, 2) -> (P, cells + 1 + 2K)."""
    edges = np.broadcast_to(np.linspace(0, 1, cells + 1), (len(ends), cells + 1))
    return np.sort(np.concatenate([edges, ends.reshape(len(ends), -1)], axis=1), axis=1)


def _lengths_in_cells(middles: NDArray, lengths: NDArray, cells: int) -> NDArray[np.float64]:
    """(P, E) pieces of an axis -> (P, E, cells): the piece's length as a share of the cell that it lies in."""
    cell = np.minimum((middles * cells).astype(np.int64), cells - 1)
    return np.where(cell[..., None] == np.arange(cells), cells * lengths[..., None], 0.0)


def mass_inside(maps: NDArray, coverage: NDArray) -> NDArray[np.float64]:
    """The share of each map's sum that lies in the boxes: (P, h, w) maps >= 0 and coverage -> (P,).

    A flat map above 0 has the boxes' share of the image: that is the baseline of chance. A map of zeros gives NaN.
    """
    return (maps * coverage).sum(axis=(1, 2)) / maps.sum(axis=(1, 2))
