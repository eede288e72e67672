"""Each method at its own best learning rate, with seeds and new training sets, and every claim in one table.

`run_own_best` trains each method of `METHODS` at a ladder of learning rates on four fifths of the training images, and
takes the rate with the best mAP on the last fifth after the last epoch. Where that is an end of the ladder so far, the
ladder goes on. Then, at its own rate and on all training images, each method is trained with five seeds, and again on
bootstrap samples of the training images; `claims` measures what is claimed. Each step is saved as it ends, so that a
run that was stopped goes on there. The folder of the record holds

run.json      question, methods, their rates, data, versions
plan.json     all that the record depends on: the same plan is not carried out again. The records in data/runs have none
tuning.csv    method, learning rate, and held-out mAP after the last epoch (fractions)
curves.csv    method, seed, epoch, held-out mAP, at the method's own rate: how fast it learns; only of some methods
results.csv   method, kind of run (seed or resample), number, mAP over classes, mAP weighted by positives
classes.csv   class, positives, and each method's mean AP
claims.csv    every claim with its interval, over classes and over positives
scores.npz    ids, targets, classes, and logits of the methods of the headline: `split_bytes` of (seeds, N, C) float16
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from csra_lab._io import strict_json
from csra_lab._io.arrays import joined_bytes, split_bytes, write_arrays
from csra_lab._io.atomic_write import atomic_write
from csra_lab.claims import Claim, claims_from_draws
from csra_lab.datasets import MultiLabelDataset
from csra_lab.metrics import average_precision
from csra_lab.recipes import Recipe
from csra_lab.significance import MeanOver, draw_images, once_and_drawn, weighted_mAP
from csra_lab.study.experiments import describe, drawn_together, source_features
from csra_lab.study.head_stack import learnt, score_heads, train_heads
from csra_lab.study.plans import SOURCES
from csra_lab.study.steps import Steps, is_recorded
from csra_lab.training.feature_cache import FeatureMaps
from csra_lab.training.run_folder import environment, from_logits, to_logits
from csra_lab.training.sampling import hold_out

AVERAGE, CSRA = "average pooling", "CSRA"
Key = TypeVar("Key", bound=Hashable)
LADDER = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 30.0)
"""Learning rates; a method starts at three neighbours and goes on while its best is an end."""
MORE_RESAMPLES = 10
"""Five samples tell a spread badly: one of 48 intervals that hold together reaches 8.5 of its errors; with 15, 4.1."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A head to be trained at its own best rate.

    Attributes:
        changes: what it changes in `plans.BASE`. start: the middle of the three rates that are tried first.
        curve: record how fast it learns.
        headline: train it on `MORE_RESAMPLES` more samples of the training images, and record its logits.
    """

    changes: dict
    start: float = 3e-3
    curve: bool = False
    headline: bool = False


def _csra(heads: int = 1, **changes) -> dict:
    return {"head": "csra", "num_heads": heads, "temperatures": (), **changes}


METHODS: dict[str, Method] = {
    AVERAGE: Method({"head": "average"}, curve=True, headline=True),
    CSRA: Method(_csra(), curve=True, headline=True),
    "spatial only": Method({"head": "spatial"}),
    "max": Method({"head": "max"}, start=1e-2),
    "log-sum-exp": Method({"head": "lse"}),
    "GeM": Method({"head": "gem"}),
    "top-3 mean": Method({"head": "topk"}),
    "lam = 0.1": Method(_csra(lam=0.1)),
    "lam = 1": Method(_csra(lam=1.0)),
    "lam = 2": Method(_csra(lam=2.0)),
    "T = 4": Method(_csra(temperatures=(4.0,))),
    "T = inf": Method(_csra(temperatures=(math.inf,))),
    "H = 2": Method(_csra(2), curve=True),
    "H = 4": Method(_csra(4), start=1e-3, curve=True),
    "H = 8": Method(_csra(8), start=1e-3),
    f"{AVERAGE}, normalised": Method({"head": "average", "normalize": True}, start=3e-2, curve=True),
    f"{CSRA}, normalised": Method(_csra(normalize=True), start=0.3, curve=True),
    "H = 2, normalised": Method(_csra(2, normalize=True), start=0.3, curve=True),
    "H = 4, normalised": Method(_csra(4, normalize=True), start=0.3, curve=True),
}

CLAIMS: tuple[Claim, ...] = (
    *(Claim.difference(b, AVERAGE) for b in (CSRA, "spatial only", "max", "log-sum-exp", "GeM", "top-3 mean")),
    *(Claim.difference(CSRA, b) for b in ("spatial only", "max", "log-sum-exp", "GeM", "top-3 mean")),
    *(Claim.difference(b, CSRA) for b in ("lam = 0.1", "lam = 1", "lam = 2", "T = 4", "T = inf")),
    *(Claim.difference(f"H = {h}", CSRA) for h in (2, 4, 8)),
    *(Claim.difference(f"{m}, normalised", m) for m in (AVERAGE, CSRA, "H = 2", "H = 4")),
    Claim.interaction(
        "gain of CSRA normalised - gain plain", f"{CSRA}, normalised", f"{AVERAGE}, normalised", CSRA, AVERAGE
    ),
)


def run_own_best(
    source: str,
    out: Path,
    *,
    data: Path | None = None,
    cache: Path | None = None,
    methods: Mapping[str, Method] = METHODS,
    claims: Sequence[Claim] = CLAIMS,
    seeds: int = 5,
    resamples: int = 5,
    question: str = "Each method at its own best learning rate: what can be told apart?",
    log: Callable[[str], None] = print,
) -> Path:
    """Tune, train and measure on a source of `plans.SOURCES`, and write `out`/`source`, whole or not at all.

    What has been done is in `out`/`source`.part, and is not done again.

    Args:
        data: folder of the images, where the source has some. cache: folder of the cached features.
        seeds: runs on all training images. resamples: bootstrap samples of them. question: for run.json.
        log: called with a line a step.

    Raises:
        CsraError: a method diverged with one of the seeds; it is not saved as a step.
    """
    sets, maps = source_features(SOURCES[source], data, cache=cache, progress=False)
    train, (split, *_) = maps["trainval"], SOURCES[source].splits
    recipes = {name: _recipe(source, name, method) for name, method in methods.items()}
    folder = Path(out) / source
    plan = {
        "data": {s: describe(d) for s, d in sets.items()},
        "source": {"name": source, **dataclasses.asdict(SOURCES[source])},
        "resamples": resamples,
    }
    settings = {n: {**dataclasses.asdict(method), "recipe": recipes[n].to_json()} for n, method in methods.items()}
    in_steps = {**plan, "methods": settings}
    more = MORE_RESAMPLES * any(method.headline for method in methods.values())
    asked = {**in_steps, "seeds": seeds, "more_resamples": more, "claims": [dataclasses.asdict(c) for c in claims]}
    if is_recorded(folder, asked, log):
        return folder
    steps = Steps(folder.with_name(f"{source}.part"), in_steps, log)
    fit, held_out = hold_out(sets["trainval"], 0.2)
    starts = {name: method.start for name, method in methods.items()}
    tuned = steps.table("tuning", lambda: tuning_table(tune(recipes, starts, train, fit, held_out, log=log)))
    best = best_settings(tuned)
    own = {name: recipe.replace(head_lr=best[name]) for name, recipe in recipes.items()}
    curved = {name: own[name] for name, method in methods.items() if method.curve}
    curves = [
        steps.table(f"curves-{seed}", partial(_curves, curved, seed, train, fit, held_out))
        for seed in range(seeds * bool(curved))
    ]
    scores = [
        steps.array(f"seed-{run}", partial(_trained_scores, own, run, train, None, maps[split])) for run in range(seeds)
    ]
    headline = {name: own[name] for name, method in methods.items() if method.headline}
    again: dict[str, list[NDArray]] = {name: [] for name in methods}
    for run in range(resamples + more):
        wanted = own if run < resamples else headline
        chosen = bootstrap(len(train), run, groups=drawn_together(SOURCES[source], sets["trainval"]))
        drawn = steps.array(f"resample-{run}", partial(_trained_scores, wanted, run, train, chosen, maps[split]))
        for name, of_run in zip(wanted, drawn, strict=True):
            again[name].append(of_run)
    about = {
        "question": question,
        **plan,
        "split": split,
        "methods": {name: recipe.to_json() for name, recipe in own.items()},
        "seeds": seeds,
        "more_resamples": more,
        "environment": environment(torch.device("cpu")),
    }
    write_own_best(
        folder, about, tuned, curves, dict(zip(methods, np.stack(scores, axis=1), strict=True)),
        {name: np.stack(runs) for name, runs in again.items()}, sets[split], claims, with_scores=list(headline),
        groups=drawn_together(SOURCES[source], sets[split]),
    )  # fmt: skip
    steps.finish(folder, asked)
    return folder


def tune(
    recipes: Mapping[Key, Recipe],
    starts: Mapping[Key, float],
    features: FeatureMaps,
    fit: NDArray,
    held_out: NDArray,
    *,
    log: Callable[[str], None] = print,
) -> dict[Key, dict[float, float]]:
    """Method -> learning rate -> held-out mAP after the last epoch, with each method's best inside its rates.

    A rate whose loss diverged counts as 0. Only an end of `LADDER` itself may stay best.

    Args:
        recipes, starts: method -> its recipe, and the rate that is tried first.
        features: of the training split. fit, held_out: (n,) and (m,) indices, see `hold_out`.
    """
    tried: dict[Key, dict[float, float]] = {name: {} for name in recipes}
    wanted = [(name, LADDER[i]) for name in recipes for i in _neighbours(LADDER.index(starts[name]))]
    while wanted:
        trained = train_heads(
            [recipes[name].replace(head_lr=rate) for name, rate in wanted], features, fit=fit, held_out=held_out
        )
        for (name, rate), head in zip(wanted, trained, strict=True):
            tried[name][rate] = 0.0 if head.diverged is not None else float(head.history.validation_mAP.iloc[-1])
        wanted = []
        for name, rates in tried.items():
            best = max(rates, key=rates.__getitem__)
            near = [LADDER[i] for i in _neighbours(LADDER.index(best)) if LADDER[i] not in rates]
            wanted += [(name, rate) for rate in near]
            log(f"{name}: {best:g} of " + ", ".join(f"{r:g} {100 * m:.1f}" for r, m in sorted(rates.items())))
    return tried


def bootstrap(num_images: int, number: int, *, groups: NDArray | None = None) -> NDArray[np.int64]:
    """Training images drawn with replacement, the same for one number on every machine: (N,), sorted.

    Args:
        groups: (N,) images of one number are drawn together, as many groups as there are; it is then about as long.
    """
    random = np.random.default_rng([2021, number])
    if groups is None:
        return np.sort(random.integers(num_images, size=num_images))
    names, of_image = np.unique(groups, return_inverse=True)
    times = np.bincount(random.integers(len(names), size=len(names)), minlength=len(names))
    return np.repeat(np.arange(num_images), times[of_image])


def measured_claims(
    scores: Mapping[str, NDArray],
    results: pd.DataFrame,
    targets: NDArray,
    claims: Sequence[Claim],
    *,
    groups: NDArray | None = None,
    resamples: int = 1000,
) -> pd.DataFrame:
    """Every claim over classes and over positives; all intervals of the table hold together.

    Args:
        scores: method -> (S, N, C) of S seeds. targets: (N, C).
        results: mAPs of the resampled training sets, see `results_table`.
        groups, resamples: how the test images are drawn, see `measure_claims`.
    """
    rows = once_and_drawn(draw_images(len(targets), groups=groups, resamples=resamples))
    again = results[results.kind == "resample"].sort_values("number").groupby("method")
    used = dict.fromkeys(label for claim in claims for label, _ in claim.terms)
    lines = []
    columns: dict[MeanOver, str] = {"classes": "mAP", "positives": "mAP_by_positives"}
    for mean_over, column in columns.items():
        found = claims_from_draws(
            claims,
            {label: weighted_mAP(scores[label], targets, rows, mean_over=mean_over) for label in used},
            units=len(targets) if groups is None else len(np.unique(groups)),
            resampled={method: part[column].to_numpy() for method, part in again},
            mean_over=mean_over,
            comparisons=2 * len(claims),  # the table holds both means
        )
        lines += [claim.to_dict() for claim in found]
    return pd.DataFrame(lines)


def write_own_best(
    folder: Path,
    about: dict,
    tuning: pd.DataFrame,
    curves: Sequence[pd.DataFrame],
    scores: Mapping[str, NDArray],
    again: Mapping[str, NDArray],
    dataset: MultiLabelDataset,
    claims: Sequence[Claim],
    *,
    with_scores: Sequence[str],
    **options,
) -> None:
    """Write a record; every number in it is computed from float16 logits, whether the record holds them or not."""
    logits = {name: to_logits(s) for name, s in scores.items()}
    scores, again = ({k: from_logits(to_logits(s)) for k, s in part.items()} for part in (scores, again))
    with atomic_write(folder) as path:
        path.mkdir(parents=True)
        strict_json.write(path / "run.json", about, indent=1)
        tuning.to_csv(path / "tuning.csv", index=False, float_format="%.6f")
        if curves:
            pd.concat(curves).to_csv(path / "curves.csv", index=False, float_format="%.6f")
        results = results_table(scores, again, dataset.targets)
        results.to_csv(path / "results.csv", index=False, float_format="%.6f")
        _classes(scores, dataset).to_csv(path / "classes.csv", index=False, float_format="%.6f")
        found = measured_claims(scores, results, dataset.targets, claims, **options)
        found.to_csv(path / "claims.csv", index=False, float_format="%.6f")
        truth = {"ids": np.array(dataset.ids), "targets": dataset.targets, "classes": np.array(dataset.classes)}
        seeds = {f"seeds, {name}": split_bytes(logits[name]) for name in with_scores}
        write_arrays(path / "scores.npz", truth | seeds)


def read_own_best(folder: Path) -> tuple[dict[str, NDArray], NDArray, list[str]]:
    """Method of the headline -> (seeds, N, C) probabilities; (N, C) targets; the classes."""
    with np.load(Path(folder) / "scores.npz", allow_pickle=False) as content:
        kept = {key.removeprefix("seeds, "): content[key] for key in content.files if key.startswith("seeds, ")}
        scores = {name: from_logits(joined_bytes(planes)) for name, planes in kept.items()}
        return scores, content["targets"], content["classes"].tolist()


def _neighbours(i: int) -> range:
    return range(max(i - 1, 0), min(i + 2, len(LADDER)))


def _recipe(source: str, name: str, method: Method) -> Recipe:
    return SOURCES[source].recipe(name, **method.changes)


def tuning_table(tuned: Mapping[str, Mapping[float, float]]) -> pd.DataFrame:
    """method, learning rate and held-out mAP of what `tune` returns, a line for each rate."""
    lines = [(name, rate, mAP) for name, rates in tuned.items() for rate, mAP in sorted(rates.items())]
    return pd.DataFrame(lines, columns=["method", "head_lr", "held_out_mAP"])


def best_settings(tuning: pd.DataFrame, column: str = "head_lr") -> dict[str, float]:
    """Method -> the value in this column with its best held-out mAP, of a table such as `tuning_table` makes."""
    return {name: rows.set_index(column).held_out_mAP.idxmax() for name, rows in tuning.groupby("method")}


def _curves(recipes: Mapping[str, Recipe], seed: int, features: FeatureMaps, fit, held_out) -> pd.DataFrame:
    """method, seed, epoch, and held-out mAP of every recipe, trained on `fit`."""
    seeded = [recipe.replace(seed=seed) for recipe in recipes.values()]
    trained = learnt(train_heads(seeded, features, fit=fit, held_out=held_out))
    parts = {name: head.history.set_index("epoch").validation_mAP for name, head in zip(recipes, trained, strict=True)}
    table = pd.concat(parts, names=["method"]).rename("held_out_mAP").reset_index()
    table.insert(1, "seed", seed)
    return table


def _trained_scores(recipes: Mapping[str, Recipe], seed: int, features: FeatureMaps, fit, test: FeatureMaps) -> NDArray:
    """(methods, N, C) probabilities on the test images of every recipe, trained with one seed on `fit`, or on all."""
    trained = learnt(train_heads([recipe.replace(seed=seed) for recipe in recipes.values()], features, fit=fit))
    return score_heads([t.head for t in trained], test)


def results_table(scores: Mapping[str, NDArray], again: Mapping[str, NDArray], targets: NDArray) -> pd.DataFrame:
    """method, kind of run, number, and mAP over classes and over positives (fractions).

    Args:
        scores, again: method -> (S, N, C) of S seeds, and (K, N, C) of K resampled training sets. targets: (N, C).
    """
    once, lines = np.ones((1, len(targets)), dtype=np.int64), []
    for kind, part in (("seed", scores), ("resample", again)):
        for name, runs in part.items():
            over = [weighted_mAP(runs, targets, once, mean_over=m)[:, 0] for m in ("classes", "positives")]
            for number, (classes, positives) in enumerate(zip(*over, strict=True)):
                lines.append({"method": name, "kind": kind, "number": number, "mAP": classes,
                              "mAP_by_positives": positives})  # fmt: skip
    return pd.DataFrame(lines)


def mean_AP(runs: NDArray, targets: NDArray) -> NDArray[np.float64]:
    """(C,) AP of every class, the mean over the runs.

    Args:
        runs: (S, N, C) scores of S runs. targets: (N, C).
    """
    return np.mean([average_precision(each, targets, ap="average") for each in runs], axis=0)


def _classes(scores: Mapping[str, NDArray], dataset: MultiLabelDataset) -> pd.DataFrame:
    frame = pd.DataFrame({"class": dataset.classes, "positives": (dataset.targets == 1).sum(axis=0)})
    for name, runs in scores.items():
        frame[name] = mean_AP(runs, dataset.targets)
    return frame
