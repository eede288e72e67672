"""Sentences that a reader should see although the work goes on: a warning in Python, a line in a terminal."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class CsraWarning(UserWarning):
    """What was read is usable, and something about it may surprise: one sentence, with what to do."""


def warn(sentence: str) -> None:
    """Give a sentence to the reader and go on."""
    warnings.warn(sentence, CsraWarning, stacklevel=3)


@contextmanager
def notices_as_lines() -> Iterator[None]:
    """While the block runs, each `CsraWarning` is one line on standard error, and the same one is said once."""
    said: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", CsraWarning)
        others = warnings.showwarning

        def show(message, category, *where, **options):
            if not issubclass(category, CsraWarning):
                others(message, category, *where, **options)
            elif str(message) not in said:
                said.add(str(message))
                print(f"csra-lab: note: {message}", file=sys.stderr, flush=True)

        warnings.showwarning = show
        yield
