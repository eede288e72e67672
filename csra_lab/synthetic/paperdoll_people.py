"""Who the paper dolls are: attributes and looks, sampled.

Dolls of one scene share an occasion (an office, a beach, a winter street), and that is where correlations between
attributes come from. `Male` and the tone of the skin are drawn first, by themselves, and nothing else looks at `Male`;
the colours of hair and clothes look at the skin only so far as to differ from it. So no attribute says anything about
either: the drawing of a doll shows `Male` in its build and its face, and in nothing that it wears.

Every choice is made from `rng.random()` alone, whose values are the same with every version of NumPy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from csra_lab.synthetic.paperdoll_body import Doll
from csra_lab.synthetic.polygons import RGB

T = TypeVar("T")

# ten tones from light to dark, all equally likely
SKIN: tuple[RGB, ...] = (
    (250, 224, 204), (243, 208, 180), (234, 191, 156), (222, 172, 132), (205, 150, 110),
    (182, 126, 88), (155, 102, 68), (126, 80, 52), (96, 60, 42), (70, 44, 33),
)  # fmt: skip
_HAIR = ((28, 22, 20), (62, 40, 26), (104, 66, 36), (146, 96, 50), (206, 166, 96), (168, 66, 34), (158, 156, 154))
_CLOTH = (
    (196, 48, 50), (36, 96, 176), (46, 132, 76), (232, 186, 52), (132, 66, 156), (240, 240, 234), (46, 46, 54),
    (228, 118, 48), (84, 184, 196), (232, 142, 170), (120, 124, 128), (96, 58, 44), (26, 44, 92), (170, 196, 120),
)  # fmt: skip
_SUIT = ((34, 36, 46), (72, 72, 80), (30, 44, 80), (84, 66, 50), (120, 116, 108), (92, 34, 48))
_DENIM = ((62, 96, 150), (42, 64, 112), (98, 132, 176), (36, 48, 78), (78, 86, 98))
_TROUSERS = (
    (58, 58, 62), (172, 150, 116), (104, 84, 64), (92, 104, 76), (206, 200, 190), (38, 52, 92), (66, 92, 136),
    (132, 56, 60),
)  # fmt: skip
_MASKS = ((150, 204, 234), (244, 244, 244), (42, 42, 48), (236, 170, 190), (120, 180, 140), (40, 70, 140))
_LENSES = ((20, 20, 26), (60, 40, 26), (30, 46, 86), (146, 62, 34), (44, 84, 66))
_SHOES = ((32, 30, 30), (108, 70, 42), (232, 232, 230), (168, 44, 44), (60, 84, 130))


@dataclass(frozen=True)
class Occasion:
    """How the dolls of a scene dress. Numbers are chances; those of a list are for its items in order."""

    weight: float
    tops: tuple[float, float, float, float]  # T-shirt, long sleeves, jacket, no sleeves
    bottoms: tuple[float, float, float, float]  # shorts, jeans, other trousers, skirt
    sunglass: float
    hat: float
    mask: float
    logo: float  # this and stripe: of tops that are no jacket
    stripe: float
    scarf: float = 0.0


OCCASIONS: Mapping[str, Occasion] = {
    "street": Occasion(0.28, (0.36, 0.40, 0.10, 0.14), (0.16, 0.40, 0.24, 0.20), 0.20, 0.22, 0.08, 0.32, 0.30),
    "office": Occasion(0.20, (0.10, 0.28, 0.60, 0.02), (0.02, 0.14, 0.60, 0.24), 0.05, 0.06, 0.10, 0.12, 0.30),
    "beach": Occasion(0.16, (0.50, 0.08, 0.00, 0.42), (0.62, 0.08, 0.06, 0.24), 0.50, 0.42, 0.01, 0.34, 0.34),
    "sports": Occasion(0.16, (0.56, 0.22, 0.00, 0.22), (0.62, 0.02, 0.30, 0.06), 0.14, 0.34, 0.02, 0.62, 0.36),
    "winter": Occasion(0.12, (0.02, 0.84, 0.14, 0.00), (0.01, 0.45, 0.42, 0.12), 0.10, 0.66, 0.16, 0.26, 0.34, 0.3),
    "clinic": Occasion(0.08, (0.30, 0.46, 0.18, 0.06), (0.06, 0.34, 0.42, 0.18), 0.04, 0.14, 0.74, 0.20, 0.22),
}

_LONG_HAIR = 0.42
_POSES = ((10, 4), (6, -4), (46, -48), (24, 16), (58, 68), (100, 168), (28, 118), (16, 28), (72, 140))
_POSE_ODDS = (0.24, 0.16, 0.12, 0.16, 0.06, 0.05, 0.07, 0.10, 0.04)


def sample_attributes(rng: np.random.Generator, occasion: Occasion) -> frozenset[str]:
    """The attributes of one doll, which fit each other.

    A jacket (`formal`) has long sleeves, no stripe, no logo, and goes with trousers or a skirt. Of `Tshirt` and
    `longSleeve` there is one or (no sleeves) none. Of shorts, trousers and skirt there is exactly one. Jeans are long
    trousers, so `jeans` comes with `longPants`.
    """
    present = {"Male"} if chance(rng, 0.5) else set()
    if chance(rng, _LONG_HAIR):
        present.add("longHair")
    for name, odds in (("sunglass", occasion.sunglass), ("Hat", occasion.hat), ("faceMask", occasion.mask)):
        if chance(rng, odds):
            present.add(name)
    top = pick(rng, (("Tshirt",), ("longSleeve",), ("longSleeve", "formal"), ()), occasion.tops)
    present.update(top)
    bottoms = (("shorts",), ("jeans", "longPants"), ("longPants",), ("skirt",))
    present.update(pick(rng, bottoms, (0.0, 0.0, 0.72, 0.28) if "formal" in top else occasion.bottoms))
    for name, odds in (("logo", occasion.logo), ("stripe", occasion.stripe)):
        if chance(rng, odds) and "formal" not in top:
            present.add(name)
    return frozenset(present)


def sample_doll(rng: np.random.Generator, occasion: Occasion) -> Doll:
    """One doll: its attributes, and all else that can be seen of it."""
    present = sample_attributes(rng, occasion)
    formal, jeans = "formal" in present, "jeans" in present
    skin = pick(rng, SKIN)
    hair = _apart(rng, _HAIR, 55, skin)
    top = _apart(rng, _SUIT if formal else _CLOTH, 70, skin)
    second = _apart(rng, _CLOTH, 130, top)
    if formal and chance(rng, 0.7):
        bottom = top
    else:
        bottom = _apart(rng, _DENIM if jeans else _TROUSERS if "longPants" in present else _CLOTH, 70, skin)
    long_hair, male = "longHair" in present, "Male" in present
    men, women = ("beard", "moustache", "goatee", "shaven"), ("earrings", "lips", "both", "plain")
    leg = uniform(rng, 7, 14)
    return Doll(
        present=present,
        skin=skin,
        hair=hair,
        top=top,
        second=second,
        logo=_apart(rng, _CLOTH, 120, top),
        bottom=bottom,
        hat=_apart(rng, _CLOTH, 70, hair, skin),
        mask=_apart(rng, _MASKS, 90, skin),
        lens=pick(rng, _LENSES),
        shoes=pick(rng, _SHOES),
        tie=_apart(rng, _CLOTH, 100, (244, 242, 238)),
        arms=(_pose(rng), _pose(rng)),
        legs=(leg + uniform(rng, -2, 2), leg + uniform(rng, -2, 2)),
        girth=uniform(rng, 0.86, 1.24),
        leg_length=uniform(rng, 0.86, 1.08),
        head_size=uniform(rng, 0.92, 1.14),
        head_shift=uniform(rng, -2, 2),
        stripe_pitch=uniform(rng, 7, 14),
        stripe_angle=pick(rng, (0, 90, 35, -35), (0.6, 0.22, 0.09, 0.09)),
        hair_style=pick(rng, ("straight", "wavy", "plaits"))
        if long_hair
        else pick(rng, ("crop", "afro", "bob", "bun", "bald"), (0.38, 0.16, 0.2, 0.16, 0.1)),
        hat_style=pick(rng, ("cap", "brim", "beanie", "bucket", "bowler")),
        logo_style=pick(rng, ("star", "triangle", "tick", "ring", "bar")),
        face_style=pick(rng, men if male else women, (0.34, 0.22, 0.22, 0.22) if male else (0.3, 0.3, 0.25, 0.15)),
        pattern=pick(rng, ("plain", "dots", "pocket", "buttons"), (0.46, 0.18, 0.16, 0.2)),
        neck_style=pick(rng, ("crew", "vee", "collar"), (0.45, 0.25, 0.3)),
        formal_style=pick(rng, ("tie", "bow", "open"), (0.55, 0.12, 0.33)),
        extra="scarf"
        if chance(rng, occasion.scarf)
        else pick(rng, ("none", "glasses", "headband", "bag", "cup"), (0.42, 0.22, 0.12, 0.14, 0.1)),
        hem=uniform(rng, 0, 1),
    )


def pick_occasion(rng: np.random.Generator) -> str:
    """The name of an occasion."""
    return pick(rng, tuple(OCCASIONS), [o.weight for o in OCCASIONS.values()])


def _pose(rng: np.random.Generator) -> tuple[float, float]:
    upper, fore = pick(rng, _POSES, _POSE_ODDS)
    return upper + uniform(rng, -5, 5), fore + uniform(rng, -8, 8)


def _apart(rng: np.random.Generator, colours: Sequence[RGB], distance: float, *others: RGB) -> RGB:
    """One of the colours that differ from each of `others` by `distance` (summed over channels), else the furthest."""
    gaps = [min(sum(abs(a - b) for a, b in zip(colour, other, strict=True)) for other in others) for colour in colours]
    allowed = [colour for colour, gap in zip(colours, gaps, strict=True) if gap >= distance]
    return pick(rng, allowed or [colours[int(np.argmax(gaps))]])


def pick(rng: np.random.Generator, options: Sequence[T], odds: Sequence[float] | None = None) -> T:
    if odds is None:
        return options[int(rng.random() * len(options))]
    left = rng.random() * sum(odds)
    for option, share in zip(options, odds, strict=True):
        left -= share
        if left < 0:
            return option
    return options[-1]


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def chance(rng: np.random.Generator, odds: float) -> bool:
    return rng.random() < odds
