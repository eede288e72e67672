"""What the pages of the book say with numbers that a cell has computed: in a sentence, and as a table."""

import html
import re
from collections.abc import Mapping, Sequence

from csra_lab.errors import ConfigError
from csra_lab.viz.display import Inline


def say(key: str, value: float | str, digits: int = 1) -> None:
    """Keep a number for the text, where `{glue:text}` with this key shows it. Needs the book's packages.

    Args:
        value: rounded to `digits` decimals; text stays as it is. A minus before a digit becomes a true minus sign.
    """
    from myst_nb import glue

    glue(key, _true_minus(value if isinstance(value, str) else f"{value:.{digits}f}"), display=False)


def table(
    rows: Sequence[Mapping[str, object]], *, widths: Sequence[float] | None = None, markup: bool = False
) -> Inline:
    """Rows as a table of the page, which scrolls sideways by itself where the page is narrow.

    Args:
        rows: with the same keys, the names of the columns.
        widths: of each column at least, in letters' widths (em).
        markup: names and cells hold HTML already. Otherwise they are text, of which short ones stay on one line.

    Raises:
        CsraError: no row, rows with other columns, or another number of widths.
    """
    if not rows or any(list(row) != list(rows[0]) for row in rows):
        raise ConfigError("a table needs rows, and all of them the same columns.")
    if widths is not None and len(widths) != len(rows[0]):
        raise ConfigError(f"{len(widths)} widths were given for {len(rows[0])} columns; give one for each.")
    least = ["" if widths is None else f";min-width:{width}em" for width in widths or rows[0]]

    def cell(value: object, width: str, tag: str) -> str:
        text = str(value) if markup else html.escape(_true_minus(str(value)))
        whole = ";white-space:nowrap" if tag == "td" and not markup and len(text) <= 14 else ""
        scope = ' scope="col"' if tag == "th" else ""
        return f'<{tag}{scope} style="text-align:left;vertical-align:top{width}{whole}">{text}</{tag}>'

    def line(values, tag: str) -> str:
        return f"<tr>{''.join(cell(v, w, tag) for v, w in zip(values, least, strict=True))}</tr>"

    head = line(rows[0], "th")
    body = "".join(line(row.values(), "td") for row in rows)
    alt = f"A table of {len(rows)} rows: {', '.join(rows[0])}."
    return Inline(
        f'<div class="lab-row"><table class="table"><thead>{head}</thead><tbody>{body}</tbody></table></div>', alt
    )


def tiles(results: Mapping[str, tuple[str, str]]) -> Inline:
    """Results as large numbers: what it was measured on -> (the number, what it is)."""
    parts = "".join(
        f'<div class="lab-tile"><p class="lab-tile-number">{html.escape(_true_minus(value))}</p>'
        f"<p>{html.escape(_true_minus(unit))}</p><p><strong>{html.escape(name)}</strong></p></div>"
        for name, (value, unit) in results.items()
    )
    said = "; ".join(f"{name}: {value} {unit}" for name, (value, unit) in results.items())
    return Inline(f'<div class="lab-tiles">{parts}</div>', said)


def _true_minus(text: str) -> str:
    """Hyphens that stand before a number become minus signs; ResNet-18 stays."""
    return re.sub(r"(?<!\w)-(?=\d)", "\N{MINUS SIGN}", text)
