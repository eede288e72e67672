"""The reader's own images, in any of four layouts; which one is told from what lies in the folder.

    CSV     trainval.csv and test.csv beside the images (`label_table.py`)
    VOC     ImageSets/Main/SPLIT.txt, JPEGImages/, and CLASS_SPLIT.txt lists or Annotations/ID.xml (`voc.py`)
    COCO    annotations/instances_SPLIT.json, SPLIT.json or SPLIT/_annotations.coco.json (`coco.py`)
    YOLO    images/SPLIT and labels/SPLIT, or SPLIT/images and SPLIT/labels (`yolo.py`)

A split "trainval" that is not there is "train" and "val" together where both are; "a+b" is two splits together.
"""

from __future__ import annotations

import re
from pathlib import Path

from csra_lab._io.notice import warn
from csra_lab.datasets.coco import read_instances
from csra_lab.datasets.dataset import MultiLabelDataset, join_splits
from csra_lab.datasets.label_table import load_table, table_files
from csra_lab.datasets.labels import CLASS_LISTS, TABLES, stated_convention
from csra_lab.datasets.voc import devkit_splits, image_files, labels_from_xml, load_devkit, read_ids
from csra_lab.datasets.voc_xml import read_voc_labels
from csra_lab.datasets.yolo import load_yolo, yolo_folders
from csra_lab.errors import ConfigError, DataError, MissingFile

VALIDATION_NAMES = ("val", "valid", "validation", "dev")


def load_folder(root: Path, split: str, *, absent: str | None = None, unknown: str | None = None) -> MultiLabelDataset:
    """One split of a folder of one's own.

    Args:
        absent, unknown: what says so in CSV files and in class lists, out of "0", "-1" and "blank", several with
            commas. Present is always 1. Left out: 0 and -1 in CSV files, -1 and 0 in VOC's class lists.

    Raises:
        CsraError: none of the layouts, no such split, a malformed file (path and line are named), or labels that
            read as if the convention were another one.
    """
    root = Path(root)
    layout, splits = _layout(root, split)
    parts = _parts(split, splits)
    if not parts:
        raise MissingFile(_no_split(root, split, splits))
    found = [_load_one(layout, root, part, absent, unknown) for part in parts]
    return found[0] if len(found) == 1 else join_splits(found, split)


def folder_splits(root: Path) -> list[str]:
    """The splits that a folder of one's own has."""
    return _layout(Path(root))[1]


def _layout(root: Path, split: str | None = None) -> tuple[str, list[str]]:
    """The layout of a folder and its splits. A stray table or JSON file, such as a log, hides no other layout.

    Args:
        split: which the layout should have; one of the usual names if left out.
    """
    usual = ("trainval", "train", "test", *VALIDATION_NAMES)
    if (root / "ImageSets" / "Main").is_dir():
        unread = [path.name for name, path in table_files(root).items() if name in usual]
        if unread:
            warn(f"{root} has ImageSets/Main and is read as VOC's layout; {', '.join(unread)} beside it is not read.")
        return "VOC", devkit_splits(root)
    found = {"CSV": [*table_files(root)], "COCO": [*_instance_files(root)], "YOLO": [*yolo_folders(root)]}
    layouts = [(name, sorted(splits)) for name, splits in found.items() if splits]
    wanted = usual if split is None else (split,)
    fitting = [each for each in layouts if any(_parts(name, each[1]) for name in wanted)]
    return next(iter(fitting or layouts), ("none", []))


def devkit_classes(root: Path) -> tuple[str, ...]:
    """The classes that have a list in ImageSets/Main, over all splits, sorted; empty if there is none."""
    main = Path(root) / "ImageSets" / "Main"
    endings = [f"_{split}" for split in devkit_splits(root)]
    stems = [p.stem for p in main.glob("*_*.txt")]
    return tuple(sorted({stem.removesuffix(end) for stem in stems for end in endings if stem.endswith(end)}))


def _parts(split: str, splits: list[str]) -> list[str]:
    """The listed splits that make up the one asked for; none where it cannot be had."""
    if split in splits:
        return [split]
    if "+" in split and set(split.split("+")) <= set(splits):
        return split.split("+")
    validation = [name for name in VALIDATION_NAMES if name in splits]
    if split == "trainval" and "train" in splits:
        return ["train", *validation[:1]]
    return []


def _no_split(root: Path, split: str, splits: list[str]) -> str:
    if not splits:
        below = sorted(main.parents[1].name for main in root.glob("*/ImageSets/Main"))
        return (
            f"{root} holds neither CSV files (trainval.csv, test.csv) nor VOC's ImageSets/Main, COCO's annotations or "
            f"YOLO's labels; {f'name {below[0]} in it' if below else 'make one of them, in this very folder'}."
        )
    if len(splits) == 1:
        return (
            f"{root} has no split {split!r}, only {splits[0]}; write a second list of other images in the same "
            f"format, and name both: --train-split {splits[0]} --test-split OTHER."
        )
    held_out = next((name for name in ("test", *VALIDATION_NAMES) if name in splits), splits[-1])
    names = ("trainval", "train") if held_out == "test" else ("train", "trainval")
    first = next((name for name in names if name in splits), splits[0])
    return (
        f"{root} has no split {split!r}; it has {', '.join(splits)}: choose with --train-split {first} --test-split "
        f"{held_out} (or --split {held_out})."
    )


def _load_one(layout: str, root: Path, split: str, absent: str | None, unknown: str | None) -> MultiLabelDataset:
    if layout == "VOC":
        return _load_voc_layout(root, split, absent, unknown)
    if layout == "CSV":
        return load_table(root, split, table_files(root)[split], stated_convention(TABLES, absent, unknown))
    if absent is not None or unknown is not None:
        raise ConfigError(f"absent and unknown are for CSV files and class lists, and {root} has none; leave them out.")
    if layout == "COCO":
        path = _instance_files(root)[split]
        return read_instances(path, _images_of(root, split, path), name=root.resolve().name, split=split)
    return load_yolo(root, split)


def _load_voc_layout(root, split, absent, unknown) -> MultiLabelDataset:
    classes, name = devkit_classes(root), root.resolve().name
    files = image_files(root / "JPEGImages")
    if classes:
        convention = stated_convention(CLASS_LISTS, absent, unknown)
        return load_devkit(root, split, name=name, classes=classes, convention=convention, files=files)
    main, annotations = root / "ImageSets" / "Main", root / "Annotations"
    if not annotations.is_dir():
        raise DataError(
            f"{main} has no class list and {root} no Annotations; write one CLASS_SPLIT.txt for each class, or ID.xml."
        )
    ids = {part: read_ids(main / f"{part}.txt", root) for part in devkit_splits(root)}
    everything = {i for part in ids.values() for i in part}
    named = {c for i in everything if (annotations / f"{i}.xml").is_file() for c in _names_in(annotations / f"{i}.xml")}
    return labels_from_xml(root, ids[split], split, name=name, classes=sorted(named) or None, files=files)


def _names_in(path: Path) -> set[str]:
    return set(read_voc_labels(path))


def _instance_files(root: Path) -> dict[str, Path]:
    """Split -> its file in COCO's format; a single file of the folder is the split "all"."""
    found: dict[str, Path] = {}
    for path in sorted(root.glob("annotations/*.json")):
        match = re.fullmatch(r"(?:instances_)?(.+?)(?:20\d\d)?", path.stem)
        if not match or path.stem.startswith(("captions_", "person_keypoints_")):
            continue
        if found.setdefault(match[1], path) != path:
            warn(f"{found[match[1]]} is read, and {path.name}, of the same split, is not.")
    for path in sorted(root.glob("*/_annotations.coco.json")):
        found.setdefault(path.parent.name, path)
    for path in sorted(root.glob("*.json")):
        found.setdefault("all" if path.name == "_annotations.coco.json" else path.stem, path)
    return found


def _images_of(root: Path, split: str, path: Path) -> list[Path]:
    """The folders in which the images of a file in COCO's format may lie, the likeliest first."""
    if path.name == "_annotations.coco.json" and path.parent != root:
        return [path.parent]
    stem = path.stem.removeprefix("instances_")
    places = (root / stem, root / "images" / stem, root / split, root / "images" / split, root / "images")
    return [*(place for place in places if place.is_dir()), root]
