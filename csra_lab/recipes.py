"""Recipes: everything that decides a training run, as one frozen dataclass.

The paper's recipe (section 4.1): SGD with momentum 0.9 and weight decay 1e-4, 30 epochs with warm-up, learning rates
of 0.01 for the backbone and 0.1 for the head, random resized crops and flips, test images resized to a square. Its
baseline ran at 0.01 everywhere. Ours has, for every CSRA recipe, an average-pooling twin that differs in the head and
in nothing else.
"""

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Literal

from csra_lab._io.validation import check_types
from csra_lab.errors import CsraError

VOC2012_PHOTOGRAPH_CLASSES = (
    "bottle", "car", "cat", "chair", "cow", "dog", "horse", "person", "pottedplant", "sheep", "sofa", "tvmonitor",
)  # fmt: skip
"""Classes with 15 training and 10 test positives among photographs that hold a dog, cat, horse, sheep or cow."""


@dataclass(frozen=True)
class Recipe:
    """A training run. `csra-lab train NAME` runs it, and every field can be overridden there."""

    name: str  # what the run is called
    dataset: str  # a name that `load_dataset` knows
    backbone: str  # timm's name of the network
    image_size: int  # side of the square input, pixels
    why: str = ""  # what this recipe is for
    cost: str = ""  # what a run takes
    expected: str = "not measured yet"  # the score to expect, and who measured it
    train_split: str = "trainval"
    test_split: str = "test"
    train_images: int | None = None  # train on so many pictures of the split, the same for every seed; None for all
    classes: tuple[str, ...] = ()  # classes to keep; none named means all

    weights: str = "pretrained"  # "pretrained" (installed, or timm's hub), "none", or the path of a weight file
    pixels: Literal["backbone", "plain"] = "backbone"  # normalised as the backbone was trained, or 0..1 as they are
    freeze_backbone: bool = False  # train the head alone, on features computed once (pictures and mirror images)
    freeze_statistics: bool = (
        False  # batch norm keeps the statistics it was trained with; its scale and shift still learn
    )
    head: Literal["csra", "average", "max", "spatial", "lse", "gem", "topk"] = "csra"
    lam: float = 0.1  # weight of the residual
    heads: int = 1
    temperatures: tuple[float, ...] = ()  # one for each head; none named means the paper's list
    normalize: bool = True  # classifiers of unit length

    epochs: int = 30
    batch_size: int = 16  # images of one optimiser step, over all processes together
    accumulate: int = 1  # parts into which each process cuts its share of a batch, to save memory
    optimizer: Literal["sgd", "adamw"] = "sgd"
    backbone_lr: float = 0.01  # peak learning rate
    head_lr: float = 0.1  # peak learning rate
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["step", "cosine", "one-cycle", "constant"] = "step"
    warmup_epochs: float = 2.0  # linear rise of the learning rate (one-cycle has its own rise)
    step_epochs: float = 5.0  # epochs between the steps of the step schedule
    step_gamma: float = 0.1  # factor of each step
    crop_scale: float = 0.7  # smallest share of the picture that a random crop keeps
    randaugment: bool = False
    loss: Literal["bce", "asl"] = "bce"
    difficult: Literal["negative", "ignore"] = "negative"  # what unknown training targets become; the paper: negative
    ema_decay: float = 0.0  # keep and use an average of the weights with this decay; 0 for none
    validation_fraction: float = 0.0  # share of the training split that chooses the best epoch; 0 takes the last epoch
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 on a GPU that has it, else fp32
    compile: Literal["no", "default", "reduce-overhead"] = "no"  # torch.compile's mode; it takes a minute to start
    images: Literal["auto", "keep", "read"] = "auto"  # keep them decoded in memory, or read them in every epoch
    seed: int = 0  # of weights, order and augmentation
    workers: int = -1  # loader processes; -1 for a number that suits the machine

    def __post_init__(self):
        check_types(self, f"recipe {self.name}")
        limits = {
            **dict.fromkeys(("epochs", "batch_size", "accumulate"), (1, 1_000_000)),
            **dict.fromkeys(("backbone_lr", "head_lr"), (0, 1e38)),
            **dict.fromkeys(("weight_decay", "warmup_epochs"), (0, 1_000_000)),
            **dict.fromkeys(("momentum", "ema_decay", "step_gamma"), (0, 1)),
            "image_size": (1, 2048),
            "heads": (1, 1000),
            "lam": (-1e38, 1e38),
            "seed": (0, 2**63 - 1),
            "step_epochs": (0.001, 1_000_000),
            "crop_scale": (0.01, 1),
            "validation_fraction": (0, 0.9),
            "workers": (-1, 256),
        }
        if self.train_images is not None:
            limits["train_images"] = (1, 1_000_000_000)
        for field, (low, high) in limits.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise CsraError(f"recipe {self.name}: {field} must be from {low:,} to {high:,}, not {value}.")
        for t in self.temperatures:
            if t < 0:
                raise CsraError(f"recipe {self.name}: a temperature must be a number from 0 to infinity, not {t}.")
        if len(set(self.classes)) != len(self.classes):
            raise CsraError(f"recipe {self.name}: classes must name each class once, not {', '.join(self.classes)}.")

    def head_options(self) -> dict:
        """The keyword arguments of `create_classifier` that make this recipe's head."""
        options: dict = {"head": self.head, "normalize": self.normalize}
        if self.head == "csra":
            options |= {"heads": self.heads, "lam": self.lam, "temperatures": self.temperatures or None}
        return options


def learning_rate_factor(epoch: float, recipe: Recipe) -> float:
    """The share of the peak learning rate at a moment of training (fractional epochs from 0 to `recipe.epochs`)."""
    if recipe.schedule == "one-cycle":  # up for 30 % of the time, then down to nothing, both along a cosine
        rise = 0.3 * recipe.epochs
        if epoch < rise:
            return 0.04 + 0.96 * _half_cosine(1 - epoch / rise)
        return _half_cosine((epoch - rise) / (recipe.epochs - rise))
    if epoch < recipe.warmup_epochs:
        return epoch / recipe.warmup_epochs
    if recipe.schedule == "cosine":
        return _half_cosine((epoch - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-9))
    if recipe.schedule == "step":
        return recipe.step_gamma ** math.floor(epoch / recipe.step_epochs)
    return 1.0


def _half_cosine(x: float) -> float:
    """From 1 at x = 0 to 0 at x = 1."""
    return 0.5 * (1 + math.cos(math.pi * min(max(x, 0.0), 1.0)))


def average_twin(recipe: Recipe) -> Recipe:
    """The same recipe with average pooling: the same-recipe baseline."""
    name = recipe.name.replace("csra", "avg")
    return dataclasses.replace(recipe, name=name, head="average", expected="not measured yet")


# --- The paper's settings ---------------------------------------------------------------------------------------------

PAPER_BACKBONES = {
    "resnet18": "resnet18",
    "resnet101": "resnet101",
    "vitb16": "vit_base_patch16_224",
    "vitl16": "vit_large_patch16_224",
    "vgg16": "vgg16",
    "mobilenetv2": "mobilenetv2_100",
    "efficientnetb3": "efficientnet_b3",
}
"""Short names in recipes, and timm's. ResNet-cut is resnet101 started from CutMix weights: `--weights FILE`."""

_PAPER_DATA = {
    # The authors ran batches of 16 at 448 pixels on VOC and COCO, of 64 at 224 on WIDER. Their lam on VOC2007 is 0.1.
    "voc07-448px": ({"dataset": "voc2007", "image_size": 448, "batch_size": 16, "lam": 0.1}, 5_011),
    "voc12-448px": ({"dataset": "voc2012", "image_size": 448, "batch_size": 16, "lam": 0.1}, 11_540),
    "coco-448px": ({"dataset": "coco2014", "image_size": 448, "batch_size": 16, "lam": 0.1}, 82_783),
    "wider-224px": ({"dataset": "wider", "image_size": 224, "batch_size": 64, "lam": 0.1}, 28_340),
}
"""Settings, and the number of training images."""

GIGA_MULTIPLY_ADDS = {
    ("resnet18", 224): 1.81, ("resnet18", 448): 7.25,
    ("resnet101", 224): 7.80, ("resnet101", 448): 31.20,
    ("vitb16", 224): 17.56, ("vitb16", 448): 78.49,
    ("vitl16", 224): 61.55, ("vitl16", 448): 267.97,
    ("vgg16", 224): 15.35, ("vgg16", 448): 61.39,
    ("mobilenetv2", 224): 0.30, ("mobilenetv2", 448): 1.20,
    ("efficientnetb3", 224): 0.96, ("efficientnetb3", 448): 3.84,
}  # fmt: skip
"""Of one image forward through each backbone at each size, counted by `csra_lab.cost` (a test counts again)."""

_PUBLISHED = {"resnet101-csra_voc07-448px": "94.7 mAP in the paper; not measured here"}


def _paper_recipes() -> list[Recipe]:
    recipes = []
    for short, backbone in PAPER_BACKBONES.items():
        for data, (settings, images) in _PAPER_DATA.items():
            name = f"{short}-csra_{data}"
            # Forward once and backward twice, over all images and epochs.
            peta = 3 * GIGA_MULTIPLY_ADDS[short, settings["image_size"]] * images * 30 / 1e6
            csra = Recipe(
                name=name,
                backbone=backbone,
                why="the paper's schedule",
                cost=f"{peta:.3g} peta multiply-adds",
                expected=_PUBLISHED.get(name, "not measured yet"),
                **settings,
            )
            recipes += [csra, average_twin(csra)]
    return recipes


# --- From scratch -----------------------------------------------------------------------------------------------------

_FROM_SCRATCH = Recipe(
    name="",
    dataset="emoji-voc",
    backbone="",
    image_size=224,
    weights="none",
    lam=0.3,
    normalize=False,
    epochs=100,
    batch_size=64,
    optimizer="adamw",
    backbone_lr=1e-3,
    head_lr=1e-3,  # nothing is trained yet, so nothing needs ten times the rate
    weight_decay=5e-2,
    schedule="cosine",
    warmup_epochs=5,
    crop_scale=0.5,
)
_SCRATCH_RATES = {"resnet18": 1e-3, "resnet101": 1e-3, "vitb16": 3e-4, "vgg16": 3e-4}
_SCRATCH_DATA = {"emoji": "emoji-voc", "paperdoll": "paperdoll-wider"}
_SMALL_EPOCHS = {"resnet18": 20, "resnet101": 10, "vitb16": 8}


def _from_scratch_recipes() -> list[Recipe]:
    """The paper's backbones from random weights on the drawn sets: for a GPU, and a small version for two CPU cores."""
    recipes = []
    for short, rate in _SCRATCH_RATES.items():
        for data, dataset in _SCRATCH_DATA.items():
            recipes.append(
                dataclasses.replace(
                    _FROM_SCRATCH,
                    name=f"{data}-scratch-{short}-csra",
                    dataset=dataset,
                    backbone=PAPER_BACKBONES[short],
                    backbone_lr=rate,
                    head_lr=rate,
                    why="from scratch, on a GPU",
                )
            )
    for short, epochs in _SMALL_EPOCHS.items():
        full = next(recipe for recipe in recipes if recipe.name == f"emoji-scratch-{short}-csra")
        recipes.append(
            dataclasses.replace(
                full,
                name=f"emoji-small-{short}-csra",
                image_size=112,
                train_images=1000,
                epochs=epochs,
                batch_size=16,
                warmup_epochs=1,
                precision="bf16",  # twice as fast on a CPU that multiplies bf16, slow on one that does not
                why="from scratch, small enough for two CPU cores",
            )
        )
    return recipes


# --- Ours, for a laptop -----------------------------------------------------------------------------------------------

_VOC2012_LITE0 = Recipe(
    name="voc2012-lite0-csra",
    dataset="voc2012",
    backbone="tf_efficientnet_lite0",  # its ImageNet weights come with the installation
    image_size=224,
    why="real photographs on a laptop",
    classes=VOC2012_PHOTOGRAPH_CLASSES,
    lam=0.3,
    normalize=False,  # AdamW on few images does better without; the paper normalises
    epochs=5,
    batch_size=16,
    optimizer="adamw",
    backbone_lr=3e-5,  # 1e-4 and 3e-4 ended below the frozen backbone on so few pictures
    head_lr=1e-2,
    freeze_statistics=True,  # batches of 16 are too few to estimate them
    weight_decay=1e-2,
    schedule="cosine",
    warmup_epochs=0.5,
    validation_fraction=0.1,
)

_FOLDER_LITE0 = dataclasses.replace(
    _VOC2012_LITE0, name="folder-lite0-csra", dataset="folder", classes=(), why="pictures of your own"
)

_EMOJI_LITE0 = dataclasses.replace(
    _VOC2012_LITE0,
    name="emoji-lite0-csra",
    dataset="emoji-voc",
    classes=(),
    why="EmojiVOC: the head alone on frozen ImageNet features",
    freeze_backbone=True,
    epochs=10,  # they cost seconds here
    head_lr=3e-3,  # the middle of what `csra-lab ablate recipe` finds best
)
_PAPERDOLL_LITE0 = dataclasses.replace(
    _EMOJI_LITE0,
    name="paperdoll-lite0-csra",
    dataset="paperdoll-wider",
    why="PaperdollWIDER: the head alone on frozen ImageNet features",
)


def _whole_network(recipe: Recipe) -> Recipe:
    """The same recipe with the backbone trained too."""
    why = recipe.why.replace("the head alone on frozen ImageNet features", "the whole network")
    return dataclasses.replace(
        recipe, name=f"{recipe.name}-full", why=why, freeze_backbone=False, epochs=_VOC2012_LITE0.epochs,
        head_lr=_VOC2012_LITE0.head_lr,
    )  # fmt: skip


_OURS = (
    _VOC2012_LITE0,
    _FOLDER_LITE0,
    _EMOJI_LITE0,
    _whole_network(_EMOJI_LITE0),
    _PAPERDOLL_LITE0,
    _whole_network(_PAPERDOLL_LITE0),
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in [
        *(recipe for ours in _OURS for recipe in (ours, average_twin(ours))),
        *(recipe for csra in _from_scratch_recipes() for recipe in (csra, average_twin(csra))),
        *_paper_recipes(),
    ]
}


def get_recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        CsraError: an unknown name; near names are given.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`csra-lab train --help` lists them."
        raise CsraError(f"there is no recipe {name!r}; {hint}")
    return RECIPES[name]
