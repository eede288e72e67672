"""Copies of the chapters for JupyterLab, in a folder that git ignores: running and saving one changes no source.

A copy is a notebook whose text jupyterlab-myst renders. What only the build of the book knows is put in: citations,
numbers of figures, and the values in sentences, from the last build. A copy that its reader edited is left alone.

    python book/_ext/lab_copies.py FOLDER
"""

import hashlib
import json
import re
import sys
from pathlib import Path

import jupytext
import nbformat
import yaml
from chapter_notebooks import QUOTED, Book, cited, exercise_titles, glued_values, plain_markdown
from nbformat import NotebookNode
from pybtex.database import parse_file

BOOK = Path(__file__).parents[1]
WRITTEN = ".written.json"  # name of a copy -> checksum of the cells that were written
LINK = re.compile(r"\[([^]]+)\]\((\w+)\.ipynb([^)]*)\)")
SOLUTION = re.compile(r"^(:::\{solution-(?:start|end)\}.*?^:::)$", re.M | re.S)


def write_copies(folder: Path, source: Path = BOOK) -> list[str]:
    """Write every chapter into `folder` as a notebook.

    A copy that was opened, run or saved keeps its outputs while its chapter stays the same. One whose cells were edited
    is left alone.

    Returns:
        The names of copies that were edited.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / WRITTEN
    written = json.loads(record.read_text("utf-8")) if record.exists() else {}
    about, names = book_of(source), numbered(source)
    copies = {}
    for page, name in names.items():
        glue = source / f"_build/jupyter_execute/{page}.glue.json"
        notebook = jupytext.read(source / f"{page}.md", fmt="md:myst")
        copies[f"{name}.ipynb"] = copy_of(notebook, page, about | {"glued": Glued(glued_values(glue))}, names)
    edited = []
    for name in sorted({*copies, *written}):
        path, new = folder / name, copies.get(name)
        if path.exists() and checksum(nbformat.read(path, as_version=4)) != written.get(name):
            edited.append(name)
        elif new is None:  # the chapter has another number now, or is gone
            path.unlink(missing_ok=True)
            del written[name]
        elif not path.exists() or checksum(new) != written[name]:
            nbformat.write(new, path)
            written[name] = checksum(new)
    record.write_text(json.dumps(written, indent=1), encoding="utf-8")
    return edited


def chapters(source: Path) -> list[str]:
    """The pages with cells, in the order of the contents, without the home page."""
    contents = yaml.safe_load((source / "_toc.yml").read_text("utf-8"))
    pages = [c["file"] for part in contents["parts"] for c in part["chapters"]]
    return [p for p in pages if "{code-cell}" in (source / f"{p}.md").read_text("utf-8")]


def numbered(source: Path) -> dict[str, str]:
    """page -> the name of its copy without the ending."""
    return {page: f"{number:02}-{page}" for number, page in enumerate(chapters(source), 1)}


def checksum(notebook: NotebookNode) -> str:
    """Of what a reader edits: the cells' sources, without outputs and metadata."""
    cells = [[cell.cell_type, cell.source] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def book_of(source: Path) -> dict:
    """What `Book` knows without a build: citations, and figures, which are numbered through the whole book."""
    entries = parse_file(source / "references.bib").entries
    contents = yaml.safe_load((source / "_toc.yml").read_text("utf-8"))
    pages = [contents["root"], *(c["file"] for part in contents["parts"] for c in part["chapters"])]
    texts = {page: (source / f"{page}.md").read_text("utf-8") for page in pages}
    figures = [name for text in texts.values() for name in re.findall(r"^    name: (fig-\S+)", text, re.M)]
    labels = {name: page for page, text in texts.items() for name in re.findall(r"^\(([\w:-]+)\)=$", text, re.M)}
    return {
        "citations": {key: cited(entry) for key, entry in entries.items()},
        "figures": {name: str(number) for number, name in enumerate(figures, 1)},
        "labels": labels,
    }


class Glued(dict):
    """Values in sentences; before the first build there are none, and a sentence shows where one belongs."""

    def __missing__(self, key: str) -> str:
        return "'…'"


def copy_of(notebook: NotebookNode, page: str, about: dict, names: dict[str, str]) -> NotebookNode:
    """A chapter as JupyterLab is to show it: notes as MyST, captions under figures, solutions and code folded."""
    book = Book(**about)
    titles = exercise_titles("\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"))
    cells = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            cells += [_text(part, page, book, titles, names) for part in SOLUTION.split(cell.source) if part.strip()]
            continue
        hidden = any("hide" in tag or "remove" in tag for tag in cell.metadata.get("tags", []))
        metadata = {"jupyter": {"source_hidden": True}} if hidden else {}
        cells.append(nbformat.v4.new_code_cell(cell.source, metadata=metadata))
        if caption := cell.metadata.get("mystnb", {}).get("figure", {}).get("caption"):
            number = book.figures[cell.metadata["mystnb"]["figure"]["name"]]
            words = plain_markdown(caption.strip(), page, book, titles)
            cells.append(nbformat.v4.new_markdown_cell(f"**Figure {number}.** {words}"))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    kept = [cell for cell in cells if cell.source.strip()]
    return nbformat.v4.new_notebook(cells=kept, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def _text(part: str, page: str, book: Book, titles: dict, names: dict[str, str]) -> NotebookNode:
    """A cell of text. A solution begins with a heading that JupyterLab folds, up to the next one; pages that have no
    copy are named without a link."""
    closed = part.startswith(":::{solution-start}")
    text = plain_markdown(part, page, book, titles, keep=QUOTED).strip()
    text = re.sub(r"^\*\*((?:Exercise|Solution)\b.*)\*\*$", r"#### \1", text, flags=re.M)
    text = LINK.sub(lambda m: f"[{m[1]}]({names[m[2]]}.ipynb{m[3]})" if m[2] in names else m[1], text)
    return nbformat.v4.new_markdown_cell(text, metadata={"jp-MarkdownHeadingCollapsed": True} if closed else {})


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for name in write_copies(target):
        print(f"{target / name} has edits of yours and stays; delete it to get the chapter anew.")
