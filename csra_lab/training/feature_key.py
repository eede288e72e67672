"""What cached features are known by: everything that they are computed from."""

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import PIL
from torch import nn

from csra_lab.backbones import Backbone
from csra_lab.datasets import MultiLabelDataset

VERSION = 3
"""Of the way from a file to its features here: decoding, resizing, and how the network is run (2: norms are folded; 3:
files are read whole)."""
PART = 2**21
"""Bytes that are read of each end of an image."""


def feature_key(
    backbone: Backbone, dataset: MultiLabelDataset, shape: tuple[int, ...], dtype: str, pixels: tuple
) -> str:
    """Ten characters that change with the weights, the input, the precision, and the images, their crops and decoding.

    An image is known by its id, its name and its content, of which files above 4 MiB give only their size and their
    ends; not by its folder or its age, so that a copy of a data set has the features of the original. A process reads
    an unchanged image once.

    Args:
        shape: of the maps. dtype: of autocast. pixels: mean and std of the input's normalisation.
    """
    digest = hashlib.blake2b(digest_size=5)
    decoded_by = [VERSION, PIL.__version__.split(".")[0]]  # a major version of Pillow may resize otherwise
    digest.update(json.dumps([shape, backbone.image_size, *pixels, dtype, *decoded_by]).encode())
    for part in _weights(backbone):
        digest.update(part)
    contents = {path: _content(path) for path in dict.fromkeys(dataset.paths)}  # persons share photographs
    for image_id, path in zip(dataset.ids, dataset.paths, strict=True):
        digest.update(f"{image_id}/{Path(path).name}/{contents[path]}\n".encode("utf-8", "surrogateescape"))
    if dataset.crops is not None:
        digest.update(dataset.crops.tobytes())
    return digest.hexdigest()


def weights_digest(module: nn.Module) -> str:
    """16 hex digits that change with a module's weights and their names."""
    digest = hashlib.blake2b(digest_size=8)
    for part in _weights(module):
        digest.update(part)
    return digest.hexdigest()


def _weights(module: nn.Module) -> Iterator[bytes]:
    for name, tensor in sorted(module.state_dict().items()):
        yield name.encode()
        yield tensor.detach().cpu().contiguous().numpy().tobytes()


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
