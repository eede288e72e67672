"""The built pages: first as files, then in Chromium with no network, wide and narrow, light and dark."""

import importlib.resources
import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.book.pages import PAGES, SLIDES, Page, leaks


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
    assert len(page.encode()) < 2e6
    assert leaks(page) == []
    assert 'class="output stderr' not in page


def test_no_page_outlives_its_chapter(pages):
    assert set(pages) == {f"{name}.html" for name in [*PAGES, *SLIDES, "genindex"]}


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
# Words of a figure that are cut at its edge, and by how many pixels.
CUT = """[...document.querySelectorAll('svg')].filter((svg) => !svg.closest('mjx-container')).flatMap((svg) => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].map((text) => [text.textContent, text.getBoundingClientRect()])
    .filter(([, box]) => box.width > 0 && frame.width > 150)
    .map(([words, box]) => [words, Math.max(frame.left - box.left, box.right - frame.right)])
    .filter(([, beyond]) => beyond > 3);
})"""
OPEN_ALL = """document.querySelectorAll('details').forEach((e) => { e.open = true; });
document.querySelectorAll('.toggle-hidden > .toggle-button').forEach((e) => e.click());"""


# What axe-core calls serious or critical fails. Drawings are emptied first: a picture is judged by its label, and axe
# would look at each of its thousand strokes. In the dark, only the colours can differ.
AXE = """document.getAnimations().forEach((a) => a.finish());  // what was opened fades in
document.querySelectorAll('svg > :not(title)').forEach((e) => e.remove());
axe.run(document, {resultTypes: ['violations'], elementRef: false, runOnly: RULES}).then((found) => found.violations
  .filter((v) => ['serious', 'critical'].includes(v.impact))
  .flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.target.join(' ')} ${n.failureSummary}`)));"""
RULES = {"light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "dark": ["color-contrast", "svg-img-alt"]}
EXEMPT = {
    "aria-required-children: .citation-list ": "Sphinx gives the entries of its list the role of a bibliography's entry"
}


@pytest.fixture(scope="session")
def axe() -> str:
    return importlib.resources.files("axe_core_python").joinpath("axe.min.js").read_text("utf-8")


@pytest.mark.parametrize(("over", "width", "theme"), [("http", 1280, "light"), ("file", 390, "dark")])
@pytest.mark.parametrize("name", PAGES)
def test_reads_well_with_no_network(html, address, browser, axe, name, over, width, theme):
    root = address if over == "http" else html.as_uri()
    browser.visit(f"{root}/{name}.html", width=width, theme=theme)
    browser.evaluate(OPEN_ALL)

    assert browser.failures == []
    assert browser.complaints == []
    assert [r for r in browser.requests if not r.startswith((root, "data:", "blob:"))] == []
    assert browser.evaluate("document.documentElement.dataset.theme") == theme
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    if width < 600:
        browser.page.set_viewport_size({"width": 320, "height": 700})
        assert browser.evaluate("document.documentElement.scrollWidth") <= 320
        browser.page.set_viewport_size({"width": width, "height": 900})
    formulas = browser.evaluate("document.querySelectorAll('.math').length")
    assert browser.evaluate("document.querySelectorAll('.math > mjx-container > svg').length") == formulas
    assert browser.evaluate("document.querySelectorAll('[data-mml-node=merror], mjx-merror').length") == 0
    assert browser.evaluate(CONTRAST) >= 4.5
    assert browser.evaluate(CUT) == []
    browser.evaluate(f"{axe};0")
    found = browser.evaluate(AXE.replace("RULES", json.dumps(RULES[theme])))
    assert [line for line in found if not line.startswith(tuple(EXEMPT))] == []


def test_prints_white_with_solutions_open_and_nothing_to_click(html, browser):
    browser.visit(f"{html.as_uri()}/four_lines.html", width=680, theme="dark")
    browser.page.emulate_media(media="print")
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    shown = "[...document.querySelectorAll('SELECTOR')].filter((e) => e.checkVisibility()).length"
    for gone in (".bd-sidebar-primary", ".bd-header-article", ".toggle-button", ".copybtn", ".prev-next-area"):
        assert browser.evaluate(shown.replace("SELECTOR", gone)) == 0, gone
    solutions = browser.evaluate("document.querySelectorAll('.solution').length")
    assert browser.evaluate(shown.replace("SELECTOR", ".solution section")) >= solutions > 0
    assert browser.evaluate("document.documentElement.dataset.theme") == "light"
    assert browser.evaluate("Math.max(...[...document.querySelectorAll('pre')].map((e) => e.scrollWidth))") <= 680
    strips = "[...document.querySelectorAll('.lab-strip')].map((e) => e.scrollWidth - e.clientWidth)"
    assert max(browser.evaluate(strips)) == 0  # nothing of an image is cut
    browser.evaluate("dispatchEvent(new Event('afterprint'))")
    assert browser.evaluate("document.documentElement.dataset.theme") == "dark"


def test_prints_no_dialog_that_is_open(html, browser):
    browser.visit(f"{html.as_uri()}/four_lines.html")
    browser.evaluate("document.querySelector('.lab-enlarge').click()")
    shown = "document.querySelector('dialog.lab-zoom').checkVisibility()"
    assert browser.evaluate(shown)
    browser.page.emulate_media(media="print")
    assert not browser.evaluate(shown)


def test_prints_folded_tables_open_and_folds_them_again(html, browser):
    browser.visit(f"{html.as_uri()}/scorecard.html")
    browser.evaluate("document.querySelector('details.lab-fold').open = true")
    opened = "[...document.querySelectorAll('details.lab-fold')].map((e) => e.open)"
    before = browser.evaluate(opened)
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert all(browser.evaluate(opened))
    browser.evaluate("dispatchEvent(new Event('afterprint'))")
    assert browser.evaluate(opened) == before == [True] + [False] * (len(before) - 1)


LANDED = """() => {  // the heading that the address names lies just below the header
  const header = document.querySelector('.bd-header-article').getBoundingClientRect().bottom;
  const { top } = document.querySelector(location.hash || 'h1').getBoundingClientRect();
  return location.hash && header <= top && top < header + 40;
}"""


def test_the_list_of_contents_of_a_phone_goes_when_a_section_is_tapped(html, browser):
    browser.visit(f"{html.as_uri()}/four_lines.html", width=390, height=844)
    browser.page.tap(".secondary-toggle")
    browser.page.tap("#pst-secondary-sidebar-modal a[href='#the-four-lines']")
    assert browser.evaluate("document.querySelectorAll('dialog[open]').length") == 0
    browser.page.wait_for_function(LANDED, timeout=10_000)


def test_a_phone_opens_figures_larger_and_solutions_by_their_titles(html, browser):
    browser.visit(f"{html.as_uri()}/four_lines.html", width=390, height=844)
    assert browser.evaluate("document.querySelectorAll('.solution .admonition-title a').length") == 0
    before = browser.evaluate(
        "document.querySelector('.lab-enlarge').previousElementSibling.getBoundingClientRect().width"
    )
    browser.evaluate("document.querySelector('.lab-enlarge').click()")
    assert browser.evaluate("document.querySelector('dialog.lab-zoom .lab-row').getBoundingClientRect().width") > before
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390


SEEN = """(() => {
  const control = document.querySelector('.lab-explorer [data-control=CONTROL]');
  document.documentElement.style.scrollBehavior = 'auto'; // at once, where readers see it move
  scrollTo(0, 0);
  control.focus();
  const { left, top, width, height } = control.getBoundingClientRect();
  const found = document.elementFromPoint(left + width / 2, top + height / 2);
  return found === control || control.contains(found);
})()"""


def test_what_has_the_focus_is_not_behind_the_image_that_stays(html, browser):
    """Also where the screen is low, as it is when a page is zoomed to 400 %."""
    for width, height in ((390, 844), (320, 256)):
        browser.visit(f"{html.as_uri()}/explorer.html", width=width, height=height)
        for control in ("label", "T", "lam", "view", "trained"):
            seen = browser.evaluate(SEEN.replace("CONTROL", control))
            assert seen, (width, height, control)
