"""A run's history for TensorBoard."""

import shutil
from pathlib import Path

from csra_lab.errors import ConfigError


def summary_writer() -> type:
    """TensorBoard's writer, imported only where it is asked for."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("--tensorboard needs the package tensorboard: pip install tensorboard.") from error
    return SummaryWriter


def write_history(writer: type, folder: Path, history: list[dict]) -> None:
    """Write every number of a history (a dict an epoch) as TensorBoard reads it; what stood in the folder is replaced.

    Args:
        writer: torch's `SummaryWriter`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with writer(folder) as events:
        for line in history:
            for name, value in line.items():
                if name != "epoch" and value is not None:
                    events.add_scalar(name, value, line["epoch"])
