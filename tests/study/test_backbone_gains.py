"""Gains on several networks: a record that says what its scores give, and the claims that it is asked for."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from csra_lab import recorded
from csra_lab.datasets import MultiLabelDataset
from csra_lab.errors import MissingFile
from csra_lab.study import backbone_gains, own_best, plans
from csra_lab.study.backbone_gains import AVERAGE, CSRA, FIXED, METHODS, NETWORKS, TUNED, Network, claims_of
from csra_lab.training.feature_cache import FeatureMaps

CLEAR, NOISY = "clear", "noisy"


def _features(noise: float) -> FeatureMaps:
    """A class is one bright cell of its own channel; noise hides it."""
    rng = np.random.default_rng(0)
    targets = (rng.random((120, 3)) < 0.3).astype(np.int8)
    maps = noise * rng.normal(size=(120, 1, 8, 3, 3))
    for c in range(3):
        maps[targets[:, c] == 1, 0, c, 1, 1] += 2
    return FeatureMaps(torch.from_numpy(maps.astype(np.float16)), targets)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    features = {"clear_net": _features(0.5), "noisy_net": _features(2.0)}
    networks = {CLEAR: Network("clear_net", 64), NOISY: Network("noisy_net", 64)}
    with pytest.MonkeyPatch.context() as patch:

        def source_features(source, data, cache=None):
            maps = features[source.backbone]
            dataset = MultiLabelDataset(
                name="tiny", split="test", classes=("a", "b", "c"), ids=[str(i) for i in range(120)],
                paths=[f"{i}.jpg" for i in range(120)], targets=maps.targets,
            )  # fmt: skip
            return dict.fromkeys(("trainval", "test"), dataset), dict.fromkeys(("trainval", "test"), maps)

        patch.setattr(backbone_gains, "source_features", source_features)
        patch.setattr(own_best, "LADDER", (1e-2, 3e-2, 1e-1))
        patch.setattr(backbone_gains, "START", 3e-2)
        patch.setattr(plans, "BASE", plans.BASE.replace(epochs=4, warmup_epochs=0.0))
        out, said = tmp_path_factory.mktemp("gains"), []
        options = {"networks": networks, "seeds": 2, "resamples": 2, "log": said.append}
        folder = backbone_gains.run_backbone_gains("photographs", out, **options)
        said.clear()
        assert backbone_gains.run_backbone_gains("photographs", out, **options) == folder
        assert [line.partition(";")[0] for line in said] == [f"{folder} is finished"]
        return folder


def test_every_network_and_method_is_measured(record):
    results = pd.read_csv(record / "results.csv")
    assert set(zip(results.network, results.method, strict=True)) == {(n, m) for n in (CLEAR, NOISY) for m in METHODS}
    assert results.groupby(["network", "method", "kind"]).size().eq(2).all()
    means = results[results.kind == "seed"].groupby(["network", "method"]).mAP.mean()
    assert means[CLEAR, AVERAGE] > means[NOISY, AVERAGE]


def test_a_missing_weight_file_is_named_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(backbone_gains, "source_features", lambda *_, **__: pytest.fail("measured already"))
    with pytest.raises(MissingFile, match=r"has no tf_efficientnet_lite3-int8\.safetensors"):
        backbone_gains.run_backbone_gains("photographs", tmp_path / "out", weights=tmp_path)
    assert not (tmp_path / "out").exists()


def test_claims_are_differences_of_the_results(record):
    results, found = pd.read_csv(record / "results.csv"), pd.read_csv(record / "claims.csv")
    means = results[results.kind == "seed"].groupby(["network", "method"]).mAP.mean()
    found = found[found.mean_over == "classes"].set_index("name").difference
    assert found[f"{CLEAR}: {CSRA} - {CLEAR}: {AVERAGE}"] == pytest.approx(
        means[CLEAR, CSRA] - means[CLEAR, AVERAGE], abs=1e-5
    )
    gains = {n: means[n, CSRA] - means[n, AVERAGE] for n in (CLEAR, NOISY)}
    assert found[f"gain on {NOISY} - gain on {CLEAR}"] == pytest.approx(gains[NOISY] - gains[CLEAR], abs=1e-5)


def test_settings_are_chosen_on_held_out_images(record):
    tuning, chosen = pd.read_csv(record / "tuning.csv"), json.loads((record / "run.json").read_text())["chosen"]
    for (network, method), tried in tuning.groupby(["network", "method"]):
        assert tried.set_index("setting").held_out_mAP.idxmax() == chosen[network][method]
    assert set(tuning.method) == {AVERAGE, CSRA, TUNED}
    assert FIXED not in chosen[CLEAR]


def test_every_network_but_the_first_is_compared_with_it():
    claims = claims_of(tuple(NETWORKS))
    assert len(claims) == 3 * len(NETWORKS) + 2 * (len(NETWORKS) - 1)
    assert len({claim.name for claim in claims}) == len(claims)
    assert all(sum(weight for _, weight in claim.terms) == 0 for claim in claims)


@pytest.mark.parametrize("name", ["networks/photographs", "networks/coco", "sizes/photographs", "crossed/photographs"])
def test_a_record_that_ships_says_what_its_results_give(name):
    folder = recorded("runs") / name
    about = json.loads((folder / "run.json").read_text())
    results, found = pd.read_csv(folder / "results.csv"), pd.read_csv(folder / "claims.csv")
    networks = tuple(about["networks"])
    sizes = results.groupby(["network", "method", "kind"]).size().unstack()
    assert (sizes["seed"] == about["seeds"]).all()
    assert (sizes["resample"] == about["resamples"]).all()
    for mean_over, column in (("classes", "mAP"), ("positives", "mAP_by_positives")):
        means = results[results.kind == "seed"].groupby(["network", "method"])[column].mean()
        rows = found[found.mean_over == mean_over].set_index("name")
        claims = claims_of(networks)
        assert list(rows.index) == [claim.name for claim in claims]
        for claim in claims:
            expected = sum(weight * means[tuple(label.split(": ", 1))] for label, weight in claim.terms)
            assert rows.difference[claim.name] == pytest.approx(expected, abs=2e-6)
            assert rows.lower[claim.name] < rows.difference[claim.name] < rows.upper[claim.name]
