"""Feature maps computed once, so that heads train in minutes: in memory, or kept on disk."""

import contextlib
import json
import math
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from csra_lab._io import strict_json
from csra_lab._io.atomic_write import atomic_write, clear_leftovers
from csra_lab._io.cache import cache_folder, only_one
from csra_lab._io.progress import progress_bar
from csra_lab.backbones import Backbone
from csra_lab.datasets import MultiLabelDataset
from csra_lab.datasets.transforms import eval_transform
from csra_lab.device import autocast, for_inference, to_device
from csra_lab.errors import ConfigError, CsraError
from csra_lab.folding import folded
from csra_lab.modes import evaluating
from csra_lab.training.feature_key import feature_key
from csra_lab.training.sampling import mix_seed

BLOCK = 64  # images between two notes of how far we are; each block has a checksum


class FeatureMaps(Dataset):
    """Feature maps of a data set: item i is ((d, h, w) float16, (C,) target).

    Attributes:
        maps: (N, V, d, h, w) float16, V views of each image (1: as it is; 2: also its mirror image). Channels are
            neighbours in memory. Cached features are read from their file as they are asked for.
        targets: (N, C) int8.
        file: that of cached features, which a process that is started anew opens itself; None where maps are in memory.
    """

    def __init__(self, maps: Tensor, targets: np.ndarray, file: Path | None = None):
        self.maps, self.targets, self.file = maps, targets, file

    def __len__(self) -> int:
        return len(self.maps)

    def __getstate__(self) -> dict:
        """Cached features go to another process as the name of their file, not as gigabytes."""
        if self.file is None:
            return self.__dict__
        n, v, d, h, w = self.maps.shape
        return {**self.__dict__, "maps": (n, v, h, w, d)}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if isinstance(self.maps, tuple):
            self.maps = _mapped(self.file, self.maps).permute(0, 1, 4, 2, 3)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """View drawn at random from torch's generator; where there is one view, that one."""
        views = self.maps.shape[1]
        view = int(torch.randint(views, ())) if views > 1 else 0
        return self.maps[i, view], torch.from_numpy(self.targets[i])

    def part(self, indices: np.ndarray, *, views: int | None = None) -> "FeatureItems":
        """The items at (n,) `indices`, in that order, as loaders read them: one by one, nothing copied.

        Args:
            views: the first so many of each image; None for all.
        """
        return FeatureItems(self, np.asarray(indices), views)

    def subset(self, indices: np.ndarray) -> "FeatureMaps":
        """The items at (n,) `indices`, in that order."""
        return FeatureMaps(self.maps[torch.from_numpy(indices)], self.targets[indices])

    def drawn_views(self, indices: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
        """The views that `SeededItems` draws for these items: (n,) integers."""
        views = self.maps.shape[1]
        if views == 1:
            return np.zeros(len(indices), dtype=np.int64)
        generator = torch.Generator()
        seeds = (mix_seed(seed, "item", epoch, index) for index in indices.tolist())
        return np.array([int(torch.randint(views, (), generator=generator.manual_seed(s))) for s in seeds])


class FeatureItems(Dataset):
    """Some items of `FeatureMaps`, each read from the maps' file when it is asked for."""

    def __init__(self, features: FeatureMaps, indices: np.ndarray, views: int | None):
        self.features, self.indices = features, indices
        self.views = features.maps.shape[1] if views is None else views

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """As `FeatureMaps`, with the same draws."""
        view, row = int(torch.randint(self.views, ())) if self.views > 1 else 0, int(self.indices[i])
        return self.features.maps[row, view], torch.from_numpy(self.features.targets[row])


def compute_features(
    backbone: Backbone, dataset: MultiLabelDataset, *, image_size: int, mean, std, mirror: bool = False, **computing
) -> FeatureMaps:
    """The feature maps of every image, resized to a square as in testing, and of its mirror image where asked for.

    Args:
        backbone: (B, 3, S, S) -> (B, d, h, w). image_size: S. mean, std: of the input's normalisation.
        computing: `batch_size`, `device`, `dtype` of autocast, `workers` that read images, `progress`.
    """
    inputs = dataset.for_size(image_size).with_transform(eval_transform(image_size, mean=mean, std=std))
    parts = list(_batches(backbone, inputs, mirror=mirror, **computing))
    return FeatureMaps(torch.cat(parts).permute(0, 1, 4, 2, 3), dataset.targets)


def cache_features(
    backbone: Backbone,
    dataset: MultiLabelDataset,
    *,
    mirror: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    root: Path | None = None,
    progress: bool = False,
    rank: int = 0,
    world: int = 1,
    **computing,
) -> FeatureMaps:
    """The same, kept in a file: computed once for a backbone with its weights, an image size and the data's images.

    A killed computation goes on where it stopped. Images are known by their content, see `feature_key`. The file is
    checked once, and again where it has changed. It is read as it is needed, so memory holds a batch while it is
    filled, and afterwards what the system's page cache has room for. Several processes of one run, on one machine or on
    several with a common folder, share the images: each computes its part once, and the first process joins the parts.

    Args:
        mean, std: of the input's normalisation; the backbone's own if left out.
        root: folder that holds the files; the lab's cache if left out.
        rank, world: which process of how many this is, of those that `torch.distributed` knows.
        computing: `device`, `dtype` of autocast, `workers` that read images.

    Raises:
        CsraError: the disk has no room, a kept file is damaged, an image cannot be read, or features are not finite.
    """
    shape = (len(dataset), 1 + mirror, *backbone.grid, backbone.num_features)  # (N, V, h, w, d)
    size = 2 * math.prod(shape)
    root = (cache_folder() if root is None else Path(root)) / "features"
    pixels = tuple(backbone.mean if mean is None else mean), tuple(backbone.std if std is None else std)
    key = feature_key(backbone, dataset, shape, str(computing.get("dtype")), pixels)
    folder = root / f"{dataset.name}-{dataset.split}-{backbone.name}-{backbone.image_size}px-{key}"
    told = f"features of {dataset.name} {dataset.split} by {backbone.name} at {backbone.image_size} px"
    if not folder.is_dir():
        _say(progress, f"{told}: {size / 1e9:.2f} GB in {folder}")
    fill = partial(_compute_into, backbone=backbone, pixels=pixels, mirror=mirror, progress=progress, **computing)
    if world == 1:
        _ensure(folder, partial(fill, shape=shape, dataset=dataset))
    else:
        _share(folder, fill, shape, dataset, rank, world)
    return FeatureMaps(_open(folder, shape).permute(0, 1, 4, 2, 3), dataset.targets, folder / "maps.f16")


def _ensure(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder unless it is there: under another name until it is whole, and by one process only."""
    if folder.is_dir():
        return
    with only_one(folder) as first:
        if first:
            part = folder.with_name(folder.name + ".part")
            try:
                fill(part)
                part.rename(folder)
            except OSError as error:
                raise CsraError(
                    f"{part} cannot be written ({error.strerror or error}); make room, or set CSRA_LAB_CACHE to a "
                    "folder that you may write."
                ) from error


def _share(folder: Path, fill: Callable, shape: tuple[int, ...], dataset: MultiLabelDataset, rank: int, world: int):
    """Compute this process's part, wait for the others', and let the first process join them."""
    blocks, parent = -(-shape[0] // BLOCK), folder.with_name(f"{folder.name}.shards")
    parts = [tuple(min(blocks * r // world * BLOCK, shape[0]) for r in (k, k + 1)) for k in range(world)]
    shards = {r: parent / f"{r}-of-{world}" for r, (start, end) in enumerate(parts) if start < end}
    if rank in shards and not folder.is_dir():
        start, end = parts[rank]
        _ensure(shards[rank], partial(fill, shape=(end - start, *shape[1:]), dataset=dataset.subset(range(start, end))))
    torch.distributed.barrier()
    if rank == 0:
        _ensure(folder, partial(_join, shards=list(shards.values())))
        shutil.rmtree(parent, ignore_errors=True)
    torch.distributed.barrier()


def _join(part: Path, shards: Sequence[Path]) -> None:
    """Write the blocks of all shards, in order, into one file."""
    part.mkdir(parents=True, exist_ok=True)
    _check_room(part, sum((shard / "maps.f16").stat().st_size for shard in shards))
    notes = [json.loads((shard / "features.json").read_text(encoding="utf-8")) for shard in shards]
    with open(part / "maps.f16", "wb") as whole:
        for shard in shards:
            with open(shard / "maps.f16", "rb") as file:
                shutil.copyfileobj(file, whole, 2**24)
    shape = [sum(note["shape"][0] for note in notes), *notes[0]["shape"][1:]]
    joined = {"shape": shape, "crc32": [each for note in notes for each in note["crc32"]]}
    with atomic_write(part / "features.json") as path:
        path.write_text(strict_json.dumps(joined), encoding="utf-8")


def _compute_into(
    part: Path, *, shape: tuple[int, ...], backbone: Backbone, dataset: MultiLabelDataset, pixels: tuple, **computing
) -> None:
    """Fill `part/maps.f16` block by block, from the first block that is not noted as done."""
    file, note = part / "maps.f16", part / "features.json"
    item = 2 * math.prod(shape[1:])  # bytes
    part.mkdir(parents=True, exist_ok=True)
    clear_leftovers(note)
    sums = _noted(note, file, item)
    _check_room(part, item * (shape[0] - BLOCK * len(sums)))
    first = min(BLOCK * len(sums), shape[0])
    transform = eval_transform(backbone.image_size, mean=pixels[0], std=pixels[1])
    inputs = dataset.subset(range(first, shape[0])).for_size(backbone.image_size).with_transform(transform)
    with open(file, "r+b" if file.exists() else "w+b") as handle:
        handle.truncate(first * item)
        handle.seek(first * item)
        batches = _batches(backbone, inputs, batch_size=32, total=shape[0], **computing)
        for i, batch in enumerate(batches):  # 32 divides BLOCK, so that a block is two batches
            content = batch.numpy().data.cast("B")  # no copy of it
            start = first + 32 * i
            if start % BLOCK == 0:
                sums.append(0)
            sums[-1] = zlib.crc32(content, sums[-1])
            handle.write(content)
            if (start + len(batch)) % BLOCK == 0 or start + len(batch) == shape[0]:
                handle.flush()
                _check_still_there(handle, part)
                with atomic_write(note) as path:
                    path.write_text(strict_json.dumps({"shape": shape, "crc32": sums}), encoding="utf-8")
        _check_still_there(handle, part)


def _check_still_there(handle: BinaryIO, part: Path) -> None:
    """A file that was deleted can be written on and on, and then it is gone."""
    if os.fstat(handle.fileno()).st_nlink == 0:
        raise ConfigError(f"{part} was deleted while it was being filled; give the same command again.")


def _noted(note: Path, file: Path, item: int) -> list[int]:
    """Checksums of the blocks of an unfinished file that are there and whole."""
    try:
        sums = json.loads(note.read_text(encoding="utf-8"))["crc32"]
        with open(file, "rb") as handle:
            good = 0
            while good < len(sums) and zlib.crc32(handle.read(BLOCK * item)) == sums[good]:
                good += 1
        return sums[:good]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _open(folder: Path, shape: tuple[int, ...]) -> Tensor:
    """The maps of a finished folder, (N, V, h, w, d) float16.

    Every checksum is compared when the file is opened for the first time, and again where it has changed since; a note
    of its size and time of change says so. Else nothing of it is read.
    """
    damaged = f"the cached features in {folder} are damaged; delete that folder, and they will be computed again."
    file, seen = folder / "maps.f16", folder / "checked.json"
    item, checked = 2 * math.prod(shape[1:]), False
    try:
        sums = json.loads((folder / "features.json").read_text(encoding="utf-8"))["crc32"]
        status = file.stat()
        now = {"bytes": status.st_size, "changed": status.st_mtime_ns}
        whole = status.st_size == item * shape[0] and len(sums) == -(-shape[0] // BLOCK)
        if whole and not (seen.is_file() and json.loads(seen.read_text(encoding="utf-8")) == now):
            with open(file, "rb") as handle:
                whole = all(zlib.crc32(handle.read(BLOCK * item)) == expected for expected in sums)
            checked = whole
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(damaged) from error
    if not whole:
        raise ConfigError(damaged)
    if checked:
        with contextlib.suppress(OSError, CsraError), atomic_write(seen) as path:  # a folder may be read-only
            path.write_text(strict_json.dumps(now), encoding="utf-8")
    return _mapped(file, shape)


def _mapped(file: Path, shape: tuple[int, ...]) -> Tensor:
    """The numbers of a file, read as they are asked for; what is written to them stays in memory."""
    return torch.from_numpy(np.memmap(file, dtype=np.float16, mode="c", shape=shape))


@torch.no_grad()  # not inference_mode, which would leave a backbone moved below untrainable
def _batches(
    backbone: Backbone,
    inputs: MultiLabelDataset,
    *,
    mirror: bool,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    workers: int = 0,
    progress: bool = False,
    total: int | None = None,
) -> Iterator[Tensor]:
    """(B, V, h, w, d) float16 maps of the images in order.

    Args:
        dtype: autocast to this type; None for full precision. workers: processes that read images.
        total: number of images with those done before, for the progress bar.
    """
    loader = DataLoader(inputs, batch_size=batch_size, num_workers=workers)
    total = len(inputs) if total is None else total
    done = total - len(inputs)
    bar = progress_bar(total, desc=f"features of {inputs.split}", initial=done, shown=progress, leave=True)
    with evaluating(backbone), bar:
        backbone = for_inference(backbone.to(device))
        network = folded(backbone, (1, 3, backbone.image_size, backbone.image_size)) if dtype is None else backbone
        for images, _ in loader:
            views = [images, images.flip(-1)] if mirror else [images]
            with autocast(device, dtype):
                maps = [network(to_device(view, device)).to("cpu", torch.float16) for view in views]
            stacked = torch.stack([m.permute(0, 2, 3, 1) for m in maps], dim=1).contiguous()  # (B, V, h, w, d)
            _check_finite(stacked, backbone.name)
            yield stacked
            bar.update(len(images))


def _check_finite(maps: Tensor, backbone: str) -> None:
    if not maps.isfinite().all():
        raise ConfigError(
            f"{backbone} gives features that are NaN or do not fit float16 (beyond 65504), in which they are stored; "
            "check its --weights, or train without --freeze-backbone."
        )


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"{folder} needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free; make room, or set "
            "CSRA_LAB_CACHE to a folder on a larger disk."
        )


def _say(progress: bool, sentence: str) -> None:
    if progress:
        print(sentence, file=sys.stderr, flush=True)
