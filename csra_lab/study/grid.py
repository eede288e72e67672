"""The grid: three backbones, two data sets, average pooling and CSRA by one recipe. `csra-lab grid` fills it.

A drawn grid first pretrains each backbone on freshly drawn scenes with average pooling, then fine-tunes both heads from
there on EmojiVOC and PaperdollWIDER. The paper's grid starts from ImageNet weights on a reader's own data sets. Every
run is a folder below OUT, NAME-pretraining or BACKBONE-DATASET-HEAD-SEED. The same command goes on where it stopped,
and what is finished is recorded as it ends (`grid_record`).
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from csra_lab.catalog import DRAWN, load_dataset
from csra_lab.datasets import MultiLabelDataset
from csra_lab.errors import ConfigError, CsraError
from csra_lab.recipes import PAPER_BACKBONES, RECIPES, Recipe, average_twin
from csra_lab.recipes.named import GIGA_MULTIPLY_ADDS
from csra_lab.study.grid_record import write_draws, write_record
from csra_lab.study.pretraining import load_scenes
from csra_lab.training.loop import train
from csra_lab.training.sampling import sample_images

BACKBONES = {"resnet18": "ResNet18", "resnet101": "ResNet-101", "vitb16": "ViT-B16"}
HEADS = ("avg", "csra")
DRAWN_RATES = {"resnet18": 1e-3, "resnet101": 1e-3, "vitb16": 3e-4}
"""Peak learning rates from drawn or random weights, as in the recipes from scratch; head and backbone have the same."""
PAPER_RECIPES = {"voc2007": "voc07-448px", "voc2012": "voc12-448px", "coco2014": "coco-448px", "wider": "wider-224px"}
FORWARD_SHARE = 0.35  # of the time of a training image, for an image that is scored


@dataclass(frozen=True)
class Grid:
    """Which runs a grid has.

    Attributes:
        name, why: for folders and tables.
        recipes: (backbone, data set) -> the CSRA recipe with seed 0; its twin has average pooling.
        seeds: runs of each cell.
        pretraining: backbone -> recipe on drawn scenes; empty where the weights come from elsewhere.
        scenes: how many of them are drawn.
        test_items: score the first so many items of each test split; None for all.
    """

    name: str
    why: str
    recipes: Mapping[tuple[str, str], Recipe]
    seeds: int = 3
    pretraining: Mapping[str, Recipe] = dataclasses.field(default_factory=dict)
    scenes: int = 0
    test_items: int | None = None

    @property
    def backbones(self) -> tuple[str, ...]:
        """Short names, in the order of the table."""
        return tuple(dict.fromkeys(backbone for backbone, _ in self.recipes))

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names that `load_dataset` knows."""
        return tuple(dict.fromkeys(dataset for _, dataset in self.recipes))

    def runs(self) -> Iterator["Run"]:
        """All fine-tuning runs: every cell's first seed, then its second, and so on."""
        for seed in range(self.seeds):
            for backbone, dataset in self.recipes:
                yield from (Run(backbone, dataset, head, seed) for head in HEADS)

    def recipe(self, run: "Run", out: Path) -> Recipe:
        """The whole recipe of a run; `out` holds the pretrained weights."""
        csra = self.recipes[run.backbone, run.dataset].replace(seed=run.seed)
        if self.pretraining:
            csra = csra.replace(weights=str(pretraining_folder(out, run.backbone) / "model" / "model.safetensors"))
        return csra if run.head == "csra" else average_twin(csra)


@dataclass(frozen=True, order=True)
class Run:
    """One fine-tuning run: a cell of the grid, one of its two heads ("avg" or "csra"), and a seed."""

    backbone: str
    dataset: str
    head: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.backbone}-{self.dataset}-{self.head}-{self.seed}"


def drawn_grid(
    name: str,
    why: str,
    *,
    image_size: int,
    scenes: int,
    pretraining_epochs: int,
    images: Mapping[str, int | None],
    epochs: int,
    batch_size: int,
    backbones: Sequence[str] = tuple(BACKBONES),
    seeds: int = 3,
    test_items: int | None = None,
    **fields,
) -> Grid:
    """A grid on drawn sets, from drawn pretraining.

    Args:
        images: data set -> how many of its training images are used (photographs, where people share them), None
            for all. fields: other fields of all recipes, such as `precision`.
    """

    def recipe(backbone: str, dataset: str, **more) -> Recipe:
        rate = DRAWN_RATES.get(backbone, 1e-3)
        return Recipe.of(
            f"grid-{backbone}-{dataset}-csra", dataset=dataset, backbone=PAPER_BACKBONES.get(backbone, backbone),
            image_size=image_size, weights="none", lam=0.3, normalize=False, batch_size=batch_size, optimizer="adamw",
            backbone_lr=rate, head_lr=rate, weight_decay=5e-2, schedule="cosine", warmup_epochs=0.2,
            augmentation="flip",  # on people a crop cuts off heads and feet, and both sets share one recipe
            **{"workers": 0, **fields, **more},
        )  # fmt: skip

    pretraining = {
        backbone: recipe(backbone, "emoji-voc", epochs=pretraining_epochs).replace(
            name=f"grid-{backbone}-pretraining", head="average"
        )
        for backbone in backbones
    }
    recipes = {
        (backbone, dataset): recipe(backbone, dataset, epochs=epochs, subset=subset)
        for backbone in backbones
        for dataset, subset in images.items()
    }
    return Grid(name, why, recipes, seeds, pretraining, scenes, test_items)


def paper_grid(datasets: Sequence[str] = ("voc2007", "wider"), *, seeds: int = 3) -> Grid:
    """The paper's settings on a reader's own data sets, from ImageNet weights of the hub.

    Raises:
        ConfigError: a data set that the paper has not.
    """
    for dataset in datasets:
        if dataset not in PAPER_RECIPES:
            raise ConfigError(f"the paper's grid has the data sets {', '.join(PAPER_RECIPES)}, not {dataset!r}.")
    recipes = {(b, d): RECIPES[f"{b}-csra_{PAPER_RECIPES[d]}"] for b in BACKBONES for d in datasets}
    return Grid("paper", "the paper's settings, from ImageNet weights", recipes, seeds)


GRIDS = {
    "small": drawn_grid(
        "small", "drawn pretraining and few images, for a CPU", image_size=96, scenes=2500, pretraining_epochs=2,
        images={"emoji-voc": 500, "paperdoll-wider": 200}, epochs=2, batch_size=16, test_items=600, precision="fp32",
    ),
    "course": drawn_grid(
        "course", "the course's schedule of 30 epochs on the whole drawn sets, for a GPU", image_size=224,
        scenes=50_000, pretraining_epochs=4, images={"emoji-voc": None, "paperdoll-wider": None}, epochs=30,
        batch_size=64, workers=-1,
    ),
    "paper": paper_grid(),
}  # fmt: skip


def pretraining_folder(out: Path, backbone: str) -> Path:
    """Where the run of a backbone's pretraining lies."""
    return out / f"{backbone}-pretraining"


def finished(folder: Path) -> bool:
    """Whether a run came to its end there; what is under way holds its state."""
    return (folder / "history.csv").exists() and not (folder / "state.pt").exists()


def under_way(folder: Path) -> bool:
    """Whether a run has begun there and not ended."""
    return (folder / "recipe.json").exists() and not finished(folder)


class GridRunner:
    """A grid being filled.

    Args:
        grid: what to run. out: folder of the runs. record: folder of the record; OUT/record if left out.
        data: data set -> folder; EmojiVOC and PaperdollWIDER are drawn in the cache where it has none.
        loaded: (data set, split) -> items, for what is read already.
        root: where the scenes of pretraining lie; the cache if left out.
        keep_models: keep the weights of fine-tuned runs, 45 to 350 MB each, after they are scored.
        say: is given a line after each run. progress: show bars.

    Raises:
        ConfigError: a folder missing for a data set that is not drawn.
    """

    def __init__(
        self,
        grid: Grid,
        out: Path,
        *,
        record: Path | None = None,
        data: Mapping[str, Path] | None = None,
        loaded: Mapping[tuple[str, str], MultiLabelDataset] | None = None,
        root: Path | None = None,
        keep_models: bool = False,
        say: Callable[[str], None] = print,
        progress: bool = True,
    ):
        self.grid, self.out, self.record = grid, Path(out), Path(record or Path(out) / "record")
        self.folders: dict[str, Path | None] = {**dict.fromkeys(DRAWN), **(data or {})}
        self._sets = dict(loaded or {})
        missing = [d for d in grid.datasets if d not in self.folders and not any(d == name for name, _ in self._sets)]
        if missing:
            raise ConfigError(f"say where {missing[0]} lies: --data {missing[0]} FOLDER.")
        self.root, self.keep_models, self.say, self.progress = root, keep_models, say, progress

    def fill(self, runs: Sequence[Run] | None = None, *, deadline: float = float("inf")) -> list[Run]:
        """Carry out what is not finished, and record each run as it ends.

        Args:
            runs: which, in which order; all of the grid if left out.
            deadline: on the clock of `time.monotonic`: no run is started that would end after it, by the speed seen.

        Returns:
            The runs that are still open.

        Raises:
            CsraError: after all others are done, what stopped the first that failed.
        """
        wanted = list(self.grid.runs() if runs is None else runs)
        self.update_record()
        failed: CsraError | None = None
        for run in wanted:
            if self.is_done(run) or not self._fits(run, deadline):
                continue
            try:
                self._carry_out(run)
            except CsraError as error:
                failed = failed or error
                self.say(f"{run.name}: {error}")
            self.say(self.progress_line(wanted))
        if failed is not None:
            raise failed
        return [run for run in wanted if not self.is_done(run)]

    def is_done(self, run: Run) -> bool:
        """Whether a run is finished and scored."""
        return (self.out / run.name / "metrics.json").exists() and finished(self.out / run.name)

    def pretrain(self, backbone: str) -> None:
        """Pretrain a backbone on drawn scenes, unless that is done."""
        folder = pretraining_folder(self.out, backbone)
        if not self.grid.pretraining or finished(folder):
            return
        train(self.grid.pretraining[backbone], self._scenes(), None, folder, progress=self.progress)
        self.say(f"{folder.name}: done")

    def update_record(self) -> None:
        """Record every finished run that is in the folder."""
        done = [run for run in self.grid.runs() if self.is_done(run)]
        for run in done:
            if not (self.out / run.name / "draws.npy").exists():
                write_draws(self.out / run.name, self.test_set(run))
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
        seconds = [self.seconds(run) for run in left]
        line = f"{len(runs) - len(left)} of {len(runs)} runs are done"
        if left and None not in seconds:
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
        if recipe is None or speed is None or finished(pretraining_folder(self.out, backbone)):
            return 0.0
        return self.grid.scenes * recipe.optimisation.epochs / speed

    def speed(self, backbone: str) -> float | None:
        """Training images a second: measured in this folder, or inferred from another backbone's multiply-adds."""
        seen = {b: self._measured_speed(b) for b in self.grid.backbones}
        if seen[backbone] is not None:
            return seen[backbone]
        cost = {b: GIGA_MULTIPLY_ADDS.get((b, 224)) for b in self.grid.backbones}
        others = [seen[b] * cost[b] / cost[backbone] for b in seen if seen[b] and cost[b] and cost[backbone]]
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
        self.pretrain(run.backbone)
        recipe, folder = self.grid.recipe(run, self.out), self.out / run.name
        train_set = self._load(run.dataset, recipe.data.train_split)
        result = train(recipe, train_set, self.test_set(run), folder, progress=self.progress)
        self.say(f"{run.name}: mAP {100 * result.metrics.mAP:.1f} on {len(self.test_set(run)):,} test items")
        if not self.keep_models:
            shutil.rmtree(folder / "model")
        self.update_record()

    def _load(self, dataset: str, split: str) -> MultiLabelDataset:
        if (dataset, split) not in self._sets:
            self._sets[dataset, split] = load_dataset(dataset, self.folders[dataset], split)
        return self._sets[dataset, split]

    def _scenes(self) -> MultiLabelDataset:
        if ("scenes", "trainval") not in self._sets:
            size = next(iter(self.grid.pretraining.values())).model.image_size
            scenes = load_scenes(self.grid.scenes, image_size=size, root=self.root, progress=self.progress)
            self._sets["scenes", "trainval"] = scenes
        return self._sets["scenes", "trainval"]
