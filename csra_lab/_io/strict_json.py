"""JSON that every parser reads: no NaN, no Infinity, and NumPy's numbers as plain ones.

Python's own `json` writes `NaN` and `Infinity`, which JSON does not have and which JavaScript, jq and most languages
refuse. Here infinity is the text "inf" (a temperature may be infinite), and NaN is refused, or `null` where the caller
says that nothing was measured.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from csra_lab._io.atomic_write import atomic_write
from csra_lab.errors import CsraError


def dumps(value: object, *, indent: int | None = None, nan: Literal["refuse", "null"] = "refuse") -> str:
    """A value as strict JSON.

    Args:
        value: mappings (keys are texts or whole numbers), lists, tuples, arrays, texts, truth values, numbers, None.
        indent: spaces a level; one line if left out.
        nan: what NaN becomes.

    Raises:
        CsraError: NaN where it is refused, with where it stands.
        TypeError: a value of another type.
    """
    return json.dumps(plain(value, nan=nan), indent=indent, allow_nan=False)


def write(path: str | Path, value: object, *, indent: int = 2, nan: Literal["refuse", "null"] = "refuse") -> None:
    """Write a value as a file of strict JSON, whole or not at all."""
    text = dumps(value, indent=indent, nan=nan) + "\n"
    with atomic_write(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def plain(value: object, *, nan: Literal["refuse", "null"] = "refuse", where: str = "the value") -> Any:
    """A value in the types that JSON has."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {_key(key): plain(each, nan=nan, where=f"{where}[{key!r}]") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, nan=nan, where=f"{where}[{i}]") for i, each in enumerate(value)]
    if isinstance(value, float):
        if math.isnan(value) and nan == "refuse":
            raise CsraError(f"{where} is not a number, which JSON cannot hold; check what was computed.")
        return _finite(value)
    return value


def _key(key: object) -> str:
    """A key of JSON, which is a text; a whole number is written as one."""
    if isinstance(key, str) or (isinstance(key, int | np.integer) and not isinstance(key, bool)):
        return str(key)
    raise TypeError(f"a key of JSON is a text, not {key!r}")


def _finite(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")
