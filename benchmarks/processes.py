"""Do two processes train faster than one, and is each test image scored exactly once? torch's launcher, on the CPU.

Each process has one thread, so that one process leaves the other core idle: that is what a second machine or GPU adds.
The same batch is split over the processes. On the side, one process with two threads on the same two cores.

Prediction. Of t seconds a step in one process, two take t / 2 each and then exchange the gradients: P parameters of 4
bytes through the loopback at about 1 GB/s, most of it hidden behind the backward pass, since gradients leave as they
come. ResNet-18 has 11 million, so 45 ms of which half is seen, and a step of 16 images at 224 takes 2 s: 1.9 times.
Two threads share one network's layers and wait for each other after each: 1.8.
"""

import collections
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from machine import options, report

from csra_lab.catalog import load_dataset
from csra_lab.datasets import MultiLabelDataset
from csra_lab.recipes import Recipe
from csra_lab.training.loop import train
from csra_lab.training.run_folder import read_evaluation
from data import write_devkit

SETTING = {"backbone": "resnet18", "image_size": 224, "batch_size": 16}
TINY = {"backbone": "test_efficientnet", "image_size": 64, "batch_size": 4}


class NotedDataset(MultiLabelDataset):
    """A data set that writes down which item is read, in a file of this process."""

    noted: Path

    def image(self, i: int):
        with open(self.noted / f"{os.getpid()}.txt", "a") as handle:
            handle.write(f"{self.ids[i]}\n")
        return super().image(i)


def work(devkit: Path, out: Path, tiny: bool) -> None:
    """One process's part: train an epoch, score the test split."""
    recipe = Recipe.of(
        name="benchmark", dataset="voc2007", weights="none", epochs=2, warmup_epochs=0.0, workers=0,
        **(TINY if tiny else SETTING),
    )  # fmt: skip
    test_set = load_dataset("voc2007", devkit, "test")
    test_set.__class__, test_set.noted = NotedDataset, out.parent / f"{out.name}-read"
    test_set.noted.mkdir(exist_ok=True)
    train(recipe, load_dataset("voc2007", devkit, "trainval"), test_set, out, progress=False)


def launch(devkit: Path, out: Path, *, processes: int, threads: int, tiny: bool) -> dict:
    """Run `work` in so many processes; images a second of the second epoch, and what was read and scored.

    `accelerate launch` would start one process on CPUs, whatever it is asked for.
    """
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), __file__,
        "--part", json.dumps([str(devkit), str(out)]), *["--tiny"] * tiny,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "ACCELERATE_USE_CPU": "true"}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    history = (out / "history.csv").read_text().splitlines()
    columns = dict(zip(history[0].split(","), history[-1].split(","), strict=True))
    files = list((out.parent / f"{out.name}-read").iterdir())
    read = [x for file in files for x in file.read_text().split()]
    run = read_evaluation(out)
    return {
        "speed": float(columns["images_per_second"]),
        "read": read,
        "readers": len(files),
        "scores": run.scores,
        "ids": run.ids,
    }


def main(argv: Sequence[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    if chosen.part:
        devkit, out = map(Path, json.loads(chosen.part))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        work(devkit, out, chosen.tiny)
        return []
    counts = {"trainval": 8, "test": 5} if chosen.tiny else {"trainval": 128, "test": 45}
    ways = {"one process": (1, 1), "two processes": (2, 1), "one process, two threads": (1, 2)}
    if chosen.tiny:
        del ways["one process, two threads"]
    predicted = {"one process": 1.0, "two processes": 1.9, "one process, two threads": 1.8}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        devkit = write_devkit(folder, counts, photographs=(500, 375), boxes=False)
        found: dict[str, list[dict]] = {way: [] for way in ways}
        for turn in range(1 if chosen.tiny else 2):
            for number, (way, (processes, threads)) in enumerate(ways.items()):
                out = folder / f"run-{turn}-{number}"
                found[way].append(launch(devkit, out, processes=processes, threads=threads, tiny=chosen.tiny))
    one = found["one process"][0]
    rows = []
    for way, runs in found.items():
        times_read = collections.Counter(runs[0]["read"])
        assert sorted(times_read) == sorted(one["ids"]), f"{way} scored another set of images"
        assert set(times_read.values()) == {1}, f"{way} scored an image more than once"
        assert runs[0]["readers"] == ways[way][0], f"{way} was {runs[0]['readers']} process(es)"
        speed = max(run["speed"] for run in runs)
        rows.append(
            {
                "way": way,
                "images_per_second": speed,
                "times_one_process": speed / max(run["speed"] for run in found["one process"]),
                "predicted": predicted[way],
                "test_images": counts["test"],
                "scored_exactly_once": sum(n == 1 for n in times_read.values()),
                "largest_difference_of_a_score": float(np.abs(runs[0]["scores"] - one["scores"]).max()),
            }
        )
    return report("processes", rows, chosen)


if __name__ == "__main__":
    main(sys.argv[1:])
