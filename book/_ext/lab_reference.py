"""Docstrings as pages: what is laid out by spaces in them keeps its layout.

Docstrings here are plain text, with two things that reStructuredText reads otherwise: an indented paragraph (a formula,
a command) and a table whose columns are made with spaces. Both become literal blocks.
"""

import re

SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):$")
LAID_OUT = re.compile(r"\S {3,}\S")


def keep_layout(app, what, name, obj, options, lines: list[str]) -> None:
    """Rewrite the lines of a docstring in place, up to its first section."""
    end = next((i for i, line in enumerate(lines) if SECTION.match(line)), len(lines))
    paragraphs: list[list[str]] = [[]]
    for line in lines[:end]:
        if line.strip():
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    rewritten = []
    for paragraph in paragraphs:
        indented = all(line.startswith("  ") for line in paragraph)
        if paragraph and (indented or any(LAID_OUT.search(line) for line in paragraph)):
            indent = "" if indented else "    "  # the block's own lines must be indented
            rewritten += [".. code-block:: text", "", *(indent + line for line in paragraph), ""]
        elif paragraph:
            rewritten += [*paragraph, ""]
    lines[:end] = rewritten


def setup(app) -> dict:
    app.connect("autodoc-process-docstring", keep_layout, priority=400)  # before napoleon, which reads the sections
    return {"parallel_read_safe": True, "parallel_write_safe": True}
