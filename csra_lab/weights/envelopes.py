"""What weight files wrap around their tensors, and how it is taken off. Every door reads files through here."""

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from csra_lab._io.notice import warn

PLAIN = ("state_dict", "model_state_dict", "model", "net", "network", "params", "module")
AVERAGED = ("ema_state_dict", "state_dict_ema", "model_ema", "params_ema", "ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
_COUNTERS = ("n_averaged", "steps", "decay")  # beside the weights of averaged models

SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]  # what pickles of numbers name
SAFE_GLOBALS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    (SCALAR, "numpy._core.multiarray.scalar"),
    (SCALAR, "numpy.core.multiarray.scalar"),  # written by NumPy 1
    *(type(np.dtype(kind)) for kind in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")),
]
"""What may lie beside tensors in a checkpoint and runs no code: numbers of NumPy, arguments of a command line."""


def take_tensors(content: Any, source: object) -> dict[str, Tensor]:
    """The tensors of a loaded checkpoint by their bare names; empty where there are none.

    Averaged weights are taken where both lie, with a notice. mmengine exchanges the two when it writes: there
    `state_dict` holds the average already.
    """
    while isinstance(content, Mapping):
        averaged = next((k for k in AVERAGED if _holds_tensors(content.get(k))), None)
        plain = next((k for k in PLAIN if isinstance(content.get(k), Mapping)), None)
        if averaged is not None and not (plain is not None and _is_of_mmengine(content)):
            if plain is not None or any(isinstance(v, Tensor) for v in content.values()):
                warn(f"{source} holds raw and averaged weights; the averaged ones ({averaged!r}) are taken.")
            content = content[averaged]
        elif plain is not None:
            content = content[plain]
        else:
            break
    if not isinstance(content, Mapping):
        return {}
    return bare({str(k): v for k, v in content.items() if isinstance(v, Tensor)})


def bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off prefixes that all names have, and make whole numbers of batch counters saved in half precision."""
    counters = [name for name in _COUNTERS if name in state]
    names = [name for name in state if name not in counters]
    prefix = next((p for p in PREFIXES if names and all(name.startswith(p) for name in names)), None)
    if prefix is not None:
        return bare({name.removeprefix(prefix): state[name] for name in names})
    return {
        name: tensor.long() if name.endswith("num_batches_tracked") and tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def _holds_tensors(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    return any(isinstance(v, Tensor) for v in value.values()) or any(_holds_tensors(value.get(k)) for k in PLAIN)


def _is_of_mmengine(content: Mapping) -> bool:
    meta = content.get("meta")
    return "message_hub" in content or (isinstance(meta, Mapping) and "mmengine_version" in meta)
