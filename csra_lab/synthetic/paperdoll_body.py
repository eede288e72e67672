"""The body of a paper doll: its description, its joints, and the regions where its attributes are seen.

All is in units: x = 0 is the middle of the doll, y grows downwards, the soles are at GROUND.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from csra_lab.synthetic.polygons import RGB, Point, Shape, box, ellipse, limb, points

GROUND = 226.0  # y of the soles; a doll is about 205 units tall
SHOULDER_Y, WAIST_Y, HIP_Y = 64.0, 104.0, 122.0
INK, WHITE = (30, 26, 28), (244, 242, 238)


@dataclass(frozen=True)
class Doll:
    """What one doll looks like. Nothing about it is left to chance when it is drawn.

    Attributes:
        present: which of the 14 WIDER attributes it has; everything else here is independent of `Male`.
        arms: for each arm, the angle of the upper arm and of the forearm in degrees; 0 hangs down, 90 points outwards.
        legs: how far each foot stands from the middle, in units.
    """

    present: frozenset[str]
    skin: RGB
    hair: RGB
    top: RGB
    second: RGB  # stripes, or the pattern of a cloth that has none
    logo: RGB
    bottom: RGB
    hat: RGB
    mask: RGB
    lens: RGB
    shoes: RGB
    tie: RGB
    arms: tuple[tuple[float, float], tuple[float, float]]
    legs: tuple[float, float]
    girth: float
    leg_length: float
    head_size: float
    head_shift: float
    stripe_pitch: float
    stripe_angle: float
    hair_style: str  # long: straight, wavy, plaits; short: crop, afro, bob, bun, bald
    hat_style: str  # cap, brim, beanie, bucket, bowler
    logo_style: str  # star, triangle, tick, ring, bar
    face_style: str  # of a man: beard, moustache, goatee, shaven; of a woman: earrings, lips, both, plain
    pattern: str  # of a top without stripes: plain, dots, pocket, buttons
    neck_style: str  # crew, vee, collar
    formal_style: str  # tie, bow, open
    extra: str  # none, glasses, headband, scarf, bag, cup
    hem: float  # 0 short to 1 long, of shorts, skirts and shirts


@dataclass(frozen=True)
class Body:
    """Where the joints of a doll are, in units."""

    head: Point
    radius: float
    shoulder: float  # half widths
    waist: float
    hip: float
    arms: tuple[tuple[Point, Point, Point], ...]  # shoulder, elbow, hand
    legs: tuple[tuple[Point, Point, Point], ...]  # hip, knee, ankle
    arm_width: float  # radii
    leg_width: float


class Paper:
    """Collects shapes."""

    def __init__(self):
        self.shapes: list[Shape] = []

    def add(self, layer: str, colour: RGB, *polygons: np.ndarray, clipped: bool = False) -> None:
        self.shapes += [Shape(points, colour, layer, clipped) for points in polygons]

    def line(self, layer: str, colour: RGB, points: Sequence[Point], width: float, *, clipped: bool = True) -> None:
        parts = [limb(p, q, width / 2, width / 2, sides=6) for p, q in itertools.pairwise(points)]
        self.add(layer, colour, *parts, clipped=clipped)


def body_of(doll: Doll) -> Body:
    male = "Male" in doll.present
    wide, rise = doll.girth, (GROUND - 6 - HIP_Y) * (1 - doll.leg_length)  # longer legs lift the rest by `rise` < 0
    shoulder = (21.5 if male else 17.0) * (0.6 + 0.4 * wide)
    arms, legs = [], []
    for side, (upper, fore), foot in zip((-1, 1), doll.arms, doll.legs, strict=True):
        start = (side * (shoulder - 3), SHOULDER_Y + 6)
        elbow = _along(start, upper, 30, side)
        arms.append((start, elbow, _along(elbow, fore, 28, side)))
        ankle = (side * foot, GROUND - 6 - rise)
        hip = (side * 7.5 * wide, HIP_Y)
        legs.append((hip, ((hip[0] + ankle[0]) / 2 + side * 1.5, (hip[1] + ankle[1]) / 2), ankle))
    return Body(
        head=(doll.head_shift, SHOULDER_Y - 13 - 13 * doll.head_size),
        radius=13.5 * doll.head_size,
        shoulder=shoulder,
        waist=(16.0 if male else 12.5) * wide,
        hip=(15.5 if male else 18.0) * wide,
        arms=tuple(arms),
        legs=tuple(legs),
        arm_width=(3.9 if male else 3.3) * (0.5 + 0.5 * wide),
        leg_width=5.4 * (0.4 + 0.6 * wide),
    )


def _along(start: Point, degrees: float, length: float, side: int) -> Point:
    angle = math.radians(degrees)
    return start[0] + side * length * math.sin(angle), start[1] + length * math.cos(angle)


def doll_regions(doll: Doll) -> dict[str, list[np.ndarray]]:
    """Region -> polygons in units where an attribute of that region is seen, whether the doll has it or not."""
    b = body_of(doll)
    (x, y), r = b.head, b.radius
    trunk = torso(b, HIP_Y - 4)
    head = ellipse(x, y, r, r + 1.5)
    arms = [limb(p, q, 5, 5) for arm in b.arms for p, q in itertools.pairwise(arm)]
    legs = [limb(p, q, 6, 6) for leg in b.legs for p, q in itertools.pairwise(leg)]
    return {
        "figure": [head, trunk],
        "hair": [box(x - r - 6, y - r, x + r + 6, SHOULDER_Y + 26)],
        "crown": [box(x - r - 2, y - r - 8, x + r + 2, y - 5)],
        "eyes": [box(x - r + 1, y - 4.5, x + r - 1, y + 4.5)],
        "mouth": [box(x - r + 2, y + 3, x + r - 2, y + r + 3)],
        "torso": [trunk],
        "chest": [ellipse(0, SHOULDER_Y + 22, 9, 9)],
        "arms": arms,
        "legs": legs,
    }


def torso(b: Body, end: float, *, straps: bool = False) -> np.ndarray:
    """The trunk from shoulders to `end`; with `straps`, that of a top without sleeves."""
    w, (x, _) = b.shoulder, b.head
    half = [(x + 7, SHOULDER_Y - 4), (w, SHOULDER_Y + 2), (w, SHOULDER_Y + 13)]
    if straps:
        half = [(9, SHOULDER_Y - 3), (w * 0.68, SHOULDER_Y), (w * 0.66, SHOULDER_Y + 12), (w - 2, SHOULDER_Y + 18)]
    half += [(b.waist, WAIST_Y - 8), (b.hip, end)]
    return points(
        half + [(x - (px - x) if k == 0 and not straps else -px, py) for k, (px, py) in enumerate(half)][::-1]
    )
