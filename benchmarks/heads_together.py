"""How much faster are K heads together than one after the other? Features of the photographs' size, random.

Prints a table and writes benchmarks/heads_together.json. Ratios are of one run, on the machine and threads it names.
"""

import dataclasses
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

from csra_lab.ablation import train_heads
from csra_lab.features import FeatureMaps
from csra_lab.plans import BASE
from csra_lab.runs import environment

IMAGES, CHANNELS, SIDE, CLASSES = 512, 1280, 7, 12
RECIPE = dataclasses.replace(BASE, epochs=1)


def different(count: int) -> list:
    """Heads that differ in lam, temperature and rate: all of them need their score maps."""
    rng = np.random.default_rng(0)
    temperatures = (0.5, 1.0, 2.0, 4.0, math.inf)
    return [
        dataclasses.replace(
            RECIPE, lam=float(rng.uniform(0.05, 2)), temperatures=(temperatures[k % 5],), head_lr=(3e-3, 1e-2)[k % 2]
        )
        for k in range(count)
    ]


def seconds(recipes: list, features: FeatureMaps, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        train_heads(recipes, features)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    rng = np.random.default_rng(0)
    maps = torch.from_numpy(rng.random((IMAGES, 1, SIDE, SIDE, CHANNELS), dtype=np.float32)).half()
    features = FeatureMaps(maps.permute(0, 1, 4, 2, 3), rng.integers(0, 2, size=(IMAGES, CLASSES)).astype(np.int8))
    seconds(different(1), features, 1)  # first use of everything
    one = seconds(different(1), features, 5)
    print("heads   together   one by one   times one head   speed-up")
    rows = []
    for count in (1, 10, 100, 300):
        together = one if count == 1 else seconds(different(count), features, 2)
        rows.append({"heads": count, "seconds_together": together, "seconds_one_by_one": one * count})
        ratios = f"{together / one:14.1f}   {one * count / together:8.1f}"
        print(f"{count:5}   {together:7.2f} s   {one * count:8.2f} s   {ratios}")
    result = {"environment": environment(torch.device("cpu")), "threads": torch.get_num_threads(), "rows": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
