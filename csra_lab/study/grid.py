"""The grid: three backbones, two data sets, average pooling and CSRA by one recipe. `grid_runner` fills it.

A drawn grid first pretrains each backbone on freshly drawn scenes with average pooling, then fine-tunes both heads from
there on EmojiVOC and PaperdollWIDER. The paper's grid starts from ImageNet weights on a reader's own data sets. Every
run is a folder below OUT, NAME-pretraining or BACKBONE-DATASET-HEAD-SEED.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from csra_lab.errors import ConfigError
from csra_lab.recipes import PAPER_BACKBONES, RECIPES, Recipe, average_twin

BACKBONES = {"resnet18": "ResNet18", "resnet101": "ResNet-101", "vitb16": "ViT-B16"}
HEADS = ("avg", "csra")
DRAWN_RATES = {"resnet18": 1e-3, "resnet101": 1e-3, "vitb16": 3e-4}
"""Peak learning rates from drawn or random weights, as in the recipes from scratch; head and backbone have the same."""
PAPER_RECIPES = {"voc2007": "voc07-448px", "voc2012": "voc12-448px", "coco2014": "coco-448px", "wider": "wider-224px"}


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
