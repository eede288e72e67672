"""Where heads look on photographs with boxes, beside the baselines that a map must beat.

`record_real_boxes` trains average pooling and CSRA on VOC2012's photographs with five seeds and measures, on every pair
of an image and a class that it shows (all of `localization` and `detection`):

    pointing   whether the best cell's centre lies in a box of the class
    energy     the share of the map that lies in the boxes of the class
    CorLoc     whether the box around the map's largest part overlaps an object by 0.5, or by 0.3

and on all images and classes, with the class's probability as the score of its box,

    mAP        of detection at an overlap of 0.5, and of 0.3

Baselines know nothing of the image: its centre; the class's prior, which is the mean of its training boxes as a map;
the class's median training box; and the whole image. Boxes are kept in 224ths of a side, widened to whole ones.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from csra_lab._io import strict_json
from csra_lab._io.arrays import write_arrays
from csra_lab._io.atomic_write import atomic_write
from csra_lab.heads import ScoreMapHead
from csra_lab.significance import draw_images, once_and_drawn
from csra_lab.study.attention_study import (
    TEMPERATURES,
    detection_mAP,
    interval,
    mean_interval,
    score_maps,
    size_bins,
)
from csra_lab.study.detection import boxes_of, localised
from csra_lab.study.experiments import describe, source_features
from csra_lab.study.head_stack import learnt, train_heads
from csra_lab.study.localization import (
    Objects,
    Pairs,
    activation_maps,
    attention_maps,
    box_coverage,
    mass_inside,
    objects_of,
    pairs_of,
    peaks,
    points_inside,
)
from csra_lab.study.plans import SOURCES
from csra_lab.training.feature_cache import FeatureMaps
from csra_lab.training.run_folder import environment

SIDE = 224  # boxes are kept in this part of a side
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
OVERLAPS = (0.5, 0.3)
AVERAGE, CSRA = "average pooling", "CSRA"
WAYS = {  # a map -> its head, and its temperature; None: the class activation map
    f"CAM of {AVERAGE}": (AVERAGE, None),
    f"CAM of {CSRA}": (CSRA, None),
    f"attention of {CSRA}, T = 1": (CSRA, 1.0),
}


def record_real_boxes(out: Path, *, data: Path | None = None, seeds: int = 5, resamples: int = 1000) -> None:
    """Train both heads of `seeds` seeds on VOC2012's photographs, measure, and write the record `out`.

    Both have the learning rate of `plans.BASE`, which is the best of each on held-out images (`study.own_best`).

    Args:
        data: a VOC devkit. resamples: draws of the bootstrap.
    """
    source = SOURCES["photographs"]
    sets, features = source_features(source, data)
    recipes = {
        name: [source.recipe(name, head=kind, seed=seed) for seed in range(seeds)]
        for name, kind in ((AVERAGE, "average"), (CSRA, "csra"))
    }
    heads = {name: [t.head for t in learnt(train_heads(r, features["trainval"]))] for name, r in recipes.items()}
    objects = {split: objects_of(sets[split]) for split in ("trainval", "test")}
    values, thresholds, pairs, best = measure_real_boxes(heads, features, objects)
    weights = draw_images(objects["test"].num_images, resamples=resamples)
    detection = detection_values(heads, features["test"], thresholds, whole_boxes(objects["test"]), weights)
    run = {
        "question": "Do heads look at objects on photographs, and more than what knows nothing of the image?",
        "command": 'csra_lab.study.real_boxes.record_real_boxes(Path("data/runs/real-boxes"), data=Path("VOCdevkit"))',
        "recipes": {name: each[0].to_json() for name, each in recipes.items()},
        "seeds": seeds,
        "images": objects["test"].num_images,
        "data": {split: describe(dataset) for split, dataset in sets.items()},
        "environment": environment(torch.device("cpu")),
    }
    write_real_boxes(out, values, thresholds, pairs, best, run, weights=weights, detection=detection)


def whole_boxes(objects: Objects) -> Objects:
    """The objects with their corners moved outwards to whole 224ths of a side, as a record keeps them."""
    low, high = np.floor(SIDE * objects.corners[:, :2]), np.ceil(SIDE * objects.corners[:, 2:])
    return dataclasses.replace(objects, corners=np.concatenate([low, high], axis=1) / SIDE)


def object_counts(pairs: Pairs) -> NDArray[np.int64]:
    """(P,) how many objects of the class the image shows."""
    return (~np.isnan(pairs.boxes[..., 0])).sum(axis=1)


def bins_of(pairs: Pairs) -> dict[str, NDArray[np.bool_]]:
    """Name of a bin -> (P,) which pairs are in it: all, by the largest object's size, by the number of objects.

    Bins without a pair are left out.
    """
    count = object_counts(pairs)
    bins = size_bins(pairs.share) | {"1 object": count == 1, "2 objects": count == 2, "3 or more": count >= 3}
    return {name: inside for name, inside in bins.items() if inside.any()}


def class_priors(pairs: Pairs, grid: tuple[int, int], num_classes: int) -> NDArray[np.float64]:
    """(C, h, w) how often a training image with the class has it at each cell; a class without pairs takes the mean."""
    coverage = box_coverage(pairs.boxes, grid)  # (P, h, w)
    everywhere = coverage.mean(axis=0)
    return np.stack([
        coverage[pairs.label == c].mean(axis=0) if (pairs.label == c).any() else everywhere for c in range(num_classes)
    ])  # fmt: skip


def median_boxes(pairs: Pairs, num_classes: int) -> NDArray[np.float64]:
    """(C, 4) the median of each class's training boxes, the largest of each pair."""
    area = np.nan_to_num((pairs.boxes[..., 2] - pairs.boxes[..., 0]) * (pairs.boxes[..., 3] - pairs.boxes[..., 1]))
    largest = pairs.boxes[np.arange(len(pairs)), area.argmax(axis=1)]  # (P, 4)
    all_classes = np.median(largest, axis=0)
    return np.stack([
        np.median(largest[pairs.label == c], axis=0) if (pairs.label == c).any() else all_classes
        for c in range(num_classes)
    ])  # fmt: skip


def baselines(pairs: Pairs, training: Pairs, grid: tuple[int, int], num_classes: int) -> dict[tuple, NDArray]:
    """(method, measure) -> (1, P) values of what knows nothing of the image."""
    coverage = box_coverage(pairs.boxes, grid)
    prior = class_priors(training, grid, num_classes)[pairs.label]  # (P, h, w)
    values: dict[tuple[str, str], NDArray] = {
        ("centre", "pointing"): points_inside(np.full((1, 1, 2), 0.5), pairs.boxes)[:, 0],
        ("class prior", "pointing"): points_inside(peaks(prior)[:, None], pairs.boxes)[:, 0],
        ("class prior", "energy"): mass_inside(prior, coverage),
        ("flat map", "energy"): coverage.mean(axis=(1, 2)),
    }
    whole = np.broadcast_to(np.array([0.0, 0.0, 1.0, 1.0]), (len(pairs), 4))
    median = median_boxes(training, num_classes)[pairs.label]
    for least in OVERLAPS:
        values["whole image", f"CorLoc {least:g}"] = localised(whole, pairs.boxes, least=least)
        values["class's median box", f"CorLoc {least:g}"] = localised(median, pairs.boxes, least=least)
    return {key: np.asarray(value)[None] for key, value in values.items()}


def map_values(maps: Mapping[str, NDArray], pairs: Pairs, thresholds: Mapping[str, float]) -> dict[tuple, NDArray]:
    """(method, measure) -> (S, P) values of every map.

    Args:
        maps: head -> (S, P, h, w) score maps of the pairs. thresholds: way -> threshold of its boxes.
    """
    coverage = box_coverage(pairs.boxes, next(iter(maps.values())).shape[-2:])
    values: dict[tuple[str, str], NDArray] = {}
    for name, of_seeds in maps.items():
        values[name, "pointing"] = np.stack([points_inside(peaks(m)[:, None], pairs.boxes)[:, 0] for m in of_seeds])
        scores = torch.from_numpy(of_seeds)
        values[f"CAM of {name}", "energy"] = _energy(activation_maps(scores), coverage)
        for t in TEMPERATURES:
            values[f"attention of {name}, T = {t:g}", "energy"] = _energy(attention_maps(scores, t), coverage)
    for way, (head, temperature) in WAYS.items():
        boxes = [boxes_of(torch.from_numpy(m), temperature, thresholds[way]) for m in maps[head]]
        for least in OVERLAPS:
            values[way, f"CorLoc {least:g}"] = np.stack([localised(b, pairs.boxes, least=least) for b in boxes])
    return values


def choose_thresholds(maps: Mapping[str, NDArray], pairs: Pairs) -> dict[str, float]:
    """For every way of `WAYS` the threshold with the best CorLoc 0.5 on training pairs, by the first seed's maps."""
    chosen = {}
    for way, (head, t) in WAYS.items():
        scores = torch.from_numpy(maps[head][0])
        rates = {th: localised(boxes_of(scores, t, th), pairs.boxes).mean() for th in THRESHOLDS}
        chosen[way] = max(rates, key=rates.__getitem__)
    return chosen


def detection_values(
    heads: Mapping[str, Sequence[ScoreMapHead]],
    features: FeatureMaps,
    thresholds: Mapping[str, float],
    objects: Objects,
    weights: NDArray,
) -> dict[tuple[str, str], tuple[NDArray, NDArray]]:
    """(way, measure) -> (S,) mAPs of detection on the images, and (S, R) on the draws of them.

    Args:
        thresholds: way -> threshold of its boxes. weights: (R, N) how often each image is drawn.
    """
    rows = once_and_drawn(weights)
    found: dict[tuple[str, str], list[NDArray]] = {}
    for way, (name, t) in WAYS.items():
        for head in heads[name]:
            maps = torch.from_numpy(score_maps(head, features))  # (N, C, h, w)
            mAPs = detection_mAP(head, maps, t, thresholds[way], objects, rows, overlaps=OVERLAPS)  # (2, 1 + R)
            for least, each in zip(OVERLAPS, mAPs, strict=True):
                found.setdefault((way, f"mAP {least:g}"), []).append(each)
    return {key: (np.array(runs)[:, 0], np.array(runs)[:, 1:]) for key, runs in found.items()}


def compared(values: Mapping[tuple, NDArray]) -> list[tuple[str, str, str]]:
    """(measure, label, against): the heads against each other and against the strongest baselines."""
    rows = [("pointing", CSRA, AVERAGE)]
    rows += [("pointing", name, base) for name in (AVERAGE, CSRA) for base in ("centre", "class prior")]
    attention, cam = f"attention of {CSRA}, T = 1", f"CAM of {AVERAGE}"
    rows += [("energy", attention, f"attention of {AVERAGE}, T = 1"), ("energy", attention, "class prior")]
    rows += [("energy", cam, "class prior")]
    for least in OVERLAPS:
        measure = f"CorLoc {least:g}"
        rows += [(measure, f"CAM of {CSRA}", cam), (measure, attention, cam), (measure, cam, "class's median box")]
    return [row for row in rows if (row[1], row[0]) in values and (row[2], row[0]) in values]


def comparisons_of(
    values: Mapping[tuple, NDArray],
    pairs: Pairs,
    weights: NDArray,
    detection: Mapping[tuple[str, str], tuple[NDArray, NDArray]] | None = None,
) -> Iterator[dict]:
    """Every compared row on all pairs, and pointing against the centre in every bin; the intervals hold together.

    Args:
        values: (method, measure) -> (S, P) of S seeds and P pairs. weights: (resamples, images) of the bootstrap.
        detection: (way, measure) -> (S,) and (S, resamples), see `detection_values`.
    """
    detection, bins = detection or {}, bins_of(pairs)
    rows = [(row, "all") for row in compared(values)]
    rows += [(("pointing", CSRA, against), name) for against in (AVERAGE, "centre") for name in list(bins)[1:]]
    reference = f"CAM of {AVERAGE}"
    detected = [(way, measure) for way, measure in detection if way != reference]
    total = len(rows) + len(detected)
    for (measure, label, against), name in rows:
        inside = bins[name]
        a, b = (np.broadcast_to(values[k, measure], (_seeds(values), len(pairs)))[:, inside] for k in (against, label))
        found = mean_interval(a, b, pairs.image[inside], weights, total)
        yield {"measure": measure, "bin": name, "label": label, "against": against, **found}
    for way, measure in detected:
        (seen, drawn), (seen_b, drawn_b) = detection[reference, measure], detection[way, measure]
        ends = interval(seen_b - seen, drawn_b - drawn, units=weights.shape[1], comparisons=total)
        yield {"measure": measure, "bin": "all", "label": way, "against": reference, **ends}


def results_of(
    values: Mapping[tuple, NDArray],
    pairs: Pairs,
    detection: Mapping[tuple[str, str], tuple[NDArray, NDArray]] | None = None,
) -> Iterator[dict]:
    """A line for each method, measure and bin, in %: mean and standard deviation over the seeds."""
    for (method, measure), each in values.items():
        for name, inside in bins_of(pairs).items():
            line = {"method": method, "measure": measure, "bin": name, "pairs": int(inside.sum())}
            yield line | _over_seeds(each[:, inside].mean(axis=1))
    for (method, measure), (rates, _) in (detection or {}).items():
        yield {"method": method, "measure": measure, "bin": "all", "pairs": len(pairs)} | _over_seeds(rates)


def measure_real_boxes(
    heads: Mapping[str, Sequence[ScoreMapHead]], features: Mapping[str, FeatureMaps], objects: Mapping[str, Objects]
) -> tuple[dict[tuple, NDArray], dict[str, float], Pairs, dict[str, NDArray]]:
    """Measure one-head heads on the splits "trainval" (priors and thresholds) and "test".

    Returns:
        (method, measure) -> (S or 1, P) values; thresholds; the test pairs; and the best cell of every map, (S, P).
    """
    training, pairs = (pairs_of(whole_boxes(objects[split])) for split in ("trainval", "test"))
    maps = {name: np.stack([score_maps(h, features["test"])[pairs.image, pairs.label] for h in heads[name]])
            for name in heads}  # fmt: skip
    first = {name: score_maps(heads[name][0], features["trainval"])[training.image, training.label][None]
             for name in heads}  # fmt: skip
    thresholds = choose_thresholds(first, training)
    grid, num_classes = next(iter(maps.values())).shape[-2:], features["test"].targets.shape[1]
    values = baselines(pairs, training, grid, num_classes) | map_values(maps, pairs, thresholds)
    best = {name: m.reshape(*m.shape[:2], -1).argmax(axis=-1).astype(np.uint8) for name, m in maps.items()}
    return values, thresholds, pairs, best


def write_real_boxes(
    out: Path, values, thresholds, pairs: Pairs, best, run: dict, *, weights: NDArray, detection=None
) -> None:
    """Write the record: run.json, results.csv, comparisons.csv, and found.npz with the boxes and the best cells.

    Args:
        values, thresholds, pairs, best: see `measure_real_boxes`. run: what run.json holds besides.
        weights: (R, N) how often each test image is drawn. detection: see `detection_values`.
    """
    with atomic_write(out) as path:
        path.mkdir()
        strict_json.write(path / "run.json", run | {"thresholds": thresholds}, indent=1)
        pd.DataFrame(results_of(values, pairs, detection)).to_csv(path / "results.csv", index=False)
        pd.DataFrame(comparisons_of(values, pairs, weights, detection)).to_csv(path / "comparisons.csv", index=False)
        found: dict[str, NDArray] = {
            "image": pairs.image.astype(np.uint16),
            "label": pairs.label.astype(np.uint8),
            "boxes": np.nan_to_num(np.round(SIDE * pairs.boxes), nan=255).astype(np.uint8),
        }
        write_arrays(path / "found.npz", found | {f"best cell, {name}": cells for name, cells in best.items()})


def _energy(maps: torch.Tensor, coverage: NDArray) -> NDArray[np.float64]:
    """(S, P, h, w) maps -> (S, P) the share in the boxes."""
    return np.stack([mass_inside(m, coverage) for m in maps.numpy()])


def _over_seeds(rates: NDArray) -> dict[str, float]:
    spread = 100 * rates.std(ddof=1) if len(rates) > 1 else np.nan
    return {"mean": round(100 * rates.mean(), 3), "sd": round(spread, 3), "seeds": len(rates)}


def _seeds(values: Mapping[tuple, NDArray]) -> int:
    return max(len(v) for v in values.values())
