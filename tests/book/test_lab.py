"""Chapters in a real JupyterLab: what git tracks stays as it is, notes are rendered, solutions are closed."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from chapter_notebooks import plain_markdown
from lab_copies import BOOK, WRITTEN, Book, Glued, book_of, chapters, checksum, write_copies

from tests.browser import cannot

CHAPTER = "four_lines"
RUN = "glossary"  # one short cell


def sources() -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in BOOK.glob("*.md")}


# --- the copies -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chapters")
    assert write_copies(folder) == []
    return folder


def copy_named(folder: Path, page: str) -> Path:
    (found,) = folder.glob(f"*-{page}.ipynb")
    return found


def test_there_is_one_copy_for_each_chapter_in_the_order_of_the_book(copies):
    names = [f"{n:02}-{page}.ipynb" for n, page in enumerate(chapters(BOOK), 1)]
    assert sorted(p.name for p in copies.iterdir()) == [WRITTEN, *names]
    assert names[0] == f"01-{CHAPTER}.ipynb"


def test_no_directive_is_left_that_jupyterlab_cannot_render(copies):
    for path in copies.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
        text = re.sub(r"^```(\w+)?\n.*?^```$", "", text, flags=re.M | re.S)
        assert set(re.findall(r"^[:`]{3,}\{([\w:-]+)\}", text, re.M)) <= {"admonition", "note", "tip", "warning"}
        assert not re.search(r"\{(glue:text|cite:[pt]|numref|eq|ref)\}`", text), path.name
        for target in re.findall(r"\]\(([\w-]+\.ipynb)", text):
            assert (path.parent / target).exists(), (path.name, target)


def test_every_solution_is_folded_and_nothing_else_is(copies):
    for path in copies.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        folded = [c.source.split("\n")[0] for c in cells if c.metadata.get("jp-MarkdownHeadingCollapsed")]
        solutions = [s for c in cells for s in re.findall(r"^#### Solution.*$", c.source, re.M)]
        assert folded == solutions
        for cell in cells:  # what follows a solution begins with a heading, so that it is not folded too
            assert not re.search(r"^\*\*Exercise", cell.source, re.M)


def test_a_copy_that_was_edited_stays_and_one_that_was_run_keeps_its_outputs(tmp_path):
    write_copies(tmp_path)
    mine, run, gone = (copy_named(tmp_path, page) for page in (CHAPTER, RUN, "metrics"))
    for path in (mine, run):
        notebook = nbformat.read(path, as_version=4)
        code = next(c for c in notebook.cells if c.cell_type == "code")
        code.outputs = [nbformat.v4.new_output("stream", text="ran")]
        if path == mine:
            code.source += "\nlam = 3"
        nbformat.write(notebook, path)
    before = mine.read_bytes(), run.read_bytes()
    gone.unlink()
    assert write_copies(tmp_path) == [mine.name]
    assert (mine.read_bytes(), run.read_bytes()) == before
    assert gone.exists()


def test_a_chapter_that_changed_or_moved_replaces_its_copy(tmp_path):
    write_copies(tmp_path)
    copy = copy_named(tmp_path, RUN)
    moved = tmp_path / f"99-{RUN}.ipynb"
    moved.write_bytes(copy.read_bytes())
    record = json.loads((tmp_path / WRITTEN).read_text())
    old = nbformat.read(copy, as_version=4)
    old.cells[0].source = "as it was before"
    nbformat.write(old, copy)
    record |= {copy.name: checksum(old), moved.name: record[copy.name]}
    (tmp_path / WRITTEN).write_text(json.dumps(record))
    assert write_copies(tmp_path) == []
    assert nbformat.read(copy, as_version=4).cells[0].source != "as it was before"
    assert not moved.exists()


def test_values_of_sentences_come_from_the_last_build_or_are_left_open():
    about = book_of(BOOK)
    for values, said in ((Glued({"place": "'7'"}), "at 7"), (Glued(), "at …")):
        assert plain_markdown("at {glue:text}`place`", CHAPTER, Book(**about, glued=values), {}) == said


def test_kept_directives_stay_and_their_words_are_rewritten():
    text = ":::{admonition} Mind\n:class: tip\n\nat {glue:text}`x`\n:::"
    made = plain_markdown(text, CHAPTER, Book(glued={"x": "'7'"}), {}, keep=("admonition",))
    assert made == ":::{admonition} Mind\n:class: tip\n\nat 7\n:::"


# --- JupyterLab -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(copies, tmp_path_factory):
    """The address of a JupyterLab on the copies, with settings of its own."""
    for package in ("jupyterlab", "jupyterlab_myst"):
        if subprocess.run([sys.executable, "-c", f"import {package}"], capture_output=True).returncode:
            cannot(f"{package} is not installed, so no chapter was opened; `make lab` installs it.")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = tmp_path_factory.mktemp("lab")
    folders = {n: str(own / n) for n in ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "JUPYTER_CONFIG_DIR")}
    options = ["--no-browser", f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token="]
    options += [
        "--allow-root",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=None",
        "--ServerApp.port_retries=0",
    ]
    program = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", str(copies), *options],
        env=os.environ | folders | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: urllib.request.urlopen(f"{address}/api/status", timeout=5).status == 200, seconds=300)
        yield address
    finally:
        program.terminate()
        program.wait(timeout=60)


def wait_for(holds, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not come to hold within {seconds} seconds.")
        time.sleep(0.25)


def open_chapter(browser, lab: str, copies: Path, page: str) -> None:
    browser.visit(f"{lab}/lab/tree/{copy_named(copies, page).name}?reset", height=4000)
    browser.page.wait_for_selector(".jp-Notebook h1", state="attached", timeout=240_000)
    browser.page.wait_for_function("document.querySelectorAll('.jp-DirListing-item').length > 0", timeout=240_000)


def below_solutions(path: Path) -> list[bool]:
    """Which cells lie below the heading of a solution, up to the next heading."""
    below, hidden = False, []
    for cell in nbformat.read(path, as_version=4).cells:
        heading = cell.cell_type == "markdown" and cell.source.startswith("#")
        hidden.append(below and not heading)
        below = bool(cell.metadata.get("jp-MarkdownHeadingCollapsed")) if heading else below
    return hidden


def test_notes_are_rendered_and_solutions_closed(browser, lab, copies):
    open_chapter(browser, lab, copies, CHAPTER)
    note = browser.page.wait_for_selector("aside:has-text('After this chapter you can')", timeout=240_000)
    assert "read a classifier" in note.inner_text()
    assert ":::" not in browser.evaluate("document.querySelector('.jp-Notebook').innerText")
    cells = "jupyterapp.shell.currentWidget.content.widgets"
    browser.page.wait_for_function(f"window.jupyterapp && {cells}.some((cell) => cell.isHidden)", timeout=240_000)
    assert browser.evaluate(f"{cells}.map((cell) => cell.isHidden)") == below_solutions(copy_named(copies, CHAPTER))
    listed = browser.evaluate("[...document.querySelectorAll('.jp-DirListing-itemText')].map((e) => e.textContent)")
    assert listed == [p.name for p in sorted(copies.glob("*.ipynb"))]


def test_opening_running_and_saving_changes_no_source(browser, lab, copies):
    before, copy = sources(), copy_named(copies, RUN)
    open_chapter(browser, lab, copies, RUN)
    # Cells that are run before there is a kernel are not run at all.
    kernel = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
    browser.page.wait_for_function(f"{kernel} === 'idle'", timeout=240_000)
    browser.evaluate(
        "jupyterapp.restored.then(() => jupyterapp.commands.execute('notebook:run-all-cells')).then(() => 1)"
    )
    browser.evaluate("jupyterapp.commands.execute('docmanager:save').then(() => 1)")

    def ran() -> bool:
        cells = [c for c in json.loads(copy.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
        assert not [o for c in cells for o in c["outputs"] if o["output_type"] == "error"]
        return all(c["execution_count"] for c in cells)

    wait_for(ran, seconds=240)
    assert sources() == before
    assert write_copies(copies) == []
    assert ran()
