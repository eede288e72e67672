"""The comparison of heads: resumed where it stopped, every table from its scores, nothing done twice."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from csra_lab import recorded
from csra_lab.datasets import MultiLabelDataset
from csra_lab.heads import HEADS, create_head
from csra_lab.study import plans, relatives
from csra_lab.study.calibration import MAX_TEMPERATURE
from csra_lab.study.own_best import LADDER
from csra_lab.study.relatives import AVERAGE, CSRA, RELATIVES, run_relatives, step_time
from csra_lab.training.feature_cache import FeatureMaps

FEW = {
    name: dataclasses.replace(RELATIVES[name], shared=small)
    for name, small in ((AVERAGE, {}), (CSRA, {}), ("WILDCAT", {}), ("class queries", {"width": 8, "hidden": 8}))
}


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 3)) < 0.4).astype(np.int8)
    maps = rng.normal(size=(60, 1, 8, 3, 3)).astype(np.float16)
    for c in range(3):
        maps[targets[:, c] == 1, 0, c, 1, 1] += 3
    features = FeatureMaps(torch.from_numpy(maps), targets)
    dataset = MultiLabelDataset(
        name="tiny", split="test", classes=("a", "b", "c"), ids=[str(i) for i in range(60)],
        paths=[f"{i}.jpg" for i in range(60)], targets=targets,
    )  # fmt: skip
    return tuple(dict.fromkeys(("trainval", "test"), x) for x in (dataset, features))


@pytest.fixture(scope="module")
def record(source, tmp_path_factory):
    """A small run that is stopped in its middle and goes on, and what it said."""
    out, said = tmp_path_factory.mktemp("relatives"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relatives, "source_features", lambda *_, **__: source)
        patch.setattr(plans, "BASE", plans.BASE.replace(warmup_epochs=0.0))
        patch.setattr(relatives, "SOURCES", {"photographs": dataclasses.replace(relatives.SOURCES["emoji"])})
        patch.setattr("csra_lab.study.own_best.LADDER", (1e-3, 3e-3, 1e-2))
        run_relatives("photographs", out, relatives=FEW, runs=1, epochs=1, log=said.append)
        assert sorted(path.name for path in (out / "photographs").iterdir()) == ["run.json", "tuning.csv"]
        first = len(said)
        folder = run_relatives("photographs", out, relatives=FEW, runs=2, epochs=1, log=said.append)
        assert not any("tuning" in line or "-0-" in line for line in said[first:])  # nothing is done twice
        assert not (out / "photographs.part").exists()
        said.clear()
        assert run_relatives("photographs", out, relatives=FEW, runs=2, epochs=1, log=said.append) == folder
        assert [line.partition(";")[0] for line in said] == [f"{folder} is finished"]
        return folder


def test_every_head_of_the_lab_with_weights_of_its_kind_is_compared():
    compared = {relative.head for relative in RELATIVES.values()}
    assert compared | {"spatial"} == set(HEADS)  # spatial only is the residual of CSRA without the mean
    for relative in RELATIVES.values():
        assert len(relative.settings) == 2
        heads = [
            create_head(relative.head, 6, 4, **relative.shared, **options) for options in relative.settings.values()
        ]
        assert heads[0].config != heads[1].config


def test_names_of_settings_are_read_back_as_text():
    """A table would give "2" back as a number."""
    names = {name for relative in RELATIVES.values() for name in relative.settings}
    assert not [name for name in names if name.replace(".", "").isdigit()]


def test_the_best_setting_on_held_out_images_is_taken(record):
    tuning, about = pd.read_csv(record / "tuning.csv"), pd.read_json(record / "run.json", typ="series")
    assert set(tuning["head"]) == set(FEW)
    for name, tried in tuning.groupby("head"):
        best = tried.loc[tried.held_out_mAP.idxmax()]
        assert about.heads[name]["optimisation"]["head_lr"] == best.head_lr
        assert about.heads[name]["name"] == f"{name}, {best.setting}"
        assert tried.groupby("setting").size().min() >= 2  # a start at the end of this short ladder has one neighbour


def test_tables_tell_one_story(record):
    results, classes = (pd.read_csv(record / f"{name}.csv") for name in ("results", "classes"))
    claims, cost = (pd.read_csv(record / f"{name}.csv") for name in ("claims", "cost"))
    seeds = results[results.kind == "seed"].groupby("head").mean(numeric_only=True)
    np.testing.assert_allclose(classes[list(FEW)].mean(), seeds.mAP[list(FEW)], atol=1e-5)
    for mean_over, column in (("classes", "mAP"), ("positives", "mAP_by_positives")):
        rows = claims[claims.mean_over == mean_over].set_index("name").difference
        for name in set(FEW) - {CSRA}:
            assert rows[f"{name} - {CSRA}"] == pytest.approx(seeds[column][name] - seeds[column][CSRA], abs=1e-5)
    assert claims.claims.eq(2 * (len(FEW) - 1)).all()
    assert claims.covers.eq("for other test images, training images and seeds").all()
    average = cost.set_index("head").loc[AVERAGE]
    assert average.parameters == 3 * 1280  # of the backbone's features
    assert average.step_ms > 0


def test_four_lines_divided_by_one_plus_lam_rank_as_before_and_are_scaled_alike(record):
    table = pd.read_csv(record / "calibration.csv").set_index("head")
    assert set(FEW) < set(table.index)
    for lam in relatives.LAMBDAS:
        added, divided = table.loc[f"average + {lam:g} max"], table.loc[f"(average + {lam:g} max) / {1 + lam:g}"]
        largest = MAX_TEMPERATURE  # heads that have learnt nothing want all logits to be 0
        assert added.temperature == pytest.approx(min((1 + lam) * divided.temperature, largest), rel=0.01)
        assert added.log_loss_scaled == pytest.approx(divided.log_loss_scaled, abs=1e-2)


def test_a_larger_head_takes_longer():
    small, large = (step_time(create_head("average", 64, c), (16, 64, 7, 7)) for c in (1, 2000))
    assert 0 < small < large


@pytest.mark.parametrize("folder", sorted((recorded("runs") / "relatives").iterdir()), ids=lambda folder: folder.name)
def test_no_recorded_best_rate_is_at_an_edge(folder):
    about = pd.read_json(folder / "run.json", typ="series")
    for (name, setting), tried in pd.read_csv(folder / "tuning.csv").groupby(["head", "setting"]):
        assert setting in about.settings[name]
        best = tried.head_lr[tried.held_out_mAP.idxmax()]
        assert best in (LADDER[0], LADDER[-1]) or tried.head_lr.min() < best < tried.head_lr.max()
    assert (about.runs > 1) == (folder / "claims.csv").is_file()
