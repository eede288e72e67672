"""The four lines on ImageNet classifiers: against timm's own logits, against loops, and as the command prints them."""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import timm.data
import torch
from PIL import Image
from scipy.stats import t

from csra_lab import CsraError, imagenet_classifier, residual_max
from csra_lab.cli import main
from csra_lab.datasets import VOC_CLASSES, MultiLabelDataset, open_image
from csra_lab.datasets.imagenet_folder import evenly, imagenet_index, load_image_folder
from csra_lab.datasets.transforms import eval_transform
from csra_lab.datasets.voc_in_imagenet import VOC_TABLE, covered_classes, pooled_scores, read_voc_table
from csra_lab.metrics import average_precision
from csra_lab.significance import bootstrap_mAP
from csra_lab.study import four_lines as four_lines_module
from csra_lab.study.four_lines import (
    LAMBDAS,
    MeanAndMax,
    accuracy_against_lambda,
    checked_lambdas,
    map_against_lambda,
    mcnemar_p,
    mean_and_max,
    published_transform,
    run_four_lines,
    voc_four_lines,
)
from csra_lab.weights.sources import has_installed_weights, installed_state_dict
from tests import toy

LITE0 = "tf_efficientnet_lite0"
INFO = timm.data.ImageNetInfo()

ROOT = Path(__file__).resolve().parents[2]


def write_pictures(folder, names, *, each=2, side=48, seed=0):
    """An ImageFolder of smooth random pictures."""
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(each):
            small = Image.fromarray(rng.integers(0, 256, size=(4, 4, 3)).astype(np.uint8))
            small.resize((side, side + 16 * i)).save(folder / name / f"{i}.JPEG")
    return folder


def random_scores(n=40, c=1000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(n, c, generator=generator)
    return MeanAndMax(mean, mean + 3 * torch.rand(n, c, generator=generator))


@pytest.fixture(scope="module")
def lite0():
    if not has_installed_weights(LITE0):
        pytest.skip("the package with the ImageNet weights is not installed")
    return imagenet_classifier(LITE0, image_size=64)


# ---- one pass, every lambda --------------------------------------------------------------------------------------


def test_lambda_zero_is_timms_own_classifier(lite0, tmp_path):
    """timm's network and timm's preprocessing, put together here by hand."""
    network = timm.create_model(LITE0)
    network.load_state_dict(installed_state_dict(LITE0, network))
    preprocess = timm.data.create_transform(
        input_size=(3, 64, 64), interpolation="bicubic", crop_pct=0.875, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    pictures = load_image_folder(write_pictures(tmp_path, ["281", "151", "404"]))
    images = torch.stack([preprocess(open_image(path)) for path in pictures.paths])
    with torch.no_grad():
        expected = network.eval()(images)
    scores = mean_and_max(lite0, pictures.with_transform(published_transform(lite0)), batch_size=4)
    torch.testing.assert_close(scores.logits(0), expected, rtol=1e-4, atol=1e-4)
    assert (scores.logits(0).argmax(1) == expected.argmax(1)).all()
    with torch.no_grad():
        maps = lite0.score_maps(images)[:, 0]
    for lam in (0.0, 0.1, 1.0):
        torch.testing.assert_close(scores.logits(lam), residual_max(maps, lam), rtol=1e-4, atol=1e-4)


def test_broken_scores_are_not_measured(lite0):
    class Nan(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, i):
            return torch.full((3, 64, 64), math.nan), 0

    lite0.train()
    with pytest.raises(CsraError, match="not finite"):
        mean_and_max(lite0, Nan())
    assert lite0.training  # as it was
    lite0.eval()
    with pytest.raises(CsraError, match="batch size"):
        mean_and_max(lite0, Nan(), batch_size=0)


def test_zero_is_always_among_the_lambdas():
    assert checked_lambdas([1, 0.1, 0.1]) == [0.0, 0.1, 1.0]
    for bad in (-0.1, math.nan, math.inf):
        with pytest.raises(CsraError, match="lambda must be"):
            checked_lambdas([bad])


# ---- accuracy ----------------------------------------------------------------------------------------------------


def test_accuracy_against_a_loop():
    scores = random_scores(n=60, c=12)
    targets = np.arange(60) % 12
    rows = accuracy_against_lambda(scores, targets, [0, 0.3, 2])
    right_before = None
    for row, lam in zip(rows, (0, 0.3, 2), strict=True):
        right, in_five = [], 0
        for i, target in enumerate(targets):
            logits = [float(scores.mean[i, c] + lam * scores.maximum[i, c]) for c in range(12)]
            order = sorted(range(12), key=lambda c: -logits[c])
            right.append(order[0] == target)
            in_five += target in order[:5]
        right_before = right_before or right
        gained = sum(now and not then for now, then in zip(right, right_before, strict=True))
        lost = sum(then and not now for now, then in zip(right, right_before, strict=True))
        assert (row["lam"], row["gained"], row["lost"]) == (lam, gained, lost)
        assert row["top1"] == pytest.approx(sum(right) / 60)
        assert row["top5"] == pytest.approx(in_five / 60)
        assert row["change"] == pytest.approx(row["top1"] - rows[0]["top1"])
        changes = gained * [1.0] + lost * [-1.0] + [0.0] * (60 - gained - lost)
        spread = 60 * np.var(changes) + 2  # one image more gained, and one lost
        assert row["plus_minus"] == pytest.approx(2.2414 * math.sqrt(spread) / 60 if lam else 0, abs=1e-4)  # 0.05 / 2
    assert rows[0]["plus_minus"] == 0
    assert rows[0]["p_value"] == 1


@pytest.mark.parametrize(
    ("n", "gain", "loss"), [(100, 0.02, 0.0), (100, 0.02, 0.005), (200, 0.01, 0.0), (500, 0.01, 0.002)]
)
def test_the_interval_of_accuracy_covers_where_few_images_change(n, gain, loss):
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        change = rng.choice([1, -1, 0], size=n, p=[gain, loss, 1 - gain - loss])
        before, after = np.where(change == 1, -1.0, 1.0), np.where(change == -1, -1.0, 1.0)
        mean = torch.zeros(n, 2).index_fill(1, torch.tensor(0), 1.0) * torch.from_numpy(before)[:, None]
        maximum = torch.zeros(n, 2).index_fill(1, torch.tensor(0), 1.0) * torch.from_numpy(10 * after)[:, None]
        row = accuracy_against_lambda(MeanAndMax(mean, maximum), np.zeros(n, int), [0, 1])[1]
        held += abs(row["change"] - (gain - loss)) <= row["plus_minus"]
    assert held >= 0.93 * 400


def test_a_score_that_ties_is_not_a_hit():
    flat = MeanAndMax(torch.zeros(3, 10), torch.zeros(3, 10))
    assert accuracy_against_lambda(flat, np.zeros(3, dtype=int), [0])[0]["top5"] == 0
    with pytest.raises(CsraError, match="not finite"):
        accuracy_against_lambda(MeanAndMax(flat.mean * math.nan, flat.maximum), np.zeros(3, dtype=int), [0])


def test_mcnemar():
    assert mcnemar_p(0, 0) == 1
    assert mcnemar_p(5, 0) == pytest.approx(2 / 32)
    assert mcnemar_p(1, 7) == mcnemar_p(7, 1) == pytest.approx(2 * 9 / 256)
    assert mcnemar_p(4, 4) == 1
    assert 0 < mcnemar_p(3000, 3400) < 1e-5


# ---- an ImageFolder ----------------------------------------------------------------------------------------------


def test_class_folders_in_all_three_ways(tmp_path):
    for name, index in {
        "n02123045": 281, "281": 281, "0281": 281, "0": 0, "000": 0, "999": 999, "tabby": 281, "tabby, tabby cat": 281,
        "tabby_cat": 281, "Egyptian cat": 285, "EGYPTIAN_CAT": 285, "Tinca tinca": 0, "studio couch": 831,
    }.items():  # fmt: skip
        assert imagenet_index(tmp_path / name) == index, name
    for name in ("n99999999", "1000", "-1", "train", "cat", "²", "tab"):
        with pytest.raises(CsraError, match="names no ImageNet class") as caught:
            imagenet_index(tmp_path / name)
        assert name in str(caught.value)
    for name, ids in {"crane": "n02012849 and n03126707", "maillot": "n03710637 and n03710721"}.items():
        with pytest.raises(CsraError, match=ids):
            imagenet_index(tmp_path / name)


def test_every_class_is_found_by_its_id_and_its_index(tmp_path):
    for i in range(0, 1000, 37):
        assert imagenet_index(tmp_path / INFO.index_to_label_name(i)) == imagenet_index(tmp_path / str(i)) == i


def test_an_image_folder(tmp_path):
    write_pictures(tmp_path, ["tabby", "n02085620", "404/inner"], each=3)
    (tmp_path / "tabby" / "notes.txt").write_text("no picture")
    (tmp_path / ".cache").mkdir()
    pictures = load_image_folder(tmp_path)
    assert pictures.folders == {"404": 404, "n02085620": 151, "tabby": 281}
    assert pictures.targets.tolist() == [404] * 3 + [151] * 3 + [281] * 3
    image, target = pictures[8]
    assert (image.size, target) == ((48, 80), 281)
    assert pictures.spread(3).targets.tolist() == [404, 151, 281]
    assert len(pictures.spread(100)) == 9


def test_evenly():
    assert evenly(10, 3).tolist() == [0, 3, 6]
    assert evenly(3, 3).tolist() == evenly(3, 4).tolist() == [0, 1, 2]
    with pytest.raises(CsraError, match="at least 1"):
        evenly(3, 0)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(CsraError, match="there is no folder"):
        load_image_folder(tmp_path / "no")
    with pytest.raises(CsraError, match="no sub-folders"):
        load_image_folder(tmp_path)
    write_pictures(tmp_path, ["281"])
    (tmp_path / "282").mkdir()
    with pytest.raises(CsraError, match="282 holds no image"):
        load_image_folder(tmp_path)
    (tmp_path / "282").rename(tmp_path / "tabby")
    with pytest.raises(CsraError, match=r"tabby names the same ImageNet class as .*281"):
        load_image_folder(tmp_path)


# ---- VOC's classes -----------------------------------------------------------------------------------------------


def test_the_table_agrees_with_imagenet():
    lines = [line for line in VOC_TABLE.read_text("utf-8").splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    indices = [int(row["imagenet_index"]) for row in rows]
    assert len(set(indices)) == len(indices)
    for row, index in zip(rows, indices, strict=True):
        assert INFO.index_to_label_name(index) == row["wordnet_id"]
        assert INFO.index_to_description(index) == row["description"]
    table = read_voc_table()
    assert set(table) == set(VOC_CLASSES) - {"person"}
    assert sorted(i for group in table.values() for i in group) == sorted(indices)
    assert table["cat"] == tuple(range(281, 286))
    assert table["dog"] == tuple(range(151, 269))
    assert (table["cow"], table["horse"]) == ((345,), (339,))
    with pytest.raises(CsraError, match="clone of the repository"):
        read_voc_table(VOC_TABLE.with_name("no.csv"))


def test_pooled_scores_against_a_loop():
    logits = 3 * torch.randn(5, 1000)
    table = read_voc_table()
    softmax, own = pooled_scores(logits, table), pooled_scores(logits, table, "logits")
    assert softmax.shape == own.shape == (5, 19)
    for i in range(5):
        exponentials = [math.exp(value) for value in logits[i].tolist()]
        for c, indices in enumerate(table.values()):
            mine = sum(exponentials[k] for k in indices)
            p = mine / sum(exponentials)
            assert softmax[i, c].item() == pytest.approx(math.log(p / (1 - p)), abs=1e-6)
            assert own[i, c].item() == pytest.approx(math.log(mine), abs=1e-6)
    shifted = pooled_scores(logits + 1e4, table)  # no overflow; float32 holds 1e4 + x to three decimals
    torch.testing.assert_close(shifted, softmax, rtol=0, atol=1e-2)
    with pytest.raises(CsraError, match="softmax or logits"):
        pooled_scores(logits, table, "max")


def test_certain_images_are_still_ranked():
    """Where p rounds to 1 in float32, the images keep their order."""
    logits = torch.zeros(3, 1000)
    logits[:, 281] = torch.tensor([40.0, 42.0, 41.0])
    assert pooled_scores(logits, {"cat": (281,)})[:, 0].argsort().tolist() == [0, 2, 1]


def voc_labels(n=40, classes=("cat", "dog", "person", "boat", "sofa"), seed=0):
    """Labels without photographs; boats are rare, and some entries count for nothing."""
    rng = np.random.default_rng(seed)
    targets = rng.choice([0, 1, -1], p=[0.6, 0.3, 0.1], size=(n, len(classes)))
    targets[:, classes.index("boat")] = 0
    targets[:2, classes.index("boat")] = 1
    ids = [f"{i:03d}" for i in range(n)]
    return MultiLabelDataset(name="toy", split="test", classes=classes, ids=ids, paths=ids, targets=targets)


def test_what_cannot_be_scored_is_named():
    dataset = voc_labels()
    classes, left_out = covered_classes(dataset)
    assert classes == ["cat", "dog", "boat", "sofa"]
    assert left_out == {"person": "not an ImageNet class"}
    classes, left_out = covered_classes(dataset, min_positives=3)
    assert classes == ["cat", "dog", "sofa"]
    assert left_out == {"person": "not an ImageNet class", "boat": "2 positive images"}
    for bad, least in ((dataset.select_classes(["person"]), 1), (dataset, 1000)):
        with pytest.raises(CsraError, match=f"no class to score.*at least {least} positive"):
            covered_classes(bad, min_positives=least)


def test_map_against_lambda():
    dataset, scores = voc_labels().select_classes(["sofa", "cat"]), random_scores()
    rows = map_against_lambda(scores, dataset, [0, 0.2, 1], resamples=200)
    table = {name: read_voc_table()[name] for name in ("sofa", "cat")}
    for row, lam in zip(rows, (0, 0.2, 1), strict=True):
        assert set(row) == {"lam", "softmax", "logits"}
        for pooling in ("softmax", "logits"):
            result = row[pooling]
            pooled = pooled_scores(scores.mean + lam * scores.maximum, table, pooling)
            per_class = average_precision(pooled, dataset.targets)
            assert list(result["per_class_AP"].items()) == list(zip(("sofa", "cat"), per_class, strict=True))
            assert result["mAP"] == pytest.approx(per_class.mean())
            assert result["change"] == pytest.approx(result["mAP"] - rows[0][pooling]["mAP"])
    for pooling in ("softmax", "logits"):
        assert rows[0][pooling]["change"] == rows[0][pooling]["plus_minus"] == 0
        pooled = [pooled_scores(scores.logits(lam), table, pooling).numpy() for lam in (0, 1)]
        drawn = bootstrap_mAP(np.stack(pooled), dataset.targets, resamples=200)
        error = (drawn[1] - drawn[0]).std(ddof=1) * math.sqrt(40 / 39)
        assert rows[2][pooling]["plus_minus"] == pytest.approx(t.isf(0.05 / (2 * 4), 39) * error, rel=1e-6)


def test_one_class_of_one_label_ranks_by_its_own_logit():
    """Flat score maps and a class of one ImageNet class: lambda only stretches the logits, and no image moves."""
    dataset, mean = voc_labels().select_classes(["sofa"]), random_scores().mean
    for row in map_against_lambda(MeanAndMax(mean, mean), dataset, [0, 0.5, 1], resamples=20):
        assert row["logits"]["change"] == pytest.approx(0, abs=1e-9)


def test_voc_four_lines_on_pictures(lite0, tmp_path):
    dataset = toy.load(toy.write_devkit(tmp_path, trainval=1, test=8), "test")
    result = voc_four_lines(lite0, dataset, [0.1], resamples=20)
    assert (result["images"], result["classes"]) == (8, ["cat", "dog"])
    assert result["left_out"] == {"person": "not an ImageNet class"}
    transform = eval_transform(64, mean=lite0.mean, std=lite0.std)
    with torch.no_grad():
        logits = lite0(torch.stack([transform(dataset.image(i)) for i in range(8)]))
    table = {name: read_voc_table()[name] for name in ("cat", "dog")}
    expected = average_precision(pooled_scores(logits, table), dataset.targets[:, :2])
    assert result["rows"][0]["softmax"]["mAP"] == pytest.approx(expected.mean())


# ---- the command -------------------------------------------------------------------------------------------------


def four_lines(capsys, *arguments):
    """The command's standard output."""
    capsys.readouterr()
    main(["four-lines", *map(str, arguments)])
    return capsys.readouterr().out


def refused(capsys, *arguments):
    """The one sentence of a command that must be refused."""
    with pytest.raises(SystemExit) as exit_:
        main(["four-lines", *map(str, arguments)])
    lines = capsys.readouterr().err.strip().splitlines()
    assert exit_.value.code == 2
    assert len(lines) == 1
    return lines[0]


@pytest.mark.usefixtures("lite0")
def test_the_command_on_an_image_folder(tmp_path, capsys):
    folder = write_pictures(tmp_path / "pictures", ["tabby", "151"])
    options = ("--image-size", 64, "--lambdas", 0.1, 1)
    text = four_lines(capsys, LITE0, folder, *options)
    lines = text.splitlines()
    assert lines[0] == f"{LITE0} at 64 px, 4 images, 2 classes of 1000 (in %)"
    assert lines[2].split() == ["lambda", "top-1", "top-5", "change", "+-", "gained", "lost", "p"]
    assert [line.split()[0] for line in lines[3:6]] == ["0", "0.1", "1"]
    assert "over all 1000 logits" in text
    record = json.loads(four_lines(capsys, LITE0, folder, *options, "--limit", 3, "--json"))
    assert set(record) == {
        "model", "weights", "image_size", "folder", "fingerprint", "dataset", "split", "min_positives", "limit",
        "lambdas", "command", "environment", "wall_seconds", "images", "classes", "note", "rows",
    }  # fmt: skip
    assert (record["folder"], record["images"], record["weights"]) == ("pictures", 3, "installed")
    assert [set(row) for row in record["rows"]] == [
        {"lam", "top1", "top5", "change", "plus_minus", "gained", "lost", "p_value"}
    ] * 3
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.usefixtures("lite0")
def test_the_command_on_a_devkit_and_its_record(tmp_path, capsys):
    devkit = toy.write_devkit(tmp_path, trainval=1, test=8)
    out = tmp_path / "new" / "runs.json"
    options = ("--dataset", "voc2012", "--lambdas", 0.1, "--out", out)
    text = four_lines(capsys, LITE0, devkit, *options, "--image-size", 64)
    assert text.splitlines()[0] == f"{LITE0} at 64 px, 8 images, 2 classes (in %)"
    assert text.splitlines()[2].split() == [
        "lambda",
        "mAP",
        "(softmax)",
        "change",
        "+-",
        "mAP",
        "(logits)",
        "change",
        "+-",
    ]
    assert "person (not an ImageNet class)" in text
    shown = json.loads(four_lines(capsys, LITE0, devkit, *options, "--image-size", 32, "--json"))
    runs = json.loads(out.read_text())["runs"]
    assert [run["image_size"] for run in runs] == [64, 32]
    assert runs[1] == shown
    assert set(shown["rows"][0]["logits"]["per_class_AP"]) == {"cat", "dog"}
    assert shown["command"] == (
        f"csra-lab four-lines {LITE0} VOCdevkit --dataset voc2012 --split test --min-positives 1 --image-size 32 "
        "--weights installed --lambdas 0 0.1 --out runs.json"
    )
    assert str(tmp_path) not in json.dumps(shown)
    before = out.read_bytes()
    assert "holds a run with these settings" in refused(capsys, LITE0, devkit, *options, "--image-size", 32)
    assert out.read_bytes() == before
    out.write_text("[]")
    assert "no file of recorded runs" in refused(capsys, LITE0, devkit, *options)
    assert out.read_text() == "[]"


@pytest.fixture
def no_network(monkeypatch):
    """Any name is a classifier that nobody runs."""
    monkeypatch.setattr(
        four_lines_module,
        "imagenet_classifier",
        lambda name, weights, image_size: SimpleNamespace(classes=range(1000), image_size=image_size),
    )


@pytest.mark.usefixtures("no_network")
def test_a_run_that_was_recorded_meanwhile_stays(tmp_path, monkeypatch):
    """Two commands with one --out: the second begins and ends while the first measures."""
    out = tmp_path / "new" / "runs.json"

    def measure(model, **_):
        if not out.exists() and model.image_size == 64:
            run_four_lines("net", tmp_path, image_size=32, out=out)
        return {"images": 1, "classes": 1, "note": "", "rows": []}

    monkeypatch.setattr(four_lines_module, "_accuracy_on", lambda folder, limit: (str(folder), measure))
    run_four_lines("net", tmp_path, image_size=64, out=out)
    assert [run["image_size"] for run in json.loads(out.read_text())["runs"]] == [32, 64]
    assert [path.name for path in out.parent.iterdir()] == ["runs.json"]  # no lock stays


@pytest.mark.usefixtures("no_network")
def test_other_images_are_another_run(tmp_path, monkeypatch):
    """Folders of ImageNet's images are mostly called val."""
    for place, count in (("a", 1), ("b", 2)):
        write_pictures(tmp_path / place / "val", ["281", "282"], each=count)
    monkeypatch.setattr(
        four_lines_module, "folder_four_lines", lambda *_, **__: {"images": 1, "classes": 1, "note": "", "rows": []}
    )
    out = tmp_path / "runs.json"
    run_four_lines("net", tmp_path / "a" / "val", out=out)
    run_four_lines("net", tmp_path / "b" / "val", out=out)
    assert len(json.loads(out.read_text())["runs"]) == 2
    with pytest.raises(CsraError, match="on these images already"):
        run_four_lines("net", tmp_path / "a" / "val", out=out)
    early = json.loads(out.read_text())["runs"][:1]
    del early[0]["fingerprint"]
    out.write_text(json.dumps({"runs": early}))
    with pytest.raises(CsraError, match="on these images already"):
        run_four_lines("net", tmp_path / "b" / "val", out=out)


@pytest.mark.usefixtures("lite0")
def test_bad_input_is_one_sentence(tmp_path, capsys):
    folder = write_pictures(tmp_path / "pictures", ["281"])
    assert "did you mean" in refused(capsys, "tf_efficientnet_lit0", folder)
    assert "has no score maps" in refused(capsys, "mobilenetv3_small_050", folder, "--weights", saved(tmp_path))
    assert "lambda must be" in refused(capsys, LITE0, folder, "--lambdas", "-1")
    assert "at least 1 image" in refused(capsys, LITE0, folder, "--limit", 0)
    assert "no data set 'voc'" in refused(capsys, LITE0, folder, "--dataset", "voc")
    assert "--dataset voc2012" in refused(capsys, LITE0, toy.write_devkit(tmp_path, trainval=1, test=2))
    (folder / "281" / "bad.jpg").write_bytes(b"no picture")
    assert "bad.jpg is not an image" in refused(capsys, LITE0, folder, "--image-size", 64)
    (folder / "281" / "bad.jpg").write_bytes(b"")
    assert "bad.jpg is empty" in refused(capsys, LITE0, folder, "--image-size", 64, "--json")


def saved(folder):
    """The weights of a network that has a layer between the mean feature and its classifier."""
    path = folder / "w.pth"
    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), path)
    return path


@pytest.mark.usefixtures("lite0")
def test_a_network_of_other_classes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("csra_lab.study.four_lines.imagenet_classifier", lambda *_, **__: OtherClasses())
    message = refused(capsys, "resnet18", write_pictures(tmp_path, ["281"]))
    assert "tells 21841 classes apart" in message


class OtherClasses:
    classes = ("x",) * 21841


# ---- what was measured -------------------------------------------------------------------------------------------


def test_the_recorded_runs_agree_with_themselves():
    runs = json.loads((ROOT / "data/runs/four-lines-imagenet.json").read_text("utf-8"))["runs"]
    assert {(run["model"][-5:], run["image_size"]) for run in runs} == {
        ("lite0", 224), ("lite1", 240), ("lite2", 260), ("lite0", 448), ("lite1", 448), ("lite2", 448),
    }  # fmt: skip
    assert len({run["targets_sha256"] for run in runs}) == 1  # the same images and labels throughout
    for run in runs:
        assert run["images"] == 1219
        assert len(run["classes"]) == 11
        assert [row["lam"] for row in run["rows"]] == list(LAMBDAS) == run["lambdas"]
        for pooling in ("softmax", "logits"):
            start = run["rows"][0][pooling]["mAP"]
            for row in run["rows"]:
                result = row[pooling]
                assert list(result["per_class_AP"]) == run["classes"]
                assert np.mean(list(result["per_class_AP"].values())) == pytest.approx(result["mAP"], abs=1e-5)
                assert result["mAP"] - start == pytest.approx(result["change"], abs=1e-5)
