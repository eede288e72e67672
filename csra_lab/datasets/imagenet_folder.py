"""An ImageFolder: a sub-folder for each class, that class's images in it. The classes are ImageNet's.

A sub-folder may be named by WordNet id (n02123045), by ImageNet's index (281, 0281) or by one of the class's names
("tabby", "tabby, tabby cat", "tabby_cat"). All three are looked up, so the order of the folders means nothing.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import timm.data
import torch

from csra_lab.datasets.images import open_image, walk_images
from csra_lab.errors import ConfigError, DataError, MissingFile


class ImageFolder(torch.utils.data.Dataset):
    """Images with one ImageNet class each. Item i is `(transform(image), target)`.

    Attributes:
        paths: N image files. They are not looked at before an item is asked for.
        targets: (N,) int64 ImageNet indices, 0..999.
        folders: name of the sub-folder -> its ImageNet index.
        transform: None, or a callable on the PIL RGB image.
    """

    def __init__(
        self,
        *,
        paths: Sequence[Path],
        targets: np.ndarray,
        folders: dict[str, int],
        transform: Callable | None = None,
    ):
        self.paths, self.targets, self.folders, self.transform = list(paths), targets, folders, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[object, int]:
        image = open_image(self.paths[i])
        return (image if self.transform is None else self.transform(image)), int(self.targets[i])

    def with_transform(self, transform: Callable | None) -> "ImageFolder":
        """The same images with another transform."""
        return ImageFolder(paths=self.paths, targets=self.targets, folders=self.folders, transform=transform)

    def spread(self, limit: int) -> "ImageFolder":
        """At most `limit` images, evenly spread over the whole list and so over the classes. CsraError below 1."""
        chosen = evenly(len(self), limit)
        paths = [self.paths[i] for i in chosen]
        return ImageFolder(paths=paths, targets=self.targets[chosen], folders=self.folders, transform=self.transform)

    def fingerprint(self) -> str:
        """16 hex digits of the images' names in their sub-folders and of the targets."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update("\n".join("/".join(path.parts[-2:]) for path in self.paths).encode("utf-8", "surrogateescape"))
        digest.update(self.targets.tobytes())
        return digest.hexdigest()


def load_image_folder(root: str | Path) -> ImageFolder:
    """The images in the sub-folders of `root`, at any depth, sorted by path.

    Raises:
        CsraError: no such folder, no sub-folder, a sub-folder that names no ImageNet class or names one a second time,
            or a sub-folder without an image.
    """
    root = Path(root)
    if not root.is_dir():
        raise MissingFile(f"there is no folder {root}; check the path.")
    inside = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not inside:
        raise DataError(f"{root} has no sub-folders; it needs one for each class, with that class's images in it.")
    folders: dict[str, int] = {}
    paths, targets = [], []
    for folder in inside:
        index = imagenet_index(folder)
        twin = next((name for name, other in folders.items() if other == index), None)
        if twin is not None:
            raise DataError(f"{folder} names the same ImageNet class as {root / twin}; put their images together.")
        pictures, _ = walk_images(folder)
        if not pictures:
            raise DataError(f"{folder} holds no image; remove it, or put that class's images into it.")
        folders[folder.name] = index
        paths += pictures
        targets += [index] * len(pictures)
    return ImageFolder(paths=paths, targets=np.array(targets, dtype=np.int64), folders=folders)


def imagenet_index(folder: Path) -> int:
    """The ImageNet index, 0..999, that a folder's name stands for. CsraError names the folder if it stands for none."""
    ids, names = _imagenet_classes()
    name = folder.name
    if name in ids:
        return ids.index(name)
    if name.isascii() and name.isdigit() and int(name) < len(ids):
        return int(name)
    found = names.get(_plain(name), ())
    if len(found) == 1:
        return found[0]
    if found:
        choice = " and ".join(ids[i] for i in found)
        raise DataError(f"{folder} names {len(found)} ImageNet classes, {choice}; rename it to one of these ids.")
    raise DataError(
        f"{folder} names no ImageNet class; name class folders by WordNet id (n02123045), index (0 to 999) or name; "
        "for a VOC devkit add --dataset voc2012."
    )


def imagenet_names() -> list[str]:
    """The first name of each of ImageNet's 1,000 classes, numbered where two have the same (there are two cranes)."""
    info = timm.data.ImageNetInfo()
    names = [info.index_to_description(i).split(",")[0] for i in range(info.num_classes())]
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def evenly(count: int, limit: int) -> np.ndarray:
    """Indices (n,) of at most `limit` of `count` items, evenly spread and sorted. CsraError where limit is below 1."""
    if limit < 1:
        raise ConfigError(f"the limit must be at least 1 image, not {limit}.")
    return np.arange(count) if limit >= count else np.arange(limit) * count // limit


@cache
def _imagenet_classes() -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """The WordNet ids in order, and every name ("tench, Tinca tinca" and each half) -> the indices that have it."""
    info = timm.data.ImageNetInfo()
    names: dict[str, tuple[int, ...]] = {}
    for i in range(info.num_classes()):
        description = info.index_to_description(i)
        for name in {_plain(part) for part in (description, *description.split(", "))}:
            names[name] = (*names.get(name, ()), i)
    return info.label_names(), names


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())
