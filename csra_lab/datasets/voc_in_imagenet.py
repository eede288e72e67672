"""ImageNet's classes pooled into VOC's: `assets/tables/voc_in_imagenet.csv` says which, and its comments say why."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from csra_lab._io.resources import asset
from csra_lab.datasets.dataset import MultiLabelDataset
from csra_lab.errors import ConfigError, MissingFile

VOC_TABLE = asset("tables/voc_in_imagenet.csv")

Pooling = Literal["softmax", "logits"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


def read_voc_table(path: Path = VOC_TABLE) -> dict[str, tuple[int, ...]]:
    """VOC class -> its ImageNet indices, 0..999. CsraError where the table is not there."""
    if not path.is_file():
        raise MissingFile(
            f"there is no {path}; it comes with a clone of the repository: run `pip install -e .` in one."
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    table: dict[str, tuple[int, ...]] = {}
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        table[row["voc_class"]] = (*table.get(row["voc_class"], ()), int(row["imagenet_index"]))
    return table


def pooled_scores(logits: Tensor, table: Mapping[str, Sequence[int]], pooling: Pooling = "softmax") -> Tensor:
    """ImageNet's logits as scores of the classes of `table`.

    "softmax": a class's probability is the sum of the softmax probabilities of its ImageNet classes, as the network was
    trained to mean it: one label an image, so what else is in the image takes probability away. The score is the
    logit of that sum, log(p / (1 - p)): the same ranking of the images, and no ties where p rounds to 1.
    "logits": the log-sum-exp of the class's own logits, which is the softmax without its denominator. Each class is
    then judged for itself, as a multi-label classifier does.

    Args:
        logits: (N, 1000). table: C classes and their indices.

    Returns:
        (N, C) float64; with "softmax", `torch.sigmoid` of it is p.

    Raises:
        CsraError: another pooling.
    """
    if pooling not in POOLINGS:
        raise ConfigError(f"there is no pooling {pooling!r} of ImageNet's classes; choose {' or '.join(POOLINGS)}.")
    logits = logits.double()
    columns = []
    for indices in table.values():
        inside = torch.zeros(logits.shape[1], dtype=torch.bool)
        inside[list(indices)] = True
        own, others = logits[:, inside].logsumexp(dim=1), logits[:, ~inside].logsumexp(dim=1)  # (N,) each
        columns.append(own - others if pooling == "softmax" else own)
    return torch.stack(columns, dim=1)


def covered_classes(dataset: MultiLabelDataset, *, min_positives: int = 1) -> tuple[list[str], dict[str, str]]:
    """The data set's classes that can be scored, and of each other one why not. CsraError if none can."""
    table, covered, left_out = read_voc_table(), [], {}
    for name, count in zip(dataset.classes, dataset.positives().tolist(), strict=True):
        if name not in table:
            left_out[name] = "not an ImageNet class"
        elif count < max(min_positives, 1):
            left_out[name] = f"{count} positive images"
        else:
            covered.append(name)
    if not covered:
        raise ConfigError(
            f"{dataset.name} {dataset.split} has no class to score: it needs one of {', '.join(table)} "
            f"with at least {max(min_positives, 1)} positive images."
        )
    return covered, left_out
