"""Chromium, as tests of the book start it."""

from pathlib import Path

import pytest

from tests.book.conftest import browser  # noqa: F401


@pytest.fixture
def blank(browser, tmp_path: Path):  # noqa: F811
    """The browser on an empty page with a root for an explorer."""
    page = tmp_path / "blank.html"
    page.write_text('<!doctype html><meta charset="utf-8"><title>blank</title><div id="root"></div>', encoding="utf-8")
    browser.visit(page.as_uri())
    return browser
