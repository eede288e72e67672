"""The grid: resumed run by run, recorded as it goes, and its intervals those of the scores themselves."""

import dataclasses
import json
import shutil
import time

import numpy as np
import pandas as pd
import pytest

from csra_lab._io.arrays import write_arrays
from csra_lab.catalog import load_dataset
from csra_lab.claims import measure_claims
from csra_lab.classifier import MultiLabelClassifier
from csra_lab.cli import main
from csra_lab.errors import ConfigError, DataError, MissingFile
from csra_lab.metrics import multilabel_metrics
from csra_lab.recipes import RECIPES
from csra_lab.significance import draw_images, weighted_mAP
from csra_lab.study import grid as module
from csra_lab.study import grid_runner
from csra_lab.study.grid import GRIDS, HEADS, Run, drawn_grid, paper_grid
from csra_lab.study.grid_draws import KEY, UNIT, pack_draws, write_draws
from csra_lab.study.grid_record import backbone_claims, earlier_record, gain, mean_gain, read_record, side_by_side
from csra_lab.study.grid_runner import GridRunner, finished
from csra_lab.study.pretraining import FIRST, load_scenes
from csra_lab.synthetic.emoji_voc import IMAGES, labels_of, picture, prepare_emoji_voc, scene
from csra_lab.synthetic.paperdoll_wider import prepare_paperdoll_wider
from csra_lab.training.evaluation import evaluate
from csra_lab.training.run_folder import read_evaluation, save_evaluation

PAPERDOLL, EMOJI = "paperdoll-wider", "emoji-voc"
BOTH = drawn_grid(
    "toy", "a test", backbones=("test_resnet", "test_vit"), image_size=64, scenes=16, pretraining_epochs=1,
    sets={EMOJI: {"subset": 16}, PAPERDOLL: {"subset": 8}}, epochs=1, batch_size=8, seeds=2, test_items=24,
)  # fmt: skip
TOY = dataclasses.replace(BOTH, recipes={key: r for key, r in BOTH.recipes.items() if key[1] == EMOJI})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return {
        "emoji-voc": prepare_emoji_voc(cache, image_size=64, size="tiny"),
        "paperdoll-wider": prepare_paperdoll_wider(cache, size="tiny"),
    }


def runner(out, data, **options):
    return GridRunner(TOY, out, data=data, root=out.parent, progress=False, **options)


@pytest.fixture(scope="module")
def filled(tmp_path_factory, data):
    """A toy grid, filled in two goes; what was said, and what was left after the first."""
    out, said = tmp_path_factory.mktemp("grid") / "runs", []
    runs = list(TOY.runs())
    left = runner(out, data, log=said.append).fill(runs[:3])
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/scores.npz")}
    open_after = runner(out, data, log=said.append).fill()
    return out, said, left, before, open_after


def test_the_grid_is_resumed_run_by_run(filled):
    out, said, left, before, open_after = filled
    assert left == open_after == []
    assert len(before) == 3
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())  # none was run again
    assert all(finished(out / run.name) for run in TOY.runs())
    assert not list(out.glob("*-[0-9]/model"))  # weights of fine-tuned runs do not stay
    assert len(list(out.glob("*-pretraining/model"))) == 2
    assert said[-1] == "8 of 8 runs are done"
    assert any("minutes are left" in line for line in said)


def test_every_first_seed_comes_first():
    assert [run.seed for run in TOY.runs()] == [0] * 4 + [1] * 4
    assert len(set(TOY.runs())) == 8


def test_both_heads_start_from_the_same_pretraining_and_differ_in_the_head_alone(filled):
    out = filled[0]
    for run in TOY.runs():
        twins = [
            json.loads((out / dataclasses.replace(run, head=head).name / "recipe.json").read_text())["recipe"]
            for head in module.HEADS
        ]
        assert {part for part in twins[0] if twins[0][part] != twins[1][part]} == {"name", "head"}
        assert twins[0]["model"]["weights"].endswith(f"{run.backbone}-pretraining/model/model.safetensors")
        assert twins[0]["optimisation"]["augmentation"] == "flip"
        assert "crop_ratio" not in twins[0]["optimisation"]  # nothing is cut off people


def test_a_history_without_its_images_is_not_recorded(filled, data, tmp_path):
    out = tmp_path / "runs"
    shutil.copytree(filled[0], out)
    path = out / next(TOY.runs()).name / "history.csv"
    pd.read_csv(path).drop(columns="images").to_csv(path, index=False)
    with pytest.raises(DataError, match="how many images"):
        runner(out, data).update_record()


def test_a_record_of_other_test_items_is_said_before_a_run_is_trained(filled, data, tmp_path, monkeypatch):
    record = shutil.copytree(filled[0] / "record", tmp_path / "record")
    about = json.loads((record / "run.json").read_text())
    about["test_sets"][EMOJI]["fingerprint"] = "0" * 16
    (record / "run.json").write_text(json.dumps(about))
    monkeypatch.setattr(grid_runner, "train", None)
    with pytest.raises(DataError, match=f"scores of other items of {EMOJI}"):
        runner(tmp_path / "runs", data, record=record).fill()


def test_the_record_says_what_the_runs_said(filled):
    record = read_record(filled[0] / "record")
    assert len(record.results) == 8
    assert len(record.classes) == 8 * 20
    assert set(record.history.dataset) == {"pretraining", EMOJI}
    for run in TOY.runs():
        metrics = json.loads((filled[0] / run.name / "metrics.json").read_text())
        row = record.results.set_index(["backbone", "dataset", "head", "seed"]).loc[dataclasses.astuple(run)]
        assert row.mAP == pytest.approx(metrics["mAP"], abs=1e-6)
        assert record.draws[run.name][0] == pytest.approx(metrics["mAP"], abs=1 / UNIT)
        assert row.images == 16  # two batches of 8
    text = (filled[0] / "record" / "run.json").read_text()
    assert str(filled[0]) not in text  # no path of this machine
    assert record.seeds("test_vit", "emoji-voc", "csra") == [0, 1]
    assert 0 < record.about["test_sets"][EMOJI]["chance_mAP"] < 1


def test_a_record_with_a_line_for_each_class_is_still_read(filled, tmp_path):
    """As earlier versions wrote them."""
    key = ["backbone", "dataset", "head", "seed", "class"]
    now = read_record(filled[0] / "record").classes.set_index(key).sort_index()
    shutil.copytree(filled[0] / "record", tmp_path / "record")
    now.reset_index().to_csv(tmp_path / "record" / "classes.csv", index=False)
    pd.testing.assert_frame_equal(read_record(tmp_path / "record").classes.set_index(key).sort_index(), now)
    metrics = json.loads((filled[0] / "test_vit-emoji-voc-csra-1" / "metrics.json").read_text())
    kept = now.loc["test_vit", "emoji-voc", "csra", 1].AP.reindex(metrics["classes"])
    assert kept.to_numpy(float) == pytest.approx(np.array(metrics["per_class_AP"], float), abs=1e-4, nan_ok=True)


def test_claims_across_grids_are_those_of_one(filled):
    """A record beside itself: the gains are its own, and they do not differ between the two."""
    record = read_record(filled[0] / "record")
    both = side_by_side({"small": record, "large": record})
    for mean_over in ("classes", "positives"):
        alone = record.measure(gain("test_vit"), EMOJI, mean_over=mean_over)
        for name in ("small", "large"):
            found = both.measure(gain(f"test_vit@{name}"), EMOJI, mean_over=mean_over)
            assert (found.difference, found.lower, found.upper) == (alone.difference, alone.lower, alone.upper)
        _, more = backbone_claims(["test_vit@small", "test_vit@large"])["test_vit@small", "test_vit@large"]
        same = both.measure(more, EMOJI, mean_over=mean_over)
        assert same.lower == same.difference == same.upper == 0
    assert both.cells(seeds=2) == [(f"{b}@{name}", EMOJI) for name in ("small", "large") for b in TOY.backbones]
    other = {**record.about, "test_sets": {EMOJI: {**record.about["test_sets"][EMOJI], "fingerprint": "another"}}}
    with pytest.raises(DataError, match="other items of emoji-voc"):
        side_by_side({"small": record, "large": dataclasses.replace(record, about=other)})


@pytest.mark.parametrize("mean_over", ["classes", "positives"])
def test_intervals_are_those_of_the_scores(filled, data, mean_over):
    """Recorded draws, and `measure_claims` on all scores: the same to the rounding of the draws."""
    record = read_record(filled[0] / "record")
    test_set = load_dataset(EMOJI, data[EMOJI], "test").subset(range(24))
    claims = [gain("test_vit"), mean_gain(TOY.backbones), *backbone_claims(TOY.backbones)["test_resnet", "test_vit"]]
    scores = {
        f"{b}-{h}": np.stack([read_evaluation(filled[0] / Run(b, EMOJI, h, seed).name).scores for seed in range(2)])
        for b in TOY.backbones
        for h in module.HEADS
    }
    many = {"groups": np.array(test_set.keys), "mean_over": mean_over, "comparisons": 7}
    expected = measure_claims(claims, scores, test_set.targets, **many)
    for claim, there in zip(claims, expected, strict=True):
        here = record.measure(claim, EMOJI, mean_over=mean_over, comparisons=7)
        assert (here.difference, here.lower, here.upper) == pytest.approx(
            (there.difference, there.lower, there.upper), rel=1e-2, abs=1 / UNIT
        )


def test_people_of_one_photograph_are_drawn_together(data, tmp_path):
    test_set = load_dataset(PAPERDOLL, data[PAPERDOLL], "test")
    assert len(set(test_set.keys)) < len(test_set)
    scores = np.random.default_rng(0).random(test_set.targets.shape)
    save_evaluation(tmp_path, test_set, multilabel_metrics(scores, test_set.targets), scores)
    write_draws(tmp_path, test_set)
    with np.load(tmp_path / "draws.npz") as stored:
        draws = {mean_over: stored[mean_over] / 65_535 for mean_over in ("classes", "positives")}
    assert draws["classes"][0] == pytest.approx(multilabel_metrics(scores, test_set.targets).mAP, abs=1e-5)
    weights = draw_images(len(test_set), groups=np.array(test_set.keys), resamples=len(draws["classes"]) - 1)
    for mean_over, each in draws.items():
        expected = weighted_mAP(scores, test_set.targets, weights, mean_over=mean_over)
        assert each[1:] == pytest.approx(expected, abs=1 / UNIT)


def test_a_record_without_draws_by_positives_is_read(filled, tmp_path):
    """As the earliest were measured."""
    record = shutil.copytree(filled[0] / "record", tmp_path / "record")
    with np.load(record / "draws.npz") as stored:
        classes, positives = (stored[f"{EMOJI}, {mean}"] for mean in ("classes", "positives"))
    write_arrays(record / "draws.npz", {f"{EMOJI}, classes": classes, f"{EMOJI}, positives": 0 * positives})
    read = read_record(record)
    assert set(read.draws) == {run.name for run in TOY.runs()}
    assert read.measure(gain("test_vit"), EMOJI) == read_record(filled[0] / "record").measure(gain("test_vit"), EMOJI)
    assert read.measure(gain("test_vit"), EMOJI, mean_over="positives") is None


def test_one_seed_has_no_interval_and_an_empty_cell_no_score(filled):
    record = read_record(filled[0] / "record")
    one = dataclasses.replace(record, results=record.results[record.results.seed == 0])
    assert one.measure(gain("test_vit"), "emoji-voc") is None
    difference, low, high = one.one_seed_gain("test_vit", "emoji-voc")
    draws = one.draws["test_vit-emoji-voc-csra-0"] - one.draws["test_vit-emoji-voc-avg-0"]
    assert difference == draws[0]
    assert (low + high) / 2 == pytest.approx(difference)
    centred = draws[1:] - draws[1:].mean()
    assert (np.abs(centred) <= (high - low) / 2).mean() == pytest.approx(0.955, abs=0.03)
    assert record.one_seed_gain("test_vit", "emoji-voc") is None
    assert np.isnan(record.mAP("vitb16", "emoji-voc", "avg"))
    assert record.measure(gain("vitb16"), "emoji-voc") is None


def test_no_run_is_started_that_would_end_too_late(filled, data, tmp_path):
    slow = runner(tmp_path / "none", data, log=lambda line: None)
    assert len(slow.fill(deadline=time.monotonic() - 1)) == 8
    assert not list((tmp_path / "none").glob("*"))
    there = runner(filled[0], data)
    assert there.seconds(Run("test_vit", "emoji-voc", "avg", 0)) > 0
    assert there.pretraining_seconds("test_vit") == 0


def test_a_speed_is_inferred_from_another_backbone(tmp_path):
    (tmp_path / "resnet18-pretraining").mkdir()
    pd.DataFrame({"images_per_second": [70.0, 78.0, 90.0]}).to_csv(
        tmp_path / "resnet18-pretraining" / "history.csv", index=False
    )
    there = GridRunner(GRIDS["small"], tmp_path)
    assert there.speed("resnet18") == 78
    assert there.speed("resnet101") == pytest.approx(78 * 1.81 / 7.80)


def test_a_run_that_fails_does_not_stop_the_others(tmp_path, data, monkeypatch):
    real = grid_runner.train

    def train(recipe, *arguments, **options):
        if recipe.run.seed == 0 and recipe.data.dataset == "emoji-voc" and recipe.optimisation.epochs == 1:
            raise ConfigError("no")
        return real(recipe, *arguments, **options)

    grid = dataclasses.replace(BOTH, pretraining={})
    monkeypatch.setattr(grid_runner, "train", train)
    there = GridRunner(grid, tmp_path / "runs", data=data, log=lambda line: None, progress=False)
    with pytest.raises(ConfigError, match="no"):
        there.fill([Run("test_resnet", d, "avg", 0) for d in grid.datasets])
    assert there.is_done(Run("test_resnet", PAPERDOLL, "avg", 0))


def test_a_torn_record_is_refused(filled, tmp_path):
    with pytest.raises(MissingFile, match="holds no record"):
        read_record(tmp_path)
    for path in (filled[0] / "record").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    results = pd.read_csv(tmp_path / "results.csv")
    for other in (results.iloc[:-1], results.iloc[::-1]):  # a run less, and each run's draws beside another's name
        other.to_csv(tmp_path / "results.csv", index=False)
        with pytest.raises(DataError, match="holds no record"):
            read_record(tmp_path)
    results.to_csv(tmp_path / "results.csv", index=False)
    read_record(tmp_path)
    whole = (tmp_path / "draws.npz").read_bytes()
    for torn in (b"x", b"", whole[:-5], whole[: len(whole) // 2], bytes(len(whole))):
        (tmp_path / "draws.npz").write_bytes(torn)
        with pytest.raises(DataError, match="holds no record"):
            read_record(tmp_path)
    (tmp_path / "draws.npz").write_bytes(whole)
    about = json.loads((tmp_path / "run.json").read_text())
    for other in ([], None, about | {"recipes": {}}, {k: v for k, v in about.items() if k != "grid"}):
        (tmp_path / "run.json").write_text(json.dumps(other))
        with pytest.raises(DataError, match="holds no record"):
            read_record(tmp_path)


def drawn(names):
    """The names of the draws of runs."""
    return {f"{name}{end}" for name in names for end in ("", ", positives")}


def without(record, folder, names):
    """A copy of a record without some of its runs, as if they had not been run yet."""
    shutil.copytree(record, folder)
    results = pd.read_csv(folder / "results.csv")
    for table in ("results", "classes", "history"):
        rows = pd.read_csv(folder / f"{table}.csv")
        rows[~named(rows).isin(names)].to_csv(folder / f"{table}.csv", index=False)
    with np.load(folder / "draws.npz") as stored:
        kept = {
            key: stored[key][~named(results[results.dataset == key.split(", ")[0]]).isin(names)] for key in stored.files
        }
    write_arrays(folder / "draws.npz", {key: rows for key, rows in kept.items() if len(rows)})
    return folder


def named(rows):
    """The names of the runs of a table's rows."""
    return rows.backbone + "-" + rows.dataset + "-" + rows["head"] + "-" + rows.seed.astype(str)


def test_a_record_is_gone_on_with_where_its_runs_are_not(filled, data, tmp_path):
    """As after cloning a repository that holds the record: what is missing is run, and nothing recorded is lost."""
    missing = Run("test_resnet", EMOJI, "csra", 1)
    record = without(filled[0] / "record", tmp_path / "record", {missing.name})
    before = read_record(record)
    there = runner(tmp_path / "runs", data, record=record, log=lambda line: None)
    assert there.fill() == []
    after = read_record(record)
    # The twin with average pooling is run again, so that both start from one pretraining.
    twins = {missing.with_head(head).name for head in HEADS}
    assert {path.parent.name for path in (tmp_path / "runs").glob("*-[01]/metrics.json")} == twins
    assert set(after.draws) == drawn(run.name for run in TOY.runs())
    for name in set(before.draws) - drawn(twins):
        assert np.array_equal(after.draws[name], before.draws[name])
    kept = [table[table.backbone == "test_vit"].reset_index(drop=True) for table in (before.results, after.results)]
    pd.testing.assert_frame_equal(*kept)
    assert len(after.classes) == len(after.results) * 20
    assert not after.history.duplicated(["backbone", "dataset", "head", "seed", "epoch"]).any()
    assert after.about["runs"] == 8


def test_a_grid_is_filled_data_set_by_data_set(data, tmp_path):
    """And says from the first of them on what is still to come."""
    grid = dataclasses.replace(BOTH, pretraining={}, seeds=1)
    grid = dataclasses.replace(grid, recipes={key: r for key, r in BOTH.recipes.items() if key[0] == "test_resnet"})
    of_paperdoll = {key: recipe for key, recipe in grid.recipes.items() if key[1] == PAPERDOLL}
    record, recorded = tmp_path / "record", []
    for dataset in grid.datasets:
        runs = [run for run in grid.runs() if run.dataset == dataset]
        # As a set that is not drawn: it is nowhere but where the reader says.
        there = GridRunner(grid, tmp_path, data=data, progress=False, log=lambda line: None)
        there.folders = {dataset: data[dataset]}
        assert there.fill(runs) == []
        read = read_record(record)
        recorded.append(len(read.results))
        assert read.about["runs"] == 4
        assert set(read.about["recipes"]) == {f"test_resnet-{d}" for d in grid.datasets}
        other = dataclasses.replace(grid, recipes=grid.recipes | changed(of_paperdoll, epochs=7))
        if dataset == EMOJI:  # of a recipe without recorded runs nothing is lost when it changes
            assert earlier_record(other, record) is not None
        else:
            with pytest.raises(ConfigError, match="with other recipes"):
                earlier_record(other, record)
    assert recorded == [2, 4]


def test_a_record_of_other_recipes_or_items_is_not_written_over(filled, data, tmp_path):
    record = shutil.copytree(filled[0] / "record", tmp_path / "record")
    held = {path.name: path.read_bytes() for path in record.iterdir()}
    longer = {cell: recipe.replace(epochs=7) for cell, recipe in TOY.recipes.items()}
    with pytest.raises(ConfigError, match="with other recipes; name another folder"):
        GridRunner(dataclasses.replace(TOY, recipes=longer), tmp_path / "runs", data=data, record=record)
    fewer = dataclasses.replace(TOY, test_items=23, seeds=3)
    there = GridRunner(
        fewer, tmp_path / "runs", data=data, record=record, root=filled[0].parent, progress=False, log=lambda line: None
    )
    with pytest.raises(DataError, match="scores of other items of emoji-voc"):
        there.fill([Run("test_resnet", EMOJI, "avg", 2)])
    assert {path.name: path.read_bytes() for path in record.iterdir()} == held


def test_a_record_that_had_stepped_aside_for_a_kill_is_put_back(filled, data, tmp_path):
    """A kill between the two renames of `atomic_write` leaves the record beside its place, and none in it."""
    record = shutil.copytree(filled[0] / "record", tmp_path / "record")
    (tmp_path / ".record.xxx").mkdir()
    record.rename(tmp_path / ".record.xxx/record.before")
    there = runner(tmp_path / "elsewhere", data, record=record)
    assert all(map(there.is_done, TOY.runs()))
    assert set(read_record(record).draws) == drawn(run.name for run in TOY.runs())
    assert not list(tmp_path.glob(".record.*"))


def test_what_a_kill_left_half_written_goes_with_the_next_writing(filled, data, tmp_path):
    record = shutil.copytree(filled[0] / "record", tmp_path / "record")
    (tmp_path / ".record.xxx/record").mkdir(parents=True)
    runner(filled[0], data, record=record)
    assert (tmp_path / ".record.xxx").exists()  # who only reads leaves alone what another process may be writing
    runner(filled[0], data, record=record).update_record()
    assert not list(tmp_path.glob(".record.*"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_four_lines_of_no_weight_score_as_the_run_did(filled, data, tmp_path, precision):
    only = {key: r.replace(precision=precision) for key, r in TOY.recipes.items() if key[0] == "test_resnet"}
    grid = dataclasses.replace(
        TOY, recipes=only, pretraining={}, weight_files={"test_resnet": "model.safetensors"}, four_lines=0.0
    )
    run, weights = Run("test_resnet", EMOJI, "avg", 0), filled[0] / "test_resnet-pretraining/model"
    GridRunner(grid, tmp_path, data=data, weights=weights, progress=False, log=lambda line: None).fill([run])
    own, lines = (read_evaluation(tmp_path / run.name / part).scores for part in ("", module.FOUR_LINES))
    np.testing.assert_array_equal(own, lines)


def test_a_folder_of_other_files_does_not_become_a_record(data, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="other files, which would be replaced; name another folder with --record"):
        runner(tmp_path / "runs", data, record=tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_record_holds_runs_of_one_kind_alone(filled, data, tmp_path):
    """One pretraining, one lambda of the four lines, one training set; and as many seeds as it ever had."""
    record = shutil.copytree(filled[0] / "record", tmp_path / "record")
    longer = dataclasses.replace(TOY, pretraining=changed(TOY.pretraining, epochs=2))
    for other in (longer, dataclasses.replace(TOY, four_lines=0.2)):
        with pytest.raises(ConfigError, match="with other recipes"):
            earlier_record(other, record)
    there = GridRunner(dataclasses.replace(TOY, seeds=1), filled[0], record=record, data=data, progress=False)
    there.update_record()
    about = read_record(record).about
    assert (about["seeds"], about["runs"]) == (2, 8)
    about["train_sets"][EMOJI]["fingerprint"] = "0" * 16
    (record / "run.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="runs trained on other items of emoji-voc"):
        there.update_record()


def test_torn_draws_of_a_run_are_drawn_again(filled, data, tmp_path):
    moved = shutil.copytree(filled[0], tmp_path / "moved")
    draws = moved / next(TOY.runs()).name / "draws.npz"
    whole = draws.read_bytes()
    draws.write_bytes(whole[: len(whole) // 2])
    runner(moved, data).update_record()
    assert draws.read_bytes() == whole


def changed(recipes, **fields):
    return {key: recipe.replace(**fields) for key, recipe in recipes.items()}


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        (
            dataclasses.replace(TOY, recipes=changed(TOY.recipes, epochs=5)),
            r"test_resnet-emoji-voc-avg-0 holds a finished run of another recipe \(epochs is 1 there and 5 here\); "
            "name another folder with --out",
        ),
        (
            dataclasses.replace(TOY, pretraining=changed(TOY.pretraining, epochs=3)),
            r"test_resnet-pretraining holds a finished run of another recipe \(epochs is 1 there and 3 here\)",
        ),
    ],
)
def test_finished_runs_of_another_recipe_are_not_recorded(filled, data, tmp_path, grid, says):
    record = tmp_path / "record"
    there = GridRunner(grid, filled[0], record=record, data=data, progress=False, log=lambda line: None)
    with pytest.raises(ConfigError, match=says):
        there.fill()
    assert not record.exists()


def test_finished_runs_that_were_moved_are_recorded(filled, data, tmp_path):
    """Their recipes name the pretrained weights in the folder of before."""
    moved = shutil.copytree(filled[0], tmp_path / "moved")
    said = []
    assert runner(moved, data, record=tmp_path / "record", log=said.append).fill() == []
    assert said == []  # none was run again
    assert len(read_record(tmp_path / "record").results) == 8


def test_a_finished_run_on_other_images_is_refused_where_they_are_read_already(filled, data, tmp_path):
    train_set = load_dataset(EMOJI, data[EMOJI], "trainval")
    fewer = {(EMOJI, "trainval"): train_set.subset(range(len(train_set) - 1))}
    there = runner(filled[0], data, record=tmp_path / "record", loaded=fewer)
    with pytest.raises(ConfigError, match="avg-0 holds a finished run on other data than emoji-voc trainval here"):
        there.fill()
    same = runner(filled[0], data, record=tmp_path / "record", loaded={(EMOJI, "trainval"): train_set})
    assert same.fill() == []


def test_a_run_is_not_trained_beside_finished_ones_on_other_images(filled, data, tmp_path, monkeypatch):
    moved = shutil.copytree(filled[0], tmp_path / "moved")
    shutil.rmtree(moved / "test_vit-emoji-voc-csra-1")
    trained = []
    monkeypatch.setattr(grid_runner, "train", lambda *_, **__: trained.append(True))

    def load(dataset, folder, split, classes):
        whole = load_dataset(dataset, folder, split, classes=classes)
        return whole.subset(range(len(whole) - 1)) if split == "trainval" else whole

    monkeypatch.setattr(grid_runner, "load_dataset", load)
    with pytest.raises(ConfigError, match="avg-0 holds a finished run on other data"):
        runner(moved, data, record=tmp_path / "record", log=lambda line: None).fill()
    assert trained == []


# ---- what is trained on ----------------------------------------------------------------------------------------------


def test_scenes_are_fresh_and_as_emoji_voc_draws_them(tmp_path):
    scenes = load_scenes(6, image_size=64, root=tmp_path, workers=1, progress=False)
    assert max(counts[0] for counts in IMAGES.values()) <= FIRST
    assert scenes.name == "emoji-scenes-1-64px-6"
    for i in range(6):
        voc = {-1: 0, 0: -1, 1: 1}  # the lists' values, and the lab's
        assert scenes.targets[i].tolist() == [voc[v] for v in labels_of(scene("trainval", FIRST + i))]
    pixels = np.asarray(picture("trainval", FIRST + 5, 64), dtype=float)
    assert np.abs(np.asarray(scenes.image(5), dtype=float) - pixels).mean() < 6  # as JPEG keeps them
    with pytest.raises(Exception, match="1 to 10,000,000"):
        load_scenes(0, image_size=64, root=tmp_path)


# ---- from ImageNet weights -------------------------------------------------------------------------------------------


def test_four_lines_are_scored_on_the_run_with_average_pooling(filled, data, tmp_path):
    """Weights come from a folder where nothing is pretrained, and what stopped before the lines goes on there."""
    weights = filled[0] / "test_resnet-pretraining/model"
    only = {key: r for key, r in TOY.recipes.items() if key[0] == "test_resnet"}
    grid = dataclasses.replace(
        TOY, recipes=only, pretraining={}, weight_files={"test_resnet": "model.safetensors"}, four_lines=0.3
    )
    runs, out = list(grid.runs())[:2], tmp_path / "runs"
    there = GridRunner(grid, out, data=data, weights=weights, keep_models=True, progress=False, log=lambda line: None)
    there.fill(runs)
    average = Run("test_resnet", EMOJI, "avg", 0)
    recipe = json.loads((out / average.name / "recipe.json").read_text())["recipe"]
    assert recipe["model"]["weights"] == str(weights / "model.safetensors")
    record = read_record(out / "record")
    assert sorted(record.results["head"]) == ["avg", "csra", "lines"]
    assert sorted(record.trained["head"]) == ["avg", "csra"]
    assert set(record.draws) == drawn(f"test_resnet-{EMOJI}-{head}-0" for head in ("avg", "csra", "lines"))
    test_set = there.test_set(average)
    model = MultiLabelClassifier.from_pretrained(out / average.name / "model")
    expected, _ = evaluate(model.with_four_lines(0.3), test_set)
    assert record.mAP("test_resnet", EMOJI, "lines") == pytest.approx(expected.mAP, abs=1e-6)
    assert record.cells(seeds=1) == [("test_resnet", EMOJI)]
    assert record.cells(seeds=2) == []
    assert record.mAP("test_resnet", EMOJI, "lines") != record.mAP("test_resnet", EMOJI, "avg")
    assert gain("b", "lines").terms == (("b-lines", 1.0), ("b-avg", -1.0))
    assert mean_gain(["b"], "lines").terms == gain("b", "lines").terms

    def elsewhere(without: str | None) -> GridRunner:
        """Where only a copy of the record is, without the rows of one head."""
        copied = tmp_path / f"without {without}"
        shutil.copytree(out / "record", copied)
        kept = record.results[record.results["head"] != without].sort_values(KEY)
        kept.to_csv(copied / "results.csv", index=False)
        names = {Run(*key).name for key in kept[KEY].itertuples(index=False)}
        draws = {name: each for name, each in record.draws.items() if name.split(",")[0] in names}
        write_arrays(copied / "draws.npz", pack_draws(kept, draws))
        return GridRunner(grid, tmp_path / "elsewhere", record=copied, data=data, progress=False)

    assert all(map(elsewhere(None).is_done, runs))
    for head in ("lines", "csra"):
        assert not any(map(elsewhere(head).is_done, runs))

    trained = (out / average.name / "scores.npz").stat().st_mtime_ns
    shutil.rmtree(out / average.name / "lines")  # as if it was stopped before
    assert not there.is_done(average)
    there.keep_models = False
    assert there.fill(runs) == []
    stronger = GridRunner(
        dataclasses.replace(grid, four_lines=0.9), out, record=tmp_path / "r", data=data, weights=weights
    )
    with pytest.raises(ConfigError, match="was scored with lambda"):
        stronger.is_done(average)
    assert (out / average.name / "scores.npz").stat().st_mtime_ns == trained
    assert not (out / average.name / "model").exists()


def test_the_grid_of_photographs_starts_from_imagenet_and_tests_what_training_has_not_seen(tmp_path):
    grid = GRIDS["photographs"]
    assert grid.four_lines == 0.2
    assert not grid.pretraining
    for (backbone, dataset), csra in grid.recipes.items():
        assert csra.data.dataset == dataset
        assert csra.data.train_split != csra.data.test_split
        assert not csra.expected  # the recipe that it comes from has a score of its own
        assert (csra.model.weights == "hub") == (backbone in grid.weight_files)
        drawn = GRIDS["drawn-start"].recipes["vitb16", dataset]
        assert drawn.data == csra.data  # so that the start is what differs, and the pixels
        assert drawn.optimisation.epochs == csra.optimisation.epochs
    run = Run("mobilenetv2", "voc2012", "csra", 1)
    assert grid.recipe(run, tmp_path, tmp_path).model.weights == str(tmp_path / grid.weight_files["mobilenetv2"])
    assert grid.recipe(run, tmp_path).model.weights == "hub"


# ---- the paper's grid ------------------------------------------------------------------------------------------------


def test_the_papers_grid_is_the_papers_recipes(tmp_path):
    grid = GRIDS["paper"]
    assert grid.datasets == ("voc2007", "wider")
    assert grid.recipe(Run("resnet101", "voc2007", "csra", 0), None) == RECIPES["resnet101-csra_voc07-448px"]
    assert grid.recipe(Run("vitb16", "wider", "avg", 2), None) == RECIPES["vitb16-avg_wider-224px"].replace(seed=2)
    with pytest.raises(ConfigError, match="not 'photos'"):
        paper_grid(("photos",))
    with pytest.raises(ConfigError, match="--data voc2007 FOLDER"):
        GridRunner(grid, tmp_path).fill()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["large"], "there is no grid 'large'"),
        (["--data", "voc2007"], "takes a data set and its folder"),
        (["--data", "photos", "x"], "not 'photos'"),
        (["--backbones", "vgg16"], "not 'vgg16'"),
        (["--seeds", "0"], "at least 1"),
        (["--backbones", "--data", "voc2007", "x"], "names none"),
        (["--data", "voc2007", "x", "voc2007", "y"], "names voc2007 twice"),
        (["paper"], "say where voc2007 lies"),
        (["photographs"], "say where voc2012 lies"),
        (["photographs", "--data", "wider", "x"], "has the data sets voc2012, coco2014, not 'wider'"),
    ],
)
def test_the_command_refuses_in_one_sentence(arguments, sentence, capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        main(["grid", *arguments, "--out", str(tmp_path)])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_the_command_fills_and_says_what_is_done(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setitem(module.GRIDS, "small", dataclasses.replace(BOTH, seeds=1, pretraining={}))
    folders = [part for name, folder in data.items() for part in (name, str(folder))]
    command = ["grid", "small", "--data", *folders, "--out", str(tmp_path), "--backbones", "test_resnet"]
    main([*command, "--quiet", "--record", str(tmp_path / "record")])
    record = read_record(tmp_path / "record")
    assert len(record.results) == 4
    assert record.about["test_sets"][PAPERDOLL]["units"] < record.about["test_sets"][PAPERDOLL]["items"]
    main([*command, "--status"])
    assert capsys.readouterr().out.count("done") >= 4
