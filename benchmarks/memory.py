"""What does it bring to keep freed memory? Scoring and a training step, with and without `keep_freed_memory`, in turns.

Prediction. A C library of GNU gives a piece of 32 MiB or more back when it is freed, and the system clears the pages of
the next one. So each convolution whose map of a batch is as large costs F seconds for a byte, the time to fill new
memory less that to fill old: while scoring for its own map and that of the normalisation after it, 2 maps; in training
for the activation's too, and for the gradients of all three, 6. With m multiply-adds and a bytes of maps, B of them in
large ones, and 6 passes over memory while scoring, 16 in training (see training_step.py):

    ratio = 1 + F maps B / (m / ceiling + passes a / bandwidth)
"""

import functools
import sys
import time
from collections.abc import Callable, Sequence

import torch
from growth import training_step
from machine import Ceilings, ceilings, options, report
from torch import Tensor
from training_step import output_sizes

from csra_lab.classifier import create_classifier
from csra_lab.cost import model_cost
from csra_lab.device import for_inference, keep_freed_memory, to_device

LARGE = 32 * 1024**2  # bytes; M_MMAP_THRESHOLD grows up to this by itself
PASSES, MAPS = {"scoring": 6, "training": 16}, {"scoring": 2, "training": 6}
# backbone, pixels, images
CPU = (
    ("tf_efficientnet_lite0", 224, 16),
    ("tf_efficientnet_lite0", 448, 16),
    ("mobilenetv2_100", 224, 16),
    ("resnet18", 224, 16),
)
TINY = (("test_efficientnet", 64, 2),)


def seconds_of_new_memory(size: int) -> float:
    """For a byte: filling memory that the system has to clear first, less filling memory that is there."""
    keep_freed_memory(False)
    best = dict.fromkeys(("new", "old"), float("inf"))
    for _ in range(5):
        start = time.perf_counter()
        filled = torch.zeros(size, dtype=torch.uint8).fill_(1)
        between = time.perf_counter()
        filled.fill_(2)
        best["new"] = min(best["new"], between - start)
        best["old"] = min(best["old"], time.perf_counter() - between)
        del filled
    return max(best["new"] - best["old"], 0.0) / size


def scoring_step(backbone: str, *, pixels: int, images: int) -> Callable[[], Tensor]:
    """Logits of one batch."""
    model = for_inference(create_classifier(backbone, num_classes=20, image_size=pixels))
    return functools.partial(torch.no_grad()(model), to_device(torch.randn(images, 3, pixels, pixels), "cpu"))


def in_turns(step: Callable[[], object], repeats: int) -> dict[bool, float]:
    """Whether memory is kept -> the least seconds of a step; before each, one that is not measured."""
    best = dict.fromkeys((False, True), float("inf"))
    for _ in range(repeats):
        for kept in best:
            keep_freed_memory(kept)
            step()
            start = time.perf_counter()
            step()
            best[kept] = min(best[kept], time.perf_counter() - start)
    return best


def rows_of(setting: tuple[str, int, int], top: Ceilings, new_memory: float, repeats: int) -> list[dict]:
    backbone, pixels, images = setting
    one = {"pixels": pixels, "images": images}
    work = images * model_cost(backbone, num_classes=20, image_size=pixels).multiply_adds
    maps = [4 * images * size for size in output_sizes(backbone, pixels)]  # bytes
    rows = []
    for part, times in (("scoring", 1), ("training", 3)):
        step = scoring_step(backbone, **one) if part == "scoring" else training_step(backbone, **one, classes=20)
        best = in_turns(step, repeats)
        seconds = top.seconds(times * work) + top.seconds(0, PASSES[part] * sum(maps))
        rows.append(
            {
                "what": part,
                "backbone": backbone,
                **one,
                "given_back_ms": 1e3 * best[False],
                "kept_ms": 1e3 * best[True],
                "ratio": best[False] / best[True],
                "predicted": 1 + new_memory * MAPS[part] * sum(size for size in maps if size >= LARGE) / seconds,
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    could = keep_freed_memory()
    settings, repeats = (TINY, 1) if chosen.tiny else (CPU, 3)
    top, new_memory = ceilings(tiny=chosen.tiny), seconds_of_new_memory(1024**2 if chosen.tiny else 2 * LARGE)
    rows = [row for setting in settings for row in rows_of(setting, top, new_memory, repeats)]
    return report("memory", rows, chosen, told=could, new_memory_gigabytes_per_second=1e-9 / max(new_memory, 1e-12))


if __name__ == "__main__":
    main(sys.argv[1:])
