"""Scenes of several small objects: what is drawn is what is asked for, and the record is what its scores give."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from csra_lab.backbones import create_backbone
from csra_lab.datasets.voc import VOC_CLASSES
from csra_lab.study import multiplicity, plans
from csra_lab.study.multiplicity import (
    AVERAGE,
    COUNTS,
    CSRA,
    HEADS,
    OTHER_SIDE,
    SIDES,
    cell,
    claims_of,
    scene_classes,
    scene_image,
    scene_objects,
    scene_targets,
)
from csra_lab.synthetic import emoji_voc
from csra_lab.training.feature_cache import FeatureMaps


@pytest.mark.parametrize(("count", "side"), itertools.product(COUNTS, SIDES))
def test_a_scene_has_so_many_objects_of_this_size(count, side):
    for index in (0, 7, 19):
        objects = scene_objects(index, count, side)
        first, *others = scene_classes(index)
        assert [o.name for o in objects] == [first] * count + others
        assert [o.side for o in objects] == [side] * count + [OTHER_SIDE] * 2
        assert not any(o.difficult for o in objects)


def test_cells_differ_in_nothing_but_count_and_size():
    targets = scene_targets(40)
    assert (targets.sum(axis=1) == 3).all()
    assert (targets.sum(axis=0) >= 2).all()  # every class is the repeated one twice in forty
    for i in (0, 21):
        assert {VOC_CLASSES[c] for c in np.flatnonzero(targets[i])} == set(scene_classes(i))
    assert scene_image(3, 2, 28).tobytes() == scene_image(3, 2, 28).tobytes()
    assert scene_image(3, 2, 28).tobytes() != scene_image(3, 4, 28).tobytes()


def test_the_sets_of_the_lab_are_drawn_as_before():
    """`scene` and `picture` are `arrange` and `draw` on their own random streams."""
    rng = emoji_voc._rng("test", 5, "objects")
    wishes = emoji_voc._wishes(rng, *emoji_voc.label_set(rng))
    assert emoji_voc.arrange(rng, wishes, emoji_voc.VENDORS["test"]) == emoji_voc.scene("test", 5)


def test_a_record_holds_its_claims(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    targets = (rng.random((48, 20)) < 0.3).astype(np.int8)
    features = FeatureMaps(torch.from_numpy(rng.normal(size=(48, 1, 16, 2, 2)).astype(np.float16)), targets)
    network = create_backbone("test_efficientnet", image_size=64)
    monkeypatch.setattr(multiplicity, "source_features", lambda *_, **__: (None, {"trainval": features}))
    monkeypatch.setattr(multiplicity, "source_backbone", lambda _: network)
    monkeypatch.setattr(
        multiplicity, "image_features",
        lambda backbone, images, targets: FeatureMaps(
            torch.stack([torch.full((1, 16, 2, 2), np.asarray(image).mean() / 255) for image in images]).half(), targets
        ),
    )  # fmt: skip
    monkeypatch.setattr(plans, "BASE", plans.BASE.replace(epochs=1, warmup_epochs=0.0))
    multiplicity.record_multiplicity(
        tmp_path / "r", dict.fromkeys(HEADS, 1e-3), scenes=40, seeds=2, resamples=20, log=lambda _: None
    )
    results = pd.read_csv(tmp_path / "r" / "results.csv")
    found = pd.read_csv(tmp_path / "r" / "claims.csv").set_index("name")
    assert len(results) == len(COUNTS) * len(SIDES) * len(HEADS) * 2
    assert found.claims.eq(len(claims_of())).all()
    means = results.groupby(["count", "side", "method"]).mAP.mean()
    expected = means[2, 28, CSRA] - means[2, 28, AVERAGE]
    assert found.difference[f"{cell(2, 28, CSRA)} - {cell(2, 28, AVERAGE)}"] == pytest.approx(expected, abs=2e-6)


def test_features_are_those_of_a_data_set():
    network = create_backbone("test_efficientnet", image_size=64).train()
    images = [scene_image(i, 1, 56) for i in range(3)]
    found = multiplicity.image_features(network, images, np.zeros((3, 20), np.int8), batch_size=2)
    assert network.training
    transform = multiplicity.eval_transform(64, mean=network.mean, std=network.std)
    with torch.inference_mode():
        expected = network.eval()(torch.stack([transform(image) for image in images]))
    torch.testing.assert_close(found.maps[:, 0].float(), expected, atol=2e-3, rtol=2e-3)
