"""Half an hour of a GPU, spent in the order of what it answers. Every part goes on where it stopped.

    python benchmarks/gpu_day.py --pack VOCDEVKIT --work runs/gpu-day         # here: the real images, in parts
    python benchmarks/gpu_day.py --work runs/gpu-day --out RESULTS --minutes 9.5    # there, again and again

Parts, in this order. `steps` measures the head and a training step each way (TF32, bfloat16, fused optimiser, CUDA
graphs, images cut on the device). `grid` fills the table of three backbones, two drawn sets and two heads at 224
pixels, 30 epochs and 3 seeds, from pretraining on scenes that the machine's cores draw. `real` trains
EfficientNet-Lite0 and MobileNetV2 end to end on real images at 448 pixels, both heads, 5 seeds. `schedule` runs the
paper's VOC2007 schedule on synthetic images for as many of its epochs as fit, and times it.

Lite0's weights come from the package that the book installs, MobileNetV2's from --weights. Where a package cannot be
installed, a copy of its folder on PYTHONPATH is enough. A network without its weights is left out, and the row says so.

--work holds what lets a part go on (ignored by git, kept while a machine is warm), --out the results alone: tables,
JSON and records of the two grids, which `data/runs/grid` takes as they are. Real images travel as .npz files of at
most 60 MB: one uint8 array of all JPEG bytes, where each ends, ids and labels.

Predictions: a training image takes 3 m multiply-adds, and a step half of the ceiling of a large product in bfloat16.
A part whose first step is predicted to end after the time that is left is dropped and says so; runs inside the grids
are started by the speed that was measured, and each first seed comes before any second one.
"""

import argparse
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from growth import training_step
from head import gpu_rows
from machine import Ceilings, ceilings, report, take_turns
from training_step import GPU, GPU_WAYS, PHOTOGRAPH, TINY, VOC2007, recipe_for, rows_of

from csra_lab.catalog import load_dataset
from csra_lab.cost import model_cost
from csra_lab.datasets import MultiLabelDataset
from csra_lab.errors import CsraError
from csra_lab.recipes import RECIPES, VOC2012_PHOTOGRAPH_CLASSES
from csra_lab.study.grid import Grid, drawn_grid
from csra_lab.study.grid_runner import GridRunner
from csra_lab.synthetic.emoji_voc import prepare_emoji_voc
from csra_lab.synthetic.paperdoll_wider import prepare_paperdoll_wider
from csra_lab.training.loop import train
from csra_lab.weights.sources import has_installed_weights
from data import write_devkit

MOST_BYTES = 60_000_000  # of one packed file
MINUTES = 25.0
HALF_OF_CEILING = 0.5
LITE0, MOBILENET = "tf_efficientnet_lite0", "mobilenetv2_100"
REAL = "voc2012"


@dataclasses.dataclass
class Day:
    """What every part needs: sizes, folders, the time, and what the device can do."""

    tiny: bool
    work: Path
    out: Path
    deadline: float  # on the clock of `time.monotonic`
    weights: Path | None
    device: torch.device
    tops: dict[str, Ceilings]

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def training_seconds(self, backbone: str, image_size: int, images: float) -> float:
        """Predicted for so many training images in the faster precision."""
        work = 3 * model_cost(backbone, num_classes=20, image_size=image_size).multiply_adds * images
        return self.tops["bf16"].seconds(work) / HALF_OF_CEILING


# ---- the parts -------------------------------------------------------------------------------------------------------


def steps(day: Day) -> str:
    """The head and a training step, each way."""
    name, *size = TINY[1] if day.tiny else GPU[1]
    repeats = 1 if day.tiny else 10
    rows = gpu_rows(day.tiny, repeats, device=day.device.type) + precision_rows(name, *size[:2], day, repeats)
    devkit = _synthetic(day, 8 if day.tiny else 1024)
    dataset = load_dataset("voc2007", devkit, "trainval")
    for setting in TINY[1:] if day.tiny else GPU:
        folder = day.work / "loops" / f"{setting[0]}-{time.time_ns()}"  # a measurement is not resumed
        rows += rows_of(setting, GPU_WAYS, dataset, folder, day.tops, day.device, turns=1, epochs=1 if day.tiny else 3)
    _write(day.out / "steps.json", rows)
    return f"{len(rows)} rows"


def precision_rows(backbone: str, image_size: int, batch: int, day: Day, repeats: int) -> list[dict]:
    """One training step in each arithmetic: what TF32, bfloat16 and a fused optimiser are worth by themselves."""
    setting = {"images": batch, "pixels": image_size, "classes": 20, "device": day.device}

    def with_tf32(step: Callable, precision: str) -> Callable:
        def run():
            torch.set_float32_matmul_precision(precision)
            torch.backends.cudnn.allow_tf32 = precision == "high"
            step()

        return run

    plain = training_step(backbone, **setting)
    half = training_step(backbone, **setting, dtype=torch.bfloat16)
    fused = training_step(backbone, **setting, dtype=torch.bfloat16, fused=True)
    ways = {
        "fp32": with_tf32(plain, "highest"),
        "tf32": with_tf32(plain, "high"),
        "bf16": with_tf32(half, "high"),
        "bf16, fused optimiser": with_tf32(fused, "high"),
    }
    best = take_turns(ways, repeats=repeats, device=day.device)
    work = 3 * model_cost(backbone, num_classes=20, image_size=image_size).multiply_adds * batch
    return [
        {"part": "arithmetic", "backbone": backbone, "pixels": image_size, "batch": batch, "way": way,
         "step_ms": 1e3 * seconds, "times_fp32": best["fp32"] / seconds,
         "predicted_ms": 1e3 * day.tops["bf16" if "bf16" in way else "fp32"].seconds(work) / HALF_OF_CEILING}
        for way, seconds in best.items()
    ]  # fmt: skip


def grid(day: Day) -> str:
    """Three backbones, two drawn sets, two heads."""
    if day.tiny:
        sets = {"emoji-voc": {"subset": 16}, "paperdoll-wider": {"subset": 8}}
        plan = drawn_grid("gpu-day", "a rehearsal", backbones=("test_resnet",), image_size=64, scenes=16, seeds=1,
                          pretraining_epochs=1, sets=sets, epochs=1, batch_size=8, test_items=8)  # fmt: skip
    else:
        plan = drawn_grid("gpu-day", "the course's schedule on the whole drawn sets", image_size=224, scenes=50_000,
                          pretraining_epochs=2, sets={"emoji-voc": {}, "paperdoll-wider": {}}, epochs=30,
                          batch_size=64, workers=-1)  # fmt: skip
    cache, size = day.work / "drawn", "tiny" if day.tiny else "full"
    data = {
        "emoji-voc": prepare_emoji_voc(cache, image_size=64 if day.tiny else 224, size=size, progress=False),
        "paperdoll-wider": prepare_paperdoll_wider(cache, size=size, progress=False),
    }
    return _fill(plan, day, data=data, root=cache)


def real(day: Day) -> str:
    """EfficientNet-Lite0 and MobileNetV2 end to end on real images."""
    packs = sorted(day.work.glob("pack-*.npz"))
    if not packs:
        raise CsraError("there are no packed images (pack-*.npz) in --work; make them with --pack.")
    sets = {(REAL, split): dataset for split, dataset in unpack(packs, day.work / "real").items()}
    base = RECIPES["voc2012-lite0-csra"].replace(image_size=448, batch_size=32, validation_fraction=0.0, workers=-1)
    if day.tiny:
        base = base.replace(
            image_size=64, batch_size=4, epochs=1, weights="none", backbone="test_efficientnet", workers=0
        )
    networks = {"lite0": {}, "mobilenetv2": {"backbone": MOBILENET, "weights": str(day.weights)}}
    missing = {}
    if not day.tiny and not has_installed_weights(LITE0):
        missing["lite0"] = "no installed package holds its weights"
    if day.weights is None:
        missing["mobilenetv2"] = "no --weights"
    elif not day.weights.is_file():
        missing["mobilenetv2"] = f"there is no file {day.weights}"
    recipes = {
        (network, REAL): base.replace(name=f"real-{network}-csra", **fields)
        for network, fields in networks.items()
        if network not in missing
    }
    left_out = "".join(f"; {network} left out: {why}" for network, why in missing.items())
    if not recipes:
        raise CsraError(f"no network has its weights{left_out}.")
    plan = Grid("real", "ImageNet weights, end to end on real images", recipes, seeds=1 if day.tiny else 5)
    return _fill(plan, day, loaded=sets) + left_out


def schedule(day: Day) -> str:
    """The wall time of the paper's VOC2007 schedule for ResNet-101, on synthetic images."""
    backbone, image_size, batch, images = (
        ("test_efficientnet", 64, 4, 8) if day.tiny else ("resnet101", 448, 16, VOC2007)
    )
    dataset = load_dataset("voc2007", _synthetic(day, images), "trainval")
    one = day.training_seconds(backbone, image_size, images)
    epochs = 2 if day.tiny else int(min(30, max(2, 0.8 * day.left / one)))
    recipe = recipe_for(backbone, image_size, batch, "bf16", epochs).replace(image_cache="memory")
    start = time.perf_counter()
    history = train(recipe, dataset, None, day.work / "schedule" / str(time.time_ns()), progress=False).history
    whole, seconds = time.perf_counter() - start, history.seconds
    later = seconds.iloc[1:].mean()
    row = {
        "part": "schedule",
        "backbone": backbone,
        "pixels": image_size,
        "images": images,
        "epochs_run": epochs,
        "seconds_run": whole,
        "seconds_of_an_epoch": float(later),
        "minutes_of_30_epochs": (whole - seconds.sum() + seconds.iloc[0] + 29 * later) / 60,
        "predicted_minutes": 30 * one / 60,
    }
    _write(day.out / "schedule.json", [row])
    return f"30 epochs take {row['minutes_of_30_epochs']:.1f} minutes"


PARTS: dict[str, Callable[[Day], str]] = {"steps": steps, "grid": grid, "real": real, "schedule": schedule}


def least(name: str, day: Day) -> float:
    """Predicted seconds below which a part gives nothing."""
    if day.tiny:
        return 0.0
    return {
        "steps": 150.0,  # the compiler takes most of it
        "grid": 90.0 + day.training_seconds("resnet18", 224, 2 * 50_000),
        "real": 30.0 + day.training_seconds(LITE0, 448, 10 * 1795),
        "schedule": 60.0 + 3 * day.training_seconds("resnet101", 448, VOC2007),
    }[name]


def _fill(plan: Grid, day: Day, **where) -> str:
    runner = GridRunner(plan, day.work / plan.name, record=day.out / plan.name, progress=False, **where)
    left = runner.fill(deadline=day.deadline)
    done = len(list(plan.runs())) - len(left)
    return f"{done} of {done + len(left)} runs" + ("" if left else ", whole")


def _synthetic(day: Day, images: int) -> Path:
    """A VOC2007 of noise, made once."""
    folder = day.work / f"synthetic-{images}"
    if not (folder / "whole").exists():
        if folder.exists():
            raise CsraError(f"{folder} is half-made; delete it.")
        write_devkit(folder, {"trainval": images}, photographs=PHOTOGRAPH, boxes=False)
        (folder / "whole").touch()
    return folder / "VOCdevkit"


# ---- real images in parts --------------------------------------------------------------------------------------------


def pack(sets: dict[str, MultiLabelDataset], folder: Path, *, most: int = MOST_BYTES) -> list[Path]:
    """Write images and labels of the splits of one data set as .npz files of at most `most` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    items = [(split, i) for split, dataset in sets.items() for i in range(len(dataset))]
    sizes = [sets[split].paths[i].stat().st_size + 200 for split, i in items]  # 200 for id and labels
    for number, rows in enumerate(_shares(sizes, most)):
        mine = [items[row] for row in rows]
        blobs = [np.fromfile(sets[split].paths[i], dtype=np.uint8) for split, i in mine]
        path = folder / f"pack-{number:02d}.npz"
        np.savez(
            path,
            bytes=np.concatenate(blobs),
            ends=np.cumsum([len(blob) for blob in blobs]),
            ids=np.array([sets[split].ids[i] for split, i in mine]),
            splits=np.array([split for split, _ in mine]),
            targets=np.stack([sets[split].targets[i] for split, i in mine]),
            classes=np.array(next(iter(sets.values())).classes),
        )
        paths.append(path)
    return paths


def unpack(packs: Sequence[Path], folder: Path) -> dict[str, MultiLabelDataset]:
    """The data set of some packed files, its images as files below `folder`: split -> items."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for path in packs:
        with np.load(path, allow_pickle=False) as stored:
            parts.append({name: stored[name] for name in stored.files})
        starts = np.concatenate([[0], parts[-1]["ends"][:-1]])
        for name, start, end in zip(parts[-1]["ids"], starts, parts[-1]["ends"], strict=True):
            file = folder / f"{name}.jpg"
            if not file.exists():
                parts[-1]["bytes"][start:end].tofile(file)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in ("ids", "splits", "targets")}
    found = {}
    for split in dict.fromkeys(joined["splits"].tolist()):
        rows = joined["splits"] == split
        ids = joined["ids"][rows].tolist()
        found[split] = MultiLabelDataset(
            name=REAL, split=split, classes=parts[0]["classes"].tolist(), ids=ids,
            paths=[folder / f"{each}.jpg" for each in ids], targets=joined["targets"][rows],
        )  # fmt: skip
    return found


def _shares(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices of neighbours whose sizes add up to at most `most`."""
    total, number, numbers = 0, 0, []
    for size in sizes:
        if total and total + size > most:
            total, number = 0, number + 1
        total += size
        numbers.append(number)
    for _, group in itertools.groupby(range(len(sizes)), key=numbers.__getitem__):
        yield list(group)


# ---- the day ---------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> list[dict]:
    """Run the parts that fit, in order; gives a row for each."""
    chosen = _options(argv)
    work = chosen.work or (chosen.out / "work" if chosen.tiny and chosen.out else Path("runs/gpu-day"))
    if chosen.pack:
        splits = ("trainval", "test")
        sets = {s: load_dataset(REAL, chosen.pack, s, classes=VOC2012_PHOTOGRAPH_CLASSES) for s in splits}
        for path in pack(sets, work):
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        return []
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not chosen.tiny:
        print("gpu_day needs a GPU; --tiny rehearses it on a CPU.")
        return []
    work.mkdir(parents=True, exist_ok=True)
    out = chosen.out or work / "results"
    out.mkdir(parents=True, exist_ok=True)
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    tops = {name: ceilings(device, dtype, tiny=chosen.tiny) for name, dtype in kinds.items()}
    day = Day(chosen.tiny, work, out, time.monotonic() + 60 * chosen.minutes, chosen.weights, device, tops)
    if chosen.tiny and not list(work.glob("pack-*.npz")):
        pack({s: _some_images(work / "toy", s) for s in ("trainval", "test")}, work, most=20_000)
    rows = [run_part(name, day) for name in PARTS if not chosen.parts or name in chosen.parts]
    return report("gpu_day", rows, argparse.Namespace(tiny=chosen.tiny, out=out), device=str(device), ceilings=tops)


def run_part(name: str, day: Day) -> dict:
    """Run one part if it fits and is not done, and say what it took; a part that fails does not stop the others."""
    needed, marker, start = least(name, day), day.work / f"{name}.done", time.monotonic()
    row = {"what": name, "predicted_seconds_at_least": needed, "seconds": 0.0}
    if marker.exists():
        return {**row, "state": f"done before: {marker.read_text()}"}
    if needed > day.left:
        return {**row, "state": f"dropped: needs {needed / 60:.1f} minutes, {max(day.left, 0) / 60:.1f} are left"}
    try:
        said = PARTS[name](day)
    except (CsraError, RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        return {**row, "seconds": time.monotonic() - start, "state": f"failed: {type(error).__name__}: {reason}"}
    if name not in ("grid", "real") or said.endswith("whole"):
        marker.write_text(said)
    return {**row, "seconds": time.monotonic() - start, "state": said}


def _some_images(folder: Path, split: str) -> MultiLabelDataset:
    devkit = folder / split
    if not devkit.exists():
        write_devkit(devkit, {split: 8}, photographs=(60, 50), boxes=False)
    dataset = load_dataset("voc2007", devkit / "VOCdevkit", split, classes=VOC2012_PHOTOGRAPH_CLASSES)
    dataset.ids = tuple(f"{split}-{image_id}" for image_id in dataset.ids)
    return dataset


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="rehearse at tiny sizes, on whatever device there is")
    parser.add_argument("--work", type=Path, help="folder of what lets a part go on; runs/gpu-day if left out")
    parser.add_argument("--out", type=Path, help="folder of the results; WORK/results if left out")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="start nothing that would end after these")
    parser.add_argument("--parts", nargs="*", choices=[*PARTS], help="only these")
    parser.add_argument("--pack", type=Path, help="only pack the real images of this VOC devkit into WORK")
    parser.add_argument("--weights", type=Path, help="file with MobileNetV2's ImageNet weights")
    return parser.parse_args(argv)


def _write(path: Path, rows: list[dict]) -> None:
    path.write_text(json.dumps(rows, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
