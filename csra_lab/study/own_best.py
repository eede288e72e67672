"""Each method at its own best learning rate, with seeds and new training sets, and every claim in one table.

`run_own_best` trains each method of `METHODS` at a ladder of learning rates on four fifths of the training images, and
takes the rate with the best mAP on the last fifth after the last epoch. Where that is an end of the ladder so far, the
ladder goes on. Then, at its own rate and on all training images, each method is trained with five seeds, and again on
bootstrap samples of the training images; `claims` measures what is claimed. The folder of the record holds

run.json      question, methods, ladders, data, versions
tuning.csv    method, learning rate, and held-out mAP after the last epoch (fractions)
results.csv   method, kind of run (seed or resample), number, mAP over classes, mAP weighted by positives
classes.csv   class, positives, and each method's mean AP
claims.csv    every claim with its interval, over classes and over positives
scores.npz    ids, targets, classes, and (seeds, N, C) and (resamples, N, C) float16 logits of each method
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from csra_lab._io import strict_json
from csra_lab._io.atomic_write import atomic_write
from csra_lab.claims import Claim, measure_claims
from csra_lab.datasets import MultiLabelDataset
from csra_lab.metrics import average_precision
from csra_lab.recipes import Recipe
from csra_lab.significance import weighted_mAP
from csra_lab.study.experiments import describe, source_features
from csra_lab.study.head_stack import score_heads, train_heads
from csra_lab.study.plans import BASE, SOURCES
from csra_lab.training.feature_cache import FeatureMaps
from csra_lab.training.run_folder import environment, from_logits, to_logits
from csra_lab.training.sampling import hold_out

AVERAGE, CSRA = "average pooling", "CSRA"
LADDER = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 30.0)
"""Learning rates; a method starts at three neighbours and goes on while its best is an end."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A head to be trained at its own best rate.

    Attributes:
        changes: what it changes in `plans.BASE`. start: the middle of the three rates that are tried first.
        resample: train it on bootstrap samples of the training images too.
    """

    changes: dict
    start: float = 3e-3
    resample: bool = True


def _csra(heads: int = 1, **changes) -> dict:
    return {"head": "csra", "num_heads": heads, "temperatures": (), **changes}


METHODS: dict[str, Method] = {
    AVERAGE: Method({"head": "average"}),
    CSRA: Method(_csra()),
    "spatial only": Method({"head": "spatial"}),
    "max": Method({"head": "max"}),
    "lam = 0.1": Method(_csra(lam=0.1), resample=False),
    "lam = 1": Method(_csra(lam=1.0)),
    "T = 4": Method(_csra(temperatures=(4.0,)), resample=False),
    "T = inf": Method(_csra(temperatures=(math.inf,)), resample=False),
    "H = 2": Method(_csra(2)),
    "H = 4": Method(_csra(4), resample=False),
    "H = 8": Method(_csra(8), start=1e-3, resample=False),
    f"{AVERAGE}, normalised": Method({"head": "average", "normalize": True}, start=0.1),
    f"{CSRA}, normalised": Method(_csra(normalize=True), start=0.1),
    "H = 2, normalised": Method(_csra(2, normalize=True), start=0.1, resample=False),
    "H = 4, normalised": Method(_csra(4, normalize=True), start=0.1, resample=False),
}

CLAIMS: tuple[Claim, ...] = (
    *(Claim.difference(b, AVERAGE) for b in (CSRA, "spatial only", "max")),
    *(Claim.difference(CSRA, b) for b in ("spatial only", "max")),
    *(Claim.difference(b, CSRA) for b in ("lam = 0.1", "lam = 1", "T = 4", "T = inf", "H = 2", "H = 4", "H = 8")),
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
    resamples: int = 10,
    say: Callable[[str], None] = print,
) -> Path:
    """Tune, train and measure on a source of `plans.SOURCES`, and write `out`/`source`, whole or not at all.

    Args:
        data: folder of the images, where the source has some. cache: folder of the cached features.
        seeds: runs on all training images. resamples: bootstrap samples of them. say: is told of every step.
    """
    sets, maps = source_features(SOURCES[source], data, cache=cache, progress=False)
    recipes = {name: _recipe(source, name, method) for name, method in methods.items()}
    fit, held_out = hold_out(sets["trainval"], 0.2)
    tuned = tune(recipes, {m: methods[m].start for m in methods}, maps["trainval"], fit, held_out, say=say)
    best = {name: max(rates, key=rates.get) for name, rates in tuned.items()}
    split = SOURCES[source].splits[0]
    test = maps[split]
    scores = {name: [] for name in methods}
    again = {name: [] for name, method in methods.items() if method.resample}
    for run in range(max(seeds, resamples)):
        if run < seeds:
            _train_into(scores, recipes, best, run, maps["trainval"], None, test)
        if run < resamples:
            _train_into(again, recipes, best, run, maps["trainval"], bootstrap(len(maps["trainval"]), run), test)
        say(f"run {run + 1}: " + ", ".join(f"{m} {100 * _mAP(s[-1], test.targets):.1f}" for m, s in scores.items()))
    folder = Path(out) / source
    about = {
        "question": "Each method at its own best learning rate: what can be told apart?",
        "source": {"name": source, **dataclasses.asdict(SOURCES[source])},
        "split": split,
        "methods": {name: recipes[name].replace(head_lr=best[name]).to_json() for name in methods},
        "seeds": seeds,
        "resamples": resamples,
        "data": {s: describe(d) for s, d in sets.items()},
        "environment": environment(torch.device("cpu")),
    }
    stacked = ({name: np.stack(runs) for name, runs in part.items()} for part in (scores, again))
    write_own_best(folder, about, tuned, *stacked, sets[split], claims)
    return folder


def tune(
    recipes: Mapping[str, Recipe],
    starts: Mapping[str, float],
    features: FeatureMaps,
    fit: NDArray,
    held_out: NDArray,
    *,
    say: Callable[[str], None] = print,
) -> dict[str, dict[float, float]]:
    """Method -> learning rate -> held-out mAP after the last epoch, with each method's best inside its rates.

    A rate whose loss diverged counts as 0. Only an end of `LADDER` itself may stay best.

    Args:
        recipes, starts: method -> its recipe, and the rate that is tried first.
        features: of the training split. fit, held_out: (n,) and (m,) indices, see `hold_out`.
    """
    tried: dict[str, dict[float, float]] = {name: {} for name in recipes}
    wanted = [(name, LADDER[i]) for name in recipes for i in _neighbours(LADDER.index(starts[name]))]
    while wanted:
        trained = train_heads(
            [recipes[name].replace(head_lr=rate) for name, rate in wanted], features, fit=fit, held_out=held_out
        )
        for (name, rate), head in zip(wanted, trained, strict=True):
            tried[name][rate] = 0.0 if head.diverged is not None else float(head.history.validation_mAP.iloc[-1])
        wanted = []
        for name, rates in tried.items():
            best = max(rates, key=rates.get)
            near = [LADDER[i] for i in _neighbours(LADDER.index(best)) if LADDER[i] not in rates]
            wanted += [(name, rate) for rate in near]
            say(f"{name}: {best:g} of " + ", ".join(f"{r:g} {100 * m:.1f}" for r, m in sorted(rates.items())))
    return tried


def bootstrap(num_images: int, number: int) -> NDArray[np.int64]:
    """(N,) training images drawn with replacement, the same for one number on every machine."""
    return np.sort(np.random.default_rng([2021, number]).integers(num_images, size=num_images))


def measured_claims(
    scores: Mapping[str, NDArray], again: Mapping[str, NDArray], targets: NDArray, claims: Sequence[Claim], **options
) -> pd.DataFrame:
    """Every claim over classes and over positives; all intervals of the table hold together.

    Args:
        scores, again: method -> (S, N, C) of S seeds, and of as many resampled training sets. targets: (N, C).
        claims, options: see `measure_claims`.
    """
    lines = []
    for mean_over in ("classes", "positives"):
        options |= {"comparisons": 2 * len(claims)}  # the table holds both means
        found = measure_claims(claims, scores, targets, resampled=again, mean_over=mean_over, **options)
        lines += [dataclasses.asdict(claim) | {"verdict": claim.verdict()} for claim in found]
    return pd.DataFrame(lines)


def write_own_best(
    folder: Path,
    about: dict,
    tuned: Mapping[str, Mapping[float, float]],
    scores: Mapping[str, NDArray],
    again: Mapping[str, NDArray],
    dataset: MultiLabelDataset,
    claims: Sequence[Claim],
    **options,
) -> None:
    """Write a record; every number in it is computed from the scores as they are kept."""
    kept = {f"seeds, {name}": to_logits(s) for name, s in scores.items()}
    kept |= {f"resamples, {name}": to_logits(s) for name, s in again.items()}
    scores = {name: from_logits(kept[f"seeds, {name}"]) for name in scores}
    again = {name: from_logits(kept[f"resamples, {name}"]) for name in again}
    tuning = [{"method": m, "head_lr": r, "held_out_mAP": round(x, 6)} for m, rates in tuned.items()
              for r, x in sorted(rates.items())]  # fmt: skip
    with atomic_write(folder) as path:
        path.mkdir(parents=True)
        strict_json.write(path / "run.json", about, indent=1)
        pd.DataFrame(tuning).to_csv(path / "tuning.csv", index=False)
        _results(scores, again, dataset.targets).to_csv(path / "results.csv", index=False, float_format="%.6f")
        _classes(scores, dataset).to_csv(path / "classes.csv", index=False, float_format="%.6f")
        found = measured_claims(scores, again, dataset.targets, claims, **options)
        found.to_csv(path / "claims.csv", index=False, float_format="%.6f")
        truth = {"ids": np.array(dataset.ids), "targets": dataset.targets, "classes": np.array(dataset.classes)}
        np.savez_compressed(path / "scores.npz", **truth, **kept)


def read_own_best(folder: Path) -> tuple[dict[str, NDArray], dict[str, NDArray], NDArray, list[str]]:
    """Method -> (seeds, N, C) and (resamples, N, C) probabilities; (N, C) targets; the classes."""
    with np.load(Path(folder) / "scores.npz", allow_pickle=False) as content:
        parts = [
            {k.removeprefix(f"{kind}, "): from_logits(content[k]) for k in content.files if k.startswith(f"{kind}, ")}
            for kind in ("seeds", "resamples")
        ]
        return *parts, content["targets"], content["classes"].tolist()


def _neighbours(i: int) -> range:
    return range(max(i - 1, 0), min(i + 2, len(LADDER)))


def _recipe(source: str, name: str, method: Method) -> Recipe:
    where = SOURCES[source]
    fields = {"dataset": where.dataset, "backbone": where.backbone, "image_size": where.image_size}
    return BASE.replace(name=name, **fields, classes=where.classes, **method.changes)


def _train_into(scores, recipes, best, run: int, features: FeatureMaps, fit: NDArray | None, test: FeatureMaps) -> None:
    """Train every method of `scores` with one seed, and append its (N, C) probabilities."""
    names = list(scores)
    trained = train_heads([recipes[n].replace(head_lr=best[n], seed=run) for n in names], features, fit=fit)
    for name, of_head in zip(names, score_heads([t.head for t in trained], test), strict=True):
        scores[name].append(of_head)


def _mAP(scores: NDArray, targets: NDArray) -> float:
    return float(np.nanmean(average_precision(scores, targets)))


def _results(scores: Mapping[str, NDArray], again: Mapping[str, NDArray], targets: NDArray) -> pd.DataFrame:
    once = np.ones((1, len(targets)), dtype=np.int64)
    lines = []
    for kind, part in (("seed", scores), ("resample", again)):
        for name, runs in part.items():
            over = [weighted_mAP(runs, targets, once, mean_over=m)[:, 0] for m in ("classes", "positives")]
            for number, (classes, positives) in enumerate(zip(*over, strict=True)):
                lines.append({"method": name, "kind": kind, "number": number, "mAP": classes,
                              "mAP_by_positives": positives})  # fmt: skip
    return pd.DataFrame(lines)


def _classes(scores: Mapping[str, NDArray], dataset: MultiLabelDataset) -> pd.DataFrame:
    frame = pd.DataFrame({"class": dataset.classes, "positives": (dataset.targets == 1).sum(axis=0)})
    for name, runs in scores.items():
        frame[name] = np.mean([average_precision(s, dataset.targets, ap="average") for s in runs], axis=0)
    return frame
