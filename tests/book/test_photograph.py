"""The chapter on the reader's own photograph: ten photographs score in the page as they do in torch, and stay there."""

import pytest

from csra_lab import csra_logits
from tests.widgets.drive import Drive
from tests.widgets.photographs import (
    PHOTOGRAPHS,
    choose,
    choose_classifier,
    holds,
    models,
    shown_ranking,
    torch_maps,
    wait,
)

PAGE = "your_photograph.html"
FIRST = "a cup, and a small cat"


@pytest.fixture(params=["http", "file"], scope="module")
def drive(request, html, address, browser):
    """The chapter's explorer; when the tests are done with it, nothing may have gone wrong."""
    root = address if request.param == "http" else html.as_uri()
    browser.visit(f"{root}/{PAGE}", width=1000 if request.param == "http" else 390)
    yield Drive(browser, "Photograph explorer")
    assert browser.complaints == []
    assert browser.failures == []
    assert [r for r in browser.requests if not r.startswith((root, "data:", "blob:"))] == []


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_scores_are_those_of_torch(drive, path):
    assert "Computed here in" in choose(drive, path)
    lam, T = drive.number("lam"), drive.number("T")
    for number, model in enumerate(models()):
        choose_classifier(drive, number)
        maps = torch_maps(model, path)[None]
        temperatures = [T] * maps.shape[1]
        for key, weight in (("average", 0.0), ("csra", lam)):
            logits = csra_logits(maps, temperatures, weight)[0].numpy()
            holds(shown_ranking(drive, key), logits, model.classes, tolerance=0.025)  # two digits are shown


def test_only_the_network_is_asked_for(drive):
    choose(drive, PHOTOGRAPHS[0])
    asked = [r for r in drive.browser.requests if "/_static/network/" in r]
    assert len(asked) == len(set(asked)) > 1
    before = len(drive.browser.requests)
    choose(drive, PHOTOGRAPHS[1])
    assert [r for r in drive.browser.requests[before:] if not r.startswith(("data:", "blob:"))] == []


def choose_example(drive, number: int, name: str) -> str:
    drive.ask(f"root.querySelector('[data-control=example-{number}]').click()")
    return wait(drive, name)


def test_what_a_reload_shows_belongs_to_its_image(drive):
    drive.press("lam", "End")
    assert "Computed here" in choose_example(drive, 1, "a cat")
    drive.browser.page.wait_for_function("location.hash.includes('lam=2') && !location.hash.includes('label=')")
    drive.browser.page.reload()
    drive.settle()
    assert "came with the page" in wait(drive, FIRST)
    assert drive.texts("[data-control=label] option:checked") == ["Egyptian cat"]
    assert drive.number("lam") == 2


def test_the_first_image_comes_back_with_a_label_of_the_classifier(drive):
    choose(drive, PHOTOGRAPHS[0])
    choose_classifier(drive, 1)
    assert "came with the page" in choose_example(drive, 0, FIRST)
    assert drive.texts("[data-control=label] option:checked") == drive.texts("[data-ranking=csra] .lab-name")[:1]


def test_nothing_of_the_network_is_in_the_page(html):
    assert (html / PAGE).stat().st_size < 1e6
    parts = list((html / "_static/network").rglob("*.js"))
    assert sum(part.stat().st_size for part in parts) > 12e6
    assert max(part.stat().st_size for part in parts) < 1.1e6
