"""The explorers of the built book, moved by mouse, finger and keyboard: what they show is what csra_lab computes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from csra_lab import csra_logits, multilabel_metrics
from csra_lab.heads import create_head
from csra_lab.residual_attention import attention_scores, gap_bound, gap_to_max
from csra_lab.study.experiments import read_scores
from csra_lab.viz.atlas import read_atlas
from tests.widgets.drive import Drive, number

RUNS = Path(__file__).parents[2] / "data/runs/four-lines"


@pytest.fixture(scope="module")
def atlas():
    return read_atlas()


@pytest.fixture(
    params=[("http", 1280, "light"), ("file", 390, "dark")], ids=["http-1280-light", "file-390-dark"], scope="module"
)
def page(request, html, address, browser):
    """The chapter, opened once; when the tests are done with it, nothing may have gone wrong."""
    over, width, theme = request.param
    root = address if over == "http" else html.as_uri()
    browser.visit(f"{root}/explorer.html", width=width, theme=theme)
    yield browser
    assert browser.complaints == []
    assert browser.failures == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def scores_of(atlas, dataset: str, drive: Drive) -> tuple[torch.Tensor, int]:
    """(heads, C, N) of the model and picture that are chosen, and the picture's number."""
    titles = drive.ask("[...root.querySelector('[data-control=model]').options].map((o) => o.textContent)")
    title = titles[int(drive.value("model"))]
    (model,) = [m for m in atlas.models.values() if m.dataset == dataset and m.title == title]
    picture = int(drive.value("picture"))
    return torch.from_numpy(model.maps[picture].astype(np.float64)).flatten(2), picture


def test_every_explorer_is_alive(page):
    names = ("Attention explorer", "Temperature explorer", "Head composer", "Metrics explorer")
    for name in names:
        Drive(page, name)
    shown = page.evaluate("[...document.querySelectorAll('.lab-explorer')].map((e) => e.getAttribute('aria-label'))")
    assert sorted(shown) == sorted([*names, "Attention explorer"])  # the second is on an ImageNet classifier
    assert page.evaluate("document.querySelectorAll('.lab-explorer').length") == page.evaluate(
        "document.querySelectorAll('[data-explorer]').length"
    )


def test_attention_explorer(page, atlas):
    drive = Drive(page, "Attention explorer")
    classes = atlas.classes["emoji-voc"]

    def check():
        maps, picture = scores_of(atlas, "emoji-voc", drive)
        c, lam, T = int(drive.value("label")), drive.number("lam"), drive.shown("T")
        temperatures = [number(t) for t in T.split(", ")] if ", " in T else [number(T)] * len(maps)
        logits = csra_logits(maps[None], temperatures, lam)[0].numpy()
        order = np.argsort(-logits, kind="stable")
        assert drive.number("logit") == pytest.approx(logits[c], abs=1e-3)
        assert drive.number("average") == pytest.approx(maps.mean(dim=2).sum(dim=0)[c].item(), abs=1e-3)
        assert drive.shown("rank") == f"{order.tolist().index(c) + 1} of {len(classes)}"
        first = drive.texts(".lab-name")[:3]
        there = atlas.pictures["emoji-voc"][picture].targets
        assert first == [classes[k] + {1: " ●", 0: "", -1: " ?"}[there[k]] for k in order[:3]]

    check()
    drive.press("T", "End", "ArrowLeft", "ArrowLeft")  # keyboard
    assert 50 < drive.number("T") < 100
    check()
    drive.click("lam", 0.8)  # mouse
    assert drive.number("lam") > 1.2
    check()
    drive.drag("T", [(0.9, 0.5), (0.5, 0.5), (0.1, 0.5)])
    assert drive.number("T") < 0.4
    check()
    drive.press("picture", "ArrowDown")
    drive.choose("picture", "3")
    drive.choose("model", next(o for o in ("2", "1", "0") if o != drive.value("model")))
    check()
    drive.click("trained")
    check()


def test_temperature_explorer(page):
    drive = Drive(page, "Temperature explorer")

    def check():
        scores = [float(v) for v in drive.ask("[...root.querySelectorAll('[role=slider]')].map((e) => e.ariaValueNow)")]
        s, T, lam = torch.tensor(scores, dtype=torch.float64), drive.number("T"), drive.number("lam")
        best = s.topk(2).values
        assert drive.number("attended") == pytest.approx((attention_scores(s, T) * s).sum().item(), abs=1e-3)
        assert drive.number("gap") == pytest.approx(gap_to_max(s, T).item(), abs=1e-4)
        assert drive.number("bound") == pytest.approx(gap_bound(best[0] - best[1], len(s), T).item(), abs=1e-4)
        logit = csra_logits(s[None, None, None], [T], lam).item()
        assert drive.number("logit") == pytest.approx(logit, abs=1e-3)
        return scores

    before = check()
    drive.press("score-2", "ArrowUp", "ArrowUp")
    after = check()
    assert after[2] == pytest.approx(before[2] + 0.2)
    drive.drag("score-0", [(0.5, 0.4), (0.5, 0.2), (0.5, 0.05)])
    assert check()[0] > 2
    drive.press("T", "End")
    assert check()
    assert drive.number("T") == math.inf


def test_head_composer(page, atlas):
    drive = Drive(page, "Head composer")
    classes = atlas.classes["paperdoll-wider"]

    def check():
        maps, picture = scores_of(atlas, "paperdoll-wider", drive)
        T, lam, limit = drive.number("T"), drive.number("lam"), drive.number("threshold")
        heads = {"average": {}, "max": {}, "spatial": {"temperature": T}, "topk": {"k": int(drive.number("k"))}}
        heads |= {"csra": {"temperatures": [T], "lam": lam}, "lse": {"r": drive.number("r")}}
        targets = atlas.pictures["paperdoll-wider"][picture].targets
        for kind, options in heads.items():
            chances = torch.sigmoid(create_head(kind, 1, len(classes), **options).pool(maps[None])[0]).numpy()
            named = [k for k in np.argsort(-chances, kind="stable") if chances[k] >= limit]
            lines = [f"{classes[k]} {chances[k]:.2f}{ {1: ' ✓', 0: ' ✗', -1: ' ?'}[targets[k]] }" for k in named]
            assert drive.texts(f'[data-pooling="{kind}"] li') == lines

    check()
    drive.press("threshold", "ArrowRight", "ArrowRight", "ArrowRight")
    check()
    drive.click("k", 0.3)
    drive.click("r", 0.7)
    drive.press("T", "End")
    check()


@pytest.mark.parametrize("choice", [0, 3])
def test_metrics_explorer(page, choice):
    drive = Drive(page, "Metrics explorer")
    drive.choose("scores", str(choice))
    method, source = (("CSRA", "photographs"), ("average pooling", "paperdoll"))[choice // 3]
    scores, truth = read_scores(RUNS / source)
    scores, targets = scores[method, "test"][0], truth["targets", "test"]

    def check():
        threshold, c = drive.number("threshold"), int(drive.value("label"))
        for ap in ("average", "voc11", "envelope"):
            found = multilabel_metrics(scores, targets, threshold=threshold, ap=ap)
            assert drive.number(f"AP-{ap}") == pytest.approx(found.per_class_AP[c], abs=6e-4)
            assert drive.number(f"mAP-{ap}") == pytest.approx(found.mAP, abs=6e-4)
        for name in ("CP", "CR", "CF1", "CF1_macro", "OP", "OR", "OF1"):
            assert drive.number(name) == pytest.approx(getattr(found, name), abs=6e-4)

    check()
    before = drive.number("threshold")
    drive.press("threshold", "ArrowRight", "ArrowRight", "ArrowRight")
    assert drive.number("threshold") == pytest.approx(before + 0.03)
    check()
    drive.drag("strip", [(0.5, 0.5), (0.3, 0.5), (0.25, 0.4)])
    assert drive.number("threshold") == pytest.approx(0.25, abs=0.02)
    drive.choose("label", "2")
    check()


HELD = """(number) => {  // just below the header, where a reader looks first
  const header = document.querySelector('.bd-header-article')?.getBoundingClientRect().bottom ?? 0;
  const { top } = document.querySelectorAll('[data-explorer]')[number - 1].getBoundingClientRect();
  return header <= top && top < header + 40;
}"""


def test_a_link_to_a_state_opens_with_its_explorer_in_sight(html, browser):
    browser.visit(f"{html.as_uri()}/explorer.html#lab:4?threshold=0.3", width=390, height=800)
    assert Drive(browser, "Metrics explorer").number("threshold") == 0.3
    browser.page.wait_for_function(HELD, arg=4, timeout=10_000)
    browser.evaluate("location.hash = '#lab:3?threshold=0.7'")  # pasted while the page is open
    browser.page.wait_for_function(HELD, arg=3, timeout=10_000)
    assert Drive(browser, "Head composer").number("threshold") == 0.7
    browser.page.mouse.wheel(0, 300)
    browser.evaluate("document.body.prepend(Object.assign(document.createElement('div'), { style: 'height: 99px' }))")
    Drive(browser, "Head composer").settle()
    assert not browser.evaluate(f"({HELD})(3)")  # whoever scrolls is not taken back


def test_bars_and_marks_are_seen_in_the_colours_of_the_system(html, browser):
    browser.visit(f"{html.as_uri()}/explorer.html")
    browser.page.emulate_media(forced_colors="active")
    drive = Drive(browser, "Attention explorer")
    colours = [drive.ask("getComputedStyle(root).backgroundColor")]
    colours += [drive.ask(f"getComputedStyle({drive.one(bar)}).backgroundColor") for bar in (".lab-bar", ".lab-bar-2")]
    assert len(set(colours)) == 3
    assert drive.ask(f"getComputedStyle({drive.one('.lab-rank[aria-pressed=true]')}).boxShadow") != "none"


@pytest.mark.parametrize(("name", "control"), [("index", "lam"), ("four_lines", "lam"), ("softmax_to_max", "T")])
def test_a_page_opens_with_a_ranking_that_changes(html, browser, name, control):
    browser.visit(f"{html.as_uri()}/{name}.html", width=390)
    drive = Drive(browser, "Ranking explorer")
    before = drive.texts(".lab-racer")
    assert "is lost" in drive.shown("sentence")
    drive.press(control, "End")
    assert "climbs from rank 14" in drive.shown("sentence")
    assert drive.texts(".lab-racer") != before
    inside = "root.querySelector('.lab-race').scrollHeight <= root.querySelector('.lab-race').clientHeight"
    assert drive.ask(inside)  # no row is cut
    assert browser.complaints == []
