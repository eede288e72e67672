"""Whose gain depends on the backbone? Average pooling, the four lines and CSRA on several frozen networks.

On each network both heads have their own best learning rate, and the four lines their own best lambda, chosen on
held-out images (`study.own_best`); the four lines at lambda 0.2, which the paper fixes for all but ResNets, stand
beside them. The course's conclusion, that the backbone has no significant effect, is two claims: the mAP of average
pooling is the same on two networks, and so is CSRA's gain. The record is a folder of

run.json      question, networks, chosen rates and lambdas, data, versions
plan.json     all that the record depends on: the same plan is not carried out again. The records in data/runs have none
tuning.csv    network, method, learning rate or lambda, and held-out mAP (fractions)
results.csv   network, method, kind of run (seed or resample), number, mAP over classes, mAP weighted by positives
claims.csv    every claim with its interval, over classes and over positives
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
from csra_lab._io.atomic_write import atomic_write
from csra_lab.claims import Claim
from csra_lab.errors import MissingFile
from csra_lab.heads import four_lines_head
from csra_lab.metrics import average_precision
from csra_lab.recipes import Recipe
from csra_lab.study.experiments import describe, drawn_together, source_features
from csra_lab.study.head_stack import learnt, score_heads, train_heads
from csra_lab.study.own_best import AVERAGE, CSRA, best_settings, bootstrap, measured_claims, results_table, tune
from csra_lab.study.plans import FOUR_LINES, SOURCES, Source
from csra_lab.study.steps import Steps, is_recorded
from csra_lab.training.feature_cache import FeatureMaps
from csra_lab.training.run_folder import environment, from_logits, to_logits
from csra_lab.training.sampling import hold_out

FIXED, TUNED = "four lines, lam = 0.2", "four lines, lam tuned"
METHODS = (AVERAGE, FIXED, TUNED, CSRA)
START = 3e-3
"""The learning rate that is tried first."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A frozen network with ImageNet weights.

    Attributes:
        backbone: timm's name. image_size: side of the input in pixels.
        weights: "installed", or the name of a file in the folder of weights; without a folder timm downloads them.
    """

    backbone: str
    image_size: int
    weights: str = "installed"


NETWORKS: dict[str, Network] = {
    "EfficientNet-Lite0": Network("tf_efficientnet_lite0", 224),
    "EfficientNet-Lite1": Network("tf_efficientnet_lite1", 240),
    "EfficientNet-Lite2": Network("tf_efficientnet_lite2", 260),
    "EfficientNet-Lite3": Network("tf_efficientnet_lite3", 280, "tf_efficientnet_lite3-int8.safetensors"),
    "MobileNetV2": Network("mobilenetv2_100", 224, "mobilenetv2_100-torch-float.safetensors"),
    "ResNet18 to layer3": Network("resnet18-layer3", 224, "resnet18-stages1to3-float.safetensors"),
}
"""The first is what the others are compared with."""
SIZES: dict[str, Network] = {f"{size} pixels": Network("tf_efficientnet_lite0", size) for size in (224, 448)}
"""One network on images of two sizes: what most replications use, and the paper's."""
CROSSED: dict[str, Network] = {
    f"{name}, {size} pixels": dataclasses.replace(NETWORKS[name], image_size=size)
    for name in ("EfficientNet-Lite0", "EfficientNet-Lite3")
    for size in (224, 280)
}
"""Two networks on images of two sizes, each network's own among them: which of both makes CSRA gain more?"""


def run_backbone_gains(
    source: str,
    out: Path,
    *,
    data: Path | None = None,
    weights: Path | None = None,
    cache: Path | None = None,
    networks: Mapping[str, Network] = NETWORKS,
    seeds: int = 3,
    resamples: int = 3,
    question: str = "Does CSRA's gain depend on the backbone?",
    log: Callable[[str], None] = print,
) -> Path:
    """Measure every network on a source of `plans.SOURCES`, and write `out`/`source`, whole or not at all.

    What has been done is in `out`/`source`.part, and is not done again.

    Args:
        data: folder of the images. cache: folder of the cached features.
        weights: folder of the weight files; None to download those that are not installed.
        seeds: runs on all training images. resamples: bootstrap samples of them. question: for run.json.
        log: called with a line a step.

    Raises:
        MissingFile: a weight file that `weights` has not, before anything is measured.
    """
    folder = Path(out) / source
    for network in networks.values():
        if weights is not None and network.weights != "installed" and not (Path(weights) / network.weights).is_file():
            raise MissingFile(f"{weights} has no {network.weights}; without --weights it is downloaded.")
    sources = {name: _source(source, network, weights and Path(weights)) for name, network in networks.items()}
    plan: dict = {
        "source": {"name": source, **dataclasses.asdict(SOURCES[source])},
        "networks": {name: dataclasses.asdict(network) for name, network in networks.items()},
        "weights": {name: Path(str(where.weights)).name for name, where in sources.items()},
        "recipes": {name: recipe.to_json() for name, recipe in _recipes(SOURCES[source]).items()},
    }
    tunings: list[pd.DataFrame] = []
    chosen: dict[str, dict[str, float]] = {}
    trained: dict[str, dict[str, NDArray]] = {"seed": {}, "resample": {}}
    for name, where in sources.items():
        sets, maps = source_features(where, data, cache=cache)
        plan["data"] = {s: describe(dataset) for s, dataset in sets.items()}  # the same for every network
        asked = {**plan, "seeds": seeds, "resamples": resamples}
        if is_recorded(folder, asked, log):
            return folder
        steps = Steps(folder.with_name(f"{source}.part"), plan, log)
        recipes = _recipes(where)
        fit, held_out = hold_out(sets["trainval"], 0.2)
        split = where.splits[0]
        groups = {s: drawn_together(where, sets[s]) for s in ("trainval", split)}
        tuning = steps.table(f"{name}-tuning", partial(_tune, recipes, maps, fit, held_out, log))
        best = best_settings(tuning, "setting")
        own = {method: recipe.replace(head_lr=float(best[method])) for method, recipe in recipes.items()}
        scored = partial(_scores, own, best[TUNED], maps, split, groups["trainval"])
        for kind, runs in (("seed", seeds), ("resample", resamples)):
            stacked = [steps.array(f"{name}-{kind}-{run}", partial(scored, kind, run)) for run in range(runs)]
            by_method = zip(METHODS, np.stack(stacked, axis=1), strict=True)
            trained[kind] |= {f"{name}: {m}": np.stack(s) for m, s in by_method}
        tunings.append(tuning.assign(network=name))
        chosen[name] = best
    about = {
        "question": question,
        "source": source,
        "networks": plan["networks"],
        "chosen": chosen,
        "seeds": seeds,
        "resamples": resamples,
        "data": plan["data"],
        "environment": environment(torch.device("cpu")),
    }
    scores, again = ({k: from_logits(to_logits(s)) for k, s in part.items()} for part in trained.values())
    targets = sets[split].targets
    with atomic_write(folder) as path:
        path.mkdir(parents=True)
        strict_json.write(path / "run.json", about, indent=1)
        pd.concat(tunings).to_csv(path / "tuning.csv", index=False, float_format="%.6f")
        results = results_table(scores, again, targets)
        found = measured_claims(scores, results, targets, claims_of(tuple(networks)), groups=groups[split])
        results[["network", "method"]] = results.method.str.split(": ", n=1, expand=True)
        results.to_csv(path / "results.csv", index=False, float_format="%.6f")
        found.to_csv(path / "claims.csv", index=False, float_format="%.6f")
    steps.finish(folder, asked)
    return folder


def claims_of(networks: tuple[str, ...]) -> list[Claim]:
    """The gains on every network, and of every other network against the first: mAP, and CSRA's gain."""
    first, *others = networks
    gains = [Claim.difference(f"{n}: {m}", f"{n}: {AVERAGE}") for n in networks for m in METHODS[1:]]
    levels = [Claim.difference(f"{n}: {AVERAGE}", f"{first}: {AVERAGE}") for n in others]
    return [
        *gains,
        *levels,
        *(
            Claim.interaction(
                f"gain on {n} - gain on {first}", f"{n}: {CSRA}", f"{n}: {AVERAGE}", f"{first}: {CSRA}",
                f"{first}: {AVERAGE}",
            )
            for n in others
        ),
    ]  # fmt: skip


def _source(source: str, network: Network, weights: Path | None) -> Source:
    own = network.weights if network.weights == "installed" else "hub" if weights is None else weights / network.weights
    return dataclasses.replace(
        SOURCES[source], backbone=network.backbone, image_size=network.image_size, weights=str(own), mirror=False
    )


def _recipes(source: Source) -> dict[str, Recipe]:
    heads = {AVERAGE: {"head": "average"}, CSRA: {"head": "csra"}}
    return {method: source.recipe(method, **changes) for method, changes in heads.items()}


def _tune(recipes: Mapping[str, Recipe], maps: Mapping[str, FeatureMaps], fit, held_out, log) -> pd.DataFrame:
    """method, setting, held_out_mAP: rates of both heads, and lambdas on average pooling at its own rate."""
    train = maps["trainval"]
    tuned = tune(recipes, dict.fromkeys(recipes, START), train, fit, held_out, log=log)
    best = max(tuned[AVERAGE], key=tuned[AVERAGE].__getitem__)
    (trained,) = learnt(train_heads([recipes[AVERAGE].replace(head_lr=best)], train, fit=fit))
    held = train.subset(held_out)
    lines = score_heads([four_lines_head(trained.head, lam) for lam in FOUR_LINES], held)
    tuned[TUNED] = {
        lam: float(np.nanmean(average_precision(scores, held.targets)))
        for lam, scores in zip(FOUR_LINES, lines, strict=True)
    }
    rows = [(method, setting, mAP) for method, tried in tuned.items() for setting, mAP in sorted(tried.items())]
    return pd.DataFrame(rows, columns=["method", "setting", "held_out_mAP"])


def _scores(own: Mapping[str, Recipe], lam: float, maps, split: str, groups, kind: str, run: int) -> NDArray:
    """(methods, N, C) probabilities of one run; groups: see `bootstrap`."""
    train = maps["trainval"]
    fit = bootstrap(len(train), run, groups=groups) if kind == "resample" else None
    trained = learnt(train_heads([own[m].replace(seed=run) for m in (AVERAGE, CSRA)], train, fit=fit))
    average, csra = (t.head for t in trained)
    heads = [average, four_lines_head(average, 0.2), four_lines_head(average, float(lam)), csra]
    return score_heads(heads, maps[split])
