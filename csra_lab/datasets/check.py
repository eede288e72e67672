"""What makes people report mAP 0 on data of their own, looked for before an hour is spent on training."""

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from csra_lab.datasets.dataset import MultiLabelDataset
from csra_lab.datasets.folder import folder_splits, load_folder
from csra_lab.errors import CsraError


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. An "error" spoils training or its measurement, a "warning" may."""

    level: Literal["error", "warning", "fine"]
    message: str


def check_folder(root: str | Path, *, progress: bool = False) -> list[Finding]:
    """Look through a folder of one's own (see `own`): labels, class names, splits and every picture.

    Returns:
        Findings, the errors first. A part without a fault gives a "fine" that says what was looked at.
    """
    root = Path(root)
    splits: list[MultiLabelDataset] = []
    findings: list[Finding] = []
    for split in folder_splits(root) or ["trainval"]:
        try:
            splits.append(load_folder(root, split))
        except CsraError as error:
            findings.append(Finding("error", str(error)))
    for dataset in splits:
        findings += _check_labels(dataset)
    findings += _check_spelling(splits)
    if len(splits) > 1:
        findings += _check_order(splits)
    findings += _check_pictures(splits, progress)
    order = {"error": 0, "warning": 1, "fine": 2}
    return sorted(findings, key=lambda finding: order[finding.level])


def _check_labels(dataset: MultiLabelDataset) -> list[Finding]:
    targets, split = dataset.targets, dataset.split
    positives, negatives = (targets == 1).sum(0), (targets == 0).sum(0)
    found = []
    without = [c for c, n in zip(dataset.classes, positives, strict=True) if n == 0]
    if without:
        found.append(
            Finding("error", f"{split}: no picture shows {_some(without)}; its AP is undefined. Drop it or add some.")
        )
    if not negatives.any() and (targets == -1).any():
        found.append(
            Finding(
                "error",
                f"{split}: no label says absent, only 'do not count'. VOC's lists say absent with -1, not with 0.",
            )
        )
    else:
        always = [c for c, p, n in zip(dataset.classes, positives, negatives, strict=True) if n == 0 and p]
        if always:
            found.append(
                Finding(
                    "error",
                    f"{split}: {_some(always)} is present or unknown in every picture, so there is nothing to tell.",
                )
            )
    few = [c for c, n in zip(dataset.classes, positives, strict=True) if 0 < n < 10]
    if few:
        found.append(
            Finding("warning", f"{split}: fewer than 10 pictures show {_some(few)}; their AP will jump about.")
        )
    if not found:
        per_image = (targets == 1).sum(1).mean()
        found.append(
            Finding(
                "fine",
                f"{split}: {len(dataset)} pictures, {len(dataset.classes)} classes, {per_image:.2f} labels a picture.",
            )
        )
    return found


def _check_spelling(splits: list[MultiLabelDataset]) -> list[Finding]:
    """Class names that look like one class written in two ways."""
    names = sorted({name for dataset in splits for name in dataset.classes})
    plain = {name: name.lower().replace(" ", "").replace("_", "").replace("-", "") for name in names}
    found = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            alike = plain[a] == plain[b]
            if alike or (min(len(a), len(b)) > 3 and difflib.SequenceMatcher(None, plain[a], plain[b]).ratio() > 0.9):
                found.append(
                    Finding("error" if alike else "warning", f"{a!r} and {b!r} look like one class spelt in two ways.")
                )
    return found


def _check_order(splits: list[MultiLabelDataset]) -> list[Finding]:
    first, *others = splits
    found = []
    for other in others:
        if set(other.classes) != set(first.classes):
            odd = sorted(set(other.classes) ^ set(first.classes))
            found.append(
                Finding(
                    "error",
                    f"{first.split} and {other.split} differ in their classes: only one of them has {_some(odd)}.",
                )
            )
        elif other.classes != first.classes:
            found.append(
                Finding(
                    "error",
                    f"{first.split} and {other.split} list the classes in another order; "
                    "a model would name the wrong ones.",
                )
            )
        shared = set(map(str, first.paths)) & set(map(str, other.paths))
        if shared:
            found.append(
                Finding(
                    "error", f"{len(shared)} pictures are in {first.split} and in {other.split}, such as {min(shared)}."
                )
            )
    return found


def _check_pictures(splits: list[MultiLabelDataset], progress: bool) -> list[Finding]:
    """Open every picture: unreadable ones, copies across splits, and pixels that were normalised before saving."""
    found, seen, means, spreads = [], {}, [], []
    bar = tqdm(total=sum(map(len, splits)), unit="img", desc="opening", disable=None if progress else True)
    unreadable, copies, count = [], [], 0
    with bar:
        for dataset in splits:
            for i, path in enumerate(dataset.paths):
                bar.update()
                count += 1
                try:
                    pixels = np.asarray(dataset.image(i).resize((64, 64)), dtype=np.float32) / 255
                except CsraError as error:
                    unreadable.append(str(error))
                    continue
                means.append(pixels.mean())
                spreads.append(pixels.std())
                digest = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
                before = seen.setdefault(digest, (dataset.split, path))
                if before[0] != dataset.split:
                    copies.append((path, before[1]))
    found += [Finding("error", sentence) for sentence in unreadable[:5]]
    if len(unreadable) > 5:
        found.append(Finding("error", f"{len(unreadable) - 5} more pictures cannot be read."))
    if copies:
        found.append(
            Finding(
                "error",
                f"{len(copies)} pictures are in two splits under two names, such as {copies[0][0]} = {copies[0][1]}.",
            )
        )
    if means and (np.mean(means) < 0.05 or np.mean(spreads) < 0.02):
        found.append(
            Finding(
                "error",
                f"the pictures are almost black or flat (mean {np.mean(means):.3f}, spread {np.mean(spreads):.3f}): "
                "were they saved after normalisation, or as 0..1 instead of 0..255?",
            )
        )
    if means and not found:
        found.append(
            Finding(
                "fine",
                f"all {count} pictures open; from 0 to 1 their pixels have mean {np.mean(means):.2f} "
                f"and spread {np.mean(spreads):.2f}.",
            )
        )
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
