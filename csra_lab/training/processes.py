"""The processes of one run: joined, or refused before two of them write one folder."""

import contextlib
import os

import torch
from accelerate import Accelerator
from timm.layers import convert_sync_batchnorm
from torch import nn

from csra_lab.classifier import MultiLabelClassifier
from csra_lab.errors import ConfigError


def join_processes() -> Accelerator:
    """This process's place among those that a launcher started together.

    Launchers say how many there are in WORLD_SIZE. Where there is no GPU, accelerate looks at it only when told to
    use the CPU; else each process would take itself for the only one, and all would write the same run folder.

    Raises:
        ConfigError: accelerate joined another number of processes than were started, or was set up otherwise before.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        accelerator = Accelerator(mixed_precision="no", cpu=started > 1 and not torch.accelerator.is_available())
    except ValueError as error:  # accelerate has one setting for a whole process
        raise ConfigError(
            "an Accelerator with other settings was made in this process before; make it with mixed_precision='no', "
            "or run `csra-lab train` in a process of its own."
        ) from error
    joined = accelerator.num_processes
    if joined != started:
        raise ConfigError(
            f"{started} processes were started (WORLD_SIZE) and accelerate joined {joined}: each would write the same "
            "run folder. Start one process, or start them with `accelerate launch` or torchrun."
        )
    return accelerator


def share_statistics(model: MultiLabelClassifier, *, frozen: bool) -> MultiLabelClassifier:
    """The model with batch norms that count over the images of all processes.

    timm's own conversion: torch's leaves out the activations that timm's norms hold.

    Args:
        frozen: leave the backbone, whose statistics do not change, as it is.
    """
    if not frozen:
        return convert_sync_batchnorm(model)
    model.head = convert_sync_batchnorm(model.head)
    return model


def no_exchange(module: nn.Module, *, wanted: bool) -> contextlib.AbstractContextManager:
    """Keep processes from exchanging gradients, where there are several and it is wanted."""
    no_sync = getattr(module, "no_sync", None)
    return no_sync() if wanted and no_sync is not None else contextlib.nullcontext()
