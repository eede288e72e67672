"""Files that come with the installed package: `csra_lab/assets`, read through importlib.resources."""

import importlib.resources
from pathlib import Path

from csra_lab.errors import CsraError


def asset(name: str = "") -> Path:
    """A file or folder of `csra_lab/assets`.

    Args:
        name: path below the folder, as "tables/voc2007_classes.csv"; the folder itself if left out.

    Raises:
        CsraError: it is not there, so the installation is not whole.
    """
    path = Path(str(importlib.resources.files("csra_lab"))) / "assets" / name
    if not path.exists():
        raise CsraError(f"{path} is not there; install csra-lab again, since this file comes with it.")
    return path
