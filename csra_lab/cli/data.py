"""`csra-lab data download | prepare | check`: data sets fetched, drawn, and looked at."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from csra_lab.cli import run_group
from csra_lab.cli.output import as_json
from csra_lab.errors import ConfigError, MissingFile


def run_data(arguments: list[str]) -> None:
    """`csra-lab data download NAME --root DIR`, `data prepare NAME` and `data check FOLDER`."""
    usages = ("download NAME --root DIR", "prepare NAME [--root DIR]", "check FOLDER")
    run_group("data", DATA_COMMANDS, usages, arguments)


def prepare_command(name: Annotated[str, tyro.conf.Positional], root: Path | None = None, quiet: bool = False) -> None:
    """Draw an embedded data set, once.

    Args:
        name: emoji-voc or paperdoll-wider.
        root: Folder to put it into; the cache if left out, where every command finds it.
        quiet: Show no progress.
    """
    from csra_lab.catalog import DRAWN

    if name not in DRAWN:
        raise ConfigError(f"{name!r} is not a data set that this lab draws; there are {', '.join(DRAWN)}.")
    print(f"{name} is in {DRAWN[name](root, progress=not quiet)}")


def check_command(
    folder: Annotated[Path, tyro.conf.Positional],
    absent: str | None = None,
    unknown: str | None = None,
    json: bool = False,
) -> None:
    """Look for what spoils training on images of your own. Exits with 2 if there is an error.

    Args:
        folder: Folder with CSV files, or in VOC's, COCO's or YOLO's layout.
        absent: Labels that say absent, as -1 or 0,blank; 0 in CSV files and -1 in class lists if left out.
        unknown: Labels that are not counted, as 0 or blank.
        json: Print one JSON array, in which each finding names all its files.
    """
    from csra_lab.datasets.check import check_folder

    if not folder.is_dir():
        raise MissingFile(f"there is no folder {folder}; check the path.")
    findings = check_folder(folder, progress=not json, absent=absent, unknown=unknown)
    if json:
        print(as_json([dataclasses.asdict(finding) for finding in findings]))
    else:
        print("\n".join(f"{finding.level + ':':9}{finding.message}" for finding in findings))
    if any(finding.level == "error" for finding in findings):
        sys.exit(2)


def download_command(name: Annotated[str, tyro.conf.Positional], root: Path, quiet: bool = False) -> None:
    """Fetch a data set (resumed where a download stopped, checked, and unpacked), or say how to get it.

    Args:
        name: Name of the data set.
        root: Folder to put it into.
        quiet: Show no progress.
    """
    from csra_lab.datasets.download import download

    print(f"{name} is in {download(name, root, progress=not quiet)}")


DATA_COMMANDS: dict[str, Callable[..., None]] = {
    "download": download_command,
    "prepare": prepare_command,
    "check": check_command,
}
