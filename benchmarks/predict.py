"""How fast are a folder's images named? `csra-lab predict`'s loop against timm with a DataLoader of two workers.

Both read the same files and run the same network in batches of 32 in `channels_last`. The plain loop is what a tutorial
has: Pillow, timm's transform and a DataLoader; ours is `predict_each`, which reads in threads and decodes large JPEGs
at half, a quarter or an eighth.

Predictions. A batch of EfficientNet-Lite0 takes as long in both. Two worker processes and the network share two cores
as two reading threads and the network do, but a worker's batch of 32 x 3 x 224 x 224 floats, 19 MB, goes through shared
memory, and each run starts the workers anew: 1.1 with photographs of 500 x 375, which are decoded in full by both.
Photographs of 2000 x 1500 are decoded at half by ours (1/4 would leave less than twice 224 on the short side): a JPEG
still has its bits read, half of the work, and the rest, the colours and the resize, is of a quarter of the pixels. With
reading about two thirds of the whole: 1.5.
Beside the ratio of the times stands that of the processor's seconds, which other programs do not change.
Memory of ours does not grow with the folder: the slope of peak memory over the number of images is 0.

`--photographs DIR` names a folder of one's own, of which the first 64 are taken as a third row.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from machine import frugal, options, peak_memory, report, take_turns
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from csra_lab.classifier import create_classifier
from csra_lab.datasets.images import walk_images
from csra_lab.prediction import predict_each
from data import photograph

BACKBONE, CLASSES, BATCH, WORKERS, IMAGES = "tf_efficientnet_lite0", 20, 32, 2, 64
SIZES = {(500, 375): 1.1, (2000, 1500): 1.5}
"""Width and height of the photographs, and the ratio predicted."""


class Files(Dataset):
    """Image files through timm's transform."""

    def __init__(self, paths: Sequence[Path], transform):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        with Image.open(self.paths[i]) as image:
            return self.transform(image.convert("RGB"))


@torch.inference_mode()
def plain(model: torch.nn.Module, transform, paths: Sequence[Path], workers: int) -> int:
    """The loop of a tutorial; how many images it named."""
    loader = DataLoader(Files(paths, transform), batch_size=BATCH, num_workers=workers)
    return sum(len(torch.sigmoid(model(x.to(memory_format=torch.channels_last)))) for x in loader)


def ours(model: torch.nn.Module, paths: Sequence[Path]) -> int:
    return sum(1 for _ in predict_each(model, paths, batch_size=BATCH, workers=WORKERS))


def processor_seconds(loop) -> float:
    """Seconds of the processor, with those of the workers: what a busy machine does not change."""
    start = os.times()
    loop()
    return sum(after - before for after, before in zip(os.times()[:4], start[:4], strict=True))


def write_photographs(folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    """`count` files; ten different ones, since making noise takes longer than naming it."""
    rng, paths = np.random.default_rng(0), []
    made = [photograph(size, rng) for _ in range(min(10, count))]
    for i in range(count):
        paths.append(folder / f"{i:05d}.jpg")
        made[i % len(made)].save(paths[-1], quality=90)
    return paths


def networks(image_size: int | None):
    model = create_classifier(BACKBONE, num_classes=CLASSES, image_size=image_size, num_heads=1).eval()
    other = timm.create_model(BACKBONE, num_classes=CLASSES).eval().to(memory_format=torch.channels_last)
    size = model.image_size
    transform = timm.data.create_transform((3, size, size), crop_pct=1.0, crop_mode="squash")
    return model, other, transform


def memory(tiny: bool) -> list[int | None]:
    """Peak bytes of naming folders of three sizes."""
    model = networks(64 if tiny else None)[0]
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(Path(folder), (64, 64) if tiny else (500, 375), 10)
        return [peak_memory(partial(ours, model, (paths * count)[: 10 * count])) for count in counts(tiny)]


def counts(tiny: bool) -> tuple[int, ...]:
    """Tens of images."""
    return (1, 2) if tiny else (3, 6, 12)


def main(argv: Sequence[str] | None = None) -> list[dict]:
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--photographs", type=Path)
    own, rest = extra.parse_known_args(argv)
    chosen = options(rest, __doc__)
    if chosen.part == "memory":
        print(json.dumps(memory(chosen.tiny)))
        return []
    held = frugal([__file__, "--part", "memory", *["--tiny"] * chosen.tiny])
    model, other, transform = networks(64 if chosen.tiny else None)
    count, workers, rows = (4, 0, []) if chosen.tiny else (IMAGES, WORKERS, [])
    with tempfile.TemporaryDirectory() as folder:
        sets = {}
        for size, predicted in SIZES.items():
            place = Path(folder) / str(size[0])
            place.mkdir()
            small = (64, 48) if chosen.tiny else size
            sets[f"{size[0]} x {size[1]}"] = (write_photographs(place, small, count), predicted)
        if own.photographs is not None:
            sets["of one's own"] = (walk_images(own.photographs)[0][:count], 1.2)
        for name, (paths, predicted) in sets.items():
            loops = {"plain": partial(plain, other, transform, paths, workers), "ours": partial(ours, model, paths)}
            best = take_turns(loops, repeats=1 if chosen.tiny else 2)
            work = {by: processor_seconds(loop) for by, loop in loops.items()}
            rows.append(
                {
                    "part": "against timm and a DataLoader",
                    "photographs": name,
                    "images": len(paths),
                    "images_per_second": len(paths) / best["ours"],
                    "plain_images_per_second": len(paths) / best["plain"],
                    "ratio": best["plain"] / best["ours"],
                    "processor_ratio": work["plain"] / work["ours"],
                    "predicted": predicted,
                }
            )
    for tens, use in zip(counts(chosen.tiny), held, strict=True):
        rows.append({"part": "memory of ours", "images": 10 * tens, "memory_mb": use and use / 1e6,
                     "predicted_growth": 0.0})  # fmt: skip
    return report("predict", rows, chosen)


if __name__ == "__main__":
    main(sys.argv[1:])
