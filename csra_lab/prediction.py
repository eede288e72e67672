"""What a classifier says of images: batches in constant memory, images read while the network works."""

import reprlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from numbers import Integral
from os import PathLike
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from csra_lab.backbones import Backbone
from csra_lab.datasets.images import open_image, upright_rgb
from csra_lab.device import fit_in_memory, for_inference, reading_threads, to_device
from csra_lab.errors import ConfigError, CsraError
from csra_lab.heads import ScoreMapHead
from csra_lab.modes import evaluating

ImageInput = str | PathLike | Image.Image | Tensor
"""A file, a PIL image, or a (3, S, S) tensor that `model.transform` made."""
Source = TypeVar("Source", bound=ImageInput)


class Classifier(Protocol):
    """What is asked of a `MultiLabelClassifier` here, whose own file imports this one."""

    backbone: Backbone
    head: ScoreMapHead
    classes: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, d, h, w) feature map."""


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    Attributes:
        probabilities: (C,) float64, in the order of the model's classes.
        labels: class names and probabilities, largest first; the `top` of them, or all.
        attention: (C, h, w) float32, the mean over the heads, each map summing to 1; None where not asked for.
        score_maps: (heads, C, h, w) float32; None where not asked for.
    """

    probabilities: np.ndarray
    labels: tuple[tuple[str, float], ...]
    attention: np.ndarray | None = None
    score_maps: np.ndarray | None = None


def iterate_predictions(
    model: Classifier,
    images: Iterable[ImageInput],
    *,
    batch_size: int = 32,
    top: int | None = None,
    workers: int | None = None,
    attention: bool = False,
    score_maps: bool = False,
) -> Iterator[Prediction]:
    """Predictions in the order of the images, at most three batches of which are in memory.

    Args:
        model: a `MultiLabelClassifier`.
        images: any iterable, read as it is needed.
        batch_size: images at a time. top: labels to name; None for all classes.
        workers: threads that read images; None for `reading_threads()`.
        attention, score_maps: also give these maps.

    Raises:
        CsraError: an image that cannot be read, a tensor of another shape, scores that are not finite, or a batch that
            does not fit into memory (the one that would have is named).
    """
    pairs = predict_each(
        model, images, batch_size=batch_size, top=top, workers=workers, attention=attention, score_maps=score_maps
    )
    return (prediction for _, prediction in pairs)


def predict_each(
    model: Classifier,
    images: Iterable[Source],
    *,
    batch_size: int = 32,
    top: int | None = None,
    workers: int | None = None,
    attention: bool = False,
    score_maps: bool = False,
    unreadable: Callable[[Source, CsraError], None] | None = None,
) -> Iterator[tuple[Source, Prediction]]:
    """Images with their predictions; see `iterate_predictions`.

    Args:
        unreadable: is told of each image that cannot be read, which is then left out; None raises the first such error.
    """
    for name, value, most in (("batch_size", batch_size, 10**6), ("top", top, 10**6), ("workers", workers, 256)):
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if value is not None and not (whole and 1 <= value <= most):
            raise ConfigError(f"{name} must be a whole number from 1 to {most:,}, not {reprlib.repr(value)}.")
    return _predict_each(model, iter(images), batch_size, top, workers, attention, score_maps, unreadable)


def _predict_each(model, remaining, batch_size, top, workers, attention, score_maps, unreadable):
    transform, size = model.transform, model.image_size
    pool = ThreadPoolExecutor(reading_threads() if workers is None else int(workers))
    with evaluating(model), pool as threads:
        for_inference(model)
        waiting: deque[tuple[ImageInput, Future]] = deque()

        def read_ahead() -> None:
            for image in islice(remaining, 2 * batch_size - len(waiting)):
                waiting.append((image, threads.submit(_to_input, image, transform, size)))

        try:
            read_ahead()
            while waiting:
                sources: list[ImageInput] = []
                inputs: list[Tensor] = []
                while waiting and len(inputs) < batch_size:
                    source, reading = waiting.popleft()
                    try:
                        inputs.append(reading.result())
                        sources.append(source)
                    except CsraError as error:
                        if unreadable is None:
                            raise
                        unreadable(source, error)
                    if not waiting:
                        read_ahead()
                read_ahead()
                if inputs:
                    found = _predict_batch(model, torch.stack(inputs), top, attention, score_maps)
                    yield from zip(sources, found, strict=True)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # a bad image, or Ctrl-C: do not read the rest first


def _to_input(image: ImageInput, transform: Callable[[Image.Image], Tensor], size: int) -> Tensor:
    """(3, S, S) normalised. A large JPEG file is decoded at half, a quarter or an eighth, as in `evaluate`."""
    if isinstance(image, Tensor):
        if image.shape != (3, size, size) or not image.is_floating_point():
            raise ConfigError(
                f"an image tensor must be (3, {size}, {size}) fractions, as model.transform gives; this one is "
                f"{tuple(image.shape)} of {image.dtype}."
            )
        return image.cpu()
    if not isinstance(image, str | PathLike | Image.Image):
        raise ConfigError(
            f"an image is a path, a PIL image or a tensor that model.transform made, not {type(image).__name__}; "
            "Image.fromarray of PIL takes arrays."
        )
    return transform(upright_rgb(image) if isinstance(image, Image.Image) else open_image(image, min_side=2 * size))


def _predict_batch(
    model: Classifier, inputs: Tensor, top: int | None, attention: bool, score_maps: bool
) -> list[Prediction]:
    def run(count: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        features = model.features(to_device(inputs[:count], model.device))
        probabilities = torch.sigmoid(model.head(features).cpu().double()).numpy()  # (B, C)
        where = model.head.attention(features).float().mean(dim=1).cpu().numpy() if attention else None
        maps = model.head.score_maps(features).float().cpu().numpy() if score_maps else None
        return probabilities, where, maps

    with torch.inference_mode():
        probabilities, where, maps = fit_in_memory(run, len(inputs))
    if not np.isfinite(probabilities).all():
        raise CsraError(f"{model.backbone.name} gives scores that are not finite; look for broken weights.")
    count = len(model.classes) if top is None else min(int(top), len(model.classes))
    return [
        Prediction(
            row,
            _labels(model.classes, row, count),
            None if where is None else where[i],
            None if maps is None else maps[i],
        )
        for i, row in enumerate(probabilities)
    ]


def _labels(classes: Sequence[str], row: np.ndarray, count: int) -> tuple[tuple[str, float], ...]:
    return tuple((classes[k], float(row[k])) for k in np.argsort(-row, kind="stable")[:count])
