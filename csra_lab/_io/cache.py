"""The cache folder, and a lock that lets one process at a time fill a folder in it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from csra_lab.errors import CsraError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def cache_folder() -> Path:
    """Where drawn data sets are kept: `CSRA_LAB_CACHE`, else `XDG_CACHE_HOME` or `~/.cache`, then `csra-lab`."""
    named = os.environ.get("CSRA_LAB_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csra-lab"


@contextmanager
def only_one(folder: Path, *, lock: Path | None = None) -> Iterator[bool]:
    """Let one process at a time make `folder`: true for the one that is to make it, false where it is there by now.

    The others wait. The lock is the kernel's, so a process that dies gives it back, however it died.

    Args:
        lock: the file to lock; FOLDER.lock beside the folder if left out.
    """
    lock = lock or folder.with_name(f"{folder.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = None if folder.is_dir() else _locked(lock)
    except OSError as error:
        raise CsraError(
            f"{folder} cannot be made ({error.strerror}); name a folder that you may write, "
            "or set CSRA_LAB_CACHE to one."
        ) from None
    try:
        yield file is not None and not folder.is_dir()
    finally:
        if file is not None:
            lock.unlink(missing_ok=True)  # before others can lock it; see _locked
            file.close()


def _locked(path: Path) -> BinaryIO:
    """The file at `path`, open and locked. Who had to wait finds it removed by then, and takes a new one."""
    while True:
        file = open(path, "ab")  # noqa: SIM115 - it stays open as long as the lock is held
        if fcntl is None:  # Windows: there two processes would both do the work
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that holds {path}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
