"""The notebooks that the pages offer, and the links of each page that depend on the repository's address."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from chapter_notebooks import Book, chapter_notebook, how_to_run, install_cell, plain_markdown
from lab_pages import breakable_names, source_links

from tests.book.pages import PAGES, Page, leaks

REPO = Path(__file__).parents[2]
CONFIG = yaml.safe_load((REPO / "_config.yml").read_text())
NOTEBOOKS = [name for name in PAGES if name not in ("references", "teaching", "search") and not name.startswith("api")]

# --- MyST in plain Markdown -------------------------------------------------------------------------------------------

BOOK = Book(
    glued={"share": "0.256", "name": "'a cat'"},
    citations={"zhu2021residual": ("Zhu and Wu", "2021"), "he2016deep": ("He et al.", "2016")},
    figures={"fig-one": "7"},
    labels={"near": "here", "far": "there"},
)


@pytest.mark.parametrize(
    ("myst", "plain"),
    [
        ("{glue:text}`name` at {glue:text}`share:.1f`", "a cat at 0.3"),
        ("{cite:t}`zhu2021residual` say", "Zhu and Wu (2021) say"),
        ("it {cite:p}`zhu2021residual,he2016deep`.", "it (Zhu and Wu, 2021; He et al., 2016)."),
        ("{numref}`fig-one`, {ref}`the place <near>`, {term}`logit`", "Figure 7, the place, logit"),
        ("{eq}`eq-2` and $$ x = y $$ (eq-12)", r"(2) and $$ x = y \tag{12} $$"),
        ("[a](four_lines.md), [b](near), [c](#far)", "[a](four_lines.ipynb), [b](#near), [c](there.ipynb#far)"),
        ("[w](https://example.org/a.md) [o](other.txt)", "[w](https://example.org/a.md) [o](other.txt)"),
        ("(near)=\n## Title", '<a id="near"></a>\n## Title'),
        (":::{admonition} Do\n:class: tip\n\n- one\n:::", "> **Do**\n>\n> - one\n"),
        ("```{note}\n{glue:text}`name`\n```", "> **Note**\n>\n> a cat\n"),
        (":::{exercise} Why\n:label: ex-why\n\nSay.\n:::", "**Exercise: Why**\n\nSay.\n"),
        (":::{solution-start} ex-why\n:class: dropdown\n:::\nSo.", "**Solution: Why**\n\nSo."),
        ("So.\n:::{solution-end}\n:::", "So."),
        ("```{bibliography}\n:style: plain\n```", ""),
        ("```{math}\n:label: eq\nx = 1\n```", "$$\nx = 1\n$$\n"),
        ("```bash\n# {cite:t}`nothing`\n:::{note}\n```", "```bash\n# {cite:t}`nothing`\n:::{note}\n```"),
        ("::::{tip} Out\n:::{note}\nin\n:::\n::::", "> **Out**\n>\n> > **Note**\n> >\n> > in\n"),
        ("```{figure} a.png\n---\nname: fig-a\n---\nIt shows.\n```", "It shows.\n"),
    ],
)
def test_text_says_in_plain_markdown_what_the_page_says(myst, plain):
    assert plain_markdown(myst, "here", BOOK, {"ex-why": "Why"}) == plain


def test_a_notebook_keeps_its_outputs_and_folds_what_the_page_hides():
    shown, glued = ({"output_type": "display_data", "data": {"text/plain": x}, "metadata": {}} for x in "ab")
    glued["metadata"] = {"scrapbook": {"name": "b"}}
    figure = {"tags": ["hide-input"], "mystnb": {"figure": {"name": "fig-one", "caption": "{glue:text}`name`\n"}}}
    cell = nbformat.v4.new_code_cell("1 + 1", execution_count=3, metadata=figure, outputs=[shown, glued])
    made = chapter_notebook(nbformat.v4.new_notebook(cells=[cell], metadata={"source_map": [1]}), "here", BOOK)
    nbformat.validate(made)
    note, code, caption = made.cells
    assert note.source == how_to_run("")
    assert (code.source, code.execution_count, code.outputs) == ("1 + 1", 3, [shown])
    assert code.metadata == {"jupyter": {"source_hidden": True}, "cellView": "form"}
    assert caption.source == "**Figure 7.** a cat"
    assert made.metadata == {}


def test_colab_is_told_where_the_lab_is_if_anyone_knows():
    assert "git clone" not in how_to_run("")
    lines = how_to_run("https://github.com/someone/csra").splitlines()
    assert lines[-5:-1] == [
        "```",
        "!git clone --depth 1 https://github.com/someone/csra",
        "%cd csra",
        "%pip install -q -e .[book]",
    ]


def test_a_notebook_installs_the_lab_where_the_repository_is_known():
    url = "https://github.com/someone/csra"
    cell = nbformat.v4.new_code_cell("1 + 1", execution_count=1, outputs=[])
    made = chapter_notebook(nbformat.v4.new_notebook(cells=[cell]), "here", Book(repository=url))
    nbformat.validate(made)
    _, install, code = made.cells
    assert install.source == install_cell(url)
    assert f"git+{url}" in install.source
    assert install.metadata["tags"] == ["install"]
    assert code.source == "1 + 1"


# --- the built book ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def executed(html):
    return {name: nbformat.read(html / f"notebooks/{name}.ipynb", as_version=4) for name in NOTEBOOKS}


def test_every_chapter_has_a_notebook_and_no_notebook_is_left_over(html):
    assert {p.stem for p in (html / "notebooks").iterdir()} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_each_page_links_to_its_notebook(html, name):
    links = Page(html / f"{name}.html").links
    assert [link for link in links if link.endswith(".ipynb")] == [f"notebooks/{name}.ipynb"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_has_run_without_an_error(executed, name):
    nbformat.validate(executed[name])
    cells = [cell for cell in executed[name].cells if cell.cell_type == "code"]
    cells = [cell for cell in cells if "install" not in cell.metadata.get("tags", [])]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []
    # All of them: also the cells that the page hides, and those of the solutions.
    written = jupytext.read(REPO / f"book/{name}.md")
    assert [c.source for c in cells] == [c.source for c in written.cells if c.cell_type == "code"]
    if "    name: fig-" in (REPO / f"book/{name}.md").read_text("utf-8"):
        assert outputs, "the cells ran, and the notebook shows nothing of it"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_free_of_this_machine_and_of_the_builds_language(html, executed, name):
    assert leaks((html / f"notebooks/{name}.ipynb").read_text("utf-8")) == []
    for cell in executed[name].cells:
        if cell.cell_type == "markdown":
            for left in (":::", "{glue", "{cite", "{numref", "{code-cell", ":class:", ")=\n"):
                assert left not in cell.source


# --- edit, suggest, Binder --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "edit", "suggest"),
    [
        ("https://github.com/a/b", "/edit/main/book/x.md", "/issues/new?title=On%20the%20page%20x"),
        ("https://gitlab.com/a/b", "/-/edit/main/book/x.md", "/-/issues/new?issue[title]=On%20the%20page%20x"),
    ],
)
def test_links_to_the_source_of_a_page(url, edit, suggest):
    links = source_links(url, "main", "x")
    assert links["Edit"] == url + edit
    assert links["Suggest"].startswith(url + suggest)


def test_one_address_in_the_settings_gives_every_page_its_links(tmp_path):
    """A book of one page that does not run, with the real settings and an address in them."""
    settings = {**CONFIG, "repository": {**CONFIG["repository"], "url": "https://github.com/someone/csra"}}
    settings["execute"] = {"execute_notebooks": "off"}
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(settings))
    (tmp_path / "book").mkdir()
    for name in ("_ext", "_assets"):
        shutil.copytree(REPO / "book" / name, tmp_path / "book" / name)
    (tmp_path / "book/_toc.yml").write_text("format: jb-book\nroot: index\n")
    head = (REPO / "book/four_lines.md").read_text("utf-8").split("\n# ")[0]
    (tmp_path / "book/index.md").write_text(f"{head}\n# One page\n\n```{{code-cell}} ipython3\n1 + 1\n```\n")
    (tmp_path / "book/references.bib").touch()
    build = [Path(sys.executable).with_name("jupyter-book"), "build", "book", "--config", "_config.yml"]
    done = subprocess.run([*build, "--path-output", "book", "-W"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    links = Page(tmp_path / "book/_build/html/index.html").links
    assert "https://github.com/someone/csra/edit/main/book/index.md" in links
    assert any(link.startswith("https://github.com/someone/csra/issues/new?title=") for link in links)
    assert "https://mybinder.org/v2/gh/someone/csra/main?urlpath=lab/tree/book/index.md" in links
    notebook = (tmp_path / "book/_build/html/notebooks/index.ipynb").read_text("utf-8")
    assert "git clone --depth 1 https://github.com/someone/csra" in notebook


def test_binder_opens_chapters_as_notebooks(tmp_path):
    """postBuild, in a home of its own: JupyterLab's setting for Markdown files is then Jupytext's notebook."""
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment = {name: value for name, value in environment.items() if not name.startswith("JUPYTER")}
    subprocess.run([REPO / "postBuild"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    (settings,) = tmp_path.rglob("default_setting_overrides.json")
    viewers = json.loads(settings.read_text())["@jupyterlab/docmanager-extension:plugin"]["defaultViewers"]
    assert viewers["myst"] == viewers["markdown"] == "Jupytext Notebook"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_built_pages_link_to_the_repository_only_if_it_is_known(html, name):
    url = CONFIG["repository"]["url"]
    links = Page(html / f"{name}.html").links
    links = [link for link in links if "/edit/" in link or "/issues/new" in link or "mybinder.org" in link]
    if not url:
        assert links == []
    else:
        assert set(source_links(url, "main", name).values()) < set(links)
        assert any(link.startswith("https://mybinder.org/") and link.endswith(f"book/{name}.md") for link in links)


def test_long_names_in_tables_may_break_after_a_joint_and_short_ones_not():
    cell = '<td><code><span class="pre">sample_submission.csv</span> <span class="pre">trainval.csv</span></code></td>'
    broken = cell.replace("sample_submission.csv", "sample_<wbr>submission.<wbr>csv")
    assert breakable_names(re.fullmatch("<td.*?</td>", cell)) == broken
