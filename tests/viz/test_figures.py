"""Figures: what they show is what they were given, and they fit any page."""

import io
import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from csra_lab.datasets import Box
from csra_lab.errors import CsraError
from csra_lab.viz import figures as plots

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))


def drawn(chart) -> str:
    """The texts of a chart at its first width, in their order."""
    return " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", plots.shown(chart).html.split("</svg>")[0]))


def test_overlay_keeps_the_size_and_is_brightest_where_the_map_is_high():
    grey = Image.new("RGB", (80, 60), (128, 128, 128))
    heat = np.zeros((4, 4))
    heat[3, 0] = 1
    picture = plots.overlay(grey, heat)
    assert (picture.size, picture.mode) == ((80, 60), "RGB")
    luminance = np.asarray(picture.convert("L"))
    assert luminance[-1, 0] == luminance.max()
    assert luminance[0, -1] == luminance.min()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_overlay_takes_any_picture(mode):
    assert plots.overlay(PICTURE.convert(mode), np.eye(3)).mode == "RGB"


def test_maps_and_boxes_lie_on_the_upright_image():
    turned = PICTURE.resize((60, 40))
    turned.getexif()[0x0112] = 6
    assert plots.overlay(turned, np.eye(3)).size == (40, 60)
    assert plots.boxed(turned, [], scale=1).size == (40, 60)
    grey = Image.fromarray(np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16))
    assert len(np.unique(np.asarray(plots.overlay(grey, np.zeros((2, 2)))))) > 100


def test_overlay_does_not_care_for_scale_and_shift_unless_limits_are_given():
    heat = np.random.default_rng(1).normal(size=(7, 7))
    same = np.asarray(plots.overlay(PICTURE, heat)).astype(int) - np.asarray(plots.overlay(PICTURE, 5 * heat + 3))
    assert abs(same).max() <= 1
    low, high = (
        plots.overlay(PICTURE, np.full((2, 2), 0.2), limits=(0, 1)),
        plots.overlay(PICTURE, np.ones((2, 2)), limits=(0, 1)),
    )
    assert np.asarray(low).mean() < np.asarray(high).mean()


def test_overlay_of_a_flat_map_and_of_one_number():
    assert np.asarray(plots.overlay(PICTURE, np.full((7, 7), 3.0))).std() > 0
    assert plots.overlay(PICTURE, np.ones((1, 1))).size == PICTURE.size


@pytest.mark.parametrize("title", ["cat", "a title that is far too long for a small picture", ""])
def test_overlay_writes_the_title_above_the_picture(title):
    plain, titled = plots.overlay(PICTURE, np.eye(3)), plots.overlay(PICTURE, np.eye(3), title=title)
    assert titled.width == plain.width
    strip = titled.height - plain.height
    assert strip > 0
    assert titled.crop((0, strip, titled.width, titled.height)).tobytes() == plain.tobytes()


@pytest.mark.parametrize("heat", [np.zeros(3), np.zeros((1, 3, 3)), np.zeros((0, 3)), np.array([[np.nan]])])
def test_overlay_refuses_what_is_not_a_map(heat):
    with pytest.raises(CsraError, match=r"map \(h, w\)"):
        plots.overlay(PICTURE, heat)


def charts() -> list[Axes]:
    x = [1, 10, 100]
    return [
        plots.lines(x, {"a": [1, 2, 3], "b": [3, 2, 1]}, xlabel="x", ylabel="y", alt="two <lines>", log="xy"),
        plots.lines(x, {"a": [1, 20, 300]}, xlabel="x", ylabel="place", alt="a rank", ranks=True),
        plots.bars({"T = 1": [0.2, 0.8], "T = 2": [0.1, 0.9]}, xlabel="place", ylabel="weight", alt="two bar charts"),
        plots.grouped_bars(["s", "m"], {"a": [1, 2], "b": [3, 4]}, label="share", unit="size", alt="bars upwards"),
        plots.grouped_bars(["s", "m"], {"a": [1.26, 2]}, label="mAP", alt="bars across", across=True, text=".1f"),
        plots.dots(["s", "m"], {"a": [61.2, 62], "b": [63, 64.7]}, label="mAP", alt="dots", text=".1f"),
        plots.heat_map(np.array([[0.5, np.nan], [0, 1]]), ["a", "b"], title="t", label="l", alt="a map", limit=1),
        plots.rank_change(list("abcdefgh"), list("hgfedcba"), follow=["h"], titles=("before", "after"), top=3),
    ]


@pytest.mark.parametrize("chart", charts(), ids=lambda c: c.alt)
def test_charts_are_readable_svg_in_the_colours_of_the_page(chart):
    assert isinstance(chart, Axes)
    html = plots.shown(chart).html
    svgs = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(svgs) == (1 if getattr(chart, "fixed_width", None) else 2)
    for text in svgs:
        svg = ET.fromstring(text)
        assert svg.get("role") == "img"
        assert svg.get("aria-label") == chart.alt
        assert "max-width:100%" in svg.get("style")
        assert "<text" in text
        assert "currentColor" in text
    assert not re.search(r"<style|<metadata|DejaVu|#ffffff|" + plots.INK, html)
    bundle = chart._repr_mimebundle_()
    assert bundle["text/html"] == html
    assert Image.open(io.BytesIO(bundle["image/png"])).width > 300


def test_a_chart_draws_on_axes_that_are_given():
    figure = Figure()
    ours = figure.subplots()
    given = plots.lines([1, 2], {"a": [1, 2]}, xlabel="x", ylabel="y", alt="a", ax=ours)
    assert given is ours
    assert [line.get_ydata().tolist() for line in ours.lines] == [[1, 2]]


def test_a_curve_has_the_points_that_were_given_in_their_order():
    ours = Figure().subplots()
    plots.lines([1.0, 0.5, 0.5, 0.0], {"a": [0.2, 1, 0.4, 1]}, xlabel="x", ylabel="y", alt="a", ax=ours)
    assert [values.tolist() for values in ours.lines[0].get_data()] == [[1.0, 0.5, 0.5, 0.0], [0.2, 1, 0.4, 1]]
    with pytest.raises(CsraError, match="4 curves apart, not 5"):
        plots.lines([1], {name: [1] for name in "abcde"}, xlabel="x", ylabel="y", alt="a")


def test_legends_of_two_charts_in_one_figure_lie_on_their_own_axes():
    figure = Figure(figsize=(12, 4))
    for ax in (axes := figure.subplots(1, 2)):
        plots.lines([1, 2], {"a": [1, 2], "b": [2, 3]}, xlabel="x", ylabel="y", alt="a", ax=ax)
    assert not figure.legends
    left, right = (ax.get_legend().get_window_extent() for ax in axes)
    assert left.x1 < right.x0


def test_a_bar_that_is_not_known_is_left_out():
    nan = float("nan")
    chart = plots.grouped_bars(["a", "b"], {"x": [nan, 3], "y": [1, 2]}, label="AP", alt="a", ax=Figure().subplots())
    assert [bar.get_height() for drawn in chart.containers for bar in drawn if bar.get_height() > 0] == [3, 1, 2]


def test_single_things_are_markers_with_no_line_between():
    ours = Figure().subplots()
    plots.lines([3, 1, 2], {"a": [1, 2, 3]}, xlabel="x", ylabel="y", alt="a", joined=False, ax=ours)
    (line,) = ours.lines
    assert (line.get_linestyle(), line.get_marker(), line.get_markevery()) == ("None", "o", 1)
    assert sorted(zip(*line.get_data(), strict=True)) == [(1, 2), (2, 3), (3, 1)]


def test_whole_numbers_along_an_axis_have_ticks_at_whole_numbers():
    epochs = plots.lines([1, 2, 3, 4, 5], {"loss": [5, 4, 3, 2, 1.5]}, xlabel="epoch", ylabel="loss", alt="a")
    assert "1.5" not in drawn(epochs).split("epoch")[0].split()
    assert set("12345") <= set(drawn(epochs).split("epoch")[0].split())


def test_the_lowest_bar_has_room_for_its_value_and_a_true_minus():
    chart = plots.grouped_bars(["a", "b"], {"x": [-2.7, 5.6]}, label="change", alt="a", across=True, text=".1f")
    assert "−2.7" in drawn(chart)
    assert chart.get_xlim()[0] < -3.4


def test_charts_are_the_same_each_time():
    assert [plots.shown(c).html for c in charts()] == [plots.shown(c).html for c in charts()]


def test_references_inside_a_chart_resolve():
    for chart in charts():
        html = plots.shown(chart).html
        used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', html))
        named = re.findall(r' id="([\w-]+)"', html)
        assert used == set(named)
        assert len(named) == len(set(named))  # the two widths share no id


def test_rank_change_shows_the_top_and_what_is_followed():
    words = drawn(charts()[-1]).split()
    assert "h goes from rank 8 to rank 1" in charts()[-1].alt
    assert "d" not in words[: words.index("after")]


def test_bars_carry_their_categories_and_values():
    upwards, across = (next(c for c in charts() if c.alt == alt) for alt in ("bars upwards", "bars across"))
    assert {"s", "m", "a", "b", "share", "size"} <= set(drawn(upwards).split())
    assert {"1.3", "2.0"} <= set(drawn(across).split())
    assert "a" not in drawn(across).split()  # one series needs no legend


def test_dots_stand_at_their_values_on_an_axis_that_does_not_begin_at_zero():
    chart = plots.dots(["s", "m"], {"a": [61.2, 62], "b": [63, 64.7]}, label="mAP", alt="dots", text=".1f")
    assert [line.get_xdata().tolist() for line in chart.lines[:2]] == [[61.2, 62], [63, 64.7]]
    assert chart.get_xlim()[0] > 50
    assert {"s", "m", "a", "b", "61.2", "64.7"} <= set(drawn(chart).split())


def test_heat_map_leaves_zeros_and_nan_empty_and_scales_to_the_limit():
    def cells(limit: float) -> list[str]:
        chart = plots.heat_map(
            np.array([[0.5, np.nan], [0, 1]]), ["a", "b"], title="t", label="l", alt="map", limit=limit
        )
        return re.findall(r"fill: (#\w+)", plots.shown(chart).html)

    brightest = "#fde725"
    full, dim = cells(1), cells(2)
    assert brightest in full[:2]
    assert brightest not in dim[:2]
    assert full[0] == matplotlib.colors.to_hex(matplotlib.colormaps["viridis"](0.5**0.5))


@pytest.mark.parametrize("box", [(10, 12, 30, 40), (0, 0, 80, 60), (79, 59, 80, 60), (2.5, 50, 20.5, 60)])
def test_boxes_frame_what_they_name_and_leave_the_rest(box):
    grey = Image.new("RGB", (80, 60), (128, 128, 128))
    plain, broken = (plots.boxed(grey, [Box("cat", *box, difficult=d)], scale=3) for d in (False, True))
    assert plain.size == (240, 180)
    assert np.asarray(grey).tolist() == np.full((60, 80, 3), 128).tolist()  # the picture given is not drawn on
    assert (np.asarray(plain) != 128).any(-1).sum() >= (np.asarray(broken) != 128).any(-1).sum()
    if box[0] == 10:
        inside = np.asarray(plain)[3 * 12 + 8 : 3 * 40 - 8, 3 * 10 + 8 : 3 * 30 - 8]
        assert (inside == 128).all()
        assert (np.asarray(plain)[3 * 12 + 20, 3 * 10] != 128).any()


def test_side_by_side_is_one_row_that_wraps():
    left, right = charts()[:2]
    both = left + right
    assert both.html.count('class="lab-row"') == 1
    assert both.html.count("<svg") == 4  # two charts, each in two widths
    assert both.html.count("<div") == both.html.count("</div>")
    assert both.alt == f"{left.alt} {right.alt}"


def test_images_in_a_row_have_one_text_for_all_and_a_caption_each():
    row = plots.image_row({"first & best": PICTURE, "second": PICTURE}, alt='a "pair"')
    assert row.html.count("data:image/jpeg;base64,") == 2
    assert "first &amp; best</figcaption>" in row.html
    assert 'role="img" aria-label="a &quot;pair&quot;"' in row.html
    assert row.html.count("<div") == row.html.count("</div>")


def test_powers_of_ten_read_as_such():
    assert [plots._powers_of_ten(v, None) for v in (1e-6, 0.01, 1, 1000, 1e5)] == ["10⁻⁶", "0.01", "1", "1000", "10⁵"]
