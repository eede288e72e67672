"""The recipes by name: the paper's settings, from scratch on drawn sets, and ours for a laptop.

The paper's text (section 4.1): SGD with momentum 0.9 and weight decay 1e-4, 30 epochs with warm-up, learning rates of
0.01 for the backbone and 0.1 for the head, random resized crops and flips, test images resized to a square. Where the
text is silent (the length of the warm-up, the steps, the scale of crops; flip only on WIDER-Attribute), the settings
are those of the authors' published code, and the recipe says so. The paper's baseline ran at 0.01 everywhere; ours is,
for every CSRA recipe, an average-pooling twin that differs in the head and in nothing else.
"""

import difflib
from typing import Any

from csra_lab.errors import ConfigError
from csra_lab.losses import BCE
from csra_lab.recipes.config import Recipe, average_twin

VOC2012_PHOTOGRAPH_CLASSES = (
    "bottle", "car", "cat", "chair", "cow", "dog", "horse", "person", "pottedplant", "sheep", "sofa", "tvmonitor",
)  # fmt: skip
"""Classes with 15 training and 10 test positives among photographs that hold a dog, cat, horse, sheep or cow."""

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

_WHOSE = {
    "resnet18": "the paper's schedule on the course's backbone",
    "resnet101": "the paper's schedule",
    "vitb16": "the paper's schedule",
    "vitl16": "the paper's schedule",
    "vgg16": "the paper's schedule on the report's backbone",
    "mobilenetv2": "the paper's schedule; the paper has this backbone in Table 1 only, as a trained baseline",
    "efficientnetb3": "the paper's schedule; the paper has this backbone in Table 1 only, as a trained baseline",
}
_AUTHORS_CODE = "steps, warm-up and crops as in the authors' code, where the text is silent"

_VOC = {"image_size": 448, "batch_size": 16, "lam": 0.1, "step_epochs": 4.0}
_PAPER_DATA: dict[str, tuple[dict, int]] = {
    "voc07-448px": ({"dataset": "voc2007", **_VOC}, 5_011),
    "voc12-448px": (
        # all of VOC's trainval, not the lab's sample of it
        {"dataset": "voc2012", "train_split": "list:trainval", "test_split": "list:test", **_VOC}, 11_540,
    ),
    "coco-448px": ({"dataset": "coco2014", "image_size": 448, "batch_size": 16, "lam": 0.5, "num_heads": 6}, 82_081),
    "wider-224px": (
        {"dataset": "wider", "image_size": 224, "batch_size": 64, "lam": 0.3, "augmentation": "flip"}, 28_340,
    ),
}  # fmt: skip
"""Settings, and the number of training images. On COCO lam and the heads are those of ResNet-101."""

_PAPER_HEADS = {("vitl16", "coco-448px"): {"num_heads": 8, "lam": 1.0}}
"""Where the paper's head differs from its data set's; ResNet-cut on COCO has lam 0.4: `--lam 0.4`."""

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

_PUBLISHED = {
    "resnet101-csra_voc07-448px": "94.7 mAP in the paper, not run here",
    "resnet101-csra_coco-448px": "83.5 mAP in the paper, not run here",
}

MEASURED = {
    "voc2012-lite0-csra": ("fine-tuned", "csra", 64.7),
    "voc2012-lite0-avg": ("fine-tuned", "avg", 62.6),
    "emoji-small-resnet18-csra": ("from-scratch", "emoji-small-resnet18-csra", 24.0),
    "emoji-small-resnet18-avg": ("from-scratch", "emoji-small-resnet18-avg", 19.3),
    "emoji-small-resnet101-csra": ("from-scratch", "emoji-small-resnet101-csra", 19.7),
    "emoji-small-resnet101-avg": ("from-scratch", "emoji-small-resnet101-avg", 18.2),
}
"""Recipe -> folder of data/runs, how its runs' names begin there, and their mean test mAP in %. A test counts again."""


def _paper_recipes() -> list[Recipe]:
    recipes = []
    for short, backbone in PAPER_BACKBONES.items():
        for data, (settings, images) in _PAPER_DATA.items():
            name = f"{short}-csra_{data}"
            # Forward once and backward twice, over all images and epochs.
            peta = 3 * GIGA_MULTIPLY_ADDS[short, settings["image_size"]] * images * 30 / 1e6
            csra = Recipe.of(
                name,
                backbone=backbone,
                weights="hub",
                why=f"{_WHOSE[short]}; {_AUTHORS_CODE}",
                cost=f"{peta:.3g} peta multiply-adds",
                expected=_PUBLISHED.get(name, ""),
                **settings | _PAPER_HEADS.get((short, data), {}),
            )
            recipes += [csra, average_twin(csra)]
    return recipes


# --- From scratch -----------------------------------------------------------------------------------------------------

_FROM_SCRATCH: dict[str, Any] = {
    "image_size": 224,
    "weights": "none",
    "lam": 0.3,
    "normalize": False,
    "epochs": 100,
    "batch_size": 64,
    "optimizer": "adamw",
    "weight_decay": 5e-2,
    "schedule": "cosine",
    "warmup_epochs": 5.0,
    "crop_scale": 0.5,
}
_SCRATCH_RATES = {"resnet18": 1e-3, "resnet101": 1e-3, "vitb16": 3e-4, "vgg16": 3e-4}
_SCRATCH_DATA: dict[str, tuple[str, dict[str, Any]]] = {
    "emoji": ("emoji-voc", {}),
    "paperdoll": ("paperdoll-wider", {"augmentation": "flip"}),
}
_SMALL = {
    "resnet18": (20, "about 10 minutes on 2 cores"),
    "resnet101": (10, "17 minutes on one core"),
    "vitb16": (8, ""),
}


def _from_scratch_recipes() -> list[Recipe]:
    """The paper's backbones from random weights on the drawn sets: for a GPU, and a small version for two CPU cores."""
    recipes = []
    for short, rate in _SCRATCH_RATES.items():
        for data, (dataset, changes) in _SCRATCH_DATA.items():
            settings = {key: value for key, value in _FROM_SCRATCH.items() if key != "crop_scale" or not changes}
            recipes.append(
                Recipe.of(
                    f"{data}-scratch-{short}-csra",
                    dataset=dataset,
                    backbone=PAPER_BACKBONES[short],
                    backbone_lr=rate,
                    head_lr=rate,  # nothing is trained yet, so nothing needs ten times the rate
                    why="from scratch, on a GPU",
                    **settings | changes,
                )
            )
    for short, (epochs, cost) in _SMALL.items():
        full = next(recipe for recipe in recipes if recipe.name == f"emoji-scratch-{short}-csra")
        recipes.append(
            full.replace(
                name=f"emoji-small-{short}-csra",
                image_size=112,
                subset=1000,
                epochs=epochs,
                batch_size=16,
                warmup_epochs=1.0,
                precision="bf16",  # twice as fast on a CPU that multiplies bf16, slow on one that does not
                why="from scratch, small enough for two CPU cores",
                cost=cost,
            )
        )
    return recipes


# --- Ours, for a laptop -----------------------------------------------------------------------------------------------

_VOC2012_LITE0 = Recipe.of(
    "voc2012-lite0-csra",
    dataset="voc2012",
    backbone="tf_efficientnet_lite0",
    image_size=224,
    weights="installed",
    why="real images on a laptop; ours",
    cost="16 minutes on 2 cores",
    classes=VOC2012_PHOTOGRAPH_CLASSES,
    lam=0.3,
    normalize=False,  # AdamW on few images does better without; the paper normalises
    epochs=10,
    batch_size=16,
    optimizer="adamw",
    backbone_lr=3e-5,  # 1e-4 and 3e-4 ended below the frozen backbone on so few images
    head_lr=1e-2,
    freeze_statistics=True,  # batches of 16 are too few to estimate them
    weight_decay=1e-2,
    schedule="cosine",
    warmup_epochs=0.5,
    validation_fraction=0.1,
)

_FOLDER_LITE0 = _VOC2012_LITE0.replace(
    name="folder-lite0-csra",
    dataset="folder",
    classes=(),
    epochs=5,
    why="images of your own",
    cost="",
    loss=BCE(),  # who says that labels are unknown does not want them for absent
)

_EMOJI_LITE0 = _VOC2012_LITE0.replace(
    name="emoji-lite0-csra",
    dataset="emoji-voc",
    classes=(),
    why="EmojiVOC: the head alone on frozen ImageNet features",
    cost="2 minutes on 2 cores",
    freeze_backbone=True,
    head_lr=3e-3,  # the middle of what `csra-lab ablate recipe` finds best
)
_PAPERDOLL_LITE0 = _EMOJI_LITE0.replace(
    name="paperdoll-lite0-csra",
    dataset="paperdoll-wider",
    why="PaperdollWIDER: the head alone on frozen ImageNet features",
)
_EMOJI_FULL = _VOC2012_LITE0.replace(
    name="emoji-lite0-csra-full", dataset="emoji-voc", classes=(), epochs=5, why="EmojiVOC: the whole network", cost=""
)
_PAPERDOLL_FULL = _EMOJI_FULL.replace(
    name="paperdoll-lite0-csra-full",
    dataset="paperdoll-wider",
    why="PaperdollWIDER: the whole network",
    augmentation="flip",  # as the authors' code on WIDER: a crop cuts heads and feet off people
)
_OURS = (_VOC2012_LITE0, _FOLDER_LITE0, _EMOJI_LITE0, _EMOJI_FULL, _PAPERDOLL_LITE0, _PAPERDOLL_FULL)


def _with_scores(recipe: Recipe) -> Recipe:
    if recipe.name not in MEASURED:
        return recipe
    folder, _, score = MEASURED[recipe.name]
    return recipe.replace(expected=f"{score} mAP on the test split, measured by this lab (data/runs/{folder})")


RECIPES: dict[str, Recipe] = {
    recipe.name: _with_scores(recipe)
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
        raise ConfigError(f"there is no recipe {name!r}; {hint}")
    return RECIPES[name]
