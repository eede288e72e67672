"""`csra-lab predict` in batches: equal to `evaluate`, streamed, as a table and as one page."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from csra_lab import create_classifier
from csra_lab.cli import main
from csra_lab.cli.predict import _Overlays
from csra_lab.datasets import MultiLabelDataset
from csra_lab.thresholds import write_thresholds
from csra_lab.training.evaluation import evaluate

CLASSES = ("a b", "ü", "c<d>")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A saved model, and a folder of nine JPEGs, some so large that they are decoded smaller."""
    root, rng = tmp_path_factory.mktemp("predict"), np.random.default_rng(0)
    torch.manual_seed(1)
    create_classifier("test_efficientnet", classes=CLASSES, image_size=64, num_heads=2).save_pretrained(root / "model")
    (root / "images").mkdir()
    for i in range(9):
        low = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        size = (900, 700) if i % 3 == 0 else (70 + i, 130 - i)
        low.resize(size, Image.Resampling.BICUBIC).save(root / "images" / f"{i} x.jpg")
    return root


def run(capsys, *arguments) -> str:
    capsys.readouterr()
    main(["predict", *map(str, arguments)])
    return capsys.readouterr().out


@pytest.mark.parametrize("batch_size", [1, 4])
def test_scores_are_those_of_evaluate_to_the_bit(place, tmp_path, capsys, batch_size):
    from csra_lab import MultiLabelClassifier

    paths = sorted((place / "images").iterdir())
    targets = np.random.default_rng(0).integers(0, 2, (9, 3))
    targets[0] = 1
    ids = [path.stem for path in paths]
    data = MultiLabelDataset(name="x", split="test", classes=CLASSES, ids=ids, paths=paths, targets=targets)
    model = MultiLabelClassifier.from_pretrained(place / "model")
    _, scores = evaluate(model, data, batch_size=batch_size)
    given = ["--batch-size", batch_size, "--csv", tmp_path / "all.csv", "--workers", 2]
    run(capsys, place / "model", place / "images", *given)
    with open(tmp_path / "all.csv", newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["image", *CLASSES]
    assert [row[0] for row in rows] == [str(path) for path in paths]
    assert [row[1:] for row in rows] == [list(map(repr, line)) for line in scores.tolist()]
    predicted = np.stack([p.probabilities for p in model.predict(paths, batch_size=batch_size)])
    np.testing.assert_array_equal(predicted, scores)


def test_json_is_one_array_whatever_can_be_read(place, tmp_path, capsys):
    broken = shutil.copytree(place / "images", tmp_path / "images")
    (broken / "3 x.jpg").write_bytes(b"no image")
    with pytest.raises(SystemExit) as exit_:
        run(capsys, place / "model", broken, "--json", "--batch-size", 2, "--threshold", 0)
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert len(found) == 8
    assert set(found[0]["probabilities"]) == set(CLASSES)
    assert captured.err.count("3 x.jpg") == 1
    assert [x["path"] for x in found] == [str(p) for p in sorted(broken.iterdir()) if p.name != "3 x.jpg"]


def test_an_attention_file_has_one_name_for_a_class(tmp_path):
    model = create_classifier("test_efficientnet", classes=("b/c", "B_c", "d"), image_size=64)
    assert _Overlays(model, tmp_path).safe == ["b_c", "B_c-2", "d"]


def test_no_name_is_too_long_for_an_attention_file(place, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for end in "ab":
        shutil.copy(place / "images" / "1 x.jpg", images / ("x" * 240 + f"{end}.jpg"))
    given = [
        "--model",
        place / "model",
        "--threshold",
        0,
        "--attention",
        tmp_path / "maps",
        "--csv",
        tmp_path / "x.csv",
    ]
    run(capsys, images, *given)
    assert len(list((tmp_path / "maps").iterdir())) == 2 * len(CLASSES)
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 3
    model = create_classifier("test_efficientnet", classes=("é" * 300, "é" * 300 + "b"), image_size=64)
    names = _Overlays(model, tmp_path).safe
    assert len(set(names)) == 2
    assert all(len(name.encode()) < 100 for name in names)


def test_a_name_cannot_steer_the_terminal(place, tmp_path, capsys):
    shutil.copy(place / "images" / "1 x.jpg", tmp_path / "a\x1b[31m\nb.jpg")
    (line,) = run(capsys, tmp_path, "--model", place / "model").splitlines()
    assert "a\\x1b[31m\\nb.jpg: " in line


def test_nothing_readable_is_an_empty_array(place, tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(SystemExit):
        run(capsys, place / "model", tmp_path / "a.jpg", "--json")
    assert json.loads(capsys.readouterr().out) == []


def test_the_report_is_one_page_that_needs_no_other_file(place, tmp_path, capsys):
    run(capsys, place / "model", place / "images", "--report", tmp_path / "out.html", "--threshold", 0)
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert page.count("<img") == page.count("data:image/jpeg;base64,") == 9
    assert "c&lt;d&gt;" in page
    assert "<d>" not in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert page.rstrip().endswith("</body></html>")


@pytest.mark.parametrize("option", ["--csv", "--report", "--attention"])
def test_no_output_destroys_the_photographs(place, tmp_path, capsys, option):
    photos = shutil.copytree(place / "images", tmp_path / "photos")
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    with pytest.raises(SystemExit) as exit_:
        run(capsys, place / "model", photos, option, photos)
    assert exit_.value.code == 2
    assert "photos" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before


@pytest.mark.parametrize("option", ["--csv", "--report"])
def test_a_forgotten_file_name_destroys_no_photograph(place, tmp_path, capsys, option):
    photos = sorted(shutil.copytree(place / "images", tmp_path / "photos").iterdir())
    before = [path.read_bytes() for path in photos]
    with pytest.raises(SystemExit) as exit_:
        run(capsys, "--model", place / "model", option, *photos)  # as a shell writes photos/*
    assert exit_.value.code == 2
    assert "name a file first" in capsys.readouterr().err
    assert [path.read_bytes() for path in photos] == before
    with pytest.raises(SystemExit):
        run(capsys, place / "model", photos[0], "--csv", tmp_path / "x", "--report", tmp_path / "x")
    assert "two files" in capsys.readouterr().err


def test_a_model_of_the_hub_names_labels_from_its_own_thresholds(place, tmp_path, capsys, monkeypatch):
    stored = shutil.copytree(place / "model", tmp_path / "stored")
    write_thresholds(stored, [1.0, 0.0, 1.0], CLASSES, about="a test")
    asked = []
    monkeypatch.setattr("csra_lab.weights.saved.snapshot_download", lambda name, **_: asked.append(name) or str(stored))
    monkeypatch.chdir(place)
    (found,) = json.loads(run(capsys, "images/0 x.jpg", "--model", "owner/name", "--json"))
    assert [label["class"] for label in found["labels"]] == [CLASSES[1]]
    assert asked == ["owner/name"]


def test_a_run_that_is_not_there_is_not_sought_on_a_hub(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    for arguments in (
        ["predict", "images", "--model", "runs/x"],
        ["evaluate", "runs/x"],
        ["export", "images/x", "m.onnx"],
    ):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2
        said = capsys.readouterr().err
        assert "there is no run or model" in said
        assert "hub" not in said
