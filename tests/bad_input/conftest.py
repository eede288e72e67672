"""Counts of what was tried, shown at the end of the run, and a look at the memory that a file makes us use."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from csra_lab.errors import CsraError
from tests.tally import TALLY

MEMORY = 200  # MB that one small file may make us use
SECONDS = 20  # of work, for one file


@dataclass(frozen=True)
class Case:
    """One input. `check` gets what was read; None means that the input must be refused."""

    name: str
    content: object
    check: object = None


@pytest.fixture(scope="session")
def tally(request):
    """`tally(kind, outcome)` counts one input that was "read" or "refused"."""

    def count(kind: str, outcome: str) -> None:
        request.config.stash[TALLY].update(("bad input: what was tried", kind, each) for each in ("tried", outcome))

    return count


def is_one_sentence(error: CsraError) -> bool:
    text = str(error)
    return "\n" not in text and text.endswith((".", "?")) and len(text) < 700 and "Traceback" not in text


@contextlib.contextmanager
def modest():
    """The block uses little memory and little time. The peak is the kernel's, so that every library's memory counts."""
    before, start = _memory("VmRSS", reset=True), time.process_time()
    yield
    grown, seconds = _memory("VmHWM") - before, time.process_time() - start
    if grown > MEMORY or seconds > SECONDS:
        raise RuntimeError(f"this took {grown:.0f} MB and {seconds:.0f} s")


def _memory(field: str, *, reset: bool = False) -> float:
    """A field of Linux's account of this process in MB; 0 elsewhere."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


@pytest.fixture
def each(tally, tmp_path):
    """`each(kind, cases, read)`: every case is read rightly or refused in one sentence; all failures are told together.

    `read(folder, case)` puts the case into a folder of its own and reads it.
    """

    def run(kind: str, cases, read) -> None:
        failures = []
        for number, case in enumerate(cases):
            folder = tmp_path / f"{number:03d}"
            folder.mkdir()
            try:
                with modest():
                    try:
                        found = read(folder, case)
                    except CsraError as error:
                        tally(kind, "refused")
                        if not is_one_sentence(error):
                            failures.append(f"{case.name}: this is not one sentence: {error}")
                        elif case.check is not None:
                            failures.append(f"{case.name}: should have been read, and was refused: {error}")
                        continue
                tally(kind, "read")
                if case.check is None:
                    failures.append(f"{case.name}: should have been refused, and was read as {repr(found)[:80]}")
                elif not case.check(found):
                    failures.append(f"{case.name}: read wrongly, as {repr(found)[:80]}")
            except Exception as error:
                failures.append(f"{case.name}: {type(error).__name__}: {str(error)[:200]}")
        if failures:
            pytest.fail(f"{len(failures)} of {number + 1}:\n" + "\n".join(failures), pytrace=False)

    return run
