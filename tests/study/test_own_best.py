"""Own best rates: no optimum at an edge, the same samples everywhere, and a record that its scores give again."""

import dataclasses
import inspect

import numpy as np
import pandas as pd
import pytest
import torch

from csra_lab import recorded
from csra_lab.claims import Claim
from csra_lab.datasets import MultiLabelDataset
from csra_lab.errors import CsraError, DataError
from csra_lab.study import own_best, plans
from csra_lab.study.own_best import AVERAGE, CSRA, LADDER, METHODS, bootstrap, measured_claims, read_own_best, tune
from csra_lab.training.feature_cache import FeatureMaps

RECIPES = {name: own_best._recipe("photographs", name, METHODS[name]) for name in (AVERAGE, CSRA)}


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    targets = (rng.random((120, 3)) < 0.3).astype(np.int8)
    maps = rng.normal(size=(120, 1, 8, 3, 3)).astype(np.float16)
    for c in range(3):
        maps[targets[:, c] == 1, 0, c, 1, 1] += 2
    return FeatureMaps(torch.from_numpy(maps), targets)


def _quick(recipe):
    return recipe.replace(epochs=2, warmup_epochs=0.0)


def test_no_best_rate_is_at_an_edge(features):
    recipes = {name: _quick(recipe) for name, recipe in RECIPES.items()}
    starts = {AVERAGE: LADDER[1], CSRA: LADDER[-2]}  # both start far from where they learn
    tried = tune(recipes, starts, features, np.arange(90), np.arange(90, 120), log=lambda _: None)
    for rates in tried.values():
        best = max(rates, key=rates.get)
        i = LADDER.index(best)
        assert all(LADDER[j] in rates for j in (i - 1, i + 1) if 0 <= j < len(LADDER))


def test_a_sample_of_the_training_images_is_drawn_with_replacement():
    sample = bootstrap(1000, 3)
    assert len(sample) == 1000
    assert 600 < len(np.unique(sample)) < 660  # 1 - 1/e of them
    np.testing.assert_array_equal(sample, bootstrap(1000, 3))
    assert (sample != bootstrap(1000, 4)).any()


def test_images_of_one_photograph_are_drawn_together():
    groups = np.array([4, 4, 7, 7, 7, 9])
    for number in range(20):
        times = np.bincount(bootstrap(6, number, groups=groups), minlength=6)
        assert times[0] == times[1]
        assert times[2] == times[3] == times[4]
        assert times[0] + times[2] + times[5] == 3
    alone = bootstrap(6, 0, groups=np.arange(6))
    np.testing.assert_array_equal(alone, bootstrap(6, 0))


def test_every_claim_is_about_methods_that_there_are():
    named = {label for claim in own_best.CLAIMS for label, _ in claim.terms}
    assert named == set(METHODS)
    for claim in own_best.CLAIMS:
        assert sum(weight for _, weight in claim.terms) == 0


@pytest.fixture(scope="module")
def record(features, tmp_path_factory):
    """A small run on features that are already there."""
    methods = {name: dataclasses.replace(METHODS[name]) for name in RECIPES}
    dataset = MultiLabelDataset(
        name="tiny", split="test", classes=("a", "b", "c"), ids=[str(i) for i in range(120)],
        paths=[f"{i}.jpg" for i in range(120)], targets=features.targets,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("own-best")
    with pytest.MonkeyPatch.context() as patch:
        sets, maps = (dict.fromkeys(("trainval", "test"), x) for x in (dataset, features))
        patch.setattr(own_best, "source_features", lambda *_, **__: (sets, maps))
        patch.setattr(own_best, "LADDER", (1e-3, 3e-3, 1e-2))
        patch.setattr(own_best, "MORE_RESAMPLES", 2)
        patch.setattr(plans, "BASE", plans.BASE.replace(epochs=1, warmup_epochs=0.0))
        claims = [Claim.difference(CSRA, AVERAGE)]
        options = {"methods": methods, "claims": claims, "seeds": 2, "resamples": 3}

        def stop(line: str):
            if "resample-1" in line:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):  # the second call goes on where the first was stopped
            own_best.run_own_best("photographs", folder, log=stop, **options)
        done = {file.name: file.stat().st_mtime_ns for file in (folder / "photographs.part").iterdir()}
        steps = []

        def look(line: str):
            steps.append(line)
            for name, written in done.items():
                assert name == "plan.json" or (folder / "photographs.part" / name).stat().st_mtime_ns == written

        record = own_best.run_own_best("photographs", folder, log=look, **options)
        assert steps == [f"photographs: resample-{k}" for k in (2, 3, 4)]
        assert [path.name for path in folder.iterdir()] == ["photographs"]
        steps.clear()
        assert own_best.run_own_best("photographs", folder, log=steps.append, **options) == record
        assert [line.partition(";")[0] for line in steps] == [f"{record} is finished"]
        with pytest.raises(DataError, match="photographs was begun with other seeds"):
            own_best.run_own_best("photographs", folder, log=steps.append, **options | {"seeds": 3})
        return record, claims


def test_the_scores_of_a_record_give_its_tables_again(record):
    folder, claims = record
    scores, targets, classes = read_own_best(folder)
    assert {name: s.shape for name, s in scores.items()} == dict.fromkeys(RECIPES, (2, 120, 3))
    results = pd.read_csv(folder / "results.csv")
    assert results.groupby(["method", "kind"]).size().to_dict() == {
        (name, kind): n for name in RECIPES for kind, n in (("seed", 2), ("resample", 5))
    }
    found, kept = measured_claims(scores, results, targets, claims), pd.read_csv(folder / "claims.csv")
    pd.testing.assert_frame_equal(found, kept, check_exact=False, atol=1e-6)
    assert kept.mean_over.tolist() == ["classes", "positives"]
    assert kept.claims.eq(2).all()
    assert kept.covers.eq("for other test images, training images and seeds").all()
    frame = pd.read_csv(folder / "classes.csv")
    assert frame["class"].tolist() == classes
    assert frame.positives.tolist() == (targets == 1).sum(axis=0).tolist()


@pytest.mark.parametrize("source", ["photographs", "coco", "emoji", "paperdoll"])
def test_a_record_is_what_its_scores_give(source):
    folder = recorded("runs") / "own-best" / source
    scores, targets, _ = read_own_best(folder)
    kept = pd.read_csv(folder / "claims.csv")
    kept = kept[kept["name"] == f"{CSRA} - {AVERAGE}"].reset_index(drop=True)
    results = pd.read_csv(folder / "results.csv")
    found = measured_claims(
        scores, results, targets, [Claim.difference(CSRA, AVERAGE)], resamples=60
    )  # of 1,000: quick
    for column in ("difference", "run_error"):  # no draw of the test images moves these
        np.testing.assert_allclose(found[column], kept[column], atol=1e-6)
    np.testing.assert_allclose(found.image_error, kept.image_error, rtol=0.4)
    for tried in (frame for _, frame in pd.read_csv(folder / "tuning.csv").groupby("method")):
        best = tried.held_out_mAP.idxmax()
        assert tried.head_lr.min() < tried.head_lr[best] < tried.head_lr.max()  # not at an edge


def test_the_command_line_runs_it_beside_plans(monkeypatch, tmp_path, capsys):
    from csra_lab.cli.experiments import run_ablate

    called = []

    def stand_in(source, out, *, data, seeds, log):
        called.append((source, out, data, seeds))
        return out / source

    monkeypatch.setattr(own_best, "run_own_best", stand_in)
    run_ablate(["own-best", "--sources", "emoji", "--seeds", "3", "--out", str(tmp_path)])
    assert called == [("emoji", tmp_path / "own-best", None, 3)]
    assert str(tmp_path / "own-best" / "emoji") in capsys.readouterr().out
    with pytest.raises(CsraError, match="at least 2 seeds"):
        run_ablate(["own-best", "--seeds", "1"])
    called.clear()
    with pytest.raises(CsraError, match="five-folds runs on photographs, not on emoji"):
        run_ablate(["own-best", "five-folds", "--sources", "emoji"])
    assert called == []  # nothing is begun that the next study would refuse


def test_every_study_is_listed_and_called_with_what_it_takes(monkeypatch, tmp_path, capsys):
    from csra_lab.cli.experiments import run_ablate
    from csra_lab.cli.studies import STUDIES
    from csra_lab.study import backbone_gains, five_folds, relatives, schedules

    called = []
    for module, name in (
        (own_best, "run_own_best"), (five_folds, "run_five_folds"), (backbone_gains, "run_backbone_gains"),
        (relatives, "run_relatives"), (schedules, "run_schedules"),
    ):  # fmt: skip
        signature = inspect.signature(getattr(module, name))

        def stand_in(*args, _signature=signature, **kwargs):
            called.append(_signature.bind(*args, **kwargs).arguments)
            return tmp_path

        monkeypatch.setattr(module, name, stand_in)
    run_ablate([*STUDIES, "--sources", "photographs", "--data", str(tmp_path), "--seeds", "2", "--quiet"])
    assert [tmp_path in a.values() for a in called] == [True] * len(STUDIES)
    called.clear()
    with pytest.raises(CsraError, match="--weights is read by networks and crossed alone"):
        run_ablate(["own-best", "--weights", str(tmp_path)])
    assert called == []
    run_ablate(["networks", "--sources", "coco", "--weights", str(tmp_path / "weights"), "--quiet"])
    assert called[0]["weights"] == tmp_path / "weights"
    with pytest.raises(SystemExit):
        run_ablate(["--help"])
    shown = capsys.readouterr().out
    assert all(f"\n{name} " in shown for name in STUDIES)
