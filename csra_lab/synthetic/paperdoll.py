"""One paper doll: a person made of coloured polygons, from a description that says everything about it."""

import itertools
import math

import numpy as np

from csra_lab.synthetic.paperdoll_body import HIP_Y, INK, SHOULDER_Y, WAIST_Y, WHITE, Body, Doll, Paper, body_of, torso
from csra_lab.synthetic.paperdoll_head import draw_accessories, draw_hair_before, draw_hair_behind, draw_head
from csra_lab.synthetic.polygons import Point, Shape, box, ellipse, limb, points, shade, turned


def doll_shapes(doll: Doll) -> list[Shape]:
    """The polygons of a doll in units, in the order in which they are painted."""
    paper, b = Paper(), body_of(doll)
    draw_hair_behind(paper, doll, b)
    _limbs(paper, doll, b)
    _bottom(paper, doll, b)
    _top(paper, doll, b)
    draw_head(paper, doll, b)
    draw_hair_before(paper, doll, b)
    draw_accessories(paper, doll, b)
    return paper.shapes


def _limbs(paper: Paper, doll: Doll, b: Body) -> None:
    """Legs, shoes, what is carried, and arms, as if nothing were worn over them."""
    for side, (hip, knee, ankle) in zip((-1, 1), b.legs, strict=True):
        w = b.leg_width - 0.8
        paper.add("limbs", doll.skin, limb(hip, knee, w + 1, w), limb(knee, ankle, w, w - 1.5))
        foot = ellipse(ankle[0] + side * 2, ankle[1] + 2, 6.5, 4)
        paper.add("limbs", doll.shoes, foot, limb(ankle, ankle, 3.5, 3.5))
    hand = b.arms[1][2]
    if doll.extra == "bag":
        paper.line("limbs", INK, [(hand[0] - 6, hand[1] + 16), hand, (hand[0] + 6, hand[1] + 16)], 1.4, clipped=False)
        paper.add("limbs", doll.second, box(hand[0] - 8, hand[1] + 14, hand[0] + 8, hand[1] + 31))
    for shoulder, elbow, wrist in b.arms:
        w = b.arm_width
        paper.add("limbs", doll.skin, limb(shoulder, elbow, w + 0.5, w), limb(elbow, wrist, w, w - 0.8))
        paper.add("limbs", doll.skin, ellipse(*wrist, w + 0.8, w + 1.2))
    if doll.extra == "cup":
        paper.add("limbs", WHITE, box(hand[0] - 3, hand[1] - 9, hand[0] + 3, hand[1] + 1))
        paper.add("limbs", doll.second, box(hand[0] - 3, hand[1] - 6, hand[0] + 3, hand[1] - 2))


def _bottom(paper: Paper, doll: Doll, b: Body) -> None:
    colour, dark, w = doll.bottom, shade(doll.bottom, 0.72), b.leg_width
    hips = [(-b.waist, WAIST_Y - 4), (b.waist, WAIST_Y - 4), (b.hip, HIP_Y), (b.hip - 1, HIP_Y + 9), (0, HIP_Y + 13)]
    paper.add("bottom", colour, points([*hips, (1 - b.hip, HIP_Y + 9), (-b.hip, HIP_Y)]))
    if "skirt" in doll.present:
        end, flare = HIP_Y + 28 + 32 * doll.hem, b.hip + 5 + 9 * doll.hem
        cloth = [(-b.waist, WAIST_Y - 4), (b.waist, WAIST_Y - 4), (b.hip + 1, HIP_Y), (flare, end), (-flare, end)]
        paper.add("bottom", colour, points([*cloth, (-b.hip - 1, HIP_Y)]))
        for k in (-0.6, -0.2, 0.2, 0.6):
            paper.line("bottom", dark, [(k * b.hip, HIP_Y + 4), (k * flare, end)], 1.2)
    elif "shorts" in doll.present:
        for side, (hip, knee, _) in zip((-1, 1), b.legs, strict=True):
            x, y = _between(hip, knee, 0.55 + 0.35 * doll.hem)
            leg = [
                (0, HIP_Y - 6),
                (side * b.hip, HIP_Y - 2),
                (x + side * 9, y + 4),
                (x - side * 7, y + 4),
                (0, HIP_Y + 12),
            ]
            paper.add("bottom", colour, points(leg))
            paper.line("bottom", dark, [(x - side * 8, y + 2), (x + side * 10, y + 2)], 1.6)
        paper.line("bottom", dark, [(0, HIP_Y - 4), (0, HIP_Y + 13)], 1)
    else:
        for hip, knee, ankle in b.legs:
            low = (ankle[0], ankle[1] - 2)
            paper.add("bottom", colour, limb(hip, knee, w + 1.6, w + 0.6), limb(knee, low, w + 0.6, w - 0.2))
        if "jeans" in doll.present:
            _denim(paper, doll, b)
        else:
            for hip, knee, ankle in b.legs:
                paper.line("bottom", dark, [(hip[0], HIP_Y + 14), knee, ankle], 0.9)


def _denim(paper: Paper, doll: Doll, b: Body) -> None:
    """What tells jeans from plain trousers: washed thighs and knees, orange seams, pockets, turned-up ends."""
    thread, pale, w = (232, 164, 70), shade(doll.bottom, 1.32, lift=22), b.leg_width
    for side, (hip, knee, ankle) in zip((-1, 1), b.legs, strict=True):
        thigh = _between(hip, knee, 0.35)
        paper.add("bottom", pale, limb(thigh, knee, w * 0.5, w * 0.35), clipped=True)
        paper.line("bottom", thread, [(hip[0] + side * w, hip[1]), (knee[0] + side * w, knee[1])], 1.1)
        paper.line("bottom", thread, [(knee[0] + side * w, knee[1]), (ankle[0] + side * (w - 1.5), ankle[1])], 1.1)
        pocket = [(side * (b.hip - 1), HIP_Y - 1), (side * (b.hip - 7), HIP_Y - 4), (side * (b.hip - 8), HIP_Y - 14)]
        paper.line("bottom", thread, pocket, 1.2)
        paper.add("bottom", pale, box(ankle[0] - 9, ankle[1] - 5, ankle[0] + 9, ankle[1] + 6), clipped=True)
    paper.line("bottom", thread, [(0, HIP_Y - 14), (0, HIP_Y + 5), (-4, HIP_Y - 2)], 1.1)


def _top(paper: Paper, doll: Doll, b: Body) -> None:
    """The cloth of torso and sleeves is one layer, so that stripes end where it does."""
    dark, w = shade(doll.top, 0.68), b.arm_width
    bare = not doll.present & {"Tshirt", "longSleeve"}
    paper.add("top", doll.top, torso(b, HIP_Y - 6 + 9 * doll.hem, straps=bare))
    for shoulder, elbow, wrist in b.arms:
        if "longSleeve" in doll.present:
            cuff = _between(elbow, wrist, 0.9)
            paper.add("top", doll.top, limb(shoulder, elbow, w + 2.4, w + 1.6), limb(elbow, cuff, w + 1.6, w + 1))
        elif "Tshirt" in doll.present:
            paper.add("top", doll.top, limb(shoulder, _between(shoulder, elbow, 0.5), w + 3, w + 2.6))
    if "stripe" in doll.present:
        for k in range(-12, 13):
            line = box(-130, doll.stripe_pitch * k, 130, doll.stripe_pitch * (k + 0.5))
            paper.add("top", doll.second, turned(line, doll.stripe_angle) + np.array([0, 90]), clipped=True)
    elif doll.pattern == "dots" and "formal" not in doll.present:
        for i, j in itertools.product(range(-6, 7), range(8)):
            dot = ellipse(9 * i + 4.5 * (j % 2), SHOULDER_Y - 2 + 9 * j, 2, 2, sides=6)
            paper.add("top", doll.second, dot, clipped=True)
    for side in (-1, 1):
        paper.line("top", dark, [(side * (b.shoulder - 4), SHOULDER_Y + 15), (side * b.waist, WAIST_Y - 8)], 1)
        if "Male" not in doll.present:
            curve = [(side * 3, SHOULDER_Y + 23), (side * 8, SHOULDER_Y + 25.5), (side * 12.5, SHOULDER_Y + 22)]
            paper.line("top", dark, curve, 1.1)
    if "formal" in doll.present:
        _suit(paper, doll)
        return
    if doll.pattern == "buttons":
        paper.line("top", dark, [(0, SHOULDER_Y), (0, HIP_Y + 8)], 0.9)
        paper.add("top", dark, *(ellipse(2, y, 1, 1, sides=6) for y in range(74, 122, 9)), clipped=True)
    elif doll.pattern == "pocket":
        paper.line("top", dark, [(5, 82), (13, 82), (13, 91), (9, 94), (5, 91), (5, 82)], 1)
    if "logo" in doll.present:
        _logo(paper, doll)
    if doll.neck_style == "collar":
        for side in (-1, 1):
            paper.add("top", dark, points([(0, 66), (side * 8, 58), (side * 12, 66), (side * 7, 72)]), clipped=True)


def _suit(paper: Paper, doll: Doll) -> None:
    s, pale, dark = SHOULDER_Y, shade(doll.top, 1.3, lift=14), shade(doll.top, 0.55)
    paper.add("top", WHITE, points([(-8, s - 8), (8, s - 8), (0, WAIST_Y)]), clipped=True)
    if doll.formal_style == "tie":
        knot = [(-2.5, s), (2.5, s), (3.6, WAIST_Y - 14), (0, WAIST_Y - 7), (-3.6, WAIST_Y - 14)]
        paper.add("top", doll.tie, points(knot), clipped=True)
    elif doll.formal_style == "bow":
        paper.add("top", doll.tie, points([(-7, s), (7, s + 8), (7, s), (-7, s + 8)]), clipped=True)
    for side in (-1, 1):
        lapel = [(side * 8, s - 8), (side * 14, s + 6), (side * 10, s + 13), (0, WAIST_Y)]
        paper.add("top", pale, points(lapel), clipped=True)
    paper.line("top", dark, [(0, WAIST_Y - 2), (0, HIP_Y + 6)], 1.2)
    paper.add("top", dark, *(ellipse(3.4, y, 1.5, 1.5, sides=8) for y in (WAIST_Y + 2, WAIST_Y + 10)), clipped=True)


def _logo(paper: Paper, doll: Doll) -> None:
    y, badge = SHOULDER_Y + 22, shade(doll.top, 0.5) if sum(doll.logo) > 380 else WHITE
    if doll.logo_style == "bar":  # a word across the chest
        paper.add("top", badge, box(-11, y - 5.5, 11, y + 5.5), clipped=True)
        paper.add("top", doll.logo, *(box(x, y - 3.2, x + 3.4, y + 3.2) for x in (-9, -4.3, 0.6, 5.4)), clipped=True)
        return
    paper.add("top", badge, ellipse(0, y, 9, 9), clipped=True)
    if doll.logo_style == "star":
        spokes = [(0.4 if k % 2 else 1, k * math.pi / 5) for k in range(10)]
        star = [(8 * f * math.sin(a), y - 8 * f * math.cos(a)) for f, a in spokes]
        paper.add("top", doll.logo, points(star), clipped=True)
    elif doll.logo_style == "triangle":
        paper.add("top", doll.logo, points([(0, y - 7), (6.5, y + 4.5), (-6.5, y + 4.5)]), clipped=True)
    elif doll.logo_style == "tick":
        paper.line("top", doll.logo, [(-5.5, y), (-1, y + 5), (6, y - 5)], 3.4)
    else:
        paper.add("top", doll.logo, ellipse(0, y, 6, 6), clipped=True)
        paper.add("top", badge, ellipse(0, y, 2.6, 2.6), clipped=True)


def _between(start: Point, end: Point, part: float) -> Point:
    return start[0] + part * (end[0] - start[0]), start[1] + part * (end[1] - start[1])
