"""Coloured polygons: where they lie in an image, which pixels they cover, and how they are painted.

`place` puts polygons into an image, in whole sixteenths of a pixel. From there two things are made: `paint` draws them
with Pillow, and `rasterise` finds the pixels that they cover in integer arithmetic alone, so that a label or a box
that comes from it is the same on every machine and with every version of Pillow.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Point = tuple[float, float]

UNIT = 16  # steps of a placed coordinate in one pixel
OVERSAMPLE = 3  # shapes are painted this many times larger, and then reduced


class Shape(NamedTuple):
    """A polygon of one colour. A clipped one shows only where an unclipped shape of its layer lies."""

    points: np.ndarray  # (n, 2), x and y: floats in units of a drawing, or whole sixteenths of a pixel once placed
    colour: RGB
    layer: str
    clipped: bool = False


class Mask(NamedTuple):
    """Pixels (h, w) of which the first is at column x and row y of an image."""

    pixels: np.ndarray
    x: int
    y: int


def points(pairs: Iterable[Point]) -> np.ndarray:
    """(n, 2) coordinates."""
    return np.array(list(pairs), dtype=np.float64)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """A rectangle, (4, 2)."""
    return points([(left, top), (right, top), (right, bottom), (left, bottom)])


def ellipse(x: float, y: float, rx: float, ry: float, *, sides: int = 18) -> np.ndarray:
    """An ellipse about (x, y), (sides, 2)."""
    angles = [2 * math.pi * k / sides for k in range(sides)]
    return points([(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles])


def limb(start: Point, end: Point, r0: float, r1: float, *, sides: int = 12) -> np.ndarray:
    """A stroke with round ends, of radius r0 at its start and r1 at its end, (sides + 2, 2)."""
    along = math.atan2(end[1] - start[1], end[0] - start[0])
    half = [math.pi * (k / (sides // 2) + 0.5) for k in range(sides // 2 + 1)]
    ends = [(start, r0, along + a) for a in half] + [(end, r1, along + math.pi + a) for a in half]
    return points([(p[0] + r * math.cos(a), p[1] + r * math.sin(a)) for p, r, a in ends])


def turned(polygon: np.ndarray, degrees: float) -> np.ndarray:
    """The polygon turned clockwise about (0, 0)."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = polygon[:, 0], polygon[:, 1]
    return np.stack([c * x - s * y, s * x + c * y], axis=1)


def shade(colour: RGB, factor: float, *, lift: int = 0) -> RGB:
    """The colour made darker (factor below 1) or lighter, plus `lift` in each channel."""
    red, green, blue = (max(0, min(255, int(v * factor) + lift)) for v in colour)
    return red, green, blue


def place(polygons: Sequence[np.ndarray], *, scale: float, lean: float, origin: Point) -> list[np.ndarray]:
    """Scale and turn polygons about `origin`, which comes to (0, 0), and round to whole sixteenths of a pixel."""
    every = np.concatenate(polygons) - origin  # (points of all, 2)
    placed = np.rint(turned(every, lean) * (scale * UNIT)).astype(np.int64)
    return np.split(placed, np.cumsum([len(polygon) for polygon in polygons])[:-1])


def rasterise(polygons: Sequence[np.ndarray]) -> Mask:
    """The pixels whose centre lies in at least one placed polygon (even-odd rule)."""
    everything = np.concatenate(polygons)
    left, top = everything.min(axis=0) // UNIT
    right, bottom = everything.max(axis=0) // UNIT
    pixels = np.zeros((bottom - top + 1, right - left + 1), dtype=bool)
    for polygon in polygons:
        _fill(pixels, polygon - (left * UNIT, top * UNIT))
    return Mask(pixels, int(left), int(top))


def _fill(pixels: np.ndarray, polygon: np.ndarray) -> None:
    """Set the pixels of one polygon: where each edge meets the centre line of a row, inside becomes outside."""
    other = np.roll(polygon, -1, axis=0)
    down = (polygon[:, 1] < other[:, 1])[:, None]
    (x0, y0), (x1, y1) = np.where(down, polygon, other).T, np.where(down, other, polygon).T  # (edges,) each
    first = int(y0.min()) // UNIT
    rows = np.arange(first, int(y1.max()) // UNIT + 1)
    centre = rows * UNIT + UNIT // 2
    edge, row = np.nonzero((y0[:, None] <= centre) & (centre < y1[:, None]))
    x0, y0, dx, dy = x0[edge], y0[edge], (x1 - x0)[edge], (y1 - y0)[edge]
    column = ((x0 - UNIT // 2) * dy + (centre[row] - y0) * dx) // (UNIT * dy) + 1  # first centre right of the edge
    width = pixels.shape[1] + 1
    turns = np.bincount(row * width + column, minlength=len(rows) * width).reshape(len(rows), width)
    pixels[first : first + len(rows)] |= (np.cumsum(turns[:, :-1], axis=1) & 1).astype(bool)


def paint(shapes: Sequence[Shape]) -> tuple[Image.Image, int, int]:
    """Placed shapes as an RGBA image, and the column and row of its first pixel."""
    everything = np.concatenate([shape.points for shape in shapes if not shape.clipped])
    low = everything.min(axis=0) // UNIT - 1
    size = (everything.max(axis=0) // UNIT + 2 - low) * OVERSAMPLE
    canvas = Image.new("RGBA", (int(size[0]), int(size[1])))
    for _, group in itertools.groupby(shapes, key=lambda shape: shape.layer):
        _paint_layer(canvas, list(group), low)
    return canvas.reduce(OVERSAMPLE), int(low[0]), int(low[1])


def _paint_layer(canvas: Image.Image, shapes: list[Shape], low: np.ndarray) -> None:
    # Pillow counts from the centre of the first pixel, hence the half
    lines = [((s.points / UNIT - low) * OVERSAMPLE - 0.5).ravel().tolist() for s in shapes]
    if not any(shape.clipped for shape in shapes):
        draw = ImageDraw.Draw(canvas)
        for shape, line in zip(shapes, lines, strict=True):
            draw.polygon(line, fill=shape.colour)
        return
    cloth, colours = Image.new("L", canvas.size), Image.new("RGB", canvas.size)
    draw_cloth, draw = ImageDraw.Draw(cloth), ImageDraw.Draw(colours)
    for shape, line in zip(shapes, lines, strict=True):
        draw.polygon(line, fill=shape.colour)
        if not shape.clipped:
            draw_cloth.polygon(line, fill=255)
    canvas.paste(colours, mask=cloth)
