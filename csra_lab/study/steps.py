"""A long study in steps: each is saved as it ends, so that a run that was stopped goes on there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from csra_lab._io import strict_json
from csra_lab._io.atomic_write import atomic_write
from csra_lab.errors import DataError

PLAN = "plan.json"


def is_recorded(record: Path, plan: dict, log: Callable[[str], None]) -> bool:
    """Whether a record is that of a plan, so that there is nothing to do; a record without a plan is done again.

    Args:
        record: its folder. plan: as in `Steps.finish`.

    Raises:
        DataError: the record is that of another plan.
    """
    if not (record / PLAN).is_file():
        return False
    _check_plan(record / PLAN, strict_json.plain(plan))
    log(f"{record} is finished; to do it again, remove that folder, or give another --out")
    return True


class Steps:
    """What a run has done so far, a file a step.

    Args:
        folder: of these files.
        plan: all that the steps depend on, in JSON's types: data, source, and settings in the order of the steps' rows.

    Raises:
        DataError: the folder holds steps of another plan.
    """

    def __init__(self, folder: Path, plan: dict, log: Callable[[str], None]):
        self.folder, self.log = folder, log
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / PLAN
        if file.is_file():
            _check_plan(file, strict_json.plain(plan))
        strict_json.write(file, plan)

    def table(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The table of a step, from its file or made now."""
        path = self.folder / f"{name}.csv"
        if not path.is_file():
            table = make()
            with atomic_write(path) as file:
                table.to_csv(file, index=False)
            self.log(f"{path.parent.stem}: {name}")
        return pd.read_csv(path)

    def array(self, name: str, make: Callable[[], NDArray]) -> NDArray:
        """The array of a step, of any shape, from its file or made now."""
        path = self.folder / f"{name}.npy"
        if not path.is_file():
            array = make()
            with atomic_write(path) as file, file.open("wb") as stream:
                np.save(stream, array)
            self.log(f"{path.parent.stem}: {name}")
        return np.load(path, allow_pickle=False)

    def finish(self, record: Path, plan: dict) -> None:
        """Write into a record all that it depends on, in JSON's types, and remove the files of the steps."""
        strict_json.write(record / PLAN, plan)
        shutil.rmtree(self.folder)


def _check_plan(file: Path, plan: dict) -> None:
    """Refuse a file of another plan, with the first part that differs; a version of before named fewer parts."""
    try:
        found = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} is not the plan of a study; remove {file.parent}, or give another --out.") from error
    for part in {**plan, **found}:
        # As text: the rows of a step's arrays are in the order of the plan, which a comparison of dicts does not see.
        if json.dumps(found.get(part)) != json.dumps(plan.get(part)):
            why = "was begun with other" if part in found else "was begun by an earlier version, which did not record"
            raise DataError(f"{file.parent} {why} {part}; remove that folder, or give another --out.")
