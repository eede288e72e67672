"""README.md says what is true: its commands exist, its pictures are there and small, its claim is in the records."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from csra_lab.cli import HELP
from csra_lab.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PICTURES = re.findall(r'(?:src|srcset)="([^"]+)"', README)


def test_its_commands_exist():
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M)) <= targets
    assert set(re.findall(r"(?:^|`)csra-lab ([a-z-]+)", README, re.M)) <= set(re.findall(r"^  ([a-z-]+)", HELP, re.M))
    assert set(re.findall(r"csra-lab train ([a-z]\S+)", README)) <= set(RECIPES)


def test_its_pictures_are_small_and_there_for_light_and_dark():
    themed = [f"pictures/{name}-{theme}.svg" for name in ("gains", "idea") for theme in ("dark", "light")]
    assert sorted(PICTURES) == ["pictures/explorer.webp", *themed]
    for name in PICTURES:
        assert (ROOT / name).stat().st_size < 100_000
    assert README.count("alt=") == README.count("<img ") == 3


def test_its_picture_of_the_idea_says_what_its_alternative_text_says():
    (ranks,) = re.findall(r"of the cat climbs from (rank \d+ to rank \d+)", README)
    for theme in ("light", "dark"):
        assert f"Egyptian cat goes from {ranks}" in (ROOT / f"pictures/idea-{theme}.svg").read_text("utf-8")


@pytest.mark.parametrize("source", ["photographs", "emoji", "paperdoll"])
def test_it_claims_what_the_records_say(source):
    recorded = pd.read_csv(ROOT / f"data/runs/four-lines/{source}/comparisons.csv")
    (trained,) = recorded[(recorded.split == "test") & (recorded.label == "CSRA")].itertuples()
    assert trained.lower > 0
    assert trained.seeds_a == trained.seeds_b == 5


@pytest.mark.parametrize("source", ["photographs", "coco", "emoji", "paperdoll"])
def test_what_speaks_against_it_is_what_the_records_say(source):
    claims = pd.read_csv(ROOT / "data/runs/own-best" / source / "claims.csv").set_index(["mean_over", "name"])
    gain, weighted = (claims.loc[(mean, "CSRA - average pooling")] for mean in ("classes", "positives"))
    low, high = (f"{100 * value:.1f}".replace("-", "−") for value in (gain.lower, gain.upper))
    assert (gain.lower > 0) == (source in {"emoji", "paperdoll"})
    assert re.search(rf"{100 * gain.difference:.1f} [^.]*\({low} to {high}\)", " ".join(README.split()))
    if source == "photographs":
        assert f"weighted by the number of positives it is {100 * weighted.difference:.1f}" in " ".join(README.split())
    if source == "coco":
        lower, upper = 100 * weighted.lower, 100 * weighted.upper
        text = f"on COCO that way it is {100 * weighted.difference:.1f} ({lower:.1f} to {upper:.1f})"
        assert text in " ".join(README.split())


def test_five_folds_are_what_the_record_says():
    claims = pd.read_csv(ROOT / "data/runs/five-folds/claims.csv").set_index(["mean_over", "name"])
    over = {mean: claims.loc[(mean, "CSRA - average pooling")] for mean in ("classes", "positives")}
    values = [f"{100 * v:.1f}".replace("-", "−") for r in over.values() for v in (r.difference, r.lower, r.upper)]
    text = "{} over classes ({} to {}) and {} weighted by positives ({} to {})".format(*values)
    assert text in " ".join(README.split())


def test_its_picture_of_the_gains_shows_what_its_alternative_text_says():
    shown = {}
    for source in ("photographs", "emoji", "paperdoll"):
        recorded = pd.read_csv(ROOT / f"data/runs/four-lines/{source}/comparisons.csv")
        for row in recorded[recorded.split == "test"].itertuples():
            if row.label == "CSRA" or row.label in {f"four lines, lam = {lam}" for lam in (0.05, 0.1, 0.2, 0.3)}:
                shown[source, row.label] = row
    assert [key for key, row in shown.items() if row.lower <= 0] == [("paperdoll", "four lines, lam = 0.3")]
    least, most, trained_least, trained_most = re.search(
        r"four lines gain ([\d.]+) to ([\d.]+) points, CSRA ([\d.]+) to ([\d.]+), each most on EmojiVOC", README
    ).groups()
    trained = {key: row.difference for key, row in shown.items() if key[1] == "CSRA"}
    four = {key: row.difference for key, row in shown.items() if key[1] != "CSRA"}
    assert len(four) == 12
    assert len(trained) == 3
    for gains, low, high in ((four, least, most), (trained, trained_least, trained_most)):
        assert (f"{100 * min(gains.values()):.1f}", f"{100 * max(gains.values()):.1f}") == (low, high)
        assert max(gains, key=gains.get)[0] == "emoji"


def results(name):
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text("utf-8"))["rows"]


def test_its_table_of_speeds_is_the_recorded_one():
    head = [r for r in results("head") if r["H"] == 8]
    training = [r for r in results("training_step") if r.get("photographs") == "kept"]  # what the loop does by itself
    expected = [
        [r["both_ratio"] for r in head if r["C"] in (14, 20) and r["layout"] == "contiguous"],
        [r["both_ratio"] for r in head if r["C"] in (14, 20) and r["layout"] == "channels_last"],
        [r["both_ratio"] for r in head if r["C"] == 80],
        [r["ratio"] for r in training if r["our_precision"] == "fp32"],
        [r["ratio"] for r in training if r["our_precision"] == "bf16"],
        [r["times_ours"] for r in results("metrics") if r.get("by") == "scikit-learn"],
        [r["ratio"] for r in results("heads_together") if r["heads"] == 100],
        [r["ratio"] for r in results("data") if r["what"] == "labels"],
    ]
    shown = re.findall(r"\| ([\d.]+)(?: to ([\d.]+))? \|$", README, re.M)
    assert shown == [(f"{min(e):.1f}", f"{max(e):.1f}" if f"{min(e):.1f}" != f"{max(e):.1f}" else "") for e in expected]
