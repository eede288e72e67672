"""How much faster are K heads trained together than one after the other? Features of the photographs' size, random.

Prediction. A step of 16 images reads their features as float16 and makes them float32: 6 bytes each, F seconds at the
machine's ceiling of bytes, and Python and the optimiser take some 2 ms whatever K, here counted with F. A head takes
its product and the gradient of its classifier, 2 B N d C multiply-adds, but 12 classes are few rows: alone it reads
the features twice for them and is bound by those bytes; many heads are one tall product, bound by multiply-adds. So

    one after the other  K (F + 2 reads)        together  F + max(2 reads, K 2 B N d C multiply-adds)

and the ratio ends, for many heads, at (F + 2 reads) / (time of 2 B N d C multiply-adds).
"""

import dataclasses
import math
import sys
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from machine import Ceilings, ceilings, options, report, take_turns

from csra_lab.recipes import Recipe
from csra_lab.study.head_stack import train_heads
from csra_lab.study.plans import BASE
from csra_lab.training.feature_cache import FeatureMaps

PYTHON = 2e-3  # seconds a step


@dataclasses.dataclass(frozen=True)
class Size:
    images: int = 512
    channels: int = 1280
    side: int = 7
    classes: int = 12
    heads: tuple[int, ...] = (1, 10, 100, 300)


TINY = Size(images=32, channels=16, side=3, classes=4, heads=(1, 3))


def different(count: int) -> list[Recipe]:
    """Heads that differ in lam, temperature and rate: all of them need their score maps."""
    rng = np.random.default_rng(0)
    temperatures = (0.5, 1.0, 2.0, 4.0, math.inf)
    return [
        BASE.replace(
            epochs=1,
            lam=float(rng.uniform(0.05, 2)),
            temperatures=(temperatures[k % 5],),
            head_lr=(3e-3, 1e-2)[k % 2],
        )
        for k in range(count)
    ]


def random_features(size: Size) -> FeatureMaps:
    rng = np.random.default_rng(0)
    maps = torch.from_numpy(rng.random((size.images, 1, size.side, size.side, size.channels), dtype=np.float32)).half()
    targets = rng.integers(0, 2, size=(size.images, size.classes)).astype(np.int8)
    return FeatureMaps(maps.permute(0, 1, 4, 2, 3), targets)


def predict(count: int, size: Size, top: Ceilings) -> float:
    """Seconds of K heads one after the other over seconds together."""
    numbers = BASE.optimisation.batch_size * size.side**2 * size.channels
    shared = PYTHON + top.seconds(0, 6 * numbers)
    reads = top.seconds(0, 2 * 4 * numbers)
    products = top.seconds(2 * numbers * size.classes)
    return count * (shared + max(reads, products)) / (shared + max(reads, count * products))


def one_by_one(recipes: Sequence[Recipe], features: FeatureMaps) -> list:
    return [trained for recipe in recipes for trained in train_heads([recipe], features)]


def main(argv: Sequence[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    size = TINY if chosen.tiny else Size()
    features, top, rows = random_features(size), ceilings(tiny=chosen.tiny), []
    for count in size.heads:
        recipes = different(count)
        # Up to 10 heads one after the other are really run; of more, 10 are, and counted as often as needed.
        alone = recipes[: min(count, 10)]
        best = take_turns(
            {"together": partial(train_heads, recipes, features), "alone": partial(one_by_one, alone, features)},
            repeats=1 if chosen.tiny else 2,
        )
        alone_seconds = best["alone"] * count / len(alone)
        rows.append(
            {
                "heads": count,
                "seconds_together": best["together"],
                "seconds_one_by_one": alone_seconds,
                "ratio": alone_seconds / best["together"],
                "predicted": predict(count, size, top),
            }
        )
    return report("heads_together", rows, chosen, ceilings=top)


if __name__ == "__main__":
    main(sys.argv[1:])
