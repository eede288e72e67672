"""Pages that need no other file: images inside, no script, readable in light and dark."""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from PIL import Image

from csra_lab.datasets import open_image
from csra_lab.errors import CsraError

WIDTH = 320  # pixels of a small image's longer side

_STYLE = """
:root { color-scheme: light dark; --line: #8886; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 75rem; padding: 0 1rem; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
figure img { width: 100%; height: 10rem; object-fit: contain; background: #8882; display: block; }
figcaption { padding: .4rem .6rem; overflow-wrap: anywhere; }
figcaption ul { list-style: none; margin: 0; padding: 0; } figcaption small { opacity: .75; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
td, th { padding: .15rem .8rem .15rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } tr { border-bottom: 1px solid var(--line); }
svg { max-width: 100%; height: auto; } svg text { fill: currentColor; font-size: 12px; }
"""


class Page:
    """An HTML page that is written piece by piece, so that ten thousand images need no memory."""

    def __init__(self, path: Path, title: str):
        self.path, self.title = path, title
        self.file: TextIO

    def open(self) -> None:
        """Begin the file."""
        self.file = open(self.path, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        title = html.escape(self.title)
        self.write('<!doctype html><html lang="en"><meta charset="utf-8">')
        self.write('<meta name="viewport" content="width=device-width, initial-scale=1">')
        self.write(f"<title>{title}</title><style>{_STYLE}</style><body><h1>{title}</h1>")

    def write(self, markup: str) -> None:
        """Markup as it is."""
        self.file.write(markup + "\n")

    def heading(self, text: str) -> None:
        """A part of the page begins."""
        self.write(f"<h2>{html.escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        """Words."""
        self.write(f"<p>{html.escape(text)}</p>")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        """A table; numbers are shown with one decimal, what is not a number as a dash."""
        cells = "".join(f"<th>{html.escape(text)}</th>" for text in head)
        self.write(f"<table><thead><tr>{cells}</tr></thead><tbody>")
        for row in rows:
            self.write("<tr>" + "".join(map(_cell, row)) + "</tr>")
        self.write("</tbody></table>")

    def figure(self, picture: str, caption: str, labels: Mapping[str, float]) -> None:
        """One small image, as `thumbnail` gives it, with labels and their probabilities."""
        image = f'<img loading="lazy" alt="{html.escape(caption, quote=True)}" src="{picture}">' if picture else ""
        named = "".join(f"<li>{html.escape(name)} <small>{p:.2f}</small></li>" for name, p in labels.items())
        named = f"<ul>{named}</ul>" if named else "nothing found"
        self.write(f"<figure>{image}<figcaption>{named}<small>{html.escape(caption)}</small></figcaption></figure>")

    def close(self) -> None:
        """End the file."""
        self.write("</body></html>")
        self.file.close()


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return f"<td>{html.escape(value)}</td>"
    return f'<td class="number">{"–" if math.isnan(value) else f"{value:.1f}"}</td>'


def thumbnail(image: Path | Image.Image) -> str:
    """An image as a small JPEG inside an address; empty where its file cannot be read by now."""
    try:
        picture = image.copy() if isinstance(image, Image.Image) else open_image(image, min_side=WIDTH)
    except CsraError:
        return ""
    picture.thumbnail((WIDTH, WIDTH))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def curve(values: Sequence[float], *, title: str) -> str:
    """A line over the epochs as SVG, with its first, last, lowest and highest value in words."""
    points = [(i, v) for i, v in enumerate(values) if not math.isnan(v)]
    if not points:
        return ""
    low, high = min(v for _, v in points), max(v for _, v in points)
    wide, tall, span = 420, 160, (high - low) or 1.0
    line = " ".join(
        f"{10 + i / max(1, len(values) - 1) * (wide - 20):.1f},{tall - 10 - (v - low) / span * (tall - 20):.1f}"
        for i, v in points
    )
    words = f"{title}: from {points[0][1]:.4g} to {points[-1][1]:.4g} in {len(values)} epochs, lowest {low:.4g}, "
    words = html.escape(f"{words}highest {high:.4g}.")
    return (
        f'<figure style="display:inline-block;border:0"><svg viewBox="0 0 {wide} {tall}" width="{wide}" role="img" '
        f'aria-label="{words}"><polyline points="{line}" fill="none" stroke="#0072b2" stroke-width="2"/></svg>'
        f"<figcaption>{words}</figcaption></figure>"
    )
