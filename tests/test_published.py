"""The published numbers that ship: each with a source to open, a protocol, and a command of ours where there is one."""

import csv
import re
import shlex
from pathlib import Path

import pytest

from csra_lab.recipes import RECIPES
from csra_lab.study.plans import PLANS

FOLDER = Path(__file__).resolve().parents[1] / "data" / "published"
COLUMNS = (
    "key source url table dataset backbone head heads lam resolution pretraining schedule ap runs metric value note"
).split()
METRICS = {"mAP", "CF1", "OF1", "M parameters", "G multiply-adds"}


def rows(name):
    with open(FOLDER / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


RESULTS = rows("results.csv")


def test_columns_and_keys():
    assert list(RESULTS[0]) == COLUMNS
    keys = [row["key"] for row in RESULTS]
    assert len(keys) == len(set(keys))
    assert all(re.fullmatch(r"[\w-]+", key) for key in keys)


@pytest.mark.parametrize("row", RESULTS, ids=lambda row: row["key"])
def test_a_number_has_a_source_and_a_protocol(row):
    assert None not in row
    assert row["source"]
    assert re.fullmatch(r"https://\S+", row["url"])
    assert row["metric"] in METRICS
    for field in ("pretraining", "schedule", "ap", "runs"):
        assert row[field], f"{field}: write 'not stated' where the source does not say"
    if row["value"]:
        assert re.fullmatch(r"\d+(\.\d+)?", row["value"])  # as printed there
        assert 1 < float(row["value"]) < 100
    else:
        assert row["note"], "an entry without a number says why it is listed"
    assert row["heads"] == "" or int(row["heads"]) >= 1
    assert row["lam"] == "" or float(row["lam"]) >= 0


def test_no_source_is_the_authors_code():
    ours = [row["url"] for row in RESULTS if "Kevinz-code" in row["url"]]
    assert ours
    assert all(re.search(r"README\.md$|/issues/\d+$", url) for url in ours)


def test_the_same_source_and_run_has_one_protocol():
    same = "source url table dataset backbone head heads lam resolution".split()
    seen = {}
    for row in RESULTS:
        protocol = tuple(row[k] for k in ("pretraining", "schedule", "ap", "runs"))
        assert seen.setdefault(tuple(row[k] for k in same), protocol) == protocol


def test_commands_of_the_tables_exist():
    tables = rows("tables.csv")
    assert [row["table"] for row in tables][:1] == ["Table 1"]
    for row in tables:
        words = shlex.split(row["command"].split(",")[0])
        assert words[0] == "csra-lab"
        if words[1] == "ablate":
            assert words[2] in PLANS
            assert (FOLDER.parent / "runs" / words[2]).is_dir()


def test_the_score_that_a_recipe_quotes_is_among_them():
    quoted = {name: re.match(r"([\d.]+) mAP in the paper", recipe.expected) for name, recipe in RECIPES.items()}
    values = {(row["backbone"], row["dataset"]): row["value"] for row in RESULTS if row["key"].startswith("authors-")}
    said = {name: match[1] for name, match in quoted.items() if match}
    assert said == {"resnet101-csra_voc07-448px": values["ResNet-101", "VOC2007"]}
