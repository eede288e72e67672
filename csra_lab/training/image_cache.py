"""Training images kept in memory as bytes: decoded once, not in every epoch.

`ImageCache` holds them. Its items go through the usual transform and come out as if they had been read again, bit for
bit. `Crops` has the bytes on a GPU and cuts there: the same crops and flips, drawn from the same seeds, in two matrix
products a batch.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from csra_lab._io.progress import watched
from csra_lab.datasets import MultiLabelDataset
from csra_lab.datasets.dataset import CROP_RATIO
from csra_lab.errors import ConfigError

MOST_ON_CPU = 2 * 10**9
"""Bytes of images that `fits` allows on a CPU, whose free memory cannot be told for sure (a container's limit)."""


class ImageCache(Dataset):
    """The decoded images of a data set, in memory. Item i is `(PIL RGB image, target)`, as without a transform.

    Args:
        dataset: read now, once, on all cores; its transform is not applied.
        progress: show a bar.

    Attributes:
        pixels: all bytes, one after the other: image i is (height, width, 3) from `starts[i]` on.
        sizes: (N, 2) heights and widths. targets: (N, C) int8.

    Raises:
        CsraError: an image that cannot be read; the file is named.
    """

    def __init__(self, dataset: MultiLabelDataset, *, progress: bool = False):
        def read(i: int) -> np.ndarray:
            return np.asarray(dataset.image(i))

        with ThreadPoolExecutor(os.cpu_count()) as threads:  # Pillow decodes side by side
            found = threads.map(read, range(len(dataset)))
            try:
                pictures: list[Any] = list(watched(found, len(dataset), desc="reading", shown=progress))
            except BaseException:  # a bad image, or Ctrl-C: do not read the rest first
                threads.shutdown(cancel_futures=True)
                raise
        self.targets = torch.from_numpy(dataset.targets)
        self.sizes = torch.tensor([picture.shape[:2] for picture in pictures], dtype=torch.int64).view(-1, 2)
        lengths = 3 * self.sizes.prod(dim=1)
        self.starts = lengths.cumsum(0) - lengths
        self.pixels = torch.empty(int(lengths.sum()), dtype=torch.uint8)
        into = self.pixels.numpy()
        for i, start in enumerate(self.starts.tolist()):
            into[start : start + pictures[i].size] = pictures[i].ravel()
            pictures[i] = None  # its memory goes as that of `pixels` is filled

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, i: int) -> tuple[Image.Image, Tensor]:
        height, width = self.sizes[i].tolist()
        start = int(self.starts[i])
        picture = self.pixels[start : start + 3 * height * width].view(height, width, 3)
        return Image.fromarray(picture.numpy()), self.targets[i]


def fits(dataset: MultiLabelDataset, device: torch.device, *, processes: int = 1) -> bool:
    """Whether the decoded images fit half of a GPU's free memory, or `MOST_ON_CPU`, judged by 64 of them.

    Args:
        processes: on this machine, each of which keeps all images; a GPU each, or a part of the CPU's memory.

    Raises:
        CsraError: one of these images cannot be read.
    """
    some = range(0, len(dataset), max(1, len(dataset) // 64))
    sizes = [dataset.image(i).size for i in some]  # not kept: some images are large
    expected = 3 * sum(width * height for width, height in sizes) / max(1, len(sizes)) * len(dataset)
    most = torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else MOST_ON_CPU / processes
    return expected <= most


class Draws(Dataset):
    """What an augmentation draws for kept images, in place of what it makes of them.

    Item i is `((6,) int64, target)`: i, then top, left, height and width of the crop in pixels, then 1 for a flip. The
    draws are those of `train_transform(crop_scale=...)` from the same state of torch's generator.
    """

    def __init__(
        self,
        cache: ImageCache,
        crop_scale: tuple[float, float] | None,
        crop_ratio: tuple[float, float] = CROP_RATIO,
    ):
        self.sizes, self.targets = cache.sizes, cache.targets
        self.crop = None if crop_scale is None else v2.RandomResizedCrop(1, scale=crop_scale, ratio=crop_ratio)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        height, width = self.sizes[i].tolist()
        box = {"top": 0, "left": 0, "height": height, "width": width}
        if self.crop is not None:
            box = self.crop.make_params([torch.empty(3, height, width, device="meta")])
        flip = int(torch.rand(1) < 0.5)
        return torch.tensor([i, box["top"], box["left"], box["height"], box["width"], flip]), self.targets[i]


class Crops:
    """Crops of images whose bytes are on a device, resized and normalised there.

    Args:
        cache: the images. device: where their bytes go.
        image_size: S. mean, std: per channel, on the 0-1 scale.
    """

    def __init__(self, cache: ImageCache, device: torch.device, image_size: int, *, mean, std):
        self.pixels = cache.pixels.to(device).view(-1, 3)
        self.starts = (cache.starts // 3).to(device)  # in pixels
        self.widths = cache.sizes[:, 1].to(device)
        self.image_size = image_size
        self.mean = 255 * torch.tensor(mean, device=device).view(3, 1, 1)
        self.std = 255 * torch.tensor(std, device=device).view(3, 1, 1)

    def __call__(self, draws: Tensor) -> Tensor:
        """(B, 6) draws on the CPU -> (B, 3, S, S) float32: what the transform gives, but for its rounding to bytes."""
        most = draws[:, 3:5].amax(dim=0).tolist()  # read before they leave the CPU
        index, top, left, height, width, flip = draws.to(self.pixels.device, non_blocking=True).unbind(dim=1)
        y = _within(top, height, most[0])  # (B, h): rows of the crop, the last one again where it has fewer
        x = _within(left, width, most[1])  # (B, w)
        places = self.starts[index, None, None] + y[:, :, None] * self.widths[index, None, None] + x[:, None]
        crop = self.pixels[places].permute(0, 3, 1, 2).float()  # (B, 3, h, w)
        rows = resize_matrices(height, self.image_size, most[0])  # (B, S, h)
        columns = resize_matrices(width, self.image_size, most[1])  # (B, S, w)
        columns = torch.where(flip[:, None, None].bool(), columns.flip(1), columns)  # a mirror image: columns backwards
        small = rows[:, None] @ crop.contiguous() @ columns[:, None].mT
        return (small - self.mean) / self.std


def resize_matrices(lengths: Tensor, size: int, extent: int) -> Tensor:
    """A bilinear antialiased resize, as Pillow does it, written as a matrix for each line length.

    A point of the result weighs the pixels around its place by a triangle, as wide as one pixel of the wider grid.

    Args:
        lengths: (B,) pixels of each line, at most `extent`. size: S, pixels of the result.

    Returns:
        (B, S, extent) weights, zero beyond a line's end; each row sums to 1.

    Raises:
        CsraError: a line of no pixels, or one longer than `extent`.
    """
    if lengths.device.type == "cpu" and len(lengths) and not 1 <= lengths.min() <= lengths.max() <= extent:
        raise ConfigError(f"lines must have 1 to {extent} pixels, not {lengths.min()} to {lengths.max()}.")
    scale = lengths[:, None, None] / size  # pixels of the line for one of the result
    places = torch.arange(extent, device=lengths.device) + 0.5
    centres = (torch.arange(size, device=lengths.device)[:, None] + 0.5) * scale  # (B, S, 1)
    weights = (1 - (places - centres).abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights * (places < lengths[:, None, None])
    return weights / weights.sum(dim=-1, keepdim=True)


def _within(start: Tensor, length: Tensor, extent: int) -> Tensor:
    """(B, extent) whole numbers from each start on, not beyond start + length - 1."""
    steps = torch.arange(extent, device=start.device)
    return start[:, None] + torch.minimum(steps, length[:, None] - 1)
