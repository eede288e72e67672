"""What authors of other heads print: every row has a head of the lab, a page at a fixed commit, its protocol."""

import csv
import re

import pytest

from csra_lab import recorded
from csra_lab.heads import HEADS

with open(recorded("published") / "relatives.csv", encoding="utf-8", newline="") as file:
    ROWS = list(csv.DictReader(file))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['head']}-{row['dataset']}-{row['backbone']}")
def test_a_row_says_what_was_measured_how_and_where_it_stands(row):
    assert row["head"] in HEADS
    assert re.fullmatch(r"https://github\.com/[\w./-]+/blob/[0-9a-f]{40}/[\w.]+", row["url"])
    assert row["metric"] == "mAP"
    assert 50 < float(row["value"]) < 100
    assert all(row[name] for name in ("source", "dataset", "backbone", "resolution", "pretraining", "pooling"))


def test_no_row_stands_twice():
    keys = [tuple(row[name] for name in ("head", "dataset", "backbone", "resolution")) for row in ROWS]
    assert len(keys) == len(set(keys))
