"""Code in the built pages: no line is cut on a phone, and what is copied is what was written."""

import pytest

from tests.book.pages import PAGES

OPEN_ALL = """document.querySelectorAll('details').forEach((e) => { e.open = true; });
document.querySelectorAll('.toggle-hidden > .toggle-button').forEach((e) => e.click());"""
CODE = ".bd-article div[class*=highlight-]:not(.output) > .highlight pre"
CUT = f"""[...document.querySelectorAll("{CODE}")].filter((e) => e.scrollWidth > e.clientWidth)
  .map((e) => e.textContent.slice(0, 80))"""
SAME = f"""fetch(location.href).then((r) => r.text()).then((text) => {{
  const written = [...new DOMParser().parseFromString(text, "text/html").querySelectorAll("{CODE}")];
  const shown = [...document.querySelectorAll("{CODE}")];
  return written.length === shown.length && written.every((e, i) => e.textContent === shown[i].textContent);
}})"""


@pytest.mark.parametrize("name", PAGES)
def test_no_code_is_cut_on_a_phone(html, browser, name):
    browser.visit(f"{html.as_uri()}/{name}.html", width=390)
    browser.evaluate(OPEN_ALL)
    assert browser.evaluate(CUT) == []


def test_wrapped_code_is_copied_as_it_was_written(address, browser):
    browser.visit(f"{address}/training.html", width=390)
    assert browser.evaluate("document.querySelectorAll('.lab-code-line').length") > 100
    assert browser.evaluate(SAME)


def test_imports_of_many_lines_are_folded(html, browser):
    browser.visit(f"{html.as_uri()}/training.html")
    folded = "[...document.querySelectorAll('details.hide summary')].map((e) => e.innerText.trim())"
    assert any("Imports" in text for text in browser.evaluate(folded))
