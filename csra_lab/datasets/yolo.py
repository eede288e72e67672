"""YOLO's layout: a text file of boxes beside each image, names of the classes in data.yaml or classes.txt.

    images/train/1.jpg   labels/train/1.txt        or        train/images/1.jpg   train/labels/1.txt

A line of a text file is `class x y width height`, the class as a number and the rest in parts of the image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from csra_lab._io.validation import is_plain
from csra_lab.datasets.dataset import MultiLabelDataset
from csra_lab.datasets.images import walk_images
from csra_lab.errors import DataError


def yolo_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> its folders of images and of labels, of a folder in YOLO's layout; empty for another."""
    root = Path(root)
    found = {}
    for labels in sorted([*root.glob("labels/*"), *root.glob("*/labels")]):
        split = labels.name if labels.parent.name == "labels" else labels.parent.name
        images = root / "images" / split if labels.parent.name == "labels" else labels.parent / "images"
        if labels.is_dir() and images.is_dir():
            found[split] = (images, labels)
    return found


def load_yolo(root: Path, split: str, transform: Callable | None = None) -> MultiLabelDataset:
    """One split of a folder in YOLO's layout. An image without a text file shows no class, as YOLO trains on it.

    Raises:
        DataError: no names of classes, or a line that is not as YOLO writes it.
    """
    images, labels = yolo_folders(root)[split]
    classes = _class_names(root)
    paths, _ = walk_images(images)
    names = [path.relative_to(images).as_posix() for path in paths]
    targets = np.zeros((len(paths), len(classes)), dtype=np.int8)  # (N, C)
    for row, name in enumerate(names):
        for column in _classes_in(labels / f"{os.path.splitext(name)[0]}.txt", len(classes)):
            targets[row, column] = 1
    if not paths:
        raise DataError(f"{images} holds no image; put the images of {split} there.")
    return MultiLabelDataset(
        name=root.resolve().name,
        split=split,
        classes=classes,
        ids=names,
        paths=paths,
        targets=targets,
        transform=transform,
        root=images,
    )


def _class_names(root: Path) -> tuple[str, ...]:
    for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        try:
            names = _yaml_names(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeError) as error:
            raise DataError(f"{path} cannot be read ({error}); save it as UTF-8.") from error
        if names:
            return _checked(names, path)
    for path in (root / "classes.txt", root / "labels" / "classes.txt"):
        if path.is_file():
            return _checked(path.read_text(encoding="utf-8-sig").split("\n"), path)
    raise DataError(f"{root} names no classes; write data.yaml with names: [cat, dog], or classes.txt with one a line.")


def _yaml_names(text: str) -> list[str]:
    """The list under `names:` in the three ways that YOLO's tools write it: [a, b], lines "- a", lines "0: a"."""
    pattern = r"^names:[ \t]*(\[[^\]]*\]|\{[^}]*\})?[^\n]*\n?((?:[ \t]*(?:-|\d+:)[^\n]*\n?)*)"
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        return []
    parts = match[1][1:-1].split(",") if match[1] else match[2].splitlines()
    return [re.sub(r"^\s*(?:-|\d+:)\s*", "", part).partition(" #")[0].strip().strip("'\"") for part in parts]


def _checked(names: list, path: Path) -> tuple[str, ...]:
    plain = [str(name).strip() for name in names if name is not None and str(name).strip()]
    if len(set(plain)) != len(plain) or not plain or not all(map(is_plain, plain)):
        raise DataError(f"{path}: the names of the classes must be distinct and not empty; correct the file.")
    return tuple(plain)


def _classes_in(path: Path, count: int) -> set[int]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return set()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); save it as plain text.") from error
    found = set()
    for number, line in enumerate(lines, start=1):
        cells = line.split()
        if not cells:
            continue
        if not cells[0].isdigit() or len(cells) < 5:
            raise DataError(f"{path}, line {number}: {line[:40]!r} is not a class's number and a box of four numbers.")
        if int(cells[0]) >= count:
            raise DataError(f"{path}, line {number}: class {cells[0]} is not among the {count} that are named.")
        found.add(int(cells[0]))
    return found
