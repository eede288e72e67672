"""Where heads look on photographs: baselines and maps at limits that can be worked out by hand."""

import numpy as np
import pytest
import torch

from csra_lab.heads import AveragePooling, build_head, head_config
from csra_lab.significance import draw_images
from csra_lab.study.localization import Objects, pairs_of
from csra_lab.study.real_boxes import (
    AVERAGE,
    CSRA,
    WAYS,
    baselines,
    bins_of,
    class_priors,
    comparisons_of,
    detection_values,
    map_values,
    measure_real_boxes,
    median_boxes,
    object_counts,
    whole_boxes,
    write_real_boxes,
)
from csra_lab.training.feature_cache import FeatureMaps

CORNERS = [(0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1), (0.25, 0.25, 0.75, 0.75), (0, 0, 1, 0.5), (0, 0.5, 0.5, 1)]


@pytest.fixture(scope="module")
def objects():
    """Image 0 has class 0 at the top left, 1 has class 0 twice, 2 has class 1 on its upper half, 3 class 0 below."""
    return Objects(np.array([0, 1, 1, 2, 3]), np.array([0, 0, 0, 1, 0]), np.array(CORNERS), np.zeros(5, bool), 4)


def test_boxes_grow_to_whole_parts_of_a_side(objects):
    near = Objects(objects.image, objects.label, objects.corners * 0.999, objects.difficult, 4)
    whole = whole_boxes(near)
    np.testing.assert_array_equal(whole.corners * 224, np.round(whole.corners * 224))
    assert (whole.corners[:, :2] <= near.corners[:, :2]).all()
    assert (whole.corners[:, 2:] >= near.corners[:, 2:]).all()
    np.testing.assert_array_equal(whole_boxes(whole).corners, whole.corners)


def test_pairs_are_counted(objects):
    pairs = pairs_of(objects)
    assert object_counts(pairs).tolist() == [1, 2, 1, 1]
    bins = bins_of(pairs)
    assert {name: int(bins[name].sum()) for name in ("all", "1 object", "2 objects")} == {
        "all": 4, "1 object": 3, "2 objects": 1,
    }  # fmt: skip
    assert "3 or more" not in bins


def test_a_prior_is_the_mean_of_the_training_boxes(objects):
    prior = class_priors(pairs_of(objects), (2, 2), 3)
    np.testing.assert_allclose(prior[1], [[1, 1], [0, 0]])
    np.testing.assert_allclose(prior[0], [[(1 + 0.25) / 3, 0.25 / 3], [(0.25 + 1) / 3, 1 / 3]], atol=1e-6)
    np.testing.assert_allclose(prior[2], (3 * prior[0] + prior[1]) / 4, atol=1e-6)  # never seen: the mean of all
    np.testing.assert_allclose(median_boxes(pairs_of(objects), 3)[1], CORNERS[3])


def test_baselines_by_hand(objects):
    pairs = pairs_of(objects)
    values = baselines(pairs, pairs, (2, 2), 2)
    assert values["centre", "pointing"][0].tolist() == [True, True, True, True]  # edges belong to a box
    np.testing.assert_allclose(values["flat map", "energy"][0], [0.25, 0.4375, 0.5, 0.25])
    assert values["whole image", "CorLoc 0.5"][0].tolist() == [False, False, True, False]
    assert values["class's median box", "CorLoc 0.5"][0, 2]
    assert values["class prior", "energy"][0, 2] == pytest.approx(1)


def test_a_map_that_is_the_object_has_everything(objects):
    pairs = pairs_of(objects)
    maps = np.full((2, 4, 4, 4), -30.0, np.float32)
    for p in (0, 2, 3):
        x0, y0, x1, y1 = (int(4 * v) for v in pairs.boxes[p, 0])
        maps[:, p, y0:y1, x0:x1] = 30
    maps[:, 1, :2, :2] = 30  # the second object of its class is not seen, and pointing does not ask for it
    maps[:, 1, 0, 0] = -30
    found = map_values({AVERAGE: maps, CSRA: maps}, pairs, dict.fromkeys(
        (f"CAM of {AVERAGE}", f"CAM of {CSRA}", f"attention of {CSRA}, T = 1"), 0.5))  # fmt: skip
    assert found[CSRA, "pointing"][:, [0, 2, 3]].all()
    np.testing.assert_allclose(found[f"attention of {CSRA}, T = 1", "energy"][:, [0, 2, 3]], 1, atol=1e-6)
    assert found[f"CAM of {CSRA}", "CorLoc 0.5"][:, [0, 2, 3]].all()


def test_a_record_holds_what_was_measured(objects, tmp_path):
    torch.manual_seed(0)
    number = np.repeat(np.arange(30), 5)  # 30 times the same four images
    objects = Objects(
        np.tile(objects.image, 30) + 4 * number,
        np.tile(objects.label, 30),
        np.tile(CORNERS, (30, 1)),
        np.zeros(150, bool),
        120,
    )
    some = FeatureMaps(torch.rand(120, 1, 6, 4, 4).half(), np.zeros((120, 2), np.int8))
    features = {"trainval": some, "test": some}
    heads = {AVERAGE: [AveragePooling(6, 2) for _ in range(2)],
             CSRA: [build_head(head_config("csra", lam=0.3), 6, 2) for _ in range(2)]}  # fmt: skip
    boxes = {"trainval": objects, "test": objects}
    values, thresholds, pairs, best = measure_real_boxes(heads, features, boxes)
    weights = draw_images(120, resamples=50)
    detection = detection_values(heads, some, thresholds, objects, weights)
    write_real_boxes(tmp_path / "r", values, thresholds, pairs, best, {}, weights=weights, detection=detection)
    with np.load(tmp_path / "r" / "found.npz") as kept:
        assert kept[f"best cell, {CSRA}"].shape == (2, 120)
        kept_boxes = kept["boxes"].astype(float)
    filled = ~np.isnan(pairs.boxes[..., 0])
    np.testing.assert_array_equal(kept_boxes[filled], 224 * pairs.boxes[filled])
    lines = list(comparisons_of(values, pairs, weights, detection))
    assert {line["comparisons"] for line in lines} == {len(lines)}
    measures = {"mAP 0.5", "mAP 0.3", "CorLoc 0.5", "CorLoc 0.3", "pointing", "energy"}
    assert measures == {line["measure"] for line in lines}


def test_a_detector_that_sees_each_object_has_a_perfect_score(objects):
    """One image a class and object; score maps that are the boxes, and sure of their class: mAP 1, however drawn."""
    one = Objects(objects.image[[0, 3]], objects.label[[0, 3]], objects.corners[[0, 3]], np.zeros(2, bool), 4)
    maps = np.full((4, 1, 2, 4, 4), -1.0, np.float32)
    maps[0, 0, 0, :2, :2] = maps[2, 0, 1, :2, :] = 1
    head = build_head(head_config("max"), 2, 2)
    with torch.no_grad():
        head.weight.copy_(10 * torch.eye(2)[None])
    thresholds = dict.fromkeys(WAYS, 0.5)
    features = FeatureMaps(torch.from_numpy(maps).half(), np.zeros((4, 2), np.int8))
    weights = 1 + draw_images(4, resamples=20)
    found = detection_values({AVERAGE: [head], CSRA: [head]}, features, thresholds, one, weights)
    for seen, drawn in found.values():
        np.testing.assert_allclose(seen, 1)
        np.testing.assert_allclose(drawn, 1)
