"""A VOC devkit that a test makes in a second: grey noise with coloured squares, one colour a class."""

from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from csra_lab.catalog import load_dataset
from csra_lab.datasets import VOC_CLASSES, MultiLabelDataset

COLOURS = {"cat": (230, 40, 40), "dog": (40, 200, 60), "person": (50, 80, 240)}
CLASSES = tuple(COLOURS)
# Pillow 13 resizes some pictures otherwise than the versions before it, with which what is recorded was not made.
SAME_PIXELS = int(PIL.__version__.split(".")[0]) >= 13


def write_devkit(root: Path, *, trainval: int = 24, test: int = 10, seed: int = 0) -> Path:
    """Write VOC2012 with class lists and photographs below `root`; returns the devkit folder."""
    rng = np.random.default_rng(seed)
    base = root / "VOCdevkit" / "VOC2012"
    lists = base / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (base / "JPEGImages").mkdir()
    for split, count in (("trainval", trainval), ("test", test)):
        ids = [f"{split}_{i:04d}" for i in range(count)]
        present = rng.random((count, len(CLASSES))) < 0.5
        present[np.arange(count), rng.integers(len(CLASSES), size=count)] = True  # no picture without a label
        for image_id, row in zip(ids, present, strict=True):
            picture(row, rng).save(base / "JPEGImages" / f"{image_id}.jpg", quality=95)
        (lists / f"{split}.txt").write_text("\n".join(ids) + "\n")
        for name in VOC_CLASSES:
            column = present[:, CLASSES.index(name)] if name in CLASSES else np.zeros(count, dtype=bool)
            lines = [f"{i} {'1' if on else '-1':>2}" for i, on in zip(ids, column, strict=True)]
            (lists / f"{name}_{split}.txt").write_text("\n".join(lines) + "\n")
    return root / "VOCdevkit"


def picture(present: np.ndarray, rng: np.random.Generator, side: int = 64) -> Image.Image:
    """Noise with a square of each present class's colour at a random place."""
    pixels = rng.integers(90, 150, size=(side, side, 3)).astype(np.uint8)
    for colour, on in zip(COLOURS.values(), present, strict=True):
        if on:
            y, x = rng.integers(0, side - 20, size=2)
            pixels[y : y + 20, x : x + 20] = colour
    return Image.fromarray(pixels)


def load(devkit: Path, split: str) -> MultiLabelDataset:
    return load_dataset("voc2012", devkit, split, classes=CLASSES)
