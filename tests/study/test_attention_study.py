"""What the chapters on seeing read: the record follows from its own parts, from the drawings, and from the atlas."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from csra_lab.datasets import VOC_CLASSES
from csra_lab.heads import CSRA, AverageConfig, AveragePooling, CSRAConfig
from csra_lab.significance import bootstrap_mAP, compare, draw_images
from csra_lab.study import attention_study as attention_record
from csra_lab.study.attention_study import (
    BOXES,
    FINE,
    HEADS,
    MIN_IMAGES,
    TOLERANCE,
    choose_thresholds,
    interval,
    mean_interval,
    read_objects,
    record_attention,
    score_maps,
    size_bins,
)
from csra_lab.study.detection import boxes_of, localised, outcomes
from csra_lab.study.head_stack import TrainedHead
from csra_lab.study.localization import Objects, box_coverage, cell_centres, mass_inside, pairs_of, points_inside
from csra_lab.study.plans import PLANS
from csra_lab.synthetic.emoji_voc import scene
from csra_lab.training.feature_cache import FeatureMaps
from csra_lab.viz.atlas import read_atlas

RECORD = Path(__file__).resolve().parents[2] / "data/runs/attention"
SPLITS = ("test", "test-unseen")


@pytest.fixture(scope="module")
def results():
    table = pd.read_csv(RECORD / "results.csv").set_index(["split", "measure", "setting", "method", "bin"]).sort_index()
    return table[[f"seed {s}" for s in range(5)]]


@pytest.fixture(scope="module")
def found():
    with np.load(RECORD / "found.npz", allow_pickle=False) as content:
        return dict(content)


@pytest.mark.parametrize("split", SPLITS)
def test_the_objects_are_those_of_the_drawings(split):
    objects = read_objects(RECORD, split)
    for i in range(12):
        drawn = scene(split, i)
        here = objects.image == i
        assert [VOC_CLASSES[c] for c in objects.label[here]] == [o.name for o in drawn]
        assert objects.difficult[here].tolist() == [o.difficult for o in drawn]
        np.testing.assert_allclose(224 * objects.corners[here], [o.box for o in drawn])


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", HEADS)
def test_pointing_of_all_seeds_follows_from_the_best_cells(results, found, split, name):
    pairs = pairs_of(read_objects(RECORD, split))
    cells = found[f"best cell, {name} on {split}"]  # (S, P)
    for tolerance, setting in ((0.0, "exact"), (TOLERANCE, "15 pixels")):
        hits = [points_inside(cell_centres((7, 7))[c][:, None], pairs.boxes, tolerance=tolerance)[:, 0] for c in cells]
        for size, inside in size_bins(pairs.share).items():
            expected = [100 * h[inside].mean() for h in hits]
            assert results.loc[(split, "pointing", setting, name, size)].tolist() == pytest.approx(expected, abs=1e-3)
    mass = found[f"mass at T = 1, {name} on {split}"].astype(float)
    assert results.loc[(split, "mass", "T = 1", name, "all"), "seed 0"] == pytest.approx(100 * mass.mean(), abs=0.02)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("way", BOXES)
def test_corloc_and_its_failures_follow_from_the_boxes(results, found, split, way):
    pairs = pairs_of(read_objects(RECORD, split))
    boxes = found[f"boxes, {way} on {split}"] / FINE
    fates = outcomes(boxes, pairs)
    np.testing.assert_array_equal(fates == "found", localised(boxes, pairs.boxes))
    for size, inside in size_bins(pairs.share).items():
        for measure, fate in (("CorLoc", "found"), *((f, f) for f in ("too large", "too small", "elsewhere"))):
            recorded = results.loc[(split, measure, "IoU 0.5", way, size), "seed 0"]
            assert recorded == pytest.approx(100 * (fates[inside] == fate).mean(), abs=1e-3)


def test_differences_follow_from_the_best_cells(found):
    comparisons = pd.read_csv(RECORD / "comparisons.csv")
    for line in comparisons[(comparisons.measure == "pointing") & (comparisons.setting == "exact")].itertuples():
        pairs = pairs_of(read_objects(RECORD, line.split))
        inside = size_bins(pairs.share)[line.bin]
        a, b = (
            np.stack([
                points_inside(cell_centres((7, 7))[c][:, None], pairs.boxes)[:, 0]
                for c in found[f"best cell, {name} on {line.split}"]
            ])[:, inside]
            for name in (line.against, line.label)
        )  # fmt: skip
        again = mean_interval(a, b, pairs.image[inside], draw_images(1000), line.comparisons)
        assert again == {k: pytest.approx(getattr(line, k), abs=1e-3) for k in again}


@pytest.mark.parametrize("split", SPLITS)
def test_the_maps_of_the_atlas_give_what_the_record_holds(found, split):
    """Another computation of the same heads: from the pictures' files, one by one, in float32."""
    atlas, pairs = read_atlas(), pairs_of(read_objects(RECORD, split))
    first = {"test": 2001, "test-unseen": 3001}[split]
    coverage = box_coverage(pairs.boxes, (7, 7))
    for name, file in (("average pooling", "average-pooling"), ("CSRA", "csra")):
        maps = atlas.models[f"emoji-voc-lite0-{file}"].maps[:, 0].astype(np.float64)
        of_split = [(n, int(p.id) - first) for n, p in enumerate(atlas.pictures["emoji-voc"]) if p.split == split]
        for n, i in of_split:
            here = pairs.image == i
            scores = maps[n, pairs.label[here]]  # (p, 7, 7)
            best = np.take_along_axis(
                scores.reshape(-1, 49), found[f"best cell, {name} on {split}"][0, here, None].astype(int), axis=1
            )
            np.testing.assert_allclose(best[:, 0], scores.max(axis=(1, 2)), atol=0.05)
            attention = np.exp(scores - scores.max(axis=(1, 2), keepdims=True))
            mass = mass_inside(attention, coverage[here])
            np.testing.assert_allclose(mass, found[f"mass at T = 1, {name} on {split}"][here], atol=0.02)


def test_limits_that_every_record_obeys(results):
    for split in SPLITS:
        at = results.loc[split]
        area = [np.mean(at.loc[("mass", "T = 0", name, "all")]) for name in HEADS]
        assert area[0] == pytest.approx(area[1])  # a flat map knows no head
        exact, near = (at.xs(("pointing", setting)) for setting in ("exact", "15 pixels"))
        assert (near.loc["CSRA"] >= exact.loc["CSRA"]).all(axis=None)
        for way in BOXES:
            parts = [at.loc[(m, "IoU 0.5", way, "all")] for m in ("CorLoc", "too large", "too small", "elsewhere")]
            assert sum(parts).tolist() == pytest.approx([100] * 5, abs=1e-2)


def test_the_recipe_is_the_plans():
    run = json.loads((RECORD / "run.json").read_text())
    plan = PLANS["four-lines"]
    for entry, recorded in zip(plan.entries, run["recipes"], strict=True):
        recipe = plan.recipe(entry, 0, "emoji")
        now = recipe.to_json()
        assert recorded["head"] == now["head"]
        for part, fields in {
            "optimisation": ("epochs", "optimizer", "head_lr"),
            "model": ("backbone", "image_size"),
            "run": ("seed",),
        }.items():
            for field in fields:
                assert recorded[part][field] == now[part][field], field
    assert run["seeds"] == plan.seeds
    assert list(run["settings"]) == list(BOXES)


def test_the_interval_is_that_of_compare():
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 3)) < 0.4).astype(int)
    a, b = (rng.normal(size=(4, 60, 3)) + k * targets for k in (0.5, 1.0))
    expected = compare(a, b, targets, comparisons=3)
    drawn = bootstrap_mAP(b, targets) - bootstrap_mAP(a, targets)
    seen = np.array([compare(a[[s, s]], b[[s, s]], targets, resamples=2).difference for s in range(4)])
    found = interval(seen, drawn, units=60, comparisons=3)
    fields = ("difference", "lower", "upper")
    assert [found[k] for k in fields] == pytest.approx([100 * getattr(expected, k) for k in fields], abs=1e-3)


def test_means_over_pairs_count_drawn_pictures():
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 3, 80)) < 0.5
    image = np.sort(rng.integers(30, size=80))
    weights = draw_images(30, resamples=30)
    drawn = np.array([
        [np.mean(np.repeat(b[s].astype(float) - a[s], w[image])) for w in weights] for s in range(3)
    ])  # fmt: skip
    seen = b.mean(axis=1) - a.mean(axis=1)
    assert mean_interval(a, b, image, weights, 2) == pytest.approx(interval(seen, drawn, units=30, comparisons=2))


@pytest.mark.parametrize("count", [1, 6, MIN_IMAGES - 1, MIN_IMAGES])
def test_few_images_have_a_mean_and_no_interval(count):
    """Of six images among 300 about one draw in 400 holds none; whether one did must not decide what is shown."""
    rng = np.random.default_rng(count)
    weights, (a, b) = draw_images(300, resamples=1000), rng.random((2, 5, 2 * count))
    found = mean_interval(a, b, np.repeat(np.arange(count), 2), weights, 1)
    assert found["difference"] == pytest.approx(100 * (b - a).mean(), abs=1e-4)
    assert np.isfinite([found["lower"], found["upper"]]).tolist() == [count >= MIN_IMAGES] * 2


def test_every_bin_of_the_records_has_its_interval():
    for name in ("attention", "real-boxes"):
        comparisons = pd.read_csv(RECORD.with_name(name) / "comparisons.csv")
        assert comparisons[["lower", "upper"]].notna().all(axis=None)


def toy(seed):
    """Features whose cells inside the box are bright, and the pairs."""
    rng = np.random.default_rng(seed)
    objects = Objects(
        np.arange(20), np.zeros(20, int), np.tile([1 / 7, 2 / 7, 4 / 7, 5 / 7], (20, 1)), np.zeros(20, bool), 20
    )
    pairs = pairs_of(objects)
    maps = box_coverage(pairs.boxes, (7, 7))[:, None, None] + 0.01 * rng.random((20, 1, 1, 7, 7))
    return FeatureMaps(torch.from_numpy(maps.astype(np.float16)), np.ones((20, 1), np.int8)), pairs


def test_a_perfect_head_finds_every_box():
    features, pairs = toy(0)
    heads = {"average pooling": [AveragePooling(1, 1)], "CSRA": [CSRA(1, 1, normalize=False)]}
    for (head,) in heads.values():
        head.weight.data.fill_(8.0)
    settings, lines = choose_thresholds(heads, features, pairs)
    for way, setting in settings.items():
        maps = torch.from_numpy(score_maps(heads[setting["head"]][0], features)[:, 0])
        boxes = boxes_of(maps, setting["temperature"], setting["threshold"], size=FINE)
        assert localised(boxes, pairs.boxes).all()
        tried = [line for line in lines if line["method"] == way]
        assert max(line["seed 0"] for line in tried) == 100
    assert (outcomes(np.tile([0.0, 0, 1, 1], (20, 1)), pairs) == "too large").all()
    assert (outcomes(np.tile([1 / 7, 2 / 7, 2 / 7, 4 / 7], (20, 1)), pairs) == "too small").all()
    assert (outcomes(np.tile([0.8, 0.8, 1, 1], (20, 1)), pairs) == "elsewhere").all()


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")  # no object of some sizes
def test_the_whole_record_on_a_toy(tmp_path, monkeypatch):
    features, pairs = toy(1)
    objects = Objects(pairs.image, pairs.label, pairs.boxes[:, 0], np.zeros(20, bool), 20)

    heads = {AverageConfig: AveragePooling, CSRAConfig: CSRA}

    def trained(recipes, _):
        made = [TrainedHead(r, heads[type(r.head)](1, 1, normalize=False), pd.DataFrame(), None) for r in recipes]
        for t in made:
            torch.nn.init.constant_(t.head.weight, 5.0 + t.recipe.run.seed)
        return made

    splits = ("trainval", *SPLITS)
    monkeypatch.setattr(
        attention_record,
        "source_features",
        lambda *_, **__: (dict.fromkeys(splits), dict.fromkeys(splits, features)),
    )
    monkeypatch.setattr(attention_record, "train_heads", trained)
    monkeypatch.setattr(attention_record, "objects_of", lambda _: objects)
    monkeypatch.setattr(attention_record, "describe", lambda _: {"name": "toy"})
    record_attention(tmp_path / "out", resamples=20)
    table = pd.read_csv(tmp_path / "out/results.csv").set_index(["split", "measure", "setting", "method", "bin"])
    assert table.loc[("test", "pointing", "exact", "CSRA", "all"), "seed 4"] == 100
    assert table.loc[("test", "mAP", "IoU 0.5", "CAM of CSRA", "all"), "seed 0"] == 100
    assert math.isclose(table.loc[("test", "mass", "T = inf", "CSRA", "all"), "seed 0"], 100)
    again = read_objects(tmp_path / "out", "test")
    assert replace(again, corners=objects.corners).num_images == 20
    np.testing.assert_allclose(again.corners, objects.corners, atol=1e-3)
