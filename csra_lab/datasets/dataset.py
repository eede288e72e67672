"""What every data set of the lab is: images, classes, and an integer target matrix in {1, 0, -1}.

A reader (voc.py, wider.py, coco.py) makes one `MultiLabelDataset`. Nothing here knows a file format of labels; the one
thing this file reads is photographs, in `open_image`, where every way a photograph can be bad becomes one sentence.
"""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from csra_lab.errors import CsraError

# Formats that are pictures and nothing else. EPS is left out on purpose: opening one runs an interpreter.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
CROP_RATIO = (3 / 4, 4 / 3)  # width over height of random crops, the range
MAX_PIXELS = 89_478_485  # the count at which Pillow, too, starts to suspect a decompression bomb

# EXIF orientation tag (0x0112) -> the operation that turns the stored pixels upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Box:
    """One object: its class name and its rectangle in pixels of the stored image.

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
        box_reader: None, or a callable from an id to its boxes.
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
        self._last_image = None  # (path, image): neighbouring persons share a photograph, so WIDER keeps one
        if targets.shape != (len(self.ids), len(self.classes)) or len(self.paths) != len(self.ids):
            raise CsraError(
                f"{name} {split}: {len(self.ids)} ids, {len(self.paths)} paths and {len(self.classes)} classes do not "
                f"fit targets of shape {targets.shape}; targets must be (images, classes)."
            )
        for what, names in (("classes", self.classes), ("ids", self.ids)):
            if len(set(names)) != len(names):
                raise CsraError(f"{name} {split}: some {what} are listed twice; remove one of each.")
        if self.crops is not None and self.crops.shape != (len(self.ids), 4):
            raise CsraError(f"{name} {split}: crops have shape {self.crops.shape}; they must be ({len(self.ids)}, 4).")
        if not np.isin(targets, (-1, 0, 1)).all():
            raise CsraError(f"{name} {split}: targets must be 1, 0 or -1, but {np.unique(targets)[:9]} were found.")
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

    def boxes(self, i: int) -> list[Box]:
        """The boxes of item i whose class is among `classes`, read when asked for. CsraError if the set has none."""
        if self.box_reader is None:
            raise CsraError(f"{self.name} {self.split} has no boxes; use a set with boxes such as voc2007 or coco2014.")
        wanted = set(self.classes)
        return [box for box in self.box_reader(self.ids[i]) if box.name in wanted]

    def with_transform(self, transform: Callable | None) -> MultiLabelDataset:
        """The same set with another transform. The arrays are shared."""
        other = copy.copy(self)
        other.transform = transform
        return other

    def for_size(self, image_size: int, *, crop_scale: float = 1.0) -> MultiLabelDataset:
        """The same set for a network of S x S pixels: large JPEGs are decoded at 1/2, 1/4 or 1/8, never below 2 S.

        Twice what is needed leaves the picture to the antialiased resize. Pictures that have crops are read in full,
        and so is everything but JPEG. `crop_scale` is the smallest share of the area that a random crop keeps: no crop
        of a shape that `train_transform` draws then has to be enlarged.
        """
        other = copy.copy(self)
        narrowest = (CROP_RATIO[0] * crop_scale) ** 0.5  # of a square picture's side
        other.min_side = math.ceil(image_size * max(2, 1 / narrowest))
        return other

    def subset(self, indices: Iterable[int]) -> MultiLabelDataset:
        """The items at `indices`, in that order (integers, or a boolean mask of length N).

        Raises:
            CsraError: an index that there is not, or a mask of another length.
        """
        index = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if index.dtype == bool:
            if index.shape != (len(self),):
                raise CsraError(
                    f"The mask has shape {index.shape}, but {self.name} {self.split} has {len(self)} items."
                )
            index = np.flatnonzero(index)
        index = index.astype(np.int64)
        outside = index[(index < -len(self)) | (index >= len(self))]
        if outside.size:
            raise CsraError(f"Index {outside[0]} is outside {self.name} {self.split}, which has {len(self)} items.")
        other = copy.copy(self)
        other.ids = tuple(self.ids[k] for k in index)
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
            raise CsraError(
                f"{self.name} has no class {', '.join(map(repr, unknown))}; its classes are {', '.join(self.classes)}."
            )
        if len(set(names)) != len(names) or not names:
            raise CsraError(f"Name at least one class, and each once; got {', '.join(names) or 'none'}.")
        other = copy.copy(self)
        other.classes = names
        other.targets = self.targets[:, [self.classes.index(n) for n in names]]
        return other

    def positives(self) -> np.ndarray:
        """How many items show each class: (C,) integers."""
        return (self.targets == 1).sum(axis=0)


def open_image(path: str | os.PathLike, *, min_side: int | None = None, upright: bool = True) -> Image.Image:
    """One photograph as an 8-bit PIL RGB image.

    The EXIF orientation is applied unless `upright` is False. Transparent pixels are laid over white. 16-bit grey is
    divided by 257, so that 65535 becomes 255. Of an animation the first frame is taken.

    `min_side` allows a JPEG to be decoded smaller than it is, which is much faster for large photographs: by 1/2, 1/4
    or 1/8, the smallest of these whose two sides are both at least `min_side` pixels; never below that. Other formats
    and None decode in full.

    Raises CsraError, naming the path and what to do, for a file that is missing, empty, no image, cut short, of more
    than `MAX_PIXELS` pixels, or in floating point.
    """
    path = Path(path)
    if not path.is_file():  # also keeps us from waiting on a pipe
        what = "is a folder, not an image" if path.is_dir() else "does not exist"
        raise CsraError(f"The image {path} {what}; check the path, or that the photographs were unpacked there.")
    try:
        if path.stat().st_size == 0:
            raise CsraError(f"The image {path} is empty (0 bytes); fetch it again or leave it out.")
        # What matters about a damaged picture is said below, in one sentence.
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise CsraError(
                    f"The image {path} has {width} x {height} pixels, more than the {MAX_PIXELS:,} that are read; "
                    "make it smaller."
                )
            if min_side is not None:
                image.draft("RGB", (min_side, min_side))
            image.load()
            turn = _UPRIGHT.get(_orientation(image)) if upright else None
            rgb = _to_rgb(image, path)
    except CsraError:
        raise
    except UnidentifiedImageError:
        raise CsraError(
            f"The file {path} is not an image that can be read, whatever its name says; use {', '.join(IMAGE_FORMATS)}."
        ) from None
    except Image.DecompressionBombError:
        raise CsraError(
            f"The image {path} has more than the {MAX_PIXELS:,} pixels that are read; make it smaller."
        ) from None
    except Exception as error:  # decoders of broken files raise nearly anything: OSError, SyntaxError, struct.error ...
        raise CsraError(
            f"The image {path} is damaged or cut short ({error}); fetch it again or leave it out."
        ) from None
    return rgb if turn is None else rgb.transpose(turn)


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Width and height of a photograph as it is stored, from its header alone. CsraError names a file that has none."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=IMAGE_FORMATS) as image:
            return image.size
    except Exception as error:  # as in open_image
        raise CsraError(f"The size of {path} cannot be read ({error}); check that the pictures are there.") from None


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """An 8-bit RGB copy of an open image of any mode."""
    if image.mode == "F":
        raise CsraError(f"The image {path} holds floating-point values with no agreed range; save it with 8 bits.")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.int32)
        np.clip(grey, 0, 65535, out=grey)  # in place: such a picture may have 89 million pixels
        grey += 128
        grey //= 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")  # a copy even when it is RGB already, so the file can close


def _crop(image: Image.Image, box: np.ndarray, path: Path) -> Image.Image:
    """The part of the image under (x, y, w, h), widened to whole pixels and clipped to the image."""
    x, y, w, h = (float(v) for v in box)
    left, top = max(0, math.floor(x)), max(0, math.floor(y))
    right, bottom = min(image.width, math.ceil(x + w)), min(image.height, math.ceil(y + h))
    if right <= left or bottom <= top:
        raise CsraError(
            f"The box x={x:g} y={y:g} w={w:g} h={h:g} lies outside {path}, which is {image.width} x {image.height}; "
            "check that the annotations belong to these photographs."
        )
    return image.crop((left, top, right, bottom))
