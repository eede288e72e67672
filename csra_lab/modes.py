"""Training and evaluation mode of every module of a network, put back as they were."""

import contextlib
import threading
from collections.abc import Iterator

from torch import nn

_LOCK = threading.RLock()  # a block that the garbage collector ends may lie in another
_INSIDE: dict[nn.Module, tuple[int, bool]] = {}  # module -> the blocks around it, and its mode before the first


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode for a block; then each module in its mode from before, frozen ones in theirs.

    Blocks may overlap, in one thread or several: the last to end puts the modes back.
    """
    modules = list(network.modules())
    with _LOCK:
        for module in modules:
            blocks, training = _INSIDE.get(module, (0, module.training))
            _INSIDE[module] = blocks + 1, training
    try:
        network.eval()
        yield
    finally:
        with _LOCK:
            for module in modules:
                blocks, training = _INSIDE.pop(module)
                if blocks > 1:
                    _INSIDE[module] = blocks - 1, training
                else:
                    module.training = training
