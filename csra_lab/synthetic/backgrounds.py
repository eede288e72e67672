"""Painted backgrounds: fields, water, rooms, streets, surfaces, colours, lights. No two alike, none about a class.

All are made of a few ingredients: smooth noise, a sky, laid tiles (planks, bricks), and colours drawn from wide ranges.
Lengths are fractions of the image's side, so that an image can be painted at any size. A pixel is a float in 0..255.
"""

import colorsys
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image

Colour = np.ndarray  # (3,) red, green, blue in 0..255


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A background of size x size pixels: float32 (size, size, 3) in 0..255. Only `rng` decides what it shows."""
    painting = KINDS[int(rng.random() * len(KINDS))](rng, size)  # (size, size, 3)
    y, x = _grid(size)
    down, across = rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25)
    light = rng.uniform(0.8, 1.15) * (1 + down * (y - 0.5) + across * (x - 0.5))  # (size, size)
    tint = np.float32(rng.uniform(0.92, 1.08, 3))
    return np.clip(painting * light[..., None] * tint, 0, 255).astype(np.float32)


def grain(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) as uint8, with a camera's grain over everything in it."""
    noise = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(1, 6))
    return np.clip(picture + noise + 0.5, 0, 255).astype(np.uint8)


def field(rng: np.random.Generator, size: int) -> np.ndarray:
    """A sky, one to three ridges of hills, and ground: grass, sand, snow or soil."""
    y, _ = _grid(size)
    painting = _sky(rng, size)
    horizon = rng.uniform(0.3, 0.75)
    hue, saturation, value = _pick(
        rng,
        ((0.2, 0.38), (0.3, 0.75), (0.35, 0.75)),  # grass
        ((0.08, 0.14), (0.25, 0.55), (0.6, 0.9)),  # sand
        ((0.5, 0.65), (0.0, 0.12), (0.8, 0.98)),  # snow
        ((0.03, 0.1), (0.3, 0.6), (0.25, 0.5)),  # soil
    )
    for depth in range(1 + int(rng.random() * 3), 0, -1):
        ridge = horizon - 0.06 * depth - 0.05 * _noise(rng, size, 2 + 2 * depth)[:1]  # (1, size)
        far = _colour(rng, hue, saturation, value) * 0.75 + 40 * depth
        painting = np.where((y > ridge)[..., None], far, painting)
    ground = _colour(rng, hue, saturation, value)
    tone = 1 + 0.08 * _clouds(rng, size) + 0.07 * _noise(rng, size, 60) - 0.35 * (y - horizon)
    return np.where((y > horizon)[..., None], ground * tone[..., None], painting)


def water(rng: np.random.Generator, size: int) -> np.ndarray:
    """A sky over a sea or a lake, whose waves grow towards the viewer."""
    y, x = _grid(size)
    horizon = rng.uniform(0.15, 0.6)
    near = np.clip(y - horizon, 0, 1)
    sea = _colour(rng, (0.42, 0.66), (0.3, 0.8), (0.35, 0.85))
    bend = 0.5 * _clouds(rng, size) + rng.uniform(-2, 2) * x
    waves = np.sin(rng.uniform(60, 160) * np.sqrt(near + 0.02) + 3 * bend) + _noise(rng, size, 40, stretch=0.2)
    lit = (0.75 + 0.5 * near + rng.uniform(0.04, 0.14) * waves)[..., None]
    return np.where((y > horizon)[..., None], sea * lit, _sky(rng, size))


def room(rng: np.random.Generator, size: int) -> np.ndarray:
    """A wall with paint, paper or panels, perhaps windows and pictures on it, and a floor in perspective."""
    y, x = _grid(size)
    edge = rng.uniform(0.5, 0.85)  # where wall and floor meet
    wall = _colour(rng, (0, 1), (0.05, 0.55), (0.45, 0.95))
    paper = _pick(rng, 0 * x, np.sign(np.sin(rng.uniform(20, 90) * x)), _laid(rng, y, x, rng.uniform(4, 14), 1, 0.05))
    painting = wall * (1 + 0.07 * paper + 0.03 * _clouds(rng, size))[..., None]
    for _ in range(int(rng.random() * 4)):
        painting = _hang(rng, painting, y, x, edge)
    distance = 0.25 / (y - edge + 0.12)  # perspective: tiles shrink towards the wall
    rows, shape, joint = _pick(rng, (9, 0.3, 0.06), (6, 1.0, 0.05), (14, 0.1, 0.08), (5, 1.0, 0.0))
    boards = _laid(rng, distance, (x - rng.random()) * distance, rows, shape, joint)
    floor = _colour(rng, (0.02, 0.14), (0.05, 0.65), (0.3, 0.85)) * (1 + 0.14 * boards)[..., None]
    painting = np.where((y > edge)[..., None], floor, painting)
    skirting = np.abs(y - edge) < rng.uniform(0.005, 0.02)
    return np.where(skirting[..., None], wall * rng.uniform(0.5, 1.2), painting)


def street(rng: np.random.Generator, size: int) -> np.ndarray:
    """House fronts with rows of windows, a pavement and a road."""
    y, x = _grid(size)
    kerb = rng.uniform(0.5, 0.8)
    painting = _sky(rng, size)
    left = 0
    while left < size:
        right = left + max(1, round(rng.uniform(0.2, 0.6) * size))
        painting[:, left:right] = _house(rng, painting[:, left:right], y[:, left:right], x[:, left:right] - left / size)
        left = right
    road = _colour(rng, (0, 1), (0.0, 0.12), (0.25, 0.6)) * (1 + 0.08 * _noise(rng, size, 90))[..., None]
    road[(y > kerb) & (y < kerb + rng.uniform(0.04, 0.12))] *= rng.uniform(1.15, 1.5)
    dashes = (np.abs(y - kerb - 0.22) < 0.012) & ((x * rng.uniform(3, 6) + rng.random()) % 1 < 0.5)
    road[dashes] = 225
    return np.where((y > kerb)[..., None], road, painting)


def surface(rng: np.random.Generator, size: int) -> np.ndarray:
    """One material that fills the image: brick, planks, tiles, cloth, plaster or stone, at any angle."""
    y, x = _turned(rng, size)
    ground = _colour(rng, (0, 1), (0.05, 0.7), (0.35, 0.9))
    rows, shape, joint = _pick(rng, (11, 0.4, 0.12), (8, 0.12, 0.06), (6, 1, 0.06), (60, 1, 0.3), (0.01, 1, 0))
    tone = 0.13 * _laid(rng, y, x, rows * rng.uniform(0.7, 1.5), shape, joint)
    veins = np.abs(_clouds(rng, size)) if rng.random() < 0.5 else _clouds(rng, size)
    return ground * (1 + tone + 0.09 * veins + 0.05 * _noise(rng, size, 70))[..., None]


def colours(rng: np.random.Generator, size: int) -> np.ndarray:
    """Two or three colours that flow into each other, sometimes in stripes: no place at all."""
    y, x = _turned(rng, size)
    a, b, c = (_colour(rng, (0, 1), (0.1, 0.9), (0.2, 0.95)) for _ in range(3))
    flow = _noise(rng, size, 3)[..., None]
    painting = a + (b - a) * np.clip(y + 0.5, 0, 1)[..., None] + 0.3 * (c - a) * flow
    if rng.random() < 0.4:
        painting = painting * (1 + rng.uniform(0.04, 0.15) * np.sign(np.sin(rng.uniform(10, 50) * x)))[..., None]
    return painting + 8 * _clouds(rng, size)[..., None]


def lights(rng: np.random.Generator, size: int) -> np.ndarray:
    """Dusk or night with lights out of focus."""
    y, x = _grid(size)
    top, low = (_colour(rng, (0.5, 1.0), (0.2, 0.8), (0.08, 0.45)) for _ in range(2))
    painting = top + (low - top) * y[..., None] + 6 * _clouds(rng, size)[..., None]
    for _ in range(int(rng.uniform(5, 25))):
        middle_y, middle_x, radius = rng.random(), rng.random(), rng.uniform(0.01, 0.09)
        near = tuple(slice(max(0, int((m - 0.1) * size)), int((m + 0.1) * size) + 1) for m in (middle_y, middle_x))
        disc = np.clip((radius - np.hypot(y[near] - middle_y, x[near] - middle_x)) * 40 + 0.5, 0, 1)
        painting[near] += disc[..., None] * _colour(rng, (0, 1), (0.1, 0.8), (0.5, 1)) * rng.uniform(0.2, 0.6)
    return painting


KINDS: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (
    field, field, water, room, room, street, surface, colours, lights,
)  # fmt: skip


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """How far down (size, 1) and how far right (1, size) a pixel's centre is, in 0..1, both spread to (size, size)."""
    at = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return np.repeat(at[:, None], size, 1), np.repeat(at[None], size, 0)


def _turned(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The grid, turned about the middle of the image."""
    y, x = _grid(size)
    angle = rng.uniform(-np.pi, np.pi)
    s, c = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    return c * (y - 0.5) - s * (x - 0.5), s * (y - 0.5) + c * (x - 0.5)


def _pick(rng: np.random.Generator, *choices):
    return choices[int(rng.random() * len(choices))]


def _colour(rng: np.random.Generator, hue: tuple, saturation: tuple, value: tuple) -> Colour:
    """A colour from ranges of hue, saturation and value, all in 0..1."""
    h, s, v = (rng.uniform(*r) for r in (hue, saturation, value))
    return np.array(colorsys.hsv_to_rgb(h % 1, s, v), dtype=np.float32) * 255


def _noise(rng: np.random.Generator, size: int, cells: int, *, stretch: float = 1.0) -> np.ndarray:
    """Smooth noise (size, size) of unit variance at its cells; `stretch` below 1 draws the cells out sideways."""
    coarse = rng.standard_normal((cells, max(2, round(cells * stretch))), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise on several scales (size, size), the coarse ones stronger."""
    return sum(_noise(rng, size, cells) / 2**k for k, cells in enumerate((4, 9, 20, 44)))


def _sky(rng: np.random.Generator, size: int) -> np.ndarray:
    """Blue, grey, or a sunset, with clouds or none."""
    y, _ = _grid(size)
    ranges = _pick(
        rng,
        ((0.53, 0.62), (0.2, 0.8), (0.6, 1.0)),
        ((0, 1), (0, 0.1), (0.5, 0.95)),
        ((0.9, 1.12), (0.2, 0.7), (0.5, 1.0)),
    )
    high, low = _colour(rng, *ranges), _colour(rng, *ranges) * 0.5 + 120
    sky = high + (low - high) * y[..., None]
    cover = np.clip(_clouds(rng, size) * rng.uniform(0.2, 0.6) + rng.uniform(-0.4, 0.3), 0, 0.85)[..., None]
    return sky + (rng.uniform(190, 255) - sky) * cover


def _laid(
    rng: np.random.Generator, y: np.ndarray, x: np.ndarray, rows: float, shape: float, joint: float
) -> np.ndarray:
    """The tone, about -2..1, of tiles laid on the plane (y, x): `rows` in a unit, `shape` high for 1 wide.

    Each tile has its own tone; a fraction `joint` of it is a dark joint. Every second row is shifted by half a tile.
    """
    down = y * rows
    across = x * rows * shape + 0.5 * (np.floor(down) % 2)
    i, j = np.floor(down), np.floor(across)
    tones = rng.uniform(-1, 1, (32, 32)).astype(np.float32)
    joints = (down - i < joint) | (across - j < joint * shape)
    return tones[i.astype(int) % 32, j.astype(int) % 32] - np.float32(1.2) * joints


def _house(rng: np.random.Generator, behind: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A house front of brick with rows of windows, as wide as the strip `behind` (size, width, 3)."""
    roof = rng.uniform(-0.2, 0.4)
    brick = 1 + 0.06 * _laid(rng, y, x, rng.uniform(20, 40), 0.4, 0.15)
    front = _colour(rng, (0.0, 0.15), (0.05, 0.6), (0.4, 0.9)) * brick[..., None]
    rows, columns = rng.uniform(4, 8), rng.uniform(5, 10)
    panes = np.abs((y - roof) * rows % 1 - 0.5) < rng.uniform(0.2, 0.35)
    panes &= np.abs(x * columns % 1 - 0.5) < rng.uniform(0.15, 0.35)
    front[panes] = _colour(rng, (0.1, 0.6), (0.05, 0.4), (0.2, 0.95))
    return np.where((y > roof)[..., None], front, behind)


def _hang(rng: np.random.Generator, painting: np.ndarray, y: np.ndarray, x: np.ndarray, edge: float) -> np.ndarray:
    """Hang a framed picture, or set a window, somewhere on the wall above `edge`."""
    centre_y, centre_x = rng.uniform(0.05, edge - 0.12), rng.random()
    half_y, half_x = rng.uniform(0.04, 0.16), rng.uniform(0.04, 0.16)
    inset = np.maximum(np.abs(y - centre_y) - half_y, np.abs(x - centre_x) - half_x)  # below 0: inside
    inset = np.where(y < edge, inset, 1)
    top, low = (_colour(rng, (0, 1), (0.1, 0.7), (0.4, 1)) for _ in range(2))
    pane = top + (low - top) * np.clip((y - centre_y) / half_y * 0.5 + 0.5, 0, 1)[..., None]
    framed = np.where((inset < 0.015)[..., None], _colour(rng, (0, 1), (0, 0.4), (0.1, 1)), painting)
    return np.where((inset < 0)[..., None], pane, framed)
