"""Which values of a file say present, absent and unknown, and whether a split reads as if that were true.

Three conventions are about: 1 / 0 / -1 (most tables; -1 is unknown), 1 / -1 / 0 (VOC's lists and WIDER; 0 is unknown)
and 1 / -1 without unknowns. A file does not say which it uses, and the wrong one gives splendid scores: with the absent
labels ignored nothing is left to get wrong. So a split in which (almost) nothing is known to be absent is refused
until the reader says how its labels are meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from csra_lab._io.notice import warn
from csra_lab.datasets.dataset import MultiLabelDataset
from csra_lab.errors import ConfigError, DataError

VALUES = ("0", "-1", "blank")
"""What can be said to be absent or unknown. Present is always 1."""


@dataclass(frozen=True)
class LabelConvention:
    """What the labels of a file mean.

    Attributes:
        absent, unknown: values out of `VALUES`.
        where: begins the sentences, as "CSV files are".
        stated: whether the reader said so; then no doubt is raised.
    """

    absent: tuple[str, ...]
    unknown: tuple[str, ...]
    where: str
    stated: bool = False

    @cached_property
    def targets(self) -> Mapping[str, int]:
        """The text of a label -> 1, 0 or -1. Fractions with zeros, as pandas writes them, are whole numbers."""
        meaning = {"1": 1} | dict.fromkeys(self.absent, 0) | dict.fromkeys(self.unknown, -1)
        texts = {"": meaning["blank"]} if "blank" in meaning else {}
        for value in ("1", "0", "-1"):
            if value in meaning:
                texts |= dict.fromkeys((value, f"{value}.0"), meaning[value])
        return texts | ({"+1": 1})

    def __str__(self) -> str:
        unknown = f" and {' and '.join(self.unknown)} is not counted" if self.unknown else ""
        return f"1 is present, {' and '.join(self.absent)} is absent{unknown}"


TABLES = LabelConvention(("0",), ("-1",), "CSV files are")
CLASS_LISTS = LabelConvention(("-1",), ("0",), "VOC's class lists are")


def stated_convention(default: LabelConvention, absent: str | None, unknown: str | None) -> LabelConvention:
    """`default`, or what the reader says instead.

    Args:
        absent, unknown: values out of `VALUES` with commas between them, as "0,blank"; None for what `default`
            says, less what the other one names.

    Raises:
        CsraError: another value, or one that is both.
    """
    if absent is None and unknown is None:
        return default
    means_absent, means_unknown = _values(absent, "absent"), _values(unknown, "unknown")
    if means_absent is None:
        means_absent = tuple(v for v in default.absent if v not in (means_unknown or ()))
    if means_unknown is None:
        means_unknown = tuple(v for v in default.unknown if v not in means_absent)
    both = set(means_absent) & set(means_unknown)
    if both:
        raise ConfigError(f"{min(both)} cannot be both absent and unknown; name it in one of the two.")
    if not means_absent:
        raise ConfigError(f"With unknown {unknown!r} no value says absent; name one with absent (--absent -1).")
    return LabelConvention(means_absent, means_unknown, default.where, stated=True)


def check_negatives(dataset: MultiLabelDataset, convention: LabelConvention) -> MultiLabelDataset:
    """The set itself, unless its labels look as if they were read by the wrong convention.

    A split of unknown labels alone (VOC2012's test) is fine, and so is anything that the reader stated.

    Raises:
        CsraError: labels are present and none is absent, or fewer than half as many as are present and as are unknown.
    """
    targets = dataset.targets
    present, absent, unknown = (int(np.count_nonzero(targets == value)) for value in (1, 0, -1))
    if convention.stated or not unknown or not present:
        return dataset
    if absent == 0 or 2 * absent < min(present, unknown):
        share = "no label says" if absent == 0 else f"only {absent:,} of {targets.size:,} labels say"
        raise DataError(
            f"{dataset.name} {dataset.split}: {share} absent ({present:,} say present, {unknown:,} are not counted), "
            f"so any model would score near 100. {convention.where} read as: {convention}. "
            f"{_remedy(convention)}"
        )
    if unknown > 0.5 * targets.size:
        warn(
            f"{dataset.name} {dataset.split}: {unknown / targets.size:.0%} of the labels are not counted "
            f"({convention.where} read as: {convention}); --absent and --unknown say otherwise."
        )
    return dataset


def _remedy(convention: LabelConvention) -> str:
    swapped = f"--absent {convention.unknown[0]}"
    same = f"--unknown {convention.unknown[0]}"
    return (
        f"If absent is said with {convention.unknown[0]} here, not with {convention.absent[0]}, add {swapped} "
        f"--unknown {convention.absent[0]}; if it is right as it is, add {same}."
    )


def _values(text: str | None, option: str) -> tuple[str, ...] | None:
    if text is None:
        return None
    values = tuple(part.strip() for part in str(text).split(",") if part.strip())
    odd = next((value for value in values if value not in VALUES), None)
    if odd is not None:
        raise ConfigError(f"{option} must be of {', '.join(VALUES)}, with commas between several, not {odd!r}.")
    return values
