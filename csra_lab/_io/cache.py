"""The cache folder, and a lock that lets one process at a time fill a folder in it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from csra_lab.errors import CsraError


def cache_folder() -> Path:
    """Where drawn data sets and features are cached: `CSRA_LAB_CACHE`, else `csra-lab` in the system's cache folder.

    That is `XDG_CACHE_HOME` or `~/.cache` on Linux, `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on Windows.
    """
    named = os.environ.get("CSRA_LAB_CACHE")
    return Path(named) if named else platformdirs.user_cache_path("csra-lab", appauthor=False)


@contextmanager
def only_one(folder: Path, *, lock: Path | None = None) -> Iterator[bool]:
    """Let one process at a time make `folder`: true for the one that is to make it, false where it is there by now.

    The others wait. The lock is the kernel's, so a process that dies gives it back, however it died.

    Args:
        lock: the file to lock; FOLDER.lock beside the folder if left out.

    Raises:
        CsraError: the lock's file cannot be written.
    """
    lock = lock or folder.with_name(f"{folder.name}.lock")
    held = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir():
            _acquire(held, lock)
    except OSError as error:
        raise CsraError(
            f"{folder} cannot be made ({error.strerror}); name a folder that you may write, "
            "or set CSRA_LAB_CACHE to one."
        ) from error
    try:
        yield held.is_locked and not folder.is_dir()
    finally:
        if held.is_locked:
            with suppress(OSError):  # Windows keeps a file that is open
                lock.unlink()  # before others can lock it: who waits sees that it is gone, and takes a new one
            held.release()


def _acquire(held: FileLock, path: Path) -> None:
    try:
        held.acquire(blocking=False)
    except Timeout:
        print(f"waiting for another process that holds {path}", file=sys.stderr, flush=True)
        held.acquire()
