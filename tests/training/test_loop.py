"""The loop against itself: resumed, killed, split over processes, with more workers; and what it refuses."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from csra_lab import MultiLabelClassifier, create_classifier
from csra_lab.datasets.transforms import eval_transform
from csra_lab.device import training_settings
from csra_lab.errors import ConfigError, CsraError
from csra_lab.losses import BCE, WeightedBCE
from csra_lab.recipes import Recipe, average_twin, learning_rate_factor
from csra_lab.training import checkpoint, loop, processes, run_folder
from csra_lab.training.data import check_test_set, split_off
from csra_lab.training.evaluation import evaluate
from csra_lab.training.loop import Trainer, build_model, train
from csra_lab.training.processes import share_statistics
from csra_lab.training.run_folder import from_logits, is_finished
from csra_lab.training.sampling import sample_images
from tests import toy

ROOT = Path(__file__).resolve().parents[2]
# A tiny ViT: no batch statistics, so that one process and two compute the same thing.
VIT = Recipe.of(
    name="toy", dataset="voc2012", backbone="test_vit", image_size=64, weights="none", classes=toy.CLASSES, epochs=3,
    batch_size=8, optimizer="adamw", backbone_lr=1e-3, head_lr=1e-2, schedule="cosine", warmup_epochs=0.5,
    validation_fraction=0.25, lam=0.3,
)  # fmt: skip
CONV = VIT.replace(backbone="test_efficientnet", name="toy-conv")


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    return toy.write_devkit(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def sets(devkit):
    return toy.load(devkit, "trainval"), toy.load(devkit, "test")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def assert_same_bits(a: Path, b: Path) -> None:
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_learns_and_leaves_the_folder_it_promises(sets, tmp_path):
    recipe = CONV.replace(epochs=12, head_lr=3e-2, backbone_lr=5e-3)
    result = train(recipe, *sets, tmp_path / "run", progress=False)
    assert result.history.train_loss.iloc[-1] < 0.6 * result.history.train_loss.iloc[0]
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert files == {"recipe.json", "history.csv", "model", "metrics.json", "scores.npz"}

    again, scores = evaluate(MultiLabelClassifier.from_pretrained(tmp_path / "run" / "model"), sets[1])
    assert again.mAP == pytest.approx(result.metrics.mAP)
    np.testing.assert_allclose(scores, result.scores, atol=1e-5)
    recorded = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert recorded["mAP"] == pytest.approx(result.metrics.mAP)
    stored = np.load(tmp_path / "run" / "scores.npz")
    np.testing.assert_allclose(from_logits(stored["logits"]), scores, atol=1e-2)
    np.testing.assert_array_equal(stored["targets"], sets[1].targets)


def test_a_cut_training_set_is_trained_on_as_if_it_were_all_there_is(sets, tmp_path):
    cut = VIT.replace(epochs=1, subset=16)
    train(cut, *sets, tmp_path / "cut", progress=False)
    whole = cut.replace(subset=None)
    train(whole, sets[0].subset(sample_images(sets[0], 16)), sets[1], tmp_path / "whole", progress=False)
    assert_same_bits(tmp_path / "cut", tmp_path / "whole")


def test_the_best_epoch_is_chosen_on_held_out_training_pictures(sets, tmp_path):
    result = train(CONV.replace(epochs=5), *sets, tmp_path / "run", progress=False)
    best = result.history.validation_mAP.max()
    held = split_off(CONV, sets[0]).held_out
    metrics, _ = evaluate(result.model, sets[0].subset(held))
    assert metrics.mAP == pytest.approx(best, abs=1e-6)


def test_the_test_set_changes_nothing(sets, tmp_path):
    train(VIT, *sets, tmp_path / "with", progress=False)
    train(VIT, sets[0], None, tmp_path / "without", progress=False)
    assert_same_bits(tmp_path / "with", tmp_path / "without")


@pytest.mark.parametrize("change", [{}, {"ema_decay": 0.9, "backbone": "test_efficientnet"}, {"freeze_backbone": True}])
def test_a_run_stopped_anywhere_goes_on_to_the_same_bits(sets, tmp_path, monkeypatch, change):
    recipe = VIT.replace(optimizer="sgd", **change)
    train(recipe, *sets, tmp_path / "whole", progress=False)

    step, calls = Trainer.step, []

    def interrupted(run):
        calls.append(1)
        if len(calls) == 4:  # in the middle of the second epoch
            raise KeyboardInterrupt
        step(run)

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, *sets, tmp_path / "stopped", progress=False)
    monkeypatch.setattr(Trainer, "step", step)
    assert len(pd.read_csv(tmp_path / "stopped" / "history.csv")) == 1
    train(recipe, *sets, tmp_path / "stopped", progress=False)
    assert_same_bits(tmp_path / "whole", tmp_path / "stopped")
    columns = ["epoch", "train_loss", "validation_mAP"]
    histories = [pd.read_csv(tmp_path / name / "history.csv")[columns] for name in ("whole", "stopped")]
    pd.testing.assert_frame_equal(*histories, check_exact=True)


def test_a_run_goes_on_with_the_frozen_weights_that_it_began_with(sets, tmp_path, monkeypatch):
    recipe, end = VIT.replace(freeze_backbone=True), Trainer.end
    monkeypatch.setattr(Trainer, "end", lambda _: 1 / 0)  # all epochs are done, and nothing is measured
    with pytest.raises(ZeroDivisionError):
        train(recipe, *sets, tmp_path, progress=False)
    monkeypatch.setattr(Trainer, "end", end)
    digest = checkpoint.weights_digest
    monkeypatch.setattr(checkpoint, "weights_digest", lambda module: digest(module)[::-1])
    with pytest.raises(CsraError, match="other weights than when this run began"):
        train(recipe, *sets, tmp_path, progress=False)
    monkeypatch.setattr(checkpoint, "weights_digest", digest)
    assert train(recipe, *sets, tmp_path, progress=False).metrics is not None


def test_a_torn_state_is_deleted_as_the_message_says(sets, tmp_path, monkeypatch):
    end = Trainer.end
    monkeypatch.setattr(Trainer, "end", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(VIT, *sets, tmp_path, progress=False)
    monkeypatch.setattr(Trainer, "end", end)
    (tmp_path / "state.pt").write_bytes(b"torn")
    with pytest.raises(CsraError, match=r"delete that file and history\.csv"):
        train(VIT, *sets, tmp_path, progress=False)
    for name in ("state.pt", "history.csv"):
        (tmp_path / name).unlink()
    assert train(VIT, *sets, tmp_path, progress=False).metrics is not None


def test_a_killed_process_resumes_to_the_same_bits(devkit, sets, tmp_path):
    recipe = VIT.replace(epochs=25)
    command = [
        sys.executable,
        "-m",
        "tests.train_toy",
        devkit,
        tmp_path / "killed",
        json.dumps(recipe.to_json()),
    ]
    process = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 60
    history = tmp_path / "killed" / "history.csv"
    while not (history.exists() and len(history.read_text().splitlines()) > 3):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "metrics.json").exists()
    train(recipe, *sets, tmp_path / "killed", progress=False)
    train(recipe, *sets, tmp_path / "whole", progress=False)
    assert_same_bits(tmp_path / "whole", tmp_path / "killed")


def test_two_processes_give_what_one_gives(devkit, sets, tmp_path):
    recipe = VIT.replace(optimizer="sgd", head_lr=0.1, backbone_lr=0.01)
    split = recipe.replace(accumulate=2)  # four parts of a batch, two in each process
    # On CPUs `accelerate launch` starts one process, whatever it is asked for; torch's own launcher starts two.
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        "-m", "tests.train_toy", devkit, tmp_path / "two", json.dumps(split.to_json()),
    ]  # fmt: skip
    setting = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=setting)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(re.findall(r"\d/\d", done.stdout)) == ["0/2", "1/2"]
    one = train(recipe, *sets, tmp_path / "one", progress=False)
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    stored = np.load(tmp_path / "two" / "scores.npz")
    assert list(stored["ids"]) == list(sets[1].ids)  # each test picture once, in order
    np.testing.assert_allclose(from_logits(stored["logits"]), one.scores, atol=1e-2)


def test_processes_that_do_not_know_of_each_other_write_nothing(sets, tmp_path, monkeypatch):
    """As those of a notebook's launcher without a GPU, where accelerate took each for the only one."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(processes, "Accelerator", lambda **_: SimpleNamespace(num_processes=1, is_main_process=True))
    with pytest.raises(ConfigError, match=r"2 processes were started .* joined 1"):
        train(VIT, *sets, tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_parts_of_a_batch_add_up_to_the_batch(sets, tmp_path):
    base = VIT.replace(optimizer="sgd", epochs=2)
    train(base, sets[0], None, tmp_path / "whole", progress=False)
    train(base.replace(accumulate=4), sets[0], None, tmp_path / "parts", progress=False)
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)


def test_loader_workers_change_nothing(sets, tmp_path):
    recipe = VIT.replace(randaugment=True, epochs=2)
    train(recipe.replace(workers=0), sets[0], None, tmp_path / "none", progress=False)
    train(recipe.replace(workers=2), sets[0], None, tmp_path / "two", progress=False)
    assert_same_bits(tmp_path / "none", tmp_path / "two")


def test_a_frozen_backbone_keeps_its_bits_and_the_head_moves(sets, tmp_path):
    recipe = CONV.replace(freeze_backbone=True)
    torch.manual_seed(recipe.run.seed)
    start = create_classifier("test_efficientnet", classes=toy.CLASSES, image_size=64, lam=0.3).state_dict()
    train(recipe, sets[0], None, tmp_path / "run", progress=False)
    end = weights(tmp_path / "run")
    for name in end:
        assert torch.equal(start[name], end[name]) == name.startswith("backbone."), name


def test_frozen_statistics_stay_while_scales_learn(sets, tmp_path):
    train(CONV.replace(freeze_statistics=True), sets[0], None, tmp_path / "frozen", progress=False)
    train(CONV, sets[0], None, tmp_path / "free", progress=False)
    torch.manual_seed(CONV.run.seed)
    start = create_classifier("test_efficientnet", classes=toy.CLASSES, image_size=64, lam=0.3).state_dict()
    frozen, free = weights(tmp_path / "frozen"), weights(tmp_path / "free")
    statistics = [name for name in start if "running" in name]
    assert all(torch.equal(frozen[name], start[name]) for name in statistics)
    assert not any(torch.equal(free[name], start[name]) for name in statistics)
    assert not torch.equal(frozen["backbone.model.bn1.weight"], start["backbone.model.bn1.weight"])


def test_twins_start_from_one_classifier(sets):
    csra, average = build_model(VIT, sets[0]), build_model(average_twin(VIT), sets[0])
    assert torch.equal(csra.head.weight, average.head.weight)
    other = build_model(VIT.replace(seed=1), sets[0])
    assert not torch.equal(csra.head.weight, other.head.weight)


def test_the_average_of_the_weights_is_what_is_saved(sets, tmp_path):
    plain = VIT.replace(validation_fraction=0.0, epochs=2)
    train(plain, sets[0], None, tmp_path / "plain", progress=False)
    train(plain.replace(ema_decay=0.999999), sets[0], None, tmp_path / "still", progress=False)
    torch.manual_seed(plain.run.seed)
    start = build_model(plain, sets[0]).state_dict()
    for name, value in weights(tmp_path / "still").items():  # the average all but stays at the start
        torch.testing.assert_close(value, start[name], atol=1e-5, rtol=1e-5)
    train(plain.replace(ema_decay=1e-12), sets[0], None, tmp_path / "follows", progress=False)
    for name, value in weights(tmp_path / "follows").items():
        torch.testing.assert_close(value, weights(tmp_path / "plain")[name])


def test_a_diverging_run_stops_and_keeps_the_last_good_weights(sets, tmp_path, monkeypatch):
    step, calls = Trainer.step, []

    def poisoned(run):
        calls.append(1)
        if len(calls) == 4:  # in the second epoch
            run.trained.head.weight.data.fill_(float("nan"))
        step(run)

    monkeypatch.setattr(Trainer, "step", poisoned)
    with pytest.raises(CsraError, match=r"NaN or infinite in epoch 2.*epoch 1 are kept"):
        train(VIT, *sets, tmp_path / "run", progress=False)
    kept = weights(tmp_path / "run")
    assert all(torch.isfinite(value).all() for value in kept.values())
    assert len(pd.read_csv(tmp_path / "run" / "history.csv")) == 1


@pytest.mark.parametrize("weight", [float("nan"), 3e38])  # the second is finite, and its scores are not
def test_a_run_poisoned_by_its_last_step_is_not_saved(sets, tmp_path, monkeypatch, weight):
    step, recipe = Trainer.step, VIT.replace(epochs=1, validation_fraction=0.0, normalize=False)

    def poisoned(run):
        step(run)
        run.trained.head.weight.data.fill_(weight)

    monkeypatch.setattr(Trainer, "step", poisoned)
    with pytest.raises(CsraError, match="NaN or infinite"):
        train(recipe, *sets, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "model").exists()


def test_a_run_that_failed_before_it_kept_anything_frees_its_folder(sets, tmp_path, monkeypatch):
    step = Trainer.step

    def poisoned(run):
        run.trained.head.weight.data.fill_(float("nan"))
        step(run)

    monkeypatch.setattr(Trainer, "step", poisoned)
    with pytest.raises(CsraError, match=r"NaN or infinite in epoch 1.*nothing was saved yet"):
        train(VIT, *sets, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(Trainer, "step", step)
    train(VIT.replace(epochs=1, head_lr=0.001), sets[0], None, tmp_path / "run", progress=False)
    assert is_finished(tmp_path / "run")


def test_unknown_targets_are_negatives_in_training_or_left_out(sets, tmp_path):
    known = sets[0]
    unknown = known.subset(range(len(known)))
    unknown.targets = np.where(known.targets == 0, -1, known.targets).astype(np.int8)
    recipe = VIT.replace(validation_fraction=0.0, epochs=1)
    train(recipe, known, None, tmp_path / "known", progress=False)
    train(recipe, unknown, None, tmp_path / "negative", progress=False)
    train(recipe.replace(loss=BCE(unknown="ignore")), unknown, None, tmp_path / "ignore", progress=False)
    assert_same_bits(tmp_path / "known", tmp_path / "negative")
    different = weights(tmp_path / "ignore")["head.weight"]
    assert not torch.equal(different, weights(tmp_path / "known")["head.weight"])


def test_the_baseline_differs_in_the_head_and_in_nothing_else():
    twin = average_twin(VIT)
    differing = {f.name for f in dataclasses.fields(Recipe) if getattr(VIT, f.name) != getattr(twin, f.name)}
    assert differing <= {"name", "head", "expected"}


def test_the_recipe_decides_rates_and_decay(sets, tmp_path):
    model = create_classifier("test_efficientnet", classes=toy.CLASSES, image_size=64)
    recipe = CONV.replace(optimizer="sgd", weight_decay=1e-4)
    run = Trainer(recipe, model, sets[0], tmp_path, _accelerator(), False)
    rate = {id(p): g["peak_lr"] for g in run.optimizer.param_groups for p in g["params"]}
    assert {rate[id(p)] for p in model.backbone.parameters()} == {recipe.optimisation.backbone_lr}
    assert {rate[id(p)] for p in model.head.parameters()} == {recipe.optimisation.head_lr}
    assert len(rate) == len(list(model.parameters()))


class TestSchedules:
    def test_step_falls_by_gamma_after_a_linear_rise(self):
        recipe = VIT.replace(schedule="step", epochs=30, warmup_epochs=2, step_epochs=5, step_gamma=0.1)
        assert learning_rate_factor(1.0, recipe.optimisation) == pytest.approx(0.5)
        assert [learning_rate_factor(e + 0.5, recipe.optimisation) for e in (2, 4, 5, 9, 10, 29)] == pytest.approx(
            [1, 1, 0.1, 0.1, 0.01, 1e-5]
        )

    @pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
    def test_smooth_schedules_end_at_nothing_and_never_pass_the_peak(self, schedule):
        rise = {"warmup_epochs": 1} if schedule == "cosine" else {}  # one-cycle has its own
        recipe = VIT.replace(schedule=schedule, epochs=10, **rise)
        factors = np.array([learning_rate_factor(e, recipe.optimisation) for e in np.linspace(0, 10, 1001)])
        assert factors.min() >= 0
        assert factors.max() == pytest.approx(1, abs=1e-4)
        assert factors[-1] == pytest.approx(0, abs=1e-9)
        peak = factors.argmax()
        assert (np.diff(factors[: peak + 1]) >= 0).all()
        assert (np.diff(factors[peak:]) <= 1e-12).all()

    def test_constant_is_constant_after_warm_up(self):
        recipe = VIT.replace(schedule="constant", warmup_epochs=0)
        assert {learning_rate_factor(e, recipe.optimisation) for e in (0.0, 1.5, 2.9)} == {1.0}


class TestRefusals:
    def test_a_folder_of_another_run(self, sets, tmp_path):
        train(VIT.replace(epochs=1), sets[0], None, tmp_path / "run", progress=False)
        before = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
        with pytest.raises(CsraError, match=r"holds another run \(lam is 0.3 there and 0.7 here\)"):
            train(VIT.replace(epochs=1, lam=0.7), sets[0], None, tmp_path / "run", progress=False)
        assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == before

    def test_a_finished_run(self, sets, tmp_path):
        recipe = VIT.replace(epochs=1)
        train(recipe, *sets, tmp_path / "run", progress=False)
        with pytest.raises(CsraError, match="finished"):
            train(recipe, *sets, tmp_path / "run", progress=False)

    def test_a_folder_that_is_no_run(self, sets, tmp_path):
        (tmp_path / "thesis.tex").write_text("precious")
        with pytest.raises(CsraError, match="is not a run"):
            train(VIT, *sets, tmp_path, progress=False)
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"batch_size": 64}, "batch_size 64 is more than the"),
            ({"batch_size": 7, "accumulate": 2}, "does not divide"),
            ({"weights": "hub.pth"}, "there is no weight file"),
            ({"backbone": "test_vitt"}, "timm has no network"),
            ({"image_size": 70}, "the nearest that work: 64 and 80"),
            ({"classes": ("cat", "dog")}, "load the data with them"),
            ({"validation_fraction": 0.01}, "empty part"),
        ],
    )
    def test_settings_that_cannot_work_leave_no_folder(self, sets, tmp_path, change, message):
        with pytest.raises(CsraError, match=message):
            train(VIT.replace(**change), *sets, tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()

    def test_what_would_end_badly_is_refused_before_the_first_epoch(self, sets, tmp_path):
        known, test = sets
        held = split_off(VIT, known).held_out
        blank, unlabelled, lost = (each.subset(range(len(each))) for each in (known, test, test))
        blank.targets = known.targets.copy()
        blank.targets[held] = 0
        unlabelled.targets = np.full_like(test.targets, -1)
        lost.paths = [*test.paths[:-1], tmp_path / "gone.jpg"]
        for train_set, test_set, message in (
            (blank, test, "the validation part of voc2012 trainval .* shows none of the classes"),
            (known, unlabelled, "no labels to measure against"),
            (known, lost, r"gone\.jpg, which is not there"),
        ):
            with pytest.raises(CsraError, match=message):
                train(VIT, train_set, test_set, tmp_path / "run", progress=False)
            assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        "change", [{"epochs": 0}, {"head_lr": -1.0}, {"momentum": 1.5}, {"schedule": "linear"}, {"lam": float("nan")}]
    )
    def test_recipes_with_impossible_values(self, change):
        with pytest.raises(CsraError, match=next(iter(change))):
            VIT.replace(**change)

    def test_an_unreadable_state(self, sets, tmp_path):
        train(VIT.replace(epochs=1), sets[0], None, tmp_path / "run", progress=False)
        (tmp_path / "run" / "state.pt").write_bytes(b"not a checkpoint")
        with pytest.raises(
            CsraError, match=rf"{re.escape(str(tmp_path))}\S*state\.pt cannot be read .* delete that file"
        ):
            train(VIT.replace(epochs=1), sets[0], None, tmp_path / "run", progress=False)

    def test_a_test_set_that_shows_nothing_is_refused_before_training(self, sets, tmp_path):
        empty = sets[1].subset(range(len(sets[1])))
        empty.targets = np.minimum(empty.targets, 0)
        with pytest.raises(CsraError, match=r"voc2012 test .* shows none of the classes"):
            train(VIT, sets[0], empty, tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()


def test_a_run_that_lost_its_state_is_not_finished(sets, tmp_path, monkeypatch):
    def stop(run, *args):
        finish_epoch(run, *args)
        raise KeyboardInterrupt

    finish_epoch, out = Trainer.finish_epoch, tmp_path / "run"
    monkeypatch.setattr(Trainer, "finish_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        train(VIT, *sets, out, progress=False)
    assert not is_finished(out)
    (out / "state.pt").unlink()
    assert not is_finished(out)  # one epoch of three
    monkeypatch.undo()
    train(VIT, *sets, out, progress=False)  # from the start
    assert is_finished(out)
    train(VIT, *sets, tmp_path / "whole", progress=False)
    assert_same_bits(tmp_path / "whole", out)


def test_torch_is_left_as_it_was(sets, tmp_path):
    torch.manual_seed(7)
    expected = torch.get_rng_state()
    train(VIT.replace(epochs=1), *sets, tmp_path / "run", progress=False)
    assert torch.equal(torch.get_rng_state(), expected)


def test_the_settings_of_a_gpu_are_those_of_training_and_then_the_old_ones():
    def settings():
        return torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()

    before = settings()
    inside = []

    def fail():
        with training_settings(torch.device("cuda")):
            inside.append(settings())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert inside == [(True, "high")] != [before]
    assert settings() == before


def test_an_accelerator_with_other_settings_is_named(sets, tmp_path, monkeypatch):
    def refuse(**_):
        raise ValueError("AcceleratorState has already been initialized and cannot be changed")

    monkeypatch.setattr(processes, "Accelerator", refuse)
    with pytest.raises(ConfigError, match="an Accelerator with other settings was made in this process"):
        train(VIT, *sets, tmp_path / "run", progress=False)


def test_images_reach_the_network_as_the_recipe_says(sets, tmp_path):
    plain = train(VIT.replace(pixels="plain", epochs=1), sets[0], None, tmp_path / "a", progress=False)
    assert plain.model.mean == (0.0, 0.0, 0.0)
    transform = eval_transform(64, mean=plain.model.mean, std=plain.model.std)
    pixels = transform(sets[0].image(0))
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def _accelerator():
    from accelerate import Accelerator

    return Accelerator(mixed_precision="no")


def test_a_chapter_can_launch_training(sets, tmp_path):
    from accelerate import notebook_launcher

    recipe = VIT.replace(epochs=1)
    notebook_launcher(train, (recipe, *sets, tmp_path / "run"), num_processes=1)
    assert (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv2_100", "resnet18"])
def test_shared_statistics_change_no_output(name):
    """torch's own conversion drops the activations that timm's norms hold."""
    model = create_classifier(name, num_classes=3, image_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        frozen = share_statistics(model, frozen=True)
        assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in frozen.modules())
        shared = share_statistics(model, frozen=False).eval()
        assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in shared.modules())
        torch.testing.assert_close(shared(images), expected)


def test_a_weighted_loss_reads_its_weights_off_the_training_part(sets, tmp_path):
    recipe = VIT.replace(loss="weighted-bce", epochs=1)
    weighted = train(recipe, *sets, tmp_path / "weighted", progress=False)
    labels = torch.from_numpy(sets[0].targets[split_off(recipe, sets[0]).fit])
    expected = WeightedBCE.of(labels, unknown=recipe.loss.unknown)
    content = json.loads((tmp_path / "weighted" / "recipe.json").read_text())
    assert content["recipe"]["loss"]["positive"] == []  # what was asked for
    assert content["loss"] == {"kind": "weighted-bce", **json.loads(json.dumps(expected.config()))}
    given = train(recipe.replace(loss=expected), *sets, tmp_path / "given", progress=False)
    assert given.history.train_loss.tolist() == weighted.history.train_loss.tolist()
    plain = train(recipe.replace(loss="bce"), *sets, tmp_path / "plain", progress=False)
    assert plain.history.train_loss.tolist() != weighted.history.train_loss.tolist()
    assert "loss" not in json.loads((tmp_path / "plain" / "recipe.json").read_text())


class TestOneRunAFolder:
    def test_another_process_in_the_folder_is_refused(self, sets, tmp_path, monkeypatch):
        monkeypatch.setattr(run_folder, "PATIENCE", 0.1)
        prepare, out, first = loop.prepare, tmp_path / "run", VIT.replace(epochs=1)

        def meanwhile(*args, **options):
            with pytest.raises(
                ConfigError, match=r"another process is training in .*run; wait .* choose another --out"
            ):
                train(first.replace(seed=1), *sets, out, progress=False)
            return prepare(*args, **options)

        monkeypatch.setattr(loop, "prepare", meanwhile)
        train(first, *sets, out, progress=False)
        assert not (out / ".lock").exists()

    def test_a_killed_runs_lock_keeps_nobody_out(self, sets, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / ".lock").write_text("")  # the file stays, and the kernel gives the lock back
        train(VIT.replace(epochs=1), *sets, tmp_path / "run", progress=False)
        assert is_finished(tmp_path / "run")

    def test_a_recipe_that_appeared_meanwhile_is_compared(self, sets, tmp_path, monkeypatch):
        """As on a disk of several machines without locks."""
        prepare, out, first = loop.prepare, tmp_path / "run", VIT.replace(epochs=1)

        def meanwhile(*args, **options):
            other = first.replace(seed=1)
            run_folder.write_recipe(out, other, sets[0], torch.device("cpu"), other.loss)
            return prepare(*args, **options)

        monkeypatch.setattr(loop, "prepare", meanwhile)
        with pytest.raises(ConfigError, match=r"holds another run \(seed is 1 there and 0 here\)"):
            train(first, *sets, out, progress=False)


def test_labels_that_never_say_absent_are_refused_before_training(sets):
    model = build_model(VIT, sets[0])
    test = sets[1].subset(range(len(sets[1])))
    test.targets = np.where(test.targets == 0, -1, test.targets)
    with pytest.raises(CsraError, match=r"no label of voc2012 test says that a class is absent .* --absent"):
        check_test_set(model, test)
    known = sets[0].subset([*range(len(sets[0]))])
    known.targets = known.targets.copy()
    recipe = VIT.replace(validation_fraction=0.5)
    held = split_off(recipe, known).held_out
    known.targets[held] = np.where(known.targets[held] == 0, -1, known.targets[held])
    with pytest.raises(CsraError, match=r"no label of the validation part of voc2012 trainval says"):
        split_off(recipe, known)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "there is no memory to read .*state.pt; close what else"),
        (
            PermissionError(13, "Permission denied"),
            r"state.pt may not be read by you \(Permission denied\); change its",
        ),
        (ValueError("torn"), r"state.pt cannot be read \(ValueError\); delete that file and history.csv, and the run"),
    ],
)
def test_what_keeps_a_state_from_being_read_is_told_apart(tmp_path, monkeypatch, error, message):
    def fail(path, map_location, **_):
        assert map_location == "cpu"  # a GPU holds the network already
        raise error

    torch.save({}, tmp_path / "state.pt")
    monkeypatch.setattr(checkpoint.torch, "load", fail)
    with pytest.raises(CsraError, match=message):
        checkpoint.load_state(tmp_path, {})


@pytest.mark.parametrize(("change", "batch"), [({}, 8), ({"accumulate": 4}, 2)])
def test_no_more_images_at_a_time_are_scored_than_trained(sets, tmp_path, monkeypatch, change, batch):
    seen, forward = [], MultiLabelClassifier.forward

    def count(self, images):
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(MultiLabelClassifier, "forward", count)
    train(VIT.replace(epochs=1, **change), *sets, tmp_path / "run", progress=False)
    assert max(seen) == batch
