"""The grid: backbones, data sets, average pooling and CSRA by one recipe. `grid_runner` fills it.

A drawn grid first pretrains each backbone on freshly drawn scenes with average pooling, then fine-tunes both heads from
there, on EmojiVOC and PaperdollWIDER or on photographs. The grid of photographs and the paper's start from ImageNet
weights, on data sets that a reader has. Every run is a folder below OUT: NAME-pretraining, BACKBONE-DATASET-HEAD-SEED.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from csra_lab.errors import ConfigError
from csra_lab.recipes import PAPER_BACKBONES, RECIPES, VOC2012_PHOTOGRAPH_CLASSES, Recipe, average_twin

BACKBONES = {"resnet18": "ResNet18", "resnet101": "ResNet-101", "vitb16": "ViT-B16"}
TITLES = BACKBONES | {
    "lite0": "EfficientNet-Lite0", "lite1": "EfficientNet-Lite1", "lite2": "EfficientNet-Lite2",
    "lite3": "EfficientNet-Lite3", "mobilenetv2": "MobileNetV2", "resnet18layer3": "ResNet18 to layer3",
}  # fmt: skip
"""Of all backbones that a grid has, for figures and tables."""
HEADS = ("avg", "csra")
FOUR_LINES = "lines"
"""The third head of a record: the four lines on the run with average pooling, which train nothing."""
DRAWN_RATES = {"resnet18": 1e-3, "resnet101": 1e-3, "vitb16": 3e-4}
"""Peak learning rates from drawn or random weights, as in the recipes from scratch; head and backbone have the same."""
PAPER_RECIPES = {"voc2007": "voc07-448px", "voc2012": "voc12-448px", "coco2014": "coco-448px", "wider": "wider-224px"}
PHOTOGRAPHS: dict[str, dict] = {
    "voc2012": {"epochs": 4, "train_split": "trainval", "test_split": "test", "classes": VOC2012_PHOTOGRAPH_CLASSES},
    "coco2014": {"epochs": 2, "train_split": "train", "test_split": "val", "classes": ()},
}
"""How the grids on real images read them, and for how many epochs."""
WEIGHT_FILES = {
    "lite3": "tf_efficientnet_lite3-int8.safetensors",
    "mobilenetv2": "mobilenetv2_100-torch-float.safetensors",
    "resnet18layer3": "resnet18-stages1to3-float.safetensors",
}
"""Files with ImageNet weights, in a folder that the runner is told; of the others timm or a package has them."""
OWN_RATES = {
    ("lite0", "coco2014"): {"backbone_lr": 1e-4, "head_lr": 1e-2},
    ("resnet18layer3", "voc2012"): {"backbone_lr": 1e-5, "head_lr": 0.3},
    ("resnet18layer3", "coco2014"): {"backbone_lr": 1e-5, "head_lr": 0.3},
}
"""Rates of the grid of photographs where Lite0's recipe has ones that are distinguishably worse for
average pooling on held-out images: data/runs/end-to-end-rates."""


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
        weight_files: backbone -> the file with its ImageNet weights, in a folder that the runner is told.
        four_lines: the lambda with which runs with average pooling are scored once more; None for not.
    """

    name: str
    why: str
    recipes: Mapping[tuple[str, str], Recipe]
    seeds: int = 3
    pretraining: Mapping[str, Recipe] = dataclasses.field(default_factory=dict)
    scenes: int = 0
    test_items: int | None = None
    weight_files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    four_lines: float | None = None

    @property
    def backbones(self) -> tuple[str, ...]:
        """Short names, in the order of the table."""
        return tuple(dict.fromkeys(backbone for backbone, _ in self.recipes))

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names that `load_dataset` knows."""
        return tuple(dict.fromkeys(dataset for _, dataset in self.recipes))

    @property
    def scored_heads(self) -> tuple[str, ...]:
        """The heads that a record holds of each cell and seed."""
        return HEADS if self.four_lines is None else (*HEADS, FOUR_LINES)

    def runs(self) -> Iterator["Run"]:
        """All fine-tuning runs: every cell's first seed, then its second, and so on."""
        for seed in range(self.seeds):
            for backbone, dataset in self.recipes:
                yield from (Run(backbone, dataset, head, seed) for head in HEADS)

    def recipe(self, run: "Run", out: Path, weights: Path | None = None) -> Recipe:
        """The whole recipe of a run; `out` holds the pretrained weights, and `weights` the `weight_files`."""
        csra = self.recipes[run.backbone, run.dataset].replace(seed=run.seed)
        if weights is not None and run.backbone in self.weight_files:
            csra = csra.replace(weights=str(weights / self.weight_files[run.backbone]))
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

    def with_head(self, head: str) -> "Run":
        """The run that differs in the head alone."""
        return dataclasses.replace(self, head=head)


def drawn_grid(
    name: str,
    why: str,
    *,
    image_size: int,
    scenes: int,
    pretraining_epochs: int,
    sets: Mapping[str, Mapping],
    backbones: Sequence[str] = tuple(BACKBONES),
    seeds: int = 3,
    test_items: int | None = None,
    **fields,
) -> Grid:
    """A grid from drawn pretraining.

    Args:
        sets: data set -> fields of its recipes alone, such as how many training images are its `subset`.
        fields: of all recipes, pretraining too, such as `batch_size`.
    """

    def recipe(backbone: str, dataset: str, **more) -> Recipe:
        rate = DRAWN_RATES.get(backbone, 1e-3)
        return Recipe.of(
            f"grid-{backbone}-{dataset}-csra", dataset=dataset, backbone=PAPER_BACKBONES.get(backbone, backbone),
            image_size=image_size, weights="none", lam=0.3, normalize=False, optimizer="adamw",
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
        (backbone, dataset): recipe(backbone, dataset, **own) for backbone in backbones for dataset, own in sets.items()
    }
    return Grid(name, why, recipes, seeds, pretraining, scenes, test_items)


def paper_grid(datasets: Sequence[str] = ("voc2007", "wider")) -> Grid:
    """The paper's settings on a reader's own data sets, from ImageNet weights of the hub.

    Raises:
        ConfigError: a data set that the paper has not.
    """
    for dataset in datasets:
        if dataset not in PAPER_RECIPES:
            raise ConfigError(f"the paper's grid has the data sets {', '.join(PAPER_RECIPES)}, not {dataset!r}.")
    recipes = {(b, d): RECIPES[f"{b}-csra_{PAPER_RECIPES[d]}"] for b in BACKBONES for d in datasets}
    return Grid("paper", "the paper's settings, from ImageNet weights", recipes)


def photographs_grid(name: str, why: str, networks: Mapping[str, Mapping]) -> Grid:
    """Whole networks with ImageNet weights on photographs of VOC2012 and on COCO's sample.

    Args:
        networks: short name -> fields of its recipes.
    """
    start = RECIPES["voc2012-lite0-csra"].replace(why=why, cost="", expected="", validation_fraction=0.0, workers=0)
    recipes = {
        (backbone, dataset): start.replace(
            name=f"grid-{backbone}-{dataset}-csra",
            dataset=dataset,
            **settings,
            **network,
            **OWN_RATES.get((backbone, dataset), {}),
        )
        for dataset, settings in PHOTOGRAPHS.items()
        for backbone, network in networks.items()
    }
    return Grid(name, why, recipes, weight_files=WEIGHT_FILES, four_lines=0.2)


GRIDS = {
    "small": drawn_grid(
        "small", "drawn pretraining and few images, for a CPU", image_size=96, scenes=2500, pretraining_epochs=2,
        sets={"emoji-voc": {"subset": 500}, "paperdoll-wider": {"subset": 200}}, epochs=2, batch_size=16,
        test_items=600, precision="fp32",
    ),
    "course": drawn_grid(
        "course", "the course's schedule of 30 epochs on the whole drawn sets, for a GPU", image_size=224,
        scenes=50_000, pretraining_epochs=4, sets={"emoji-voc": {}, "paperdoll-wider": {}}, epochs=30,
        batch_size=64, workers=-1,
    ),
    "drawn-start": drawn_grid(
        "drawn-start", "from drawn pretraining to real images, for a CPU", image_size=96, scenes=2500,
        pretraining_epochs=4, sets=PHOTOGRAPHS, batch_size=16, precision="bf16",
    ),
    "photographs": photographs_grid(
        "photographs", "whole networks with ImageNet weights on real images, for a CPU", {
            "lite0": {"backbone": "tf_efficientnet_lite0", "weights": "installed", "image_size": 224},
            "lite1": {"backbone": "tf_efficientnet_lite1", "weights": "installed", "image_size": 240},
            "lite2": {"backbone": "tf_efficientnet_lite2", "weights": "installed", "image_size": 224},
            "lite3": {"backbone": "tf_efficientnet_lite3", "weights": "hub", "image_size": 224, "precision": "bf16"},
            "mobilenetv2": {"backbone": "mobilenetv2_100", "weights": "hub", "image_size": 224},
            "resnet18layer3": {"backbone": "resnet18-layer3", "weights": "hub", "image_size": 224, "precision": "bf16"},
        },
    ),
    # Expected before its first run had ended: CSRA gains a point more than at 224 px, with four times as many locations
    # to choose from. For Lite3, after Lite0's runs (3.6 points more) and before its own: two points more.
    "photographs-448": photographs_grid(
        "photographs-448", "networks with ImageNet weights on real images, at twice the width and height", {
            "lite0": {"backbone": "tf_efficientnet_lite0", "weights": "installed", "image_size": 448},
            "lite3": {
                "backbone": "tf_efficientnet_lite3", "weights": "hub", "image_size": 448, "precision": "bf16"
            },
        },
    ),
    "paper": paper_grid(),
}  # fmt: skip


def pretraining_folder(out: Path, backbone: str) -> Path:
    """Where the run of a backbone's pretraining lies."""
    return out / f"{backbone}-pretraining"


def scored_folders(out: Path, run: Run) -> dict[Run, Path]:
    """Where the scores of a run lie, and those of its four lines where it has them."""
    folder, lines = out / run.name, run.with_head(FOUR_LINES)
    return {run: folder} | ({lines: folder / FOUR_LINES} if (folder / FOUR_LINES / "metrics.json").exists() else {})
