"""The heads that come with the lab: small, as their cards say, and the very ones that were recorded."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as pictures

from csra_lab import MultiLabelClassifier, load_dataset
from csra_lab.cli import main
from csra_lab.cli.models import MODELS
from csra_lab.metrics import multilabel_metrics
from csra_lab.study.experiments import read_scores
from csra_lab.synthetic.paperdoll_wider import prepare_paperdoll_wider
from csra_lab.training.evaluation import predict_image

RUNS = Path(__file__).resolve().parents[1] / "data" / "runs" / "four-lines"
NAMES = ("photographs", "paperdoll")


@pytest.fixture(scope="module")
def cat(tmp_path_factory):
    path = tmp_path_factory.mktemp("photographs") / "chelsea.jpg"
    Image.fromarray(pictures.chelsea()).save(path)
    return path


def test_the_folder_holds_what_is_tested_here():
    assert {path.name for path in MODELS.iterdir()} == set(NAMES)


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
    assert re.fullmatch(r".*chelsea\.jpg: cat [01]\.\d\d\n", capsys.readouterr().out)
    main(["predict", "photographs", str(cat), "--json"])
    (result,) = json.loads(capsys.readouterr().out)
    assert result["labels"][0]["class"] == "cat"


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
