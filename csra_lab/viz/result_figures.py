"""Figures of results: differences with intervals, predictions against measurements. In the style of `figures`."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from csra_lab.errors import ConfigError
from csra_lab.viz.display import GRID, INK, PAPER, SERIES
from csra_lab.viz.figures import DASHES, MARKERS, described, legend, page_axes, page_rows

Interval = tuple[float, float, float]


def differences(
    rows: Sequence[str],
    series: Mapping[str, Sequence[Interval | None]],
    *,
    label: str,
    alt: str,
    across: bool = True,
    unit: str = "",
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A point and its interval for each row and series, against a line at 0.

    A filled point says that its interval leaves out 0; an empty one, that the difference may be nothing.

    Args:
        rows: names of what is compared, such as methods, or the steps of a setting.
        series: name -> (difference, lower, upper) of each row, None where there is none. At most four.
        label: what is drawn, with its unit. unit: what the rows are; written along their axis.
        across: a line of the page for each row. Otherwise rows go from left to right, and a thin line joins the
            points of a series: for rows that are steps of one setting. More than two such series have a panel each.
        limits: the ends of the axis of differences; None for what the intervals need. Charts to be compared share it.
        ax: where to draw; axes of its own if left out.

    Raises:
        CsraError: more than four series, a series of another length, or a difference outside its interval.
    """
    _check_colours("differences", series)
    if not across and ax is None and len(series) > 2:
        return _panels(rows, series, label=label, unit=unit, limits=limits, alt=alt)
    height = 0.75 + 0.17 * (len(series) > 1) * ((len(series) + 1) // 2) + len(rows) * (0.15 + 0.13 * len(series))
    ax = page_axes(height if across else 3.5) if ax is None else ax
    (ax.axvline if across else ax.axhline)(0, color=INK, lw=1, zorder=1)
    for i, (name, intervals) in enumerate(series.items()):
        if len(intervals) != len(rows):
            raise ConfigError(f"{name} has {len(intervals)} differences for {len(rows)} rows.")
        places = np.arange(len(rows)) + 0.68 * ((i + 0.5) / len(series) - 0.5)
        drawn = [(place, *interval) for place, interval in zip(places, intervals, strict=True) if interval is not None]
        for place, difference, lower, upper in drawn:
            if not lower <= difference <= upper:
                raise ConfigError(
                    f"{name}: the difference {difference:g} is outside its interval {lower:g} to {upper:g}."
                )
            along, ends = (place, place), (lower, upper)
            ax.plot(*((ends, along) if across else (along, ends)), color=SERIES[i], lw=2, solid_capstyle="butt")
        points = np.array([(place, difference) for place, difference, _, _ in drawn]).reshape(-1, 2)  # (K, 2)
        if not across:
            ax.plot(*points.T, color=SERIES[i], lw=1, ls=DASHES[i], zorder=1.5)
        outside = np.array([lower > 0 or upper < 0 for _, _, lower, upper in drawn], dtype=bool)
        for fill, which in ((SERIES[i], outside), (PAPER, ~outside)):
            x, y = points[which].T[::-1] if across else points[which].T
            ax.plot(x, y, ls="", marker=MARKERS[i], ms=6, mew=1.6, color=SERIES[i], mfc=fill, zorder=3)
        ax.plot([], [], color=SERIES[i], marker=MARKERS[i], ms=6, lw=2, label=name)
    if across:
        ax.set_yticks(range(len(rows)), rows)
        ax.set(xlabel=label, ylabel=unit, ylim=(len(rows) - 0.5, -0.5))
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", visible=True)
        for between in range(1, len(rows)):
            ax.axhline(between - 0.5, color=GRID, lw=0.7, zorder=0)
    else:
        ax.set_xticks(range(len(rows)), rows)
        ax.set(ylabel=label, xlabel=unit, xlim=(-0.5, len(rows) - 0.5))
    if limits is not None:  # otherwise axes that share a scale go on to widen it
        (ax.set_xlim if across else ax.set_ylim)(limits)
    if len(series) > 1:
        legend(ax)
    return described(ax, alt)


def _panels(
    rows: Sequence[str],
    series: Mapping[str, Sequence[Interval | None]],
    *,
    label: str,
    unit: str,
    limits: tuple[float, float] | None,
    alt: str,
) -> Axes:
    """The steps of each series in a panel of its own; all have one scale."""
    panels = page_rows(0.8 + 1.25 * len(series), len(series))
    for panel, (name, intervals) in zip(panels, series.items(), strict=True):
        differences(rows, {name: intervals}, label="", alt="", across=False, limits=limits, ax=panel)
        panel.set_title(name, loc="left", fontsize=11, color=INK)
    panels[-1].set_xlabel(unit)
    panels[0].figure.supylabel(label, fontsize=11, color=INK)  # type: ignore[union-attr]
    return described(panels[0], alt)


def agreement(series: Mapping[str, Sequence[tuple[float, float]]], *, xlabel: str, ylabel: str, alt: str) -> Axes:
    """Pairs (predicted, measured) on logarithmic axes of one scale, with the line where both are equal.

    A point above the line is more than was predicted. All numbers must be above 0.

    Raises:
        CsraError: more than four series, or a number that has no logarithm.
    """
    _check_colours("agreement", series)
    pairs = np.array([pair for each in series.values() for pair in each], dtype=float)  # (K, 2)
    if not (pairs > 0).all() or not np.isfinite(pairs).all():
        raise ConfigError("agreement needs predictions and measurements above 0.")
    ax = page_axes(4.6)
    ax.fixed_width = 4.8
    ends = pairs.min() / 1.15, pairs.max() * 1.15
    ax.plot(ends, ends, color=INK, lw=1, zorder=1)
    for i, (name, each) in enumerate(series.items()):
        ax.plot(*np.array(each).T, ls="", marker=MARKERS[i], ms=6, mew=1.4, color=SERIES[i], mfc="none", label=name)
    ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel=xlabel, ylabel=ylabel)
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if ends[0] <= t <= ends[1]]
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(ticks, [f"{t:g}" for t in ticks])
        axis.set_ticks([], minor=True)
    ax.grid(axis="x", visible=True)
    if len(series) > 1:
        legend(ax)
    return described(ax, alt)


def _check_colours(figure: str, series: Mapping) -> None:
    if len(series) > len(SERIES):
        raise ConfigError(f"{figure} draws at most {len(SERIES)} series, one a colour, not {len(series)}.")
