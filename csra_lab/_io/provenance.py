"""Which code ran: the version, and in a checkout the commit and whether it had been changed."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


@cache
def code_version() -> dict[str, str | bool]:
    """`csra_lab`, the version; from a checkout also its `commit`, and `clean`: no file of the package differed from it.

    An installed wheel, or a machine without git, gives the version only. Read once, when first asked.
    """
    return {"csra_lab": lab_version(), **checkout(PACKAGE.parent)}


def lab_version() -> str:
    """`csra_lab.__version__`; the package is imported, since this file is a part of it."""
    return sys.modules["csra_lab"].__version__


def checkout(root: Path) -> dict[str, str | bool]:
    """`commit` and `clean` of the package in a checkout at `root`; nothing where it is none or git cannot be asked."""
    if not (root / ".git").exists():  # an environment inside some other repository is no checkout of this one
        return {}
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", "csra_lab", "pyproject.toml")
    return {} if commit is None or changes is None else {"commit": commit, "clean": not changes}


def _git(root: Path, *arguments: str) -> str | None:
    """What git says, or None where it cannot be asked."""
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # asking must not lock the index of someone who commits
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], env=quiet, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
