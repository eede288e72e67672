"""How a figure reaches a page: one step that gives a chart the page's colours, two widths, and a PNG beside them.

A chart is a matplotlib `Axes` and can be used as any other. Only when it is shown does it become SVG whose text is
text and whose colours follow the page: once as wide as a column, once for a phone. Notebooks hold the PNG as well, for
readers that show no SVG.
"""

import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.projections import register_projection
from PIL import Image

INK, MUTED, GRID, PAPER = "#1b1f24", "#5f6673", "#c9ced6", "#fefefe"
SERIES = ("#0072b2", "#c24e00", "#00795a", "#9d3f7f")
WIDE, NARROW = 7.2, 4.8  # inches of a chart in a column of text, and on a phone, where it is shrunk to the screen

# The page may set these variables (book/_assets/lab.css does, for light and dark); elsewhere the second value holds.
_PAGE_COLOURS = {INK: "currentColor", MUTED: f"var(--lab-muted, {MUTED})", GRID: f"var(--lab-grid, {GRID})"} | {
    PAPER: f"var(--pst-color-background, {PAPER})",
    **{colour: f"var(--lab-{i}, {colour})" for i, colour in enumerate(SERIES, 1)},
}
ROW = '<div class="lab-row" style="display:flex;flex-wrap:wrap;gap:1rem;justify-content:center;align-items:flex-start">'


@dataclass(frozen=True)
class Inline:
    """HTML that Jupyter and the book show as a figure.

    Attributes:
        html: the markup. alt: says in words what is to be seen.
        png: makes the same as PNG bytes, or None where there is nothing to draw.
    """

    html: str
    alt: str
    png: Callable[[], bytes] | None = None

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {"text/html": self.html} | ({} if self.png is None else {"image/png": self.png()})

    def __add__(self, other: "Inline | PageAxes") -> "Inline":
        """Side by side where there is room, one under the other on a phone."""
        other = shown(other)
        parts = "".join(part.html.removeprefix(ROW).removesuffix("</div>") for part in (self, other))
        pngs = [part.png for part in (self, other) if part.png is not None]
        png = (lambda: _beside([each() for each in pngs])) if pngs else None  # two tables have none
        return Inline(f"{ROW}{parts}</div>", f"{self.alt} {other.alt}", png)


class PageAxes(Axes):
    """Axes that a page shows in its own colours; otherwise as every `Axes`."""

    name = "lab-page"
    alt = ""  # says in words what is to be seen
    fixed_width: float | None = None  # inches, for a chart that does not gain by width
    as_shown: Inline | None = None

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return shown(self)._repr_mimebundle_()

    def __add__(self, other: "Inline | PageAxes") -> Inline:
        return shown(self) + other


register_projection(PageAxes)


def shown(chart: "Inline | Axes") -> Inline:
    """A chart as a page shows it. The figure may be changed before, and not after."""
    if isinstance(chart, Inline):
        return chart
    drawn: Inline | None = getattr(chart, "as_shown", None)
    if drawn is None:  # drawn once: the layout of a second drawing starts from the first
        drawn = _shown(chart)
        chart.as_shown = drawn  # type: ignore[attr-defined]
    return drawn


def _shown(chart: Axes) -> Inline:
    figure, alt = cast(Figure, chart.figure), getattr(chart, "alt", "")
    height = figure.get_figheight()
    fixed = getattr(chart, "fixed_width", None)
    if fixed is not None:
        svg = _svg(figure, alt, fixed, height, "")
    else:
        svg = _svg(figure, alt, WIDE, height, "lab-wide") + _svg(figure, alt, NARROW, height, "lab-narrow")
    return Inline(f"{ROW}{svg}</div>", alt, lambda: _png(figure, fixed or WIDE, height))


def _svg(figure: Figure, alt: str, width: float, height: float, kind: str) -> str:
    """The figure at this size as SVG with no background, in the page's own font; no id or style of it leaks."""
    figure.set_size_inches(width, height)
    figure.draw_without_rendering()  # the number of ticks follows from a first layout, and the layout from the ticks
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{alt} {width}"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', svg))
    svg = re.sub(r' id="([\w-]+)"', lambda m: m.group(0) if m.group(1) in used else "", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--pst-font-family-base, sans-serif)", svg)
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    hidden = "display:none;" if kind == "lab-narrow" else ""  # the page's style sheet chooses; elsewhere the wide one
    style = f"{hidden}width:{round(width * 96)}px;max-width:100%;height:auto;overflow:visible;"
    style += "stroke-linejoin:round;fill:currentColor"  # text that names no colour has the page's, not black
    head = (
        f'<svg class="{kind}" role="img" aria-label="{html.escape(alt)}" xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width * 72:g} {height * 72:g}" style="{style}">'
    )
    return re.sub(r"\s*\n\s*", " ", head + svg[svg.index(">") + 1 :])


def _png(figure: Figure, width: float, height: float) -> bytes:
    figure.set_size_inches(width, height)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, facecolor="white")
    return buffer.getvalue()


def _beside(pngs: list[bytes]) -> bytes:
    """PNG images side by side on white."""
    tiles = [Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGB") for png in pngs]
    row = Image.new("RGB", (sum(t.width for t in tiles), max(t.height for t in tiles)), "white")
    left = 0
    for tile in tiles:
        row.paste(tile, (left, 0))
        left += tile.width
    buffer = io.BytesIO()
    row.save(buffer, "PNG")
    return buffer.getvalue()
