"""The figures, one function each. The chapters and the command line call them.

Charts come back as `Inline`: SVG whose text is text and whose colours follow the page, so that they read well on a
phone, on paper and on a dark screen. Series differ in colour (safe for colour-blind readers), marker and dashes.
"""

import base64
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from csra_lab.datasets.dataset import Box
from csra_lab.errors import CsraError

INK, MUTED, GRID, PAPER = "#1b1f24", "#5f6673", "#c9ced6", "#fefefe"
SERIES = ("#0072b2", "#c24e00", "#00795a", "#9d3f7f")
MARKERS, DASHES = ("o", "s", "^", "D"), ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
COLOUR_MAP = "viridis"

# The page may set these variables (book/_assets/lab.css does, for light and dark); elsewhere the second value holds.
_PAGE_COLOURS = {INK: "currentColor", MUTED: f"var(--lab-muted, {MUTED})", GRID: f"var(--lab-grid, {GRID})"} | {
    PAPER: f"var(--pst-color-background, {PAPER})",
    **{colour: f"var(--lab-{i}, {colour})" for i, colour in enumerate(SERIES, 1)},
}


@dataclass(frozen=True)
class Inline:
    """HTML that Jupyter and the book show as a figure. `alt` says in words what is to be seen."""

    html: str
    alt: str

    def _repr_html_(self) -> str:
        return self.html

    def __add__(self, other: "Inline") -> "Inline":
        """Side by side where there is room, one under the other on a phone."""
        parts = "".join(p.html.removeprefix(_ROW).removesuffix("</div>") for p in (self, other))
        return Inline(f"{_ROW}{parts}</div>", f"{self.alt} {other.alt}")


_ROW = (
    '<div class="lab-row" style="display:flex;flex-wrap:wrap;gap:1rem;justify-content:center;align-items:flex-start">'
)


def overlay(
    image: Image.Image, heat: np.ndarray, *, title: str | None = None, limits: tuple[float, float] | None = None
) -> Image.Image:
    """A heat map over a picture: the picture in grey, the map (bilinear, from blue to yellow) on top of it.

    Args:
        image: any size and mode.
        heat: (h, w) finite numbers, such as an attention map.
        title: text for a strip above the picture.
        limits: values of the map's two ends; None for the least and the largest of this map.

    Returns:
        An RGB picture of the same size, higher by the strip where there is a title.

    Raises:
        CsraError: the map is not (h, w), or holds numbers that are not finite.
    """
    heat = np.asarray(heat, dtype=np.float32)
    if heat.ndim != 2 or heat.size == 0 or not np.isfinite(heat).all():
        raise CsraError(
            f"overlay needs a map (h, w) of finite numbers, not one of shape {heat.shape} with {heat.dtype}."
        )
    low, high = limits if limits is not None else (heat.min(), heat.max())
    smooth = np.asarray(Image.fromarray(heat).resize(image.size, Image.Resampling.BILINEAR))  # (H, W)
    strength = np.clip((smooth - low) / (high - low), 0, 1) if high > low else np.full_like(smooth, 0.5)
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None] / 255  # (H, W, 1)
    colour = matplotlib.colormaps[COLOUR_MAP](strength)[..., :3]  # (H, W, 3)
    mixed = Image.fromarray(np.uint8(255 * (0.45 * grey + 0.55 * colour) + 0.5))
    return mixed if title is None else _with_title(mixed, title)


def boxed(picture: Image.Image, boxes: Sequence[Box], *, scale: int = 2) -> Image.Image:
    """The picture, `scale` times as large, with a named rectangle on every box; dashed where the box is difficult."""
    large = picture.convert("RGB").resize((scale * picture.width, scale * picture.height), Image.Resampling.LANCZOS)
    stripes = Image.fromarray(np.uint8(255 * (np.add.outer(range(large.height), range(large.width)) % 12 < 7)))
    font, names = ImageFont.load_default(size=max(13, large.width // 14)), list(dict.fromkeys(b.name for b in boxes))
    for box in boxes:
        x0, y0, x1, y1 = (round(scale * v) for v in (box.xmin, box.ymin, box.xmax, box.ymax))
        colour, framed = SERIES[names.index(box.name) % 4], large.copy()
        for width, ink in ((5, "white"), (4, colour)):
            ImageDraw.Draw(framed).rectangle((x0, y0, x1 - 1, y1 - 1), outline=ink, width=width)
        large.paste(framed, mask=stripes if box.difficult else None)
        wide, high = round(font.getlength(box.name)) + 8, round(1.35 * font.size)
        x = min(max(0, x0), large.width - wide)
        y = y0 - high if y0 >= high else min(y1, large.height - high)  # above the box, else below it, else inside
        draw = ImageDraw.Draw(large)
        draw.rectangle((x, y, x + wide, y + high), fill=colour)
        draw.text((x + 4, y + high // 2), box.name, fill="white", font=font, anchor="lm")
    return large


def pictures(captioned: Mapping[str, Image.Image], *, alt: str, size: int = 230) -> Inline:
    """Pictures in a row, each with its caption below, `size` CSS pixels wide."""
    tiles = "".join(
        f'<figure style="margin:0;width:{size}px;max-width:100%"><img src="{_data_url(picture, 2 * size)}" alt="" '
        f'style="width:100%;border-radius:4px"><figcaption>{html.escape(caption)}</figcaption></figure>'
        for caption, picture in captioned.items()
    )
    return Inline(f'{_ROW}<div role="img" aria-label="{html.escape(alt)}" {_ROW[5:]}{tiles}</div></div>', alt)


def rank_change(
    before: Sequence[str], after: Sequence[str], *, follow: Sequence[str], titles: tuple[str, str], top: int = 6
) -> Inline:
    """Two rankings side by side, with a line from each followed label's old place to its new one.

    Args:
        before, after: labels, best first. The first `top` of each are drawn, and what is followed wherever it is.
        follow: labels to draw in colour. titles: what the two rankings are.
    """
    places = {label: (before.index(label) + 1, after.index(label) + 1) for label in follow}
    heights = [_heights(top, [p[side] for p in places.values()]) for side in (0, 1)]  # place -> row, for both rankings
    lowest = max(max(h.values()) for h in heights)
    fig, ax = _axes(3.0, 0.27 * (lowest + 1.4))
    ax.axis("off")
    for side, ranking in enumerate((before, after)):
        align = ("right", "left")[side]
        ax.text(side, 0, titles[side], ha=align, va="center", color=INK, weight="bold", fontsize=11)
        for place, row in heights[side].items():
            label = ranking[place - 1]
            text = f"{label}  {place}" if side == 0 else f"{place}  {label}"
            colour, weight = (SERIES[follow.index(label) % 4], "bold") if label in follow else (MUTED, "normal")
            ax.text(side, row, text, ha=align, va="center", color=colour, weight=weight, fontsize=11)
            if place - 1 not in heights[side] and place > 1:
                ax.text(side, row - 0.85, "⋮", ha=align, va="center", color=MUTED, fontsize=11)
    for i, (start, end) in enumerate(places.values()):
        ax.plot([0.15, 0.85], [heights[0][start], heights[1][end]], color=SERIES[i % 4], lw=2.5, ls=DASHES[i % 4])
    for text in ax.texts:
        text.set_in_layout(False)  # long labels may not squeeze the rest
    ax.set(xlim=(-1.8, 2.8), ylim=(lowest + 0.6, -0.7))
    moves = "; ".join(f"{label} goes from place {a} to place {b}" for label, (a, b) in places.items())
    return _inline(fig, f"Two rankings of labels, {titles[0]} and {titles[1]}: {moves}.")


def _heights(top: int, followed: Sequence[int]) -> dict[int, float]:
    """Which places of a ranking to draw, and at which row: the first `top`, and the followed, after a gap."""
    heights, row, last = {}, 0.0, 0
    for place in sorted({*range(1, top + 1), *followed}):
        row += 1 if place == last + 1 else 1.7
        heights[place], last = row, place
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
    bounds: Mapping[str, Sequence[float]] | None = None,
) -> Inline:
    """Curves over a common x, each with its own colour, marker and dashes.

    Args:
        series: name -> values. bounds: name of a curve -> values drawn thin above it in the same colour.
        log: the axes with a logarithmic scale: "", "x", "y" or "xy".
        ranks: places, 1 at the top, on a logarithmic scale.
    """
    fig, ax = _axes(4.8, 3.5)
    for i, (name, values) in enumerate(series.items()):
        colour = SERIES[i % 4]
        marks = max(1, len(x) // 8)
        ax.plot(
            x, values, color=colour, ls=DASHES[i % 4], marker=MARKERS[i % 4], markevery=marks, lw=2, ms=5, label=name
        )
        if bounds and name in bounds:
            ax.plot(x, bounds[name], color=colour, lw=1, ls="-", alpha=0.8)
    ax.set(xlabel=xlabel, ylabel=ylabel)
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
        _legend(ax, columns=3 if len(series) == 3 and max(map(len, series)) < 12 else 2)
    return _inline(fig, alt)


def bars(groups: Mapping[str, Sequence[float]], *, xlabel: str, ylabel: str, alt: str) -> Inline:
    """One small bar chart for each group, under each other, on one scale: such as weights of the locations."""
    fig = Figure(figsize=(4.8, 0.5 + 1.0 * len(groups)), layout="constrained")
    axes = fig.subplots(len(groups), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for ax, (name, values), i in zip(axes, groups.items(), range(len(groups)), strict=True):
        _style(ax)
        ax.bar(range(1, len(values) + 1), values, color=SERIES[i % 4], width=0.8)
        ax.set_title(name, loc="left", fontsize=11, color=INK)
    axes[-1].set_xlabel(xlabel)
    fig.supylabel(ylabel, fontsize=11, color=INK)
    return _inline(fig, alt)


def grouped_bars(
    categories: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    label: str,
    alt: str,
    across: bool = False,
    unit: str = "",
    text: str = "",
) -> Inline:
    """Bars beside each other for each category, a colour for each series.

    Args:
        label: what the length of a bar is. unit: what the categories are; written along their axis.
        across: bars to the right, with room for long names of categories; otherwise upwards.
        text: a format such as ".0f" that writes the value at the end of each bar; "" writes none.
    """
    fig, ax = _axes(4.8, 0.9 + 0.14 * len(categories) * (1 + len(series)) if across else 3.0)
    thick = 0.8 / len(series)
    draw, places = (ax.barh if across else ax.bar), np.arange(len(categories))
    for i, (name, values) in enumerate(series.items()):
        drawn = draw(places + (i - (len(series) - 1) / 2) * thick, values, 0.9 * thick, color=SERIES[i % 4], label=name)
        if text:
            ax.bar_label(drawn, fmt=f"{{:{text}}}", padding=2, color=INK, fontsize=10)
    if across:
        ax.set_yticks(places, categories)
        ax.set(xlabel=label, ylabel=unit, ylim=(len(categories) - 0.5, -0.5))
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", color=GRID, lw=0.7)
    else:
        ax.set_xticks(places, categories)
        ax.set(ylabel=label, xlabel=unit)
    if len(series) > 1:
        _legend(ax)
    return _inline(fig, alt)


def heat_map(matrix: np.ndarray, names: Sequence[str], *, title: str, label: str, alt: str, limit: float) -> Inline:
    """A square matrix as coloured cells (yellow is high). Zeros and NaN stay empty, the colour of the page.

    Args:
        matrix: (n, n) numbers. names: n, of the rows and of the columns. label: what a cell is, for the colour bar.
        limit: the value of the brightest colour; a quarter of it has the middle one, so that small values differ.
    """
    fig, ax = _axes(4.6, 5.2)
    cells = np.ma.masked_where(~(np.asarray(matrix, dtype=float) > 0), matrix)  # NaN is not above 0
    drawn = ax.pcolormesh(cells, cmap=COLOUR_MAP, norm=PowerNorm(0.5, 0, limit))
    middle = np.arange(len(names)) + 0.5
    ax.set_xticks(middle, names, rotation=90)
    ax.set_yticks(middle, names)
    ax.tick_params(length=0, labelsize=10)
    ax.grid(visible=False)
    ax.set(frame_on=False, aspect="equal", ylim=(len(names), 0))
    ax.set_title(title, fontsize=11, color=INK, weight="bold", loc="left")
    bar = fig.colorbar(drawn, ax=ax, location="bottom", shrink=0.8, aspect=30, pad=0.02)
    bar.set_label(label, color=INK, fontsize=11)
    bar.ax.tick_params(colors=INK, labelsize=10)
    bar.outline.set_visible(False)
    return _inline(fig, alt)


def _axes(width: float, height: float):
    fig = Figure(figsize=(width, height), layout="constrained")
    ax = fig.subplots()
    _style(ax)
    return fig, ax


def _legend(ax, columns: int = 2) -> None:
    """Above the axes, from the figure's left edge on: beside long names of rows it would not fit."""
    where = {"loc": "outside upper left", "ncols": columns}
    ax.figure.legend(*ax.get_legend_handles_labels(), **where, frameon=False, labelcolor=INK, fontsize=11)


def _style(ax) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(MUTED)
    ax.tick_params(which="both", colors=INK, color=MUTED, labelsize=11)
    ax.grid(axis="y", color=GRID, lw=0.7)
    ax.set_axisbelow(True)
    ax.xaxis.label.set(color=INK, size=11)
    ax.yaxis.label.set(color=INK, size=11)


def _powers_of_ten(value: float, _) -> str:
    exponent = round(math.log10(value))
    if -2 <= exponent <= 3:
        return f"{value:g}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _plain(value: float, _) -> str:
    return f"{value:g}"


def _inline(fig: Figure, alt: str) -> Inline:
    """The figure as SVG with no background, in the page's own font and colours; no id or style of it leaks."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        fig.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', svg))
    svg = re.sub(r' id="([\w-]+)"', lambda m: m.group(0) if m.group(1) in used else "", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--pst-font-family-base, sans-serif)", svg)
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    width = round(fig.get_figwidth() * 96)
    head = (
        f'<svg role="img" aria-label="{html.escape(alt)}" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {fig.get_figwidth() * 72:g} {fig.get_figheight() * 72:g}" '
        f'style="width:{width}px;max-width:100%;height:auto;overflow:visible;stroke-linejoin:round">'
    )
    svg = head + svg[svg.index(">") + 1 :]
    svg = re.sub(r"\s*\n\s*", " ", svg)
    return Inline(f"{_ROW}{svg}</div>", alt)


def _data_url(picture: Image.Image, width: int) -> str:
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _with_title(picture: Image.Image, title: str) -> Image.Image:
    font = ImageFont.load_default(size=max(12, picture.width // 18))
    strip = round(1.6 * font.size)
    while title and font.getlength(title) > picture.width - 8:
        title = title[:-2].rstrip() + "…" if len(title) > 2 else ""
    titled = Image.new("RGB", (picture.width, picture.height + strip), "white")
    titled.paste(picture, (0, strip))
    ImageDraw.Draw(titled).text((4, strip // 2), title, fill=INK, font=font, anchor="lm")
    return titled
