"""Arrays by name in one compressed file."""

from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray


def write_arrays(file: Path | IO[bytes], arrays: Mapping[str, NDArray]) -> None:
    """Write a .npz file; names may hold spaces, and `np.load` finds the arrays by them."""
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # NumPy: a name might be allow_pickle, which is bool
