"""A page to draw on."""

from pathlib import Path

import pytest


@pytest.fixture
def blank(browser, tmp_path: Path):
    """The browser on an empty page with a root for an explorer."""
    page = tmp_path / "blank.html"
    page.write_text('<!doctype html><meta charset="utf-8"><title>blank</title><div id="root"></div>', encoding="utf-8")
    browser.visit(page.as_uri())
    return browser
