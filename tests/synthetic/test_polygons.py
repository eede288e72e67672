import numpy as np
import pytest

from csra_lab.synthetic.polygons import UNIT, Shape, box, ellipse, limb, paint, place, rasterise, turned


def inside(polygon, x, y):
    """The even-odd rule, edge by edge."""
    odd = False
    for (x0, y0), (x1, y1) in zip(polygon.tolist(), np.roll(polygon, -1, axis=0).tolist(), strict=True):
        if (y0 <= y) != (y1 <= y) and x > x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            odd = not odd
    return odd


@pytest.mark.parametrize("seed", range(6))
def test_rasterise_says_which_pixel_centres_lie_inside(seed):
    rng = np.random.default_rng(seed)
    polygons = [rng.integers(-150, 150, size=(n, 2)) * 2 for n in (3, 5, 8)]  # even: no corner lies on a centre line
    mask = rasterise(polygons)
    for row in range(mask.pixels.shape[0]):
        for column in range(mask.pixels.shape[1]):
            x, y = (mask.x + column + 0.5) * UNIT, (mask.y + row + 0.5) * UNIT
            assert mask.pixels[row, column] == any(inside(p, x, y) for p in polygons)


def test_rasterise_counts_the_area_of_shapes_of_known_area():
    for polygon, area in (
        (box(-20, -10, 20, 30), 1600),
        (ellipse(3, 4, 30, 20, sides=60), np.pi * 600),
        (limb((0, 0), (40, 30), 6, 6, sides=60), 50 * 12 + np.pi * 36),
    ):
        for lean in (0, 17):
            pixels = rasterise(place([polygon], scale=1, lean=lean, origin=(0, 0))).pixels
            assert pixels.sum() == pytest.approx(area, rel=0.015)


def test_turning_is_clockwise_where_y_grows_downwards():
    assert turned(np.array([[1.0, 0.0]]), 90) == pytest.approx(np.array([[0.0, 1.0]]))


def test_placing_is_exact_to_a_sixteenth_of_a_pixel():
    (placed,) = place([box(0, 0, 1, 2)], scale=1.5, lean=0, origin=(1, 0))
    assert placed.dtype.kind == "i"
    assert placed.tolist() == [[-24, 0], [0, 0], [0, 48], [-24, 48]]


def test_paint_covers_what_rasterise_covers_and_clips_to_the_layer():
    red, blue = (255, 0, 0), (0, 0, 255)
    placed = place([ellipse(0, 0, 20, 12), box(-40, 0, 40, 40)], scale=1, lean=0, origin=(0, 0))
    shapes = [Shape(placed[0], red, "cloth"), Shape(placed[1], blue, "cloth", True)]
    picture, x, y = paint(shapes)
    mask = rasterise([placed[0]])
    drawn = np.asarray(picture)
    there = np.zeros(drawn.shape[:2], dtype=bool)
    top, left = mask.y - y, mask.x - x
    there[top : top + mask.pixels.shape[0], left : left + mask.pixels.shape[1]] = mask.pixels
    assert np.mean((drawn[..., 3] > 127) != there) < 0.03  # pixels on the rim
    upper, lower = drawn[: -y - 1][there[: -y - 1]], drawn[-y + 1 :][there[-y + 1 :]]
    assert np.median(upper[:, 0]) == 255
    assert np.median(lower[:, 2]) == 255
