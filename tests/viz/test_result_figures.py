"""Figures of results: every difference is drawn where it lies, and an empty point says that it may be nothing."""

import re
import xml.etree.ElementTree as ET

import pytest

from csra_lab.errors import CsraError
from csra_lab.viz import figures as plots
from csra_lab.viz import result_figures as result_plots

ROWS = ["max", "log-sum-exp"]
SERIES = {"photographs": [(-3.0, -4.0, -2.0), (0.5, -0.5, 1.5)], "emoji": [(2.0, 1.0, 3.0), None]}


def chart(series=SERIES, **options):
    return first(result_plots.differences(ROWS, series, label="points", alt="differences", **options))


def first(drawn) -> plots.Inline:
    """A chart as the page shows it, in the first of its widths."""
    inline = plots.shown(drawn)
    return plots.Inline(inline.html.split("</svg>")[0] + "</svg>", inline.alt)


def markers(drawn: plots.Inline) -> list[tuple[str, float, float]]:
    """(fill, x, y) of every point."""
    uses = re.findall(r'<use [^>]*xlink:href="#[^"]+" [^>]*/>', drawn.html)
    found = []
    for use in uses:
        fill = re.search(r"fill: ([^;\"]+)", use)
        found.append((fill.group(1) if fill else "", *(float(re.search(rf' {k}="([^"]+)"', use)[1]) for k in "xy")))
    return [m for m in found if "--lab-1" in m[0] or "--lab-2" in m[0] or "background" in m[0]]


@pytest.mark.parametrize("across", [True, False])
def test_is_readable_svg_in_the_colours_of_the_page(across):
    drawn = chart(across=across, unit="method", limits=(-9, 9))
    svg = ET.fromstring(re.search(r"<svg.*</svg>", drawn.html, re.S).group())
    assert svg.get("aria-label") == drawn.alt == "differences"
    assert not re.search(r"<style|DejaVu|" + "|".join((plots.INK, "#ffffff")), drawn.html)
    assert drawn.html == chart(across=across, unit="method", limits=(-9, 9)).html
    words = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", drawn.html)).split()
    assert {"max", "log-sum-exp", "photographs", "emoji", "points", "method"} <= set(words)


def test_one_series_needs_no_legend():
    assert "photographs" not in chart({"photographs": SERIES["photographs"]}).html


def test_a_point_is_empty_where_the_interval_holds_0():
    fills = [fill for fill, _, _ in markers(chart())]
    assert sum("background" in fill for fill in fills) == 1
    only_clear = {"a": [(-3.0, -4.0, -2.0), (2.0, 1.0, 3.0)]}
    assert not any("background" in fill for fill, _, _ in markers(chart(only_clear)))


def test_a_series_may_have_no_point_at_all():
    assert markers(chart({"a": [None, None]})) == []


def test_steps_of_three_series_have_a_panel_each_on_one_scale():
    rise = [(1.0, 0.5, 2.0), (3.0, 2.0, 4.0)]
    drawn = chart({"a": rise, "b": rise, "c": [None, None]}, across=False, unit="step")
    words = re.findall(r"<text[^>]*>([^<]*)</text>", drawn.html)
    assert all(words.count(name) == 1 for name in ("a", "b", "c", "points", "step", "max"))
    heights = [y for _, _, y in markers(drawn)]
    assert heights[0] > heights[1]
    assert heights[0] - heights[1] == pytest.approx(heights[2] - heights[3])
    assert min(heights[2:]) > max(heights[:2])  # no point of one lies in the panel of the other
    axes = result_plots.differences(
        ROWS, {"a": rise, "b": [None, (-20.0, -30.0, 1.0)], "c": rise}, label="", alt="", across=False
    )
    for panel in axes.figure.axes:  # all of every interval is seen
        assert panel.get_ylim()[0] < -30
        assert panel.get_ylim()[1] > 4
    with pytest.raises(CsraError, match="at most 4 series"):
        chart(dict.fromkeys("abcde", rise), across=False)


def test_points_lie_in_the_order_of_their_differences():
    def at(series, across):
        return [(x, y) for _, x, y in markers(chart(series, across=across, limits=(-9, 9)))]

    low, high = {"a": [(1.0, 0.5, 2.0)] * 2}, {"a": [(3.0, 0.5, 4.0)] * 2}
    assert at(high, True)[0][0] > at(low, True)[0][0]  # further right
    assert at(high, False)[0][1] < at(low, False)[0][1]  # further up
    rows = at(low, True)[:2]
    assert rows[0][1] < rows[1][1]  # the first row is on top


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ({"a": [(1.0, 0.0, 2.0)]}, "a has 1 differences for 2 rows"),
        ({"a": [(3.0, 0.0, 2.0)] * 2}, "difference 3 is outside its interval 0 to 2"),
        ({name: [None, None] for name in "abcde"}, "at most 4 series"),
    ],
)
def test_refuses_what_cannot_be_drawn(series, message):
    with pytest.raises(CsraError, match=message):
        chart(series)


def test_agreement_puts_equal_numbers_on_the_line():
    pairs = {"heads": [(2.0, 2.0), (4.0, 4.0)], "metrics": [(10.0, 5.0)]}
    drawn = first(result_plots.agreement(pairs, xlabel="predicted", ylabel="measured", alt="pairs"))
    words = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", drawn.html)).split()
    assert {"heads", "metrics", "predicted", "measured"} <= set(words)
    points = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*stroke: var\(--lab-([12])', drawn.html)
    (x1, y1), (x2, y2), (x3, y3) = [(float(x), float(y)) for x, y, _ in points][:3]
    slope = (y2 - y1) / (x2 - x1)
    assert slope < 0  # y goes down the page
    assert x3 > x2
    assert y3 > y2 + slope * (x3 - x2) + 10  # less than predicted lies below the line


@pytest.mark.parametrize("pair", [(0.0, 1.0), (1.0, float("nan")), (-1.0, 2.0)])
def test_agreement_refuses_what_has_no_logarithm(pair):
    with pytest.raises(CsraError, match="above 0"):
        result_plots.agreement({"a": [pair]}, xlabel="x", ylabel="y", alt="a")


def test_a_legend_stays_in_its_figure_beside_long_names_of_rows():
    rows = ["a name of a row, rather long", "another"]
    names = ["attention, T = 1", "attention, T chosen", "CAM, average", "CAM, CSRA"]
    drawn = [
        plots.grouped_bars(rows, {n: [1, 2] for n in names}, label="x", across=True, alt="a"),
        result_plots.differences(rows, {n: [(1, 0, 2)] * 2 for n in names}, label="x", across=True, alt="b"),
        plots.lines([1, 2], {n: [1, 2] for n in names}, xlabel="x", ylabel="y", alt="c"),
    ]
    for fig in (chart.figure for chart in drawn):
        fig.draw_without_rendering()
        (legend,) = fig.legends
        box, whole = legend.get_window_extent(), fig.bbox
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert fig.axes[0].get_window_extent().y1 <= box.y0 + 1  # it hides no data
        assert [t.get_text() for t in legend.get_texts()] == names
