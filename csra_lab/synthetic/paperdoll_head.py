"""The head of a paper doll: face, hair, and what is worn there."""

import math

import numpy as np

from csra_lab.synthetic.paperdoll_body import INK, SHOULDER_Y, WHITE, Body, Doll, Paper
from csra_lab.synthetic.polygons import box, ellipse, limb, points, shade


def draw_hair_behind(paper: Paper, doll: Doll, b: Body) -> None:
    (x, y), r, end = b.head, b.radius, SHOULDER_Y + 24
    if doll.hair_style in ("straight", "wavy"):
        paper.add("hair behind", doll.hair, ellipse(x, y - 1, r + 4, r + 4))
        flare = 8 if doll.hair_style == "wavy" else 5
        sides = [(x - r - 4, y), (x + r + 4, y), (x + r + flare, end), (x - r - flare, end)]
        paper.add("hair behind", doll.hair, points(sides))
    elif doll.hair_style == "afro":
        paper.add("hair behind", doll.hair, ellipse(x, y - 4, r + 7, r + 6))
    elif doll.hair_style == "bob":
        paper.add("hair behind", doll.hair, box(x - r - 3, y - 3, x + r + 3, y + r - 1))
    elif doll.hair_style == "bun" and "Hat" not in doll.present:
        paper.add("hair behind", doll.hair, ellipse(x, y - r - 4, 6, 5.5))


def draw_head(paper: Paper, doll: Doll, b: Body) -> None:
    (x, y), r, male = b.head, b.radius, "Male" in doll.present
    blush, lip, brow = shade(doll.skin, 0.86), shade(doll.skin, 0.62), shade(doll.hair, 0.75)
    wide = 5.6 if male else 4.6
    neck = [(x - wide, y + 5), (x + wide, y + 5), (wide, SHOULDER_Y - 3), (0, SHOULDER_Y + 3), (-wide, SHOULDER_Y - 3)]
    if doll.neck_style == "vee" and "formal" not in doll.present:
        neck[3] = (0, SHOULDER_Y + 12)
    paper.add("neck", blush, points(neck))
    if doll.extra == "scarf":
        paper.add("neck", doll.second, ellipse(0, SHOULDER_Y - 4, 13, 6.5), limb((8, 62), (11, 88), 4, 4.5))
    paper.add(
        "head", doll.skin, ellipse(x, y, r - 1, r + 1.5), *(ellipse(x + s * (r - 1), y + 2, 2.6, 3.6) for s in (-1, 1))
    )
    if male:  # a square jaw
        paper.add(
            "head", doll.skin, points([(x - r + 1, y), (x + r - 1, y), (x + r - 3, y + r - 1), (x - r + 3, y + r - 1)])
        )
        _beard(paper, doll, b)
    for s in (-1, 1):
        paper.add("head", WHITE, ellipse(x + s * 5.3, y + 0.5, 2.7, 2), clipped=True)
        paper.add("head", INK, ellipse(x + s * 5.3, y + 0.5, 1.5, 1.7, sides=8), clipped=True)
        paper.line(
            "head", brow, [(x + s * 2.8, y - 4.6), (x + s * 6, y - 5.4), (x + s * 8.8, y - 4.4)], 2.2 if male else 1
        )
        if not male:  # lashes
            paper.line(
                "head",
                INK,
                [(x + s * 2.8, y - 0.8), (x + s * 5, y - 2.2), (x + s * 8, y - 1.4), (x + s * 10, y - 3)],
                1.2,
            )
    paper.line("head", blush, [(x, y + 1), (x + 1.5, y + 5), (x - 1, y + 5.4)], 1.2)
    if not male and doll.face_style in ("lips", "both"):
        paper.add("head", (196, 40, 70), ellipse(x, y + 9, 3.8, 1.9), clipped=True)
    else:
        paper.line("head", lip, [(x - 3.4, y + 8.6), (x, y + 9.6), (x + 3.4, y + 8.6)], 1.4)


def _beard(paper: Paper, doll: Doll, b: Body) -> None:
    (x, y), r = b.head, b.radius
    if doll.face_style == "beard":
        low = [
            (x - r, y + 1),
            (x - r + 4, y + 6),
            (x + r - 4, y + 6),
            (x + r, y + 1),
            (x + r, y + r + 4),
            (x - r, y + r + 4),
        ]
        paper.add("head", doll.hair, points(low), ellipse(x, y + r - 1, r - 3, 4), clipped=True)
        paper.add("head", doll.skin, ellipse(x, y + 9, 4.4, 1.8), clipped=True)
    elif doll.face_style == "goatee":
        paper.add("head", doll.hair, ellipse(x, y + r - 1, 4.5, 4.5), clipped=True)
    if doll.face_style in ("moustache", "goatee"):
        paper.line("head", doll.hair, [(x - 6, y + 7.6), (x, y + 6), (x + 6, y + 7.6)], 2.6)


def draw_hair_before(paper: Paper, doll: Doll, b: Body) -> None:
    """The cap of hair above the brow, and what of long hair falls before the shoulders."""
    (x, y), r, style = b.head, b.radius, doll.hair_style
    if style != "bald":
        arc = [math.radians(180 + 15 * k) for k in range(13)]
        outer = [(x + (r + 0.8) * math.cos(a), y - 1 + (r + 2.5) * math.sin(a)) for a in arc]
        edge = {"crop": 7.5, "bun": 8, "afro": 6.5}.get(style, 5.5)
        paper.add(
            "hair",
            doll.hair,
            points([*outer, (x + r - 3, y - edge + 1), (x + 2, y - edge - 3), (x - r + 3, y - edge + 1)]),
        )
    if style == "bob":
        paper.add("hair", doll.hair, *(limb((x + s * r, y - 5), (x + s * (r + 0.5), y + r - 5), 3, 4) for s in (-1, 1)))
    for s in (-1, 1):
        top, low = (x + s * (r + 0.5), y - 5), (x + s * (r + 2), SHOULDER_Y + 22)
        if style == "straight":
            paper.add("hair", doll.hair, limb(top, low, 3, 4.2))
        elif style == "wavy":
            paper.add("hair", doll.hair, limb(top, low, 3.2, 3))
            paper.add(
                "hair",
                doll.hair,
                *(ellipse(low[0] + s * (k % 2 * 3 - 1), top[1] + 9 + 9 * k, 5, 5.5) for k in range(7)),
            )
        elif style == "plaits":
            paper.add("hair", doll.hair, *(ellipse(low[0], top[1] + 6 + 7.5 * k, 4.2 - 0.1 * k, 4.4) for k in range(9)))
            paper.add("hair", doll.second, ellipse(low[0], low[1] - 4, 3.4, 2.2))


def draw_accessories(paper: Paper, doll: Doll, b: Body) -> None:
    (x, y), r = b.head, b.radius
    if "Male" not in doll.present and doll.face_style in ("earrings", "both"):
        paper.add("earrings", (240, 200, 70), *(ellipse(x + s * r, y + 8, 1.9, 2.6, sides=10) for s in (-1, 1)))
    if doll.extra == "headband" and "Hat" not in doll.present:
        paper.line("headband", doll.second, [(x - r, y - 7.5), (x, y - 9.5), (x + r, y - 7.5)], 3.4, clipped=False)
    if "faceMask" in doll.present:
        cloth = [(x - r + 1.5, y + 3), (x, y + 1.5), (x + r - 1.5, y + 3), (x + r - 3.5, y + 11), (x, y + r + 3.5)]
        paper.add("mask", doll.mask, points([*cloth, (x - r + 3.5, y + 11)]))
        for k in (6, 9.5):
            paper.line("mask", shade(doll.mask, 0.78), [(x - 8, y + k), (x, y + k - 0.8), (x + 8, y + k)], 0.9)
        for s in (-1, 1):
            paper.line(
                "mask", shade(doll.mask, 0.85), [(x + s * (r - 2), y + 4), (x + s * (r + 1), y)], 1, clipped=False
            )
    if "sunglass" in doll.present:
        paper.line("glasses", INK, [(x - r, y - 2.4), (x + r, y - 2.4)], 1.6, clipped=False)
        for s in (-1, 1):
            paper.add("glasses", INK, ellipse(x + s * 5.8, y + 0.4, 5.6, 4.7))
            paper.add("glasses", doll.lens, ellipse(x + s * 5.8, y + 0.4, 4.6, 3.7), clipped=True)
            paper.line("glasses", WHITE, [(x + s * 5.8 - 2.4, y + 1), (x + s * 5.8 + 0.4, y - 1.8)], 1)
    elif doll.extra == "glasses":  # clear ones: the eyes are seen through them
        for s in (-1, 1):
            ring = [
                (x + s * 5.6 + 4.4 * math.cos(k), y + 0.5 + 3.9 * math.sin(k)) for k in np.linspace(0, 2 * math.pi, 11)
            ]
            paper.line("glasses", INK, ring, 1, clipped=False)
    if "Hat" in doll.present:
        _hat(paper, doll, b)


def _hat(paper: Paper, doll: Doll, b: Body) -> None:
    (x, y), r, colour, dark = b.head, b.radius, doll.hat, shade(doll.hat, 0.66)
    arc = [math.radians(180 + 15 * k) for k in range(13)]
    rise = {"bowler": 8.0, "beanie": 7.0}.get(doll.hat_style, 5.0)
    dome = points([(x + (r + 2) * math.cos(a), y - 5 + (r + rise - 4) * math.sin(a)) for a in arc])
    if doll.hat_style == "bucket":
        dome = points([(x - r, y - r - 6), (x + r, y - r - 6), (x + r + 2, y - 5), (x - r - 2, y - 5)])
    paper.add("hat", colour, dome)
    if doll.hat_style == "cap":
        s = 1 if doll.head_shift > 0 else -1
        paper.add("hat", dark, limb((x, y - 6), (x + s * (r + 8), y - 5), 2.4, 1.8))
    elif doll.hat_style == "brim":
        paper.add("hat", dark, ellipse(x, y - 6, r + 11, 3.8))
        paper.add("hat", doll.second, box(x - r - 1.5, y - 13, x + r + 1.5, y - 9), clipped=True)
    elif doll.hat_style == "beanie":
        paper.add("hat", dark, limb((x - r, y - 7), (x + r, y - 7), 3, 3))
        paper.add("hat", doll.second, ellipse(x, y - r - 8, 4.2, 4))
    elif doll.hat_style == "bucket":
        paper.add(
            "hat", dark, points([(x - r - 1, y - 10), (x + r + 1, y - 10), (x + r + 6, y - 3), (x - r - 6, y - 3)])
        )
    else:
        paper.add("hat", colour, limb((x - r - 4, y - 6), (x + r + 4, y - 6), 2, 2))
        paper.add("hat", dark, box(x - r - 3, y - 11, x + r + 3, y - 8), clipped=True)
