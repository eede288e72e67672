"""Image files: which are read, which are passed over, and every way a file can be bad as one sentence."""

from __future__ import annotations

import importlib.util
import os
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from csra_lab.errors import CsraError, DataError, MissingFile

# Formats that are images and nothing else. EPS is left out on purpose: opening one runs an interpreter.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".avif", ".heic", ".heif",
)  # fmt: skip
"""Endings of image files, in small letters, for every command; the last three where they can be decoded."""
MAX_PIXELS = 89_478_485  # the count at which Pillow, too, starts to suspect a decompression bomb

# What matters about a damaged image is one sentence of ours. Not `warnings.catch_warnings` around each: images are read
# in threads, and of two that overlap the later one would leave all warnings of the process ignored.
warnings.filterwarnings("ignore", module=r"PIL\.")

_NEEDS = {
    ".avif": "Pillow 11.3 or later with AVIF (`pip install -U pillow`)",
    ".heic": "the package pillow-heif (`pip install pillow-heif`)",
    ".heif": "the package pillow-heif (`pip install pillow-heif`)",
}
_DECODING = threading.Lock()  # the same lazily opened PIL image may be asked for in two threads
_ORIENTATION = 0x0112  # the EXIF tag
_MIRRORED_OR_TURNED = {
    # tag: (x, y) in a stored image of w x h -> (x, y) in the upright one
    2: lambda x, y, w, h: (w - x, y),
    3: lambda x, y, w, h: (w - x, h - y),
    4: lambda x, y, w, h: (x, h - y),
    5: lambda x, y, w, h: (y, x),
    6: lambda x, y, w, h: (h - y, x),
    7: lambda x, y, w, h: (h - y, w - x),
    8: lambda x, y, w, h: (y, w - x),
}


@cache
def readable_formats() -> tuple[str, ...]:
    """`IMAGE_FORMATS`, with AVIF and HEIF where this installation can decode them."""
    formats: tuple[str, ...] = IMAGE_FORMATS
    if features.check("avif"):
        formats += ("AVIF",)
    if importlib.util.find_spec("pillow_heif"):
        importlib.import_module("pillow_heif").register_heif_opener()
        formats += ("HEIF",)
    return formats


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as an image's does, whatever the case."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def missing_decoder(path: str | os.PathLike) -> str | None:
    """What has to be installed before an AVIF or HEIC file can be read; None where nothing is missing."""
    suffix = os.path.splitext(path)[1].lower()
    wanted = {".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF"}.get(suffix)
    return None if wanted is None or wanted in readable_formats() else _NEEDS[suffix]


def walk_images(folder: Path) -> tuple[list[Path], Counter[str]]:
    """All image files below a folder, and what else lies there.

    Hidden files and folders (".ipynb_checkpoints", "._1.jpg" of a Mac) and `__MACOSX` are passed over without a word.

    Returns:
        The images, sorted by path; and how many files of each other suffix were skipped, images that need a decoder
        which is not installed among them.
    """
    images: list[Path] = []
    skipped: Counter[str] = Counter()
    for path in _visible_files(folder):
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES and missing_decoder(path) is None:
            images.append(path)
        else:
            skipped[suffix or "(no suffix)"] += 1
    return sorted(images), skipped


def describe_skipped(skipped: Counter[str]) -> str:
    """'3 .heic (they need ...), 2 .txt': the files that `walk_images` skipped, in words."""
    parts = []
    for suffix, count in skipped.most_common(6):
        needs = missing_decoder(f"x{suffix}")
        parts.append(f"{count} {suffix}" + (f" (reading them needs {needs})" if needs else ""))
    rest = sum(skipped.values()) - sum(count for _, count in skipped.most_common(6))
    return ", ".join(parts) + (f" and {rest} more" if rest else "")


def _visible_files(folder: Path) -> Iterator[Path]:
    seen = {os.path.realpath(folder)}
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        for name in tuple(folders):
            real = os.path.realpath(os.path.join(root, name))
            if os.path.islink(os.path.join(root, name)) and real in seen:  # which may lead round and round
                folders.remove(name)
            seen.add(real)
        for name in files:
            if not name.startswith(".") and (Path(root) / name).is_file():  # a pipe is none
                yield Path(root) / name


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
    name = f"The image {path}"
    if not path.is_file():  # also keeps us from waiting on a pipe
        what = "is a folder, not an image" if path.is_dir() else "does not exist"
        raise MissingFile(f"{name} {what}; check the path, or that the photographs were unpacked there.")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{name} is empty (0 bytes); fetch it again or leave it out.")
        with Image.open(path, formats=readable_formats()) as image:
            _check_pixels(image, name)
            if not upright and isinstance(image, TiffImageFile) and _orientation(image) != 1:  # Pillow turns it
                raise DataError(
                    f"{name} is a TIFF turned by its EXIF tag, and its boxes are of the pixels as they are stored; "
                    "save it as a PNG with the pixels that the boxes were drawn on."
                )
            if min_side is not None:
                image.draft("RGB", (min_side, min_side))
            image.load()
            return _to_rgb(_turned(image) if upright else image, name)
    except CsraError:
        raise
    except UnidentifiedImageError as error:
        needs = missing_decoder(path)
        if needs:
            raise CsraError(f"{name} cannot be read here; it needs {needs}.") from error
        raise DataError(
            f"The file {path} is not an image that can be read, whatever its name says; use {', '.join(IMAGE_FORMATS)}."
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} has more than the {MAX_PIXELS:,} pixels that are read; make it smaller.") from error
    except Exception as error:  # decoders of broken files raise nearly anything: OSError, SyntaxError, struct.error ...
        raise DataError(f"{name} is damaged or cut short ({error}); fetch it again or leave it out.") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """A PIL image of any mode as `open_image` reads its file, though decoded in full; the image given stays as it is.

    Raises CsraError, as `open_image` does, for one that is cut short, too large, or in floating point.
    """
    file = getattr(image, "filename", "")
    name = f"The image {file}" if file else f"This PIL image ({image.mode}, {image.width} x {image.height})"
    _check_pixels(image, name)
    try:
        with _DECODING:
            image.load()
        return _to_rgb(_turned(image), name)
    except CsraError:
        raise
    except Exception as error:  # as in open_image
        raise DataError(f"{name} is damaged or cut short ({error}); fetch it again or leave it out.") from error


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Width and height of a photograph when it is upright, from its header alone. CsraError names a file with none."""
    (width, height), orientation = stored_size(path)
    return (height, width) if orientation >= 5 else (width, height)


def stored_size(path: str | os.PathLike) -> tuple[tuple[int, int], int]:
    """(width, height) as an image is stored, and its EXIF orientation (1 is upright), from the header alone.

    Raises:
        CsraError: no such file, or one without a size.
    """
    try:
        with Image.open(path, formats=readable_formats()) as image:
            size = image.size
            if isinstance(image, TiffImageFile):  # Pillow turns these itself, and gives the size that they then have
                size = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
            return size, _orientation(image)
    except Exception as error:  # as in open_image
        raise DataError(f"The size of {path} cannot be read ({error}); check that the images are there.") from error


def turn_corners(
    corners: tuple[float, float, float, float], size: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """A rectangle (xmin, ymin, xmax, ymax) of a stored image, in pixels of the upright image.

    Args:
        size: (width, height) as stored. orientation: the EXIF tag, 1 to 8.
    """
    turn = _MIRRORED_OR_TURNED.get(orientation)
    if turn is None:
        return corners
    (x0, y0), (x1, y1) = turn(*corners[:2], *size), turn(*corners[2:], *size)
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    return value if value in _MIRRORED_OR_TURNED else 1


def _check_pixels(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height == 0:
        raise DataError(f"{name} has {width} x {height} pixels: there is nothing to see in it.")
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{name} has {width} x {height} pixels, more than the {MAX_PIXELS:,} that are read; make it smaller."
        )


def _turned(image: Image.Image) -> Image.Image:
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """An 8-bit RGB copy of an open image of any mode."""
    if image.mode == "F":
        raise DataError(f"{name} holds floating-point values with no agreed range; save it with 8 bits.")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.int32)
        least, most = int(grey.min()), int(grey.max())
        if least < 0 or most > 65535:
            raise DataError(
                f"{name} holds whole numbers from {least} to {most}, which is no range of 16 bits; save it with 8 bits."
            )
        grey += 128  # in place: such an image may have 89 million pixels
        grey //= 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")  # a copy even when it is RGB already, so the file can close
