"""What every chapter owes its reader, read from the sources: no build is needed."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

BOOK = Path(__file__).parents[2] / "book"
TOC = yaml.safe_load((BOOK / "_toc.yml").read_text())
FILES = [TOC["root"], *(c["file"] for part in TOC["parts"] for c in part["chapters"])]
NO_CHAPTERS = (TOC["root"], "glossary", "references", "teaching")
CHAPTERS = [f for f in FILES if f not in NO_CHAPTERS and not f.startswith("api")]
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.M | re.S)


def text(name: str) -> str:
    return (BOOK / f"{name}.md").read_text(encoding="utf-8")


def code(cell: str) -> str:
    """A cell without its options."""
    return re.sub(r"\A(---\n.*?\n---\n|(:[^\n]*\n)+)", "", cell, flags=re.S)


def test_contents_name_every_page_and_only_pages_that_exist():
    on_disk = {p.relative_to(BOOK).with_suffix("").as_posix() for p in BOOK.rglob("*.md") if "_build" not in p.parts}
    assert on_disk == set(FILES)
    assert len(FILES) == len(set(FILES))


def test_home_page_lists_every_chapter():
    assert re.findall(r"^\*\*\[[^]]+\]\((\w+)\.md\)\*\*$", text(TOC["root"]), re.M) == CHAPTERS


@pytest.mark.parametrize("name", FILES)
def test_code_cells_are_python(name):
    for cell in CELL.findall(text(name)):
        ast.parse(code(cell))


@pytest.mark.parametrize("name", FILES)
def test_nothing_that_holds_on_one_machine_only(name):
    assert not re.search(r"tqdm\.(auto|notebook)|/home/|/work/|/Users/|/roo[t]/|/tmp/|[A-Z]:\\\\", text(name))


@pytest.mark.parametrize("name", CHAPTERS)
def test_opens_with_what_the_reader_will_be_able_to_do(name):
    opening = text(name).split("\n## ")[0]
    assert re.search(r"^# .+\n\n:::\{admonition\} After this chapter you can\n", opening, re.M)


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_figure_comes_before_any_table(name):
    figure = re.search(r"^    name: fig-", text(name), re.M)
    table = re.search(r"^\|?[ :-]*-{3,}[ :]*\|", text(name), re.M)
    assert figure
    assert table is None or figure.start() < table.start()


@pytest.mark.parametrize("name", FILES)
def test_figures_have_captions_that_stand_alone(name):
    for name_and_rest in re.findall(r"^  figure:\n(.*?)^---$", text(name), re.M | re.S):
        caption = re.search(r"caption: \|\n\s+(.+)", name_and_rest)
        assert re.search(r"name: fig-[\w-]+\n", name_and_rest)
        assert caption
        assert len(caption.group(1)) > 100


def test_no_two_figures_or_exercises_share_a_name():
    names = [n for f in FILES for n in re.findall(r"^    name: (fig-\S+)|^:label: (\S+)", text(f), re.M)]
    assert [name for name, times in Counter(names).items() if times > 1] == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_two_to_four_exercises_with_hidden_solutions_that_run(name):
    exercises = re.findall(r"^:::\{exercise\}.*\n:label: (\S+)", text(name), re.M)
    solutions = re.findall(
        r"^:::\{solution-start\} (\S+)\n:class: dropdown\n:::\n(.*?)^:::\{solution-end\}", text(name), re.M | re.S
    )
    assert 2 <= len(exercises) <= 4
    assert [label for label, _ in solutions] == exercises
    assert all(CELL.search(solution) for _, solution in solutions)


@pytest.mark.parametrize("name", CHAPTERS)
def test_ends_with_three_lines(name):
    last = text(name).rsplit("\n## ", 1)[1].splitlines()
    assert last[0] == "What was learned"
    assert [line[:2] for line in last[1:] if line] == ["- "] * 3


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_number_that_is_set_for_a_sentence_is_used_in_one(name):
    source = text(name)
    said = set(re.findall(r'\b(?:say|glue)\("([\w.-]+)"', source))
    used = set(re.findall(r"\{glue:text\}`([\w.-]+?)(?::[^`]*)?`", source))
    assert said <= used


@pytest.mark.parametrize("name", FILES)
def test_links_between_pages_lead_somewhere(name):
    for target in re.findall(r"\]\((\w+)\.md\)", text(name)):
        assert target in FILES


def test_only_mathjax_is_large():
    large = [p.name for p in BOOK.rglob("*") if p.is_file() and "_build" not in p.parts and p.stat().st_size > 2**20]
    assert large == ["tex-svg-full.js"]
