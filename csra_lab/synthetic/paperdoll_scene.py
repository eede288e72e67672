"""A scene of paper dolls: who stands where, what is seen of each, and the image of it.

`sample_scene` decides everything that a label or a box depends on, from `rng.random()` and integer arithmetic alone.
`paint_scene` adds what only pixels know: the background, light, haze, blur and grain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from csra_lab.datasets.wider import WIDER_ATTRIBUTES
from csra_lab.synthetic.backgrounds import background, grain
from csra_lab.synthetic.paperdoll import doll_shapes
from csra_lab.synthetic.paperdoll_body import GROUND, Doll, doll_regions
from csra_lab.synthetic.paperdoll_people import OCCASIONS, chance, pick, pick_occasion, sample_doll, uniform
from csra_lab.synthetic.polygons import RGB, Mask, Shape, box, ellipse, limb, paint, place, points, rasterise, shade

WIDTH, HEIGHT = 320, 240  # of every image
SEEN = (3, 5)  # an attribute is specified if at least three fifths of its region are seen
KEPT = (9, 20)  # a doll of which less than this part would be seen does not stand there,
SPECIFIED = 4  # nor one of which fewer attributes would be specified
TALL = GROUND - 20.0  # the usual height of a doll in units

# attribute -> the region of `doll_regions` where it is seen
REGIONS = dict(
    zip(WIDER_ATTRIBUTES, "figure hair eyes crown arms arms torso legs legs legs legs mouth chest torso".split(),
        strict=True)
)  # fmt: skip

_COUNTS, _COUNT_ODDS = (1, 2, 3, 4, 5, 6), (0.26, 0.3, 0.2, 0.13, 0.07, 0.04)
_COLOURS: tuple[RGB, ...] = (
    (150, 104, 62),
    (92, 96, 102),
    (58, 104, 60),
    (170, 60, 50),
    (60, 90, 140),
    (206, 192, 160),
)


@dataclass(frozen=True)
class Figure:
    """A thing in a scene, or a `Person`.

    Attributes:
        shapes: placed polygons; the soles are at (0, 0).
        x, y: pixel of the image where the soles are, perhaps outside it.
    """

    shapes: tuple[Shape, ...]
    x: int
    y: int


@dataclass(frozen=True)
class Person(Figure):
    """A doll in a scene.

    Attributes:
        bbox: x, y, w, h of the rectangle around the pixels of the doll that are seen.
        attribute: 14 of 1, 0 (its region is not seen well enough) and -1, as in WIDER-Attribute.
    """

    doll: Doll
    bbox: tuple[int, int, int, int]
    attribute: tuple[int, ...]


@dataclass(frozen=True)
class Scene:
    """The figures of an image, the nearest first, and the occasion that its dolls share."""

    occasion: str
    figures: tuple[Figure, ...]

    @property
    def people(self) -> tuple[Person, ...]:
        return tuple(figure for figure in self.figures if isinstance(figure, Person))


def sample_scene(rng: np.random.Generator) -> Scene:
    """Things and dolls from the nearest to the furthest, each where enough of it is still seen."""
    occasion = pick_occasion(rng)
    count = pick(rng, _COUNTS, _COUNT_ODDS)
    covered = np.zeros((HEIGHT, WIDTH), dtype=bool)
    figures: list[Figure] = []
    for _ in range(pick(rng, (0, 1, 2), (0.6, 0.28, 0.12))):
        shapes, mask = _placed(_thing(rng), scale=uniform(rng, 0.8, 1.4), lean=0)
        x, y = int(uniform(rng, 0, WIDTH)), HEIGHT + int(uniform(rng, 0, 30))
        _cover(covered, mask, x, y)
        figures.append(Figure(shapes, x, y))
    close = count <= 2 and chance(rng, 0.5)
    size = uniform(rng, 1.15, 1.75) if close else uniform(rng, 0.55, 1.05 if count < 4 else 0.8)
    for depth in range(count):
        doll = sample_doll(rng, OCCASIONS[occasion])
        scale = size * uniform(rng, 0.92, 1.08) * 0.93**depth
        lean = uniform(rng, -6, 6)
        shapes, mask = _placed(doll_shapes(doll), scale=scale, lean=lean)
        for _ in range(12):
            x = int(uniform(rng, 12, WIDTH - 12))
            if close:
                y = int(uniform(rng, -14, 36) + TALL * scale)
            else:
                y = HEIGHT - 3 - int(uniform(rng, 0, 10) + 9 * depth)
            if not _is_seen(covered, mask, x, y, KEPT):
                continue
            attribute = _attributes(doll, covered, x=x, y=y, scale=scale, lean=lean)
            if sum(map(abs, attribute)) >= SPECIFIED:
                figures.append(Person(shapes, x, y, doll, _bbox(covered, mask, x, y), attribute))
                _cover(covered, mask, x, y)
                break
    scene = Scene(occasion, tuple(figures))
    return scene if scene.people else sample_scene(rng)


def paint_scene(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The image of a scene, RGB; `rng` decides background and light."""
    top = int(rng.random() * (WIDTH - HEIGHT))
    back = background(rng, WIDTH)[top : top + HEIGHT]  # (H, W, 3)
    shadow = Image.new("L", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(shadow)
    for person in scene.people:
        wide = 0.16 * max(person.bbox[3], 40)
        draw.ellipse((person.x - wide, person.y - 4, person.x + wide, person.y + 3), fill=120)
    soft = np.asarray(shadow.filter(ImageFilter.GaussianBlur(2.5)), dtype=np.float32)[..., None]
    picture = Image.fromarray(np.clip(back * (1 - soft / 255), 0, 255).astype(np.uint8))
    slope = rng.uniform(-0.45, 0.45)  # light from the left or from the right
    for figure in reversed(scene.figures):
        drawn, x, y = paint(figure.shapes)
        rgba = np.asarray(drawn, dtype=np.float32)
        across = np.linspace(-0.5, 0.5, rgba.shape[1], dtype=np.float32)[None, :, None]
        light = rng.uniform(0.72, 1.1) * (1 + slope * across)
        lit = np.concatenate([rgba[..., :3] * light, rgba[..., 3:]], axis=2)
        drawn = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
        picture.paste(drawn, (figure.x + x, figure.y + y), drawn)
    if rng.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    pixels = np.asarray(picture, dtype=np.float32)
    contrast = rng.uniform(0.45, 1.05)
    haze = (rng.uniform(60, 200) + rng.uniform(-35, 35, 3)).astype(np.float32)
    tint = rng.uniform(0.9, 1.1, 3).astype(np.float32)
    return Image.fromarray(grain(rng, (haze + (pixels - haze) * max(contrast, rng.random())) * tint))


def _placed(shapes: list[Shape], *, scale: float, lean: float) -> tuple[tuple[Shape, ...], Mask]:
    placed = place([shape.points for shape in shapes], scale=scale, lean=lean, origin=(0, GROUND))
    moved = tuple(shape._replace(points=p) for shape, p in zip(shapes, placed, strict=True))
    return moved, rasterise([shape.points for shape in moved if not shape.clipped])


def _attributes(doll: Doll, covered: np.ndarray, *, x: int, y: int, scale: float, lean: float) -> tuple[int, ...]:
    """14 of 1 (has it), -1 (has it not), 0 (too much of its region is outside the image or behind something)."""
    visible = {}
    for name, polygons in doll_regions(doll).items():
        mask = rasterise(place(polygons, scale=scale, lean=lean, origin=(0, GROUND)))
        visible[name] = _is_seen(covered, mask, x, y, SEEN)
    return tuple((1 if a in doll.present else -1) if visible[REGIONS[a]] else 0 for a in WIDER_ATTRIBUTES)


def _is_seen(covered: np.ndarray, mask: Mask, x: int, y: int, part: tuple[int, int]) -> bool:
    """Whether at least part[0] / part[1] of the pixels of a mask at (x, y) are inside the image and not covered."""
    rows, columns, inside = _window(covered, mask, x, y)
    seen = np.count_nonzero(inside & ~covered[rows, columns])
    return bool(part[1] * seen >= part[0] * np.count_nonzero(mask.pixels))


def _bbox(covered: np.ndarray, mask: Mask, x: int, y: int) -> tuple[int, int, int, int]:
    rows, columns, inside = _window(covered, mask, x, y)
    seen = inside & ~covered[rows, columns]
    ys, xs = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return int(columns.start + xs[0]), int(rows.start + ys[0]), int(xs[-1] - xs[0]) + 1, int(ys[-1] - ys[0]) + 1


def _cover(covered: np.ndarray, mask: Mask, x: int, y: int) -> None:
    rows, columns, inside = _window(covered, mask, x, y)
    covered[rows, columns] |= inside


def _window(covered: np.ndarray, mask: Mask, x: int, y: int) -> tuple[slice, slice, np.ndarray]:
    """The rows and columns of the image that a mask at (x, y) touches, and the part of the mask that lies there."""
    (left, top), (h, w), (height, width) = (x + mask.x, y + mask.y), mask.pixels.shape, covered.shape
    rows = slice(min(max(0, top), height), min(max(0, top + h), height))
    columns = slice(min(max(0, left), width), min(max(0, left + w), width))
    return rows, columns, mask.pixels[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def _thing(rng: np.random.Generator) -> list[Shape]:
    """Something that stands before the dolls: a crate, a post with a sign, a shrub, a table, or a suitcase."""
    kind = pick(rng, ("crate", "post", "shrub", "table", "suitcase"))
    colour = pick(rng, _COLOURS)
    dark, pale, g = shade(colour, 0.65), shade(colour, 1.2, lift=15), GROUND
    if kind == "crate":
        w, h = uniform(rng, 25, 45), uniform(rng, 40, 85)
        planks = [box(-w, g - h + k, w, g - h + k + 2.5) for k in range(12, int(h), 14)]
        return [Shape(box(-w, g - h, w, g), colour, "thing"), *(Shape(p, dark, "thing", True) for p in planks)]
    if kind == "post":
        y, w = g - uniform(rng, 120, 190), uniform(rng, 16, 26)
        parts = [(box(-4, y, 4, g), dark), (ellipse(0, y, w, w), colour), (ellipse(0, y, w * 0.75, w * 0.75), pale)]
        return [Shape(p, c, "thing") for p, c in parts]
    if kind == "shrub":
        green = pick(rng, ((58, 104, 60), (96, 130, 58), (40, 84, 70)))
        leaves = [(uniform(rng, -36, 36), g - uniform(rng, 0, 60), uniform(rng, 10, 20)) for _ in range(16)]
        return [Shape(ellipse(x, y, r, r), shade(green, uniform(rng, 0.7, 1.25)), "thing") for x, y, r in leaves]
    if kind == "table":
        w, h = uniform(rng, 40, 70), uniform(rng, 60, 85)
        cloth = points([(-w, g - h), (w, g - h), (w - 3, g - h + 26), (3 - w, g - h + 26)])
        legs = [limb((s * (w - 8), g - h), (s * (w - 8), g), 3, 3) for s in (-1, 1)]
        return [*(Shape(p, dark, "thing") for p in legs), Shape(cloth, colour, "thing")]
    w, h = uniform(rng, 16, 26), uniform(rng, 45, 65)
    body = [box(-w, g - h, w, g - 4), limb((-w + 6, g - 3), (w - 6, g - 3), 3, 3), box(-7, g - h - 16, -4, g - h)]
    body += [box(4, g - h - 16, 7, g - h), box(-7, g - h - 18, 7, g - h - 14)]
    ribs = [box(x, g - h, x + 2, g - 4) for x in np.linspace(-w + 8, w - 8, 4)]
    return [*(Shape(p, colour, "thing") for p in body), *(Shape(p, dark, "thing", True) for p in ribs)]
