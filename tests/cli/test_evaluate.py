"""`csra-lab evaluate`: what is refused before scoring, splits without labels, and what is recorded; closed pipes."""

import json

import numpy as np
import pytest

from csra_lab import cli, create_classifier
from csra_lab.cli.train import evaluate_command
from csra_lab.datasets import VOC_CLASSES
from csra_lab.errors import ConfigError
from csra_lab.training import evaluation
from tests import toy


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A devkit whose test split has no labels, and an average-pooling model of VOC's classes."""
    root = tmp_path_factory.mktemp("evaluate")
    devkit = toy.write_devkit(root, trainval=8, test=4)
    for path in (devkit / "VOC2012" / "ImageSets" / "Main").glob("*_test.txt"):
        path.unlink()
    create_classifier("test_resnet", classes=VOC_CLASSES, image_size=64, head="average").save_pretrained(root / "model")
    return root


def run(place, split="list:trainval", **options):
    evaluate_command(place / "model", data=place / "VOCdevkit", dataset="voc2012", split=split, **options)


def test_a_split_without_labels_is_scored_for_the_server(place, tmp_path, capsys):
    run(place, "list:test", server_format=tmp_path)
    folder = tmp_path / "results" / "VOC2012" / "Main"
    assert str(folder) in capsys.readouterr().out
    rows = [line.split() for line in (folder / "comp2_cls_test_dog.txt").read_text().splitlines()]
    assert [row[0] for row in rows] == [f"test_{i:04d}" for i in range(4)]
    assert all(0 <= float(row[1]) <= 1 for row in rows)
    with pytest.raises(ConfigError, match="no labels to measure against; leave out --out"):
        run(place, "list:test", server_format=tmp_path / "other", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"top_k": 30}, "top_k must be"), ({"threshold": 1.5}, "threshold must be"), ({}, "Main exists already")],
)
def test_bad_options_are_refused_before_anything_is_scored(place, tmp_path, monkeypatch, options, message):
    def never(*_, **__):
        raise AssertionError("scored first")

    monkeypatch.setattr(evaluation, "predict_scores", never)
    (tmp_path / "results" / "VOC2012" / "Main").mkdir(parents=True)
    with pytest.raises(ConfigError, match=message):
        run(place, **options, **({} if options else {"server_format": tmp_path}))


def test_how_it_was_measured_is_recorded(place, tmp_path, capsys):
    run(place, four_lines=2.0, difficult="negative", out=tmp_path / "out", json=True)
    printed, recorded = json.loads(capsys.readouterr().out), json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (recorded["four_lines"], recorded["difficult"]) == (2.0, "negative")
    assert printed["four_lines"] == 2.0
    run(place, out=tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "metrics.json").read_text())["four_lines"] is None
    assert np.isfinite(recorded["mAP"])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["train"], 141), (["predict", "x.jpg"], 141), (["runs", "list"], 0), (["train", "--list"], 0)],
)
def test_a_closed_pipe_ends_work_as_a_failure_and_lists_as_a_success(monkeypatch, arguments, code):
    def closed(_):
        raise BrokenPipeError

    monkeypatch.setattr(cli, "load_command", lambda name: closed)
    monkeypatch.setattr(cli.sys, "stdout", cli.sys.stdout)  # put back afterwards
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == code
