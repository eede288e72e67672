"""Where and how networks run: device, memory format, precision and reading threads. Every door asks here."""

import contextlib
import os

import torch
from torch import Tensor, nn


def best_device() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def is_convolutional(module: nn.Module) -> bool:
    """Whether `channels_last` memory makes a network faster: it has convolutions besides a cut into patches."""
    return any(isinstance(m, nn.Conv2d) and m.kernel_size != m.stride for m in module.modules())


def for_inference(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, a convolutional one with its weights in `channels_last` memory.

    Values stay the same. The module itself is changed and returned.
    """
    module.eval()
    return module.to(memory_format=torch.channels_last) if is_convolutional(module) else module


def to_device(batch: Tensor, device: torch.device | str) -> Tensor:
    """(B, ...) input as float32 on the device, images in `channels_last` memory, where convolutions are faster."""
    memory = torch.channels_last if batch.ndim == 4 else torch.contiguous_format
    return batch.to(device, torch.float32, non_blocking=True, memory_format=memory)


def autocast(device: torch.device | str, dtype: torch.dtype | None):
    """Mixed precision in `dtype`, or none."""
    return torch.autocast(torch.device(device).type, dtype) if dtype else contextlib.nullcontext()


def reading_threads() -> int:
    """Threads that decode images beside the network; Pillow decodes side by side."""
    return min(8, os.cpu_count() or 1)
