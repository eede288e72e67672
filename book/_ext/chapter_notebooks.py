"""An executed chapter as a notebook that reads well anywhere: MyST becomes plain Markdown, outputs stay as they are.

Jupyter and Colab do not know MyST's directives and roles. What the book's pages say with them is said here in words.
"""

import ast
import itertools
import json
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

OPEN = re.compile(r"^(:{3,}|`{3,})\{([\w:-]+)\}[ ]*(.*)$")
CODE = re.compile(r"^(`{3,}|~{3,})")
ROLE = re.compile(r"\{([\w:-]+)\}`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
LABEL = re.compile(r"^\(([\w:-]+)\)=$")
EQUATION = re.compile(r"\$\$ \(eq-(\w+)\)$")
QUOTED = ("admonition", "note", "tip", "hint", "important", "warning", "attention", "caution", "seealso", "margin")
SILENT = ("solution-end", "exercise-end", "bibliography", "toctree", "contents", "tableofcontents")


@dataclass(frozen=True)
class Book:
    """What a page says about things that are not in its source.

    Args:
        glued: key -> text of the value that the page glued. citations: BibTeX key -> (authors, year).
        figures: name of a figure -> its number in the book. labels: name of a place -> the page that has it.
        repository: address to clone, or "".
    """

    glued: Mapping[str, str] = field(default_factory=dict)
    citations: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    repository: str = ""


def chapter_notebook(executed: NotebookNode, page: str, book: Book) -> NotebookNode:
    """The notebook of a page for other programs. `executed` is what the build ran; nothing runs again.

    Text is rewritten by `plain_markdown`, captions follow their figures as text, and cells whose code the page hides
    are folded. Metadata that only the build understands is left out.
    """
    cells = [nbformat.v4.new_markdown_cell(how_to_run(book.repository))]
    if book.repository:
        cells.append(nbformat.v4.new_code_cell(install_cell(book.repository), metadata={"tags": ["install"]}))
    titles = exercise_titles("\n".join(cell.source for cell in executed.cells if cell.cell_type == "markdown"))
    for cell in executed.cells:
        if cell.cell_type != "code":
            cells.append(nbformat.v4.new_markdown_cell(plain_markdown(cell.source, page, book, titles).strip()))
            continue
        tags = cell.metadata.get("tags", [])
        hidden = {"hide-input", "remove-input", "hide-cell", "remove-cell"} & set(tags)
        metadata = {"jupyter": {"source_hidden": True}, "cellView": "form"} if hidden else {}
        outputs = [
            output for output in cell.outputs if "scrapbook" not in output.get("metadata", {})
        ]  # glued, not shown
        kept = {"execution_count": cell.execution_count, "outputs": outputs, "metadata": metadata}
        cells.append(nbformat.v4.new_code_cell(cell.source, **kept))
        figure = cell.metadata.get("mystnb", {}).get("figure", {})
        if "caption" in figure:
            title = " ".join(filter(None, ["Figure", book.figures.get(figure.get("name"))]))
            text = plain_markdown(figure["caption"].strip(), page, book, titles)
            cells.append(nbformat.v4.new_markdown_cell(f"**{title}.** {text}"))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # not by chance, so that the same chapter is the same file
    kept = {key: executed.metadata[key] for key in ("kernelspec", "language_info") if key in executed.metadata}
    return nbformat.v4.new_notebook(cells=[c for c in cells if c.source.strip()], metadata=kept)


def how_to_run(repository: str) -> str:
    lines = ["*A chapter of CSRA Lab, executed. Jupyter shows the figures of a notebook that it trusts, or has run.*"]
    if repository:
        lines += ["", "To run it in Colab, run this in a cell first:", "", "```", "!git clone --depth 1 " + repository]
        lines += [f"%cd {repository.rstrip('/').rsplit('/', 1)[-1].removesuffix('.git')}"]
        lines += ["%pip install -q -e .[book]", "```"]
    else:
        lines += ["", "To run it, open it where CSRA Lab is installed: `make lab`, in a copy of its repository."]
    return "\n".join(lines)


def install_cell(repository: str) -> str:
    """Code that installs the lab where it is not; `csra_lab.recorded` then fetches the records that a chapter reads."""
    return "\n".join([
        "import importlib.util",
        "",
        'if importlib.util.find_spec("csra_lab") is None:',
        f'    %pip install -q "csra-lab[book] @ git+{repository}"',
    ])  # fmt: skip


def cited(entry) -> tuple[str, str]:
    """Authors of an entry of BibTeX as the text names them, and the year."""
    names = [" ".join([*p.prelast_names, *p.last_names]) for p in entry.persons["author"]]
    who = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
    return re.sub(r"[{}]", "", who), entry.fields["year"]


def figure_numbers(app) -> dict[str, str]:
    """Name of a figure -> its number in the book that was built."""
    return {
        name: ".".join(map(str, number))
        for figures in app.env.toc_fignumbers.values()
        for name, number in figures.get("figure", {}).items()
    }


def glued_values(file: Path) -> dict[str, str]:
    """Key -> text of the values that a page glued; none where it did not run."""
    values = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return {key: value["data"]["text/plain"] for key, value in values.items() if "text/plain" in value["data"]}


def exercise_titles(text: str) -> dict[str, str]:
    """label -> title of the exercises in a page's text."""
    found = re.findall(r"^:{3,}\{exercise[^}]*\}[ ]*(.*)\n:label: (\S+)", text, re.M)
    return {label: title.strip() for title, label in found}


def plain_markdown(text: str, page: str, book: Book, titles: Mapping[str, str], *, keep: Container[str] = ()) -> str:
    """MyST without directives, roles and labels. Fenced code stays as it is, to the letter.

    Directives named in `keep` stay, for a reader that renders them; the words in them are rewritten as all others.
    """
    lines, done = text.split("\n"), []
    while lines:
        line = lines.pop(0)
        if (opened := OPEN.match(line)) and opened[2] in keep:
            body = _until(lines, lambda x, fence=opened[1]: x.strip() == fence)
            inside = plain_markdown("\n".join(body), page, book, titles, keep=keep)
            done += [line, inside, opened[1]]
        elif opened:
            body = _until(lines, lambda x, fence=opened[1]: x.strip() == fence)
            inside = plain_markdown("\n".join(_without_options(body)), page, book, titles, keep=keep).strip("\n")
            said = _directive(opened[2], opened[3].strip(), inside, titles)
            done += [_words(said, page, book), ""] if said else []
        elif fence := CODE.match(line):
            done += [line, *_until(lines, lambda x, fence=fence[1]: x.startswith(fence)), fence[1]]
        elif label := LABEL.match(line):
            done.append(f'<a id="{label[1]}"></a>')
        else:
            done.append(_words(line, page, book))
    return "\n".join(done)


def _until(lines: list[str], ends: Callable[[str], bool]) -> list[str]:
    """Take lines up to the one that ends a block; that one is taken too, but not returned."""
    taken = []
    while lines and not ends(line := lines.pop(0)):
        taken.append(line)
    return taken


def _without_options(body: list[str]) -> list[str]:
    """A directive's text without the options that it opens with: `:name: value`, or YAML between two `---`."""
    if body and body[0] == "---":
        return body[body.index("---", 1) + 1 :]
    return list(itertools.dropwhile(lambda line: re.match(r":[\w-]+:", line), body))


def _directive(name: str, argument: str, body: str, titles: Mapping[str, str]) -> str:
    if name in SILENT:
        return ""
    if name.startswith("exercise"):
        return f"**Exercise{': ' if argument else ''}{argument}**\n\n{body}".rstrip()
    if name.startswith("solution"):
        title = titles.get(argument, "")
        return f"**Solution{': ' if title else ''}{title}**\n\n{body}".rstrip()
    if name in ("math", "code-block", "code"):
        return f"$$\n{body}\n$$" if name == "math" else f"```{argument}\n{body}\n```"
    if name in QUOTED:
        text = f"**{argument or name.capitalize()}**\n\n{body}"
        return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))
    return body


def _words(text: str, page: str, book: Book) -> str:
    """Roles in words, and links to where notebooks lie."""
    text = EQUATION.sub(r"\\tag{\1} $$", ROLE.sub(lambda m: _role(m[1], m[2], book), text))
    return LINK.sub(lambda m: f"]({_target(m[1], page, book)})", text)


def _target(target: str, page: str, book: Book) -> str:
    name, hash_, anchor = target.partition("#")
    if name.endswith(".md") and "/" not in name:
        return f"{name.removesuffix('.md')}.ipynb{hash_}{anchor}"
    label = name or anchor
    if label not in book.labels:
        return target
    return f"#{label}" if book.labels[label] == page else f"{book.labels[label]}.ipynb#{label}"


def _role(name: str, content: str, book: Book) -> str:
    if name.startswith("glue:"):
        key, _, form = content.partition(":")
        value = book.glued[key]
        return format(ast.literal_eval(value), form) if form else value.strip("'\"")
    if name.startswith("cite:"):
        works = [book.citations[key.strip()] for key in content.split(",")]
        if name.endswith(":t"):
            return " and ".join(f"{who} ({year})" for who, year in works)
        return "(" + "; ".join(f"{who}, {year}" for who, year in works) + ")"
    if name == "eq":
        return f"({content.removeprefix('eq-')})"
    if name == "numref" and content in book.figures:
        return f"Figure {book.figures[content]}"
    return re.sub(r"\s*<[^>]+>$", "", content)
