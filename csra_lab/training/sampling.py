"""Which images a training step sees, and how each is augmented: a function of (seed, epoch, index) and nothing else.

So a resumed run, a run with more loader workers, and a run split over several processes all see the same images.
"""

import hashlib
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from csra_lab.datasets import MultiLabelDataset
from csra_lab.datasets.dataset import count_items
from csra_lab.errors import ConfigError
from csra_lab.recipes import Recipe


class SeededItems(Dataset):
    """Items by (epoch, index), each drawn with torch's generator seeded by (seed, epoch, index).

    Args:
        items: a data set whose randomness, if any, comes from torch's generator.
        transform: applied to the first part of the item, with the same seed; None for none.
    """

    def __init__(self, items: Dataset, seed: int, transform: Callable | None = None):
        self.items, self.seed, self.transform = items, seed, transform

    def __len__(self) -> int:
        return count_items(self.items)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(mix_seed(self.seed, "item", epoch, index))
        try:
            picture, target = self.items[index]
            return (self.transform(picture) if self.transform else picture), target
        finally:
            torch.set_rng_state(before)


class Batches(Sampler[list[tuple[int, int]]]):
    """The parts of one epoch's batches that one process works on, as lists of (epoch, index).

    A batch is `batch_size` images over all processes; the remainder of an epoch is left to the next shuffle.

    Args:
        num_items: images. seed, epoch: fix the order. rank, world: this process among how many.
        accumulate: parts into which this process cuts its share of a batch.
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ):
        if batch_size % (world * accumulate):
            raise ConfigError(
                f"batch_size {batch_size} does not divide into {world} processes x {accumulate} parts; "
                f"choose a multiple of {world * accumulate}."
            )
        if num_items < batch_size:
            raise ConfigError(
                f"batch_size {batch_size} is more than the {num_items} training images; lower batch_size."
            )
        self.batches_per_epoch = num_items // batch_size
        order = np.random.default_rng(mix_seed(seed, "order", epoch)).permutation(num_items)
        order = order[: self.batches_per_epoch * batch_size]
        parts = order.reshape(self.batches_per_epoch, world, accumulate, -1)[:, rank]  # (batches, parts, part size)
        self.epoch, self.parts = epoch, parts.reshape(self.batches_per_epoch * accumulate, -1)

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for part in self.parts.tolist():
            yield [(self.epoch, index) for index in part]


def hold_out(dataset: MultiLabelDataset, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices (n,) of a training part and (m,) of a validation part, decided by the hash of each image's name.

    The same images are held out whatever their order, and people who share an image stay together.

    Raises:
        CsraError: a fraction below 0, or one that leaves a part empty although it is above 0.
    """
    if not fraction >= 0:
        raise ConfigError(f"validation_fraction must be 0 or more, not {fraction}.")
    keys = [mix_seed(0, "hold out", name) for name in image_names(dataset)]
    ranked = sorted(set(keys))
    cut = ranked[: round(fraction * len(ranked))]
    held = np.isin(np.array(keys, dtype=np.uint64), np.array(cut, dtype=np.uint64))
    if fraction > 0 and (not held.any() or held.all()):
        raise ConfigError(
            f"validation_fraction {fraction} of {len(dataset)} images leaves an empty part; "
            "use more images or set it to 0."
        )
    return np.flatnonzero(~held), np.flatnonzero(held)


def sample_images(dataset: MultiLabelDataset, count: int) -> np.ndarray:
    """Indices (n,) of the items in `count` images, the same for every seed; a larger count keeps these and more.

    Raises:
        CsraError: the data set has fewer images, or the count is below 1.
    """
    if count < 1:
        raise ConfigError(f"subset must be at least 1, not {count}.")
    names = image_names(dataset)
    ranked = sorted(set(names), key=lambda name: mix_seed(0, "keep", name))
    if count > len(ranked):
        raise ConfigError(f"subset is {count}, but {dataset.name} {dataset.split} has {len(ranked)}; lower it.")
    chosen = set(ranked[:count])
    return np.flatnonzero([name in chosen for name in names])


def image_names(dataset: MultiLabelDataset) -> list[str]:
    """What tells images apart, the same on every machine: the file name, or where images share it, the path.

    The path begins below the data set's folder: in a tree where every file is `view1.jpg`, the folders tell them apart.
    """
    count = Counter(posixpath.basename(key) for key in set(dataset.keys))
    names = [posixpath.basename(key) for key in dataset.keys]
    return [name if count[name] == 1 else key for name, key in zip(names, dataset.keys, strict=True)]


def mix_seed(*parts: int | str) -> int:
    """One 63-bit seed from several parts, well mixed and the same on every machine."""
    text = "/".join(map(str, parts)).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def head_seed(recipe: Recipe) -> int:
    """Seed of the new head's weights: the same for every kind of head, so that twins start from the same classifier."""
    return mix_seed(recipe.run.seed, "head") % 2**32
