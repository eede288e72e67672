"""The charts, one function each: seaborn's and matplotlib's axes in, axes out.

The chapters and the command line call them. Series differ in colour (safe for colour-blind readers), marker and dashes.
Without `ax` a chart is drawn on axes of its own, which a page shows in its colours (see `display`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from csra_lab.errors import ConfigError
from csra_lab.viz.display import GRID, INK, MUTED, NARROW, PAPER, SERIES, Inline, PageAxes, shown
from csra_lab.viz.images import COLOUR_MAP, boxed, image_row, overlay

__all__ = [
    "DASHES", "GRID", "INK", "MARKERS", "MUTED", "PAPER", "SERIES", "Inline", "bars", "boxed", "described", "dots",
    "grouped_bars", "heat_map", "image_row", "lines", "overlay", "page_axes", "page_rows", "rank_change", "shown",
]  # fmt: skip

AnyAxes = TypeVar("AnyAxes", bound=Axes)
MARKERS, DASHES = ("o", "s", "^", "D"), ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
_SMALL = 10.7  # points, 11 pixels on a phone
_STYLE = {
    "axes.edgecolor": MUTED, "axes.labelcolor": INK, "axes.labelsize": 11, "axes.titlecolor": INK, "axes.titlesize": 11,
    "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "axes.facecolor": "none", "grid.color": GRID,
    "grid.linewidth": 0.7, "grid.linestyle": "-", "axes.spines.top": False, "axes.spines.right": False,
    "xtick.bottom": True, "ytick.left": True, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "xtick.labelsize": 11, "ytick.labelsize": 11,
    "font.family": ["sans-serif"], "font.sans-serif": ["DejaVu Sans"], "text.color": INK, "legend.frameon": False,
}  # fmt: skip


def rank_change(
    before: Sequence[str], after: Sequence[str], *, follow: Sequence[str], titles: tuple[str, str], top: int = 6
) -> PageAxes:
    """Two rankings side by side, with a line from each followed label's old rank to its new one.

    Args:
        before, after: labels, best first. The first `top` of each are drawn, and what is followed wherever it is.
        follow: labels to draw in colour. titles: what the two rankings are.
    """
    ranks = {label: (before.index(label) + 1, after.index(label) + 1) for label in follow}
    heights = [_heights(top, [p[side] for p in ranks.values()]) for side in (0, 1)]  # rank -> row, for both rankings
    lowest = max(max(h.values()) for h in heights)
    ax = page_axes(0.27 * (lowest + 1.4))
    ax.fixed_width = 3.0
    ax.axis("off")
    for side, ranking in enumerate((before, after)):
        align = ("right", "left")[side]
        ax.text(side, 0, titles[side], ha=align, va="center", color=INK, weight="bold", fontsize=11)
        for rank, row in heights[side].items():
            label = ranking[rank - 1]
            text = f"{label}  {rank}" if side == 0 else f"{rank}  {label}"
            colour, weight = (SERIES[follow.index(label) % 4], "bold") if label in follow else (MUTED, "normal")
            ax.text(side, row, text, ha=align, va="center", color=colour, weight=weight, fontsize=11)
            if rank - 1 not in heights[side] and rank > 1:
                ax.text(side, row - 0.85, "⋮", ha=align, va="center", color=MUTED, fontsize=11)
    for i, (start, end) in enumerate(ranks.values()):
        ax.plot([0.15, 0.85], [heights[0][start], heights[1][end]], color=SERIES[i % 4], lw=2.5, ls=DASHES[i % 4])
    for written in ax.texts:
        written.set_in_layout(False)  # long labels may not squeeze the rest
    ax.set(xlim=(-1.8, 2.8), ylim=(lowest + 0.6, -0.7))
    moves = "; ".join(f"{label} goes from rank {a} to rank {b}" for label, (a, b) in ranks.items())
    return described(ax, f"Two rankings of labels, {titles[0]} and {titles[1]}: {moves}.")


def _heights(top: int, followed: Sequence[int]) -> dict[int, float]:
    """Which ranks of a ranking to draw, and at which row: the first `top`, and the followed, after a gap."""
    heights, row, last = {}, 0.0, 0
    for rank in sorted({*range(1, top + 1), *followed}):
        row += 1 if rank == last + 1 else 1.7
        heights[rank], last = row, rank
    return heights


def lines(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    alt: str,
    log: str = "",
    ranks: bool = False,
    joined: bool = True,
    bounds: Mapping[str, Sequence[float]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Curves over a common x, each with its own colour, marker and dashes.

    Args:
        series: name -> values. bounds: name of a curve -> values drawn thin above it in the same colour.
        log: the axes with a logarithmic scale: "", "x", "y" or "xy".
        ranks: the values are ranks, 1 at the top, on a logarithmic scale.
        joined: False for values of single things, such as classes: a marker for each, and no line between them.
        ax: where to draw; axes of its own if left out.

    Raises:
        CsraError: more curves than can be told apart.
    """
    if len(series) > len(SERIES):
        raise ConfigError(f"lines tells {len(SERIES)} curves apart, not {len(series)}; draw the others beside them.")
    ax = page_axes(3.5) if ax is None else ax
    for i, (name, values) in enumerate(series.items()):
        look = {"color": SERIES[i], "linestyle": DASHES[i] if joined else "", "marker": MARKERS[i], "linewidth": 2}
        marks = max(1, len(x) // 8) if joined else 1
        sns.lineplot(
            x=list(x), y=list(values), ax=ax, label=name, legend=False, estimator=None, sort=False, markevery=marks,
            markersize=5, markeredgewidth=0, **look,
        )  # fmt: skip
        if bounds and name in bounds:
            ax.plot(x, bounds[name], color=SERIES[i], lw=1, ls="-", alpha=0.8)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if all(isinstance(value, int) for value in x):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no epoch one and a half
    if "x" in log:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(_powers_of_ten)
    if "y" in log or ranks:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(_plain if ranks else _powers_of_ten)
        ax.yaxis.set_minor_formatter("")
    if ranks:
        worst = max(max(v) for v in series.values())
        ax.set_yticks([t for t in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000) if t <= worst * 1.5])
        ax.set_ylim(worst * 1.3, 0.85)
    if len(series) > 1:
        legend(ax, columns=3 if len(series) == 3 and max(map(len, series)) < 12 else 2)
    return described(ax, alt)


def bars(groups: Mapping[str, Sequence[float]], *, xlabel: str, ylabel: str, alt: str) -> PageAxes:
    """One small bar chart for each group, under each other, on one scale: such as weights of the locations.

    Returns:
        The first of the axes; the others are in its figure.
    """
    axes = page_rows(0.5 + 1.0 * len(groups), len(groups))
    for i, (ax, (name, values)) in enumerate(zip(axes, groups.items(), strict=True)):
        places = np.arange(1, len(values) + 1)
        sns.barplot(x=places, y=list(values), native_scale=True, color=SERIES[i % 4], saturation=1, ax=ax)
        ax.set_title(name, loc="left")
        ax.set(xlabel="", ylabel="")
    axes[-1].set_xlabel(xlabel)
    axes[0].figure.supylabel(ylabel, fontsize=11, color=INK)
    return described(axes[0], alt)


def grouped_bars(
    categories: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    label: str,
    alt: str,
    across: bool = False,
    unit: str = "",
    text: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Bars beside each other for each category, a colour for each series.

    Args:
        label: what the length of a bar is. unit: what the categories are; written along their axis.
        across: bars to the right, with room for long names of categories; otherwise upwards.
        text: a format such as ".0f" that writes the value at the end of each bar; "" writes none.
        ax: where to draw; axes of its own if left out.
    """
    each = 0.17 if text else 0.14  # what is written at a bar is higher than a bar need be
    ax = page_axes(0.9 + each * len(categories) * (1 + len(series)) if across else 3.0) if ax is None else ax
    places = list(range(len(categories)))
    frame = pd.concat(
        [pd.DataFrame({"place": places, "value": v, "series": n}) for n, v in series.items()], ignore_index=True
    )
    along, up = ("value", "place") if across else ("place", "value")
    sns.barplot(
        frame, x=along, y=up, hue="series", orient="h" if across else "v", palette=list(SERIES[: len(series)]),
        saturation=1, width=0.8, gap=0.1, errorbar=None, legend=False, ax=ax,
    )  # fmt: skip
    for name, drawn in zip(series, ax.containers, strict=True):
        drawn.set_label(name)
        if text and isinstance(drawn, BarContainer):
            ax.bar_label(drawn, fmt=lambda value: _signed(value, text), padding=2, color=INK, fontsize=_SMALL)
    if text and min(min(v) for v in series.values()) < 0:
        (ax.set_xmargin if across else ax.set_ymargin)(0.12)  # room for what is written at the lowest bar
    if across:
        ax.set_yticks(places, categories)
        ax.set(xlabel=label, ylabel=unit, ylim=(len(categories) - 0.5, -0.5))
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", visible=True)
    else:
        ax.set_xticks(places, categories)
        ax.set(ylabel=label, xlabel=unit)
    if len(series) > 1:
        legend(ax)
    return described(ax, alt)


def dots(
    categories: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    label: str,
    alt: str,
    text: str = "",
    ax: Axes | None = None,
) -> Axes:
    """One dot for each category and series, on an axis that need not begin at zero: for values that differ little.

    Args:
        label: what a dot's place says. text: a format such as ".1f" that writes the value beside each dot.
        ax: where to draw; axes of its own if left out.
    """
    count = len(series)
    ax = page_axes(0.9 + 0.22 * len(categories) * max(count, 2)) if ax is None else ax
    for i, (name, values) in enumerate(series.items()):
        heights = [place + 0.7 * ((i + 0.5) / count - 0.5) for place in range(len(categories))]
        ax.plot(list(values), heights, ls="", marker=MARKERS[i % 4], ms=7, color=SERIES[i % 4], label=name)
        for value, height in zip(values, heights, strict=True):
            if text:
                ax.annotate(
                    _signed(value, text), (value, height), (8, 0), textcoords="offset points", va="center", color=INK,
                    fontsize=_SMALL, annotation_clip=False,
                )  # fmt: skip
    for place in range(1, len(categories)):
        ax.axhline(place - 0.5, color=GRID, lw=0.7)
    ax.set_yticks(range(len(categories)), categories)
    ax.set(xlabel=label, ylim=(len(categories) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", visible=True)
    ax.margins(x=0.15)  # room for what is written at the last dot, and for the last tick
    if count > 1:
        legend(ax)
    return described(ax, alt)


def heat_map(matrix: np.ndarray, names: Sequence[str], *, title: str, label: str, alt: str, limit: float) -> PageAxes:
    """A square matrix as coloured cells (yellow is high). Zeros and NaN stay empty, the colour of the page.

    Args:
        matrix: (n, n) numbers. names: n, of the rows and of the columns. label: what a cell is, for the colour bar.
        limit: the value of the brightest colour; a quarter of it has the middle one, so that small values differ.
    """
    ax = page_axes(5.2)
    ax.fixed_width = NARROW
    ax.grid(visible=False)
    bar = {"location": "bottom", "shrink": 0.8, "aspect": 30, "pad": 0.02, "label": label}
    empty = ~(np.asarray(matrix, dtype=float) > 0)  # NaN is not above 0
    sns.heatmap(
        matrix, mask=empty, cmap=COLOUR_MAP, norm=PowerNorm(0.5, 0, limit), square=True, cbar_kws=bar, ax=ax,
        xticklabels=list(names), yticklabels=list(names), linewidths=0.5, linecolor=GRID,
    )  # fmt: skip
    ax.tick_params(length=0, labelsize=_SMALL, labelcolor=INK)
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(axis="y", rotation=0)
    ax.set_title(title, weight="bold", loc="left")
    scale = ax.collections[0].colorbar
    if scale is not None:
        scale.ax.tick_params(labelsize=_SMALL, labelcolor=INK)
        scale.ax.xaxis.label.set(color=INK, size=11)
    return described(ax, alt)


def page_axes(height: float) -> PageAxes:
    """Axes of a figure of their own, in the lab's style, `height` inches high."""
    return page_rows(height, 1)[0]


def page_rows(height: float, rows: int) -> list[PageAxes]:
    """Axes of one figure under each other, in the lab's style and on one scale, together `height` inches high."""
    with matplotlib.rc_context(sns.axes_style("ticks") | _STYLE):
        figure = Figure(figsize=(NARROW, height), layout="constrained")
        kind = {"projection": PageAxes.name}
        return list(figure.subplots(rows, 1, sharex=True, sharey=True, squeeze=False, subplot_kw=kind)[:, 0])


def legend(ax: Axes, columns: int = 2) -> None:
    """Above the axes, from the figure's left edge on where the figure is ours: long names of rows leave no room."""
    handles, names = ax.get_legend_handles_labels()
    look = {"frameon": False, "labelcolor": INK, "fontsize": 11}
    if isinstance(ax, PageAxes):
        ax.figure.legend(handles, names, loc="outside upper left", ncols=columns, **look)
    else:  # somebody's own figure may hold more axes
        ax.legend(handles, names, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, **look)


def described(ax: AnyAxes, alt: str) -> AnyAxes:
    """The axes with what is to be seen on them in words, for readers who do not see it."""
    ax.alt = alt  # type: ignore[attr-defined]  # as of PageAxes; anyone's own axes take it too
    return ax


def _signed(value: float, text: str) -> str:
    return f"{value:{text}}".replace("-", "\N{MINUS SIGN}")


def _powers_of_ten(value: float, _) -> str:
    exponent = round(math.log10(value))
    if -2 <= exponent <= 3:
        return f"{value:g}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _plain(value: float, _) -> str:
    return f"{value:g}"
