"""The state of a run on the disk: how a killed run goes on with the same bits."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from csra_lab._io.atomic_write import atomic_write, clear_leftovers
from csra_lab.device import is_memory_error
from csra_lab.errors import ConfigError, CsraError, DataError
from csra_lab.training.feature_key import weights_digest

STATE = "state.pt"
FILES = (STATE, "model", "model/README.md", "recipe.json", "history.csv", "metrics.json", "scores.npz")


@dataclass
class Progress:
    """Where a run has got to. `best` is the best validation mAP so far, -1 before the first."""

    epoch: int = 0
    best: float = -1.0
    history: list[dict] = field(default_factory=list)


class FrozenWeights:
    """Weights that are not trained and not kept in the state: a run goes on with the same ones only."""

    def __init__(self, module: nn.Module):
        self.digest = weights_digest(module)

    def state_dict(self) -> dict:
        """What tells these weights from others."""
        return {"digest": self.digest}

    def load_state_dict(self, state: dict) -> None:
        """Raise a CsraError where the state was written with other weights."""
        if state["digest"] != self.digest:
            raise ConfigError(
                "the frozen network has other weights than when this run began, so it cannot go on; put the file of "
                "--weights back, or choose another --out."
            )


def save_state(out: Path, progress: Progress, stateful: dict) -> None:
    """Write the state of a run. `stateful`: name -> module, optimiser, scaler or frozen weights, or None."""
    states = {name: None if each is None else each.state_dict() for name, each in stateful.items()}
    content = {"epoch": progress.epoch, "best": progress.best, "history": progress.history, **states}
    with atomic_write(out / STATE) as path:
        torch.save(content, path)


def load_state(out: Path, stateful: dict) -> Progress:
    """Put back what `save_state` wrote, and say where the run had got to; a new run where there is no state.

    Raises:
        CsraError: a state that cannot be read, or is that of a run with other frozen weights.
    """
    path = out / STATE
    if not path.exists():
        return Progress()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)  # what takes the numbers has its own device
        for name, each in stateful.items():
            if each is not None:
                each.load_state_dict(content[name])
        return Progress(content["epoch"], content["best"], list(content["history"]))
    except ConfigError:
        raise
    except PermissionError as error:
        raise CsraError(f"{path} may not be read by you ({error.strerror}); change its permissions.") from error
    except Exception as error:  # torch raises many kinds here; all others mean the same to the reader
        if is_memory_error(error):
            raise CsraError(
                f"there is no memory to read {path}; close what else uses it, and give the same command again."
            ) from error
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}); delete that file and history.csv, and the run starts "
            "again from its first epoch."
        ) from error


def save_history(out: Path, progress: Progress) -> None:
    """Write `history.csv`, a line an epoch."""
    with atomic_write(out / "history.csv") as path:
        pd.DataFrame(progress.history).to_csv(path, index=False)


def clear_after_kill(out: Path) -> None:
    """Remove what a kill left half-written. For the one process that writes."""
    for name in FILES:
        clear_leftovers(out / name)


def finish(out: Path) -> None:
    """A folder with a whole history and no state is a finished run."""
    (out / STATE).unlink(missing_ok=True)
