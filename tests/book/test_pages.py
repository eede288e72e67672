"""The built pages: first as files, then in Chromium with no network, wide and narrow, light and dark."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

REPO = Path(__file__).parents[2]
TOC = yaml.safe_load((REPO / "book/_toc.yml").read_text())
PAGES = [TOC["root"], *(c["file"] for part in TOC["parts"] for c in part["chapters"]), "search"]


class Page(HTMLParser):
    """Tags with their attributes, and all ids."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.ids = {a["id"] for _, a in self.tags if "id" in a}

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


@pytest.fixture(scope="session")
def pages(html: Path) -> dict[str, Page]:
    return {
        path.relative_to(html).as_posix(): Page(path) for path in html.rglob("*.html") if "_static" not in path.parts
    }


@pytest.mark.parametrize("name", PAGES)
def test_loads_nothing_from_elsewhere(pages, name):
    for tag, attributes in pages[f"{name}.html"].tags:
        if tag in ("script", "img", "iframe") or (tag == "link" and attributes.get("rel") != "canonical"):
            address = attributes.get("src") or attributes.get("href") or ""
            assert not re.match(r"(https?:)?//", address), address


@pytest.mark.parametrize("name", PAGES)
def test_links_and_anchors_resolve(html, pages, name):
    for tag, attributes in pages[f"{name}.html"].tags:
        link = urlsplit(attributes.get("href") or "#")
        if tag != "a" or link.scheme or link.netloc:
            continue
        target = f"{name}.html" if not link.path else link.path.removeprefix("./")
        assert (html / unquote(target)).exists(), target
        if link.fragment and target in pages:
            assert unquote(link.fragment) in pages[target].ids, f"{target}#{link.fragment}"


@pytest.mark.parametrize("name", PAGES)
def test_pictures_say_what_they_show(pages, name):
    for tag, attributes in pages[f"{name}.html"].tags:
        assert tag != "img" or "alt" in attributes
        if attributes.get("role") == "img" and "aria-hidden" not in attributes:
            assert len(attributes["aria-label"]) > 5


@pytest.mark.parametrize("name", PAGES)
def test_outputs_are_clean(html, name):
    page = (html / f"{name}.html").read_text(encoding="utf-8")
    assert len(page) < 2e6
    for leak in (str(REPO), str(Path.home()) + "/", "site-packages", "Traceback (most recent", 'class="output stderr'):
        assert leak not in page


CONTRAST = """(() => {
  const rgb = (c) => c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255);
  const light = (c) => rgb(c).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return Math.min(...[...document.querySelectorAll('.lab-row svg text')].map((e) => {
    const ink = light(getComputedStyle(e).fill);
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  }), 99);
})()"""
OPEN_ALL = """document.querySelectorAll('details').forEach((e) => { e.open = true; });
document.querySelectorAll('.toggle-hidden > .toggle-button').forEach((e) => e.click());"""


@pytest.mark.parametrize(("over", "width", "theme"), [("http", 1280, "light"), ("file", 390, "dark")])
@pytest.mark.parametrize("name", PAGES)
def test_reads_well_with_no_network(html, address, browser, name, over, width, theme):
    root = address if over == "http" else html.as_uri()
    browser.visit(f"{root}/{name}.html", width=width, theme=theme)
    browser.evaluate(OPEN_ALL)

    assert browser.failures == []
    assert browser.complaints == []
    assert [r for r in browser.requests if not r.startswith((root, "data:", "blob:"))] == []
    assert browser.evaluate("document.documentElement.dataset.theme") == theme
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    formulas = browser.evaluate("document.querySelectorAll('.math').length")
    assert browser.evaluate("document.querySelectorAll('.math > mjx-container > svg').length") == formulas
    assert browser.evaluate("document.querySelectorAll('[data-mml-node=merror], mjx-merror').length") == 0
    assert browser.evaluate(CONTRAST) >= 4.5
