"""Scores of a model on a data set, and from them the metrics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from csra_lab._io.notice import warn
from csra_lab._io.progress import progress_bar
from csra_lab._io.validation import check_choice
from csra_lab.classifier import MultiLabelClassifier
from csra_lab.datasets import MultiLabelDataset
from csra_lab.datasets.dataset import count_items
from csra_lab.datasets.images import IMAGE_SUFFIXES, describe_skipped, walk_images
from csra_lab.device import autocast, fit_in_memory, for_inference, to_device
from csra_lab.errors import ConfigError, CsraError, DataError, MissingFile
from csra_lab.metrics import MetricValues, multilabel_metrics
from csra_lab.metrics.functions import check_absent_of, checked_threshold
from csra_lab.modes import evaluating


@torch.inference_mode()
def predict_scores(
    network: nn.Module,
    inputs: Dataset,
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    progress: bool = False,
) -> np.ndarray:
    """Probabilities of every class for every input.

    Args:
        network: gives (B, C) logits for a batch of what `inputs` holds.
        inputs: items (tensor, anything). batch_size: how many at a time. workers: processes that read them, or 0.
        device: where the network is; None to look. dtype: run under autocast to this type; None for full precision.
        progress: show a bar.
        rank, world: with several processes, which part this one takes; each input is then scored exactly once, and
            every process gets the whole array.

    Returns:
        (N, C) float64 probabilities, in the order of `inputs`; float32 would tie all logits above 17.

    Raises:
        CsraError: nothing to score, or a batch size below 1.
    """
    count = count_items(inputs)
    if not count:
        raise ConfigError("there is nothing to evaluate: the data set is empty.")
    if batch_size < 1:
        raise ConfigError(f"the batch size must be at least 1, not {batch_size}.")
    if device is None:
        device = next((each.device for each in network.parameters()), torch.device("cpu"))
    places = range(rank, count, world)
    loader = DataLoader(Subset(inputs, places) if world > 1 else inputs, batch_size=batch_size, num_workers=workers)
    parts = []
    with evaluating(network), progress_bar(len(places), desc="scoring", shown=progress) as bar:
        for_inference(network)
        for batch, _ in loader:

            def run(first: int, batch=batch) -> torch.Tensor:
                with autocast(device, dtype):
                    return network(to_device(batch[:first], device))

            parts.append(torch.sigmoid(fit_in_memory(run, len(batch)).cpu().double()).numpy())
            bar.update(len(batch))
    if world == 1:
        return np.concatenate(parts)  # (N, C)
    from accelerate.utils import gather_object  # a second to import, which one process need not wait for

    # One array a process, in the order of the ranks; none where there are fewer inputs than processes.
    shares = gather_object([np.concatenate(parts) if parts else None])
    whole = np.empty((count, shares[0].shape[1]), dtype=np.float64)
    for r, share in enumerate(shares[:count]):
        whole[r::world] = share
    return whole


def evaluate(
    model: MultiLabelClassifier,
    dataset: MultiLabelDataset,
    *,
    ap: Literal["average", "voc11", "envelope"] = "average",
    threshold: float | None = None,
    top_k: int | None = None,
    difficult: Literal["ignore", "negative"] = "ignore",
    **scoring,
) -> tuple[MetricValues, np.ndarray]:
    """Metrics of a classifier on a data set, and the scores they come from.

    Args:
        dataset: its classes must be the model's; the model's own resizing and normalisation are used.
        ap, threshold, top_k: see `multilabel_metrics`.
        difficult: what targets of -1 do. "ignore" leaves them out (VOC's protocol, WIDER's mAP); "negative" counts them
            as absent (how the authors' code computes precision and recall on WIDER).
        scoring: passed on to `predict_scores`.

    Returns:
        The metrics, and the (N, C) probabilities.

    Raises:
        CsraError: see `check_classes`, `predict_scores` and `metrics_of`.
    """
    check_classes(model, dataset)
    checked_threshold(threshold, top_k, len(dataset.classes))
    if len(dataset):  # what can be refused without scores is refused before they are computed
        check_measurable(dataset, difficult)
    scores = score(model, dataset, **scoring)
    return metrics_of(scores, dataset, ap=ap, threshold=threshold, top_k=top_k, difficult=difficult), scores


def score(model: MultiLabelClassifier, dataset: MultiLabelDataset, **scoring) -> np.ndarray:
    """(N, C) probabilities of a classifier on a data set with its classes, labelled or not; see `evaluate`."""
    check_classes(model, dataset)
    inputs = dataset.for_size(model.image_size).with_transform(model.transform)
    return predict_scores(model, inputs, **scoring)


def metrics_of(
    scores: np.ndarray, dataset: MultiLabelDataset, *, difficult: Literal["ignore", "negative"] = "ignore", **options
) -> MetricValues:
    """Metrics of (N, C) probabilities already computed; see `evaluate`.

    Raises:
        CsraError: no label is known, or what `multilabel_metrics` raises.
    """
    check_labels(dataset)
    return multilabel_metrics(scores, _counted(dataset.targets, difficult), classes=dataset.classes, **options)


def check_measurable(dataset: MultiLabelDataset, difficult: Literal["ignore", "negative"] = "ignore") -> None:
    """Raise a CsraError for a set on which no scores could be measured; difficult: see `evaluate`."""
    check_labels(dataset)
    targets = _counted(dataset.targets, difficult)
    if not (targets == 1).any():
        raise DataError(
            f"{dataset.name} {dataset.split} ({len(dataset)} images) shows none of the classes, so there is nothing to "
            "measure; check that the class names fit the annotations (`csra-lab data check`)."
        )
    check_negatives(targets, f"{dataset.name} {dataset.split}")


def _counted(targets: np.ndarray, difficult: Literal["ignore", "negative"]) -> np.ndarray:
    """(N, C) targets in which -1 stays ("ignore") or becomes 0 ("negative")."""
    check_choice("difficult", difficult, ("ignore", "negative"))
    return np.maximum(targets, 0) if difficult == "negative" else targets


def check_labels(dataset: MultiLabelDataset) -> None:
    """Raise a CsraError for a set without a known label."""
    if not (dataset.targets >= 0).any():
        server = "; for VOC's server, --server-format FOLDER" * dataset.name.startswith("voc")
        raise DataError(
            f"{dataset.name} {dataset.split} has no labels to measure against; "
            f"use another split, or `csra-lab predict`{server}."
        )


def check_negatives(targets: np.ndarray, name: str) -> None:
    """Raise a CsraError for (N, C) targets of which none is known to be absent: any scores would be perfect."""
    if (targets == 0).any():
        return
    try:
        check_absent_of(targets)
    except CsraError as error:
        present, unknown = int((targets == 1).sum()), int((targets == -1).sum())
        raise DataError(
            f"no label of {name} says that a class is absent ({present:,} say present, {unknown:,} are unknown), so "
            "any scores would be perfect; say with --absent which labels do, or measure on others."
        ) from error


def check_classes(model: MultiLabelClassifier, dataset: MultiLabelDataset) -> None:
    """Raise a CsraError unless model and data set speak of the same classes in the same order."""
    if model.classes == dataset.classes:
        return
    if len(model.classes) != len(dataset.classes):
        raise ConfigError(
            f"the model knows {len(model.classes)} classes and {dataset.name} {dataset.split} has "
            f"{len(dataset.classes)}; name the model's classes when loading the data."
        )
    i = next(i for i, pair in enumerate(zip(model.classes, dataset.classes, strict=True)) if pair[0] != pair[1])
    raise ConfigError(
        f"class {i} is {model.classes[i]!r} for the model and {dataset.classes[i]!r} in {dataset.name}; "
        "the classes must be the same, in the same order."
    )


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """The images named, and those inside the folders named (all levels, sorted).

    Raises:
        CsraError: a path that does not exist, or a folder without an image.
    """
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            inside, skipped = walk_images(path)
            if skipped and inside:
                warn(f"{path}: skipped {describe_skipped(skipped)}.")
            if not inside:
                raise MissingFile(f"{path} holds no image ({', '.join(IMAGE_SUFFIXES)}); give a folder that does.")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise MissingFile(f"there is no image, folder or model {path}; check the path.")
    return found


def predict_image(model: MultiLabelClassifier, picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """What a classifier finds in a PIL image, and where it looks.

    Returns:
        (C,) probabilities, and (C, h, w) attention: the mean over the heads, each map summing to 1.

    Raises:
        CsraError: scores that are not finite.
    """
    (found,) = model.predict(picture, attention=True)
    assert found.attention is not None  # it was asked for
    return found.probabilities.astype(np.float32), found.attention
