"""Data sets that are drawn on this machine: made once, whole or not at all, in a cache folder."""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

from csra_lab._io.atomic_write import atomic_write, clear_leftovers
from csra_lab._io.cache import cache_folder, only_one
from csra_lab._io.progress import watched
from csra_lab.errors import CsraError

Result = TypeVar("Result")


def prepared(name: str, build: Callable[[Path], None], *, root: Path | None = None) -> Path:
    """The folder `name` below the cache (or `root`), made by `build` if it is not there yet.

    `build` is given a folder to fill, which gets its final name only when it is whole; a kill leaves nothing half-made.
    Where two processes want the same set, one draws and the other waits.

    Args:
        name: with its version, as "emoji-voc-1-224px"; another version is another folder.
        build: fills the folder it is given.
    """
    folder = (root or cache_folder()) / name
    with only_one(folder) as first:
        if first:
            clear_leftovers(folder)
            with atomic_write(folder) as fresh:
                fresh.mkdir()
                build(fresh)
    return folder


def in_parallel(
    work: Callable[[int], Result], count: int, *, label: str, workers: int | None = None, progress: bool = True
) -> Iterable[Result]:
    """`[work(0), ..., work(count - 1)]` in order, a process for each core, with a progress bar in a terminal.

    `work` must be a function of a module (or a partial of one), and must not depend on how the numbers are shared out.
    """
    workers = workers or _cores()
    bar = partial(watched, total=count, desc=label, shown=progress, leave=True)
    if workers == 1:
        return list(bar(map(work, range(count))))
    # spawn: a forked child of a process that has used torch's threads can hang
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            with _script_hidden():
                results = pool.map(work, range(count), chunksize=max(1, count // (workers * 20)))
            return list(bar(results))
        except BrokenProcessPool as error:
            raise CsraError(
                f"a process that worked on {label} was ended, perhaps for lack of memory; give the same command again."
            ) from error


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Start processes that do not run the script which started this one.

    A spawned process imports that script first. A script without `if __name__ == "__main__":` would there ask for the
    same data set again, and wait for the lock that its own parent holds. `work` is a function of a module, so the
    script is not needed.
    """
    main = sys.modules["__main__"]
    hidden: dict[str, Any] = {name: vars(main).pop(name) for name in ("__file__", "__spec__") if name in vars(main)}
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(hidden)


def _end_with_parent() -> None:
    """Let this process end when the one that started it is gone, even by a kill."""

    parent = parent_process()
    if parent is None:
        return

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
