"""Arrays by name in one file: smaller than NumPy's own, the same bytes each time, and read by `np.load`."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from csra_lab.errors import DataError


def write_arrays(file: Path | IO[bytes], arrays: Mapping[str, NDArray]) -> None:
    """Write a .npz file; names may hold spaces, and `np.load` finds the arrays by them."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)


def split_bytes(halves: NDArray) -> NDArray[np.uint8]:
    """(...) float16 -> (2, ...) low bytes, then high bytes: apart, they take an eighth less room in a file."""
    pairs = np.ascontiguousarray(halves, dtype="<f2")[..., None].view(np.uint8)
    return np.ascontiguousarray(np.moveaxis(pairs, -1, 0))


def joined_bytes(planes: NDArray[np.uint8]) -> NDArray[np.float16]:
    """(2, ...) bytes of `split_bytes` -> (...) float16.

    Raises:
        DataError: other numbers, as earlier versions wrote them.
    """
    if planes.dtype != np.uint8 or planes.shape[:1] != (2,):
        raise DataError("a record holds scores as an earlier version wrote them; measure it again with its command.")
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1)).view("<f2")[..., 0]
