"""Statistics of real data sets that come with the package, as tables: counts of labels, no image."""

import pandas as pd

from csra_lab._io.resources import asset
from csra_lab.errors import MissingFile


def table_names() -> list[str]:
    """The names of the tables, for `read_table`."""
    return sorted(path.stem for path in asset("tables").glob("*.csv"))


def read_table(name: str, *, index: str | int | None = None) -> pd.DataFrame:
    """A table that comes with the package.

    Args:
        name: one of `table_names()`, as "voc2007_classes". The first lines of each file say its source.
        index: the column that names the rows, by name or number; rows are numbered if left out.

    Raises:
        MissingFile: there is no such table.
    """
    if name not in table_names():
        raise MissingFile(f"there is no table {name!r}; there are {', '.join(table_names())}.")
    return pd.read_csv(asset(f"tables/{name}.csv"), comment="#", index_col=index)
