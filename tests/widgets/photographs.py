"""Ten photographs of scikit-image's wheel, what torch says of them, and a reader who chooses them."""

import json
import time
from pathlib import Path

import numpy as np
import skimage
import torch

from csra_lab.classifier import MultiLabelClassifier
from csra_lab.datasets import open_image
from csra_lab.datasets.transforms import eval_transform
from csra_lab.widgets.photo_network import browser_models
from tests.widgets.drive import Drive

NAMES = "astronaut.png camera.png chelsea.png coffee.png coins.png hubble_deep_field.jpg ihc.png motorcycle_left.png"
PHOTOGRAPHS = [Path(skimage.__file__).parent / "data" / name for name in f"{NAMES} retina.jpg rocket.jpg".split()]


def models() -> list[MultiLabelClassifier]:
    return [model for _, model in browser_models()]


@torch.inference_mode()
def torch_maps(model: MultiLabelClassifier, path: Path) -> torch.Tensor:
    """(heads, C, N), as the lab computes them from the file."""
    transform = eval_transform(model.image_size, mean=model.mean, std=model.std)
    return model.score_maps(transform(open_image(path))[None])[0].flatten(2)


def choose(drive: Drive, path: Path, *, control: str = "file", seconds: float = 60) -> str:
    """Choose a file as a reader does, and wait for what the explorer says of it."""
    drive.browser.page.set_input_files(drive.control(control), path)
    return wait(drive, path.name, seconds=seconds)


def wait(drive: Drive, name: str, *, seconds: float = 60) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        said = drive.shown("message")
        if (name in said and not said.startswith("Reading")) or "not beside" in said:
            drive.settle()
            return said
        time.sleep(0.05)
    raise AssertionError(f"nothing was said of {name} within {seconds} seconds, but: {drive.shown('message')}")


def choose_classifier(drive: Drive, number: int) -> None:
    drive.choose("head", json.dumps(number))


def shown_ranking(drive: Drive, key: str) -> list[tuple[str, float]]:
    """Label and logit of the rows under "average" or "csra"."""
    rows = drive.ask(
        f"""[...root.querySelectorAll('[data-ranking={key}] .lab-row:not([hidden])')].map((e) =>
        [e.querySelector('.lab-name').textContent, e.querySelector('.lab-chance').textContent])"""
    )
    return [(name, float(score.replace("−", "-"))) for name, score in rows]


def holds(shown: list[tuple[str, float]], logits: np.ndarray, classes, *, tolerance: float) -> None:
    """The first rows are the labels with the highest logits, up to the tolerance, with their logits."""
    places = {name: c for c, name in enumerate(classes)}
    ranked = np.sort(logits)[::-1]
    for place, (name, score) in enumerate(shown[:5]):
        assert abs(score - logits[places[name]]) <= tolerance, name
        assert abs(score - ranked[place]) <= tolerance, name
