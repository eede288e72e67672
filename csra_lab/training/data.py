"""What a run trains on and validates with: images or cached features, in the form that its loader wants."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from csra_lab.classifier import MultiLabelClassifier
from csra_lab.datasets import MultiLabelDataset
from csra_lab.datasets.transforms import eval_transform, train_transform
from csra_lab.errors import DataError, MissingFile
from csra_lab.recipes import Recipe
from csra_lab.training.evaluation import check_classes, check_measurable, check_negatives
from csra_lab.training.feature_cache import FeatureItems, cache_features
from csra_lab.training.image_cache import Crops, Draws, ImageCache, fits
from csra_lab.training.sampling import SeededItems, hold_out, sample_images


@dataclass(frozen=True)
class TrainingData:
    """The training items of a run, and its validation part.

    Attributes:
        items: what the loader draws from. crops: where images are cut on the device, else None.
        validation, targets: of the held-out part; empty where nothing is held out.
    """

    items: SeededItems
    validation: MultiLabelDataset | FeatureItems
    targets: np.ndarray
    crops: Crops | None


@dataclass(frozen=True)
class Parts:
    """A training set cut in two: indices of what is fitted, and of what is held out."""

    train_set: MultiLabelDataset
    fit: np.ndarray
    held_out: np.ndarray


def split_off(recipe: Recipe, train_set: MultiLabelDataset) -> Parts:
    """The recipe's sample of the training set, cut into a part to fit and a validation part.

    Raises:
        CsraError: a part that is empty, or has no label to learn from or to measure by.
    """
    if recipe.data.subset is not None:
        train_set = train_set.subset(sample_images(train_set, recipe.data.subset))
    parts = Parts(train_set, *hold_out(train_set, recipe.data.validation_fraction))
    for part, items in (("training", parts.fit), ("validation", parts.held_out)):
        if len(items) and not (train_set.targets[items] == 1).any():
            raise DataError(
                f"the {part} part of {train_set.name} {train_set.split} ({len(items)} images) shows none of the "
                "classes; check the labels, or set another validation_fraction."
            )
    held_out = train_set.targets[parts.held_out]
    check_negatives(held_out, f"the validation part of {train_set.name} {train_set.split}")
    return parts


def check_test_set(model: MultiLabelClassifier, test_set: MultiLabelDataset) -> None:
    """Raise a CsraError unless the test set can be scored: before the first epoch, not after the last."""
    check_files(test_set)
    check_classes(model, test_set)
    check_measurable(test_set)


def check_files(dataset: MultiLabelDataset) -> None:
    """Raise a MissingFile for the first image that is not there: before the first epoch, not after the last."""
    for path in dict.fromkeys(dataset.paths):
        if not os.path.isfile(path):
            raise MissingFile(
                f"{dataset.name} {dataset.split} lists {path}, which is not there; `csra-lab data check` lists all."
            )


def prepare(
    recipe: Recipe, model: MultiLabelClassifier, parts: Parts, *, rank: int, world: int, computing: dict
) -> TrainingData:
    """Read, cache or compute what is trained on.

    Args:
        rank, world: which process of how many this is. computing: device, dtype, workers and progress of the run.
    """
    train_set, size = parts.train_set, recipe.model.image_size
    pixels: dict[str, Any] = {"mean": model.mean, "std": model.std}
    targets = train_set.targets[parts.held_out]
    if recipe.model.freeze_backbone:
        maps = cache_features(model.backbone, train_set, **pixels, mirror=True, rank=rank, world=world, **computing)
        items = SeededItems(maps.part(parts.fit), recipe.run.seed)
        return TrainingData(items, maps.part(parts.held_out, views=1), targets, None)
    plan = recipe.optimisation
    crop = {"crop_scale": plan.crop_scale, "crop_ratio": plan.crop_ratio} if plan.augmentation == "crop" else {}
    images = train_set.for_size(size, **crop)
    validation = images.subset(parts.held_out).with_transform(eval_transform(size, **pixels))
    read, transform, crops = _images(recipe, images.subset(parts.fit), pixels, world, computing)
    return TrainingData(SeededItems(read, recipe.run.seed, transform), validation, targets, crops)


def _images(
    recipe: Recipe, images: MultiLabelDataset, pixels: dict, processes: int, computing: dict
) -> tuple[Dataset, Callable | None, Crops | None]:
    """The training images, read or from memory, what a loader is to do with each, and where they are cut."""
    plan, size, device = recipe.optimisation, recipe.model.image_size, computing["device"]
    crop: dict[str, Any] = {"crop_scale": (plan.crop_scale, 1.0), "crop_ratio": (1 / plan.crop_ratio, plan.crop_ratio)}
    crop = crop if plan.augmentation == "crop" else {"crop_scale": None}
    transform = train_transform(size, **crop, randaugment=plan.randaugment, **pixels)
    kept_on = device if cut_on_device(recipe, device) else torch.device("cpu")
    fitting = recipe.data.image_cache == "auto" and fits(images, kept_on, processes=processes)
    if recipe.data.image_cache != "memory" and not fitting:
        return images, transform, None
    cache = ImageCache(images, progress=computing["progress"])
    if not cut_on_device(recipe, device):
        return cache, transform, None
    return Draws(cache, **crop), None, Crops(cache, device, size, **pixels)


def cut_on_device(recipe: Recipe, device: torch.device) -> bool:
    """Whether cached images are cut where the network is; RandAugment has no such way."""
    return device.type == "cuda" and not recipe.optimisation.randaugment
