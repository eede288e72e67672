"""Data sets that are drawn on this machine: made once, whole or not at all, in a cache folder."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from csra_lab.atomic import written_whole
from csra_lab.errors import LabError


def cache_folder() -> Path:
    """Where drawn data sets are kept: `CSRA_LAB_CACHE`, else `XDG_CACHE_HOME` or `~/.cache`, then `csra-lab`."""
    named = os.environ.get("CSRA_LAB_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csra-lab"


def prepared(name: str, build: Callable[[Path], None], *, root: Path | None = None, patience: float = 600) -> Path:
    """The folder `name` below the cache (or `root`), made by `build` if it is not there yet.

    `build` is given a folder to fill, which gets its final name only when it is whole; a kill leaves nothing half-made.
    Where two processes want the same set, one draws and the other waits.

    Args:
        name: with its version, as "emoji-voc-1-224px"; another version is another folder.
        build: fills the folder it is given.
        patience: seconds to wait for another process before drawing ourselves.
    """
    folder = (root or cache_folder()) / name
    with only_one(folder, patience=patience) as mine:
        if mine:
            with written_whole(folder) as fresh:
                fresh.mkdir()
                build(fresh)
    return folder


@contextmanager
def only_one(folder: Path, *, patience: float = 86_400) -> Iterator[bool]:
    """Let one process at a time make `folder`: true for the one that is to make it, false where it is there by now.

    Args:
        patience: seconds to wait for another process before making it ourselves.
    """
    lock = folder.with_name(f"{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        mine = not folder.is_dir() and _take(lock, patience, done=folder.is_dir)
    except OSError as error:
        raise LabError(
            f"{folder} cannot be made ({error.strerror}); set CSRA_LAB_CACHE to a folder that you may write."
        ) from None
    try:
        yield mine
    finally:
        if mine:
            lock.unlink(missing_ok=True)


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
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(bar(pool.map(work, range(count), chunksize=max(1, count // (workers * 20)))))


def _take(lock: Path, patience: float, done: Callable[[], bool]) -> bool:
    """Take the lock file (a dead owner's too); False if another process did the work while we waited."""
    start = time.monotonic()
    while True:
        if done():
            return False
        with suppress(FileExistsError):
            with open(lock, "x") as file:
                file.write(str(os.getpid()))
            return True
        with suppress(FileNotFoundError, ValueError):
            owner = int(lock.read_text() or "0")
            if not _alive(owner) or time.monotonic() - start > patience:
                lock.unlink(missing_ok=True)
                continue
        time.sleep(0.2)


def _alive(process: int) -> bool:
    if process <= 0:
        return True  # the owner has made the file and not yet written its number
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
