"""What must hold of a training set and a test set together, looked at before the first epoch."""

import os
from collections.abc import Sequence

from csra_lab._io.notice import warn
from csra_lab.datasets.dataset import MultiLabelDataset
from csra_lab.errors import DataError


def check_pair(train: MultiLabelDataset, test: MultiLabelDataset | None) -> MultiLabelDataset | None:
    """The test set with the training set's classes in their order.

    Raises:
        DataError: no training label says present, the test set lacks a class, or items are in both splits.
    """
    if not (train.targets == 1).any():
        raise DataError(f"{train.name} {train.split}: no label says present, so there is nothing to learn.")
    if test is None:
        return None
    test = match_classes(train.classes, test)
    shared = shared_items(train, test)
    if shared and train.split == test.split:
        warn(f"the test split is the training split, {test.split}: its scores say nothing about other images.")
    elif shared:
        raise DataError(
            f"{len(shared):,} items are in {train.split} and in {test.split}, such as {min(shared)[0]}; a score on "
            "images that were trained on says nothing, so take them out of one."
        )
    return test


def match_classes(classes: Sequence[str], dataset: MultiLabelDataset) -> MultiLabelDataset:
    """The set with exactly these classes in this order. Other classes of the set are left out, with a notice.

    Raises:
        DataError: the set lacks a class; ones that differ only in case are named.
    """
    if tuple(classes) == dataset.classes:
        return dataset
    lacking = [c for c in classes if c not in dataset.classes]
    if lacking:
        folded = {c.casefold(): c for c in dataset.classes}
        alike = [f"{c!r} ({folded[c.casefold()]!r} there)" if c.casefold() in folded else repr(c) for c in lacking]
        raise DataError(
            f"{dataset.name} {dataset.split} lacks the class {', '.join(alike[:5])}; its classes are "
            f"{', '.join(dataset.classes[:12])}{' ...' * (len(dataset.classes) > 12)}: use the same names."
        )
    extra = [c for c in dataset.classes if c not in set(classes)]
    if extra:
        more = f" and {len(extra) - 5} more" if len(extra) > 5 else ""
        warn(f"{dataset.name} {dataset.split}: {', '.join(extra[:5])}{more} were not trained, and are not measured.")
    return dataset.select_classes(tuple(classes))


def shared_items(one: MultiLabelDataset, other: MultiLabelDataset) -> set[tuple]:
    """What is in both sets: a file, and the part of it where the sets have crops."""
    return set(_items(one)) & set(_items(other))


def _items(dataset: MultiLabelDataset) -> list[tuple]:
    """What tells items apart: the file, and the part of it where the set has crops."""
    files = [os.path.abspath(path) for path in dataset.paths]
    if dataset.crops is None:
        return [(file,) for file in files]
    return list(zip(files, map(tuple, dataset.crops.tolist()), strict=True))
