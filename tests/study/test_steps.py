"""Steps of a study that was stopped: gone on with by the same study on the same data, and by no other."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from csra_lab.datasets import MultiLabelDataset
from csra_lab.errors import DataError
from csra_lab.study import backbone_gains, five_folds, own_best, relatives
from csra_lab.study.own_best import METHODS
from csra_lab.study.steps import Steps, is_recorded
from csra_lab.training.feature_cache import FeatureMaps

PLAN = {"data": {"test": "abc"}, "methods": {"a": 1, "b": 2}}


def silent(line: str) -> None:
    """Of what a study logs, nothing is looked at here."""


def test_the_same_plan_goes_on(tmp_path):
    for value in (1, 2):
        steps = Steps(tmp_path / "x.part", PLAN, silent)
        table = steps.table("step", lambda value=value: pd.DataFrame({"value": [value]}))
        assert table.value.tolist() == [1]
    (tmp_path / "x").mkdir()
    steps.finish(tmp_path / "x", PLAN)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_finished_plan_is_not_done_again_and_another_is_refused(tmp_path):
    said = []
    assert not is_recorded(tmp_path / "x", PLAN, said.append)
    (tmp_path / "x").mkdir()  # a record of before, without its plan
    assert not is_recorded(tmp_path / "x", PLAN, said.append)
    Steps(tmp_path / "x.part", PLAN, silent).finish(tmp_path / "x", PLAN | {"seeds": 5})
    assert is_recorded(tmp_path / "x", PLAN | {"seeds": 5}, said.append)
    assert len(said) == 1
    assert "x is finished" in said[0]
    with pytest.raises(DataError, match="x was begun with other seeds; remove that folder, or give another --out"):
        is_recorded(tmp_path / "x", PLAN | {"seeds": 3}, said.append)


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (PLAN | {"data": {"test": "other"}}, "was begun with other data; remove that folder, or give another --out"),
        (PLAN | {"methods": {"b": 2, "a": 1}}, "was begun with other methods"),  # rows are in that order
        (PLAN | {"resamples": 3}, "was begun with other resamples"),
        ({"a": 1, "b": 2}, "was begun by an earlier version, which did not record data"),
    ],
)
def test_another_plan_is_refused(tmp_path, there, says):
    Steps(tmp_path / "x.part", there, silent)
    with pytest.raises(DataError, match=says) as error:
        Steps(tmp_path / "x.part", PLAN, silent)
    assert "x.part" in str(error.value)


@pytest.mark.parametrize("text", ["", "7", "\udcff"])
def test_a_file_that_is_no_plan_is_one_sentence(tmp_path, text):
    (tmp_path / "plan.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match="is not the plan of a study; remove"):
        Steps(tmp_path, PLAN, silent)


def images(name: str) -> tuple[MultiLabelDataset, FeatureMaps]:
    targets = np.tile(np.eye(3, dtype=np.int8), (10, 1))  # (30, 3)
    ids = [f"{name}-{i}" for i in range(30)]
    dataset = MultiLabelDataset(
        name="tiny", split="test", classes=tuple("abc"), ids=ids, paths=map(Path, ids), targets=targets
    )
    return dataset, FeatureMaps(torch.zeros(30, 1, 4, 2, 2).half(), targets)


def source_features(*_, data=None, **__):
    return tuple(dict.fromkeys(("trainval", "test"), part) for part in images(data))


def own(out, name, **changes):
    return own_best.run_own_best("photographs", out, data=name, log=silent, **changes)


RUNS = {
    own_best: own,
    relatives: lambda out, name: relatives.run_relatives("photographs", out, data=Path(name), log=silent),
    five_folds: lambda out, name: five_folds.run_five_folds(out, data=name, log=silent),
    backbone_gains: lambda out, name: backbone_gains.run_backbone_gains("photographs", out, data=name, log=silent),
}


class Stopped(Exception):
    """A study at its first step."""


def stop(*_, **__):
    raise Stopped


@pytest.fixture
def stopped(monkeypatch):
    """Every study is stopped at its first step; its images are those of a name."""
    for module in RUNS:
        monkeypatch.setattr(module, "tune", stop)
    for module in (own_best, relatives, backbone_gains):
        monkeypatch.setattr(module, "source_features", lambda source, data, **_: source_features(data=str(data)))

    def pool(data):
        dataset, maps = images(data)
        return [dataset, images(f"{data}, more")[0]], FeatureMaps(maps.maps.tile(2, 1, 1, 1, 1), maps.targets)

    monkeypatch.setattr(five_folds, "pool", pool)


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("module", RUNS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_no_study_goes_on_with_other_images(module, tmp_path):
    for _ in range(2):  # with the same images it goes on
        with pytest.raises(Stopped):
            RUNS[module](tmp_path, "one")
    with pytest.raises(DataError, match=r"\.part was begun with other data"):
        RUNS[module](tmp_path, "two")


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"resamples": 6}, "other resamples"),
        ({"methods": {name: dataclasses.replace(m, headline=True) for name, m in METHODS.items()}}, "other methods"),
        ({"methods": {name: dataclasses.replace(m, start=1e-4) for name, m in METHODS.items()}}, "other methods"),
    ],
)
def test_own_best_does_not_go_on_with_other_settings(tmp_path, change, says):
    """The steps of its samples hold all methods below `resamples`, and those of the headline from there on."""
    with pytest.raises(Stopped):
        own(tmp_path, "one")
    with pytest.raises(DataError, match=says):
        own(tmp_path, "one", **change)


@pytest.mark.usefixtures("stopped")
def test_a_network_does_not_go_on_from_other_weights(tmp_path):
    def run(weights):
        backbone_gains.run_backbone_gains("photographs", tmp_path, data="one", weights=weights, log=silent)

    for folder in (tmp_path / "a", tmp_path / "b"):  # the folder may have moved
        folder.mkdir()
        for network in backbone_gains.NETWORKS.values():
            (folder / network.weights).touch()
        with pytest.raises(Stopped):
            run(folder)
    with pytest.raises(DataError, match="other weights"):
        run(None)
