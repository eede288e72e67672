"""The recorded runs that ship: every metric and verdict comes from the recorded scores, and all together stay small."""

import json
from pathlib import Path

import pandas as pd
import pytest

from csra_lab.metrics import multilabel_metrics
from csra_lab.significance import compare
from csra_lab.study.experiments import METRICS, read_scores
from csra_lab.study.plans import PLANS
from csra_lab.training.run_folder import read_evaluation, read_recipe

RUNS = Path(__file__).resolve().parents[1] / "data" / "runs"
RECORDS = sorted(path.parent for path in RUNS.glob("*/*/run.json") if path.parts[-3] in PLANS)
WITH_SCORES = [folder for folder in RECORDS if (folder / "scores.npz").exists()]
TRAINED = sorted(path.parent for path in RUNS.glob("*/*/recipe.json"))
SCORED = sorted(path.parent for path in RUNS.glob("*/*/**/metrics.json"))  # with what was scored once more


def name(folder):
    return "/".join(folder.parts[-2:])


def test_records_are_small():
    files = [path for path in RUNS.rglob("*") if path.is_file()]
    assert files
    assert sum(path.stat().st_size for path in files) < 6.1e6  # of the 16 MB that all of the repository may have


@pytest.mark.parametrize("folder", RECORDS, ids=name)
def test_a_record_is_whole(folder):
    run = json.loads((folder / "run.json").read_text())
    plan = run["plan"]
    labels = [entry["label"] for entry in plan["entries"]]
    results = pd.read_csv(folder / "results.csv")
    assert set(labels) <= set(results.label)
    assert set(results.split) == set(run["source"]["splits"])
    runs = results.groupby(["label", "split"]).seed.nunique()
    assert (runs == plan["seeds"]).all()
    measured = results.dropna(subset="mAP")
    assert measured[list(METRICS)].to_numpy().min() >= 0
    assert measured[list(METRICS)].to_numpy().max() <= 1
    assert (measured.mAP.isna() == measured.diverged.notna()).all()
    comparisons = pd.read_csv(folder / "comparisons.csv")
    means = measured.groupby(["label", "split"]).mAP.mean()
    for line in comparisons.itertuples():
        difference = means[line.label, line.split] - means[line.against, line.split]
        assert line.difference == pytest.approx(difference, abs=2e-6)
        assert line.lower < line.difference < line.upper
        assert ("not distinguishable" in line.verdict) == (line.lower <= 0 <= line.upper)


@pytest.mark.parametrize("folder", RECORDS, ids=name)
def test_a_record_is_of_the_plan_as_it_is(folder):
    plan = PLANS[folder.parent.name]
    recorded = json.loads((folder / "run.json").read_text())
    assert [e["label"] for e in recorded["plan"]["entries"]] == [e.label for e in plan.entries]
    recipe = plan.recipe(plan.entries[0], 0, folder.name)
    now = recipe.to_json()
    for part, fields in {
        "data": ("dataset",),
        "model": ("backbone", "image_size"),
        "head": ("kind", "normalize", "lam"),
        "optimisation": ("epochs", "batch_size", "optimizer", "head_lr"),
    }.items():
        for field in fields:
            said = f"{folder} was run with another {field}"
            assert recorded["recipe"][part].get(field) == now[part].get(field), said


@pytest.mark.parametrize("folder", WITH_SCORES, ids=name)
def test_every_metric_comes_from_the_recorded_scores(folder):
    scores, truth = read_scores(folder)
    results = pd.read_csv(folder / "results.csv").set_index(["label", "split", "seed"])
    for (label, split), runs in scores.items():
        targets = truth["targets", split]
        assert len(truth["ids", split]) == len(targets) == runs.shape[1]
        for seed, each in enumerate(runs):
            metrics = multilabel_metrics(each, targets)
            found = [getattr(metrics, metric) for metric in METRICS]
            assert results.loc[(label, split, seed), list(METRICS)].tolist() == pytest.approx(found, abs=2e-6)


@pytest.mark.parametrize("folder", WITH_SCORES, ids=name)
def test_verdicts_come_from_the_recorded_scores(folder):
    scores, truth = read_scores(folder)
    comparisons = pd.read_csv(folder / "comparisons.csv")
    for line in comparisons.itertuples():
        pair = (line.against, line.split), (line.label, line.split)
        if all(key in scores for key in pair):
            a, b = (scores[key] for key in pair)
            groups = truth.get(("photographs", line.split))
            again = compare(a, b, truth["targets", line.split], groups=groups, comparisons=line.comparisons)
            assert (again.lower, again.upper) == pytest.approx((line.lower, line.upper), abs=2e-6)
            assert again.verdict(line.label, line.against) == line.verdict


@pytest.mark.parametrize("folder", SCORED, ids=name)
def test_a_trained_run_is_what_its_scores_say(folder):
    run = read_evaluation(folder)
    metrics = multilabel_metrics(run.scores, run.targets)
    recorded = json.loads((folder / "metrics.json").read_text())
    for metric in METRICS:
        assert recorded[metric] == pytest.approx(getattr(metrics, metric), abs=2e-3)  # scores were rounded to fp16


@pytest.mark.parametrize("folder", TRAINED, ids=name)
def test_a_trained_run_says_how_it_was_made(folder):
    assert {"recipe", "environment"} <= set(json.loads((folder / "recipe.json").read_text()))
    recipe = read_recipe(folder)
    assert len(pd.read_csv(folder / "history.csv")) == recipe.optimisation.epochs
    assert folder in SCORED
    assert not (folder / "model").exists()
