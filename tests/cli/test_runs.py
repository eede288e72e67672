"""`csra-lab runs`: what two small runs gave, beside each other and as a page; and each model's card."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest

from csra_lab.cli import main
from csra_lab.cli.runs import interval, worst
from csra_lab.metrics import average_precision, multilabel_metrics
from csra_lab.significance import bootstrap_mAP
from csra_lab.training.model_card import model_card
from csra_lab.training.run_folder import Scored, from_logits, read_evaluation, read_recipe
from tests import toy

SMALL = [
    "--backbone", "test_efficientnet", "--weights", "none", "--image-size", "64", "--classes", *toy.CLASSES,
    "--epochs", "2", "--batch-size", "8", "--validation-fraction", "0.25", "--quiet",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    devkit = toy.write_devkit(root)
    for name, more in (("a", []), ("b", ["--seed", "1"])):
        main(["train", "voc2012-lite0-avg", "--data", str(devkit), "--out", str(root / "runs" / name), *SMALL, *more])
    return root


def output(capsys, *arguments) -> str:
    capsys.readouterr()
    main(["runs", *map(str, arguments)])
    return capsys.readouterr().out


def test_the_list_holds_every_run_with_its_scores(place, capsys):
    rows = {row["run"]: row for row in json.loads(output(capsys, "list", place / "runs", "--json"))}
    assert set(rows) == {"a", "b"}
    stored = json.loads((place / "runs/a/metrics.json").read_text())["mAP"]
    assert rows["a"]["test"] == pytest.approx(100 * stored)
    assert (rows["a"]["epochs"], rows["a"]["state"], rows["a"]["head"]) == ("2/2", "finished", "average")
    assert "finished" in output(capsys, "list", place / "runs")


def test_two_runs_are_compared_by_what_differs_and_with_an_interval(place, capsys):
    found = json.loads(output(capsys, "compare", place / "runs/a", place / "runs/b", "--json"))
    assert found["recipes"] == {"seed": {"a": 0, "b": 1}}
    a, b = (read_evaluation(place / "runs" / name) for name in "ab")
    expected = [100 * np.nanmean(average_precision(each.scores, each.targets)) for each in (a, b)]
    assert found["difference"]["difference"] == pytest.approx(expected[1] - expected[0])
    assert found["difference"]["lower"] <= found["difference"]["upper"]
    assert set(found["AP"]) == set(toy.CLASSES)
    assert "Other seeds" in output(capsys, "compare", place / "runs/a", place / "runs/b")


def test_scores_are_compared_as_they_were_measured(place, capsys, tmp_path):
    expected = {}
    for name in "ab":
        out = shutil.copytree(place / "runs" / name, tmp_path / name)
        stored = dict(np.load(out / "scores.npz"))
        stored["targets"][[0, 2, 3], 0] = -1
        np.savez(out / "scores.npz", **stored)
        about = json.loads((out / "metrics.json").read_text())
        (out / "metrics.json").write_text(json.dumps({**about, "difficult": "negative", "ap": "voc11"}))
        APs = average_precision(from_logits(stored["logits"]), np.maximum(stored["targets"], 0))
        expected[name] = 100 * np.nanmean(APs)
    found = json.loads(output(capsys, "compare", tmp_path / "a", tmp_path / "b", "--json"))["difference"]
    assert {name: found[name] for name in "ab"} == pytest.approx(expected)
    main(["runs", "compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert "not by voc11" in capsys.readouterr().err
    (tmp_path / "b/metrics.json").write_text((place / "runs/b/metrics.json").read_text())  # left out there
    with pytest.raises(SystemExit):
        main(["runs", "compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert "unknown ones" in capsys.readouterr().err


def test_the_interval_does_not_depend_on_the_order_of_the_images(place):
    a, b = (read_evaluation(place / "runs" / name) for name in "ab")
    order = np.random.default_rng(0).permutation(len(b.ids))
    turned = dataclasses.replace(
        b, scores=b.scores[order], targets=b.targets[order], ids=tuple(np.array(b.ids)[order].tolist())
    )
    assert interval(a, turned) == interval(a, b)
    assert interval(a, a)["lower"] == interval(a, a)["upper"] == 0


def test_whole_photographs_are_drawn_where_persons_share_them():
    rng = np.random.default_rng(0)
    photographs = np.repeat(np.arange(30), 8)
    targets = (rng.random((30, 4)) < 0.4)[photographs].astype(np.int8)
    a, b = (from_logits(targets + rng.normal(size=(30, 4))[photographs]) for _ in range(2))
    ids = tuple(f"{photo}#{i}" for i, photo in enumerate(photographs))
    found = interval(*(Scored(scores, targets, ids, tuple("abcd")) for scores in (a, b)))
    drawn = 100 * bootstrap_mAP(np.stack([a, b]), targets, groups=photographs.astype(str))
    half = 2.0452 * (drawn[1] - drawn[0]).std(ddof=1) * np.sqrt(30 / 29)  # t(29), of 30 photographs
    ends = found["difference"] - half, found["difference"] + half
    assert (found["lower"], found["upper"]) == pytest.approx(ends, abs=1e-3)
    keys = tuple(f"{photo}.jpg" for photo in photographs)
    turned = Scored(b[::-1], targets[::-1], ids[::-1], tuple("abcd"), keys[::-1])  # one file names them, another order
    assert interval(Scored(a, targets, ids, tuple("abcd"), keys), turned) == interval(
        Scored(a, targets, ids, tuple("abcd"), keys), Scored(b, targets, ids, tuple("abcd"), keys)
    )


def test_a_run_that_lost_its_state_is_under_way(place, capsys, tmp_path):
    run = shutil.copytree(place / "runs/a", tmp_path / "a")
    lines = (run / "history.csv").read_text().splitlines(keepends=True)
    (run / "history.csv").write_text("".join(lines[:2]))
    (row,) = json.loads(output(capsys, "list", tmp_path, "--json"))
    assert (row["epochs"], row["state"]) == ("1/2", "under way")


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"mAP": null}'])
def test_a_run_with_damaged_metrics_is_listed_as_unreadable(place, capsys, tmp_path, content):
    run = shutil.copytree(place / "runs/a", tmp_path / "a")
    whole = json.loads(output(capsys, "list", tmp_path, "--json"))[0]
    (run / "metrics.json").write_text(content)
    (row,) = json.loads(output(capsys, "list", tmp_path, "--json"))
    assert list(row) == list(whole)
    assert row["state"].startswith("unreadable: ")
    assert "metrics.json is damaged" in row["state"]


def test_runs_of_other_images_are_not_compared(place, capsys, tmp_path):
    other = shutil.copytree(place / "runs/a", tmp_path / "other")
    stored = dict(np.load(other / "scores.npz"))
    stored["ids"][0] = "elsewhere"
    np.savez(other / "scores.npz", **stored)
    with pytest.raises(SystemExit) as exit_:
        main(["runs", "compare", str(place / "runs/a"), str(other)])
    assert exit_.value.code == 2
    assert "different test images" in capsys.readouterr().err


def test_the_report_shows_curves_classes_and_misses(place, tmp_path, capsys):
    given = ["--data", place / "VOCdevkit", "--against", place / "runs/b", "--out", tmp_path / "a.html"]
    output(capsys, "report", place / "runs/a", *given)
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page.count("<polyline") == 2
    assert all(name in page for name in toy.CLASSES)
    scored = read_evaluation(place / "runs/a")
    assert page.count("data:image/jpeg") == len(list(worst(scored, 0))) + len(list(worst(scored, 1)))
    assert "Against b" in page


def test_runs_of_one_name_are_told_apart(place, tmp_path, capsys, monkeypatch):
    twin = shutil.copytree(place / "runs/a", tmp_path / "a")
    output(capsys, "report", place / "runs/a", "--against", twin, "--out", tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert f"({twin})" in page
    assert f"({place / 'runs/a'})" in page
    monkeypatch.chdir(twin)
    output(capsys, "report", ".", "--out", tmp_path / "b.html")
    assert ": a</title>" in (tmp_path / "b.html").read_text(encoding="utf-8")


def test_a_page_never_takes_the_place_of_a_photograph(place, tmp_path, capsys):
    photograph = tmp_path / "cat.jpg"
    photograph.write_bytes(b"all there is")
    with pytest.raises(SystemExit) as exit_:
        main(["runs", "report", str(place / "runs/a"), "--out", str(photograph)])
    assert exit_.value.code == 2
    assert "write over" in capsys.readouterr().err
    assert photograph.read_bytes() == b"all there is"


def test_the_worst_misses_are_the_surest_wrong_ones():
    scores = np.array([[0.9, 0.2], [0.6, 0.99], [0.1, 0.7]])
    targets = np.array([[0, 1], [1, 0], [1, -1]])
    scored = Scored(scores, targets, ("x", "y", "z"), ("a", "b"))
    assert list(worst(scored, 0)) == [(1, 1), (0, 0)]
    assert list(worst(scored, 1)) == [(2, 0), (0, 1)]


def test_what_is_no_run_is_said(tmp_path, capsys):
    for arguments in (["list", tmp_path / "no"], ["compare", tmp_path, tmp_path], ["report", tmp_path], ["lst"]):
        with pytest.raises(SystemExit) as exit_:
            main(["runs", *map(str, arguments)])
        assert exit_.value.code == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_card_of_a_trained_model_says_data_recipe_scores_and_licence(place):
    card = (place / "runs/a/model/README.md").read_text(encoding="utf-8")
    value = 100 * json.loads((place / "runs/a/metrics.json").read_text())["mAP"]
    assert f"| {value:.2f} |" in card
    for words in ("voc2012 trainval: 24 items", "25 % of them chose", "2 epochs of", "seed 0", "random numbers"):
        assert words in card
    assert "More Information Needed" not in card


def test_the_card_counts_a_sample_and_says_where_nothing_could_be_found(place, tmp_path):
    recipe = read_recipe(place / "runs/a")
    data = toy.load(toy.write_devkit(tmp_path), "trainval")
    metrics = multilabel_metrics(np.random.default_rng(0).random(data.targets.shape), data.targets)
    without = dataclasses.replace(metrics, per_class_AP=[math.nan, *metrics.per_class_AP[1:]])
    card = model_card(recipe.replace(subset=8), data, data, without)
    assert f"Trained on a sample of 8 images of voc2012 trainval, which has {len(data)} items." in card
    assert f"{data.classes[0]} has no positive, " in card
    assert "nan" not in card


def test_recipes_are_listed_by_words(capsys):
    main(["train", "--list", "voc2012", "lite0"])
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) > 2
    assert all("voc2012" in line and "lite0" in line for line in lines[1:])
    with pytest.raises(SystemExit):
        main(["train", "--list", "nothing-like-this"])
    assert "nothing-like-this" in capsys.readouterr().err
