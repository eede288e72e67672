"""What does each head cost in training, on each backbone? Parameters, multiply-adds, time and memory of one step.

A step is forward, backward and SGD with momentum on a few random images; the head alone changes. The paper reports
0.8 % more time in training and 8 % in testing for H = 8; testing is in inference.py.

Prediction. A head adds C d parameters for each of its H classifiers, and d C N multiply-adds an image, three times over
in training as for every layer. So a step grows as the count of multiply-adds does: below 1 % for the large networks,
3 % for MobileNetV2 at H = 8. Above the model at rest (weights and momentum, which grow with the parameters too) a step
holds the gradient of each new parameter, 4 bytes, and for each score map the scores, their softmax and both gradients,
16 bytes.

On a GPU: ResNet-101 at 448 pixels, batches of 16, bfloat16. The share of multiply-adds, 0.2 % for eight heads, holds
where products bind. A head's own kernels are some twenty of ten microseconds in a step of some ten milliseconds, so the
measurement may lie up to 2 % above it.
"""

import json
import sys
from collections.abc import Callable, Sequence

import torch
from growth import training_step
from machine import frugal, options, peak_memory, report, take_turns

from csra_lab.cost import model_cost
from csra_lab.recipes import PAPER_BACKBONES

CLASSES, BATCH = 20, 4
HEADS = {"average pooling": {"head": "average"}, **{f"H = {h}": {"num_heads": h} for h in (1, 4, 8)}}
TINY = ("test_efficientnet",)


def step_of(backbone: str, image_size: int | None, head: dict) -> Callable[[], None]:
    return training_step(backbone, images=BATCH, pixels=image_size, classes=CLASSES, **head)


def memory(backbone: str, image_size: int | None) -> list[int | None]:
    """Peak bytes of a step above the model at rest, for each head."""
    return [peak_memory(step_of(backbone, image_size, head)) for head in HEADS.values()]


def rows_of(backbone: str, image_size: int | None, held: Sequence[int | None], repeats: int) -> list[dict]:
    steps = {name: step_of(backbone, image_size, head) for name, head in HEADS.items()}
    best = take_turns(steps, repeats=repeats)
    costs = {
        name: model_cost(backbone, num_classes=CLASSES, image_size=image_size, **head) for name, head in HEADS.items()
    }
    base, one = costs["average pooling"], costs["H = 1"]
    places = one.head_multiply_adds / one.head_parameters  # N

    def more_memory(name: str) -> float:
        maps = BATCH * HEADS[name].get("num_heads", 0) * CLASSES * places
        return 4 * (costs[name].parameters - base.parameters) + 16 * maps

    return [
        {
            "backbone": backbone,
            "head": name,
            "parameters": costs[name].parameters,
            "giga_multiply_adds": costs[name].multiply_adds / 1e9,
            "step_ms": 1e3 * best[name],
            "times_average": best[name] / best["average pooling"],
            "predicted": costs[name].multiply_adds / base.multiply_adds,
            "memory_mb": use and use / 1e6,
            "more_memory_mb": use and (use - held[0]) / 1e6,
            "predicted_more_memory_mb": more_memory(name) / 1e6,
        }
        for name, use in zip(HEADS, held, strict=True)
    ]


def share_rows(backbone: str, image_size: int, batch: int, device: str, repeats: int) -> list[dict]:
    """What H = 8 costs of a whole step in bfloat16, on a GPU: the step's time against average pooling's."""
    setting = {"images": batch, "pixels": image_size, "classes": CLASSES, "device": device, "dtype": torch.bfloat16}
    steps = {name: training_step(backbone, **setting, **head) for name, head in HEADS.items()}
    best = take_turns(steps, repeats=repeats, device=device)
    base = model_cost(backbone, num_classes=CLASSES, image_size=image_size, head="average").multiply_adds
    return [
        {
            "part": "share of a step on a GPU",
            "backbone": backbone,
            "pixels": image_size,
            "batch": batch,
            "head": name,
            "step_ms": 1e3 * best[name],
            "times_average": best[name] / best["average pooling"],
            "predicted": model_cost(backbone, num_classes=CLASSES, image_size=image_size, **head).multiply_adds / base,
        }
        for name, head in HEADS.items()
    ]


def main(argv: Sequence[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    size = 64 if chosen.tiny else None
    if chosen.part:
        print(json.dumps(memory(chosen.part, size)))
        return []
    rows = []
    for backbone in TINY if chosen.tiny else PAPER_BACKBONES.values():
        held = frugal([__file__, "--part", backbone, *["--tiny"] * chosen.tiny])
        rows += rows_of(backbone, size, held, repeats=1 if chosen.tiny else 3)
    if torch.cuda.is_available():
        rows += share_rows("resnet101", 448, 16, "cuda", repeats=10)
    return report("head_cost", rows, chosen)


if __name__ == "__main__":
    main(sys.argv[1:])
