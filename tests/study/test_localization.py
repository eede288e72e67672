"""Maps and boxes against literal loops, and the limits in which the measures are known."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from csra_lab.datasets import Box, MultiLabelDataset
from csra_lab.datasets.transforms import eval_transform
from csra_lab.errors import CsraError
from csra_lab.study.detection import upsampled
from csra_lab.study.localization import (
    activation_maps,
    attention_maps,
    box_coverage,
    cell_centres,
    mass_inside,
    objects_of,
    padded_rows,
    pairs_of,
    peaks,
    place_boxes,
    points_inside,
)


def some_boxes(rng, pairs=12, most=4, side=70):
    """Boxes with whole pixels of a `side` x `side` picture, as fractions, filled up with NaN."""
    boxes = np.full((pairs, most, 4), np.nan)
    for p in range(pairs):
        for k in range(rng.integers(1, most + 1)):
            (x0, x1), (y0, y1) = (np.sort(rng.choice(side + 1, 2, replace=False)) for _ in range(2))
            boxes[p, k] = np.array([x0, y0, x1, y1]) / side
    return boxes


def test_attention_is_a_softmax_over_the_cells():
    scores = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    for temperature in (0.0, 0.7, 3.0):
        found = attention_maps(scores, temperature)
        for b, h, c in np.ndindex(2, 3, 4):
            exps = [[math.exp(temperature * scores[b, h, c, i, j]) for j in range(6)] for i in range(5)]
            torch.testing.assert_close(found[b, h, c], torch.tensor(exps) / sum(map(sum, exps)), check_dtype=False)
    hard = attention_maps(scores, math.inf)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(hard.flatten(-2).argmax(-1), scores.flatten(-2).argmax(-1))


def test_activation_maps_know_no_unit():
    scores = torch.randn(5, 7, 7, dtype=torch.float64)
    found = activation_maps(scores)
    assert found.amin(dim=(1, 2)).tolist() == [0] * 5
    assert found.amax(dim=(1, 2)).tolist() == [1] * 5
    torch.testing.assert_close(activation_maps(3 * scores - 8), found)
    assert activation_maps(torch.full((1, 2, 2), 4.0)).tolist() == [[[0, 0], [0, 0]]]


@pytest.mark.parametrize("grid", [(7, 7), (7, 5), (1, 2)])
def test_coverage_against_counted_pixels(grid):
    boxes = some_boxes(np.random.default_rng(0))
    found = box_coverage(boxes, grid)
    for p, of_pair in enumerate(boxes):
        pixels = np.zeros((70, 70), dtype=bool)
        for x0, y0, x1, y1 in np.round(70 * of_pair[~np.isnan(of_pair[:, 0])]).astype(int):
            pixels[y0:y1, x0:x1] = True
        h, w = grid
        counted = pixels.reshape(h, 70 // h, w, 70 // w).mean(axis=(1, 3))
        np.testing.assert_allclose(found[p], counted, atol=1e-9)


def test_coverage_of_any_rectangle_is_its_area():
    rng = np.random.default_rng(1)
    ends = np.sort(rng.random((50, 2, 2)), axis=1)  # (P, ends, axes)
    boxes = ends.reshape(50, 1, 4)
    found = box_coverage(boxes, (7, 7))
    area = np.prod(ends[:, 1] - ends[:, 0], axis=1)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), area, atol=1e-12)
    assert (found <= 1).all()
    twice = np.concatenate([boxes, boxes, np.full_like(boxes, np.nan)], axis=1)
    np.testing.assert_allclose(box_coverage(twice, (7, 7)), found, atol=1e-12)


def test_points_against_a_loop():
    rng = np.random.default_rng(2)
    boxes, points = some_boxes(rng), rng.random((12, 9, 2))
    for tolerance in (0.0, 0.1):
        found = points_inside(points, boxes, tolerance=tolerance)
        for p, q in np.ndindex(12, 9):
            x, y = points[p, q]
            near = False
            for x0, y0, x1, y1 in boxes[p][~np.isnan(boxes[p, :, 0])]:
                nearest = min(max(x, x0), x1), min(max(y, y0), y1)
                near |= math.dist((x, y), nearest) <= tolerance
            assert found[p, q] == near
    with pytest.raises(CsraError, match="-1"):
        points_inside(points, boxes, tolerance=-1)


def test_a_peak_is_the_centre_of_the_best_cell_and_interpolation_keeps_it():
    maps = torch.randn(40, 7, 5)
    found = peaks(maps.numpy())
    fine = upsampled(maps, 175).numpy()  # odd multiples of 7 and 5, so that cells' centres are sampled
    for p in range(40):
        i, j = divmod(int(maps[p].argmax()), 5)
        np.testing.assert_allclose(found[p], [(j + 0.5) / 5, (i + 0.5) / 7])
        x, y = (175 * found[p]).astype(int)
        assert fine[p, y, x] == pytest.approx(fine[p].max(), abs=1e-6)
    np.testing.assert_allclose(cell_centres((2, 1)), [[0.5, 0.25], [0.5, 0.75]])


def test_mass_from_chance_to_the_best_cell():
    rng = np.random.default_rng(3)
    coverage = box_coverage(some_boxes(rng), (7, 7))
    scores = torch.from_numpy(rng.normal(size=(12, 7, 7)))
    flat, hard = (mass_inside(attention_maps(scores, t).numpy(), coverage) for t in (0.0, math.inf))
    np.testing.assert_allclose(flat, coverage.mean(axis=(1, 2)))  # the boxes' share of the picture
    best = scores.flatten(1).argmax(dim=1).numpy()
    np.testing.assert_allclose(hard, coverage.reshape(12, -1)[np.arange(12), best])
    np.testing.assert_allclose(mass_inside(attention_maps(scores, 1.0).numpy(), np.ones((12, 7, 7))), 1)


def test_pairs_against_a_loop():
    rng = np.random.default_rng(4)
    boxes, sizes = [], [(100, 60)] * 30
    for _ in range(30):
        of_picture = []
        for _ in range(rng.integers(0, 6)):
            x, y = rng.integers(0, 90), rng.integers(0, 50)
            of_picture.append(Box("abc"[rng.integers(3)], x, y, x + 10, y + 8, difficult=bool(rng.random() < 0.3)))
        boxes.append(of_picture)
    objects = place_boxes(boxes, sizes, "abc")
    pairs = pairs_of(objects)
    expected = [
        (i, c) for i in range(30) for c in range(3) if any(b.name == "abc"[c] and not b.difficult for b in boxes[i])
    ]
    assert list(zip(pairs.image, pairs.label, strict=True)) == expected
    for p, (i, c) in enumerate(expected):
        of_class = [b for b in boxes[i] if b.name == "abc"[c]]
        rows = [[b.xmin / 100, b.ymin / 60, b.xmax / 100, b.ymax / 60] for b in of_class]
        np.testing.assert_allclose(pairs.boxes[p, : len(rows)], rows)
        assert np.isnan(pairs.boxes[p, len(rows) :]).all()
        assert pairs.share[p] == pytest.approx(80 / 6000)
    assert padded_rows(np.zeros((0, 4)), np.zeros(0, dtype=int), 2).shape == (2, 1, 4)


def test_boxes_are_resized_with_the_picture(tmp_path):
    """A wide picture with a white rectangle: after the resizing the white lies in the box and nowhere else."""
    picture = Image.new("RGB", (400, 100))
    ImageDraw.Draw(picture).rectangle((100, 50, 199, 99), fill="white")
    picture.save(tmp_path / "a.png")
    dataset = MultiLabelDataset(
        name="toy", split="test", classes=("x",), ids=["a"], paths=[tmp_path / "a.png"], targets=np.array([[1]]),
        box_reader=lambda _: [Box("x", 100, 50, 200, 100)],
    )  # fmt: skip
    pairs = pairs_of(objects_of(dataset))
    np.testing.assert_allclose(pairs.boxes, [[[0.25, 0.5, 0.5, 1]]])
    seen = eval_transform(96, mean=(0, 0, 0), std=(1, 1, 1))(picture)[0]  # (96, 96), white is 1
    maps = seen.view(8, 12, 8, 12).mean(dim=(1, 3))[None].numpy()
    assert mass_inside(maps, box_coverage(pairs.boxes, (8, 8)))[0] > 0.98


@pytest.mark.parametrize(("box", "message"), [(Box("dog", 0, 0, 5, 5), "dog"), (Box("cat", 12, 0, 20, 5), "no area")])
def test_bad_boxes_are_named(box, message):
    with pytest.raises(CsraError, match=message):
        place_boxes([[box]], [(10, 10)], ("cat",))


def test_a_missing_picture_is_named(tmp_path):
    dataset = MultiLabelDataset(
        name="toy", split="test", classes=("x",), ids=["a"], paths=[tmp_path / "gone.png"], targets=np.array([[1]]),
        box_reader=lambda _: [Box("x", 1, 1, 2, 2)],
    )  # fmt: skip
    with pytest.raises(CsraError, match=r"gone\.png"):
        objects_of(dataset)
