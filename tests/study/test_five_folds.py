"""Five folds: every image is tested once, by heads that never saw it, and the record says what its draws give."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from csra_lab import recorded
from csra_lab.datasets import MultiLabelDataset
from csra_lab.datasets.splits import NUM_FOLDS, fold_of
from csra_lab.study import five_folds, own_best, plans
from csra_lab.study.five_folds import MEANS, ROWS, UNIT, claims_of, run_five_folds
from csra_lab.training.feature_cache import FeatureMaps

CLASSES = ("a", "b", "c")


def _part(split: str, count: int, seed: int) -> tuple[MultiLabelDataset, FeatureMaps]:
    """A class is one bright cell of its own channel."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((count, 3)) < 0.3).astype(np.int8)
    maps = rng.normal(size=(count, 2, 8, 3, 3))
    for c in range(3):
        maps[targets[:, c] == 1, :, c, 1, 1] += 1.5
    dataset = MultiLabelDataset(
        name="tiny", split=split, classes=CLASSES, ids=[f"{split}-{i}" for i in range(count)],
        paths=[f"{split}-{i}.jpg" for i in range(count)], targets=targets,
    )  # fmt: skip
    return dataset, FeatureMaps(torch.from_numpy(maps.astype(np.float16)), targets)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The record's folder, and the (fold, trained-on rows, tested rows) of every training."""
    (first, a), (second, b) = _part("one", 120, 0), _part("two", 80, 1)
    features = FeatureMaps(torch.cat([a.maps, b.maps]), np.concatenate([a.targets, b.targets]))
    seen = []
    real = five_folds._scores

    def recorded(recipes, seed, maps, train, test):
        seen.append((seed, train, test))
        return real(recipes, seed, maps, train, test)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(five_folds, "pool", lambda data: ([first, second], features))
        patch.setattr(five_folds, "_scores", recorded)
        patch.setattr(five_folds, "RESAMPLES", 50)
        patch.setattr(own_best, "LADDER", (1e-3, 3e-3, 1e-2))
        patch.setattr(plans, "BASE", plans.BASE.replace(epochs=3, warmup_epochs=0.0))
        folder = run_five_folds(tmp_path_factory.mktemp("folds"), seeds=2, log=lambda _: None)
        trainings = len(seen)
        assert run_five_folds(folder.parent, seeds=2, log=lambda _: None) == folder
        assert len(seen) == trainings  # it is finished
    return folder, seen, [*first.ids, *second.ids]


def test_every_image_is_tested_once_a_seed_and_never_trained_on(study):
    _, seen, ids = study
    for seed in range(2):
        tested = np.concatenate([test for s, _, test in seen if s == seed])
        assert sorted(tested) == list(range(len(ids)))
    for _, train, test in seen:
        assert not set(train) & set(test)
        assert len({fold_of(ids[i]) for i in test}) == 1


def test_held_out_images_are_a_fifth_of_the_training_images():
    sets = [_part("one", 120, 0)[0], _part("two", 80, 1)[0]]
    train = np.arange(20, 180)
    fit, held_out = five_folds._hold_out(sets, train)
    assert sorted([*fit, *held_out]) == list(train)
    assert len(held_out) == pytest.approx(len(train) / 5, abs=1)


def test_claims_are_those_of_the_draws_and_differences_of_the_results(study):
    folder, _, ids = study
    with np.load(folder / "draws.npz") as content:
        draws = dict(content)
    again = claims_of(draws, len(ids))
    found = pd.read_csv(folder / "claims.csv")
    np.testing.assert_allclose(
        found[["difference", "lower", "upper"]], again[["difference", "lower", "upper"]], atol=1e-6
    )
    results = pd.read_csv(folder / "results.csv")
    together = results[results.fold == "all"].groupby("method")[["mAP", "mAP_by_positives"]].mean()
    for mean_over, column in zip(MEANS, ("mAP", "mAP_by_positives"), strict=True):
        for row in found[found.mean_over == mean_over].itertuples():
            a, _, b = row.name.partition(" - ")
            assert row.difference == pytest.approx(together[column][a] - together[column][b], abs=2 / UNIT)
    assert (found.claims == 6).all()


def test_every_fold_and_method_is_in_the_results(study):
    folder, _, ids = study
    results = pd.read_csv(folder / "results.csv")
    assert results.groupby("method").size().to_dict() == dict.fromkeys(ROWS, 2 * (NUM_FOLDS + 1))
    assert json.loads((folder / "run.json").read_text())["images"] == len(ids)
    classes = pd.read_csv(folder / "classes.csv")
    assert list(classes["class"]) == list(CLASSES)
    assert not (folder.parent / "five-folds.part").exists()


def test_the_record_that_ships_is_what_its_draws_give():
    folder = recorded("runs") / "five-folds"
    about = json.loads((folder / "run.json").read_text())
    with np.load(folder / "draws.npz") as content:
        again = claims_of(dict(content), about["images"])
    found = pd.read_csv(folder / "claims.csv")
    ends = ["difference", "lower", "upper"]
    np.testing.assert_allclose(found[ends], again[ends], atol=1e-6)
    assert about["images"] == sum(part["images"] for part in about["data"].values()) == 3014
    tuning = pd.read_csv(folder / "tuning.csv")
    for _, tried in tuning.groupby(["fold", "method"]):
        best = tried.set_index("head_lr").held_out_mAP.idxmax()
        assert tried.head_lr.min() < best < tried.head_lr.max()  # not at an edge
