"""The heads that come with the lab: small, as their cards say, and the very ones that were recorded."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage import data as pictures

from csra_lab import MultiLabelClassifier, load_dataset
from csra_lab.cli import main
from csra_lab.cli.models import MODELS
from csra_lab.datasets.coco import COCO_CLASSES
from csra_lab.metrics import multilabel_metrics
from csra_lab.study.experiments import read_scores
from csra_lab.synthetic.paperdoll_wider import prepare_paperdoll_wider
from csra_lab.thresholds import choose_thresholds, read_thresholds
from csra_lab.training.evaluation import predict_image

RUNS = Path(__file__).resolve().parents[1] / "data" / "runs" / "four-lines"
COCO = RUNS.parent / "coco"
NAMES = ("photographs", "paperdoll")


@pytest.fixture(scope="module")
def cat(tmp_path_factory):
    path = tmp_path_factory.mktemp("photographs") / "chelsea.jpg"
    Image.fromarray(pictures.chelsea()).save(path)
    return path


def test_the_folder_holds_what_is_tested_here():
    assert {path.name for path in MODELS.iterdir()} == {*NAMES, "coco"}


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_small_and_its_card_says_what_was_recorded(name):
    assert sum(path.stat().st_size for path in (MODELS / name).iterdir()) < 200_000
    scores, truth = read_scores(RUNS / name)
    metrics = multilabel_metrics(scores["CSRA", "test"][0], truth["targets", "test"])
    card = (MODELS / name / "README.md").read_text()
    said = re.search(r"mAP ([\d.]+) %, CF1 ([\d.]+) %, OF1 ([\d.]+) %", card).groups()
    assert said == tuple(f"{100 * value:.1f}" for value in (metrics.mAP, metrics.CF1, metrics.OF1))
    if name == "photographs":
        bottle, *_, chair = metrics.per_class_AP[:4]
        assert f"average precision {100 * bottle:.0f} and {100 * chair:.0f} %" in card


def test_the_paperdoll_model_gives_the_recorded_scores(tmp_path):
    folder = prepare_paperdoll_wider(tmp_path, size="tiny", progress=False)
    people = load_dataset("paperdoll-wider", folder, "test")
    model = MultiLabelClassifier.from_pretrained(MODELS / "paperdoll")
    scores, truth = read_scores(RUNS / "paperdoll")
    ids = truth["ids", "test"].tolist()
    assert model.classes == people.classes
    for i in range(5):
        probabilities, _ = predict_image(model, people.image(i))
        recorded = scores["CSRA", "test"][0][ids.index(people.ids[i])]
        np.testing.assert_allclose(probabilities, recorded, atol=0.02)  # features were kept in half precision


def test_a_photograph_is_named_right_after_installation(cat, capsys):
    main(["predict", str(cat)])
    output = capsys.readouterr()
    assert re.search(r"chelsea\.jpg: cat [01]\.\d\d", output.out)
    assert "model coco: knows 80 classes" in output.err
    assert "and nothing else" in output.err
    main(["predict", "--model", "photographs", str(cat)])
    assert re.fullmatch(r".*chelsea\.jpg: cat [01]\.\d\d\n", capsys.readouterr().out)
    main(["predict", "photographs", str(cat), "--json"])
    (result,) = json.loads(capsys.readouterr().out)
    assert result["labels"][0]["class"] == "cat"


def test_the_coco_card_says_what_its_record_gives():
    kept, truth = read_scores(COCO)
    (scores,), (average,), targets = kept["CSRA", "val"], kept["average pooling", "val"], truth["targets", "val"]
    (held_out,), held_out_targets = kept["CSRA", "held-out"], truth["targets", "held-out"]
    with np.load(COCO / "scores.npz", allow_pickle=False) as content:
        classes = tuple(content["classes"].tolist())
    thresholds = read_thresholds(MODELS / "coco", classes)
    np.testing.assert_array_equal(thresholds, choose_thresholds(held_out, held_out_targets).round(4))
    named, true = scores >= thresholds, targets == 1
    dog = classes.index("dog")
    precision, recall = (named & true).sum() / named.sum(), (named & true).sum() / true.sum()
    card = (MODELS / "coco" / "README.md").read_text()
    for words in (
        f"mAP {100 * multilabel_metrics(scores, targets, ap='average').mAP:.1f} %",
        f"precision {100 * precision:.1f} %, recall {100 * recall:.1f} %, {named.sum(axis=1).mean():.1f} labels",
        f"a dog in {named[:, dog].sum()} images, of which {(named & true)[:, dog].sum()} have one",
        f"({true[:, dog].sum()} do)",
        f"average pooling beside it | mAP {100 * multilabel_metrics(average, targets, ap='average').mAP:.1f} %",
    ):
        assert words in card
    assert sum(path.stat().st_size for path in (MODELS / "coco").iterdir()) < 230_000


def test_the_coco_model_is_the_best_that_was_tried():
    tried, run = pd.read_csv(COCO / "tuning.csv"), json.loads((COCO / "run.json").read_text())
    best = tried[tried["head"] == "csra"].nlargest(1, "held_out_mAP").iloc[0]
    assert (best.lam, best.head_lr) == (run["lam"], run["head_lr"])
    config = json.loads((MODELS / "coco" / "config.json").read_text())
    assert config["head"]["lam"] == run["lam"]
    assert tuple(config["classes"]) == COCO_CLASSES


def test_a_folder_of_ones_own_comes_before_a_model_that_ships(cat, tmp_path, monkeypatch, capsys):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "cat.jpg").write_bytes(cat.read_bytes())
    monkeypatch.chdir(tmp_path)
    main(["predict", "photographs"])
    assert capsys.readouterr().out.startswith(str(Path("photographs") / "cat.jpg"))


def test_a_model_without_a_picture_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as end:
        main(["predict", "photographs"])
    assert end.value.code == 2
    assert "name one or more photographs" in capsys.readouterr().err


def test_a_saved_head_is_the_classifier(cat, tmp_path):
    model = MultiLabelClassifier.from_pretrained(MODELS / "photographs")
    model.save_head(tmp_path / "again")
    again = MultiLabelClassifier.from_pretrained(tmp_path / "again")
    picture = Image.open(cat)
    np.testing.assert_array_equal(predict_image(model, picture)[0], predict_image(again, picture)[0])
