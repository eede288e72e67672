"""What does `--precision bf16` bring a training step on a CPU, with and without depthwise convolutions left out of it?

The lab's `autocast` leaves depthwise convolutions of a CPU in single precision where gradients are wanted. Torch's own
takes them to bfloat16 too.

Prediction. With m multiply-adds and a numbers put out by the convolutions, d and e of them by depthwise ones, a step
takes 3 m / ceiling + 16 passes over the numbers (see training_step.py). In bfloat16 a number has 2 bytes, and products
have that type's ceiling; what stays in single precision does not:

    fp32 = 3 m / ceiling32 + 64 a / bandwidth
    bf16 = 3 (m - d) / ceiling16 + 3 d / ceiling32 + (32 (a - e) + 64 e) / bandwidth

and all in bfloat16 with d = e = 0, which would be a little faster still.
"""

import functools
import sys
from collections.abc import Sequence

import torch
from growth import training_step
from machine import Ceilings, ceilings, options, report, take_turns
from torch import nn
from training_step import activations, layer_outputs

from csra_lab.cost import model_cost
from csra_lab.device import keep_freed_memory

# backbone, pixels, images
CPU = (
    ("tf_efficientnet_lite0", 224, 16),
    ("tf_efficientnet_lite3", 224, 16),
    ("efficientnet_b0", 224, 16),
    ("mobilenetv2_100", 224, 16),
    ("resnet18", 224, 16),
)
TINY = (("test_efficientnet", 64, 2),)


def depthwise(backbone: str, pixels: int) -> tuple[int, int]:
    """Multiply-adds and put out numbers of a network's depthwise convolutions for one image."""
    found = [
        (layer.weight[0].numel() * size, size)
        for layer, size in layer_outputs(backbone, pixels)
        if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1
    ]
    return sum(products for products, _ in found), sum(size for _, size in found)


def predict(backbone: str, pixels: int, single: Ceilings, half: Ceilings) -> tuple[float, float]:
    """Seconds of an image's step in single precision over those in bfloat16: everywhere, and as the lab does it."""
    work = model_cost(backbone, num_classes=20, image_size=pixels).multiply_adds
    numbers = activations(backbone, pixels)

    def seconds(products: int, outputs: int) -> float:
        """With so much of it in single precision."""
        moved = single.seconds(0, 32 * (numbers - outputs) + 64 * outputs)
        return half.seconds(3 * (work - products)) + single.seconds(3 * products) + moved

    whole = single.seconds(3 * work) + single.seconds(0, 64 * numbers)
    return whole / seconds(0, 0), whole / seconds(*depthwise(backbone, pixels))


def row_of(setting: tuple[str, int, int], single: Ceilings, half: Ceilings, repeats: int) -> dict:
    backbone, pixels, images = setting
    step = functools.partial(training_step, backbone, images=images, pixels=pixels, classes=20)
    steps = {
        "fp32": step(),
        "everywhere": step(dtype=torch.bfloat16, mixed=torch.autocast),
        "lab": step(dtype=torch.bfloat16),
    }
    best = take_turns(steps, repeats=repeats)
    everywhere, lab = predict(backbone, pixels, single, half)
    return {
        "backbone": backbone,
        "pixels": pixels,
        "images": images,
        "fp32_ms": 1e3 * best["fp32"],
        "everywhere_ms": 1e3 * best["everywhere"],
        "lab_ms": 1e3 * best["lab"],
        "everywhere_ratio": best["fp32"] / best["everywhere"],
        "predicted_everywhere": everywhere,
        "ratio": best["fp32"] / best["lab"],
        "predicted": lab,
    }


def main(argv: Sequence[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    keep_freed_memory()
    settings, repeats = (TINY, 1) if chosen.tiny else (CPU, 5)
    single, half = (ceilings(dtype=dtype, tiny=chosen.tiny) for dtype in (torch.float32, torch.bfloat16))
    rows = [row_of(setting, single, half, repeats) for setting in settings]
    return report("precision", rows, chosen, ceilings=single, half_ceilings=half)


if __name__ == "__main__":
    main(sys.argv[1:])
