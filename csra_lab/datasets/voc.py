"""PASCAL VOC 2007 and 2012, read from the devkit's own class lists.

`ImageSets/Main/SPLIT.txt` names the images; `ImageSets/Main/CLASS_SPLIT.txt` says of each image -1 (absent), 0 (only
objects marked difficult) or 1 (present). Here these become 0, -1 (ignore) and 1. CSRA's protocol counts a difficult
object as a negative in training and ignores it in the test; training and evaluation do that, not the reader.

The public VOC2012 devkit has no class lists for `test`: the labels are kept by the evaluation server. Such a split
loads with every target -1, unknown, and `write_voc_predictions` writes what the server takes.
"""

from __future__ import annotations

import os
import re
import shutil
import string
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from csra_lab._io.notice import warn
from csra_lab._io.validation import is_plain
from csra_lab.datasets.dataset import MultiLabelDataset, join_splits
from csra_lab.datasets.images import is_image_name
from csra_lab.datasets.labels import CLASS_LISTS, LabelConvention, check_negatives
from csra_lab.datasets.splits import pick_ids, shipped_ids, shipped_splits
from csra_lab.datasets.voc_xml import VocBoxes, read_voc_labels
from csra_lab.errors import ConfigError, CsraError, DataError, MissingFile

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


def load_voc2007(root: Path, split: str) -> MultiLabelDataset:
    """VOC2007: 5,011 trainval and 4,952 test images. See `load_voc`."""
    return load_voc(root, "2007", split)


def load_voc2012(root: Path, split: str) -> MultiLabelDataset:
    """VOC2012: 11,540 trainval images; 10,991 test images without public labels. See `load_voc`."""
    return load_voc(root, "2012", split)


def load_voc(root: Path, year: str, split: str) -> MultiLabelDataset:
    """One split of VOC of one year; `root` is VOCdevkit/, the folder above it, or VOCdevkit/VOC{year}/ itself.

    Only the lists are read, so that this takes milliseconds; photographs and XML are opened when an item is asked for.

    Args:
        split: a list in ImageSets/Main; or "train+val", for several of them; or for 2012 one of the lab's own splits,
            "sample-test" or "fold0-train" (see `csra_lab.datasets.splits`). VOC2012 as it is downloaded lists no test
            images: then "trainval" and "test" are the lab's samples, and a warning says so. "list:trainval" is the
            folder's own list in any case.

    Raises:
        CsraError: an absent folder, an unknown split, and a list that is malformed (path and line are named).
    """
    folder, name = find_devkit(Path(root), year), f"voc{year}"
    listed = devkit_splits(folder)
    read = partial(load_devkit, folder, name=name, classes=VOC_CLASSES)
    if split.startswith("list:"):
        return read(split.removeprefix("list:"))
    if split in shipped_splits(name):
        return _shipped(read, listed, folder, split)
    if year == "2012" and "test" not in listed and split in ("trainval", "test"):
        everything = {i for part in listed for i in read_ids(folder / "ImageSets" / "Main" / f"{part}.txt")}
        if everything & set(shipped_ids(name, "sample-test")):
            warn(
                f"{folder} lists no test images, so {split} is the lab's own sample of images with animals; "
                "--train-split train --test-split val uses VOC's lists, and train+val is its whole trainval."
            )
            return _shipped(read, listed, folder, f"sample-{split}", called=split)
    if "+" in split and split not in listed:
        return join_splits([read(part) for part in split.split("+")], split)
    return read(split)


def _shipped(
    read: Callable[[str], MultiLabelDataset], listed: Sequence[str], folder: Path, split: str, *, called: str = ""
) -> MultiLabelDataset:
    """A split that comes with the lab, out of all images that are labelled here, in a list or in an annotation."""
    labelled = [p for p in listed if (folder / "ImageSets" / "Main" / f"{VOC_CLASSES[0]}_{p}.txt").is_file()]
    everything = join_splits([read(part) for part in labelled or listed], split)
    ids = shipped_ids("voc2012", split)
    unlisted = sorted(i for i in set(ids) - set(everything.ids) if (folder / "Annotations" / f"{i}.xml").is_file())
    if unlisted:
        added = labels_from_xml(folder, unlisted, split, name="voc2012", classes=VOC_CLASSES)
        everything = join_splits([everything, added], split)
    return pick_ids(everything, ids, called or split)


def load_devkit(
    folder: Path,
    split: str,
    *,
    name: str,
    classes: Sequence[str],
    convention: LabelConvention = CLASS_LISTS,
    files: Mapping[str, str] | None = None,
) -> MultiLabelDataset:
    """One split of any folder in the devkit's layout, with the class lists of `classes`.

    Args:
        convention: what the lists' values mean; VOC's own if left out.
        files: stem -> file name of the images in JPEGImages (see `image_files`); ID.jpg if left out.

    Raises:
        CsraError: see `load_voc`.
    """
    main = folder / "ImageSets" / "Main"
    id_list = main / f"{split}.txt"
    splits = devkit_splits(folder)
    if split not in splits:
        hint = " The test lists of 2012 come from VOC's evaluation server." * ((name, split) == ("voc2012", "test"))
        choice = "--train-split and --test-split, or --split, choose"
        if {"train", "val"} <= set(splits):
            choice += ": such as --train-split train --test-split val"
        raise MissingFile(
            f"{name} has no split {split!r} in {main}; it has {', '.join(splits) or 'none'} ({choice}).{hint}"
        )
    ids = read_ids(id_list, folder)
    lists = [main / f"{c}_{split}.txt" for c in classes]
    missing = [p.name for p in lists if not p.is_file()]
    if missing and len(missing) < len(lists):
        raise MissingFile(
            f"{main} lacks {', '.join(missing)}; unpack the devkit again, or remove its other {split} lists."
        )
    targets = np.full((len(ids), len(classes)), -1, dtype=np.int8)  # (N, C)
    if not missing:
        for column, path in enumerate(lists):
            targets[:, column] = _read_labels(path, ids, id_list, convention)
    return check_negatives(_devkit_set(folder, split, name, classes, ids, targets, files), convention)


def labels_from_xml(
    folder: Path,
    ids: Sequence[str],
    split: str,
    *,
    name: str,
    classes: Sequence[str] | None = None,
    files: Mapping[str, str] | None = None,
) -> MultiLabelDataset:
    """A split whose labels are what Annotations/ID.xml names: 1 for a class with an object, -1 for difficult ones only.

    Args:
        classes: those to look for; all that the annotations name, sorted, if left out.
    """
    found = [read_voc_labels(folder / "Annotations" / f"{i}.xml") for i in ids]
    classes = tuple(sorted({c for labels in found for c in labels})) if classes is None else tuple(classes)
    if not classes:
        raise DataError(f"No annotation of {split} in {folder / 'Annotations'} has an object; label some images first.")
    targets = np.zeros((len(ids), len(classes)), dtype=np.int8)  # (N, C)
    columns = {c: column for column, c in enumerate(classes)}
    for row, labels in enumerate(found):
        for c, target in labels.items():
            if c in columns:
                targets[row, columns[c]] = target
    return _devkit_set(folder, split, name, classes, ids, targets, files)


def _devkit_set(folder, split, name, classes, ids, targets, files) -> MultiLabelDataset:
    images = folder / "JPEGImages"
    names = [f"{i}.jpg" for i in ids] if files is None else [files.get(i, f"{i}.jpg") for i in ids]
    return MultiLabelDataset(
        name=name,
        split=split,
        classes=classes,
        ids=ids,
        paths=[images / file_name for file_name in names],
        targets=targets,
        box_reader=VocBoxes(folder / "Annotations"),
    )


def devkit_splits(folder: Path) -> list[str]:
    """The lists of image ids in ImageSets/Main, by name."""
    return sorted(p.stem for p in (folder / "ImageSets" / "Main").glob("*.txt") if "_" not in p.stem)


def image_files(folder: Path) -> dict[str, str]:
    """Stem -> file name of every image in `folder`, of any suffix. Of two with one stem the first by name counts."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return {}
    files: dict[str, str] = {}
    others: list[tuple[str, str]] = []
    for name in names:
        if is_image_name(name) and not name.startswith("."):
            first = files.setdefault(os.path.splitext(name)[0], name)
            others += [(first, name)] if first != name else []
    if others:
        first, second = others[0]
        warn(f"{folder} has {len(others)} image(s) beside another of one name: {first} is read, and {second} is not.")
    return files


def find_devkit(root: Path, year: str) -> Path:
    """The folder VOC{year} under `root`, in any of the three accepted layouts. CsraError says how to get the data."""
    wanted = f"VOC{year}"
    candidates = [root / wanted, root / "VOCdevkit" / wanted]
    if root.resolve().name not in {"VOC2007", "VOC2012"} - {wanted}:
        candidates.append(root)
    for folder in candidates:
        if (folder / "ImageSets" / "Main").is_dir():
            return folder
    raise MissingFile(
        f"There is no {wanted} with ImageSets/Main under {root}; give the VOCdevkit folder, or fetch the data with "
        f"`csra-lab data download voc{year} --root DIR`."
    )


def _read_text(path: Path) -> str:
    """The text of a list. Windows line ends are fine, other encodings than UTF-8 are not."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"The list {path} cannot be read ({error.strerror}); check the file.") from error
    try:
        if b"\0" in raw:
            raise UnicodeError
        return raw.decode("utf-8-sig").rstrip()
    except UnicodeError as error:
        raise DataError(f"The list {path} is not plain UTF-8 text; save it as UTF-8.") from error


def read_ids(path: Path, folder: Path | None = None) -> tuple[str, ...]:
    """The ids of a list. One with spaces or letters beyond ASCII must be the stem of an image in JPEGImages."""
    text = _read_text(path)
    ids = tuple(line.strip() for line in text.split("\n"))
    if not text:
        raise DataError(f"The list {path} names no image; unpack the devkit again.")
    stems: dict[str, str] | None = None
    for number, i in enumerate(ids, start=1):
        if _SAFE_ID.fullmatch(i) and ".." not in i:
            continue
        if stems is None:
            stems = {} if folder is None else image_files(folder / "JPEGImages")
        if i not in stems or not is_plain(i):
            raise DataError(f"{path}, line {number}: {i!r} is not an image id; write one plain file stem a line.")
    if len(set(ids)) != len(ids):
        first: dict[str, int] = {}
        number, i = next((n, i) for n, i in enumerate(ids, start=1) if first.setdefault(i, n) != n)
        raise DataError(f"{path}, line {number}: {i!r} is listed twice; remove one.")
    return ids


def _read_labels(path: Path, ids: tuple[str, ...], id_list: Path, convention: LabelConvention) -> list[int]:
    """The targets (N,) of one class list, which must name exactly `ids` in their order."""
    known = convention.targets
    text = _read_text(path)
    tokens = text.split()  # id, label, id, label, ...
    if tokens[0::2] == list(ids) and len(tokens) == 2 * len(ids) and known.keys() >= set(tokens[1::2]):
        return [known[label] for label in tokens[1::2]]
    # Ids with spaces, or something is wrong. Walk the lines, to name the first that is.
    rows = [line.strip().rsplit(None, 1) for line in text.split("\n")] if text else []
    labels = []
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or row[1] not in known:
            raise DataError(
                f"{path}, line {number}: {' '.join(row)!r} is not an image id and one of "
                f"{', '.join(dict.fromkeys((*convention.absent, *convention.unknown, '1')))}."
            )
        if number > len(ids) or row[0] != ids[number - 1]:
            expected = "the end of the file" if number > len(ids) else repr(ids[number - 1])
            raise DataError(
                f"{path}, line {number}: {row[0]!r} stands where {id_list.name} has {expected}; "
                "both must list the same images in the same order."
            )
        labels.append(known[row[1]])
    if len(labels) < len(ids):
        raise DataError(f"{path} ends after line {len(rows)}, but {id_list.name} lists {len(ids)} images.")
    return labels


def check_voc_predictions(folder: str | Path, dataset: MultiLabelDataset, *, competition: str = "comp2") -> Path:
    """The folder that `write_voc_predictions` would write: all that can be refused before anything is scored.

    Raises:
        CsraError: an unknown competition, another data set or other classes than VOC's, an id that is not ASCII or
            holds a space, or results that are there.
    """
    if competition not in ("comp1", "comp2"):
        raise ConfigError(f"The competition must be comp1 (only VOC data) or comp2 (any data), not {competition!r}.")
    if not dataset.name.startswith("voc"):
        raise ConfigError(f"Only VOC predictions can be written for the VOC server, not those of {dataset.name}.")
    if dataset.classes != VOC_CLASSES:
        raise ConfigError(
            f"The server wants all {len(VOC_CLASSES)} VOC classes; the scores are of {len(dataset.classes)}."
        )
    odd = next((i for i in dataset.ids if not i.isascii() or set(i) & set(string.whitespace)), None)
    if odd is not None:
        raise ConfigError(f"The server reads lines of an id and a score, which cannot hold the id {odd!r}; rename it.")
    main = Path(folder) / "results" / dataset.name.upper() / "Main"
    if main.exists():
        raise ConfigError(f"{main} exists already; name another folder or remove it.")
    return main


def write_voc_predictions(
    folder: str | Path, dataset: MultiLabelDataset, scores: np.ndarray, *, competition: str = "comp2"
) -> Path:
    """Write scores (N, C) as the VOC evaluation server takes them, and return the folder with the C files.

    The files are `results/VOC2012/Main/comp2_cls_test_CLASS.txt` under `folder`, one line `ID SCORE` an image; pack the
    `results` folder as .tar.gz to submit it. "comp1" is for methods that saw only VOC's own training data, "comp2" for
    any other data too: ImageNet weights make it comp2. All files appear at once or none does; existing results are
    refused, not overwritten.

    Raises:
        CsraError: see `check_voc_predictions`; scores that are not finite or not (N, C), or a folder that cannot be
            written.
    """
    scores = np.asarray(scores, dtype=np.float64)
    main = check_voc_predictions(folder, dataset, competition=competition)
    if scores.shape != dataset.targets.shape or not np.isfinite(scores).all():
        raise ConfigError(
            f"Scores must be finite numbers of shape {dataset.targets.shape}, not of shape {scores.shape}."
        )
    staging = None
    try:
        main.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".Main-", dir=main.parent))
        for column, name in enumerate(dataset.classes):
            lines = [f"{i} {score!r}\n" for i, score in zip(dataset.ids, scores[:, column].tolist(), strict=True)]
            (staging / f"{competition}_cls_{dataset.split}_{name}.txt").write_text("".join(lines), encoding="ascii")
        staging.chmod(0o755)
        staging.rename(main)
    except OSError as error:
        raise CsraError(
            f"The predictions cannot be written to {main} ({error.strerror}); check space and rights."
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return main
