"""What every data set of the lab is: images, classes, and an integer target matrix in {1, 0, -1}.

A reader (voc.py, wider.py, coco.py, yolo.py ...) makes one `MultiLabelDataset`. Nothing here knows a file format.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import os
import reprlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from csra_lab._io.validation import is_name
from csra_lab.datasets.images import open_image, stored_size, turn_corners
from csra_lab.errors import ConfigError, DataError

CROP_RATIO = (3 / 4, 4 / 3)  # width over height of random crops, the range


@dataclass(frozen=True)
class Box:
    """One object: its class name and its rectangle in pixels.

    Coordinates are 0-based and half-open: the first pixel column is 0, and `xmax` is one past the last column that the
    object covers, so the width is `xmax - xmin`. VOC's XML is 1-based and inclusive; its reader subtracts one from
    xmin and ymin. COCO's (x, y, w, h) becomes (x, y, x + w, y + h).
    """

    name: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float
    difficult: bool = False
    truncated: bool = False
    occluded: bool = False


class MultiLabelDataset(torch.utils.data.Dataset):
    """Images with several labels each. Item i is `(image, target)`.

    Attributes:
        name, split: for messages and file names.
        classes: C class names, in the order of the columns of `targets`.
        ids: N identifiers. For VOC and COCO the file stem; for WIDER one a person.
        paths: N image files. They are not looked at before an item is asked for.
        targets: (N, C) int8. 1 present, 0 absent, -1 ignore (difficult, unspecified, or unknown).
        crops: None, or (N, 4) float x, y, w, h in pixels: item i is that part of its image (WIDER's persons).
        transform: None, or a callable on the PIL RGB image.
        min_side: None, or pixels: large JPEGs are decoded smaller than they are; see `for_size`.
        box_reader: None, or a callable from an id to its boxes, in pixels of the image as it is stored. It may have a
            method `size` from an id to the (width, height) that the annotation states, or None.
        keys: N strings that tell the images apart, and are the same on every machine: the path below the folder of the
            set, or the file name alone where all images lie in one folder. Persons of one photograph share it.
    """

    def __init__(
        self,
        *,
        name: str,
        split: str,
        classes: Sequence[str],
        ids: Sequence[str],
        paths: Sequence[Path],
        targets: np.ndarray,
        crops: np.ndarray | None = None,
        transform: Callable | None = None,
        box_reader: Callable[[str], list[Box]] | None = None,
        root: Path | None = None,
    ):
        self.name = name
        self.split = split
        self.classes = tuple(classes)
        self.ids = tuple(ids)
        self.paths = list(paths)
        targets = np.asarray(targets)  # (N, C)
        self.crops = None if crops is None else np.asarray(crops, dtype=np.float64)  # (N, 4)
        self.transform = transform
        self.min_side: int | None = None
        self.box_reader = box_reader
        self._root = root  # the folder of the set, where `keys` begin; None for the deepest that holds all images
        self._keys: tuple[str, ...] | None = None
        self._last_image: tuple[Path, Image.Image] | None = None
        if targets.shape != (len(self.ids), len(self.classes)) or len(self.paths) != len(self.ids):
            raise ConfigError(
                f"{name} {split}: {len(self.ids)} ids, {len(self.paths)} paths and {len(self.classes)} classes do not "
                f"fit targets of shape {targets.shape}; targets must be (images, classes)."
            )
        for what, names in (("classes", self.classes), ("ids", self.ids)):
            if len(set(names)) != len(names):
                raise ConfigError(f"{name} {split}: some {what} are listed twice; remove one of each.")
        number = next((i for i in self.ids if not isinstance(i, str)), None)
        if number is not None:
            raise ConfigError(f"{name} {split}: ids must be texts, not {number!r}; str(...) makes one of each.")
        odd = next((c for c in self.classes if not is_name(c)), None)
        if odd is not None or isinstance(classes, str | set | frozenset):  # a set has no order
            raise ConfigError(
                f"{name} {split}: classes must be a list of names without control codes, not "
                f"{reprlib.repr(classes if odd is None else odd)}."
            )
        if self.crops is not None and self.crops.shape != (len(self.ids), 4):
            raise ConfigError(
                f"{name} {split}: crops have shape {self.crops.shape}; they must be ({len(self.ids)}, 4)."
            )
        if not np.isin(targets, (-1, 0, 1)).all():
            raise ConfigError(f"{name} {split}: targets must be 1, 0 or -1, but {np.unique(targets)[:9]} were found.")
        self.targets = targets.astype(np.int8)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> tuple[object, torch.Tensor]:
        """`(transform(image), target)`, target int8 of shape (C,). Without a transform the image is a PIL RGB image."""
        image = self.image(i)
        target = torch.from_numpy(self.targets[i].copy())  # (C,)
        return (image if self.transform is None else self.transform(image)), target

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_last_image": None}  # workers get the lists, not somebody's photograph

    def __repr__(self) -> str:
        return f"MultiLabelDataset({self.name} {self.split}: {len(self)} items, {len(self.classes)} classes)"

    def image(self, i: int) -> Image.Image:
        """The PIL RGB image of item i, cut to its crop where the set has crops. CsraError names a bad file."""
        path = self.paths[i]
        if self.crops is None:
            return open_image(path, min_side=self.min_side)
        last = self._last_image
        if last is None or last[0] != path:
            # Person boxes were drawn on the pixels as stored, so the image is not turned upright first.
            last = self._last_image = (path, open_image(path, upright=False))
        return _crop(last[1], self.crops[i], path)

    @property
    def keys(self) -> tuple[str, ...]:
        """What tells the image of each item from the others: N names; persons of one image share theirs."""
        if self._keys is None:
            self._keys = image_keys(self.paths, self._root)
        return self._keys

    def boxes(self, i: int) -> list[Box]:
        """The boxes of item i whose class is among `classes`, in pixels of its upright image; read when asked for.

        Raises:
            CsraError: the set has no boxes, an annotation fits its image neither as stored nor upright, or it writes a
                class in another case than `classes`.
        """
        if self.box_reader is None:
            raise ConfigError(
                f"{self.name} {self.split} has no boxes; use a set with boxes such as voc2007 or coco2014."
            )
        wanted = set(self.classes)
        found = self.box_reader(self.ids[i])
        boxes = [box for box in found if box.name in wanted]
        if len(boxes) < len(found):
            self._check_case({box.name for box in found} - wanted, self.ids[i])
        return self._upright(boxes, i) if boxes and self.crops is None else boxes

    def _check_case(self, others: set[str], image_id: str) -> None:
        folded = {name.casefold(): name for name in self.classes}
        alike = next((name for name in sorted(others) if name.casefold() in folded), None)
        if alike is not None:
            raise DataError(
                f"{self.name} {self.split}: the annotation of {image_id} has the class {alike!r}, the labels "
                f"{folded[alike.casefold()]!r}; write both the same way."
            )

    def _upright(self, boxes: list[Box], i: int) -> list[Box]:
        path = self.paths[i]
        if not os.path.isfile(path):  # lists and annotations without photographs
            return boxes
        size, orientation = stored_size(path)
        if orientation == 1:
            return boxes
        stated = getattr(self.box_reader, "size", lambda _: None)(self.ids[i]) or size
        if stated == size[::-1] != size and orientation >= 5:
            return boxes  # they were drawn on the upright image
        if stated != size:
            raise DataError(
                f"{path} is {size[0]} x {size[1]} and turned by its EXIF tag, and its annotation says {stated[0]} x "
                f"{stated[1]}; save the image upright, at the size that was annotated."
            )
        corners = [turn_corners((b.xmin, b.ymin, b.xmax, b.ymax), size, orientation) for b in boxes]
        return [
            dataclasses.replace(box, xmin=four[0], ymin=four[1], xmax=four[2], ymax=four[3])
            for box, four in zip(boxes, corners, strict=True)
        ]

    def with_transform(self, transform: Callable | None) -> MultiLabelDataset:
        """The same set with another transform. The arrays are shared."""
        other = copy.copy(self)
        other.transform = transform
        return other

    def for_size(
        self, image_size: int, *, crop_scale: float = 1.0, crop_ratio: float = CROP_RATIO[1]
    ) -> MultiLabelDataset:
        """The same set for a network of S x S pixels: large JPEGs are decoded at 1/2, 1/4 or 1/8, never below 2 S.

        Twice what is needed leaves the image to the antialiased resize. Images that have crops are read in full,
        and so is everything but JPEG. `crop_scale` is the smallest share of the area that a random crop keeps, and
        `crop_ratio` the largest ratio of its sides: no such crop then has to be enlarged.
        """
        other = copy.copy(self)
        narrowest = (crop_scale / crop_ratio) ** 0.5  # of a square image's side
        other.min_side = math.ceil(image_size * max(2, 1 / narrowest))
        return other

    def subset(self, indices: Iterable[int]) -> MultiLabelDataset:
        """The items at `indices`, in that order (integers, or a boolean mask of length N).

        Raises:
            CsraError: an index that there is not or is no whole number, or a mask of another length.
        """
        index = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if index.dtype == bool:
            if index.shape != (len(self),):
                raise ConfigError(
                    f"The mask has shape {index.shape}, but {self.name} {self.split} has {len(self)} items."
                )
            index = np.flatnonzero(index)
        if index.size and (index.ndim != 1 or index.dtype.kind not in "iu"):
            raise ConfigError(f"Items are chosen by a list of whole numbers or a mask, not by {reprlib.repr(indices)}.")
        index = index.astype(np.int64)
        outside = index[(index < -len(self)) | (index >= len(self))]
        if outside.size:
            raise ConfigError(f"Index {outside[0]} is outside {self.name} {self.split}, which has {len(self)} items.")
        other = copy.copy(self)
        other.ids = tuple(self.ids[k] for k in index)
        other._keys = tuple(self.keys[k] for k in index)
        other.paths = [self.paths[k] for k in index]
        other.targets = self.targets[index]
        other.crops = None if self.crops is None else self.crops[index]
        return other

    def select_classes(self, names: Sequence[str]) -> MultiLabelDataset:
        """The same items with only these classes, in this order. Items that then have no positive stay.

        Raises:
            CsraError: a class that the set has not, a class twice, or none.
        """
        names = tuple(names)
        unknown = [n for n in names if n not in self.classes]
        if unknown:
            raise ConfigError(
                f"{self.name} has no class {', '.join(map(repr, unknown))}; its classes are {', '.join(self.classes)}."
            )
        if len(set(names)) != len(names) or not names:
            raise ConfigError(f"Name at least one class, and each once; got {', '.join(names) or 'none'}.")
        other = copy.copy(self)
        other.classes = names
        other.targets = self.targets[:, [self.classes.index(n) for n in names]]
        return other

    def fingerprint(self) -> str:
        """16 hex digits of the ids, classes, targets and crops: two sets with the same are the same to a run."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update("\n".join((*self.classes, *self.ids)).encode("utf-8", "surrogateescape"))
        digest.update(self.targets.tobytes())
        if self.crops is not None:
            digest.update(self.crops.tobytes())
        return digest.hexdigest()

    def positives(self) -> np.ndarray:
        """How many items show each class: (C,) integers."""
        return (self.targets == 1).sum(axis=0)


def count_items(inputs: torch.utils.data.Dataset) -> int:
    """How many items a data set has."""
    return len(inputs)  # type: ignore[arg-type]  # torch's Dataset leaves its length to those that have one


def image_keys(paths: Sequence[Path], root: Path | None = None) -> tuple[str, ...]:
    """The `keys` of a data set: what tells its images apart. See `MultiLabelDataset`."""
    names = [os.fspath(path) for path in paths]
    parents = {os.path.dirname(name) for name in names}
    if len(parents) <= 1:
        return tuple(os.path.basename(name) for name in names)
    base = os.path.commonpath(parents) if root is None else os.fspath(root)
    below = {parent: os.path.relpath(parent, base).replace(os.sep, "/") + "/" for parent in parents}
    return tuple(below[os.path.dirname(name)].removeprefix("./") + os.path.basename(name) for name in names)


@dataclass(frozen=True)
class JoinedBoxes:
    """`box_reader` of splits that were joined: for each item that of its own split, by the item's id there."""

    places: dict[str, tuple[Callable[[str], list[Box]], str]]

    def __call__(self, image_id: str) -> list[Box]:
        reader, own = self.places[image_id]
        return reader(own)

    def size(self, image_id: str) -> tuple[int, int] | None:
        """(width, height) that the annotation states for an image; None where it states none."""
        reader, own = self.places[image_id]
        return getattr(reader, "size", lambda _: None)(own)


def join_splits(parts: Sequence[MultiLabelDataset], split: str) -> MultiLabelDataset:
    """The items of several splits of one folder as one split; a file that several list under one id is taken once.

    Ids stay as they are, unless one stands for different files: then every id begins with its split, "train/1.jpg".

    Raises:
        CsraError: the parts have different classes, or different labels of one file.
    """
    first = parts[0]
    odd = next((part for part in parts if part.classes != first.classes), None)
    if odd is not None:
        raise ConfigError(f"{first.name}: {first.split} and {odd.split} have different classes, so {split} is none.")
    taken: dict[tuple[str, Path], tuple[int, int]] = {}
    for p, part in enumerate(parts):
        for row, item in enumerate(zip(part.ids, part.paths, strict=True)):
            before, at = taken.setdefault(item, (p, row))
            if (parts[before].targets[at] != part.targets[row]).any():
                raise DataError(
                    f"{first.name}: {item[0]} has other labels in {parts[before].split} than in {part.split}; correct "
                    "or remove one."
                )
    places, ids = list(taken.values()), [image_id for image_id, _ in taken]
    if len(set(ids)) < len(ids):
        ids = [f"{parts[p].split}/{parts[p].ids[row]}" for p, row in places]
    other = copy.copy(first)
    other.split, other.ids, other._keys = split, tuple(ids), None
    other.box_reader = _joined_boxes(parts, ids, places)
    other.paths = [parts[p].paths[row] for p, row in places]
    other.targets = np.array([parts[p].targets[row] for p, row in places], dtype=np.int8)
    crops = [part.crops for part in parts if part.crops is not None]
    if len(crops) == len(parts):
        other.crops = np.array([crops[p][row] for p, row in places])
    return other


def _joined_boxes(
    parts: Sequence[MultiLabelDataset], ids: Sequence[str], places: Sequence[tuple[int, int]]
) -> Callable[[str], list[Box]] | None:
    """The reader of all items' boxes; None where a part has none."""
    readers = [part.box_reader for part in parts if part.box_reader is not None]
    if len(readers) < len(parts):
        return None
    if all(reader == readers[0] for reader in readers) and all(
        i == parts[p].ids[row] for i, (p, row) in zip(ids, places, strict=True)
    ):
        return readers[0]
    return JoinedBoxes({i: (readers[p], parts[p].ids[row]) for i, (p, row) in zip(ids, places, strict=True)})


def _crop(image: Image.Image, box: np.ndarray, path: Path) -> Image.Image:
    """The part of the image under (x, y, w, h), widened to whole pixels and clipped to the image."""
    x, y, w, h = (float(v) for v in box)
    left, top = max(0, math.floor(x)), max(0, math.floor(y))
    right, bottom = min(image.width, math.ceil(x + w)), min(image.height, math.ceil(y + h))
    if right <= left or bottom <= top:
        raise DataError(
            f"The box x={x:g} y={y:g} w={w:g} h={h:g} lies outside {path}, which is {image.width} x {image.height}; "
            "check that the annotations belong to these photographs."
        )
    return image.crop((left, top, right, bottom))
