"""CSRA among its relatives: every head at its own best setting, with seeds, new training sets, cost and calibration.

Each head has two settings of its own (`RELATIVES`) and three learning rates each, with more where the best is an end of
them (`own_best.tune`); the setting and rate with the best mAP on held-out training images are then used for all runs:
with seeds, on all training images, and on bootstrap samples of them with a seed each. Every step is saved as it ends,
so that a study that was stopped goes on; the last removes the steps. Its record is written after tuning, and again
after each run from the second on; `runs` in it says how many it has. It is a folder, of which the first two files are
there from the start:

run.json          question, heads with their settings, runs, data, versions
tuning.csv        head, setting, learning rate, and held-out mAP after the last epoch (fractions)
results.csv       head, kind of run (seed or resample), number, mAP over classes, mAP weighted by positives
classes.csv       class, positives in training and test, and each head's mean AP over the seeds
claims.csv        each head against CSRA with its interval, over classes and over positives
calibration.csv   head, calibration error and log loss before and after scaling, see `calibration.calibration`
cost.csv          head, parameters, multiply-adds of one image, processor milliseconds of one training step
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from csra_lab._io import strict_json
from csra_lab._io.atomic_write import atomic_write
from csra_lab.claims import Claim
from csra_lab.cost import model_cost
from csra_lab.datasets import MultiLabelDataset
from csra_lab.heads import ScoreMapHead, build_head
from csra_lab.recipes import Recipe
from csra_lab.residual_attention import residual_max
from csra_lab.study.calibration import calibration
from csra_lab.study.experiments import describe, drawn_together, source_features
from csra_lab.study.head_stack import learnt, score_heads, train_heads
from csra_lab.study.own_best import LADDER, bootstrap, mean_AP, measured_claims, results_table, tune
from csra_lab.study.plans import BASE, SOURCES
from csra_lab.study.steps import Steps, is_recorded
from csra_lab.training.feature_cache import FeatureMaps
from csra_lab.training.run_folder import environment, from_logits, to_exact_logits
from csra_lab.training.sampling import hold_out

CSRA, AVERAGE = "CSRA", "average"
EPOCHS = {"coco": 4}
"""Epochs of a source where they are not `plans.BASE`'s: on 5,000 images four take more steps than ten on 1,795."""
LAMBDAS = (0.1, 0.3, 1.0)
"""Residuals that are added to the trained average head, to see what they do to its calibration."""


@dataclasses.dataclass(frozen=True)
class Relative:
    """A head and its two settings.

    Attributes:
        head: its name. settings: two sets of options, with `shared` in both; what a table calls each is its key.
        start: the middle of the three learning rates that are tried first.
        alone: trained in a pass of its own, since it has layers of its own.
    """

    head: str
    settings: Mapping[str, dict]
    shared: Mapping[str, object] = dataclasses.field(default_factory=dict)
    start: float = 3e-3
    alone: bool = False


_WIDE = {"width": 64, "hidden": 128}

RELATIVES: dict[str, Relative] = {
    AVERAGE: Relative("average", {"plain": {}, "normalised": {"normalize": True}}),
    CSRA: Relative("csra", {"lam 0.3": {"lam": 0.3}, "lam 1": {"lam": 1.0}}),
    "CSRA, learned": Relative("learned-csra", {"from lam 0.3": {"lam": 0.3}, "from lam 1": {"lam": 1.0}}),
    "max": Relative("max", {"plain": {}, "normalised": {"normalize": True}}, start=1e-2),
    "log-sum-exp": Relative("lse", {"r 1": {"r": 1.0}, "r 0.3": {"r": 0.3}}),
    "top-k mean": Relative("topk", {"k 3": {"k": 3}, "k 10": {"k": 10}}),
    "WILDCAT": Relative("wildcat", {"k 3": {}, "k 10": {"k_max": 10, "k_min": 10}}),
    "noisy-or": Relative("noisy-or", {"plain": {}, "normalised": {"normalize": True}}),
    "label graph": Relative(
        "label-graph", {"lam 0": {}, "lam 0.3": {"lam": 0.3}}, {"embedding": 64, "hidden": 64}, alone=True
    ),
    "attention MIL": Relative(
        "attention-mil", {"gated": {}, "not gated": {"gated": False}}, {"hidden": 64}, alone=True
    ),
    "SRN": Relative("regularised", {"alpha 0.5": {}, "alpha 0.8": {"alpha": 0.8}}, {"hidden": 64}, alone=True),
    "class queries": Relative(
        "class-queries", {"4 parts": {}, "1 part": {"attention_heads": 1}}, _WIDE, start=1e-3, alone=True
    ),
    "group queries": Relative(
        "group-queries", {"4 groups": {"groups": 4}, "2 groups": {"groups": 2}}, _WIDE, start=1e-3, alone=True
    ),
    "GeM": Relative("gem", {"from p 3": {"p": 3.0}, "from p 1.5": {"p": 1.5}}, alone=True),
}
"""Name -> head. The two settings and three rates of each are what is searched; the rest is the same for all."""


def run_relatives(
    source: str,
    out: Path,
    *,
    data: Path | None = None,
    relatives: Mapping[str, Relative] = RELATIVES,
    runs: int = 5,
    epochs: int | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Tune, train and measure every head on a source of `plans.SOURCES`, and write `out`/`source`.

    Args:
        data: folder of the images, where the source has some.
        runs: seeds, and as many bootstrap samples of the training images. epochs: of every training; None for `EPOCHS`.
        log: called with a line for every step.
    """
    sets, maps = source_features(SOURCES[source], Path(data) if data else None, progress=False)
    epochs = epochs or EPOCHS.get(source, BASE.optimisation.epochs)
    study = Study(source, sets, maps, relatives, epochs, log)
    asked = {**study.plan, "runs": runs}
    if is_recorded(Path(out) / source, asked, log):
        return Path(out) / source
    study.begin(Path(out) / f"{source}.part")
    if not (Path(out) / source).exists():
        study.write(Path(out) / source, 0)
    for run in range(runs):
        for kind in ("seed", "resample"):
            study.scores(kind, run)
        if run > 0:  # two runs of each kind are the fewest that have an interval
            study.write(Path(out) / source, run + 1)
    if runs > 1:
        study.steps.finish(Path(out) / source, asked)
    return Path(out) / source


class Study:
    """The steps of a comparison on one source, a file each; a step that is there is read.

    Args:
        sets, maps: data sets and features by split, see `experiments.source_features`.
        relatives: see `RELATIVES`. epochs: of every training. log: called with a line for every step.
    """

    def __init__(
        self,
        source: str,
        sets: Mapping[str, MultiLabelDataset],
        maps: Mapping[str, FeatureMaps],
        relatives: Mapping[str, Relative],
        epochs: int,
        log: Callable[[str], None],
    ):
        self.source, self.relatives, self.epochs, self.log = source, relatives, epochs, log
        self.split = SOURCES[source].splits[0]
        self.sets, self.maps, self.train = sets, maps, maps["trainval"]
        self.described = {split: describe(dataset) for split, dataset in sets.items()}
        self.where = {"name": source, **dataclasses.asdict(SOURCES[source])}
        self.groups = {split: drawn_together(SOURCES[source], part) for split, part in sets.items()}
        self.fit, self.held_out = hold_out(sets["trainval"], 0.2)
        self.plan = {"data": self.described, "source": self.where, "heads": {n: self._plan(n) for n in relatives}}
        together = [name for name, relative in relatives.items() if not relative.alone]
        alone = [[name] for name, relative in relatives.items() if relative.alone]
        self.passes = [names for names in (together, *alone) if names]

    def begin(self, folder: Path) -> None:
        """Go on with the steps in a folder, or start them: every head's best setting and rate are known then."""
        self.steps = Steps(folder, self.plan, self.log)
        tuned = [self.steps.table(f"tuning-{names[0]}", partial(self._tune, names)) for names in self.passes]
        self.tuning = pd.concat(tuned, ignore_index=True)
        self.own = {name: self._best(name) for name in self.relatives}

    def recipe(self, name: str, setting: str) -> Recipe:
        """The recipe of a head with one of its settings."""
        relative = self.relatives[name]
        options = {"normalize": False} | dict(relative.shared) | relative.settings[setting]
        return SOURCES[self.source].recipe(f"{name}, {setting}", epochs=self.epochs, head=relative.head, **options)

    def scores(self, kind: str, run: int) -> dict[str, NDArray]:
        """Head -> (N, C) float32 logits on the test images of one run, a "seed" or a "resample"."""
        found: dict[str, NDArray] = {}
        for names in self.passes:
            logits = self.steps.array(f"{kind}-{run}-{names[0]}", partial(self._run, names, kind, run))
            found |= dict(zip(names, logits, strict=True))
        return {name: found[name] for name in self.relatives}

    def write(self, folder: Path, runs: int) -> None:
        """Write the record of the first `runs` runs of each kind; below two, of the tuning alone."""
        tables = {"tuning": self.tuning} | (self._measured(runs) if runs > 1 else {})
        with atomic_write(folder) as path:
            path.mkdir(parents=True)
            strict_json.write(path / "run.json", self._about(runs), indent=1)
            for name, table in tables.items():
                table.to_csv(path / f"{name}.csv", index=False, float_format="%.6g")
        self.log(f"{self.source}: record of {runs} runs")

    def _measured(self, runs: int) -> dict[str, pd.DataFrame]:
        """The tables that need runs."""
        logits = {kind: [self.scores(kind, run) for run in range(runs)] for kind in ("seed", "resample")}
        stacked = {
            kind: {name: from_logits(np.stack([each[name] for each in of_kind])) for name in self.relatives}
            for kind, of_kind in logits.items()
        }
        targets = self.sets[self.split].targets
        results = results_table(stacked["seed"], stacked["resample"], targets)
        claims = [Claim.difference(name, CSRA) for name in self.relatives if name != CSRA]
        return {
            "results": results.rename(columns={"method": "head"}),
            "classes": _classes(stacked["seed"], self.sets["trainval"], self.sets[self.split]),
            "claims": measured_claims(stacked["seed"], results, targets, claims, groups=self.groups[self.split]),
            "calibration": self._calibration(),
            "cost": self.steps.table("cost", self._cost),
        }

    # --- steps --------------------------------------------------------------------------------------------------------

    def _plan(self, name: str) -> dict:
        """What the steps of a head depend on."""
        relative = self.relatives[name]
        recipes = {setting: self.recipe(name, setting).to_json() for setting in relative.settings}
        return {"start": relative.start, "alone": relative.alone, "settings": recipes}

    def _tune(self, names: Sequence[str]) -> pd.DataFrame:
        recipes, starts = {}, {}
        for name in names:
            for setting in self.relatives[name].settings:
                recipes[name, setting] = self.recipe(name, setting)
                starts[name, setting] = self.relatives[name].start
        tried = tune(recipes, starts, self.train, self.fit, self.held_out, log=self.log)
        lines = [(*key, rate, mAP) for key, rates in tried.items() for rate, mAP in sorted(rates.items())]
        return pd.DataFrame(lines, columns=["head", "setting", "head_lr", "held_out_mAP"])

    def _best(self, name: str) -> Recipe:
        tried = self.tuning[self.tuning["head"] == name]
        best = tried.loc[tried.held_out_mAP.idxmax()]
        return self.recipe(name, best.setting).replace(head_lr=float(best.head_lr))

    def _run(self, names: Sequence[str], kind: str, run: int) -> NDArray:
        fit = None if kind == "seed" else bootstrap(len(self.train), run, groups=self.groups["trainval"])
        recipes = [self.own[name].replace(seed=run) for name in names]
        trained = learnt(train_heads(recipes, self.train, fit=fit))
        return to_exact_logits(score_heads([t.head for t in trained], self.maps[self.split])).astype(np.float32)

    def _calibration(self) -> pd.DataFrame:
        parts = [self.steps.table(f"calibration-{names[0]}", partial(self._calibrate, names)) for names in self.passes]
        return pd.concat(parts)

    def _calibrate(self, names: Sequence[str]) -> pd.DataFrame:
        """Each head trained without the held-out images, which then choose its temperature."""
        trained = learnt(train_heads([self.own[name] for name in names], self.train, fit=self.fit))
        held = self.train.subset(self.held_out)
        test = self.maps[self.split]
        lines = []
        for name, each in zip(names, trained, strict=True):
            logits = [to_exact_logits(score_heads([each.head], part)[0]) for part in (held, test)]
            lines.append({"head": name} | calibration(logits[0], held.targets, logits[1], test.targets))
            if name == AVERAGE:
                lines += _four_lines(each.head, held, test)
        return pd.DataFrame(lines)

    def _cost(self) -> pd.DataFrame:
        where, lines = SOURCES[self.source], []
        classes, (grid, d) = (
            self.sets[self.split].targets.shape[1],
            (self.train.maps.shape[-2:], self.train.maps.shape[2]),
        )
        for name, recipe in self.own.items():
            cost = model_cost(where.backbone, num_classes=classes, image_size=where.image_size, head=recipe.head)
            lines.append({"head": name, "parameters": cost.head_parameters, "multiply_adds": cost.head_multiply_adds,
                          "step_ms": step_time(build_head(recipe.head, d, classes), (16, d, *grid))})  # fmt: skip
        return pd.DataFrame(lines)

    def _about(self, runs: int) -> dict:
        return {
            "question": "Each head at its own best setting and rate: which is better than CSRA, and for which classes?",
            "source": self.where,
            "split": self.split,
            "heads": {name: recipe.to_json() for name, recipe in self.own.items()},
            "settings": {name: list(relative.settings) for name, relative in self.relatives.items()},
            "ladder": list(LADDER),
            "runs": runs,
            "epochs": self.epochs,
            "data": self.described,
            "environment": environment(torch.device("cpu")),
        }


def step_time(head: ScoreMapHead, shape: tuple[int, int, int, int]) -> float:
    """Median processor time of forward and backward on features of this shape (B, d, h, w), in milliseconds.

    Processor time counts no waiting, so a busy machine moves it little.
    """
    features, times = torch.rand(shape), []
    for _ in range(10):
        start = time.process_time()
        head(features).sum().backward()
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times[1:])  # the first warms up


@torch.no_grad()
def _four_lines(head: ScoreMapHead, held: FeatureMaps, test: FeatureMaps) -> list[dict]:
    """Calibration of the trained average head with lam times its maximum added, and with that divided by 1 + lam."""

    def parts(maps: FeatureMaps) -> NDArray:  # (2, N, C): mean and maximum
        scores = [head.score_maps(maps.maps[i : i + 64, 0].float())[:, 0] for i in range(0, len(maps), 64)]
        return np.stack([torch.cat([residual_max(s, lam) for s in scores]).numpy() for lam in (0.0, 1.0)])

    (held_mean, held_sum), (test_mean, test_sum) = parts(held), parts(test)
    lines = []
    for lam in LAMBDAS:
        logits = [mean + lam * (both - mean) for mean, both in ((held_mean, held_sum), (test_mean, test_sum))]
        for name, divisor in ((f"average + {lam:g} max", 1.0), (f"(average + {lam:g} max) / {1 + lam:g}", 1 + lam)):
            held_logits, test_logits = (each / divisor for each in logits)
            lines.append({"head": name} | calibration(held_logits, held.targets, test_logits, test.targets))
    return lines


def _classes(scores: Mapping[str, NDArray], train: MultiLabelDataset, test: MultiLabelDataset) -> pd.DataFrame:
    positives = {split: (part.targets == 1).sum(axis=0) for split, part in (("train", train), ("test", test))}
    frame = pd.DataFrame({"class": test.classes, **positives})
    for name, runs in scores.items():
        frame[name] = mean_AP(runs, test.targets)
    return frame
