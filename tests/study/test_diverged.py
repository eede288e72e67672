"""No study scores a head that diverged, and none saves its NaN as a step that is done."""

import dataclasses
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from csra_lab.claims import Claim
from csra_lab.datasets import MultiLabelDataset
from csra_lab.errors import CsraError
from csra_lab.study import (
    attention_study,
    backbone_gains,
    five_folds,
    multiplicity,
    operating_points,
    own_best,
    plans,
    real_boxes,
    relatives,
)
from csra_lab.study.head_stack import TrainedHead, learnt, train_heads
from csra_lab.study.own_best import AVERAGE, CSRA
from csra_lab.training.feature_cache import FeatureMaps

RECIPES = {name: own_best._recipe("photographs", name, own_best.METHODS[name]) for name in (AVERAGE, CSRA)}
STUDY = SimpleNamespace(
    own=RECIPES, train=FeatureMaps(torch.zeros(5, 1, 2, 2, 2).half(), np.zeros((5, 1), np.int8)), fit=None,
    groups={"trainval": None},
)  # fmt: skip
MAPS = defaultdict(lambda: STUDY.train)
TRAINED = {  # every place where a study trains what it then scores
    "own best, scores": lambda out: own_best._trained_scores(RECIPES, 1, STUDY.train, None, STUDY.train),
    "own best, curves": lambda out: own_best._curves(RECIPES, 1, STUDY.train, None, None),
    "relatives, scores": lambda out: relatives.Study._run(STUDY, [AVERAGE, CSRA], "seed", 1),
    "relatives, calibration": lambda out: relatives.Study._calibrate(STUDY, [AVERAGE]),
    "networks, lambdas": lambda out: backbone_gains._tune(RECIPES, MAPS, None, None, print),
    "networks, scores": lambda out: backbone_gains._scores(RECIPES, 0.2, MAPS, "test", None, "seed", 1),
    "five folds": lambda out: five_folds._scores(list(RECIPES.values()), 1, STUDY.train, None, None),
    "multiplicity": lambda out: multiplicity.record_multiplicity(out, defaultdict(lambda: 0.1)),
    "operating points": lambda out: operating_points.record_operating_points("photographs", out),
    "attention": attention_study.record_attention,
    "real boxes": real_boxes.record_real_boxes,
}


@pytest.mark.parametrize("train", TRAINED.values(), ids=TRAINED)
def test_what_diverged_is_not_scored(tmp_path, monkeypatch, train):
    def diverge(recipes, *_, **__):
        return [TrainedHead(recipe, None, pd.DataFrame(), 2) for recipe in recipes]

    for module in (
        own_best, relatives, backbone_gains, five_folds, multiplicity, operating_points, attention_study, real_boxes
    ):  # fmt: skip
        monkeypatch.setattr(module, "train_heads", diverge)
        monkeypatch.setattr(
            module, "source_features", lambda *_, **__: (defaultdict(lambda: None), MAPS), raising=False
        )
        monkeypatch.setattr(module, "hold_out", lambda *_: (None, None), raising=False)
    monkeypatch.setattr(backbone_gains, "tune", lambda *_, **__: {name: {0.1: 0.5} for name in RECIPES})
    with pytest.raises(CsraError, match=r"diverged in epoch 2 with seed \d and head_lr .* give it a lower rate"):
        train(tmp_path / "record")
    assert not list(tmp_path.iterdir())


def test_a_seed_that_diverges_is_no_step_of_a_tuned_study(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 3)) < 0.4).astype(np.int8)
    features = FeatureMaps(torch.from_numpy(rng.random((60, 1, 8, 3, 3)).astype(np.float16)), targets)
    names = [str(i) for i in range(60)]
    dataset = MultiLabelDataset(
        name="tiny", split="test", classes=("a", "b", "c"), ids=names, paths=names, targets=targets
    )
    both = tuple(dict.fromkeys(("trainval", "test"), each) for each in (dataset, features))

    def spoil(recipes, *rest, **options):
        trained = train_heads(recipes, *rest, **options)
        return [dataclasses.replace(t, diverged=1) if t.recipe.run.seed == 1 else t for t in trained]

    monkeypatch.setattr(own_best, "source_features", lambda *_, **__: both)
    monkeypatch.setattr(own_best, "train_heads", spoil)
    monkeypatch.setattr(own_best, "LADDER", (1e-3, 3e-3, 1e-2))
    monkeypatch.setattr(plans, "BASE", plans.BASE.replace(epochs=1, warmup_epochs=0.0))
    methods = {name: dataclasses.replace(own_best.METHODS[name], curve=False) for name in (AVERAGE, CSRA)}
    options = {"methods": methods, "claims": [Claim.difference(CSRA, AVERAGE)], "seeds": 2, "resamples": 2}
    for _ in range(2):
        with pytest.raises(CsraError, match=r"^average pooling diverged in epoch 1 with seed 1 and head_lr "):
            own_best.run_own_best("photographs", tmp_path, log=lambda _: None, **options)
        steps = {path.name for path in (tmp_path / "photographs.part").iterdir()}
        assert steps == {"plan.json", "tuning.csv", "seed-0.npy"}


def test_heads_that_learnt_are_passed_on():
    trained = [TrainedHead(recipe, None, pd.DataFrame(), None) for recipe in RECIPES.values()]
    assert learnt(trained) == trained
