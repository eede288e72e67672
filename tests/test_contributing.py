"""The worked examples of CONTRIBUTING.md, run as they are written."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch

from csra_lab.catalog import DATASETS
from csra_lab.heads import HEADS
from csra_lab.residual_attention import residual_max
from csra_lab.widgets import base
from tests.book import test_structure
from tests.widgets.drive import Drive

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAMES = ("A backbone", "A data set", "A head", "A chapter", "An explorer")
PARTS = re.split(rf"^## ({'|'.join(NAMES)})$", TEXT, flags=re.M)[1:]
SECTIONS = dict(zip(PARTS[::2], PARTS[1::2], strict=True))


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^(`{{3,4}}){language}\n(.*?)^\1$", SECTIONS[section], re.M | re.S)


def block(section: str, language: str = "python") -> str:
    ((_, text),) = blocks(section, language)
    return text


def run(code: str, name: str, monkeypatch) -> dict:
    """Execute as a module of its own, which timm's registry needs."""
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(code, f"CONTRIBUTING.md, {name}", "exec"), vars(module))
    return vars(module)


def test_each_example_is_short():
    assert tuple(SECTIONS) == NAMES
    for section in NAMES:
        lines = sum(len(text.splitlines()) for language in ("python", "js", "markdown")
                    for _, text in blocks(section, language))  # fmt: skip
        assert 10 < lines <= 35, f"{section} takes {lines} lines"


def test_a_backbone(monkeypatch):
    run(block("A backbone"), "contributed_backbone", monkeypatch)


def test_a_data_set(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("csra_lab.catalog.DATASETS", DATASETS.copy())
    found = run(block("A data set"), "contributed_data_set", monkeypatch)
    (tmp_path / "test.json").write_text('{"a.png": ["mauve"]}')
    with pytest.raises(found["CsraError"], match="mauve"):
        found["load_dataset"]("colours", tmp_path, "test")


def test_a_head(monkeypatch):
    monkeypatch.setattr("csra_lab.heads.HEADS", HEADS.copy())
    run(block("A head"), "contributed_head", monkeypatch)


def test_a_chapter(monkeypatch):
    text = block("A chapter", "markdown")
    monkeypatch.setattr(test_structure, "text", lambda name: text)
    test_structure.test_opens_with_what_the_reader_will_be_able_to_do("ties")
    test_structure.test_ends_with_three_lines("ties")
    for cell in test_structure.CELL.findall(text):
        run(test_structure.code(cell), "contributed_chapter", monkeypatch)


def test_an_explorer(monkeypatch, tmp_path, browser):
    monkeypatch.setattr(base, "HERE", tmp_path)
    for part in ("arithmetic", "page"):
        (tmp_path / f"{part}.js").write_text((ROOT / f"csra_lab/widgets/{part}.js").read_text())
    (tmp_path / "four_lines.js").write_text(block("An explorer", "js"))
    explorer = run(block("An explorer"), "contributed_explorer", monkeypatch)["FourLines"]()
    page = tmp_path / "page.html"
    page.write_text(f'<!doctype html><meta charset="utf-8">{explorer.html()}', encoding="utf-8")
    browser.visit(page.as_uri())
    drive = Drive(browser, "Four lines")
    drive.press("lam", "ArrowRight", "ArrowRight")
    expected = residual_max(torch.tensor(explorer.scores).view(1, 1, 1, 3), explorer.lam + 0.1)
    assert drive.number("sum") == pytest.approx(expected.item(), abs=1e-3)
    assert browser.complaints == []
