"""What happens to an image before the network: the paper's augmentation, and its test-time resize.

All random draws come from torch's generator, so that a caller who seeds torch for each sample gets the same
augmentation in any worker and in any process. Both functions return a picklable callable: PIL RGB -> float32 (3, S, S).
`mean` and `std` are per channel on the 0-1 scale; (0, 0, 0) and (1, 1, 1) leave the image unnormalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torchvision.transforms import InterpolationMode, v2

from csra_lab.datasets.dataset import CROP_RATIO
from csra_lab.errors import ConfigError


def train_transform(
    image_size: int,
    *,
    crop_scale: tuple[float, float] | None = (0.7, 1.0),
    crop_ratio: tuple[float, float] = CROP_RATIO,
    flip: bool = True,
    randaugment: bool = False,
    mean: Sequence[float],
    std: Sequence[float],
) -> v2.Compose:
    """Random resized crop and horizontal flip, the augmentation of the paper, to S x S pixels.

    `crop_scale` is the range of the crop's area as a part of the image (None: the whole image, not cropped),
    `crop_ratio` that of its width over its height.
    `randaugment` adds two operations of RandAugment at its default strength.

    Raises:
        CsraError: a range of areas or ratios that is none.
    """
    _check(image_size)
    if crop_scale is not None and not 0 < crop_scale[0] <= crop_scale[1] <= 1:
        raise ConfigError(f"crop_scale must be two parts of the image with 0 < low <= high <= 1, not {crop_scale}.")
    if not 0 < crop_ratio[0] <= crop_ratio[1]:
        raise ConfigError(f"crop_ratio must be two ratios with 0 < low <= high, not {crop_ratio}.")
    resize = {"interpolation": InterpolationMode.BILINEAR, "antialias": True}
    if crop_scale is None:
        steps: list = [v2.Resize([image_size, image_size], **resize)]
    else:
        steps = [v2.RandomResizedCrop(image_size, scale=crop_scale, ratio=crop_ratio, **resize)]
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    if randaugment:
        steps.append(v2.RandAugment(interpolation=InterpolationMode.BILINEAR))
    return v2.Compose(steps + _to_tensor(mean, std))


def eval_transform(image_size: int, *, mean: Sequence[float], std: Sequence[float]) -> v2.Compose:
    """Resize to a square of S x S pixels, as the paper does in the test: bilinear, antialiased, the shape not kept."""
    _check(image_size)
    size = [image_size, image_size]
    return v2.Compose(
        [v2.Resize(size, interpolation=InterpolationMode.BILINEAR, antialias=True), *_to_tensor(mean, std)]
    )


def _to_tensor(mean: Sequence[float], std: Sequence[float]) -> list:
    if len(mean) != 3 or len(std) != 3 or not all(s > 0 for s in std):
        raise ConfigError(f"mean and std need three values each, std above 0; got mean={mean} and std={std}.")
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std), inplace=True)]


def _check(image_size: int) -> None:
    if not isinstance(image_size, Integral) or image_size < 1:
        raise ConfigError(f"image_size must be a whole number of pixels above 0, not {image_size!r}.")
