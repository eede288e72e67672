"""The record of a grid: what `csra-lab grid` writes as each run ends, and what the book reads.

run.json        the grid, its recipes, the test sets, and every version and device that a run had
results.csv     a line for each run: all metrics, training images, seconds; the head "lines" trained for none of them
classes.csv     a line for each run: average precision of each class, in a column each (earlier: a line for each class)
history.csv     a line for each run and epoch, pretraining too
draws.npz       see `grid_draws`
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from csra_lab._io import strict_json
from csra_lab._io.arrays import write_arrays
from csra_lab._io.atomic_write import atomic_write, clear_leftovers
from csra_lab.claims import Claim, MeasuredClaim, claims_from_draws
from csra_lab.datasets import MultiLabelDataset
from csra_lab.errors import ConfigError, DataError, MissingFile
from csra_lab.metrics import chance_average_precision
from csra_lab.recipes import Recipe
from csra_lab.significance import MeanOver, image_interval
from csra_lab.study.experiments import METRICS
from csra_lab.study.grid import FOUR_LINES, HEADS, Grid, Run, scored_folders
from csra_lab.study.grid_draws import DRAWS, KEY, drawn_name, pack_draws, read_draws, unpack_draws
from csra_lab.training.run_folder import TORN

_ABOUT = ("grid", "why", "runs", "seeds", "backbones", "datasets", "scenes", "recipes", "pretraining", "test_sets",
          "environments")  # fmt: skip


@dataclass(frozen=True)
class GridRecord:
    """A record as it was read.

    Attributes:
        about: the content of run.json. results, history: the tables.
        classes: a line for each run and class: `AP`, a fraction, NaN where a class has no positives.
        draws: run's name, or "NAME, positives" -> (1 + R,) fractions. The earliest records have none by positives.
    """

    about: dict
    results: pd.DataFrame
    classes: pd.DataFrame
    history: pd.DataFrame
    draws: Mapping[str, NDArray[np.float64]]

    @property
    def name(self) -> str:
        """Of the grid."""
        return self.about["grid"]

    def seeds(self, backbone: str, dataset: str, head: str) -> list[int]:
        """The seeds of a cell and head that are recorded."""
        rows = self.results.query("backbone == @backbone and dataset == @dataset and head == @head")
        return sorted(rows.seed)

    def cells(self, *, seeds: int) -> list[tuple[str, str]]:
        """(backbone, data set) of the cells with at least so many seeds of both heads, a data set after the other."""
        return [
            (b, d)
            for d in self.about["datasets"]
            for b in self.about["backbones"]
            if min(len(self.seeds(b, d, head)) for head in HEADS) >= seeds
        ]

    def mAP(self, backbone: str, dataset: str, head: str) -> float:
        """Mean over the recorded seeds, a fraction; NaN where there is none."""
        rows = self.results.query("backbone == @backbone and dataset == @dataset and head == @head")
        return float(rows.mAP.mean())

    @property
    def trained(self) -> pd.DataFrame:
        """The results of runs that were trained: all but those of the four lines."""
        return self.results[self.results["head"] != FOUR_LINES]

    def measure(
        self,
        claim: Claim,
        dataset: str,
        *,
        mean_over: MeanOver = "classes",
        comparisons: int = 1,
        confidence: float = 0.95,
    ) -> MeasuredClaim | None:
        """A claim about labels "BACKBONE-HEAD" on a data set, over the seeds that all of them have; None below two.

        Args:
            mean_over: see `weighted_mAP`; None is given where the record does not hold it.
            comparisons: of how many claims that are to hold together this is one. confidence: that they do.
        """
        methods = {label: label.rsplit("-", 1) for label, _ in claim.terms}
        shared = set.intersection(*(set(self.seeds(backbone, dataset, head)) for backbone, head in methods.values()))
        names = {
            label: [drawn_name(f"{backbone}-{dataset}-{head}-{seed}", mean_over) for seed in sorted(shared)]
            for label, (backbone, head) in methods.items()
        }
        if len(shared) < 2 or any(name not in self.draws for each in names.values() for name in each):
            return None
        (measured,) = claims_from_draws(
            [claim], {label: np.stack([self.draws[name] for name in each]) for label, each in names.items()},
            units=self.about["test_sets"][dataset]["units"], mean_over=mean_over, confidence=confidence,
            comparisons=comparisons,
        )  # fmt: skip
        return measured

    def one_seed_gain(self, backbone: str, dataset: str, confidence: float = 0.95) -> tuple[float, float, float] | None:
        """CSRA's gain in a cell with a single seed, and its interval for other test images alone; None where it is not.

        From the paired bootstrap. What another seed would give is not in it.
        """
        shared = set(self.seeds(backbone, dataset, "avg")) & set(self.seeds(backbone, dataset, "csra"))
        if len(shared) != 1:
            return None
        average, attended = (self.draws[f"{backbone}-{dataset}-{head}-{min(shared)}"] for head in ("avg", "csra"))
        gains, units = attended - average, self.about["test_sets"][dataset]["units"]
        return float(gains[0]), *image_interval(gains[0], gains[1:], units=units, confidence=confidence)


def gain(backbone: str, head: str = "csra") -> Claim:
    """Is CSRA, or another head of the record, better than average pooling on this backbone?"""
    return Claim.difference(f"{backbone}-{head}", f"{backbone}-avg")


def mean_gain(backbones: Sequence[str], head: str = "csra") -> Claim:
    """Is a head better than average pooling on these backbones on average, each counting once?"""
    share = 1 / len(backbones)
    signed = ((head, share), ("avg", -share))
    terms = tuple((f"{backbone}-{label}", weight) for backbone in backbones for label, weight in signed)
    return Claim(f"{head} - avg, averaged over {len(backbones)} backbones", terms)


def backbone_claims(backbones: Sequence[str]) -> dict[tuple[str, str], tuple[Claim, Claim]]:
    """The course's conclusion for each pair of backbones: is the mAP the same, and is CSRA's gain the same?"""
    return {
        (a, b): (
            Claim.difference(f"{b}-avg", f"{a}-avg"),
            Claim.interaction(f"gain on {b} - gain on {a}", f"{b}-csra", f"{b}-avg", f"{a}-csra", f"{a}-avg"),
        )
        for a, b in itertools.combinations(backbones, 2)
    }


def side_by_side(records: Mapping[str, GridRecord]) -> GridRecord:
    """Records of several grids as one, for claims across them: backbone "lite0" of the record "448" is "lite0@448".

    Raises:
        DataError: they were scored on other items of one data set.
    """
    first, *others = records.values()
    sets = dict(first.about["test_sets"])
    for record in others:
        for dataset, items in record.about["test_sets"].items():
            if _others(sets.setdefault(dataset, items), items):
                raise DataError(f"the grids {first.name} and {record.name} have scores of other items of {dataset}.")

    def joined(table: str) -> pd.DataFrame:
        parts = {name: getattr(record, table) for name, record in records.items()}
        return pd.concat([part.assign(backbone=part.backbone + f"@{name}") for name, part in parts.items()])

    draws: dict[str, NDArray[np.float64]] = {}
    for name, record in records.items():
        for run, drawn in record.draws.items():
            backbone, rest = run.split("-", 1)
            draws[f"{backbone}@{name}-{rest}"] = drawn
    about = {
        "grid": " and ".join(record.name for record in records.values()),
        "backbones": [
            f"{backbone}@{name}" for name, record in records.items() for backbone in record.about["backbones"]
        ],
        "datasets": list(sets),
        "test_sets": sets,
    }
    return GridRecord(about, joined("results"), joined("classes"), joined("history"), draws)


def write_record(
    grid: Grid, runs: Sequence[Run], out: Path, record: Path, test_sets: Mapping[str, MultiLabelDataset]
) -> None:
    """Write the record of the finished runs of a grid, whole or not at all; what it held of other runs stays.

    Args:
        grid, runs: a grid, and those of its runs that are finished.
        out: folder of the runs. test_sets: data set -> the items that its runs were scored on.

    Raises:
        CsraError: see `earlier_record`; and runs that were recorded on other test items.
    """
    now, before = _measured(grid, runs, out, test_sets), earlier_record(grid, record)
    if before is not None:
        for what, held in (("scores of", "test_sets"), ("runs trained on", "train_sets")):
            for name, data in now.about[held].items():  # earlier records have no training sets
                check_items(record, what, name, before.about.get(held, {}).get(name, data), data)
        now = _joined(before, now)
    clear_leftovers(record)
    with atomic_write(record) as folder:
        folder.mkdir()
        strict_json.write(folder / "run.json", now.about, indent=1)
        results = now.results.sort_values(KEY)
        results.to_csv(folder / "results.csv", index=False)
        wide = now.classes.pivot(index=KEY, columns="class", values="AP").reset_index()
        wide.to_csv(folder / "classes.csv", index=False, float_format="%.4f")
        now.history.to_csv(folder / "history.csv", index=False, float_format="%.6g")
        write_arrays(folder / DRAWS, pack_draws(results, now.draws))


def earlier_record(grid: Grid, record: Path) -> GridRecord | None:
    """What a folder records of this grid already, to be added to; None where it holds nothing.

    Where a kill left no folder, but the record that had just stepped aside for a new one, that is put back first.

    Raises:
        CsraError: not a record, or one of another grid or of other recipes.
    """
    if not record.exists():
        clear_leftovers(record)
    if not (record / "run.json").is_file():
        if record.is_dir() and any(record.iterdir()):
            raise ConfigError(
                f"{record} holds other files, which would be replaced; name another folder with --record."
            )
        return None
    before = read_record(record)
    recorded = set(before.results.backbone + "-" + before.results.dataset)
    same = all(before.about["recipes"][cell] == recipe for cell, recipe in _recipes(grid).items() if cell in recorded)
    pretrained = set(before.results.backbone) & set(grid.pretraining)
    same = same and all(before.about["pretraining"][b] == _as_read(grid.pretraining[b]) for b in pretrained)
    same = same and before.about.get("four_lines", grid.four_lines) == grid.four_lines
    if before.name != grid.name or not same:
        raise ConfigError(
            f"{record} holds runs of the grid {before.name} with other recipes; name another folder with --record."
        )
    return before


def read_record(folder: Path) -> GridRecord:
    """A record that `write_record` wrote.

    Raises:
        MissingFile: no record there.
        DataError: not such a record.
    """
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise MissingFile(f"{folder} holds no record of a grid; `csra-lab grid` writes one.")
    try:
        results, classes, history = (pd.read_csv(folder / f"{name}.csv") for name in ("results", "classes", "history"))
        with np.load(folder / DRAWS, allow_pickle=False) as stored:
            draws = unpack_draws(results, stored)
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        cells = {f"{row.backbone}-{row.dataset}" for row in results.itertuples()}
        if not set(_ABOUT) <= set(about) or not cells <= set(about["recipes"]):
            raise ValueError("run.json lacks a part")
        if "AP" not in classes:
            classes = classes.melt(KEY, var_name="class", value_name="AP")
            known = {name: items["positives"] for name, items in about["test_sets"].items()}
            theirs = [name in known[dataset] for dataset, name in zip(classes.dataset, classes["class"], strict=True)]
            classes = classes[theirs].reset_index(drop=True)
    except (*TORN, IndexError) as error:
        raise DataError(
            f"{folder} holds no record of a grid of this version ({error}); delete it if its runs are still there, "
            "which `csra-lab grid` then records again, or name another folder with --record."
        ) from error
    return GridRecord(about, results, classes, history, draws)


def _measured(grid: Grid, runs: Sequence[Run], out: Path, test_sets: Mapping[str, MultiLabelDataset]) -> GridRecord:
    """The record of runs whose folders lie in `out`."""
    results, classes, histories, environments = [], [], [], []
    train_sets: dict[str, dict] = {}
    draws: dict[str, NDArray[np.float64]] = {}
    for run in runs:
        folder = out / run.name
        about = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        history = pd.read_csv(folder / "history.csv")
        if "images" not in history or history.images.isna().any():
            raise DataError(
                f"{folder / 'history.csv'} does not say how many images each epoch saw: it is of an earlier version. "
                f"Add the column images, or delete {folder}, and `csra-lab grid` trains it again."
            )
        for scored, where in scored_folders(out, run).items():
            key, metrics = dataclasses.asdict(scored), json.loads((where / "metrics.json").read_text(encoding="utf-8"))
            cost = {"images": int(history.images.sum()), "seconds": round(float(history.seconds.sum()), 1)}
            results.append({**key, **{m: round(metrics[m], 6) for m in METRICS},
                            **(cost if scored == run else dict.fromkeys(cost, 0))})  # fmt: skip
            classes += [
                {**key, "class": name, "AP": ap}
                for name, ap in zip(metrics["classes"], metrics["per_class_AP"], strict=True)
            ]
            draws |= {drawn_name(scored.name, mean): each for mean, each in (read_draws(where) or {}).items()}
        histories.append(_history(history, dataclasses.asdict(run)))
        environments.append(about["environment"])
        train_sets[run.dataset] = {key: about["train_set"][key] for key in ("images", "fingerprint")}
    for backbone in dict.fromkeys(run.backbone for run in runs) if grid.pretraining else ():
        history = pd.read_csv(out / f"{backbone}-pretraining" / "history.csv")
        histories.append(_history(history, {"backbone": backbone, "dataset": "pretraining", "head": "avg", "seed": 0}))
    content = {
        "grid": grid.name,
        "why": grid.why,
        "runs": len(list(grid.runs())),
        "seeds": grid.seeds,
        "backbones": list(grid.backbones),
        "datasets": list(grid.datasets),
        "scenes": grid.scenes,
        "recipes": _recipes(grid),
        "pretraining": {b: _as_read(recipe) for b, recipe in grid.pretraining.items()},
        "four_lines": grid.four_lines,
        "train_sets": train_sets,
        "test_sets": {name: _test_set(dataset) for name, dataset in test_sets.items()},
        "environments": _distinct(environments),
    }
    return GridRecord(content, pd.DataFrame(results), pd.DataFrame(classes), pd.concat(histories), draws)


def _joined(before: GridRecord, now: GridRecord) -> GridRecord:
    """Both records of one grid; of a run that is in both, the new one."""

    def rows(table: str) -> pd.DataFrame:
        old, new = getattr(before, table), getattr(now, table)
        again = pd.MultiIndex.from_frame(old[KEY]).isin(pd.MultiIndex.from_frame(new[KEY]))
        return pd.concat([old[~again], new], ignore_index=True)

    about = now.about | {
        key: before.about.get(key, {}) | now.about[key] for key in ("recipes", "train_sets", "test_sets")
    }
    for key in ("backbones", "datasets", "environments"):
        about[key] = _distinct([*now.about[key], *before.about[key]])  # in the order of the grid
    about["seeds"] = max(before.about["seeds"], now.about["seeds"])
    about["runs"] = len(about["recipes"]) * len(HEADS) * about["seeds"]
    return GridRecord(about, rows("results"), rows("classes"), rows("history"), {**before.draws, **now.draws})


def _distinct(items: list) -> list:
    return [item for i, item in enumerate(items) if item not in items[:i]]


def _recipes(grid: Grid) -> dict[str, dict]:
    return {f"{b}-{d}": _as_read(recipe) for (b, d), recipe in grid.recipes.items()}


def _as_read(recipe: Recipe) -> dict:
    """A recipe as it is read again from a record."""
    return strict_json.plain(recipe.to_json())


def _history(history: pd.DataFrame, key: Mapping) -> pd.DataFrame:
    return history[["epoch", "train_loss", "seconds", "images_per_second"]].assign(**key)[
        [*KEY, "epoch", "train_loss", "seconds", "images_per_second"]
    ]


def _others(one: Mapping, other: Mapping) -> bool:
    """Whether two records are of other items of a data set, or of the same with other labels."""
    return one["fingerprint"] != other["fingerprint"]


def check_items(record: Path, what: str, dataset: str, held: Mapping, here: Mapping) -> None:
    """Raise a DataError where a record holds other items of a data set than those here."""
    if _others(held, here):
        raise DataError(f"{record} holds {what} other items of {dataset}; name another folder with --record.")


def _test_set(dataset: MultiLabelDataset) -> dict:
    return {
        "name": dataset.name,
        "split": dataset.split,
        "items": len(dataset),
        "units": len(set(dataset.keys)),
        "fingerprint": dataset.fingerprint(),
        "positives": {name: int(n) for name, n in zip(dataset.classes, dataset.positives(), strict=True)},
        "chance_mAP": round(float(np.nanmean(chance_average_precision(dataset.targets))), 6),
    }
