"""How do time and memory grow with images, classes, heads and pixels? Slopes on logarithmic axes: 1 is a straight line.

Training steps and feature maps are those of ResNet-18, or of another small network, at random pixels; metrics are in
benchmarks/metrics.py and the data sets in benchmarks/data.py. What does not grow (weights, Python) bends a curve at its
small end, so each slope is of the three largest sizes, and all points are in the file.

Predictions. A step takes multiply-adds in proportion to the images and to the square of the side, so slopes of 1 and 2
in time; memory holds the activations of every image beside the weights, gradients and momenta: 1 and 2, somewhat less
where the weights still count. Classes and heads only make the head larger, H C d N multiply-adds of m: about 0 up to 80
classes or 8 heads. Alone on cached features, a head grows with both: 1 from where the product outweighs reading the
features, so 0.5 over these sizes. Features of images: 1 and 2 in time; in memory they are kept: 1 with the images, 2
with the side, in which the locations are counted.
"""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from head import features, forward_backward
from machine import frugal, options, peak_memory, report, take_turns
from metrics import slope

from csra_lab.classifier import create_classifier
from csra_lab.device import autocast, to_device
from csra_lab.heads import CSRA
from csra_lab.losses import binary_cross_entropy

BACKBONE = "resnet18"
SIZES = {"images": (4, 8, 16, 32), "pixels": (96, 160, 224, 320), "classes": (10, 20, 40, 80), "heads": (1, 2, 4, 8)}
USUAL = {"images": 8, "pixels": 160, "classes": 20, "heads": 1}
TINY = {"images": (2, 4), "pixels": (64, 96), "classes": (5, 10), "heads": (1, 2)}
TINY_USUAL = {"images": 2, "pixels": 64, "classes": 5, "heads": 1}
PREDICTED = {
    # (time, memory)
    ("step", "images"): (1.0, 0.8), ("step", "pixels"): (2.0, 1.6), ("step", "classes"): (0.0, 0.0),
    ("step", "heads"): (0.0, 0.0), ("features", "images"): (1.0, 0.1), ("features", "pixels"): (2.0, 2.0),
    ("head", "images"): (1.0, 1.0), ("head", "classes"): (0.5, 0.3), ("head", "heads"): (0.5, 0.3),
}  # fmt: skip


def training_step(
    backbone: str,
    *,
    images: int,
    pixels: int | None,
    classes: int,
    device="cpu",
    dtype=None,
    compiled=False,
    fused=False,
    heads: int | None = None,
    mixed=autocast,
    **head,
) -> Callable[[], None]:
    """Forward, backward and SGD with momentum on one batch; `head`: options of `create_classifier`.

    `mixed`: (device, dtype) -> the context of the forward pass.
    """
    options = head if heads is None else {**head, "num_heads": heads}
    model = create_classifier(backbone, num_classes=classes, image_size=pixels, **options).to(device).train()
    if model.backbone.convolutional:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=fused)
    batch = to_device(torch.randn(images, 3, model.image_size, model.image_size), device)
    targets = torch.zeros(images, classes, dtype=torch.int8, device=device)
    network = torch.compile(model) if compiled else model

    def step() -> None:
        with mixed(device, dtype):
            logits = network(batch)
        binary_cross_entropy(logits, targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def feature_maps(backbone: str, *, images: int, pixels: int, **_) -> Callable[[], torch.Tensor]:
    """The maps of some images, four at a time, kept as float16."""
    model = create_classifier(backbone, num_classes=2, image_size=pixels).eval().to(memory_format=torch.channels_last)
    batch = torch.randn(4, 3, pixels, pixels).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def step() -> torch.Tensor:
        return torch.cat([model.features(batch).half() for _ in range(images)])

    return step


def head_alone(_: str, *, images: int, pixels: int, classes: int, heads: int) -> Callable[[], None]:
    """A head forward and backward on cached features of a ResNet's size."""
    head, x = CSRA(2048, classes, num_heads=heads), features((images, 2048, 14, 14), "contiguous")
    return partial(forward_backward, head, x.detach())


WORK = {"step": training_step, "features": feature_maps, "head": head_alone}


def points(tiny: bool) -> list[tuple[str, str, int, Callable[[], Callable]]]:
    """(what, along which axis, size, a function that sets the step up)."""
    sizes, usual, backbone = (TINY, TINY_USUAL, "test_efficientnet") if tiny else (SIZES, USUAL, BACKBONE)
    return [
        (what, axis, size, partial(WORK[what], backbone, **{**usual, axis: size}))
        for what, axis in PREDICTED
        for size in sizes[axis]
    ]


def main(argv: Sequence[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    if chosen.part == "memory":
        print(json.dumps([peak_memory(make()) for *_, make in points(chosen.tiny)]))
        return []
    held = frugal([__file__, "--part", "memory", *["--tiny"] * chosen.tiny])
    found: dict[tuple[str, str], list[tuple[int, float, int | None]]] = {}
    for (what, axis, size, make), use in zip(points(chosen.tiny), held, strict=True):
        seconds = take_turns({"step": make()}, repeats=1 if chosen.tiny else 4)["step"]
        found.setdefault((what, axis), []).append((size, seconds, use))
    rows = []
    for (what, axis), line in found.items():
        for size, seconds, use in line:
            rows.append(
                {"part": "points", "what": what, "along": axis, "size": size, "ms": 1e3 * seconds,
                 "memory_mb": use and use / 1e6}
            )  # fmt: skip
    for (what, axis), line in found.items():
        upper = line[-3:]
        x, seconds, memory = (list(values) for values in zip(*upper, strict=True))
        time_slope, memory_slope = PREDICTED[what, axis]
        rows.append(
            {
                "part": "slopes",
                "what": what,
                "along": axis,
                "time": slope(x, seconds),
                "predicted_time": time_slope,
                "memory": slope(x, memory) if all(memory) else None,
                "predicted_memory": memory_slope,
            }
        )
    return report("growth", rows, chosen)


if __name__ == "__main__":
    main(sys.argv[1:])
