"""Other people's machines: no home to write in, no screen, one core, no network, odd paths, line ends of Windows.

Each test is a process of its own that meets all of it at once.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

from csra_lab.training.run_folder import read_evaluation
from tests import toy

ROOT = Path(__file__).resolve().parents[1]
NO_NETWORK = """
import socket

def refuse(*_, **__):
    raise OSError("this machine has no network")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""


@pytest.fixture
def folder(tmp_path):
    odd = tmp_path / "Prüfung à la maison"
    odd.mkdir()
    return odd


def csra_lab(folder: Path, *arguments) -> subprocess.CompletedProcess:
    """`csra-lab` on that machine, started in `folder`."""
    (folder / "patched").mkdir(exist_ok=True)
    (folder / "patched/sitecustomize.py").write_text(NO_NETWORK)
    nowhere = folder / "home"
    nowhere.write_text("a file, in which nothing can be made")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "CSRA_LAB_", "MPL", "HF_", "DISPLAY"))}
    setting = {"HOME": str(nowhere), "PYTHONPATH": f"{folder / 'patched'}{os.pathsep}{ROOT}"}
    one_core = (lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})) if sys.platform == "linux" else None
    return subprocess.run(
        [sys.executable, "-m", "csra_lab.cli", *map(str, arguments)],
        env={**kept, **setting}, cwd=folder, capture_output=True, text=True, preexec_fn=one_core,
    )  # fmt: skip


def test_a_photograph_is_read_and_its_attention_drawn(folder):
    Image.fromarray(data.chelsea()).save(folder / "un chat.jpg")
    done = csra_lab(folder, "predict", "un chat.jpg", "--attention", "où/", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert found["labels"][0]["class"] == "cat"
    assert (folder / "où" / "un_chat_cat.png").exists()


def test_a_classifier_is_trained_from_lists_with_the_line_ends_of_windows(folder):
    devkit = toy.write_devkit(folder)
    for path in (devkit / "VOC2012/ImageSets/Main").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    toys = ["--backbone", "test_efficientnet", "--weights", "none", "--image-size", "64", "--classes", *toy.CLASSES]
    short = ["--epochs", "1", "--batch-size", "8", "--validation-fraction", "0.25"]
    done = csra_lab(folder, "train", "voc2012-lite0-csra", "--data", devkit, "--out", "läufe/1", *toys, *short)
    assert done.returncode == 0, done.stderr
    assert read_evaluation(folder / "läufe/1").classes == toy.CLASSES


def test_what_needs_a_cache_says_that_the_home_cannot_be_written(folder):
    done = csra_lab(folder, "data", "prepare", "emoji-voc")
    assert done.returncode == 2
    (sentence,) = done.stderr.strip().splitlines()
    assert sentence.startswith("csra-lab: ")
    assert str(folder / "home") in sentence
