"""The reader's own pictures: a folder with CSV files, or a folder in VOC's layout with any classes.

CSV: a file for each split, `trainval.csv` and `test.csv`, beside the pictures. The first column is the path of a
picture below the folder, every other column a class; the values are 1 (present), 0 (absent) and -1 (do not count):

    image,cat,dog
    photos/1.jpg,1,0
    photos/2.jpg,0,1

VOC: `ImageSets/Main/SPLIT.txt` and `CLASS_SPLIT.txt`, `JPEGImages/`; the classes are those that have a list,
sorted by name.
"""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from csra_lab._io.validation import is_plain
from csra_lab.datasets.annotations import safe_relative
from csra_lab.datasets.dataset import MultiLabelDataset
from csra_lab.datasets.voc import load_devkit
from csra_lab.errors import CsraError

_VALUES = {"1": 1, "0": 0, "-1": -1, "1.0": 1, "0.0": 0, "-1.0": -1}


def load_folder(root: Path, split: str, transform: Callable | None = None) -> MultiLabelDataset:
    """One split of a folder of one's own, in either layout.

    Raises:
        CsraError: neither layout, no such split, or a malformed file (path and line are named).
    """
    root = Path(root)
    if (root / "ImageSets" / "Main").is_dir():
        return load_devkit(root, split, name=root.name, classes=devkit_classes(root), transform=transform)
    if any(root.glob("*.csv")):
        return _load_csv(root, split, transform)
    raise CsraError(
        f"{root} holds neither CSV files (trainval.csv, test.csv) nor VOC's ImageSets/Main; make one of them."
    )


def folder_splits(root: Path) -> list[str]:
    """The splits that a folder of one's own has."""
    main = Path(root) / "ImageSets" / "Main"
    lists = [p for p in main.glob("*.txt") if "_" not in p.stem] if main.is_dir() else Path(root).glob("*.csv")
    return sorted(p.stem for p in lists)


def devkit_classes(root: Path) -> tuple[str, ...]:
    """The classes that have a list in ImageSets/Main, over all splits, sorted. CsraError if there is none."""
    main = Path(root) / "ImageSets" / "Main"
    endings = [f"_{split}" for split in folder_splits(root)]
    stems = [p.stem for p in main.glob("*_*.txt")]
    classes = {stem.removesuffix(end) for stem in stems for end in endings if stem.endswith(end)}
    if not classes:
        raise CsraError(f"{main} has no class list; write one CLASS_SPLIT.txt for each class.")
    return tuple(sorted(classes))


def _load_csv(root: Path, split: str, transform: Callable | None) -> MultiLabelDataset:
    path = root / f"{split}.csv"
    if not path.is_file():
        raise CsraError(f"{root} has no split {split!r}; it has {', '.join(folder_splits(root))} (one CSV file each).")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeError, csv.Error) as error:
        raise CsraError(f"{path} cannot be read as UTF-8 CSV ({error}); save it as UTF-8.") from None
    if len(rows) < 2 or len(rows[0]) < 2:
        raise CsraError(f"{path} needs a header (image, then the classes) and a line for each picture.")
    classes = [name.strip() for name in rows[0][1:]]
    if len(set(classes)) != len(classes) or not all(map(is_plain, classes)):
        raise CsraError(
            f"{path}, line 1: the class names {classes} must be distinct, not empty and without control codes."
        )
    names, targets = [], []
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(rows[0]):
            raise CsraError(f"{path}, line {number}: {len(row)} columns where the header has {len(rows[0])}.")
        wrong = next((value for value in row[1:] if value.strip() not in _VALUES), None)
        if wrong is not None:
            raise CsraError(f"{path}, line {number}: {wrong!r} is not 1, 0 or -1.")
        names.append(safe_relative(row[0].strip(), source=path))
        targets.append([_VALUES[value.strip()] for value in row[1:]])
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CsraError(f"{path}: {twice!r} is listed twice; remove one.")
    return MultiLabelDataset(
        name=root.resolve().name,
        split=split,
        classes=classes,
        ids=names,
        paths=[root / name for name in names],
        targets=np.array(targets, dtype=np.int8),
        transform=transform,
    )
