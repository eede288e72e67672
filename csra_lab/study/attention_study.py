"""The record behind the chapters on seeing: where heads of five seeds look on EmojiVOC, and the boxes that this gives.

`record_attention(Path("data/runs/attention"))` makes it anew from the cached features in some minutes. The folder holds

run.json           recipes, data sets, versions, and the threshold of every way to make boxes
results.csv        a line for each split, method, measure, setting and bin of object size: a column a seed, in %
comparisons.csv    differences with their intervals, in points
truth.npz          the objects of the test splits (pixels of a 224 x 224 image), and the pairs that are measured
found.npz          best cells of all seeds, (S, P); of seed 0 also the mass at T = 1 and the boxes, in 28ths of a side
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from csra_lab._io import strict_json
from csra_lab._io.arrays import write_arrays
from csra_lab._io.atomic_write import atomic_write
from csra_lab.heads import ScoreMapHead, config_kind
from csra_lab.significance import difference_errors, draw_images, once_and_drawn
from csra_lab.study.detection import Detections, boxes_of, detection_precision, localised, outcomes
from csra_lab.study.experiments import describe, plan_recipes, source_features
from csra_lab.study.head_stack import learnt, train_heads
from csra_lab.study.localization import (
    Objects,
    Pairs,
    activation_maps,
    attention_maps,
    box_coverage,
    cell_centres,
    mass_inside,
    objects_of,
    pairs_of,
    peaks,
    points_inside,
)
from csra_lab.study.plans import PLANS, SOURCES
from csra_lab.training.feature_cache import FeatureMaps
from csra_lab.training.run_folder import environment

HEADS = {"average pooling": "average", "CSRA": "csra"}
TEMPERATURES = (0.0, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 4.0, math.inf)
SIZES = (0.0, 0.02, 0.05, 0.1, 0.2, 1.0)
"""Bounds of the share of the image that the largest object of the class covers."""
MIN_IMAGES = 20
"""Pairs of fewer images have a mean and no interval: a draw of the images may hold hardly one of them, or none."""
TOLERANCE = 15 / 224  # the pointing game's 15 pixels
FINE = 28  # side of the grid on which boxes are found
IOU = "IoU 0.5"
LEAST_PROBABILITY = 0.01  # a class less likely than this gives no detection
CAM_THRESHOLDS = tuple(np.arange(50, 91, 5) / 100)
ATTENTION_THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
BOXES = {  # a way to make boxes -> its head, and the temperatures that it may have; None: the class activation map
    "CAM of average pooling": ("average pooling", (None,)),
    "CAM of CSRA": ("CSRA", (None,)),
    "attention of CSRA, T = 1": ("CSRA", (1.0,)),
    "attention of CSRA, T chosen": ("CSRA", (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)),
}
SAME_THRESHOLDS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85)
"""Thresholds at which the class activation maps of both heads are compared, whatever the best of each is."""
AGAINST = (  # what is compared with what, each with its own best threshold
    ("CAM of CSRA", "CAM of average pooling"),
    ("attention of CSRA, T = 1", "CAM of average pooling"),
    ("attention of CSRA, T chosen", "CAM of average pooling"),
    ("attention of CSRA, T chosen", "CAM of CSRA"),
)


CAMS = ("CAM of average pooling", "CAM of CSRA")
FAILURES = ("too large", "too small", "elsewhere")


@dataclasses.dataclass(frozen=True)
class Found:
    """What S heads found with one setting.

    Attributes:
        boxes: (S, P, 4) one box for each pair. fates: (S, P) see `outcomes`.
        seen, drawn: (S,) and (S, R) mAP at an IoU of 0.5 on the images, and on R draws of them.
    """

    boxes: NDArray[np.float64]
    fates: NDArray[np.str_]
    seen: NDArray[np.float64]
    drawn: NDArray[np.float64]


def record_attention(out: Path, *, resamples: int = 1000) -> None:
    """Train the heads of the plan `four-lines` on EmojiVOC, measure, and write the record `out`, whole or not at all.

    Args:
        resamples: draws of the bootstrap.
    """
    sets, maps = source_features(SOURCES["emoji"], None)
    plan = PLANS["four-lines"]
    recipes = plan_recipes(plan, "emoji")
    trained = learnt(train_heads(recipes, maps["trainval"]))
    heads = {name: [t.head for t in trained if config_kind(t.recipe.head) == kind] for name, kind in HEADS.items()}
    settings, curve = choose_thresholds(heads, maps["trainval"], pairs_of(objects_of(sets["trainval"])))
    lines, comparisons = curve, []
    truth: dict[str, NDArray] = {}
    found: dict[str, NDArray] = {}
    for split in SOURCES["emoji"].splits:
        objects = objects_of(sets[split])
        pairs = pairs_of(objects)
        scores = {name: np.stack([score_maps(h, maps[split]) for h in heads[name]]) for name in HEADS}
        weights = draw_images(objects.num_images, resamples=resamples)
        looks, look_lines, look_found = _looks(scores, pairs)
        boxes, box_lines, box_found = _boxes(heads, scores, settings, pairs, objects, weights)
        lines += [{"split": split, **line} for line in (*look_lines, *box_lines)]
        compared = (*_compare_looks(looks, pairs, weights), *_compare_boxes(boxes, pairs, weights))
        comparisons += [{"split": split, **line} for line in compared]
        found |= {f"{key} on {split}": value for key, value in (look_found | box_found).items()}
        truth |= {f"{key} on {split}": value for key, value in _truth(objects).items()}
    run = {
        "question": "Where do the heads look, and what boxes does that give?",
        "command": 'csra_lab.study.attention_study.record_attention(Path("data/runs/attention"))',
        "recipes": [r.to_json() for r in recipes if r.run.seed == 0],
        "seeds": plan.seeds,
        "settings": settings,
        "data": {split: describe(dataset) for split, dataset in sets.items()},
        "environment": environment(torch.device("cpu")),
    }
    with atomic_write(out) as path:
        path.mkdir()
        (path / "run.json").write_text(strict_json.dumps(run, indent=1, nan="null") + "\n", encoding="utf-8")
        pd.DataFrame(lines).to_csv(path / "results.csv", index=False)
        pd.DataFrame(comparisons).to_csv(path / "comparisons.csv", index=False)
        write_arrays(path / "truth.npz", truth)
        write_arrays(path / "found.npz", found)


def read_objects(folder: Path, split: str) -> Objects:
    """The objects of a test split, as the record holds them."""
    with np.load(folder / "truth.npz", allow_pickle=False) as content:
        image, label, pixels, difficult = (
            content[f"{k} on {split}"] for k in ("image", "label", "pixels", "difficult")
        )
        num_images = int(content[f"pictures on {split}"])
    return Objects(image.astype(np.int64), label.astype(np.int64), pixels / 224, difficult, num_images)


@torch.inference_mode()
def score_maps(head: ScoreMapHead, features: FeatureMaps) -> NDArray[np.float32]:
    """(N, C, h, w) score maps of a one-head head on the first view of every image."""
    blocks = torch.arange(len(features)).split(64)
    return torch.cat([head.score_maps(features.maps[b, 0].float())[:, 0] for b in blocks]).numpy()


def choose_thresholds(heads: dict, features: FeatureMaps, pairs: Pairs) -> tuple[dict[str, dict], list[dict]]:
    """For every way to make boxes the temperature and threshold with the best CorLoc, the mean over the seeds.

    Returns:
        way -> {"head", "temperature" (None for a CAM), "threshold"}; and a line of results for each that was tried.
    """
    of_pairs = {
        name: [torch.from_numpy(score_maps(h, features)[pairs.image, pairs.label]) for h in heads[name]]
        for name in HEADS
    }
    settings, lines = {}, []
    for way, (head, temperatures) in BOXES.items():
        tried = {}
        for t in temperatures:
            for threshold in CAM_THRESHOLDS if t is None else ATTENTION_THRESHOLDS:
                rates = [localised(boxes_of(s, t, threshold, size=FINE), pairs.boxes).mean() for s in of_pairs[head]]
                tried[t, threshold] = float(np.mean(rates))
                setting = f"threshold {threshold:g}" + ("" if t is None else f", T = {t:g}")
                line = {"split": "trainval", "method": way, "measure": "CorLoc", "setting": setting, "bin": "all"}
                lines.append(line | _by_seed(rates) | {"pairs": len(pairs)})
        t, threshold = max(tried, key=tried.__getitem__)
        settings[way] = {"head": head, "temperature": t, "threshold": threshold}
    return settings, lines


def size_bins(share: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Name of the bin -> (P,) which pairs are in it; "all" first."""
    bins = {"all": np.ones(len(share), dtype=bool)}
    for low, high in itertools.pairwise(SIZES):
        name = f"{100 * low:g} to {100 * high:g} %" if high < 1 else f"above {100 * low:g} %"
        bins[name] = (share > low) & (share <= high)
    return bins


def interval(seen: NDArray, drawn: NDArray, *, units: int, comparisons: int) -> dict[str, float]:
    """The interval of `significance.compare`, in points, for any statistic of S pairs of runs that share their seeds.

    Args:
        seen: (S,) differences on all images, fractions. drawn: (S, R) on R draws of the images.
        units: how many images were drawn from. comparisons: of the table.
    """
    *_, half = difference_errors([(seen, drawn)], drawn.mean(axis=0), units=units, comparisons=comparisons)
    middle = float(seen.mean())
    ends = {"difference": middle, "lower": middle - half, "upper": middle + half}
    return {key: round(100 * value, 4) for key, value in ends.items()} | {"comparisons": comparisons}


def mean_interval(a: NDArray, b: NDArray, image: NDArray, weights: NDArray, comparisons: int) -> dict[str, float]:
    """The interval of mean(b) - mean(a) over pairs: (S, P) values, (P,) their images, (R, N) draws.

    Its ends are NaN where the pairs are of fewer than `MIN_IMAGES` images.
    """
    difference = b.astype(np.float64) - a  # (S, P)
    if len(np.unique(image)) < MIN_IMAGES:
        middle = round(100 * float(difference.mean()), 4)
        return {"difference": middle, "lower": math.nan, "upper": math.nan, "comparisons": comparisons}
    drawn = weights[:, image].astype(np.float64)  # (R, P)
    means = (difference @ drawn.T) / drawn.sum(axis=1)  # (S, R)
    return interval(difference.mean(axis=1), means, units=weights.shape[1], comparisons=comparisons)


def _looks(scores: dict[str, NDArray], pairs: Pairs) -> tuple[dict, list[dict], dict]:
    """Pointing and mass of the heads: (method, measure, setting) -> (S, P) values; lines of results; what is kept."""
    grid = scores["CSRA"].shape[-2:]
    coverage, centres = box_coverage(pairs.boxes, grid), cell_centres(grid)[None]
    middle = np.full((1, 1, 2), 0.5)
    values, found = {}, {}
    for tolerance, setting in ((0.0, "exact"), (TOLERANCE, "15 pixels")):
        at_cells = points_inside(centres, pairs.boxes, tolerance=tolerance)  # (P, h * w)
        values["any cell", "pointing", setting] = at_cells.mean(axis=1)[None]
        values["best possible cell", "pointing", setting] = at_cells.any(axis=1).reshape(1, -1)
        values["centre", "pointing", setting] = points_inside(middle, pairs.boxes, tolerance=tolerance).T
    for name in HEADS:
        maps = scores[name][:, pairs.image, pairs.label]  # (S, P, h, w)
        points = np.stack([peaks(seed) for seed in maps])[:, :, None]  # (S, P, 1, 2)
        for tolerance, setting in ((0.0, "exact"), (TOLERANCE, "15 pixels")):
            hits = [points_inside(p, pairs.boxes, tolerance=tolerance)[:, 0] for p in points]
            values[name, "pointing", setting] = np.stack(hits)
        for t in TEMPERATURES:
            attention = attention_maps(torch.from_numpy(maps), t).numpy()
            values[name, "mass", f"T = {t:g}"] = np.stack([mass_inside(a, coverage) for a in attention])
        activation = activation_maps(torch.from_numpy(maps)).numpy()
        values[name, "mass", "CAM"] = np.stack([mass_inside(a, coverage) for a in activation])
        found[f"best cell, {name}"] = maps.reshape(*maps.shape[:2], -1).argmax(axis=-1).astype(np.uint8)
        found[f"mass at T = 1, {name}"] = values[name, "mass", "T = 1"][0].astype(np.float16)
    return values, list(_lines(values, pairs)), found


def _lines(values: dict, pairs: Pairs) -> Iterator[dict]:
    """Lines of results: means over the pairs of each bin."""
    bins = size_bins(pairs.share)
    for (method, measure, setting), each in values.items():
        for name, inside in bins.items():
            line = {"method": method, "measure": measure, "setting": setting, "bin": name}
            yield line | _by_seed(each[:, inside].mean(axis=1)) | {"pairs": int(inside.sum())}


def _by_seed(rates: Iterable[float]) -> dict[str, float]:
    """A column a seed, in %."""
    return {f"seed {seed}": round(100 * float(rate), 3) for seed, rate in enumerate(rates)}


def _compare_looks(values: dict, pairs: Pairs, weights: NDArray) -> Iterator[dict]:
    """CSRA against average pooling, over all sizes and by size; and CSRA's attention against average pooling's CAM."""
    average, csra = HEADS
    rows = [((csra, m, s), (average, m, s)) for m, s in (("pointing", "exact"), ("pointing", "15 pixels"))]
    rows += [((csra, "mass", f"T = {t:g}"), (average, "mass", f"T = {t:g}")) for t in TEMPERATURES if t > 0]
    rows.append(((csra, "mass", "T = 1"), (average, "mass", "CAM")))
    for b, a in rows:
        found = mean_interval(values[a], values[b], pairs.image, weights, len(rows))
        yield {"measure": b[1], "setting": b[2], "bin": "all", "label": _name(b), "against": _name(a), **found}
    bins = size_bins(pairs.share)
    b, a = (csra, "pointing", "exact"), (average, "pointing", "exact")
    for name, inside in list(bins.items())[1:]:
        before, after = (values[key][:, inside] for key in (a, b))
        found = mean_interval(before, after, pairs.image[inside], weights, len(bins) - 1)
        yield {"measure": "pointing", "setting": "exact", "bin": name, "label": csra, "against": average, **found}


def _name(key: tuple[str, str, str]) -> str:
    return f"CAM of {key[0]}" if key[2] == "CAM" else key[0]


def _boxes(heads, scores, settings, pairs: Pairs, objects: Objects, weights) -> tuple[dict, list[dict], dict]:
    """The boxes of every way, and of both CAMs at the same thresholds: (way, setting) -> found; lines; boxes kept."""
    wanted = {(way, IOU): tuple(setting.values()) for way, setting in settings.items()}
    for way, threshold in itertools.product(CAMS, SAME_THRESHOLDS):
        wanted[way, f"threshold {threshold:g}"] = (BOXES[way][0], None, threshold)
    found, kept, lines, values = {}, {}, [], {}
    for (way, setting), (head, t, threshold) in wanted.items():
        made = _find(heads[head], scores[head], t, threshold, pairs, objects, weights)
        found[way, setting] = made
        line = {"method": way, "measure": "mAP", "setting": setting, "bin": "all"}
        lines.append(line | _by_seed(made.seen) | {"pairs": len(pairs)})
        if setting == IOU:
            kept[f"boxes, {way}"] = np.round(FINE * made.boxes[0]).astype(np.uint8)
            for measure, fate in (("CorLoc", "found"), *((f, f) for f in FAILURES)):
                values[way, measure, IOU] = made.fates == fate
        else:
            rates = (made.fates == "found").mean(axis=1)
            lines.append(line | {"measure": "CorLoc"} | _by_seed(rates) | {"pairs": len(pairs)})
    values["best rectangle of cells", "CorLoc", IOU] = _best_rectangles(pairs, scores["CSRA"].shape[-2:])[None]
    return found, [*lines, *_lines(values, pairs)], kept


def _find(heads, scores, temperature, threshold, pairs: Pairs, objects: Objects, weights) -> Found:
    """Boxes for the pairs, and detections of all classes in all images, from the (S, N, C, h, w) maps of S heads."""
    boxes, fates, mAPs, rows = [], [], [], once_and_drawn(weights)
    for head, maps in zip(heads, torch.from_numpy(scores), strict=True):
        boxes.append(boxes_of(maps[pairs.image, pairs.label], temperature, threshold, size=FINE))
        fates.append(outcomes(boxes[-1], pairs))
        mAPs += [*detection_mAP(head, maps, temperature, threshold, objects, rows)]
    return Found(np.stack(boxes), np.stack(fates), np.array(mAPs)[:, 0], np.array(mAPs)[:, 1:])


@torch.inference_mode()
def detection_mAP(
    head: ScoreMapHead,
    maps: Tensor,
    temperature: float | None,
    threshold: float,
    objects: Objects,
    weights: NDArray,
    *,
    overlaps: Sequence[float] = (0.5,),
) -> NDArray[np.float64]:
    """mAP of detection by one head's boxes: (L, R) at L overlaps, where image n is there weights[r, n] times.

    A class with a probability above `LEAST_PROBABILITY` gives one box.

    Args:
        maps: (N, C, h, w) score maps of all images. temperature, threshold: of the boxes, see `boxes_of`.
        weights: (R, N).
    """
    probability = torch.sigmoid(head.pool(maps.flatten(2)[:, None])).double().numpy()  # (N, C)
    image, label = np.nonzero(probability > LEAST_PROBABILITY)
    boxes = boxes_of(maps[image, label], temperature, threshold, size=FINE)
    detections = Detections(image, label, boxes, probability[image, label])
    precision = [detection_precision(detections, objects, least=least, weights=weights) for least in overlaps]
    return np.nanmean(precision, axis=2)  # over classes


def _best_rectangles(pairs: Pairs, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """(P,) whether some rectangle of whole cells would be right: what an oracle could do on the grid."""
    sides = [[(a / n, b / n) for a, b in itertools.combinations(range(n + 1), 2)] for n in grid]
    hit = np.zeros(len(pairs), dtype=bool)
    for (top, bottom), (left, right) in itertools.product(*sides):
        hit |= localised(np.broadcast_to([left, top, right, bottom], (len(pairs), 4)), pairs.boxes)
    return hit


def _compare_boxes(found: dict, pairs: Pairs, weights: NDArray) -> Iterator[dict]:
    """CorLoc and mAP: the ways with their own thresholds in one table, both CAMs with the same ones in another."""
    chosen = [(IOU, way, reference) for way, reference in AGAINST]
    same = [(f"threshold {threshold:g}", CAMS[1], CAMS[0]) for threshold in SAME_THRESHOLDS]
    for rows in (chosen, same):
        for setting, way, reference in rows:
            line = {"setting": setting, "bin": "all", "label": way, "against": reference}
            a, b = found[reference, setting], found[way, setting]
            before, after = (x.fates == "found" for x in (a, b))
            found_boxes = mean_interval(before, after, pairs.image, weights, 2 * len(rows))
            yield {"measure": "CorLoc", **line, **found_boxes}
            ends = interval(b.seen - a.seen, b.drawn - a.drawn, units=weights.shape[1], comparisons=2 * len(rows))
            yield {"measure": "mAP", **line, **ends}


def _truth(objects: Objects) -> dict[str, NDArray]:
    return {
        "image": objects.image.astype(np.uint16),
        "label": objects.label.astype(np.uint8),
        "pixels": np.round(224 * objects.corners).astype(np.uint8),
        "difficult": objects.difficult,
        "pictures": np.array(objects.num_images),
    }
