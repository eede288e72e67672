"""The draws of a grid's runs: the mAP of each on the test items, and on bootstrap draws of their images.

In the folder of a run, draws.npz holds "classes" and "positives", the two means of `weighted_mAP`: (1 + R,) uint16, the
mAP on the test items as they are, then on R bootstrap draws of them, in units of 1 / 65,535. In a record it holds
"DATASET, MEAN": (S, 1 + R) uint16, a row for each line of the data set in results.csv, in its order, in units of 0.01
points; a row of zeros is not known. Scores would be two hundred times as large, and intervals need no more than this.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from csra_lab._io.arrays import write_arrays
from csra_lab._io.atomic_write import atomic_write
from csra_lab.datasets import MultiLabelDataset
from csra_lab.significance import MEANS, MeanOver, draw_images, once_and_drawn, weighted_mAP
from csra_lab.study.grid import Run
from csra_lab.training.run_folder import TORN, read_evaluation

RESAMPLES = 1000
UNIT = 10_000
"""Of mAP in the draws of a record, in 1."""
UNIT_OF_RUNS = 65_535
"""Of mAP in the draws of a run, finer, since a record of them is written in `UNIT`."""
KEY = ["backbone", "dataset", "head", "seed"]
DRAWS = "draws.npz"


def drawn_name(run: str, mean_over: MeanOver) -> str:
    """The name of a run's draws by a mean."""
    return run if mean_over == "classes" else f"{run}, {mean_over}"


def write_draws(folder: Path, test_set: MultiLabelDataset) -> None:
    """Write the mAPs of a scored run on the test items and on bootstrap draws of their images, into its folder."""
    run = read_evaluation(folder)
    rows = once_and_drawn(draw_images(len(test_set), groups=np.array(test_set.keys), resamples=RESAMPLES))
    mAPs = {m: weighted_mAP(run.scores, run.targets, rows, mean_over=m) for m in MEANS}  # (1 + R,) each
    with atomic_write(folder / DRAWS) as path:
        write_arrays(path, {mean_over: as_whole(each, UNIT_OF_RUNS) for mean_over, each in mAPs.items()})


def read_draws(folder: Path) -> dict[MeanOver, NDArray[np.float64]] | None:
    """The draws of a scored run by mean, (1 + R,) fractions; None where it has none that are whole."""
    try:
        with np.load(folder / DRAWS, allow_pickle=False) as stored:
            draws = {mean_over: stored[mean_over] / UNIT_OF_RUNS for mean_over in MEANS}
    except TORN:
        return None
    return draws if all(each.shape == (1 + RESAMPLES,) for each in draws.values()) else None


def as_whole(fractions: NDArray[np.float64], unit: int) -> NDArray[np.uint16]:
    """Fractions of any shape as whole numbers, so many in 1."""
    return np.round(unit * fractions).astype(np.uint16)


def _names(results: pd.DataFrame) -> dict[str, list[str]]:
    """Data set -> the names of its runs, in the order of the table."""
    runs = [Run(row.backbone, row.dataset, row.head, row.seed) for row in results[KEY].itertuples()]
    return {dataset: [run.name for run in runs if run.dataset == dataset] for dataset in results.dataset.unique()}


def pack_draws(results: pd.DataFrame, draws: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.uint16]]:
    """The draws of runs, by `drawn_name`, as a record holds them: names and headers of each would take much room."""
    stacked = {}
    for dataset, names in _names(results).items():
        unknown = np.zeros_like(draws[names[0]])
        for mean_over in MEANS:
            rows = [draws.get(drawn_name(name, mean_over), unknown) for name in names]
            stacked[f"{dataset}, {mean_over}"] = as_whole(np.stack(rows), UNIT)  # (S, 1 + R)
    return stacked


def unpack_draws(results: pd.DataFrame, stacked: Mapping[str, NDArray]) -> dict[str, NDArray[np.float64]]:
    """What `pack_draws` joined, by `drawn_name`.

    Raises:
        ValueError: the table has other runs, or the same in another order.
    """
    draws: dict[str, NDArray[np.float64]] = {}
    for dataset, names in _names(results).items():
        for mean_over in MEANS:
            known = zip(names, stacked[f"{dataset}, {mean_over}"] / UNIT, strict=True)
            draws |= {drawn_name(name, mean_over): row for name, row in known if row.any()}
    runs = [name for names in _names(results).values() for name in names]
    mAPs = results.groupby("dataset", sort=False).mAP.apply(np.array)
    if not np.allclose([draws[name][0] for name in runs], np.concatenate(list(mAPs)), rtol=0, atol=1 / UNIT):
        raise ValueError("results.csv and draws.npz hold different runs")
    return draws
