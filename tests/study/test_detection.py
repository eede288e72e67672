"""Parts against a flood fill, and CorLoc and mAP against loops written from VOC's rules."""

import numpy as np
import pytest
import torch

from csra_lab.errors import CsraError
from csra_lab.study.detection import (
    Detections,
    connected_parts,
    detection_precision,
    largest_boxes,
    localised,
    match,
    overlap,
    parts_above,
    upsampled,
)
from csra_lab.study.localization import Objects, activation_maps, attention_maps, padded_rows


def flood(mask):
    """Cells of each connected part, by flood fill."""
    left, parts = set(zip(*np.nonzero(mask), strict=True)), []
    while left:
        edge = [left.pop()]
        part = set(edge)
        while edge:
            i, j = edge.pop()
            for cell in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if cell in left:
                    left.remove(cell)
                    part.add(cell)
                    edge.append(cell)
        parts.append(part)
    return parts


@pytest.mark.parametrize("density", [0.0, 0.3, 0.55, 0.7, 1.0])
def test_parts_against_a_flood_fill(density):
    masks = np.random.default_rng(0).random((30, 9, 12)) < density
    runs, part = connected_parts(masks)
    found = [set() for _ in range(part.max(initial=-1) + 1)]
    for (p, row, first, last), number in zip(runs, part, strict=True):
        found[number] |= {(int(p), int(row), j) for j in range(first, last)}
    expected = [{(p, int(i), int(j)) for i, j in cells} for p in range(30) for cells in flood(masks[p])]
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))


def test_a_long_snake_is_one_part():
    mask = np.zeros((1, 41, 41), dtype=bool)
    mask[0, ::2] = True
    mask[0, 1::4, -1] = mask[0, 3::4, 0] = True
    assert connected_parts(mask)[1].max() == 0
    mask[0, 21] = False
    assert connected_parts(mask)[1].max() == 1


def test_boxes_around_parts_against_a_loop():
    maps = activation_maps(torch.randn(20, 7, 7))
    parts = parts_above(maps, 0.6, size=21)
    fine = upsampled(maps, 21).numpy()
    for p in range(20):
        cells = sorted(flood(fine[p] >= 0.6 * fine[p].max()), key=len, reverse=True)
        mine = np.flatnonzero(parts.mask == p)
        assert [round(a * 441) for a in parts.area[mine]] == [len(c) for c in cells]
        expected = {
            (min(j for _, j in c), min(i for i, _ in c), max(j for _, j in c) + 1, max(i for i, _ in c) + 1,
             float(max(fine[p][i, j] for i, j in c)))
            for c in cells
        }  # fmt: skip
        corners = np.round(21 * parts.corners[mine]).astype(int).tolist()
        assert {(*c, float(b)) for c, b in zip(corners, parts.best[mine], strict=True)} == expected
    largest = largest_boxes(parts)
    assert largest.shape == (20, 4)
    assert all((largest[p] == parts.corners[parts.mask == p][0]).all() for p in range(20))


def test_a_threshold_on_attention_is_a_distance_below_the_best_score():
    scores, temperature, threshold = torch.randn(50, 7, 7, dtype=torch.float64), 1.7, 0.2
    attention = attention_maps(scores, temperature)
    above = attention >= threshold * attention.amax(dim=(1, 2), keepdim=True)
    below = scores.amax(dim=(1, 2), keepdim=True) - scores
    assert torch.equal(above, below <= np.log(1 / threshold) / temperature)


@pytest.mark.parametrize("threshold", [0, 1.1, float("nan")])
def test_a_threshold_is_a_share(threshold):
    with pytest.raises(CsraError, match="share"):
        parts_above(torch.rand(1, 7, 7), threshold)


def test_maps_may_need_gradients_and_must_be_finite():
    maps = torch.rand(2, 7, 7, requires_grad=True)
    assert np.array_equal(parts_above(maps, 0.5).corners, parts_above(maps.detach(), 0.5).corners)
    with pytest.raises(CsraError, match="not finite"):
        parts_above(maps * torch.nan, 0.5)


def pixel_overlap(a, b):
    """IoU by counting the cells of a 12 x 12 grid."""
    masks = []
    for x0, y0, x1, y1 in (a, b):
        mask = np.zeros((12, 12), dtype=bool)
        mask[y0:y1, x0:x1] = True
        masks.append(mask)
    return (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()


def whole_boxes(rng, count):
    ends = [np.sort(rng.choice(13, 2, replace=False)) for _ in range(2 * count)]
    return np.array([(ends[k][0], ends[k + 1][0], ends[k][1], ends[k + 1][1]) for k in range(0, 2 * count, 2)])


def test_overlap_and_corloc_against_counted_cells():
    rng = np.random.default_rng(1)
    a, b = whole_boxes(rng, 40), whole_boxes(rng, 40)
    expected = np.array([[pixel_overlap(x, y) for y in b] for x in a])
    np.testing.assert_allclose(overlap(a[:, None] / 12, b[None] / 12), expected, atol=1e-12)
    truth = np.concatenate([np.tile(b[None] / 12, (40, 1, 1)), np.full((40, 1, 4), np.nan)], axis=1)
    assert localised(a / 12, truth).tolist() == [bool((row >= 0.5 - 1e-12).any()) for row in expected]


def scene(rng, pictures=25, classes=3):
    """Objects, and detections near them and elsewhere, in 12ths of the sides; scores without ties."""
    count = 60
    corners = whole_boxes(rng, count)
    objects = Objects(
        np.sort(rng.integers(pictures, size=count)), rng.integers(classes, size=count), corners / 12,
        rng.random(count) < 0.2, pictures,
    )  # fmt: skip
    near = rng.integers(count, size=150)
    moved = corners[near] + rng.integers(-1, 2, size=(150, 4))
    moved = np.stack([*moved[:, :2].clip(0, 11).T, *np.maximum(moved[:, 2:], moved[:, :2] + 1).clip(1, 12).T], axis=1)
    image = np.concatenate([objects.image[near], rng.integers(pictures, size=100)])
    label = np.concatenate([objects.label[near], rng.integers(classes, size=100)])
    boxes = np.concatenate([moved, whole_boxes(rng, 100)])
    return objects, Detections(image, label, boxes / 12, rng.permutation(250) / 250)


def voc_precision(objects, detections, label):
    """AP at 0.5 as the VOC devkit computes it, one detection at a time."""
    mine = [d for d in np.argsort(-detections.score) if detections.label[d] == label]
    taken, right, wrong, points = set(), 0, 0, []
    total = sum(1 for k, d in zip(objects.label, objects.difficult, strict=True) if k == label and not d)
    for d in mine:
        best, which = 0.0, None
        for m in range(len(objects.image)):
            if objects.image[m] == detections.image[d] and objects.label[m] == label:
                boxes = (np.round(12 * b).astype(int) for b in (detections.corners[d], objects.corners[m]))
                iou = pixel_overlap(*boxes)
                if iou > best:
                    best, which = iou, m
        if best >= 0.5 - 1e-12 and objects.difficult[which]:
            continue
        if best >= 0.5 - 1e-12 and which not in taken:
            taken.add(which)
            right += 1
        else:
            wrong += 1
        points.append((right / total, right / (right + wrong)))
    area, before = 0.0, 0.0
    for i, (recall, _) in enumerate(points):
        area += (recall - before) * max(precision for _, precision in points[i:])
        before = recall
    return area


@pytest.mark.parametrize("seed", range(4))
def test_detection_ap_against_vocs_rules(seed):
    objects, detections = scene(np.random.default_rng(seed))
    found = detection_precision(detections, objects)
    assert found == pytest.approx([voc_precision(objects, detections, c) for c in range(3)])
    assert 0 < found.min() < found.max() < 1
    _, verdict = match(detections, objects)
    assert set(verdict) == {-1, 0, 1}


def test_weights_are_repeated_pictures():
    rng = np.random.default_rng(9)
    objects, detections = scene(rng)
    weights = rng.integers(0, 3, size=(5, 25))
    found = detection_precision(detections, objects, weights=weights)
    for row, each in zip(found, weights, strict=True):
        copies = np.repeat(np.arange(25), each)  # number of the copy -> picture
        o = [(new, m) for new, old in enumerate(copies) for m in np.flatnonzero(objects.image == old)]
        d = [(new, k) for new, old in enumerate(copies) for k in np.flatnonzero(detections.image == old)]
        (image_o, m), (image_d, k) = np.array(o).T, np.array(d).T
        again = detection_precision(
            Detections(image_d, detections.label[k], detections.corners[k], detections.score[k]),
            Objects(image_o, objects.label[m], objects.corners[m], objects.difficult[m], len(copies)),
        )
        assert row == pytest.approx(again)
    np.testing.assert_allclose(
        detection_precision(detections, objects, weights=np.ones((1, 25), dtype=int))[0],
        detection_precision(detections, objects),
    )


def test_perfect_boxes_are_perfect_and_a_second_box_is_wrong():
    rng = np.random.default_rng(3)
    objects, _ = scene(rng)
    objects = Objects(np.arange(60), objects.label, objects.corners, np.zeros(60, dtype=bool), 60)
    perfect = Detections(objects.image, objects.label, objects.corners, rng.random(60))
    assert detection_precision(perfect, objects) == pytest.approx([1, 1, 1])
    twice = Detections(
        *(np.concatenate([x, x]) for x in (perfect.image, perfect.label, perfect.corners, perfect.score))
    )
    assert match(twice, objects)[1].sum() == 60
    absent = Objects(objects.image, np.full(60, 2), objects.corners, objects.difficult, 60)
    assert np.isnan(detection_precision(perfect, absent)[:2]).all()


def test_no_detection_at_all_scores_nothing():
    objects, _ = scene(np.random.default_rng(5))
    none = Detections(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
    assert detection_precision(none, objects).tolist() == [0, 0, 0]
    nothing = Objects(none.image, none.label, none.corners, np.zeros(0, dtype=bool), 3)
    found = Detections(np.arange(3), np.array([0, 1, 0]), np.zeros((3, 4)), np.arange(3.0))
    assert [part.tolist() for part in match(found, nothing)] == [[2, 1, 0], [0, 0, 0]]
    assert np.isnan(detection_precision(found, nothing)).all()
    assert padded_rows(objects.corners, objects.image, 25).shape[2] == 4
