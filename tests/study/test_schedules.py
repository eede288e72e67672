"""Lengths of the schedule: every claim is about methods that there are, and the record holds what was trained."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from csra_lab import recorded
from csra_lab.datasets import MultiLabelDataset
from csra_lab.study import own_best, schedules
from csra_lab.study.own_best import AVERAGE, CSRA
from csra_lab.study.schedules import LENGTHS, USUAL, best_lengths, label, schedule_claims, schedule_methods
from csra_lab.training.feature_cache import FeatureMaps


def test_claims_are_about_the_methods_and_the_usual_length_is_among_them():
    methods, claims = schedule_methods(), schedule_claims()
    assert USUAL in LENGTHS
    assert {name for claim in claims for name, _ in claim.terms} == set(methods)
    assert all(sum(weight for _, weight in claim.terms) == 0 for claim in claims)
    assert len({claim.name for claim in claims}) == len(claims) == 4 + 2 * 3 + 3


def test_the_best_length_is_that_with_the_best_rate():
    rows = [
        (label(AVERAGE, 5), 1e-3, 0.5), (label(AVERAGE, 5), 3e-3, 0.6), (label(AVERAGE, 40), 1e-3, 0.55),
        (label(CSRA, 5), 1e-3, 0.5), (label(CSRA, 40), 1e-3, 0.4), (label(CSRA, 40), 3e-3, 0.7),
    ]  # fmt: skip
    tuning = pd.DataFrame(rows, columns=["method", "head_lr", "held_out_mAP"])
    assert best_lengths(tuning) == {AVERAGE: 5, CSRA: 40}


def test_each_method_is_trained_for_its_length(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 2)) < 0.4).astype(np.int8)
    features = FeatureMaps(torch.from_numpy(rng.normal(size=(60, 1, 4, 2, 2)).astype(np.float16)), targets)
    dataset = MultiLabelDataset(
        name="tiny", split="test", classes=("a", "b"), ids=[str(i) for i in range(60)],
        paths=[f"{i}.jpg" for i in range(60)], targets=targets,
    )  # fmt: skip
    sets, maps = (dict.fromkeys(("trainval", "test"), x) for x in (dataset, features))
    monkeypatch.setattr(own_best, "source_features", lambda *_, **__: (sets, maps))
    monkeypatch.setattr(own_best, "LADDER", (1e-3, 3e-3, 1e-2))
    trained = []
    train_heads = own_best.train_heads

    def noted(recipes, *rest, **options):
        trained.extend((type(recipe.head).__name__, recipe.optimisation.epochs) for recipe in recipes)
        return train_heads(recipes, *rest, **options)

    monkeypatch.setattr(own_best, "train_heads", noted)
    folder = schedules.run_schedules(
        "photographs", tmp_path, lengths=(1, USUAL), seeds=2, resamples=2, log=lambda line: None
    )
    assert set(trained) == {(head, epochs) for head in ("AverageConfig", "CSRAConfig") for epochs in (1, USUAL)}
    about = json.loads((folder / "run.json").read_text())
    assert {name: recipe["optimisation"]["epochs"] for name, recipe in about["methods"].items()} == {
        label(name, epochs): epochs for name in (AVERAGE, CSRA) for epochs in (1, USUAL)
    }
    assert set(best_lengths(pd.read_csv(folder / "tuning.csv"))) == {AVERAGE, CSRA}
    claims = pd.read_csv(folder / "claims.csv")
    assert claims.claims.eq(2 * len(schedule_claims((1, USUAL)))).all()
    assert claims.covers.eq("for other test images, training images and seeds").all()
    assert not (folder / "curves.csv").exists()


def test_the_record_that_ships_says_what_its_results_give():
    folder = recorded("runs") / "schedules/photographs"
    results, found = pd.read_csv(folder / "results.csv"), pd.read_csv(folder / "claims.csv")
    about = json.loads((folder / "run.json").read_text())
    assert about["methods"].keys() == schedule_methods().keys()
    counts = results.groupby(["method", "kind"]).size().unstack()
    assert (counts["seed"] == about["seeds"]).all()
    assert (counts["resample"] == about["resamples"]).all()
    for mean_over, column in (("classes", "mAP"), ("positives", "mAP_by_positives")):
        means = results[results.kind == "seed"].groupby("method")[column].mean()
        rows = found[found.mean_over == mean_over].set_index("name")
        for claim in schedule_claims():
            expected = sum(weight * means[name] for name, weight in claim.terms)
            assert rows.difference[claim.name] == pytest.approx(expected, abs=2e-6)
    tuning = pd.read_csv(folder / "tuning.csv")
    for tried in (rows for _, rows in tuning.groupby("method")):
        best = tried.held_out_mAP.idxmax()
        assert tried.head_lr.min() < tried.head_lr[best] < tried.head_lr.max()  # not at an edge
