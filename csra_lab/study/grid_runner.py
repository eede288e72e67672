"""A grid being filled: `csra-lab grid` goes on where it stopped, and what is finished is recorded as it ends.

It goes on from the record too: runs that were recorded on another machine are not run again.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from csra_lab._io.atomic_write import check_folder
from csra_lab.catalog import DRAWN, load_dataset
from csra_lab.classifier import MultiLabelClassifier
from csra_lab.datasets import MultiLabelDataset
from csra_lab.device import best_device, training_settings, working_type
from csra_lab.errors import ConfigError, CsraError
from csra_lab.recipes import Recipe
from csra_lab.recipes.named import GIGA_MULTIPLY_ADDS
from csra_lab.study.grid import FOUR_LINES, Grid, Run, pretraining_folder, scored_folders
from csra_lab.study.grid_draws import read_draws, write_draws
from csra_lab.study.grid_record import check_items, earlier_record, write_record
from csra_lab.study.pretraining import load_scenes
from csra_lab.training.evaluation import evaluate
from csra_lab.training.loop import scoring_batch, train
from csra_lab.training.run_folder import (
    data_marks,
    differences,
    is_finished,
    is_trained_on,
    read_recipe,
    save_evaluation,
)
from csra_lab.training.sampling import sample_images

FORWARD_SHARE = 0.35  # of the time of a training image, for an image that is scored


def finished(folder: Path) -> bool:
    """Whether a run came to its end there; what is under way holds its state."""
    return all((folder / name).exists() for name in ("recipe.json", "history.csv")) and is_finished(folder)


def under_way(folder: Path) -> bool:
    """Whether a run has begun there and not ended."""
    return (folder / "recipe.json").exists() and not finished(folder)


def check_recipe(folder: Path, recipe: Recipe) -> None:
    """Refuse a finished run of another recipe. Weights may have moved: their file's name is compared alone.

    Raises:
        CsraError: no recipe there, or another one.
    """
    for name, there, here in differences(read_recipe(folder).to_json(), recipe.to_json()):
        if name == "weights" and Path(str(there)).name == Path(str(here)).name:
            continue
        raise ConfigError(
            f"{folder} holds a finished run of another recipe ({name} is {there!r} there and {here!r} here); "
            "name another folder with --out."
        )


class GridRunner:
    """A grid being filled.

    Args:
        grid: what to run. out: folder of the runs. record: folder of the record; OUT/record if left out.
        data: data set -> folder; EmojiVOC and PaperdollWIDER are drawn in the cache where it has none. Of the others
            a grid may be filled in parts: those that are not here can be neither run nor recorded.
        loaded: (data set, split) -> items, for what is read already.
        weights: folder of the grid's weight files; without it timm downloads those weights.
        root: where the scenes of pretraining lie; the cache if left out.
        keep_models: keep the weights of fine-tuned runs, 45 to 350 MB each, after they are scored.
        log: called with a line after each run. progress: show bars.

    Raises:
        CsraError: see `earlier_record`.
    """

    def __init__(
        self,
        grid: Grid,
        out: Path,
        *,
        record: Path | None = None,
        data: Mapping[str, Path] | None = None,
        loaded: Mapping[tuple[str, str], MultiLabelDataset] | None = None,
        weights: Path | None = None,
        root: Path | None = None,
        keep_models: bool = False,
        log: Callable[[str], None] = print,
        progress: bool = True,
    ):
        self.grid, self.out, self.record = grid, Path(out), Path(record or Path(out) / "record")
        self.folders: dict[str, Path | None] = {**dict.fromkeys(DRAWN), **(data or {})}
        self._sets = dict(loaded or {})
        self._marks: dict[tuple[str, str], dict[str, str]] = {}
        before = earlier_record(grid, self.record)
        names = set() if before is None else set(before.draws)
        self._test_sets: dict[str, dict] = {} if before is None else before.about["test_sets"]
        # Both heads of a seed share a pretraining, so one of them alone is run again with its twin.
        heads = grid.scored_heads
        self._recorded = {run for run in grid.runs() if all(run.with_head(head).name in names for head in heads)}
        self.weights, self.root, self.keep_models, self.log, self.progress = weights, root, keep_models, log, progress

    def fill(self, runs: Sequence[Run] | None = None, *, deadline: float = float("inf")) -> list[Run]:
        """Carry out what is not finished, and record each run as it ends.

        Args:
            runs: which, in which order; all of the grid if left out.
            deadline: on the clock of `time.monotonic`: no run is started that would end after it, by the speed seen.

        Returns:
            The runs that are still open.

        Raises:
            CsraError: at once, for a data set that is not here; after all others are done, what stopped the first that
                failed.
        """
        for folder, option in ((self.out, "--out"), (self.record, "--record")):
            check_folder(folder, option)
        wanted = list(self.grid.runs() if runs is None else runs)
        for run in wanted:
            if not self._is_here(run.dataset):
                raise ConfigError(f"say where {run.dataset} lies: --data {run.dataset} FOLDER.")
            self._load(run.dataset, self.grid.recipes[run.backbone, run.dataset].data.test_split)
        self._check_record(wanted)
        self.update_record()
        failed: CsraError | None = None
        for run in wanted:
            if self.is_done(run) or not self._fits(run, deadline):
                continue
            try:
                self._carry_out(run)
            except CsraError as error:
                failed = failed or error
                self.log(f"{run.name}: {error}")
            self.log(self.progress_line(wanted))
        if failed is not None:
            raise failed
        return [run for run in wanted if not self.is_done(run)]

    def is_done(self, run: Run) -> bool:
        """Whether a run is finished and scored, here or where the record was begun.

        Raises:
            CsraError: its folder holds a finished run of another recipe, or on other data where those are read already.
        """
        return run in self._recorded or self._is_finished(run)

    def _check_record(self, runs: Sequence[Run]) -> None:
        """Refuse a record of other test items before a run is trained, or taken as done."""
        for dataset, run in {run.dataset: run for run in runs}.items():
            if dataset in self._test_sets:
                here = {"fingerprint": self.test_set(run).fingerprint()}
                check_items(self.record, "scores of", dataset, self._test_sets[dataset], here)

    def _is_finished(self, run: Run) -> bool:
        return self._is_trained(run) and (not self._has_lines(run) or self._lines_are_scored(run))

    def _lines_are_scored(self, run: Run) -> bool:
        folder = self.out / run.name / FOUR_LINES
        if not (folder / "metrics.json").exists():
            return False
        lam = json.loads((folder / "metrics.json").read_text(encoding="utf-8")).get("four_lines", self.grid.four_lines)
        if lam != self.grid.four_lines:
            whole = folder.parent
            again = folder if (whole / "model").exists() else f"{whole}, which is then trained again"
            raise ConfigError(
                f"{folder} was scored with lambda {lam:g}, not {self.grid.four_lines:g}; name another --out, or delete "
                f"{again}."
            )
        return True

    def _is_trained(self, run: Run) -> bool:
        folder, recipe = self.out / run.name, self.grid.recipe(run, self.out, self.weights)
        if not finished(folder) or not (folder / "metrics.json").exists():
            return False
        check_recipe(folder, recipe)
        self._check_data(folder, run.dataset, recipe.data.train_split)
        return True

    def _is_pretrained(self, backbone: str) -> bool:
        folder = pretraining_folder(self.out, backbone)
        if not finished(folder):
            return False
        check_recipe(folder, self.grid.pretraining[backbone])
        self._check_data(folder, "scenes", "trainval")
        return True

    def _check_data(self, folder: Path, dataset: str, split: str) -> None:
        """Refuse a finished run that was trained on other data, where that is read already: it takes long."""
        if (dataset, split) not in self._sets:
            return
        if (dataset, split) not in self._marks:
            self._marks[dataset, split] = data_marks(self._sets[dataset, split])
        if not is_trained_on(folder, self._marks[dataset, split]):
            raise ConfigError(
                f"{folder} holds a finished run on other data than {dataset} {split} here; "
                "name another folder with --out."
            )

    def pretrain(self, backbone: str) -> None:
        """Pretrain a backbone on drawn scenes, unless that is done."""
        folder = pretraining_folder(self.out, backbone)
        if not self.grid.pretraining or self._is_pretrained(backbone):
            return
        train(self.grid.pretraining[backbone], self._scenes(), None, folder, progress=self.progress)
        self.log(f"{folder.name}: done")

    def update_record(self) -> None:
        """Record every finished run that is in the folder, and whose data set is here.

        Raises:
            CsraError: one of them, or a pretraining, has another recipe than the grid.
        """
        for backbone in self.grid.pretraining:
            self._is_pretrained(backbone)
        done = [run for run in self.grid.runs() if self._is_here(run.dataset) and self._is_finished(run)]
        for run in done:
            for folder in scored_folders(self.out, run).values():
                if read_draws(folder) is None:
                    write_draws(folder, self.test_set(run))
        if done:
            write_record(self.grid, done, self.out, self.record, {run.dataset: self.test_set(run) for run in done})

    def test_set(self, run: Run) -> MultiLabelDataset:
        """The test items that a run is scored on."""
        recipe, count = self.grid.recipes[run.backbone, run.dataset], self.grid.test_items
        dataset = self._load(run.dataset, recipe.data.test_split)
        return dataset if count is None else dataset.subset(range(min(count, len(dataset))))

    def progress_line(self, runs: Sequence[Run]) -> str:
        """How many runs are done, and how long the others will take at the speed seen so far."""
        left = [run for run in runs if not self.is_done(run)]
        seconds = [known for run in left if (known := self.seconds(run)) is not None]
        line = f"{len(runs) - len(left)} of {len(runs)} runs are done"
        if left and len(seconds) == len(left):
            waiting = {run.backbone for run in left}
            line += f", about {(sum(seconds) + sum(map(self.pretraining_seconds, waiting))) / 60:.0f} minutes are left"
        return line

    def seconds(self, run: Run) -> float | None:
        """How long a run will take; None before anything was measured."""
        recipe, speed = self.grid.recipes[run.backbone, run.dataset], self.speed(run.backbone)
        if speed is None:
            return None
        train_set = self._load(run.dataset, recipe.data.train_split)
        count = recipe.data.subset
        items = len(train_set) if count is None else len(sample_images(train_set, count))
        return (items * recipe.optimisation.epochs + FORWARD_SHARE * len(self.test_set(run))) / speed

    def pretraining_seconds(self, backbone: str) -> float:
        """How long the pretraining of a backbone will still take; 0 where it is done or its speed is not known."""
        speed, recipe = self.speed(backbone), self.grid.pretraining.get(backbone)
        if recipe is None or speed is None or self._is_pretrained(backbone):
            return 0.0
        return self.grid.scenes * recipe.optimisation.epochs / speed

    def speed(self, backbone: str) -> float | None:
        """Training images a second: measured in this folder, or inferred from another backbone's multiply-adds."""
        seen = {b: self._measured_speed(b) for b in self.grid.backbones}
        if seen[backbone] is not None:
            return seen[backbone]
        cost = {b: GIGA_MULTIPLY_ADDS.get((b, 224)) for b in self.grid.backbones}
        own = cost[backbone]
        others = [speed * c / own for b, speed in seen.items() if own and speed and (c := cost[b])]
        return min(others, default=None)

    def _measured_speed(self, backbone: str) -> float | None:
        files = sorted(self.out.glob(f"{backbone}-*/history.csv"))
        speeds = [pd.read_csv(path).images_per_second.median() for path in files]
        return float(np.median(speeds)) if speeds else None

    def _fits(self, run: Run, deadline: float) -> bool:
        seconds = self.seconds(run) if deadline < float("inf") else None
        needed = 0.0 if seconds is None else seconds + self.pretraining_seconds(run.backbone)
        return time.monotonic() + needed <= deadline

    def _carry_out(self, run: Run) -> None:
        recipe, folder = self.grid.recipe(run, self.out, self.weights), self.out / run.name
        train_set, test_set = self._load(run.dataset, recipe.data.train_split), self.test_set(run)
        for other in self.grid.runs():
            self._is_trained(other)  # the data are read now, so those of finished runs are compared before training
        self.pretrain(run.backbone)
        if not self._is_trained(run):
            result = train(recipe, train_set, test_set, folder, progress=self.progress)
            assert result.metrics is not None  # there is a test set
            self.log(f"{run.name}: mAP {100 * result.metrics.mAP:.1f} on {len(test_set):,} test items")
        if self._has_lines(run):
            self._score_four_lines(folder, test_set)
        if not self.keep_models:
            shutil.rmtree(folder / "model")
        self.update_record()

    def _has_lines(self, run: Run) -> bool:
        return run.head == "avg" and self.grid.four_lines is not None

    def _score_four_lines(self, folder: Path, test_set: MultiLabelDataset) -> None:
        """Score them as `train` scored the run, in its type and batches, so that both differ in four lines alone."""
        assert self.grid.four_lines is not None
        recipe, device = read_recipe(folder), torch.device(best_device())
        dtype = working_type(recipe.run.precision, device)
        model = MultiLabelClassifier.from_pretrained(folder / "model").with_four_lines(self.grid.four_lines).to(device)
        with training_settings(device):
            metrics, scores = evaluate(
                model, test_set, batch_size=scoring_batch(recipe), device=device, dtype=dtype, progress=self.progress
            )
        (folder / FOUR_LINES).mkdir(exist_ok=True)
        save_evaluation(folder / FOUR_LINES, test_set, metrics, scores, four_lines=self.grid.four_lines)

    def _is_here(self, dataset: str) -> bool:
        return dataset in self.folders or any(dataset == name for name, _ in self._sets)

    def _load(self, dataset: str, split: str) -> MultiLabelDataset:
        if (dataset, split) not in self._sets:
            classes = next(recipe.data.classes for (_, name), recipe in self.grid.recipes.items() if name == dataset)
            self._sets[dataset, split] = load_dataset(dataset, self.folders[dataset], split, classes=classes or None)
        return self._sets[dataset, split]

    def _scenes(self) -> MultiLabelDataset:
        if ("scenes", "trainval") not in self._sets:
            size = next(iter(self.grid.pretraining.values())).model.image_size
            scenes = load_scenes(self.grid.scenes, image_size=size, root=self.root, progress=self.progress)
            self._sets["scenes", "trainval"] = scenes
        return self._sets["scenes", "trainval"]
