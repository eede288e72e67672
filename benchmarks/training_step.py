"""How many images a second does the training loop do, against a plain one? The same network, batch and optimiser.

The plain loop is what a tutorial has: float32, contiguous images, photographs opened by Pillow in full and transformed
in as many worker processes as there are cores. Ours is `csra_lab.training.train` as it is, with its own choices: on a
CPU `channels_last` and photographs read in the training process, on a GPU bfloat16 and workers. On a CPU a run may ask
for bfloat16 too (`--precision bf16`), which has rows of its own.

Prediction on a CPU. An image takes 3 m multiply-adds (forward, and backward for inputs and weights) at the ceiling, and
moves the outputs of its convolutions, a bytes, 16 times: convolutions read and write them in all three directions, so
do normalisation (5 passes) and activation (5). On contiguous memory a convolution also copies its input and its output
in and out of its own layout in all three directions, 12 passes more. Reading a photograph, r seconds, is in both.

    ratio = (3 m / ceiling + 28 a / bandwidth + r) / (3 m / ceiling + 16 a / bandwidth + r)

In bfloat16 our side has that type's ceiling and half of the bytes.

On a GPU the plain loop is bound by 3 m at float32's ceiling, ours by 3 m at bfloat16's, if the photographs come in
time; a network reaches about half of the ceiling of a large product.
"""

import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from machine import Ceilings, ceilings, options, report
from torch import nn
from torch.utils.data import DataLoader, Dataset

from csra_lab.classifier import MultiLabelClassifier, create_classifier
from csra_lab.cost import model_cost
from csra_lab.datasets import MultiLabelDataset, load_dataset
from csra_lab.datasets.transforms import train_transform
from csra_lab.losses import binary_cross_entropy
from csra_lab.recipes import Recipe
from csra_lab.training import train
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
READING = 8e-3  # seconds of one core to open and transform a photograph of VOC's size


class PlainItems(Dataset):
    """Photographs opened by Pillow, transformed, and their targets."""

    def __init__(self, dataset: MultiLabelDataset, transform):
        self.paths, self.targets, self.transform = dataset.paths, torch.from_numpy(dataset.targets), transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int):
        return self.transform(pillow(self.paths[i])), self.targets[i]


def recipe_for(backbone: str, image_size: int, batch_size: int, precision: str) -> Recipe:
    return Recipe(
        name="benchmark", dataset="voc2007", backbone=backbone, image_size=image_size, batch_size=batch_size,
        precision=precision, weights="none", epochs=1, warmup_epochs=0.0,
    )  # fmt: skip


def ours(recipe: Recipe, dataset: MultiLabelDataset, folder: Path) -> float:
    """Seconds of one epoch, as the run's own history has it."""
    return float(train(recipe, dataset, None, folder, progress=False).history["seconds"].iloc[0])


def plain(recipe: Recipe, dataset: MultiLabelDataset, device: torch.device) -> float:
    """Seconds of one epoch of a plain loop."""
    torch.manual_seed(recipe.seed)
    options = recipe.head_options()
    model = create_classifier(recipe.backbone, classes=dataset.classes, image_size=recipe.image_size, **options)
    model = model.to(device).train()
    groups = [
        {"params": model.backbone.parameters(), "lr": recipe.backbone_lr},
        {"params": model.head.parameters(), "lr": recipe.head_lr},
    ]
    optimizer = torch.optim.SGD(groups, lr=recipe.head_lr, momentum=0.9, weight_decay=recipe.weight_decay)
    transform = train_transform(recipe.image_size, mean=model.mean, std=model.std)
    items = PlainItems(dataset, transform)
    start = time.perf_counter()
    loader = DataLoader(
        items, recipe.batch_size, shuffle=True, drop_last=True, num_workers=min(os.cpu_count() or 1, 16)
    )
    for images, targets in loader:
        plain_step(model, optimizer, images.to(device), targets.to(device).clamp(min=0))
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, images, targets) -> torch.Tensor:
    loss = binary_cross_entropy(model(images), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


@torch.no_grad()
def activations(backbone: str, image_size: int) -> int:
    """Numbers that the convolutions of a network put out for one image, counted on shapes alone."""
    total = 0

    def count(_, __, output) -> None:
        nonlocal total
        total += output.numel()

    with torch.device("meta"):
        model: MultiLabelClassifier = create_classifier(backbone, num_classes=20, image_size=image_size).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        model(torch.empty(1, 3, image_size, image_size))
    return total


def predict(recipe: Recipe, top: Ceilings, ours_top: Ceilings, device: torch.device) -> float:
    """Images a second of ours over the plain loop's; see the top of this file. `ours_top`: of our loop's precision."""
    if device.type == "cuda":
        return ours_top.multiply_adds_per_second / top.multiply_adds_per_second
    products = 3 * model_cost(recipe.backbone, num_classes=20, image_size=recipe.image_size).multiply_adds
    numbers = activations(recipe.backbone, recipe.image_size)
    size = 2 if recipe.precision == "bf16" else 4  # bytes
    slow = top.seconds(products) + top.seconds(0, 28 * 4 * numbers) + READING
    fast = ours_top.seconds(products) + top.seconds(0, 16 * size * numbers) + READING
    return slow / fast


def main(argv: Sequence[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    top = ceilings(device, tiny=chosen.tiny)
    half = ceilings(device, torch.bfloat16, tiny=chosen.tiny)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = TINY if chosen.tiny else GPU if device.type == "cuda" else CPU
        most = max(images for *_, images, _ in settings)
        devkit = write_devkit(folder, {"trainval": most}, photographs=PHOTOGRAPH, boxes=False)
        everything = load_dataset("voc2007", devkit, "trainval")
        for backbone, image_size, batch_size, images, precision in settings:
            recipe, dataset = recipe_for(backbone, image_size, batch_size, precision), everything.subset(range(images))
            ours_top = half if precision == "bf16" else top
            best = {"ours": float("inf"), "plain": float("inf")}
            for turn in range(1 if chosen.tiny else 2):
                seeded = dataclasses.replace(recipe, seed=turn)
                best["ours"] = min(best["ours"], ours(seeded, dataset, folder / f"{backbone}-{precision}-{turn}"))
                best["plain"] = min(best["plain"], plain(seeded, dataset, device))
            a_second = {k: images / seconds for k, seconds in best.items()}
            work = 3 * model_cost(backbone, num_classes=20, image_size=image_size).multiply_adds
            rows.append(
                {
                    "backbone": backbone,
                    "pixels": image_size,
                    "batch": batch_size,
                    "our_precision": precision,
                    "images_per_second": a_second["ours"],
                    "plain_images_per_second": a_second["plain"],
                    "ratio": a_second["ours"] / a_second["plain"],
                    "predicted": predict(recipe, top, ours_top, device),
                    "share_of_ceiling": work * a_second["ours"] / ours_top.multiply_adds_per_second,
                    "minutes_of_the_papers_voc2007_schedule": 30 * VOC2007 / a_second["ours"] / 60,
                }
            )
    return report("training_step", rows, chosen, device=str(device), ceilings=top, half_ceilings=half)


if __name__ == "__main__":
    main(sys.argv[1:])
