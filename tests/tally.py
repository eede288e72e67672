"""Counts of what the suite tried, told at its end, also where several processes share the tests."""

from collections import Counter

import pytest

TALLY = pytest.StashKey[Counter]()  # (section, kind, outcome) -> how often


def write_sections(reporter, counts: Counter) -> None:
    """Write a table for each section: a line a kind, and their sum."""
    for section in sorted({section for section, _, _ in counts}):
        table: dict[str, Counter] = {}
        for (where, kind, outcome), count in sorted(counts.items()):
            if where == section:
                table.setdefault(kind, Counter())[outcome] += count
        table["together"] = sum(table.values(), Counter())
        reporter.section(section)
        for kind, outcomes in table.items():
            reporter.write_line(f"{kind:46} " + ", ".join(f"{n:5} {name}" for name, n in sorted(outcomes.items())))
