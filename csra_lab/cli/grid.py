"""`csra-lab grid`: backbones, data sets and heads, average pooling against CSRA."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import tyro

from csra_lab.cli.output import as_table
from csra_lab.errors import ConfigError


def grid_command(
    name: Annotated[str, tyro.conf.Positional] = "",
    data: tuple[str, ...] = (),
    out: Path = Path("runs/grid"),
    record: Path | None = None,
    weights: Path | None = None,
    backbones: tuple[str, ...] | None = None,
    seeds: int | None = None,
    minutes: float | None = None,
    keep_models: bool = False,
    status: bool = False,
    quiet: bool = False,
) -> None:
    """Fill a table of backbones, data sets and heads, run by run; the same command goes on where it stopped.

    Args:
        name: small (drawn sets, a CPU), course (drawn sets, a GPU), drawn-start (from drawn sets to photographs, a
            CPU), photographs (from ImageNet, a CPU), photographs-448 (the same at 448 pixels), or paper (a GPU). All
            but the first two need --data. Paper if --data is given, else small.
        data: A data set and its folder, one after the other, such as --data voc2007 VOCdevkit wider WIDER. Of the
            paper's sets, or of voc2012 and coco2014, those named alone are run.
        out: Folder of the runs.
        record: Folder of the record; OUT/NAME/record if left out. data/runs/grid/NAME shows it in the book.
        weights: Folder of ImageNet weight files that the grids of photographs name; left out, they are downloaded.
        backbones: Only these, such as resnet18 vitb16.
        seeds: Runs of each cell.
        minutes: Start no run that would end later than this from now.
        keep_models: Keep the weights of every run after it is scored.
        status: Only say what is done and what is not.
        quiet: Show no progress.
    """
    from csra_lab.catalog import DRAWN
    from csra_lab.study.grid import GRIDS, paper_grid
    from csra_lab.study.grid_runner import GridRunner, under_way

    folders = _folders(data)
    name = name or ("paper" if folders else "small")
    if name not in GRIDS:
        raise ConfigError(f"there is no grid {name!r}; there are {', '.join(GRIDS)}.")
    grid = GRIDS[name]
    if folders and name == "paper":
        grid = paper_grid(tuple(folders))
    for unknown in (each for each in folders if each not in grid.datasets):
        raise ConfigError(f"the grid {name} has the data sets {', '.join(grid.datasets)}, not {unknown!r}.")
    if seeds is not None:
        if seeds < 1:
            raise ConfigError(f"--seeds is at least 1, not {seeds}.")
        grid = dataclasses.replace(grid, seeds=seeds)
    if backbones == ():
        raise ConfigError(f"--backbones names none; the grid has {', '.join(grid.backbones)}.")
    for unknown in (each for each in backbones or () if each not in grid.backbones):
        raise ConfigError(f"the grid has the backbones {', '.join(grid.backbones)}, not {unknown!r}.")
    runner = GridRunner(
        grid, out / name, record=record, data=folders, weights=weights, keep_models=keep_models, progress=not quiet
    )
    drawn = set(grid.datasets) <= set(DRAWN)  # then --data only says where they lie, or are to lie
    runs = [
        run
        for run in grid.runs()
        if (backbones is None or run.backbone in backbones) and (drawn or not folders or run.dataset in folders)
    ]
    if status:
        rows = [("run", "state")]
        for run in runs:
            begun = under_way(runner.out / run.name)
            rows.append((run.name, "done" if runner.is_done(run) else "under way" if begun else "not begun"))
        print(as_table(rows))
        return
    deadline = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    left = runner.fill(runs, deadline=deadline)
    said = [f"record: {runner.record}"] if runner.record.exists() else []
    print("; ".join([*said, *([f"{len(left)} runs are left for the next time"] if left else [])]))


def _folders(data: tuple[str, ...]) -> dict[str, Path]:
    """--data NAME FOLDER NAME FOLDER ..., by name."""
    if len(data) % 2:
        raise ConfigError("--data takes a data set and its folder, such as --data voc2007 VOCdevkit wider WIDER.")
    for name in (name for name in data[::2] if data[::2].count(name) > 1):
        raise ConfigError(f"--data names {name} twice; name each data set once.")
    return {name: Path(folder) for name, folder in zip(data[::2], data[1::2], strict=True)}
