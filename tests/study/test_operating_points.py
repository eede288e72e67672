"""Operating points: the metrics of a draw are those of the metric itself, and a record is what was measured."""

import numpy as np
import pandas as pd
import pytest
import torch

from csra_lab.datasets import MultiLabelDataset
from csra_lab.metrics import multilabel_metrics
from csra_lab.study import operating_points as study
from csra_lab.study import plans
from csra_lab.study.calibration import calibration_error
from csra_lab.study.operating_points import CALIBRATION, CSRA, HALF, LINES, MEASURED, PER_CLASS
from csra_lab.training.feature_cache import FeatureMaps


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    targets = rng.choice([-1, 0, 1], p=[0.1, 0.6, 0.3], size=(60, 4)).astype(np.int8)
    scores = np.clip(0.3 * (targets == 1) + 0.7 * rng.random((60, 4)), 0, 1)
    return scores, targets, rng.integers(0, 3, size=(7, 60))


def test_the_metrics_of_a_draw_are_those_of_its_images(case):
    scores, targets, weights = case
    drawn = np.stack(study.drawn_metrics(scores >= 0.5, targets, weights))  # (6, R)
    errors = study.drawn_calibration(scores, targets, weights)
    for r, times in enumerate(weights):
        rows = np.repeat(np.arange(60), times)
        expected = multilabel_metrics(scores[rows], targets[rows]).to_dict()
        np.testing.assert_allclose(drawn[:, r], [expected[key] for key in MEASURED[:-1]], atol=1e-12)
        assert errors[r] == pytest.approx(calibration_error(scores[rows], targets[rows]), abs=1e-12)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    rng = np.random.default_rng(1)
    targets = (rng.random((160, 3)) < 0.4).astype(np.int8)
    maps = rng.normal(size=(160, 1, 8, 3, 3))
    for c in range(3):
        maps[targets[:, c] == 1, 0, c, 1, 1] += 3
    features = FeatureMaps(torch.from_numpy(maps.astype(np.float16)), targets)
    dataset = MultiLabelDataset(
        name="tiny", split="test", classes=("a", "b", "c"), ids=[str(i) for i in range(160)],
        paths=[f"{i}.jpg" for i in range(160)], targets=targets,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        sets = dict.fromkeys(("trainval", "test"), dataset), dict.fromkeys(("trainval", "test"), features)
        patch.setattr(study, "source_features", lambda *_, **__: sets)
        patch.setattr(plans, "BASE", plans.BASE.replace(epochs=3, warmup_epochs=0.0, head_lr=0.03))
        return study.record_operating_points("photographs", tmp_path_factory.mktemp("points"), seeds=2, resamples=40)


def test_differences_are_those_of_the_results(record):
    means = pd.read_csv(record / "results.csv").groupby(["method", "thresholds"])[list(MEASURED)].mean()
    table = pd.read_csv(record / "compared.csv")
    for row in table.itertuples():
        expected = means.loc[(row.method, row.thresholds), row.metric]
        expected -= means.loc[(row.against, row.against_thresholds), row.metric]
        assert row.difference == pytest.approx(expected, abs=2e-6)
        assert row.lower < row.difference < row.upper
    assert table.comparisons.eq(len(table)).all()
    assert {LINES, CSRA} <= set(table.method)
    assert set(table.metric) == {"CF1", "OF1", "OP", "OR", CALIBRATION}


def test_a_threshold_does_not_move_the_calibration(record):
    results = pd.read_csv(record / "results.csv").set_index(["method", "seed", "thresholds"])[CALIBRATION]
    np.testing.assert_array_equal(results.xs(HALF, level=2), results.xs(PER_CLASS, level=2))
