"""How far a long step is: a bar in a terminal, elsewhere a line at least every half a minute."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeAlias, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

SECONDS = 30.0  # between two lines; a step that ends sooner writes none


class Lines:
    """What `tqdm` shows, as lines for a log file: how many are done, how fast, and the time left.

    Args:
        total: items of the step. initial: those done before. unit, desc: words of the line.
    """

    def __init__(self, total: int, *, desc: str, unit: str, initial: int = 0):
        self.total, self.desc, self.unit, self.n, self.initial = total, desc, unit, initial, initial
        self.start = self.last = time.monotonic()
        self.words = ""

    def update(self, count: int = 1) -> None:
        """Count items that are done; a line where the last one is long ago."""
        self.n += count
        now = time.monotonic()
        if now - self.last >= SECONDS:
            self.last = now
            rate = (self.n - self.initial) / (now - self.start)
            left = (self.total - self.n) / rate if rate else float("inf")
            speed = f"{rate:.3g} {self.unit}/s" if rate >= 1 else f"{1 / rate:.3g} s/{self.unit}" if rate else "waiting"
            print(f"{self.desc}: {self.n:,} of {self.total:,}, {speed}, {in_words(left)} left{self.words}",
                  file=sys.stderr, flush=True)  # fmt: skip

    def set_description(self, desc: str) -> None:
        """What the next lines begin with."""
        self.desc = desc

    def set_postfix(self, **values: object) -> None:
        """What the next lines end with."""
        self.words = "".join(f", {name} {value}" for name, value in values.items())

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


Bar: TypeAlias = tqdm | Lines


def progress_bar(
    total: int, *, desc: str, unit: str = "img", initial: int = 0, shown: bool = True, leave: bool = False
) -> Bar:
    """A bar in a terminal, lines where standard error is a file or a pipe, nothing where it is not `shown`."""
    if shown and not sys.stderr.isatty():
        return Lines(total, desc=desc, unit=unit, initial=initial)
    return tqdm(total=total, desc=desc, unit=unit, initial=initial, leave=leave, disable=not shown, smoothing=0.05)


def in_words(seconds: float) -> str:
    """'40 s', '12 min', '3.5 h': a time as one reads it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def watched(items: Iterable[Item], total: int, *, desc: str, shown: bool, leave: bool = False) -> Iterator[Item]:
    """The items as they come, counted by a `progress_bar`."""
    with progress_bar(total, desc=desc, shown=shown, leave=leave) as bar:
        for item in items:
            yield item
            bar.update(1)
