"""What makes people report mAP 0 on data of their own, looked for before an hour is spent on training."""

import difflib
import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from csra_lab._io.progress import watched
from csra_lab.datasets.dataset import MultiLabelDataset
from csra_lab.datasets.folder import VALIDATION_NAMES, folder_splits, load_folder
from csra_lab.datasets.images import open_image, readable_formats
from csra_lab.datasets.label_table import table_files
from csra_lab.datasets.voc_xml import VocBoxes, read_voc_labels
from csra_lab.errors import CsraError

SPLIT_NAMES = {"trainval", "train", "test", *VALIDATION_NAMES}
DARK = 0.02
"""An image whose mean is below this shows nothing; pixels go from 0 to 1."""
FLAT = 0.01
"""An image whose spread is below this shows nothing; pixels go from 0 to 1."""


Level = Literal["error", "warning", "fine"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. An "error" spoils training or its measurement, a "warning" may.

    `files` are all images it is about, as paths; the message names only some.
    """

    level: Level
    message: str
    files: tuple[str, ...] = ()


def check_folder(
    root: str | Path, *, progress: bool = False, absent: str | None = None, unknown: str | None = None
) -> list[Finding]:
    """Look through a folder of one's own (see `load_folder`): labels, class names, splits and every image.

    Args:
        absent, unknown: which labels say so; see `load_folder`.

    Returns:
        Findings, the errors first. A part without a fault gives a "fine" that says what was looked at.
    """
    root = Path(root)
    splits: list[MultiLabelDataset] = []
    findings: list[Finding] = []
    tables = table_files(root) if root.is_dir() else {}
    named = [split for split in folder_splits(root) if split.lower() in SPLIT_NAMES]
    others = [split for split in folder_splits(root) if split not in named]
    for split in [*named, *others] or ["trainval"]:
        optional = bool(named) and split in others and split in tables  # another table may be anything
        try:
            dataset = load_folder(root, split, absent=absent, unknown=unknown)
            differs = all(dataset.classes != other.classes for other in splits)
            optional &= differs or not any(path.is_file() for path in dataset.paths[:20])
            splits += [dataset] * (not optional)
        except CsraError as error:
            findings += [Finding("error", str(error))] * (not optional)
        if optional:
            findings.append(Finding("fine", f"{tables[split].name} is no table of these labels, and is left alone."))
    for dataset in splits:
        findings += _check_labels(dataset)
    findings += _check_spelling(splits)
    findings += _check_annotations(splits)
    findings += _check_splits(splits)
    findings += _check_images(splits, progress)
    order = {"error": 0, "warning": 1, "fine": 2}
    return sorted(findings, key=lambda finding: order[finding.level])


def _check_labels(dataset: MultiLabelDataset) -> list[Finding]:
    targets, split = dataset.targets, dataset.split
    if not (targets >= 0).any():
        return [Finding("fine", f"{split}: {len(dataset)} images without labels; they can be predicted.")]
    positives, negatives = (targets == 1).sum(0), (targets == 0).sum(0)
    found = []
    without = [c for c, n in zip(dataset.classes, positives, strict=True) if n == 0]
    if without:
        message = f"{split}: no image shows {_some(without)}; its AP is undefined. Drop it or add some."
        found.append(Finding("error", message))
    always = [c for c, p, n in zip(dataset.classes, positives, negatives, strict=True) if n == 0 and p]
    if always:
        message = f"{split}: {_some(always)} is present or unknown in every image, so there is nothing to tell."
        found.append(Finding("error", message))
    few = [c for c, n in zip(dataset.classes, positives, strict=True) if 0 < n < 10]
    if few:
        message = f"{split}: fewer than 10 images show {_some(few)}; their AP will jump about."
        found.append(Finding("warning", message))
    if not found:
        per_image = (targets == 1).sum(1).mean()
        message = f"{split}: {len(dataset)} images, {len(dataset.classes)} classes, {per_image:.2f} labels an image."
        found.append(Finding("fine", message))
    return found


def _check_spelling(splits: list[MultiLabelDataset]) -> list[Finding]:
    """Class names that look like one class written in two ways; names that differ in a number are two classes."""
    names = sorted({name for dataset in splits for name in dataset.classes})
    found = []
    for a, b in _alike(names):
        same = _plain(a) == _plain(b)
        message = f"{a!r} and {b!r} look like one class spelt in two ways."
        found.append(Finding("error" if same else "warning", message))
    return found


def _check_annotations(splits: list[MultiLabelDataset]) -> list[Finding]:
    """Class names of XML annotations that the class lists write in another case: their boxes would be lost."""
    files: dict[tuple[str, str], list[str]] = {}
    broken: list[Finding] = []
    for dataset in splits:
        if not isinstance(dataset.box_reader, VocBoxes):
            continue
        folded = {name.casefold(): name for name in dataset.classes}
        for image_id in dataset.ids:
            path = dataset.box_reader.folder / f"{image_id}.xml"
            try:
                names = set(read_voc_labels(path)) if path.is_file() else set()
            except CsraError as error:
                broken.append(Finding("error", str(error), (str(path),)))
                continue
            for name in names - set(dataset.classes):
                if name.casefold() in folded:
                    files.setdefault((name, folded[name.casefold()]), []).append(str(path))
    found = broken[:5]
    if len(broken) > 5:
        rest = tuple(finding.files[0] for finding in broken[5:])
        found.append(Finding("error", f"{len(rest)} more annotations cannot be read; --json names them.", rest))
    for (there, here), paths in sorted(files.items()):
        message = f"{len(paths)} annotations write the class {there!r} and the lists {here!r}; write both the same way."
        found.append(Finding("error", message, tuple(paths)))
    return found


def _plain(name: str) -> str:
    return re.sub(r"[ _-]", "", name.lower())


def _alike(names: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs of names that are equal but for case and spaces, or differ in one letter of many.

    Names with one letter taken out meet in a table, so the work grows with the names and not with their pairs.
    """
    meet: dict[str, list[str]] = {}
    pairs = set()
    for name in names:
        plain = _plain(name)
        cuts = {plain, *(plain[:i] + plain[i + 1 :] for i in range(len(plain)))} if len(plain) > 3 else {plain}
        for cut in cuts:
            for other in meet.setdefault(cut, []):
                pairs.add((other, name))
            meet[cut].append(name)
    for a, b in sorted(pairs):
        x, y = _plain(a), _plain(b)
        numbered = re.sub(r"\d", "", x) == re.sub(r"\d", "", y) and x != y
        if x == y or (not numbered and difflib.SequenceMatcher(None, x, y).ratio() > 0.9):
            yield a, b


def _check_splits(splits: list[MultiLabelDataset]) -> list[Finding]:
    """The same classes everywhere, and no image in two splits; trainval may be train and val together."""
    found = []
    for i, first in enumerate(splits):
        for other in splits[i + 1 :]:
            if set(other.classes) != set(first.classes):
                odd = sorted(set(other.classes) ^ set(first.classes))
                message = f"{first.split} and {other.split} differ in their classes: only one of them has {_some(odd)}."
                found.append(Finding("warning" if _only_more(first, other) else "error", message))
            elif other.classes != first.classes:
                message = (
                    f"{first.split} and {other.split} list the classes in another order; they are matched by name."
                )
                found.append(Finding("fine", message))
            shared = set(map(str, first.paths)) & set(map(str, other.paths))
            if shared and not _may_share(first.split, other.split):
                message = f"{len(shared)} images are in {first.split} and in {other.split}, such as {min(shared)}."
                found.append(Finding("error", message, tuple(sorted(shared))))
    return found


def _only_more(a: MultiLabelDataset, b: MultiLabelDataset) -> bool:
    """Whether what is measured on has all classes that are trained, and more, which are then left out."""
    trained = {"trainval", "train"}
    if (a.split in trained) == (b.split in trained):
        return False
    train, test = (a, b) if a.split in trained else (b, a)
    return set(train.classes) < set(test.classes)


def _may_share(a: str, b: str) -> bool:
    """Whether one split is a part of the other by its name."""
    parts = {"train", *VALIDATION_NAMES}
    return (a == "trainval" and b in parts) or (b == "trainval" and a in parts)


@dataclass
class _Look:
    """What one image file showed."""

    path: str
    problem: str = ""
    mean: float = 0.0
    spread: float = 0.0
    used: float = 1.0  # share of the range of a 16-bit file that is used
    digest: bytes = b""


def _look(path: Path) -> _Look:
    try:
        image = open_image(path)
    except CsraError as error:
        return _Look(str(path), problem=str(error))
    pixels = np.asarray(image.resize((64, 64)), dtype=np.float32) / 255
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    return _Look(str(path), "", float(pixels.mean()), float(pixels.std()), _used_range(path), digest)


def _used_range(path: Path) -> float:
    """Largest value of a 16-bit grey image as a part of 65535; 1 for every other image."""
    with Image.open(path, formats=readable_formats()) as image:
        if not image.mode.startswith("I"):
            return 1.0
        return float(np.asarray(image).max()) / 65535


def _check_images(splits: list[MultiLabelDataset], progress: bool) -> list[Finding]:
    """Open every image once: unreadable, black or flat ones, copies, and 16-bit files that use few of their bits."""
    paths = list(dict.fromkeys(path for dataset in splits for path in dataset.paths))
    with ThreadPoolExecutor() as threads:
        looks = list(watched(threads.map(_look, paths), len(paths), desc="opening", shown=progress))
    found = _judge_each(looks)
    found += _check_copies(splits, {look.path: look for look in looks})
    seen = [look for look in looks if not look.problem]
    if seen and not any(finding.level == "error" for finding in found):
        mean, spread = np.mean([look.mean for look in seen]), np.mean([look.spread for look in seen])
        message = (
            f"all {len(looks)} images open; from 0 to 1 their pixels have mean {mean:.2f} and spread {spread:.2f}."
        )
        found.append(Finding("fine", message))
    return found


def _judge_each(looks: list[_Look]) -> list[Finding]:
    bad = [look for look in looks if look.problem]
    found = [Finding("error", look.problem, (look.path,)) for look in bad[:5]]
    if len(bad) > 5:
        files = tuple(look.path for look in bad[5:])
        found.append(Finding("error", f"{len(files)} more images cannot be read; --json names them.", files))
    good = [look for look in looks if not look.problem]
    few_bits = [look for look in good if look.used <= 1 / 8]
    if few_bits:
        bits = max(1, int(np.ceil(np.log2(max(look.used for look in few_bits) * 65535 + 1))))
        files = tuple(look.path for look in few_bits)
        message = (
            f"{len(files)} of {len(looks)} images have 16 bits and use {bits} of them, such as {files[0]}: they are "
            "read as almost black; multiply their values, or save them with 8 bits."
        )
        found.append(Finding("error", message, files))
    empty = [look for look in good if (look.mean < DARK or look.spread < FLAT) and look.used > 1 / 8]
    if empty:
        files = tuple(look.path for look in empty)
        message = (
            f"{len(files)} of {len(looks)} images are black or flat, such as {files[0]}: were they saved after "
            "normalisation, or as 0..1 instead of 0..255?"
        )
        many = len(files) > max(1, 0.05 * len(looks))
        found.append(Finding("error" if many else "warning", message, files))
    return found


def _check_copies(splits: list[MultiLabelDataset], looks: dict[str, _Look]) -> list[Finding]:
    """Files of the same bytes: in two splits, or in one split with other labels."""
    if any(dataset.crops is not None for dataset in splits):
        return []
    first: dict[bytes, tuple[MultiLabelDataset, int]] = {}
    across, contradicting, repeated = [], [], []
    for dataset in splits:
        for row, path in enumerate(map(str, dataset.paths)):
            look = looks[path]
            if look.problem:
                continue
            before, other = first.setdefault(look.digest, (dataset, row))
            twin = str(before.paths[other])
            if twin == path:
                continue
            if before is not dataset:
                if not _may_share(before.split, dataset.split):
                    across.append((path, twin))
            elif (dataset.targets[row] != dataset.targets[other]).any():
                contradicting.append((path, twin))
            else:
                repeated.append((path, twin))
    sentences: tuple[tuple[Level, list[tuple[str, str]], str], ...] = (
        ("error", across, "images are in two splits under two names"),
        ("error", contradicting, "images are there twice in one split with other labels"),
        ("warning", repeated, "images are there twice in one split"),
    )
    return [
        Finding(level, f"{len(pairs)} {what}, such as {pairs[0][0]} = {pairs[0][1]}.", tuple(p for p, _ in pairs))
        for level, pairs, what in sentences
        if pairs
    ]


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
