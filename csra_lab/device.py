"""Where and how networks run: device, memory format, precision and reading threads. Every door asks here."""

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from csra_lab.errors import CsraError

Module = TypeVar("Module", bound=nn.Module)
Result = TypeVar("Result")


def best_device() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def keep_freed_memory(wanted: bool = True) -> bool:
    """Let GNU's C library keep what this process frees, for the next layer or batch; whether it could be told to.

    By itself it gives each large map of a network back and asks for another in the next layer, and the system clears
    every page of that first. Kept, the most that was in use stays with the process until it ends. Once memory has been
    full, the library goes its own way again.

    Args:
        wanted: False for the library's own way; what is free then goes back at once.
    """
    try:
        library = ctypes.CDLL(None)
        tell, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return False
    # Numbers of malloc.h. Pieces that may be mapped each by itself, and go back when freed; bytes that are free at the
    # end before these go back, -1 for never.
    mmap_max, trim_threshold = -4, -1
    told = {mmap_max: 0, trim_threshold: -1} if wanted else {mmap_max: 1 << 16, trim_threshold: 1 << 17}
    could = all(tell(which, value) for which, value in told.items())
    if not wanted:
        trim(0)
    return could


def is_convolutional(module: nn.Module) -> bool:
    """Whether `channels_last` memory makes a network faster: it has convolutions besides a cut into patches."""
    return any(isinstance(m, nn.Conv2d) and m.kernel_size != m.stride for m in module.modules())


def for_inference(module: Module) -> Module:
    """The module in evaluation mode, a convolutional one with its weights in `channels_last` memory.

    Values stay the same. The module itself is changed and returned. See also `keep_freed_memory`.
    """
    module.eval()
    if best_device() == "cpu":
        keep_freed_memory()
    made_so = any(parameter.is_inference() for parameter in module.parameters())
    with torch.inference_mode(made_so):  # other weights that are moved in that mode could not be trained afterwards
        return module.to(memory_format=torch.channels_last) if is_convolutional(module) else module


def to_device(batch: Tensor, device: torch.device | str) -> Tensor:
    """(B, ...) input as float32 on the device, images in `channels_last` memory, where convolutions are faster."""
    memory = torch.channels_last if batch.ndim == 4 else torch.contiguous_format
    return batch.to(device, torch.float32, non_blocking=True, memory_format=memory)


def multiplies_in_bfloat16() -> bool:
    """Whether this CPU has instructions for products in bfloat16; without them the type is slow."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(check() for check in (getattr(torch.cpu, name, None) for name in checks) if check is not None)


class _DepthwiseInFloat32(TorchFunctionMode):
    """Depthwise convolutions of a CPU in single precision, whatever autocast says of the others."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        groups = kwargs.get("groups", args[6] if len(args) > 6 else 1) if func is F.conv2d else 1
        if groups == 1 or groups != args[0].shape[1]:
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*(arg.float() if isinstance(arg, Tensor) else arg for arg in args), **kwargs)


@contextlib.contextmanager
def autocast(device: torch.device | str, dtype: torch.dtype | None) -> Iterator[None]:
    """Mixed precision in `dtype`, or none.

    Where gradients are wanted, a CPU computes depthwise convolutions in single precision: in bfloat16 their gradients
    take longer than all else together.
    """
    kind = torch.device(device).type
    if dtype is None:
        yield
        return
    slow = kind == "cpu" and torch.is_grad_enabled()
    with torch.autocast(kind, dtype), _DepthwiseInFloat32() if slow else contextlib.nullcontext():
        yield


def working_type(precision: str, device: torch.device) -> torch.dtype | None:
    """The type to run in, None for fp32."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def restore_random_state(device: torch.device | str) -> contextlib.AbstractContextManager[None]:
    """Leave torch's random generators as they were: the CPU's, and those of the GPUs where they are in use."""
    in_use = torch.device(device).type == "cuda" or torch.cuda.is_initialized()
    gpus = range(torch.cuda.device_count()) if in_use else ()  # `torch.manual_seed` seeds them all
    return torch.random.fork_rng(devices=gpus)


@contextlib.contextmanager
def training_settings(device: torch.device) -> Iterator[None]:
    """Faster training on either device; torch's settings and random generators are then as they were."""
    if device.type != "cuda":
        keep_freed_memory()
        with restore_random_state(device):
            yield
        return
    benchmark, precision = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    try:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        with restore_random_state(device):
            yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        torch.set_float32_matmul_precision(precision)


def reading_threads() -> int:
    """Threads that decode images beside the network; Pillow decodes side by side."""
    return min(8, os.cpu_count() or 1)


def is_memory_error(error: BaseException) -> bool:
    """Whether memory was full: Python's, a GPU's, or the CPU's, which torch reports as a RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)


def fit_in_memory(
    run: Callable[[int], Result], batch: int, *, advice: Callable[[int], str] = "pass --batch-size {}".format
) -> Result:
    """What `run(batch)` gives. Where memory is full, smaller batches are tried, and the error names one that fits.

    Args:
        run: works on the first so many items of a batch. batch: all of them.
        advice: what to do, from the number that fits.

    Raises:
        CsraError: memory is full.
    """
    try:
        return run(batch)
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        cause = error.with_traceback(None)  # whose frames hold the tensors that did not fit
    fits = batch // 2
    while fits and not _runs(run, fits):
        fits //= 2
    if not fits:
        raise CsraError("not even one image fits into memory; choose a smaller --image-size or network.") from cause
    raise CsraError(f"a batch of {batch} does not fit into memory, {fits} would have: {advice(fits)}.") from cause


def _runs(run: Callable[[int], object], count: int) -> bool:
    try:
        run(count)
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        return False
    return True
