"""The command line as a reader uses it, and every way to use it wrongly: one sentence, exit code 2, nothing lost."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
import zlib

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from csra_lab import MultiLabelClassifier, create_classifier, multilabel_metrics
from csra_lab.cli import ENDING, main
from csra_lab.datasets.transforms import eval_transform
from csra_lab.errors import CsraError
from csra_lab.recipes import RECIPES
from csra_lab.thresholds import write_thresholds
from csra_lab.training.evaluation import evaluate
from tests import toy

TOY = [
    "--backbone", "test_efficientnet", "--weights", "none", "--image-size", "64", "--classes", *toy.CLASSES,
    "--epochs", "1", "--batch-size", "8", "--validation-fraction", "0.25",
]  # fmt: skip


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    return toy.write_devkit(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def run(devkit, tmp_path_factory):
    """A trained average-pooling classifier."""
    out = tmp_path_factory.mktemp("runs") / "x"
    main(["train", "voc2012-lite0-avg", "--data", str(devkit), "--out", str(out), *TOY])
    return out


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run that a test may break."""
    return shutil.copytree(run, tmp_path / "copy")


def refused(capsys, *arguments) -> str:
    """Run a command that must be refused; return its one sentence."""
    with pytest.raises(SystemExit) as exit_:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert exit_.value.code == 2
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("csra-lab: ")
    return lines[0]


def output(capsys, *arguments) -> str:
    capsys.readouterr()
    main([str(a) for a in arguments])
    return capsys.readouterr().out


def snapshot(folder) -> dict:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- what works -------------------------------------------------------------------------------------------------------


def test_train_writes_a_run_and_prints_its_metrics(devkit, tmp_path, capsys):
    out = tmp_path / "run"
    text = output(capsys, "train", "voc2012-lite0-csra", "--data", devkit, "--out", out, *TOY, "--lam", "0.7")
    assert json.loads((out / "recipe.json").read_text())["recipe"]["head"]["lam"] == 0.7
    value = 100 * json.loads((out / "metrics.json").read_text())["mAP"]
    assert f"{value:.2f}" in text
    assert "images/s" in text


def test_five_steps_lead_from_the_command_to_the_optimiser(devkit, tmp_path, monkeypatch):
    """main, command, train, epoch, step: the plan of the package asks for no more."""
    calls = []

    def step(self, *arguments, **options):
        frames = [f for f in traceback.extract_stack() if "csra_lab/" in f.filename.replace(os.sep, "/")]
        calls.append([f.name for f in frames])

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    options = ["--out", str(tmp_path / "x"), *TOY, "--optimizer", "sgd", "--quiet"]
    main(["train", "voc2012-lite0-avg", "--data", str(devkit), *options])
    assert calls
    assert set(map(tuple, calls)) == {("main", "run_train", "train", "train_epoch", "step")}


def test_evaluate_prints_the_metrics_as_json(run, devkit, capsys):
    found = json.loads(output(capsys, "evaluate", run, "--data", devkit, "--json"))
    recorded = json.loads((run / "metrics.json").read_text())
    for key in ("mAP", "CP", "CR", "CF1", "CF1_macro", "OP", "OR", "OF1", "per_class_AP"):
        assert found[key] == pytest.approx(recorded[key]), key
    table = output(capsys, "evaluate", run, "--data", devkit)
    assert f"{100 * found['mAP']:.2f}" in table
    assert all(name in table for name in toy.CLASSES)


def test_evaluate_measures_what_the_run_was_not_fitted_to(run, devkit, copy, tmp_path, capsys):
    """As training did after each epoch: so that settings are chosen by it, and not by the test split."""
    out = tmp_path / "held-out"
    command = ["evaluate", run, "--data", devkit, "--split", "held-out"]
    found = json.loads(output(capsys, *command, "--json", "--out", out))
    assert found["split"] == "held-out"
    history = [line.split(",") for line in (run / "history.csv").read_text().splitlines()]
    assert found["mAP"] == pytest.approx(float(history[-1][history[0].index("validation_mAP")]), abs=1e-6)
    assert json.loads((out / "metrics.json").read_text())["split"] == "held-out"
    compared = output(capsys, "runs", "compare", out, out)  # what was measured again has no recipe
    assert "their scores are compared" in compared
    assert "both were measured the same way" in compared
    assert "it could be 0" in compared
    assert str(out) in compared
    lines = tmp_path / "lines"
    main(["evaluate", str(run), *map(str, command[2:]), "--four-lines", "0.4", "--out", str(lines)])
    assert "four_lines" in output(capsys, "runs", "compare", out, lines)

    recipe = json.loads((copy / "recipe.json").read_text())
    for weights, said in ((run / "model", True), (tmp_path / "elsewhere.pth", False), ("hub", False)):
        recipe["recipe"]["model"]["weights"] = str(weights)
        (copy / "recipe.json").write_text(json.dumps(recipe))
        main(["evaluate", str(copy), *map(str, command[2:])])
        assert ("began with the weights of" in capsys.readouterr().err) == said

    before = snapshot(run)
    assert "its test scores, which --out would replace" in refused(capsys, *command, "--out", run)
    assert "its test scores" in refused(capsys, "evaluate", copy, "--data", devkit, "--out", run)
    with pytest.raises(SystemExit):
        main(["evaluate", str(run), "--data", str(devkit), "--ap", "voc11", "--out", str(run)])
    assert "other test scores, which --out would replace" in capsys.readouterr().err
    assert "leave out --absent" in refused(capsys, *command, "--absent", "-1")
    assert snapshot(run) == before

    recipe = json.loads((copy / "recipe.json").read_text())
    marks = dict(recipe["train_set"])
    for mark in ("fingerprint", "names"):  # file names decide what is held out, and the fingerprint has none
        recipe["train_set"] = marks | {mark: "0" * 16}
        (copy / "recipe.json").write_text(json.dumps(recipe))
        assert "trained on other images or labels" in refused(
            capsys, "evaluate", copy, "--data", devkit, "--split", "held-out"
        )
    recipe["train_set"] = {"fingerprint": marks["fingerprint"]}  # as earlier versions wrote it
    (copy / "recipe.json").write_text(json.dumps(recipe))
    assert json.loads(output(capsys, "evaluate", copy, *command[2:], "--json"))["mAP"] == found["mAP"]
    recipe["recipe"]["data"]["validation_fraction"] = 0.0
    (copy / "recipe.json").write_text(json.dumps(recipe))
    assert "train with --validation-fraction" in refused(
        capsys, "evaluate", copy, "--data", devkit, "--split", "held-out"
    )
    assert "give the folder of a run" in refused(
        capsys, "evaluate", run / "model", "--data", devkit, "--split", "held-out", "--dataset", "voc2012"
    )


def test_evaluate_says_how_many_images_were_trained_on(run, devkit, tmp_path, capsys):
    there = shutil.copytree(devkit, tmp_path / "devkit")
    main(["evaluate", str(run), "--data", str(there), "--json"])
    assert "training images" not in capsys.readouterr().err
    main(["evaluate", str(run), "--data", str(there), "--split", "trainval", "--json"])
    count = json.loads((run / "recipe.json").read_text())["train_set"]["images"]
    assert f"{count} of these {count} images are in trainval, from which" in capsys.readouterr().err
    lists = there / "VOC2012" / "ImageSets" / "Main"
    for path in lists.glob("*trainval.txt"):  # some of them, as val has some of a sample of both
        part = lists / path.name.replace("trainval", "some")
        part.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    main(["evaluate", str(run), "--data", str(there), "--split", "some", "--json"])
    assert "5 of these 5 images are in trainval" in capsys.readouterr().err


def test_training_images_are_never_recorded_as_the_test_of_a_run(devkit, copy, tmp_path, capsys):
    swapped = shutil.copytree(devkit, tmp_path / "swapped")
    lists = swapped / "VOC2012" / "ImageSets" / "Main"
    for path in sorted(lists.glob("*trainval.txt")):
        shutil.copy(path, lists / path.name.replace("trainval", "test"))
    for name in ("metrics.json", "scores.npz"):
        (copy / name).unlink()
    with pytest.raises(SystemExit):
        main(["evaluate", str(copy), "--data", str(swapped), "--out", str(copy)])
    assert "trained on these very images" in capsys.readouterr().err
    assert not (copy / "metrics.json").exists()


def test_what_cannot_be_written_is_said_before_anything_is_scored(run, devkit, tmp_path, monkeypatch, capsys):
    def never(*_, **__):
        raise AssertionError("scored first")

    monkeypatch.setattr("csra_lab.training.evaluation.predict_scores", never)
    monkeypatch.setattr("csra_lab.cli.predict.predict_each", never)
    file = tmp_path / "file"
    file.touch()
    for option in ("--out", "--server-format"):
        assert f"{file} is a file" in refused(capsys, "evaluate", run, "--data", devkit, option, file / "below")
    for option in ("--attention", "--csv", "--report"):
        assert f"{file} is a file" in refused(capsys, "predict", run, devkit, option, file / "below")
    assert f"{file} is a file" in refused(capsys, "ablate", "pooling", "--out", file)
    assert f"{file} is a file" in refused(capsys, "grid", "small", "--record", file)


@pytest.mark.parametrize(
    ("given", "read"),
    [([], ("-1", "blank")), (["--absent", "-1,blank"], ("-1,blank", None)), (["--unknown", "0"], (None, "0"))],
)
def test_a_convention_that_is_given_is_the_whole_convention(copy, monkeypatch, given, read, capsys):
    recipe = json.loads((copy / "recipe.json").read_text())
    recipe["recipe"]["data"] |= {"dataset": "folder", "absent": "-1", "unknown": "blank"}
    (copy / "recipe.json").write_text(json.dumps(recipe))
    asked = []

    def load(name, folder, split, *, absent, unknown):
        asked.append((absent, unknown))
        raise CsraError("seen")

    monkeypatch.setattr("csra_lab.cli.train.load_dataset", load)
    assert "seen" in refused(capsys, "evaluate", copy, "--data", copy, *given)
    assert asked == [read]


def test_evaluate_uses_the_definitions_that_are_asked_for(run, devkit, capsys):
    found = json.loads(output(capsys, "evaluate", run, "--data", devkit, "--json", "--ap", "voc11", "--top-k", "2"))
    data = toy.load(devkit, "test")
    _, scores = evaluate(MultiLabelClassifier.from_pretrained(run / "model"), data)
    expected = multilabel_metrics(scores, data.targets, ap="voc11", top_k=2)
    assert found["mAP"] == pytest.approx(expected.mAP)
    assert found["OF1"] == pytest.approx(expected.OF1)
    assert found["top_k"] == 2


def test_the_four_lines_change_an_average_model_without_training(run, devkit, capsys):
    found = json.loads(output(capsys, "evaluate", run, "--data", devkit, "--json", "--four-lines", "0.4"))
    data = toy.load(devkit, "test")
    model = MultiLabelClassifier.from_pretrained(run / "model")
    transform = eval_transform(model.image_size, mean=model.mean, std=model.std)
    pictures = torch.stack([transform(data.image(i)) for i in range(len(data))])
    with torch.no_grad():  # the four lines themselves
        maps = model.score_maps(pictures)[:, 0].flatten(2)
        y_avg = maps.mean(2)
        y_max = maps.max(2)[0]
        logits = y_avg + 0.4 * y_max
    assert found["mAP"] == pytest.approx(multilabel_metrics(torch.sigmoid(logits).numpy(), data.targets).mAP)


def test_predict_names_labels_as_text_and_json(run, devkit, capsys):
    folder = devkit / "VOC2012" / "JPEGImages"
    photo = folder / "test_0000.jpg"
    results = json.loads(output(capsys, "predict", run, photo, "--json", "--threshold", "0"))
    assert [r["path"] for r in results] == [str(photo)]
    values = [x["probability"] for x in results[0]["labels"]]
    assert values == sorted(values, reverse=True)
    assert set(results[0]["probabilities"]) == set(toy.CLASSES)
    assert len(json.loads(output(capsys, "predict", run / "model", folder, "--json"))) == 34  # a model folder, a folder
    assert str(photo) in output(capsys, "predict", run, photo)


def test_predict_draws_one_picture_for_each_label_found(run, devkit, tmp_path, capsys):
    photo = devkit / "VOC2012" / "JPEGImages" / "test_0000.jpg"
    output(capsys, "predict", run, photo, "--threshold", "0", "--attention", tmp_path / "maps")
    names = {p.name for p in (tmp_path / "maps").iterdir()}
    assert names == {f"test_0000_{c}.png" for c in toy.CLASSES}
    assert all(Image.open(tmp_path / "maps" / name).width >= 64 for name in names)


def test_pictures_of_one_name_do_not_overwrite_each_other(run, tmp_path, capsys):
    """Nor those whose names differ in what a file of an overlay leaves out, or in the case of their letters."""
    for folder, name in (("a", "the same"), ("b", "the same"), ("b", "the_same"), ("b", "the+same"), ("c", "THE_SAME")):
        (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), "red").save(tmp_path / "in" / folder / f"{name}.png")
    output(capsys, "predict", run, tmp_path / "in", "--threshold", "0", "--attention", tmp_path / "maps")
    assert len({path.name.lower() for path in (tmp_path / "maps").iterdir()}) == 5 * len(toy.CLASSES)


def test_one_bad_photograph_does_not_hide_the_others(run, devkit, tmp_path, capsys):
    good = (devkit / "VOC2012" / "JPEGImages" / "test_0000.jpg").read_bytes()
    for name, content in (("a.jpg", good), ("b.jpg", b"not a photograph"), ("c.jpg", good)):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit) as exit_:
        main(["predict", str(run), str(tmp_path), "--json"])
    captured = capsys.readouterr()
    assert exit_.value.code == 2
    assert [r["path"][-5:] for r in json.loads(captured.out)] == ["a.jpg", "c.jpg"]
    assert len(captured.err.strip().splitlines()) == 1
    assert "b.jpg" in captured.err


def test_train_help_lists_every_recipe(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["train", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in RECIPES)


def test_models_counts_parameters_and_multiply_adds(capsys):
    rows = json.loads(output(capsys, "models", "resnet101", "--json"))
    resnet = next(r for r in rows if r["backbone"] == "resnet101" and r["image_size"] == 224 and r["heads"] == 1)
    assert resnet["multiply_adds"] == pytest.approx(7.80e9, rel=0.01)
    assert resnet["parameters"] == pytest.approx(42.5e6, rel=0.01)


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_export_writes_a_file_and_says_how_to_use_it(run, tmp_path, capsys, name):
    shown = output(capsys, "export", run, tmp_path / name)
    assert (tmp_path / name).stat().st_size > 1e5
    assert "(batch, 3, 64, 64)" in shown
    assert all(c in shown for c in toy.CLASSES)
    assert "by `predict` from" not in shown  # it has no thresholds of its own


def test_export_says_from_which_probabilities_predict_names_labels(run, tmp_path, capsys):
    model = shutil.copytree(run / "model", tmp_path / "model")
    write_thresholds(model, [0.25, 0.5, 0.125], toy.CLASSES, about="a test")
    shown = output(capsys, "export", model, tmp_path / "model.pt2")
    assert "from these probabilities on: 0.25, 0.5, 0.12" in shown
    extra = {"thresholds": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra["thresholds"]) == dict(zip(toy.CLASSES, [0.25, 0.5, 0.125], strict=True))


def test_export_writes_nothing_where_thresholds_cannot_be_read(run, tmp_path, capsys):
    model = shutil.copytree(run / "model", tmp_path / "model")
    (model / "thresholds.json").write_text("{")
    assert "thresholds.json cannot be read" in refused(capsys, "export", model, tmp_path / "model.pt2")
    assert not (tmp_path / "model.pt2").exists()


def test_the_installed_command_starts_from_any_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "csra_lab.cli", "train", "nope"], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "there is no recipe 'nope'" in done.stderr


# --- bad input --------------------------------------------------------------------------------------------------------


def test_export_to_a_format_that_it_does_not_write(run, tmp_path, capsys):
    sentence = refused(capsys, "export", run, tmp_path / "model.tflite")
    assert "model.tflite" in sentence
    assert ".onnx or .pt2" in sentence
    assert not list(tmp_path.iterdir())


def test_an_unknown_command_and_an_unknown_recipe(capsys):
    assert "there is no command 'trian'" in refused(capsys, "trian")
    assert "did you mean voc2012-lite0-csra" in refused(capsys, "train", "voc2012-lite0-csr")


def test_no_data_folder_or_a_wrong_one(capsys, tmp_path):
    assert "csra-lab data download voc2012" in refused(capsys, "train", "voc2012-lite0-csra", "--out", tmp_path / "x")
    sentence = refused(capsys, "train", "voc2012-lite0-csra", "--data", tmp_path / "nowhere", "--out", tmp_path / "x")
    assert "nowhere" in sentence
    assert not (tmp_path / "x").exists()


def test_an_image_size_that_a_vit_cannot_take(devkit, tmp_path, capsys):
    arguments = [*TOY, "--backbone", "test_vit", "--image-size", "70"]
    sentence = refused(capsys, "train", "voc2012-lite0-csra", "--data", devkit, "--out", tmp_path / "x", *arguments)
    assert "64 and 80" in sentence
    assert not (tmp_path / "x").exists()


def test_a_class_that_the_data_does_not_have(devkit, tmp_path, capsys):
    arguments = [*TOY, "--classes", "cat", "unicorn"]
    sentence = refused(capsys, "train", "voc2012-lite0-csra", "--data", devkit, "--out", tmp_path / "x", *arguments)
    assert "unicorn" in sentence


def test_a_model_of_other_classes_than_the_data(tmp_path, devkit, capsys):
    create_classifier("test_efficientnet", classes=["cat", "unicorn"], image_size=64).save_pretrained(tmp_path / "m")
    sentence = refused(capsys, "evaluate", tmp_path / "m", "--data", devkit, "--dataset", "voc2012")
    assert "2 classes" in sentence or "unicorn" in sentence


def test_a_model_that_does_not_say_its_data_set(run, devkit, capsys):
    assert "--dataset" in refused(capsys, "evaluate", run / "model", "--data", devkit)


def test_a_folder_without_a_run(tmp_path, devkit, capsys):
    assert str(tmp_path) in refused(capsys, "evaluate", tmp_path, "--data", devkit)
    assert "there is no image, folder or model" in refused(capsys, "predict", tmp_path / "none", tmp_path)


def test_a_run_before_its_first_epoch(copy, devkit, capsys):
    shutil.rmtree(copy / "model")
    assert "no trained model yet" in refused(capsys, "evaluate", copy, "--data", devkit)


@pytest.mark.parametrize("kind", ["empty folder", "missing", "text", "truncated", "empty file", "bomb"])
def test_images_that_are_none(run, tmp_path, capsys, kind):
    path = tmp_path / "photo.jpg"
    if kind == "empty folder":
        path = tmp_path
    elif kind == "text":
        path.write_text("I am not a photograph")
    elif kind == "truncated":
        Image.effect_noise((200, 200), 80).convert("RGB").save(path)
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "empty file":
        path.touch()
    elif kind == "bomb":
        header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (100_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
        path.write_bytes(header + zlib.crc32(header[12:]).to_bytes(4, "big"))
    before = snapshot(tmp_path)
    assert str(path) in refused(capsys, "predict", run, path, "--attention", tmp_path / "maps")
    assert snapshot(tmp_path) == before


class Evil:
    """A pickle that would leave a mark when loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def test_a_weight_file_with_code_in_it_is_not_run(devkit, tmp_path, capsys):
    torch.save({"state_dict": Evil(tmp_path / "mark")}, tmp_path / "evil.pth")
    arguments = [*TOY, "--weights", tmp_path / "evil.pth"]
    sentence = refused(capsys, "train", "voc2012-lite0-csra", "--data", devkit, "--out", tmp_path / "x", *arguments)
    assert "run" in sentence
    assert "evil.pth" in sentence
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "x").exists()


def test_a_state_with_code_in_it_is_not_run(devkit, copy, tmp_path, capsys):
    torch.save({"epoch": Evil(tmp_path / "mark")}, copy / "state.pt")
    sentence = refused(capsys, "train", "voc2012-lite0-avg", "--data", devkit, "--out", copy, *TOY)
    assert "state.pt" in sentence
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("damage", ["nan", "another model", "truncated", "missing", "config", "config not json"])
def test_a_damaged_model(copy, devkit, capsys, damage):
    weights, config = copy / "model" / "model.safetensors", copy / "model" / "config.json"
    if damage == "nan":
        state = load_file(weights)
        state["head.weight"][0, 0, 0] = float("nan")
        save_file(state, weights)
    elif damage == "another model":
        state = load_file(weights)
        state.pop("backbone.model.conv_stem.weight")
        save_file(state, weights)
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "missing":
        weights.unlink()
    elif damage == "config":
        config.write_text('{"backbone": "resnet18"}')
    else:
        config.write_text("{")
    named = config if damage.startswith("config") else weights
    assert named.name in refused(capsys, "evaluate", copy, "--data", devkit)


def test_four_lines_on_a_model_that_has_a_residual(devkit, tmp_path, capsys):
    create_classifier("test_efficientnet", classes=toy.CLASSES, image_size=64).save_pretrained(tmp_path / "m")
    sentence = refused(
        capsys, "evaluate", tmp_path / "m", "--data", devkit, "--dataset", "voc2012", "--four-lines", "1"
    )
    assert "average-pooling" in sentence


def test_options_of_a_data_set_without_one(tmp_path, capsys):
    for given in (["--split", "val"], ["--min-positives", "1"], ["--min-positives", "3", "--split", "test"]):
        sentence = refused(capsys, "four-lines", "tf_efficientnet_lite0", tmp_path, *given)
        assert "--dataset" in sentence
        assert all(flag in sentence for flag in given if flag.startswith("--"))


def test_a_full_disk_while_training(devkit, tmp_path, capsys, monkeypatch):
    from csra_lab.training import loop as training

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "run"
    monkeypatch.setattr(training.torch, "save", full)
    sentence = refused(capsys, "train", "voc2012-lite0-csra", "--data", devkit, "--out", out, *TOY, "--quiet")
    assert "state.pt" in sentence
    assert "No space left" in sentence
    assert not [p for p in out.rglob("*") if p.name.startswith(".")]  # nothing half-written stays
    monkeypatch.undo()
    main(["train", "voc2012-lite0-csra", "--data", str(devkit), "--out", str(out), *TOY])  # and the run goes on
    assert (out / "metrics.json").exists()


def test_a_run_that_exists_is_not_overwritten(run, devkit, capsys):
    before = snapshot(run)
    assert "finished" in refused(capsys, "train", "voc2012-lite0-avg", "--data", devkit, "--out", run, *TOY)
    assert "another run" in refused(capsys, "train", "voc2012-lite0-csra", "--data", devkit, "--out", run, *TOY)
    assert snapshot(run) == before


def test_fields_with_impossible_values(devkit, tmp_path, capsys):
    arguments = ["train", "voc2012-lite0-csra", "--data", devkit, "--out", tmp_path / "x"]
    assert "epochs" in refused(capsys, *arguments, "--epochs", "0")
    assert "temperatures were given" in refused(capsys, *arguments, *TOY, "--num-heads", "2", "--temperatures", "1")
    with pytest.raises(SystemExit) as exit_:
        main([str(a) for a in arguments] + ["--epochs", "many"])
    assert exit_.value.code == 2


@pytest.fixture
def a_terminals_signals():
    """Python's own handlers: under `nohup`, or in the background, a process begins with some signals ignored."""
    own = {signal.SIGINT: signal.default_int_handler} | dict.fromkeys(ENDING, signal.SIG_DFL)
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("a_terminals_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, *ENDING])
def test_a_stopped_run_says_that_it_can_go_on(devkit, tmp_path, capsys, monkeypatch, number):
    """By Ctrl-C, and by the signals of schedulers, containers and closed terminals."""
    from csra_lab.training import loop as training

    monkeypatch.setattr(training.Trainer, "step", lambda trainer: signal.raise_signal(number))
    with pytest.raises(SystemExit) as exit_:
        main(["train", "voc2012-lite0-csra", "--data", str(devkit), "--out", str(tmp_path / "x"), *TOY, "--quiet"])
    assert exit_.value.code == 128 + number
    assert "goes on" in capsys.readouterr().err
    assert {signal.getsignal(each) for each in ENDING} == {signal.SIG_DFL}


def test_a_signal_that_is_ignored_stays_so(capsys, monkeypatch):
    """As under `nohup`, which a closed terminal is not to end."""
    if not hasattr(signal, "SIGHUP"):
        pytest.skip("this system has no SIGHUP")
    monkeypatch.setattr("csra_lab.cli.load_command", lambda name: lambda _: signal.raise_signal(signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        main(["models"])
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stopped_prediction_leaves_no_half_table(run, devkit, tmp_path, monkeypatch):
    """Neither the table, nor the hidden file that was to become it."""
    from csra_lab.cli import predict

    monkeypatch.setattr(predict._Csv, "add", lambda table, found: signal.raise_signal(signal.SIGTERM))
    photo = next((devkit / "VOC2012" / "JPEGImages").iterdir())
    with pytest.raises(SystemExit) as exit_:
        main(["predict", str(run), str(photo), "--csv", str(tmp_path / "table.csv")])
    assert exit_.value.code == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())
