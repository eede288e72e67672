"""Plans end to end on a toy set: rows, verdicts, records that can be checked; and plan files that are wrong."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from csra_lab.cli import main
from csra_lab.datasets import Box, MultiLabelDataset
from csra_lab.errors import ConfigError, CsraError
from csra_lab.metrics import multilabel_metrics
from csra_lab.residual_attention import residual_max
from csra_lab.significance import compare
from csra_lab.study import experiments, plans
from csra_lab.study.experiments import check_record, read_scores, run_plans
from csra_lab.study.plans import PLANS, SOURCES, Entry, Plan, Source, get_plan
from csra_lab.training.feature_cache import FeatureMaps
from tests import toy

TOY = Source("voc2012", classes=toy.CLASSES, backbone="test_efficientnet", image_size=64)
BASE = {"epochs": 2, "batch_size": 8, "weights": "none"}
LINES = Plan(
    "lines",
    "do four lines help?",
    ("toy",),
    (
        Entry("average", {"head": "average"}, four_lines=(0.5, 1.0), keep=True, keep_lines=(0.5,)),
        Entry("CSRA", {"num_heads": 2, "temperatures": (1.0, math.inf)}, against="average", keep=True),
    ),
    seeds=2,
    base=BASE,
)
CHOICE = Plan(
    "choice",
    "which rate?",
    ("toy",),
    (
        Entry("average, 0.01", {"head": "average", "head_lr": 0.01}),
        Entry("average, 1e30", {"head": "average", "head_lr": 1e30, "optimizer": "sgd"}),
        Entry("CSRA, 0.01", {"head_lr": 0.01}, against="average"),
        Entry("CSRA, 0.03", {"head_lr": 0.03}, against="average"),
    ),
    seeds=2,
    base={**BASE, "validation_fraction": 0.3},
    choose={"average, 0.01": "average", "average, 1e30": "average", "CSRA, 0.01": "CSRA", "CSRA, 0.03": "CSRA"},
)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Both plans carried out on the toy set."""
    folder = tmp_path_factory.mktemp("experiments")
    devkit = toy.write_devkit(folder, trainval=40, test=30)
    patch = pytest.MonkeyPatch()
    patch.setitem(SOURCES, "toy", TOY)
    patch.setattr(experiments, "best_weights", lambda name: "none")
    torch.manual_seed(0)
    said = []
    options = {"data": devkit, "cache": folder / "cache", "log": said.append, "progress": False}
    folders = run_plans([LINES, CHOICE], out=folder / "out", **options)
    patch.undo()
    assert folders == [folder / "out" / "lines" / "toy", folder / "out" / "choice" / "toy"]
    return folders, said


def test_a_record_of_another_plan_or_a_folder_of_other_files_is_never_replaced(records, tmp_path):
    folder = records[0][0]
    check_record(folder, LINES)
    check_record(tmp_path / "none", LINES)
    with pytest.raises(ConfigError, match="the record of another plan of this name"):
        check_record(folder, dataclasses.replace(LINES, seeds=LINES.seeds + 1))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something that is no record of a plan"):
        check_record(tmp_path, LINES)


def test_every_metric_comes_from_the_recorded_scores(records):
    folder = records[0][0]
    scores, truth = read_scores(folder)
    assert set(scores) == {(label, "test") for label in ("average", "CSRA", "four lines, lam = 0.5")}
    assert len(truth["ids", "test"]) == 30
    results = pd.read_csv(folder / "results.csv")
    assert len(results) == 4 * 2
    for line in results[results.label.isin([label for label, _ in scores])].itertuples():
        metrics = multilabel_metrics(scores[line.label, "test"][line.seed], truth["targets", "test"])
        for name in experiments.METRICS:
            assert getattr(metrics, name) == pytest.approx(getattr(line, name), abs=1e-6)


def test_every_verdict_comes_from_the_recorded_scores(records):
    folder = records[0][0]
    scores, truth = read_scores(folder)
    comparisons = pd.read_csv(folder / "comparisons.csv")
    assert comparisons.label.tolist() == ["four lines, lam = 0.5", "four lines, lam = 1", "CSRA"]
    for line in comparisons[comparisons.label != "four lines, lam = 1"].itertuples():
        a, b = (scores[label, "test"] for label in (line.against, line.label))
        again = compare(a, b, truth["targets", "test"], comparisons=3)
        assert again.difference == pytest.approx(line.difference, abs=1e-6)
        assert (again.lower, again.upper) == pytest.approx((line.lower, line.upper), abs=1e-6)
        assert again.verdict(line.label, line.against) == line.verdict


def test_four_lines_need_no_training(records, monkeypatch, tmp_path):
    scores, _ = read_scores(records[0][0])
    plain = torch.logit(torch.from_numpy(scores["average", "test"].astype(np.float64)))
    lines = torch.logit(torch.from_numpy(scores["four lines, lam = 0.5", "test"].astype(np.float64)))
    assert (lines - 1.5 * plain > -0.05).all()  # the maximum is no less than the mean; fp16 rounds
    assert residual_max(torch.tensor([[[1.0, 3.0]]]), 0.5).item() == 2 + 1.5


def test_the_best_setting_is_chosen_on_held_out_pictures(records):
    folder = records[0][1]
    results = pd.read_csv(folder / "results.csv")
    broken = results[results.label == "average, 1e30"]
    assert broken.diverged.notna().all()
    assert broken.mAP.isna().all()
    comparisons = pd.read_csv(folder / "comparisons.csv")
    assert len(comparisons) == 1
    validation = results[results.label.isin(["CSRA, 0.01", "CSRA, 0.03"])].groupby("label").validation_mAP.mean()
    best = validation.idxmax().removeprefix("CSRA, ")
    assert comparisons.label[0] == f"CSRA (best: {best})"
    assert comparisons.against[0] == "average (best: 0.01)"
    assert "diverged with seeds [0, 1]" in records[1][1]


def test_a_record_says_all_that_its_numbers_depend_on(records):
    run = json.loads((records[0][0] / "run.json").read_text())
    assert run["plan"]["entries"][1]["changes"]["temperatures"] == [1.0, "inf"]
    assert run["recipe"]["optimisation"]["epochs"] == 2
    assert {"device", "torch", "timm"} <= set(run["environment"])
    assert run["data"]["test"]["images"] == 30
    assert len(run["data"]["test"]["fingerprint"]) == 16


@pytest.fixture
def boxed(tmp_path, monkeypatch):
    """Features of images with an object of one size for each label, in the place of the source's."""
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 3)) < 0.5).astype(np.int8)
    Image.new("RGB", (100, 100)).save(tmp_path / "image.png")
    ids = [str(i) for i in range(60)]

    def boxes(item):
        return [Box("abc"[c], 0, 0, 30, 30) for c in np.flatnonzero(targets[int(item)])]

    data = MultiLabelDataset(
        name="voc2012", split="test", classes=("a", "b", "c"), ids=ids, paths=[tmp_path / "image.png"] * 60,
        targets=targets, box_reader=boxes,
    )  # fmt: skip
    maps = FeatureMaps(torch.from_numpy(rng.random((60, 1, 8, 3, 3)).astype(np.float16)), targets)
    monkeypatch.setitem(SOURCES, "toy", TOY)
    splits = ("trainval", "test")
    monkeypatch.setattr(
        experiments, "source_features", lambda *_, **__: (dict.fromkeys(splits, data), dict.fromkeys(splits, maps))
    )
    return tmp_path


WILD = {"optimizer": "sgd", "head_lr": 1e37, "weight_decay": 1.0}


def carried_out(entries, out, **options):
    plan = Plan("wild", "?", ("toy",), entries, seeds=2, base=BASE, **options)
    return run_plans([plan], out=out, log=lambda _: None, progress=False)[0]


@pytest.mark.parametrize("others", [(), ("CSRA",)])
def test_kept_rows_that_diverge_are_not_compared_by_condition(boxed, others):
    entries = (
        Entry("average", {"head": "average"}, keep=True),
        Entry("wild", WILD, against="average", keep=True),
        *(Entry(label, against="average", keep=True) for label in others),
    )
    folder = carried_out(entries, boxed / "out", conditions=True)
    results = pd.read_csv(folder / "results.csv")
    assert set(results[results.diverged.notna()].label) == {"wild"}
    assert (folder / "conditions.csv").exists() == bool(others)  # nothing is left to compare without others
    if others:
        conditions = pd.read_csv(folder / "conditions.csv")
        assert set(conditions.label) == {"CSRA"}
        assert conditions.difference.notna().all()


def test_four_lines_on_a_head_that_diverges_are_worthless_too(boxed):
    entries = (Entry("wild", {"head": "average", **WILD}, four_lines=(0.3,)), Entry("CSRA"))
    folder = carried_out(entries, boxed / "out")
    results = pd.read_csv(folder / "results.csv").set_index("label")
    assert results.mAP.isna().groupby("label").all().to_dict() == {
        "wild": True, "four lines, lam = 0.3": True, "CSRA": False,
    }  # fmt: skip
    assert results.diverged["four lines, lam = 0.3"].tolist() == results.diverged["wild"].tolist()


def test_the_plans_that_are_recorded_are_plans_still(tmp_path):
    runs = Path(__file__).resolve().parents[2] / "data/runs"
    asked = [json.loads(path.read_text()).get("plan") for name in PLANS for path in runs.glob(f"{name}/*/run.json")]
    assert len(asked) > 20
    for plan in asked:
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        assert get_plan(str(tmp_path / "plan.json")).name == plan["name"]


def test_the_plans_that_ship_are_consistent():
    for plan in PLANS.values():
        plans._check(plan, plan.name)
        assert set(plan.sources) <= set(SOURCES)
        for source in plan.sources:
            assert len({plan.recipe(e, 0, source) for e in plan.entries}) == len(plan.entries)
        assert plan.seeds >= 5


def test_a_plan_from_a_file(tmp_path):
    entries = [{"label": "a", "changes": {"head": "average"}}, {"label": "b", "changes": {"temperatures": ["inf"]}}]
    content = {"name": "mine", "question": "?", "sources": ["photographs"], "seeds": 3, "entries": entries}
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(content))
    plan = get_plan(str(file))
    assert plan.recipe(plan.entries[1], 2, "photographs").head.temperatures == (math.inf,)
    assert dataclasses.replace(plan, seeds=1).seeds == 1


IGNORED = (
    {"subset": 50},
    {"weights": "none"},
    {"pixels": "plain"},
    {"train_split": "train"},
    {"test_split": "val"},
    {"precision": "bf16"},
    {"accumulate": 2},
    {"ema_decay": 0.9},
    {"why": "?"},
)
LINED = {"entries": [{"label": "a", "changes": {"head": "average"}, "four_lines": [0.1], "keep_lines": [0.3]}]}
KEPT_A = [{"label": "a", "keep": True}, {"label": "b", "against": "A"}]
HELD_OUT = {"base": {"validation_fraction": 0.2}, "entries": [{"label": "a"}, {"label": "b", "against": "a"}]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"entries": []}, "needs entries"),
        ({"entries": [{"label": "a"}, {"label": "a"}]}, "a label of its own"),
        ({"entries": [{"label": "a", "against": "z"}]}, "'z', which is no entry"),
        ({"entries": [{"label": "a", "four_lines": [0.1]}]}, "average-pooling head"),
        ({"entries": [{"label": "a", "changes": {"head": "wat"}}]}, "there is no head 'wat'"),
        ({"entries": [{"label": "a", "changes": {"wat": 1}}]}, "wat"),
        ({"sources": ["nowhere"]}, "nowhere"),
        ({"seeds": 0}, "seeds is how many"),
        ({"name": "../x"}, "becomes a folder"),
        ({"extra": 1}, "extra"),
        *(({"base": change}, f"'{name}' would do nothing") for change in IGNORED for name in change),
        ({"entries": [{"label": "a", "changes": {"subset": 50}}]}, "'subset' would do nothing"),
        ({"choose": {"a": "A"}}, "no held-out images for 'a'"),
        ({"choose": {"z": "A"}}, "'z', which is no entry"),
        (HELD_OUT | {"choose": {"a": "A", "b": "B"}}, "must be a method: A, B"),
        (HELD_OUT | {"choose": {"a": "A"}}, "only entries that choose names"),
        (LINED, "keep_lines of 'a' names 0.3, which keeps nothing"),
        (LINED | {"entries": [LINED["entries"][0] | {"four_lines": [0.3]}]}, "it needs keep"),
        (LINED | {"entries": [LINED["entries"][0] | {"keep": True}]}, "0.3 among the four_lines"),
        ({"conditions": True}, "no such two are kept"),
        ({"conditions": True, "entries": [{"label": "a", "keep": True}, {"label": "b", "against": "a"}]}, "set keep"),
        (HELD_OUT | {"conditions": True, "choose": {"a": "A", "b": "A"}, "entries": KEPT_A}, "set keep in both"),
    ],
)
def test_a_wrong_plan_file_is_one_sentence(tmp_path, change, says):
    content = {"name": "mine", "question": "?", "sources": ["photographs"], "entries": [{"label": "a"}]}
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(content | change))
    with pytest.raises(CsraError, match=says) as error:
        get_plan(str(file))
    assert "plan.json" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name one or more plans"),
        (["nothing"], "there is no plan 'nothing'"),
        (["poolin"], "did you mean pooling"),
        (["lam", "--sources", "moon"], "there is no source 'moon'"),
        (["lam", "--sources"], "--sources names none"),
        (["sizes", "--sources"], "--sources names none"),
        (["sizes", "lam", "--sources", "photographs-lite1-448"], "sizes runs on"),
        (["lam", "--sources", "photographs-lite1-448"], "no plan named here"),
        (["lam", "--sources", "photographs", "coco"], "no plan named here has a source coco"),
        (["lam", "--seeds", "0"], "--seeds is at least 1"),
        (["lam", "--seeds", "1", "--sources", "photographs"], "lam compares methods, which needs at least 2 seeds"),
        (["lam", "--sources", "photographs"], "Say in which folder voc2012 lies"),
    ],
)
def test_wrong_arguments_are_one_sentence(capsys, tmp_path, arguments, says):
    with pytest.raises(SystemExit) as end:
        main(["ablate", *arguments, "--out", str(tmp_path)])
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
