"""Which images the lab's own splits hold: `csra_lab/assets/splits/DATASET_SPLIT.txt`, one image id a line.

VOC publishes no labels for VOC2012's test, and COCO is more than a laptop trains on, so the lab measures on samples:

    voc2012    sample-trainval, sample-test          1,795 and 1,219 images that hold one of five animals
    voc2012    fold0-train, fold0-test, ... fold4    the same 3,014 images, in five folds
    coco2014   sample-train, sample-val              5,000 and 1,049 images with the lowest ids

A fold is the MD5 of an image's id modulo 5, so that every image is tested once, and anyone can work it out.
"""

import hashlib
from collections.abc import Sequence
from functools import cache

import numpy as np

from csra_lab._io.notice import warn
from csra_lab._io.resources import asset
from csra_lab.datasets.dataset import MultiLabelDataset
from csra_lab.errors import ConfigError, DataError

NUM_FOLDS = 5


def shipped_splits(dataset: str) -> list[str]:
    """Names of the splits that come with the lab for a data set, as "sample-test"; none for most data sets."""
    names = [f"sample-{path.stem.removeprefix(f'{dataset}_')}" for path in asset("splits").glob(f"{dataset}_*.txt")]
    folds = [f"fold{k}-{part}" for k in range(NUM_FOLDS) for part in ("train", "test")]
    return sorted(names) + folds * (dataset == "voc2012")


@cache
def shipped_ids(dataset: str, split: str) -> tuple[str, ...]:
    """The image ids of one split that comes with the lab, sorted.

    Args:
        dataset: "voc2012" or "coco2014".
        split: "sample-test", "fold0-train", ...; see the top of this file.

    Raises:
        CsraError: no such split.
    """
    if split not in shipped_splits(dataset):
        raise ConfigError(f"{dataset} has no split {split!r}; the lab's own are {', '.join(shipped_splits(dataset))}.")
    if split.startswith("sample-"):
        return _read(f"{dataset}_{split.removeprefix('sample-')}")
    number, part = split.removeprefix("fold").split("-")
    everything = sorted(_read(f"{dataset}_trainval") + _read(f"{dataset}_test"))
    return tuple(i for i in everything if (fold_of(i) == int(number)) == (part == "test"))


def fold_of(image_id: str) -> int:
    """The fold, 0 to 4, whose test part an image belongs to."""
    return int(hashlib.md5(image_id.encode(), usedforsecurity=False).hexdigest(), 16) % NUM_FOLDS


def pick_ids(dataset: MultiLabelDataset, ids: Sequence[str], split: str) -> MultiLabelDataset:
    """The items of `dataset` with these ids, in their order, as the split `split`; absent ids are counted in a warning.

    Raises:
        CsraError: none of them is there.
    """
    rows = {image_id: row for row, image_id in enumerate(dataset.ids)}
    chosen = [rows[i] for i in ids if i in rows]
    if not chosen:
        raise DataError(
            f"None of the {len(ids):,} images of {split} is in {dataset.name} {dataset.split}; "
            "give the folder of the data set itself."
        )
    if len(chosen) < len(ids):
        absent = next(i for i in ids if i not in rows)
        warn(
            f"{dataset.name} {split}: {len(ids) - len(chosen):,} of {len(ids):,} images are absent here, such as "
            f"{absent}; scores are not those of the whole split."
        )
    part = dataset.subset(np.array(chosen))
    part.split = split
    return part


def _read(name: str) -> tuple[str, ...]:
    lines = asset(f"splits/{name}.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))
