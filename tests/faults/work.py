"""The work that is killed: preparation, download, features, training and recording, each on toy data.

Python tells an audit hook of every file that is opened for writing, renamed or removed, and of every folder made. So a
process can kill itself just before each of these steps; a few kills by the clock fall between them.
"""

import functools
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from unittest.mock import patch

import torch

from csra_lab.backbones import create_backbone
from csra_lab.datasets import download as downloads
from csra_lab.recipes import Recipe
from csra_lab.study import experiments
from csra_lab.study.experiments import run_plans
from csra_lab.study.plans import SOURCES, Entry, Plan, Source
from csra_lab.synthetic import emoji_voc, prepare
from csra_lab.training.feature_cache import cache_features
from csra_lab.training.loop import train
from tests import toy

torch.set_num_threads(1)  # as tests/conftest.py, and before anything forks

STEPS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "tempfile.mkdtemp", "shutil.rmtree"}
RECIPE = Recipe.of(
    name="toy", dataset="voc2012", backbone="test_vit", image_size=64, weights="none", classes=toy.CLASSES, epochs=4,
    batch_size=8, optimizer="adamw", backbone_lr=1e-3, head_lr=1e-2, schedule="cosine", warmup_epochs=0.5,
    validation_fraction=0.25, lam=0.3,
)  # fmt: skip
PLAN = Plan(
    "faults",
    "does it survive?",
    ("toy",),
    (Entry("average", {"head": "average"}, keep=True), Entry("CSRA", against="average", keep=True)),
    seeds=2,
    base={"epochs": 2, "batch_size": 8, "weights": "none"},
)


def draw_emoji(root: Path) -> None:
    with patch.dict(emoji_voc.IMAGES, tiny=(10, 5, 5)):  # put back where a test calls this in its own process
        emoji_voc.prepare_emoji_voc(root, size="tiny", image_size=32, progress=False, workers=1)


def with_helpers(marks: Path) -> None:
    """Two helpers that leave a mark and then have work for a minute."""
    prepare.get_context = lambda kind: multiprocessing.get_context("fork")  # spawning would import torch twice
    list(prepare.in_parallel(functools.partial(_sleep, marks), 4, label="x", workers=2, progress=False))


def _sleep(marks: Path, number: int) -> None:
    (marks / str(os.getpid())).touch()
    time.sleep(60)


def fetch(root: Path, address: str, files: list[tuple[str, int, str]]) -> None:
    """Download VOC2007 from a server of this machine; files are (name, size, checksum)."""
    archives = tuple(downloads.Archive(f"{address}/{name}", size, checksum) for name, size, checksum in files)
    downloads.SOURCES["voc2007"] = downloads.Source(archives, "VOCdevkit/VOC2007", "", 1000)
    downloads.PAUSES = (0.0, 0.0, 0.0)
    downloads.download("voc2007", root, progress=False)


@functools.cache
def network():
    torch.manual_seed(0)
    return create_backbone("test_efficientnet", image_size=64)


def features(devkit: Path, root: Path) -> None:
    cache_features(network(), toy.load(devkit, "trainval"), root=root)


def fit(devkit: Path, out: Path) -> None:
    train(RECIPE, toy.load(devkit, "trainval"), toy.load(devkit, "test"), out, progress=False)


def record(devkit: Path, cache: Path, out: Path) -> None:
    """`csra-lab ablate` on toy data."""
    SOURCES["toy"] = Source("voc2012", classes=toy.CLASSES, backbone="test_efficientnet", image_size=64)
    experiments.best_weights = lambda name: "none"
    torch.manual_seed(0)
    run_plans([PLAN], data=devkit, out=out, cache=cache, log=lambda text: None, progress=False)


def run_until(work, arguments: tuple, die_at: int | None, count_to: Path | None) -> None:
    """Do the work, count its changes to the file system, and die before one of them."""
    steps = 0

    def hook(event, details):
        nonlocal steps
        if event == "open":
            path, _, flags = details
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            changes = changes and not str(path).startswith(("/dev", "/proc"))
        else:
            changes = event in STEPS
        if changes:
            steps += 1
            if steps == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    work(*arguments)
    if count_to is not None:
        count_to.write_text(str(steps))
