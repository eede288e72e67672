"""How results are printed: tables for people, JSON for programs."""

import math
from collections.abc import Sequence
from pathlib import Path

from csra_lab._io import strict_json
from csra_lab._io.atomic_write import check_file
from csra_lab.datasets.images import is_image_name
from csra_lab.errors import ConfigError
from csra_lab.metrics import MetricValues


def metrics_table(metrics: MetricValues, title: str) -> str:
    names = ("mAP", "CP", "CR", "CF1", "CF1_macro", "OP", "OR", "OF1")
    lines = [f"{title} (in %)", as_table([names, tuple(f"{100 * getattr(metrics, n):.2f}" for n in names)])]
    if metrics.classes:
        pairs = zip(metrics.classes, metrics.per_class_AP, strict=True)
        rows = [(c, "no positive" if math.isnan(ap) else f"{100 * ap:.1f}") for c, ap in pairs]
        lines.append(as_table([("class", "AP"), *rows]))
    return "\n\n".join(lines)


def check_output(path: Path, option: str, example: str) -> None:
    """Refuse a folder where a file is to be written, and an image's name, before any work is done.

    A shell puts photographs where the name of a file was forgotten.
    """
    check_file(path, option)
    if is_image_name(path.name):
        raise ConfigError(f"{option} would write over {path}; name a file first, as in {option} {example}.")


def as_table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def as_json(value: object) -> str:
    """Strict JSON; what was not measured is null."""
    return strict_json.dumps(value, indent=2, nan="null")
