"""Faults that are counted, and processes that are killed at chosen moments."""

import itertools
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.work import run_until
from tests.tally import TALLY


@pytest.fixture(scope="session")
def inject(request):
    """`inject(kind)` counts one fault."""

    def count(kind: str, number: int = 1) -> None:
        request.config.stash[TALLY]["faults: what was injected", kind, "injected"] += number

    return count


@pytest.fixture(scope="session")
def start():
    """`start(work, *arguments, die_at=n)` starts a process that has torch and the lab loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.work"])

    def run(work, *arguments, die_at: int | None = None, count_to: Path | None = None):
        process = context.Process(target=run_until, args=(work, arguments, die_at, count_to))
        process.start()
        return process

    return run


@pytest.fixture
def end():
    """`end(process)` waits, and gives the exit code."""

    def wait(process, seconds: float = 300) -> int:
        process.join(seconds)
        assert process.exitcode is not None, "the process does not end"
        return process.exitcode

    return wait


def moments(steps: int, count: int, seed: int) -> list[int]:
    """`count` different steps to die at, from the whole run: one drawn from each of its equal parts."""
    rng = random.Random(seed)
    edges = [1 + steps * k // count for k in range(count + 1)]
    return [rng.randrange(low, max(high, low + 1)) for low, high in itertools.pairwise(edges)]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and its bytes; names that start with a dot too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def kill_after(process, seconds: float) -> bool:
    """Kill a process after a while; false where it had ended by itself."""
    deadline = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    alive = process.is_alive()
    if alive:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return alive
