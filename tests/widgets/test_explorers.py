"""The explorers as a reader meets them: on a page with no kernel, and as widgets that Python sets and reads."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from skimage import data as pictures

from csra_lab import CsraError, create_classifier, csra_logits, multilabel_metrics
from csra_lab.heads import HEADS, PAPER_TEMPERATURES, create_head
from csra_lab.residual_attention import attention_scores, gap_bound, gap_to_max
from csra_lab.training.evaluation import predict_image
from csra_lab.widgets import (
    AttentionExplorer,
    HeadComposer,
    MetricsExplorer,
    RankingExplorer,
    TemperatureExplorer,
    explore,
    explore_metrics,
    maps,
    maps_of_atlas,
    maps_of_photographs,
    score_set,
)
from csra_lab.widgets.base import module, packed, picture_url
from tests.widgets.drive import Drive, number

HOSTILE = [
    "<img src=x onerror=\"window.harm='img'\">",
    "</script><script>window.harm='script'</script>",
    "`${window.harm='template'}` %STATE% %ESM% \\",
    "a'\"&amp;--><!--<script>",
    "naïve 猫 \u2028 \u202e",
]
PAGE = (
    '<!doctype html><html data-theme="light"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
)


def some_maps(heads: int, *, pictures: int = 2, side: int = 3, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed + heads)
    return [(3 * rng.normal(size=(heads, len(HOSTILE), side, side))).astype(np.float16) for _ in range(pictures)]


def data(*models: dict, targets=(1, 0, -1, 1, 0)) -> dict:
    url = picture_url(Image.new("RGB", (30, 20), "orange"))
    return {
        "classes": HOSTILE,
        "temperatures": {str(h): ["inf" if math.isinf(t) else t for t in ts] for h, ts in PAPER_TEMPERATURES.items()},
        "pictures": [
            {"name": HOSTILE[0], "url": url, "targets": list(targets)},
            {"name": "b", "url": url, "targets": None},
        ],
        "models": list(models),
    }


def model(heads: int, temperatures: list, *, name: str = HOSTILE[1], side: int = 3) -> dict:
    kept = [packed(m) for m in some_maps(heads, side=side)]
    return {"name": name, "heads": heads, "lam": 0.25, "temperatures": temperatures, "maps": kept}


@pytest.fixture
def show(browser, tmp_path):
    """Open explorers on one page from file://; nothing may go wrong there."""

    def show(*explorers, width: int = 900):
        page = tmp_path / "page.html"
        page.write_text(PAGE + "".join(e.html() for e in explorers), encoding="utf-8")
        browser.visit(page.as_uri(), width=width)
        return browser

    yield show
    assert browser.complaints == []
    assert browser.failures == []
    assert browser.evaluate("typeof window.harm") == "undefined"


# ---- each explorer shows what csra_lab computes ------------------------------------------------------------------


@pytest.mark.parametrize("side", [3, 1])
def test_attention_explorer(show, side):
    explorer = AttentionExplorer(
        data=data(model(1, [1.0], side=side), model(2, [0.5, "inf"], name="two", side=side)),
        label=2,
        temperature=math.inf,
    )
    drive = Drive(show(explorer), "Attention explorer")
    one, two = (torch.from_numpy(some_maps(h, side=side)[0].astype(np.float64)).flatten(2) for h in (1, 2))  # (H, C, N)

    def check(maps, temperatures, lam):
        logits = csra_logits(maps[None], temperatures, lam)[0].numpy()
        average = maps.mean(dim=2).sum(dim=0)[2].item()
        order = np.argsort(-logits, kind="stable")
        assert drive.number("logit") == pytest.approx(logits[2], abs=6e-4)
        assert drive.number("average") == pytest.approx(average, abs=6e-4)
        assert drive.number("residual") == pytest.approx(logits[2] - average, abs=6e-4)
        assert drive.number("probability") == pytest.approx(1 / (1 + np.exp(-logits[2])), abs=6e-4)
        assert drive.shown("rank") == f"{order.tolist().index(2) + 1} of 5"
        marks = (" ●", "", " ?", " ●", "")
        assert drive.texts(".lab-name") == [HOSTILE[c] + marks[c] for c in order]
        chances = [number(text) for text in drive.texts(".lab-chance")]
        np.testing.assert_allclose(chances, 1 / (1 + np.exp(-logits[order])), atol=6e-3)
        weights = torch.stack([attention_scores(m[2], t) for m, t in zip(maps, temperatures, strict=True)]).mean(dim=0)
        assert float(drive.ask("root.querySelector('canvas').dataset.largest")) == pytest.approx(
            weights.max().item(), abs=1e-9
        )

    check(one, [math.inf], 0.3)
    drive.press("T", "Home")
    drive.press("lam", "End")  # lambda = 2
    assert (drive.shown("T"), drive.shown("lam")) == ("0", "2.00")
    check(one, [0.0], 2.0)
    drive.press("T", "ArrowRight", "ArrowRight")
    check(one, [number(drive.shown("T"))], 2.0)
    drive.choose("heads", "4")
    check(one.expand(4, -1, -1), PAPER_TEMPERATURES[4], 2.0)
    assert "set by Heads" in drive.ask("root.querySelector('.lab-with-play').textContent")
    assert drive.ask("root.querySelectorAll('.lab-thumbs figure').length") == 4
    drive.choose("model", "1")
    drive.click("trained")
    check(two, [0.5, math.inf], 0.25)
    drive.choose("heads", "head-2")
    check(two[1:], [0.5], 0.25)


@pytest.mark.parametrize("slider", ["lam", "T"])
def test_ranking_explorer_ranks_as_the_equations_do(show, slider):
    maps_there = torch.from_numpy(some_maps(1)[0].astype(np.float64)).flatten(2)  # (1, C, N)
    explorer = RankingExplorer(data=data(model(1, [1.0])), label=2, slider=slider, lam=0.0 if slider == "lam" else 0.5)
    drive = Drive(show(explorer), "Ranking explorer")

    def check(T, lam):
        order = np.argsort(-csra_logits(maps_there[None], [T], lam)[0].numpy(), kind="stable")
        shown = drive.ask(
            """[...root.querySelectorAll('.lab-racer')].map((e) => [e.querySelector('.lab-place').textContent,
            e.querySelector('.lab-name').textContent])"""
        )
        assert sorted(shown) == sorted([str(i + 1), HOSTILE[c]] for i, c in enumerate(order))
        assert f"rank {order.tolist().index(2) + 1}" in drive.shown("sentence").split(" to ")[-1]

    start = explorer.temperature if slider == "T" else math.inf
    check(start, explorer.lam)
    drive.press(slider, "End")
    check(math.inf, 0.6 if slider == "lam" else 0.5)


def test_a_place_that_is_clicked_or_reached_by_keys_tells_its_best_labels(show):
    maps_there = some_maps(2)[0].astype(np.float64).sum(axis=0)  # over the heads: (C, 3, 3)
    drive = Drive(show(AttentionExplorer(data=data(model(2, [1.0, 2.0])))), "Attention explorer")

    def told(row, column):
        scores = maps_there[:, row, column]
        best = [f"{HOSTILE[c]} {scores[c]:.2f}" for c in np.argsort(-scores, kind="stable")]
        return f"Row {row + 1}, column {column + 1}: {', '.join(best)}.".replace(" -", " −")

    drive.click("place", 0.9, 0.1)
    assert drive.shown("best") == told(0, 2)
    drive.press("place", "ArrowDown", "ArrowLeft")
    assert drive.shown("best") == told(1, 1)


def test_what_is_kept_as_A_stays_while_B_moves(show):
    drive = Drive(show(AttentionExplorer(data=data(model(1, [1.0])), label=2, lam=0.5)), "Attention explorer")
    before = drive.shown("logit")
    drive.click("pin")
    drive.press("lam", "End")
    assert f"λ = 0.50: logit {before}" in drive.shown("A")
    assert drive.shown("logit") != before
    drive.click("pin")
    assert drive.ask("root.querySelector('.lab-first').hidden")


def test_another_image_comes_with_a_label_that_it_has(show):
    both = data(model(1, [1.0]))
    both["pictures"].append({"name": "c", "url": both["pictures"][0]["url"], "targets": [0, 0, 0, 0, 1]})
    both["models"][0]["maps"].append(both["models"][0]["maps"][0])
    drive = Drive(show(AttentionExplorer(data=both)), "Attention explorer")
    drive.choose("picture", "2")
    assert drive.value("label") == "4"
    drive.choose("picture", "1")  # nothing is known of it, so the label stays
    assert drive.value("label") == "4"


def test_the_address_holds_what_is_seen_and_a_link_shows_it(show, browser):
    page = show(AttentionExplorer(data=data(model(1, [1.0])), label=1))
    drive = Drive(page, "Attention explorer")
    drive.press("lam", "End")
    drive.press("T", "End")
    drive.choose("label", "3")
    drive.ask("new Promise((done) => setTimeout(done, 700))")
    address = page.evaluate("location.href")
    logit = drive.shown("logit")
    assert "#lab:1?" in address
    page.evaluate("history.replaceState(null, '', location.pathname)")
    page.visit(address)
    again = Drive(page, "Attention explorer")
    assert (again.shown("logit"), again.value("label"), again.shown("T")) == (logit, "3", "∞")


@pytest.mark.parametrize(
    "state", ['lam="x"', "picture=-1", "label=0.5", "temperature=[]", "heads={}", "lam=1e999", "lam=null"]
)
def test_an_address_that_is_not_ours_opens_the_explorer_as_usual(show, state):
    page = show(AttentionExplorer(data=data(model(1, [1.0])), label=1))
    usual = Drive(page, "Attention explorer").shown("logit")
    address = page.evaluate("location.href.split('#')[0]")
    page.visit("about:blank")
    page.visit(f"{address}#lab:1?{state}&view=light")
    again = Drive(page, "Attention explorer")
    assert (again.shown("logit"), again.value("view")) == (usual, "attention")


def test_another_model_never_chooses_several_temperatures(show):
    explorer = AttentionExplorer(data=data(model(1, [1.0]), model(2, [1.0, 2.0], name="two")), model=1, heads="trained")
    drive = Drive(show(explorer), "Attention explorer")
    assert drive.value("heads") == "trained"
    drive.choose("model", "0")
    assert drive.value("heads") == "one"
    assert drive.ask("root.querySelector('[data-control=heads]').options[0].value") == "one"
    assert not drive.ask("root.querySelector('[data-control=T]').disabled")


def test_logits_of_one_class_of_many_are_not_shown_as_probabilities(show):
    single = {**data(model(1, [1.0])), "multilabel": False}
    drive = Drive(show(AttentionExplorer(data=single, label=2)), "Attention explorer")
    row = "root.querySelector('.lab-rank[aria-pressed=true] .lab-chance').textContent"
    assert number(drive.ask(row)) == pytest.approx(drive.number("logit"), abs=0.006)
    assert "probability" not in drive.ask("root.textContent")


def test_play_runs_T_from_0_to_infinity_and_a_hand_on_the_slider_stops_it(show):
    drive = Drive(show(TemperatureExplorer(temperature=5.0)), "Temperature explorer")
    drive.click("play-T")
    first = drive.number("T")
    drive.ask("new Promise((done) => setTimeout(done, 600))")
    drive.settle()
    assert first < 5
    assert drive.number("T") > first
    drive.press("T", "Home")
    drive.ask("new Promise((done) => setTimeout(done, 300))")
    assert drive.number("T") == 0


def test_play_stops_when_another_control_sets_T(show):
    drive = Drive(show(AttentionExplorer(data=data(model(1, [1.0])))), "Attention explorer")
    name = "root.querySelector('[data-control=play-T]').ariaLabel"
    rest = drive.ask(name)
    drive.click("play-T")
    drive.ask("new Promise((done) => setTimeout(done, 300))")
    assert drive.ask(name) == "Stop"
    drive.click("trained")
    drive.ask("new Promise((done) => setTimeout(done, 300))")
    drive.settle()
    assert (drive.number("T"), drive.number("lam"), drive.ask(name)) == (1, 0.25, rest)


def test_a_finger_drags_a_bar_and_not_the_page(show):
    drive = Drive(show(TemperatureExplorer(scores=[0.0, 1.0])), "Temperature explorer")
    assert drive.ask("getComputedStyle(root.querySelector('.lab-draggable')).touchAction") == "none"
    before = drive.ask("scrollY")
    drive.drag("score-0", [(0.5, 0.5), (0.5, 0.3), (0.5, 0.1)], finger=True)
    assert drive.ask("root.querySelector('[role=slider]').ariaValueNow") != "0"
    assert abs(drive.ask("scrollY") - before) < 200  # only the scrolling into view that the test itself does


def test_a_click_in_the_ranking_chooses_the_label(show):
    drive = Drive(show(AttentionExplorer(data=data(model(1, [1.0])))), "Attention explorer")
    last = drive.texts(".lab-name")[-1]
    drive.ask("{ [...root.querySelectorAll('.lab-rank')].at(-1).click(); }")
    drive.settle()
    chosen = drive.ask("root.querySelector('.lab-rank[aria-pressed=true] .lab-name').textContent")
    assert chosen == last
    assert drive.shown("rank") == "5 of 5"


@pytest.mark.parametrize("scores", [[-0.6, 0.2, 2.6], [0.5, 2, -1, 2], [-1.5, -3], [1.2], [0, 0, 0]])
def test_temperature_explorer(show, scores):
    explorer = TemperatureExplorer(scores=scores, temperature=2.0, lam=0.5)
    drive = Drive(show(explorer), "Temperature explorer")

    def check(values, T, lam):
        s = torch.tensor(values, dtype=torch.float64)
        best = s.topk(min(2, len(s))).values
        attended = (attention_scores(s, T) * s).sum().item()
        assert drive.number("mean") == pytest.approx(s.mean().item(), abs=6e-4)
        assert drive.number("attended") == pytest.approx(attended, abs=6e-4)
        assert drive.number("max") == pytest.approx(s.max().item(), abs=6e-4)
        assert drive.number("gap") == pytest.approx(gap_to_max(s, T).item(), abs=6e-5)
        # At T = 0 the margin bounds nothing.
        bound = gap_bound(best[0] - best[-1], len(s), T).item() if T else (0 if len(s) == 1 else math.inf)
        assert drive.number("bound") == pytest.approx(bound, abs=6e-5)
        logit = csra_logits(s[None, None, None], [T], lam).item()
        assert drive.number("logit") == pytest.approx(logit, abs=6e-4)

    check(scores, 2.0, 0.5)
    drive.press("T", "End")
    assert drive.shown("T") == "∞"
    check(scores, math.inf, 0.5)
    drive.press("T", "Home")
    drive.press("score-0", "ArrowUp", "PageDown")
    check([round(scores[0] - 0.9, 2), *scores[1:]], 0.0, 0.5)
    drive.press("score-0", "End")
    check([4, *scores[1:]], 0.0, 0.5)


def test_head_composer(show):
    explorer = HeadComposer(
        data=data(model(1, [1.0]), model(1, [], name="other")), temperature=2.0, lam=1.5, r=0.7, k=2
    )
    drive = Drive(show(explorer), "Head composer")
    maps = torch.from_numpy(some_maps(1)[0].astype(np.float64)).flatten(2)  # (1, C, N)
    drive.press("threshold", "ArrowRight")
    drive.press("k", "ArrowRight")
    assert (drive.shown("threshold"), drive.shown("k")) == ("0.55", "3")
    heads = {"average": {}, "max": {}, "spatial": {"temperature": 2.0}, "lse": {"r": 0.7}, "topk": {"k": 3}}
    heads["csra"] = {"temperatures": [2.0], "lam": 1.5}
    targets = (1, 0, -1, 1, 0)
    for kind, options in heads.items():
        chances = torch.sigmoid(create_head(kind, 1, 5, **options).pool(maps[None])[0]).numpy()
        named = [c for c in np.argsort(-chances, kind="stable") if chances[c] >= 0.55]
        marks = {1: " ✓", 0: " ✗", -1: " ?"}
        expected = [f"{HOSTILE[c]} {chances[c]:.2f}{marks[targets[c]]}" for c in named]
        assert drive.texts(f'[data-pooling="{kind}"] li') == expected
        right, wrong = (sum(targets[c] == t for c in named) for t in (1, 0))
        assert f"{right} of 2 found, {wrong} wrong" in drive.texts(f'[data-pooling="{kind}"] .lab-note')


def metric_data(seed=0):
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, 21, size=(80, 3)) / 20).astype(np.float32)  # ties
    targets = rng.choice([1, 0, 0, -1], size=(80, 3)).astype(np.int8)
    return scores, targets


def test_metrics_explorer(show):
    scores, targets = metric_data()
    targets[:, 2] = np.minimum(targets[:, 2], 0)  # a label that nothing has
    sets = score_set(HOSTILE[0], HOSTILE[:3], targets, {HOSTILE[1]: scores, "half": scores.astype(np.float16)})
    drive = Drive(show(explore_metrics(sets)), "Metrics explorer")

    def check(threshold):
        expected = multilabel_metrics(scores, targets, threshold=threshold)
        for name in ("CP", "CR", "CF1", "CF1_macro", "OP", "OR", "OF1"):
            assert drive.number(name) == pytest.approx(getattr(expected, name), abs=6e-4)

    check(0.5)
    drive.press("threshold", "ArrowRight", "ArrowRight")
    assert drive.shown("threshold") == "0.52"
    check(0.52)
    drive.drag("strip", [(0.9, 0.5), (0.6, 0.4), (0.2, 0.5)])
    assert number(drive.shown("threshold")) == pytest.approx(0.2, abs=0.02)
    check(number(drive.shown("threshold")))
    for ap in ("average", "voc11", "envelope"):
        expected = multilabel_metrics(scores, targets, ap=ap)
        drive.choose("ap", ap)
        assert drive.number(f"mAP-{ap}") == pytest.approx(expected.mAP, abs=6e-4)
        assert drive.number(f"AP-{ap}") == pytest.approx(expected.per_class_AP[0], abs=6e-4)
        area = shoelace(drive.ask("root.querySelector('.lab-area').getAttribute('d')"))
        assert area == pytest.approx(expected.per_class_AP[0], abs=3e-3)  # what is painted is what is said
    drive.choose("label", "2")
    assert math.isnan(drive.number("AP-average"))
    check(number(drive.shown("threshold")))


def shoelace(path: str) -> float:
    """The area of a path, as a part of the chart."""
    x, y = np.array([[float(v) for v in point.split()] for point in path.strip("MZ").replace("L", "M").split("M")]).T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2 / ((360 - 34 - 8) * (240 - 20))


# ---- on a page ---------------------------------------------------------------------------------------------------


def test_many_on_one_page_at_phone_width_and_each_on_its_own(show):
    twin = TemperatureExplorer(scores=[1, 2])
    page = show(twin, AttentionExplorer(data=data(model(1, [1.0]))), twin, width=390)
    first, second = (Drive(page, "Temperature explorer", i) for i in (0, 1))
    first.press("T", "End")
    assert (first.shown("T"), second.shown("T")) == ("∞", "1")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    before = second.number("mean")
    second.drag("score-1", [(0.5, 0.3), (0.5, 0.05)], finger=True)
    assert second.number("mean") > before + 0.5
    assert first.number("mean") == before


def test_reads_aloud_and_by_keyboard(show):
    sets = score_set("s", HOSTILE[:3], metric_data()[1], {"m": metric_data()[0]})
    explorers = [AttentionExplorer(data=data(model(1, [1.0]), model(1, [], name="b"))), TemperatureExplorer()]
    explorers += [HeadComposer(data=data(model(1, [1.0]))), explore_metrics(sets)]
    page = show(*explorers)
    Drive(page, "Metrics explorer")
    unnamed = page.evaluate(
        """[...document.querySelectorAll('.lab-explorer :is(input, select, canvas, svg, img, [role])')].filter((e) =>
        !(e.getAttribute('aria-label') || e.alt || e.closest('label') || e.textContent || e.matches('[role=status]')))
        .length"""
    )
    assert unnamed == 0
    assert page.evaluate("document.querySelectorAll('.lab-explorer [id]').length") == 0  # several on a page never clash
    assert page.evaluate("document.querySelectorAll('.lab-explorer [role=status]').length") == 4
    drive = Drive(page, "Temperature explorer")
    drive.press("T", "End")
    page.evaluate("new Promise((r) => setTimeout(r, 600))")
    said = drive.ask("root.querySelector('[role=status]').textContent")
    assert said.startswith("Attended score 2.60")
    assert len(said) < 100


LIVE = """import(URL.createObjectURL(new Blob([{esm}], {{ type: 'text/javascript' }}))).then((explorer) => {{
  const state = {state}, heard = {{}};
  window.live = {{ get: (k) => state[k], save_changes: () => {{}}, off: (k) => {{ delete heard[k]; }},
    set: (k, v) => {{ state[k] = v; heard['change:' + k]?.(); }}, on: (k, f) => {{ heard[k] = f; }}, heard }};
  window.stop = explorer.default.render({{ model: window.live, el: document.getElementById('root') }});
}})"""


def test_follows_what_python_sets_and_lets_go_when_removed(blank):
    state = {"scores": [0, 3], "temperature": 1.0, "lam": 0.3}
    blank.evaluate(LIVE.format(esm=json.dumps(module("temperature")), state=json.dumps(state)))
    drive = Drive(blank, "Temperature explorer")
    blank.evaluate("window.live.set('temperature', 'inf')")
    drive.settle()
    assert (drive.shown("T"), drive.number("attended")) == ("∞", 3)
    drive.press("lam", "Home")
    assert blank.evaluate("window.live.get('lam')") == 0
    blank.evaluate("window.stop()")
    assert blank.evaluate("Object.keys(window.live.heard).length") == 0
    assert blank.complaints == []


# ---- in Python ---------------------------------------------------------------------------------------------------


def test_a_widget_is_both_live_and_static():
    explorer = AttentionExplorer(data=data(model(1, [1.0])))
    bundle, _ = explorer._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html"} <= set(bundle)
    assert bundle["text/html"].count("</script>") == 1
    assert "<img" not in bundle["text/html"]
    assert explorer.html() == AttentionExplorer(data=data(model(1, [1.0]))).html()  # a rebuilt page stays the same


def test_settings_are_checked():
    explorer = TemperatureExplorer(temperature=math.inf)
    assert explorer.temperature == "inf"
    with pytest.raises(CsraError, match="temperature"):
        explorer.temperature = -1
    with pytest.raises(CsraError, match="one score map"):
        HeadComposer(data=data(model(2, [1.0, 2.0])))
    with pytest.raises(CsraError, match="probabilities"):
        score_set("s", ["a"], [[1]], {"m": [[2.0]]})
    with pytest.raises(CsraError, match="score_set"):
        explore_metrics()
    with pytest.raises(CsraError, match="emoji-voc"):
        maps_of_atlas("nothing")
    with pytest.raises(CsraError, match="no model 'x'"):
        maps_of_atlas("emoji-voc", models=["x"])
    with pytest.raises(CsraError, match="no number 99"):
        maps_of_atlas("emoji-voc", pictures=[99])


def test_explorers_of_the_atlas_stay_small():
    for dataset in ("emoji-voc", "paperdoll-wider"):
        content = maps_of_atlas(dataset)
        assert len(content["pictures"]) == 8
        assert len(json.dumps(content)) < 300_000
    assert sum(len(module(name)) for name in ("attention", "temperature", "composer", "metrics")) < 150_000


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    options = {"head": "csra", "num_heads": 2, "lam": 0.5, "image_size": 64}
    return create_classifier("resnet10t", classes=HOSTILE, **options).eval()


def test_explore_takes_a_model_and_photographs(network, tmp_path, show):
    path = tmp_path / "mine <b>.png"
    picture = Image.effect_mandelbrot((90, 60), (-2, -1.5, 1, 1.5), 30).convert("RGB")
    picture.save(path)
    explorer = explore(network, path, picture)
    assert [p["name"] for p in explorer.data["pictures"]] == ["mine <b>.png", "picture 2"]
    assert (explorer.heads, explorer.lam) == ("trained", 0.5)
    probabilities, _ = predict_image(network, picture)
    assert explorer.label == probabilities.argmax()
    drive = Drive(show(explorer), "Attention explorer")
    assert drive.number("probability") == pytest.approx(probabilities.max(), abs=2e-3)  # half-precision maps
    with pytest.raises(CsraError, match="photographs"):
        explore(network)
    with pytest.raises(CsraError, match="does not exist"):
        explore(network, tmp_path / "none.jpg")


def test_explore_turns_photographs_upright_as_predict_does(network, tmp_path):
    turned, exif = Image.effect_mandelbrot((90, 60), (-2, -1.5, 1, 1.5), 30).convert("RGB"), Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    read, opened = (
        explore(network, picture).data for picture in (tmp_path / "turned.jpg", Image.open(tmp_path / "turned.jpg"))
    )
    for part in ("models", "classes", "total"):
        assert read[part] == opened[part]
    assert [picture["url"] for picture in read["pictures"]] == [picture["url"] for picture in opened["pictures"]]


@pytest.mark.parametrize("kind", sorted(set(HEADS) - {"csra", "average"}))
def test_explore_refuses_a_head_that_pools_in_another_way(kind):
    model = create_classifier("test_resnet", num_classes=4, image_size=64, head=kind)
    with pytest.raises(CsraError, match=f"not how '{kind}' does; give a classifier with one of these two heads"):
        explore(model, Image.new("RGB", (64, 64)))


def test_explore_without_a_model_takes_the_one_that_ships(tmp_path):
    path = tmp_path / "cat.jpg"
    Image.fromarray(pictures.chelsea()).save(path)
    explorer = explore(path)
    assert explorer.data["classes"][explorer.label] == "cat"
    assert len(explorer.html()) < 300_000


def test_a_thousand_labels_are_cut_to_the_highest(monkeypatch, network):
    monkeypatch.setattr(maps, "MOST_LABELS", 3)
    content = maps_of_photographs(network, {"a": Image.new("RGB", (64, 64), "red")})
    assert len(content["classes"]) == 3
    assert content["note"].startswith("3 of 5 labels")
    assert isinstance(explore(network, Image.new("RGB", (9, 9))), AttentionExplorer)


def test_metrics_explorer_keeps_half_precision():
    scores, targets = metric_data()
    kept = score_set(
        "s", HOSTILE[:3], targets, {"a": scores, "b": scores.astype(np.float16), "c": scores.astype(float)}
    )
    assert [m["scores"]["dtype"] for m in kept["methods"]] == ["float32", "float16", "float32"]
    assert isinstance(explore_metrics(kept), MetricsExplorer)


def test_scores_of_an_explorer_are_read_as_the_metrics_read_them():
    scores, targets = np.array([[0.9, 0.2], [0.1, 0.8], [0.6, 0.7]]), np.array([[1, 0], [0, 1], [1, 0]])
    tables = pd.DataFrame(scores, columns=["b", "a"]), pd.DataFrame(targets, columns=["a", "b"])
    with pytest.raises(CsraError, match="other names"):
        score_set("s", ["a", "b"], tables[1], {"m": tables[0]})
    masked = np.ma.masked_array(targets, mask=[[0, 0], [0, 0], [0, 1]])
    unknown = np.where(masked.mask, -1, targets)
    expected = score_set("s", ["a", "b"], unknown, {"m": scores})
    assert score_set("s", ["a", "b"], masked, {"m": scores}) == expected
    assert score_set("s", ["a", "b"], unknown, {"m": torch.tensor(scores, requires_grad=True)}) == expected
