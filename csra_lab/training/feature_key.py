"""What cached features are known by: everything that they are computed from."""

import functools
import hashlib
import json
import os
from pathlib import Path

import PIL

from csra_lab.backbones import Backbone
from csra_lab.datasets import MultiLabelDataset

VERSION = 2
"""Of the way from a file to its features here: decoding, resizing, and how the network is run (2: norms are folded)."""
PART = 2**16
"""Bytes that are read of each end of an image."""


def feature_key(
    backbone: Backbone, dataset: MultiLabelDataset, shape: tuple[int, ...], dtype: str, pixels: tuple
) -> str:
    """Ten characters that change with the weights, the input, the precision, and the images, their crops and decoding.

    An image is known by its id, its name, its size in bytes, and its first and last 64 KiB; not by its folder or its
    age, so that a copy of a data set has the features of the original. A process reads an unchanged image once.

    Args:
        shape: of the maps. dtype: of autocast. pixels: mean and std of the input's normalisation.
    """
    digest = hashlib.blake2b(digest_size=5)
    decoded_by = [VERSION, PIL.__version__.split(".")[0]]  # a major version of Pillow may resize otherwise
    digest.update(json.dumps([shape, backbone.image_size, *pixels, dtype, *decoded_by]).encode())
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    contents = {path: _content(path) for path in dict.fromkeys(dataset.paths)}  # persons share photographs
    for image_id, path in zip(dataset.ids, dataset.paths, strict=True):
        digest.update(f"{image_id}/{Path(path).name}/{contents[path]}\n".encode("utf-8", "surrogateescape"))
    if dataset.crops is not None:
        digest.update(dataset.crops.tobytes())
    return digest.hexdigest()


def _content(path: Path) -> str:
    """Size and digest of a file; nothing of one that cannot be read, as reading the image will say what is wrong."""
    try:
        status = os.stat(path)
        return f"{status.st_size}/{_ends(path, status.st_size, status.st_mtime_ns)}"
    except OSError:
        return "-1"


@functools.lru_cache(maxsize=2**17)
def _ends(path: Path, size: int, changed: int) -> str:
    """Digest of the first and last `PART` bytes of a file, read again where its size or time of change differ."""
    with open(path, "rb") as file:
        digest = hashlib.blake2b(file.read(PART), digest_size=8)
        file.seek(max(PART, size - PART))
        digest.update(file.read(PART))
    return digest.hexdigest()
