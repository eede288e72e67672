"""What counts under a condition, against hand-made pictures and a literal loop."""

import numpy as np
import pytest
from PIL import Image

from csra_lab.datasets import Box, MultiLabelDataset
from csra_lab.metrics import average_precision
from csra_lab.significance import draw_images, weighted_mAP
from csra_lab.study import subgroups as conditions
from csra_lab.study.subgroups import gains, largest_shares, parts_of_mAP, targets_by_condition

CLASSES = ("cat", "dog")


def dataset(tmp_path, boxes, targets):
    paths = []
    for i in range(len(boxes)):
        Image.new("RGB", (100, 50)).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    ids = [str(i) for i in range(len(boxes))]
    return MultiLabelDataset(
        name="toy", split="test", classes=CLASSES, ids=ids, paths=paths, targets=targets,
        box_reader=lambda i: boxes[int(i)],
    )  # fmt: skip


def test_the_largest_object_of_each_class_counts(tmp_path):
    boxes = [
        [Box("cat", 0, 0, 10, 10), Box("cat", 0, 0, 50, 50), Box("dog", 90, 40, 100, 50)],
        [Box("dog", 0, 0, 100, 50, difficult=True), Box("horse", 0, 0, 100, 50)],
        [],
    ]
    shares, counts = largest_shares(dataset(tmp_path, boxes, np.array([[1, 1], [0, -1], [0, 0]])))
    np.testing.assert_allclose(shares, [[0.5, 0.02], [0, 0], [0, 0]])
    assert counts.tolist() == [3, 0, 0]


def test_conditions_against_a_loop(monkeypatch):
    monkeypatch.setattr(conditions, "MIN_POSITIVES", 1)
    rng = np.random.default_rng(0)
    targets = rng.integers(-1, 2, size=(80, 5)).astype(np.int8)
    shares = np.where(targets == 1, rng.random(targets.shape) ** 3 + 1e-9, 0)
    counts = rng.integers(0, 12, size=80)
    found = targets_by_condition(targets, shares, counts)
    for (condition, name), kept in found.items():
        for i in range(80):
            labels = int((targets[i] == 1).sum())
            number = counts[i] if condition == "objects" else labels
            for c in range(5):
                if condition == "size":
                    low, high = (float(x) / 100 for x in name.removesuffix(" %").split(" to "))
                    inside = targets[i, c] != 1 or low < shares[i, c] <= high
                else:
                    low, _, high = name.partition(" to ")
                    low, high = (int(name.split()[0]), 99) if "more" in name else (int(low), int(high or low))
                    inside = low <= number <= high
                assert kept[i, c] == (targets[i, c] if inside else -1)
    # Every positive is in exactly one bin of each condition, but for pictures without an object.
    sizes = sum((kept == 1).sum() for (condition, _), kept in found.items() if condition == "size")
    assert sizes == (targets == 1).sum()
    objects = sum((kept == 1).sum() for (condition, _), kept in found.items() if condition == "objects")
    assert objects == (targets[counts > 0] == 1).sum()


def test_gains_are_differences_of_the_metrics_on_what_counts(tmp_path):
    rng = np.random.default_rng(1)
    sides = rng.integers(5, 50, size=(120, 2))
    targets = rng.integers(0, 2, size=(120, 2)).astype(np.int8)
    boxes = [[Box(CLASSES[c], 0, 0, sides[i, c], sides[i, c]) for c in range(2) if targets[i, c]] for i in range(120)]
    data = dataset(tmp_path, boxes, targets)
    noise = rng.normal(size=(3, 120, 2))
    scores = {"plain": 1 / (1 + np.exp(-noise)), "better": 1 / (1 + np.exp(-(noise + targets)))}
    frame = gains(scores, [("better", "plain")], data)
    assert set(frame.condition) == {"size", "objects", "labels"}
    kept = targets_by_condition(targets, *largest_shares(data))
    for line in frame.itertuples():
        truth = kept[line.condition, line.bin]
        a, b = ([np.nanmean(average_precision(s, truth)) for s in scores[m]] for m in ("plain", "better"))
        assert line.difference == pytest.approx(np.mean(b) - np.mean(a), abs=1e-6)
        assert line.comparisons == (frame.condition == line.condition).sum()
        assert line.positives == (truth == 1).sum()


def test_parts_of_mAP_add_up_and_agree_with_a_loop_over_positives():
    rng = np.random.default_rng(1)
    targets = rng.integers(-1, 2, size=(40, 4)).astype(np.int8)
    targets[:, 3] = 0  # a class that no image shows
    scores = rng.integers(0, 8, size=(2, 40, 4)).astype(float)  # with ties
    groups = rng.integers(0, 3, size=targets.shape)
    weights = np.concatenate([np.ones((1, 40), int), draw_images(40, resamples=6)])
    parts = parts_of_mAP(scores, targets, groups, weights)  # (3, 2, 7)
    np.testing.assert_allclose(parts.sum(axis=0), weighted_mAP(scores, targets, weights), atol=1e-12)
    for s in range(2):
        by_hand = np.zeros(3)
        for c in range(3):
            positives = np.flatnonzero(targets[:, c] == 1)
            for i in positives:
                found = (targets[:, c] >= 0) & (scores[s, :, c] >= scores[s, i, c])
                precision = (targets[found, c] == 1).mean()
                by_hand[groups[i, c]] += precision / len(positives) / 3
        np.testing.assert_allclose(parts[:, s, 0], by_hand, atol=1e-12)
