"""How many images a second does the training loop do, against a plain one? The same network, batch and optimiser.

The plain loop is what a tutorial has: float32, contiguous images, photographs opened by Pillow in full and transformed
in as many worker processes as there are cores. Ours is `csra_lab.training.loop.train` as it is, with its own choices:
on a CPU `channels_last` and no worker, on a GPU bfloat16 and workers; once with photographs read in every epoch, once
with photographs kept in memory as it does by itself where they fit, on a GPU also compiled. On a CPU a run may ask for
bfloat16 too (`--precision bf16`), which has rows of its own.

Prediction on a CPU. An image takes 3 m multiply-adds (forward, and backward for inputs and weights) at the ceiling, and
moves the outputs of its convolutions, a bytes, 16 times: convolutions read and write them in all three directions, so
do normalisation (5 passes) and activation (5). On contiguous memory a convolution also copies its input and its output
in and out of its own layout in all three directions, 12 passes more. Opening a photograph takes `OPENING` seconds and
transforming it `TRANSFORMING`; a kept one is not opened.

    ratio = (3 m / ceiling + 28 a / bandwidth + reading) / (3 m / ceiling + 16 a / bandwidth + reading of ours)

In bfloat16 our side has that type's ceiling and half of the bytes.

A compiled network (`--compile default`), in rows of its own, runs normalisation and activation as one: 5 of the 16
passes go. It is compared step by step with the same network as it is.

On a GPU each side does what its network or its reading allows, whichever is slower: a network half of its type's
ceiling of a large product, cores as many photographs as they open and transform in the time. Kept photographs are cut
on the GPU, for less than a hundredth of a step.
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from growth import training_step
from machine import Ceilings, ceilings, options, report, take_turns
from torch import nn
from torch.utils.data import DataLoader, Dataset

from csra_lab.catalog import load_dataset
from csra_lab.classifier import MultiLabelClassifier, create_classifier
from csra_lab.cost import model_cost
from csra_lab.datasets import MultiLabelDataset
from csra_lab.datasets.transforms import train_transform
from csra_lab.device import keep_freed_memory
from csra_lab.losses import binary_cross_entropy
from csra_lab.recipes import Recipe
from csra_lab.training.loop import train
from data import pillow, write_devkit

VOC2007 = 5011  # trainval images, 30 epochs of them in the paper
PHOTOGRAPH = (500, 375)
# backbone, pixels, batch, images, precision of our loop
CPU = (
    ("tf_efficientnet_lite0", 224, 16, 128, "fp32"),
    ("resnet18", 224, 16, 128, "fp32"),
    ("resnet18", 224, 16, 128, "bf16"),
    ("resnet101", 448, 4, 8, "fp32"),
    ("resnet101", 448, 4, 8, "bf16"),
)
GPU = tuple((name, 448, 16, 1024, "bf16") for name in ("resnet18", "resnet101", "vit_base_patch16_224"))
TINY = (("test_efficientnet", 64, 4, 8, "fp32"), ("test_efficientnet", 64, 4, 8, "bf16"))
OPENING, TRANSFORMING = 3e-3, 5e-3  # seconds of one core for a photograph of VOC's size
READ, KEPT = {"image_cache": "off"}, {"image_cache": "memory"}
WAYS = {"read": READ, "kept": KEPT}
GPU_WAYS = {
    **WAYS,
    "kept, compiled": {**KEPT, "compile": "default"},
    "kept, CUDA graphs": {**KEPT, "compile": "reduce-overhead"},
}


class PlainItems(Dataset):
    """Photographs opened by Pillow, transformed, and their targets."""

    def __init__(self, dataset: MultiLabelDataset, transform):
        self.paths, self.targets, self.transform = dataset.paths, torch.from_numpy(dataset.targets), transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int):
        return self.transform(pillow(self.paths[i])), self.targets[i]


def recipe_for(backbone: str, image_size: int, batch_size: int, precision: str, epochs: int) -> Recipe:
    return Recipe.of(
        name="benchmark", dataset="voc2007", backbone=backbone, image_size=image_size, batch_size=batch_size,
        precision=precision, weights="none", epochs=epochs, warmup_epochs=0.0,
    )  # fmt: skip


def ours(recipe: Recipe, dataset: MultiLabelDataset, folder: Path) -> tuple[float, float]:
    """Seconds of the fastest epoch, as the run's own history has it, and of all that is no such epoch."""
    start = time.perf_counter()
    best = float(train(recipe, dataset, None, folder, progress=False).history["seconds"].min())
    return best, time.perf_counter() - start - recipe.optimisation.epochs * best


def plain(recipe: Recipe, dataset: MultiLabelDataset, device: torch.device) -> float:
    """Seconds of the fastest epoch of a plain loop."""
    keep_freed_memory(False)
    torch.set_float32_matmul_precision("highest")  # as torch starts; our loop has changed all three
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(recipe.run.seed)
    model = create_classifier(
        recipe.model.backbone, classes=dataset.classes, image_size=recipe.model.image_size, head=recipe.head
    )
    model = model.to(device).train()
    groups = [
        {"params": model.backbone.parameters(), "lr": recipe.optimisation.backbone_lr},
        {"params": model.head.parameters(), "lr": recipe.optimisation.head_lr},
    ]
    optimizer = torch.optim.SGD(
        groups, lr=recipe.optimisation.head_lr, momentum=0.9, weight_decay=recipe.optimisation.weight_decay
    )
    transform = train_transform(recipe.model.image_size, mean=model.mean, std=model.std)
    items = PlainItems(dataset, transform)
    best = float("inf")
    for _ in range(recipe.optimisation.epochs):
        start = time.perf_counter()
        loader = DataLoader(
            items,
            recipe.optimisation.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=min(os.cpu_count() or 1, 16),
        )
        for images, targets in loader:
            plain_step(model, optimizer, images.to(device), targets.to(device).clamp(min=0))
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, images, targets) -> torch.Tensor:
    loss = binary_cross_entropy(model(images), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


@torch.no_grad()
def layer_outputs(backbone: str, image_size: int) -> list[tuple[nn.Module, int]]:
    """Each convolution and linear layer, and how many numbers it puts out for one image, counted on shapes alone."""
    found: list[tuple[nn.Module, int]] = []
    with torch.device("meta"):
        model: MultiLabelClassifier = create_classifier(backbone, num_classes=20, image_size=image_size).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(lambda layer, _, output: found.append((layer, output.numel())))
        model(torch.empty(1, 3, image_size, image_size))
    return found


def output_sizes(backbone: str, image_size: int) -> list[int]:
    """The numbers of `layer_outputs` alone."""
    return [size for _, size in layer_outputs(backbone, image_size)]


def activations(backbone: str, image_size: int) -> int:
    """Numbers that the convolutions of a network put out for one image."""
    return sum(output_sizes(backbone, image_size))


def predict(recipe: Recipe, way: str, top: Ceilings, ours_top: Ceilings, device: torch.device) -> float:
    """Images a second of ours over the plain loop's; see the top of this file. `ours_top`: of our loop's precision."""
    products = 3 * model_cost(recipe.model.backbone, num_classes=20, image_size=recipe.model.image_size).multiply_adds
    reading = OPENING + TRANSFORMING
    our_reading = reading if way == "read" else TRANSFORMING
    if device.type == "cuda":
        slow = max(2 * top.seconds(products), reading / (os.cpu_count() or 1))
        fast = max(2 * ours_top.seconds(products), reading / (os.cpu_count() or 1) if way == "read" else 0.0)
        return slow / fast
    numbers = activations(recipe.model.backbone, recipe.model.image_size)
    size = 2 if recipe.run.precision == "bf16" else 4  # bytes
    slow = top.seconds(products) + top.seconds(0, 28 * 4 * numbers) + reading
    fast = ours_top.seconds(products) + top.seconds(0, 16 * size * numbers) + our_reading
    return slow / fast


def rows_of(
    setting: tuple[str, int, int, int, str],
    ways: dict[str, dict],
    everything: MultiLabelDataset,
    folder: Path,
    tops: dict[str, Ceilings],
    device: torch.device,
    *,
    turns: int,
    epochs: int,
) -> list[dict]:
    """Our loop in each way, and the plain one, in turns; the best epoch of each."""
    backbone, image_size, batch_size, images, precision = setting
    recipe, dataset = recipe_for(backbone, image_size, batch_size, precision, epochs), everything.subset(range(images))
    best, start = dict.fromkeys(("plain", *ways), float("inf")), dict.fromkeys(ways, float("inf"))
    for turn in range(turns):
        seeded = recipe.replace(seed=turn)
        best["plain"] = min(best["plain"], plain(seeded, dataset, device))
        for number, (way, fields) in enumerate(ways.items()):
            out = folder / f"{backbone}-{precision}-{number}-{turn}"
            seconds, more = ours(seeded.replace(**fields), dataset, out)
            best[way], start[way] = min(best[way], seconds), min(start[way], more)
    work = 3 * model_cost(backbone, num_classes=20, image_size=image_size).multiply_adds
    ours_top = tops["bf16" if precision == "bf16" else "fp32"]
    return [
        {
            "part": "our loop",
            "backbone": backbone,
            "pixels": image_size,
            "batch": batch_size,
            "our_precision": precision,
            "photographs": way,
            "images_per_second": images / best[way],
            "plain_images_per_second": images / best["plain"],
            "ratio": best["plain"] / best[way],
            "predicted": predict(recipe, way, tops["fp32"], ours_top, device),
            "share_of_ceiling": work * images / best[way] / ours_top.multiply_adds_per_second,
            "start_seconds": start[way],
            "minutes_of_the_papers_voc2007_schedule": (start[way] + 30 * VOC2007 * best[way] / images) / 60,
        }
        for way in ways
    ]


def compiled_rows(
    settings: Sequence[tuple], tops: dict[str, Ceilings], device: torch.device, repeats: int
) -> list[dict]:
    """A training step of a compiled network, on kept pixels, beside the same one as it is."""
    rows = []
    for backbone, image_size, batch_size, _, precision in settings:
        half = precision == "bf16"
        one = {"images": batch_size, "pixels": image_size, "classes": 20, "device": device}
        one["dtype"] = torch.bfloat16 if half else None
        steps = {name: training_step(backbone, **one, compiled=name == "compiled") for name in ("eager", "compiled")}
        start = time.perf_counter()
        steps["compiled"]()
        first = time.perf_counter() - start
        best = take_turns(steps, repeats=repeats, device=device)
        work = 3 * model_cost(backbone, num_classes=20, image_size=image_size).multiply_adds
        products = tops[precision].seconds(work)
        moved = (2 if half else 4) * activations(backbone, image_size)
        rows.append(
            {
                "part": "compiled",
                "backbone": backbone,
                "pixels": image_size,
                "batch": batch_size,
                "our_precision": precision,
                "eager_ms": 1e3 * best["eager"],
                "compiled_ms": 1e3 * best["compiled"],
                "compiled_ratio": best["eager"] / best["compiled"],
                "predicted": (products + tops["fp32"].seconds(0, 16 * moved))
                / (products + tops["fp32"].seconds(0, 11 * moved)),
                "first_step_seconds": first,
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda" and not chosen.tiny
    tops = {
        "fp32": ceilings(device, tiny=chosen.tiny),
        "bf16": ceilings(device, torch.bfloat16, tiny=chosen.tiny),
    }
    # A GPU's first epoch finds its algorithms and compiles, so several epochs make a turn there.
    turns, epochs = (1, 1) if chosen.tiny else (1, 3) if gpu else (2, 1)
    settings = TINY if chosen.tiny else GPU if gpu else CPU
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        most = max(images for *_, images, _ in settings)
        devkit = write_devkit(folder, {"trainval": most}, photographs=PHOTOGRAPH, boxes=False)
        everything = load_dataset("voc2007", devkit, "trainval")
        for setting in settings:
            ways = GPU_WAYS if gpu else WAYS
            rows += rows_of(setting, ways, everything, folder, tops, device, turns=turns, epochs=epochs)
    if not gpu:  # there the loop itself has compiled rows
        small = [setting for setting in settings if setting[1] <= 224]
        rows += compiled_rows(small, tops, device, repeats=1 if chosen.tiny else 5)
    return report("training_step", rows, chosen, device=str(device), ceilings=tops["fp32"], half_ceilings=tops["bf16"])


if __name__ == "__main__":
    main(sys.argv[1:])
