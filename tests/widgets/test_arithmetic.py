"""The explorers' JavaScript and csra_lab on the same numbers, in Chromium."""

import json
import math

import numpy as np
import pytest
import torch

from csra_lab.heads import create_head
from csra_lab.metrics import average_precision, multilabel_metrics
from csra_lab.residual_attention import attended_scores, attention_scores, csra_logits, gap_bound, gap_to_max
from csra_lab.widgets.base import module, packed

TEMPERATURES = [0.0, 0.1, 0.5, 1.0, 7.0, 100.0, math.inf]
LOAD = "import(URL.createObjectURL(new Blob([{}], {{ type: 'text/javascript' }}))).then((m) => {{ {} }})"


@pytest.fixture(scope="module")
def compute(browser, tmp_path_factory):
    """Value of an expression on `a` (the arithmetic) and `x` (a value that JSON can hold)."""
    page = tmp_path_factory.mktemp("page") / "blank.html"
    page.write_text('<!doctype html><meta charset="utf-8">', encoding="utf-8")
    browser.visit(page.as_uri())
    browser.evaluate(LOAD.format(json.dumps(module("metrics")), "window.a = m.arithmetic; return 1;"))

    def compute(expression: str, x):
        text = json.dumps(x)  # NaN and Infinity are JavaScript too
        return browser.evaluate(f"((x) => {expression})({text})")

    yield compute
    assert browser.complaints == []


def maps() -> list[np.ndarray]:
    """Score maps (N,): many places, one place, ties, all equal, all below zero, large numbers."""
    rng = np.random.default_rng(0)
    drawn = [rng.normal(size=n) * spread for n in (2, 9, 49) for spread in (0.1, 3.0)]
    drawn += [np.array([-1.7]), np.array([1.0, 3.0, 3.0, 0.0]), np.full(7, -2.5), -5 - rng.random(16)]
    return [*drawn, np.array([900.0, -900.0, 899.5])]


def test_attention_attended_score_and_gap(compute):
    got = compute(
        "x.maps.flatMap((s) => x.T.map((t) => [a.attentionScores(s, t), a.attendedScore(s, t), a.gapToMax(s, t),"
        " a.gapBound(a.marginOf(s), s.length, t || 1)]))",
        {"maps": [m.tolist() for m in maps()], "T": TEMPERATURES},
    )
    i = 0
    for scores in maps():
        s = torch.from_numpy(scores)
        best = s.topk(min(2, len(s))).values
        margin = (best[0] - best[-1]).item()
        for T in TEMPERATURES:
            weights, attended, gap, bound = got[i]
            np.testing.assert_allclose(weights, attention_scores(s, T), atol=1e-9)
            np.testing.assert_allclose(
                attended, attended_scores(s[None, None, None], [T]).item(), atol=1e-9, rtol=1e-12
            )
            np.testing.assert_allclose(gap, gap_to_max(s, T).item(), atol=1e-9)
            np.testing.assert_allclose(
                bound, gap_bound(torch.tensor(margin).double(), len(s), T or 1).item(), atol=1e-9
            )
            i += 1


@pytest.mark.parametrize("temperatures", [[1.0], [math.inf], [0.3, math.inf], [1.0, 2.0, 4.0, math.inf]])
def test_logits_in_two_parts(compute, temperatures):
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(len(temperatures), 5, 49)) * 2  # (H, C, N)
    for lam in (0.0, 0.3, 2.0, -0.5):
        x = {"maps": scores.tolist(), "T": temperatures, "lam": lam}
        got = compute("x.maps[0].map((_, c) => a.csraLogit(x.maps.map((m) => m[c]), x.T, x.lam))", x)
        expected = csra_logits(torch.from_numpy(scores)[None], temperatures, lam)[0]
        np.testing.assert_allclose([g["logit"] for g in got], expected, atol=1e-9)
        average = scores.mean(axis=2).sum(axis=0)
        np.testing.assert_allclose([g["average"] for g in got], average, atol=1e-9)
        np.testing.assert_allclose([g["residual"] for g in got], expected - average, atol=1e-9)


def test_poolings_are_those_of_the_heads(compute):
    settings = [{"T": 0.5, "lam": 0.4, "r": 0.1, "k": 1}, {"T": math.inf, "lam": 1.0, "r": 8.0, "k": 3}]
    settings.append({"T": 1.0, "lam": 0.0, "r": 1.0, "k": 100})
    for scores in maps():
        for x in settings:
            heads = {
                "average": {},
                "max": {},
                "spatial": {"temperature": x["T"]},
                "csra": {"temperatures": [x["T"]], "lam": x["lam"]},
                "lse": {"r": x["r"]},
                "topk": {"k": x["k"]},
            }
            got = compute(
                "Object.fromEntries(Object.entries(a.POOLINGS).map(([k, f]) => [k, f(x.s, x)]))",
                {"s": scores.tolist(), **x},
            )
            assert set(got) == set(heads)
            for kind, options in heads.items():
                pooled = create_head(kind, 1, 1, **options).pool(torch.from_numpy(scores)[None, None, None]).item()
                np.testing.assert_allclose(got[kind], pooled, atol=1e-9, rtol=1e-12, err_msg=kind)


def metric_cases():
    rng = np.random.default_rng(2)
    for n, levels in ((1, 2), (7, 3), (60, 5), (200, 10_000)):
        scores = rng.integers(0, levels + 1, size=(n, 4)) / levels  # few levels: many ties
        targets = rng.choice([1, 0, 0, -1], size=(n, 4))
        targets[:, 3] = np.minimum(targets[:, 3], 0)  # a class without a positive
        targets[0, 0] = 1
        yield scores, targets
    yield np.array([[0.2], [0.9]]), np.array([[1], [-1]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_average_precisions_and_label_metrics(compute, dtype):
    thresholds = [0.0, 0.1, 0.3, 0.5, 0.7, 1.0]
    for scores, targets in metric_cases():
        scores = scores.astype(dtype)
        x = {"s": packed(scores), "t": packed(targets.astype(np.int8)), "C": scores.shape[1], "limits": thresholds}
        got = compute(
            """{ const s = a.unpack(x.s).data, t = a.unpack(x.t).data;
            const column = (values, c) => Array.from(values).filter((_, i) => i % x.C === c);
            return { ap: Array.from({ length: x.C }, (_, c) => {
                const p = a.averagePrecisions(a.rankingCurve(column(s, c), column(t, c)));
                return [p.average, p.voc11, p.envelope].map((v) => (Number.isNaN(v) ? null : v)); }),
              metrics: x.limits.map((limit) => a.labelMetrics(a.countLabels(s, t, x.C, limit))) }; }""",
            x,
        )
        for i, kind in enumerate(("average", "voc11", "envelope")):
            expected = average_precision(scores, targets, ap=kind)
            np.testing.assert_allclose([np.nan if v[i] is None else v[i] for v in got["ap"]], expected, atol=1e-12)
        for threshold, found in zip(thresholds, got["metrics"], strict=True):
            expected = multilabel_metrics(scores, targets, threshold=threshold)
            assert set(found) == {"CP", "CR", "CF1", "CF1_macro", "OP", "OR", "OF1"}
            for name, value in found.items():
                np.testing.assert_allclose(value, getattr(expected, name), atol=1e-12, err_msg=f"{name} at {threshold}")


def test_arrays_arrive_bit_by_bit(compute):
    half = np.arange(0, 2**16, 5, dtype=np.uint16).view(np.float16)
    half = half[np.isfinite(half)][:, None]
    for array in (
        half,
        np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32),
        np.array([[1, 0, -1]], np.int8),
    ):
        got = compute("({ shape: a.unpack(x).shape, data: Array.from(a.unpack(x).data) })", packed(array))
        assert got["shape"] == list(array.shape)
        np.testing.assert_array_equal(np.array(got["data"]), array.flatten().astype(np.float64))


def test_ranking_puts_the_first_of_equals_first(compute):
    assert compute("a.ranking(x)", [0.1, 2, -1, 2]) == [1, 3, 0, 2]
