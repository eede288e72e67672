"""A million images: how long is their table read, and do metrics of 500,000 x 1,000 scores stay in bounded memory?

Predictions. A line of the table is split, stripped and looked up three times, some 2 us in Python: 2 s for a million,
and a slope of 1; the ids and paths are two texts and a path object each, some 400 bytes, and the targets 3: 0.4 GB.
Metrics fed in batches of 1,000 images with 4,096 bins hold two counts a bin and class, 66 MB for 1,000 classes, and a
batch: memory has a slope of 0 over the images. Time has a slope of 1, at 30 ns a score for a logarithm and two counts:
15 s for 500,000 x 1,000.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from machine import frugal, options, peak_memory, report, take_turns
from metrics import slope

from csra_lab.datasets.folder import load_folder
from csra_lab.metrics import MultilabelMetrics

ROWS, IMAGES, CLASSES, BATCH = (250_000, 500_000, 1_000_000), (125_000, 250_000, 500_000), 1_000, 1_000
TINY_ROWS, TINY_IMAGES, TINY_CLASSES, TINY_BATCH = (100, 200, 400), (100, 200, 400), 10, 50


def write_table(folder: Path, rows: int) -> Path:
    """A folder with a table of `rows` images and three classes."""
    folder.mkdir()
    with open(folder / "trainval.csv", "w", encoding="utf-8") as file:
        file.write("image,cat,dog,bird\n")
        file.writelines(f"a{i % 97}/view{i}.jpg,{i % 2},{(i + 1) % 2},{int(i % 3 == 0)}\n" for i in range(rows))
    return folder


def read_table(folder: Path) -> int:
    return len(load_folder(folder, "trainval"))


def measure(images: int, classes: int, batch: int) -> float:
    """mAP of random scores, batch by batch; ten batches are made once and fed again and again."""
    rng = np.random.default_rng(0)
    batches = [(rng.random((batch, classes), dtype=np.float32), rng.random((batch, classes)) < 0.01) for _ in range(10)]
    found = MultilabelMetrics(num_classes=classes, bins=4096)
    for i in range(images // batch):
        scores, targets = batches[i % 10]
        found.update(scores, targets.astype(np.int8))
    return found.compute().mAP


def memory(tiny: bool) -> dict[str, list[int | None]]:
    rows, images, classes, batch = sizes(tiny)
    with tempfile.TemporaryDirectory() as folder:
        tables = [write_table(Path(folder) / str(n), n) for n in rows]
        index = [peak_memory(partial(read_table, table)) for table in tables]
    return {"index": index, "metrics": [peak_memory(partial(measure, n, classes, batch)) for n in images]}


def sizes(tiny: bool) -> tuple:
    return (TINY_ROWS, TINY_IMAGES, TINY_CLASSES, TINY_BATCH) if tiny else (ROWS, IMAGES, CLASSES, BATCH)


def main(argv: Sequence[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    if chosen.part == "memory":
        print(json.dumps(memory(chosen.tiny)))
        return []
    held = frugal([__file__, "--part", "memory", *["--tiny"] * chosen.tiny])
    table_rows, images, classes, batch = sizes(chosen.tiny)
    predicted = {"index": (1.0, 1.0), "metrics": (1.0, 0.0)}
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        work = {"index": (table_rows, lambda n: partial(read_table, write_table(Path(folder) / str(n), n))),
                "metrics": (images, lambda n: partial(measure, n, classes, batch))}  # fmt: skip
        for what, (counts, make) in work.items():
            times = [take_turns({"ours": make(n)}, repeats=1)["ours"] for n in counts]
            rows += [
                {"part": "points", "what": what, "images": n, "seconds": s, "memory_mb": use and use / 1e6}
                for n, s, use in zip(counts, times, held[what], strict=True)
            ]
            known = all(held[what])
            rows.append(
                {
                    "part": "slopes",
                    "what": what,
                    "time": slope(counts, times),
                    "predicted_time": predicted[what][0],
                    "memory": slope(counts, held[what]) if known else None,
                    "predicted_memory": predicted[what][1],
                }
            )
    return report("scale", rows, chosen)


if __name__ == "__main__":
    main(sys.argv[1:])
