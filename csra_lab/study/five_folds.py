"""Five folds: every photograph is tested once, so that rare classes have two and a half times as many test images.

The 3,014 photographs of the single split are in five folds (`datasets.splits`). In each fold both heads choose their
learning rate on a fifth of the training images, are trained on all of them with every seed, and score the fold's test
images. The scores of the five folds together are those of 3,014 images, none of which was trained on by the head that
scored it. The record is a folder of

run.json      question, recipe, seeds, data, versions
plan.json     all that the record depends on: the same plan is not carried out again. The records in data/runs have none
tuning.csv    fold, method, learning rate, held-out mAP after the last epoch (fractions)
results.csv   method, seed, fold ("all" for the five together), mAP over classes, mAP weighted by positives
classes.csv   class, its positives, and each method's AP on the five folds together, the mean over the seeds
claims.csv    every claim with its interval, over classes and over positives
draws.npz     "MEAN, METHOD" -> (S, 1 + R) uint16: the mAP of the five folds together, as they are and on R bootstrap
              draws of the images, in units of 1 / 65,535
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from csra_lab._io import strict_json
from csra_lab._io.arrays import write_arrays
from csra_lab._io.atomic_write import atomic_write
from csra_lab.catalog import load_dataset
from csra_lab.claims import Claim, claims_from_draws
from csra_lab.datasets import MultiLabelDataset
from csra_lab.datasets.splits import NUM_FOLDS, fold_of
from csra_lab.heads import ScoreMapHead, four_lines_head
from csra_lab.recipes import Recipe
from csra_lab.significance import MEANS, draw_images, once_and_drawn, weighted_mAP
from csra_lab.study.experiments import describe, source_backbone
from csra_lab.study.grid_draws import RESAMPLES, as_whole
from csra_lab.study.grid_draws import UNIT_OF_RUNS as UNIT
from csra_lab.study.head_stack import learnt, score_heads, train_heads
from csra_lab.study.own_best import AVERAGE, CSRA, METHODS, best_settings, mean_AP, tune, tuning_table
from csra_lab.study.plans import SOURCES
from csra_lab.study.steps import Steps, is_recorded
from csra_lab.training.feature_cache import FeatureMaps, cache_features
from csra_lab.training.run_folder import environment, from_logits, to_logits
from csra_lab.training.sampling import hold_out

LAM = 0.2
"""Of the four lines: what the paper fixes for all networks but ResNets."""
LINES = f"four lines, lam = {LAM:g}"
ROWS = (AVERAGE, LINES, CSRA)
CLAIMS = (Claim.difference(CSRA, AVERAGE), Claim.difference(LINES, AVERAGE), Claim.difference(CSRA, LINES))
SPLITS = ("sample-trainval", "sample-test")
"""The shipped splits that hold the images of the folds."""


def run_five_folds(
    out: Path,
    *,
    data: Path | None = None,
    seeds: int = 3,
    log: Callable[[str], None] = print,
) -> Path:
    """Tune, train and measure in every fold, and write `out`/five-folds, whole or not at all.

    What has been done is in `out`/five-folds.part, and is not done again.

    Args:
        data: folder of VOC2012. seeds: of each fold.
        log: called with a line a step.
    """
    folder = Path(out) / "five-folds"
    recipes = {name: SOURCES["photographs"].recipe(name, **METHODS[name].changes) for name in (AVERAGE, CSRA)}
    sets, features = pool(data)
    plan = {
        "data": {d.split: describe(d) for d in sets},
        "source": dataclasses.asdict(SOURCES["photographs"]),
        "recipes": {name: recipe.to_json() for name, recipe in recipes.items()},
    }
    asked = {**plan, "seeds": seeds}
    if is_recorded(folder, asked, log):
        return folder
    steps = Steps(folder.with_name("five-folds.part"), plan, log)
    targets = np.concatenate([d.targets for d in sets])
    folds = np.array([fold_of(i) for d in sets for i in d.ids])
    tuned, scores = [], np.empty((len(ROWS), seeds, *targets.shape))
    for fold in range(NUM_FOLDS):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        table = steps.table(f"tuning-{fold}", partial(_tune, recipes, features, *_hold_out(sets, train), log))
        tuned.append(table.assign(fold=fold))
        best = best_settings(table)
        own = [recipe.replace(head_lr=float(best[name])) for name, recipe in recipes.items()]
        for seed in range(seeds):
            make = partial(_scores, own, seed, features, train, test)
            scores[:, seed, test] = steps.array(f"fold-{fold}-seed-{seed}", make)
    about = {
        "question": "Does CSRA beat average pooling where every photograph is tested once, in five folds?",
        "recipes": plan["recipes"],
        "seeds": seeds,
        "folds": NUM_FOLDS,
        "data": plan["data"],
        "environment": environment(torch.device("cpu")),
    }
    by_method = dict(zip(ROWS, from_logits(to_logits(scores)), strict=True))
    write_five_folds(folder, about, pd.concat(tuned), by_method, targets, folds, sets[0].classes)
    steps.finish(folder, asked)
    return folder


def pool(data: Path | None) -> tuple[list[MultiLabelDataset], FeatureMaps]:
    """The two data sets of `SPLITS`, and the features of both in one, with mirror images."""
    where = SOURCES["photographs"]
    backbone = source_backbone(where)
    sets = [load_dataset(where.dataset, data, split, classes=where.classes) for split in SPLITS]
    parts = [cache_features(backbone, d, mirror=True, progress=False) for d in sets]
    maps = torch.cat([part.maps for part in parts])  # (N, 2, d, h, w)
    return sets, FeatureMaps(maps, np.concatenate([part.targets for part in parts]))


def write_five_folds(
    folder: Path,
    about: dict,
    tuning: pd.DataFrame,
    scores: Mapping[str, NDArray],
    targets: NDArray,
    folds: NDArray,
    classes: tuple[str, ...],
) -> None:
    """Write the record.

    Args:
        scores: method -> (S, N, C). targets: (N, C). folds: (N,) the fold that tests each image.
    """
    rows = once_and_drawn(draw_images(len(targets), resamples=RESAMPLES))
    draws = {}
    for name, each in scores.items():
        for mean_over in MEANS:
            mAPs = weighted_mAP(each, targets, rows, mean_over=mean_over)  # (S, 1 + R)
            draws[f"{mean_over}, {name}"] = as_whole(mAPs, UNIT)
    by_class = pd.DataFrame({"class": classes, "positives": (targets == 1).sum(axis=0)})
    for name, each in scores.items():
        by_class[name] = mean_AP(each, targets)
    with atomic_write(folder) as path:
        path.mkdir(parents=True)
        strict_json.write(path / "run.json", about | {"images": len(targets)}, indent=1)
        tuning.to_csv(path / "tuning.csv", index=False, float_format="%.6f")
        _results(scores, targets, folds).to_csv(path / "results.csv", index=False, float_format="%.6f")
        by_class.to_csv(path / "classes.csv", index=False, float_format="%.6f")
        claims_of(draws, len(targets)).to_csv(path / "claims.csv", index=False, float_format="%.6f")
        write_arrays(path / "draws.npz", draws)


def claims_of(draws: Mapping[str, NDArray], num_images: int) -> pd.DataFrame:
    """The claims of `CLAIMS` over classes and over positives; all intervals hold together.

    Args:
        draws: as in draws.npz.
    """
    lines = []
    for mean_over in MEANS:
        mAPs = {name: draws[f"{mean_over}, {name}"] / UNIT for name in ROWS}
        comparisons = len(MEANS) * len(CLAIMS)
        found = claims_from_draws(CLAIMS, mAPs, units=num_images, mean_over=mean_over, comparisons=comparisons)
        lines += [claim.to_dict() for claim in found]
    return pd.DataFrame(lines)


def _results(scores: Mapping[str, NDArray], targets: NDArray, folds: NDArray) -> pd.DataFrame:
    """mAP of every method, seed and fold, and of the five together."""
    lines = []
    for fold in ("all", *range(NUM_FOLDS)):
        images = slice(None) if fold == "all" else folds == fold
        once = np.ones((1, len(targets[images])), dtype=np.int64)
        for name, each in scores.items():
            over = [weighted_mAP(each[:, images], targets[images], once, mean_over=m)[:, 0] for m in MEANS]
            lines += [
                {"method": name, "seed": seed, "fold": fold, "mAP": mAP, "mAP_by_positives": by_positives}
                for seed, (mAP, by_positives) in enumerate(zip(*over, strict=True))
            ]
    return pd.DataFrame(lines)


def _hold_out(sets: list[MultiLabelDataset], train: NDArray) -> tuple[NDArray, NDArray]:
    """The training images `train` of a fold, (n,) rows of all sets together, less a fifth; and that fifth."""
    start, parts = 0, []
    for dataset in sets:
        rows = train[(train >= start) & (train < start + len(dataset))]
        parts.append([rows[part] for part in hold_out(dataset.subset(rows - start), 0.2)])
        start += len(dataset)
    fit, held_out = (np.concatenate(part) for part in zip(*parts, strict=True))
    return fit, held_out


def _tune(recipes: Mapping[str, Recipe], features: FeatureMaps, fit: NDArray, held_out: NDArray, log) -> pd.DataFrame:
    """method, learning rate, held-out mAP of one fold, whose training images are `fit` and `held_out`."""
    return tuning_table(tune(recipes, dict.fromkeys(recipes, 3e-3), features, fit, held_out, log=log))


def _scores(recipes: list[Recipe], seed: int, features: FeatureMaps, train: NDArray, test: NDArray) -> NDArray:
    """(3, n, C) probabilities of `ROWS` on the test images of a fold."""
    average, csra = learnt(train_heads([recipe.replace(seed=seed) for recipe in recipes], features, fit=train))
    heads: list[ScoreMapHead] = [average.head, four_lines_head(average.head, LAM), csra.head]
    return score_heads(heads, features.subset(test))
