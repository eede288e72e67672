"""The page for lecturers: figures of the slides exist, the answer key runs and stays out of the book."""

import itertools
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from lab_slides import deck, figures_of

REPO = Path(__file__).parents[2]
PAGE = (REPO / "book/teaching.md").read_text("utf-8")
KEY = (REPO / "teaching/answer_key.md").read_text("utf-8")
SESSIONS = yaml.safe_load((REPO / "book/teaching.yml").read_text("utf-8"))["sessions"]


def test_every_figure_of_the_slides_is_in_a_chapter():
    named = {n for p in (REPO / "book").glob("*.md") for n in re.findall(r"^    name: (fig-\S+)", p.read_text(), re.M)}
    for session in SESSIONS:
        assert set(session["figures"]) <= named
        assert len(session["figures"]) == len(set(session["figures"])) >= 5


def test_each_session_has_slides_a_plan_of_ninety_minutes_and_the_same_title():
    parts = re.split(r"^## (?=Session)", PAGE, flags=re.M)[1:]
    assert [p.split("\n")[0] for p in parts] == [s["title"] for s in SESSIONS]
    for number, part in enumerate(parts, 1):
        assert f'href="slides/session-{number}.html"' in part
        times = [tuple(map(int, m)) for m in re.findall(r"^\| (\d+)–(\d+) \|", part, re.M)]
        assert times[0][0] == 0
        assert times[-1][1] == 90
        assert all(end == start for (_, end), (start, _) in itertools.pairwise(times))


def test_points_of_the_assignment_add_up():
    total = int(re.search(r"Graded, (\d+) points", PAGE)[1])
    assert sum(map(int, re.findall(r"\((\d+) points\)", PAGE))) == total


def test_the_key_answers_every_question_and_is_in_no_page():
    asked = re.findall(r"^(\d)\. \*\*(.+?) \(\d+ points\)", PAGE, re.M)
    assert re.findall(r"^## (\d)\. (.+)$", KEY, re.M) == asked
    assert not list((REPO / "book").rglob("*answer*"))
    assert "0.762" not in PAGE


def test_the_key_runs():
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", KEY, re.M | re.S))
    exec(compile(code, "answer_key.md", "exec"), {})


def test_slides_take_a_figure_and_its_caption(tmp_path):
    shown = nbformat.v4.new_output("display_data", data={"text/html": "<svg></svg>"})
    cells = [
        nbformat.v4.new_code_cell("plot()", outputs=[shown]),
        nbformat.v4.new_markdown_cell("**Figure 7.** A cup < a cat. Yellow is high."),
        nbformat.v4.new_code_cell("print()"),
        nbformat.v4.new_markdown_cell("**Figure 8.** No figure was drawn here."),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    found = figures_of(tmp_path)
    assert found == {"7": ("<svg></svg>", "A cup < a cat. Yellow is high.")}
    page = deck("One & two", [("fig-a", *found["7"])])
    assert '<section id="fig-a"><h1>A cup &lt; a cat</h1><svg></svg><p>Yellow is high.</p>' in page
    assert "One &amp; two" in page


# Names of the slides that a reader sees.
SEEN = "[...document.querySelectorAll('body > section')].filter((s) => s.checkVisibility()).map((s) => s.id)"


@pytest.fixture
def slides(browser, tmp_path):
    """A deck on a phone, opened at its second slide, where each slide is higher than the screen."""
    tall = [(f"fig-{name}", '<div style="height: 3000px"></div>', f"{name}. More.") for name in "abc"]
    (tmp_path / "deck.html").write_text(deck("Tall", tall), encoding="utf-8")
    browser.visit(f"{(tmp_path / 'deck.html').as_uri()}#fig-a", width=390, height=800)
    return browser


def drag(browser, *ways) -> None:
    """Fingers on the screen, one a way, each from a point to another."""
    hand = browser.page.context.new_cdp_session(browser.page)
    for kind, points in zip(("touchStart", "touchMove"), zip(*ways, strict=True), strict=True):
        touches = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(points)]
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
    hand.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    hand.detach()


@pytest.mark.parametrize(
    ("ways", "seen"),
    [
        ([((300, 400), (200, 420))], "fig-b"),
        ([((100, 400), (200, 420))], "title"),
        ([((300, 700), (240, 200))], "fig-a"),  # a scroll that drifts
        ([((180, 400), (40, 400)), ((220, 400), (360, 400))], "fig-a"),  # a pinch
    ],
)
def test_only_a_swipe_of_one_finger_turns_a_slide(slides, ways, seen):
    drag(slides, *ways)
    assert slides.evaluate(SEEN) == [seen]


def test_a_slide_opens_at_its_top(slides):
    slides.evaluate("scrollTo(0, 500)")
    slides.page.keyboard.press("Space")
    assert slides.evaluate(SEEN) == ["fig-b"]
    assert slides.evaluate("new Promise(requestAnimationFrame).then(() => scrollY)") == 0


def test_keys_of_the_browser_and_selected_words_turn_no_slide(slides):
    slides.page.keyboard.press("Shift+Space")
    assert slides.evaluate(SEEN) == ["title"]
    slides.page.keyboard.press("Control+ArrowRight")
    box = slides.page.locator("section.shown p").bounding_box()
    mouse, (x, y) = slides.page.mouse, (box["x"], box["y"] + 5)
    mouse.move(x + 1, y)
    mouse.down()
    mouse.move(x + 200, y)
    mouse.up()
    assert slides.evaluate("String(getSelection())") != ""
    assert slides.evaluate(SEEN) == ["title"]
    mouse.click(x + 200, y + 300)  # beside them
    assert slides.evaluate(SEEN) == ["fig-a"]


@pytest.mark.parametrize("number", range(1, len(SESSIONS) + 1))
def test_built_slides_show_every_figure_with_no_network(html, address, browser, number):
    browser.visit(f"{address}/slides/session-{number}.html")
    names = browser.evaluate("[...document.querySelectorAll('body > section')].map((s) => s.id)")
    assert names == ["title", *SESSIONS[number - 1]["figures"]]
    assert browser.evaluate(SEEN) == names[:1]
    browser.page.keyboard.press("ArrowRight")
    assert browser.evaluate(SEEN) == names[1:2]
    assert browser.evaluate("document.documentElement.scrollWidth") <= 1280
    browser.visit(f"{address}/slides/session-{number}.html#{names[3]}")
    assert browser.evaluate(SEEN) == names[3:4]
    browser.page.keyboard.press("ArrowRight")
    assert browser.evaluate(SEEN) == names[4:5]
    assert browser.complaints == []
    assert browser.failures == []
    browser.page.reload()
    assert browser.evaluate(SEEN) == names[4:5]
