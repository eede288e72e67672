"""Data sets that are drawn on this machine: made once, whole or not at all, in a cache folder."""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from csra_lab.atomic import clear_leftovers, written_whole
from csra_lab.errors import LabError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def cache_folder() -> Path:
    """Where drawn data sets are kept: `CSRA_LAB_CACHE`, else `XDG_CACHE_HOME` or `~/.cache`, then `csra-lab`."""
    named = os.environ.get("CSRA_LAB_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csra-lab"


def prepared(name: str, build: Callable[[Path], None], *, root: Path | None = None) -> Path:
    """The folder `name` below the cache (or `root`), made by `build` if it is not there yet.

    `build` is given a folder to fill, which gets its final name only when it is whole; a kill leaves nothing half-made.
    Where two processes want the same set, one draws and the other waits.

    Args:
        name: with its version, as "emoji-voc-1-224px"; another version is another folder.
        build: fills the folder it is given.
    """
    folder = (root or cache_folder()) / name
    with only_one(folder) as mine:
        if mine:
            clear_leftovers(folder)
            with written_whole(folder) as fresh:
                fresh.mkdir()
                build(fresh)
    return folder


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
        raise LabError(
            f"{folder} cannot be made ({error.strerror}); name a folder that you may write, "
            "or set CSRA_LAB_CACHE to one."
        ) from None
    try:
        yield file is not None and not folder.is_dir()
    finally:
        if file is not None:
            lock.unlink(missing_ok=True)  # before others can lock it; see _locked
            file.close()


def in_parallel(
    work: Callable[[int], object], count: int, *, label: str, workers: int | None = None, progress: bool = True
) -> Iterable[object]:
    """`[work(0), ..., work(count - 1)]` in order, a process for each core, with a progress bar in a terminal.

    `work` must be a function of a module (or a partial of one), and must not depend on how the numbers are shared out.
    """
    workers = workers or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bar = partial(tqdm, total=count, unit="img", desc=label, disable=None if progress else True)
    if workers == 1:
        return list(bar(map(work, range(count))))
    # spawn: a forked child of a process that has used torch's threads can hang
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            return list(bar(pool.map(work, range(count), chunksize=max(1, count // (workers * 20)))))
        except BrokenProcessPool:
            raise LabError(
                f"a process that worked on {label} was ended, perhaps for lack of memory; give the same command again."
            ) from None


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


def _end_with_parent() -> None:
    """Let this process end when the one that started it is gone, even by a kill."""

    def watch():
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
