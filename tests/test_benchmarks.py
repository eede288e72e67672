"""Every benchmark runs at a tiny size, and compares things that give the same. Nothing here looks at a clock."""

import contextlib
import dataclasses
import importlib
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from csra_lab.errors import CsraError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
FILES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))

machine, head, head_cost, data, metrics, training_step = map(
    importlib.import_module, ("machine", "head", "head_cost", "data", "metrics", "training_step")
)
RESNET = training_step.recipe_for("resnet18", 64, 4, "bf16", 1)


@pytest.mark.parametrize("name", FILES)
def test_a_benchmark_runs_and_sets_prediction_beside_measurement(name, tmp_path, monkeypatch, capsys):
    module = importlib.import_module(name)

    def run_here(command, **_):
        """In place of a process of its own, which would take seconds to start."""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            module.main(command[command.index("--part") :])
        return SimpleNamespace(stdout=out.getvalue())

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(torch, "compile", lambda module, mode=None: module)  # takes half a minute
    monkeypatch.setattr(machine.gc, "collect", lambda: 0)  # a third of a second each time, in so large a process
    for file in (module, machine):
        # These count their processes, or start another program.
        if hasattr(file, "subprocess") and name not in ("processes", "book", "startup"):
            monkeypatch.setattr(file, "subprocess", SimpleNamespace(run=run_here, PIPE=None, DEVNULL=None))
    rows = module.main(["--tiny", "--out", str(tmp_path)])

    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert len(written["rows"]) == len(rows) > 0
    assert written["tiny"]
    assert {"cpu", "threads", "torch", "timm"} <= set(written["machine"])
    assert any("predicted" in key for row in rows for key in row) or name == "machine"
    assert "rediction" in module.__doc__
    recorded = ROOT / f"benchmarks/results/{name}.json"  # what the book reads
    if recorded.exists():
        known = json.loads(recorded.read_text())["rows"]
        assert set().union(*rows) == set().union(*known)
    printed = capsys.readouterr().out
    assert all(key in printed for row in rows for key in row if key != "part")


def test_a_rehearsal_writes_no_result(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    machine.report("x", [{"a": 1}], machine.options(["--tiny"], "x"))
    assert not list(tmp_path.iterdir())
    machine.report("x", [{"a": 1}], machine.options([], "x"))
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_network_without_its_weights_is_left_out_by_name(tmp_path, monkeypatch):
    gpu_day = importlib.import_module("gpu_day")
    gpu_day.pack({s: gpu_day._some_images(tmp_path / "toy", s) for s in ("trainval", "test")}, tmp_path)
    tops = {"bf16": machine.Ceilings(multiply_adds_per_second=1e15, bytes_per_second=1e12)}
    day = gpu_day.Day(False, tmp_path, tmp_path, float("inf"), None, torch.device("cpu"), tops)
    plans = []

    def fill(plan, day, **_):
        plans.append(list(plan.recipes))
        return "2 of 2 runs, whole"

    monkeypatch.setattr(gpu_day, "_fill", fill)
    monkeypatch.setattr(gpu_day, "has_installed_weights", lambda name: True)
    assert gpu_day.real(day) == "2 of 2 runs, whole; mobilenetv2 left out: no --weights"
    assert plans == [[("lite0", "voc2012")]]
    monkeypatch.setattr(gpu_day, "has_installed_weights", lambda name: False)
    with pytest.raises(CsraError, match=r"lite0 left out: no installed package .*; mobilenetv2 left out: no --weights"):
        gpu_day.real(day)
    weights = tmp_path / "m.safetensors"
    given = dataclasses.replace(day, weights=weights)
    assert "mobilenetv2 left out: there is no file" in gpu_day.run_part("real", given)["state"]
    weights.touch()
    gpu_day.run_part("real", given)
    assert plans[1:] == [[("mobilenetv2", "voc2012")]]
    monkeypatch.setattr(gpu_day, "has_installed_weights", lambda name: True)
    for _ in range(2):  # the first is whole, so nothing is left for the second
        gpu_day.run_part("real", given)
    assert plans[2:] == [[("lite0", "voc2012"), ("mobilenetv2", "voc2012")]]


# ---- how it is measured ------------------------------------------------------------------------------------------


def test_candidates_take_turns_and_none_is_always_first():
    order = []
    machine.take_turns({name: lambda name=name: order.append(name) for name in "ab"}, repeats=2)
    assert order == ["a", "b", "b", "a", "a", "b"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets its high-water mark")
def test_peak_memory_sees_what_is_freed_before_the_step_ends(tmp_path):
    size = 64 * 1024**2
    program = tmp_path / "program.py"  # in the suite's own process, steps can live on what earlier tests have freed
    program.write_text(f"""
import sys; sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import torch
from machine import peak_memory

def step():
    a = torch.ones({size} // 4)
    del a
    return torch.ones({size} // 8)

print(peak_memory(step))
""")
    assert machine.frugal([program]) == pytest.approx(size, rel=0.1)


def test_a_process_of_its_own_answers_in_json():
    found = machine.frugal(["-c", "import os; print('words'); print([int(os.environ['MALLOC_TRIM_THRESHOLD_'])])"])
    assert found == [65536]


def test_a_lower_bound_is_the_slower_of_products_and_bytes():
    top = machine.Ceilings(multiply_adds_per_second=10, bytes_per_second=100)
    assert top.seconds(20, 100) == 2
    assert top.seconds(20, 500) == 5


# ---- what is compared is the same --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", head.LAYOUTS)
@pytest.mark.parametrize("heads", [1, 2, 4, 8])
@pytest.mark.parametrize("side", [2, 6])  # a convolution, and a batched product where the map is contiguous
def test_the_literal_head_and_ours_agree_in_logits_and_gradients(heads, layout, side):
    pair = head.pair((3, 16, side, side), 2, heads)
    logits, gradients, weights = {}, {}, {}
    for name, module in pair.items():
        x = head.features((3, 16, side, side), layout)
        logits[name] = module(x)
        logits[name].square().sum().backward()
        gradients[name] = x.grad
    weights["ours"] = pair["ours"].weight.grad
    weights["literal"] = torch.stack([c.weight.grad[:, :, 0, 0] for c in pair["literal"].classifiers])
    for found in (logits, gradients, weights):
        torch.testing.assert_close(found["ours"], found["literal"], rtol=1e-4, atol=1e-5)


def test_labels_and_boxes_are_those_of_voc_detection(tmp_path):
    devkit = data.write_devkit(tmp_path, dict.fromkeys(data.SPLITS, 30))
    targets = data.our_targets(devkit)
    assert set(np.unique(targets)) == {-1, 0, 1}
    np.testing.assert_array_equal(targets, data.their_targets(devkit))
    assert data.our_boxes(devkit) == data.their_boxes(devkit)


def test_photographs_and_crops_are_those_of_pillow(tmp_path):
    dataset = data.people(tmp_path, 3, (60, 40))
    order = [5, 0, 1, 11, 4]
    for ours, theirs in zip(data.read_items(dataset, order), data.open_for_each(dataset, order), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    np.testing.assert_array_equal(
        np.asarray(data.open_image(dataset.paths[0])), np.asarray(data.pillow(dataset.paths[0]))
    )


def test_the_three_packages_find_the_same_metrics():
    pair = metrics.scores_and_targets(300, 6)
    ours = metrics.ours(*pair)
    assert 0.1 < ours["mAP"] < 0.99
    for other in (metrics.scikit_learn, metrics.torchmetrics):
        assert other(*pair) == pytest.approx(ours, abs=1e-6)


def test_rows_for_a_gpu_are_rehearsed_here(tmp_path, monkeypatch):
    """The same lines on this device at a tiny size, the compiler left out: they must run when a GPU comes."""
    monkeypatch.setattr(torch, "compile", lambda module, mode=None: module)
    monkeypatch.setattr(machine.gc, "collect", lambda: 0)  # a third of a second each time, in so large a process
    rows = head.gpu_rows(tiny=True, repeats=1, device="cpu")
    assert len(rows) == 2 * 1 * 2 * 5
    assert {row["head"] for row in rows if row["forward_ratio"] == 1} >= {"literal"}

    rows = head_cost.share_rows("test_efficientnet", 64, 2, "cpu", repeats=1)
    assert [row["head"] for row in rows] == list(head_cost.HEADS)
    assert rows[0]["predicted"] == rows[1]["predicted"] == 1 < rows[3]["predicted"]

    devkit = data.write_devkit(tmp_path, {"trainval": 8}, photographs=(50, 40), boxes=False)
    photographs = training_step.load_dataset("voc2007", devkit, "trainval")
    tops = dict.fromkeys(("fp32", "bf16"), machine.Ceilings(1e10, 1e10))
    rows = training_step.rows_of(
        training_step.TINY[1], training_step.GPU_WAYS, photographs, tmp_path, tops, torch.device("cpu"),
        turns=1, epochs=1,
    )  # fmt: skip
    assert [row["photographs"] for row in rows] == list(training_step.GPU_WAYS)
    gpu = torch.device("cuda")
    predicted = [training_step.predict(RESNET, way, *tops.values(), gpu) for way in ("read", "kept")]
    assert predicted == [1, 1]  # two ceilings that are equal, and a network slower than its reading


def test_the_slope_of_a_power_is_its_exponent():
    assert metrics.slope([1, 2, 4, 8], [3 * x**1.5 for x in (1, 2, 4, 8)]) == pytest.approx(1.5)


def test_activations_grow_with_the_area_of_the_image():
    small, large = (training_step.activations("resnet18", side) for side in (64, 128))
    assert small > 64 * 32 * 32  # what the first convolution puts out
    assert large == pytest.approx(4 * small, rel=0.01)
