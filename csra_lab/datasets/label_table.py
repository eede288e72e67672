"""Labels in a table: a line for each image, a column for each class, or one column of tags.

    image,cat,dog            image;cat;dog          image,tags
    photos/1.jpg,1,0         photos/1.jpg;1;0       photos/1.jpg,cat outdoors

Commas, semicolons and tabs separate columns, whichever the header uses. A column that numbers the lines is left out.
Image names are paths below the folder; absolute paths into it, backslashes and names without a suffix are understood.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from csra_lab._io.notice import warn
from csra_lab._io.validation import is_plain
from csra_lab.datasets.annotations import safe_relative
from csra_lab.datasets.dataset import MultiLabelDataset
from csra_lab.datasets.images import is_image_name
from csra_lab.datasets.labels import TABLES, LabelConvention, check_negatives
from csra_lab.datasets.voc import image_files
from csra_lab.errors import DataError

SUFFIXES = (".csv", ".tsv")


def table_files(root: Path) -> dict[str, Path]:
    """Split -> file of every CSV or TSV file in a folder; of two names that differ in case the first."""
    files: dict[str, Path] = {}
    for path in sorted(Path(root).iterdir()) if Path(root).is_dir() else []:
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        if files.setdefault(path.stem, path) != path:
            warn(f"{files[path.stem]} is read, and {path.name}, of the same split, is not.")
    return files


def load_table(root: Path, split: str, path: Path, convention: LabelConvention = TABLES) -> MultiLabelDataset:
    """One split out of a table; `path` lies in `root`.

    Raises:
        DataError: the table is malformed (the line is named), or its labels read as if the convention were wrong.
    """
    header, rows = _read_rows(path)
    _check_header(header, root, path)
    header, rows = _without_line_numbers(header, rows, convention)
    if len(header) < 2 or not rows:
        raise DataError(f"{path} needs a header (image, then the classes) and a line for each image.")
    if len(header) == 2 and _are_tags(rows, convention):
        classes, separator = _all_tags(root, header, rows)
        targets = _tags(rows, separator, classes, path)
    else:
        classes, targets = _class_columns(header, rows, path, convention)
    names = _image_names([(number, row[0]) for number, row in rows], root, path)
    paths = _existing_paths(root, names)
    first: dict[Path, str] = {}
    for name, file in zip(names, paths, strict=True):
        if first.setdefault(file, name) != name:
            raise DataError(f"{path}: {first[file]!r} and {name!r} are one file, {file.name}; remove one of the lines.")
    dataset = MultiLabelDataset(
        name=root.resolve().name,
        split=split,
        classes=classes,
        ids=names,
        paths=paths,
        targets=targets,
        root=root,
    )
    return check_negatives(dataset, convention)


Rows = list[tuple[int, list[str]]]  # line number and cells


def _read_rows(path: Path) -> tuple[list[str], Rows]:
    """The header, and every other line that is not blank, with its number."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        ended = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)  # splitlines would cut names at U+2028, too
        lines = list(csv.reader(ended, delimiter=_delimiter(text)))
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as UTF-8 CSV ({error}); save it as UTF-8.") from error
    if len(lines) < 2 or not lines[0]:
        raise DataError(f"{path} needs a header (image, then the classes) and a line for each image.")
    header = [cell.strip() for cell in lines[0]]
    rows = [(number, row) for number, row in enumerate(lines[1:], start=2) if any(cell.strip() for cell in row)]
    return header, rows


def _delimiter(text: str) -> str:
    """What separates the columns of the header: the first comma, semicolon or tab in it."""
    quoted = False
    for mark in text.partition("\n")[0]:
        quoted ^= mark == '"'
        if mark in ",;\t" and not quoted:
            return mark
    return ","


def _check_header(header: list[str], root: Path, path: Path) -> None:
    """Refuse a first line that is an image's: one image would be lost, and the classes would be named 0 and 1."""
    labels = len(header) > 1 and set(header[1:]) <= {"0", "1", "-1", "0.0", "1.0", "-1.0"}
    image = is_image_name(header[0]) or (labels and set(header[0]) & set("/\\"))
    may_be = header[0] and (labels or len(header) == 2)  # a column "image" beside classes may stand over image.jpg
    if image or (may_be and _existing_paths(root, [header[0]])[0].is_file()):
        raise DataError(
            f"{path}, line 1: {','.join(header)[:60]!r} is an image's line where the header should stand; "
            "write the names of the columns above it, such as image,cat,dog."
        )


def _without_line_numbers(header: list[str], rows: Rows, convention: LabelConvention) -> tuple[list[str], Rows]:
    """The table less a first column that numbers the lines, as pandas writes one; not where labels stand beside it."""
    numbered = len(header) > 2 and (header[0] == "" or header[0].lower() in ("unnamed: 0", "index"))
    labelled = all(len(row) > 1 and row[1].strip() in convention.targets for _, row in rows)
    if not numbered or labelled or not all(row[0].strip().isdigit() for _, row in rows):
        return header, rows
    return header[1:], [(number, row[1:]) for number, row in rows]


def _class_columns(
    header: list[str], rows: Rows, path: Path, convention: LabelConvention
) -> tuple[list[str], np.ndarray]:
    classes = header[1:]
    if len(set(classes)) != len(classes) or not all(map(is_plain, classes)):
        raise DataError(
            f"{path}, line 1: the class names {classes} must be distinct, not empty and without control codes."
        )
    meaning = convention.targets
    targets = np.empty((len(rows), len(classes)), dtype=np.int8)  # (N, C)
    for i, (number, row) in enumerate(rows):
        if len(row) != len(header):
            raise DataError(f"{path}, line {number}: {len(row)} columns where the header has {len(header)}.")
        try:
            targets[i] = [meaning[cell] if cell in meaning else meaning[cell.strip()] for cell in row[1:]]
        except KeyError as error:
            column = next(c for c, cell in enumerate(row[1:]) if cell.strip() not in meaning)
            raise DataError(_odd_value(path, number, classes[column], row[column + 1].strip(), convention)) from error
    return classes, targets


def _odd_value(path: Path, number: int, name: str, value: str, convention: LabelConvention) -> str:
    if value == "":
        return (
            f"{path}, line {number}: the label of {name} is blank; if that says absent, add --absent "
            f"{','.join((*convention.absent, 'blank'))}; if it says unknown, add --unknown "
            f"{','.join((*convention.unknown, 'blank'))}."
        )
    if value in ("0", "-1", "0.0", "-1.0"):
        plain = value.removesuffix(".0")
        return (
            f"{path}, line {number}: {value!r} was not named; say what it means with --absent {plain} or "
            f"--unknown {plain}."
        )
    allowed = "1, 0 or -1" if convention == TABLES else f"1, {', '.join((*convention.absent, *convention.unknown))}"
    return (
        f"{path}, line {number}: {value!r} is not {allowed} (column {name}); the first column names the image and "
        "every other one is a class, so drop columns that are none."
    )


def _are_tags(rows: Rows, convention: LabelConvention) -> bool:
    """Whether the one column beside the images holds tags, and not 1 and 0."""
    cells = [row[1].strip() for _, row in rows if len(row) == 2]
    lists = [cell for cell in cells if cell.startswith("[") and cell.endswith("]")]
    if lists and len(lists) == len(rows):
        raise DataError(
            f"the labels are lists as Python writes them, such as {lists[0]!r:.60}; write the names alone, "
            "separated by |, as in table.labels.map('|'.join) of pandas."
        )
    if len(cells) != len(rows) or all(cell in convention.targets or _is_number(cell) or not cell for cell in cells):
        return False
    return not any(cell.lower() in ("yes", "no", "true", "false") for cell in cells)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _split_tags(cell: str, separator: str) -> list[str]:
    return [tag.strip() for tag in cell.split(separator) if tag.strip()]


def _all_tags(root: Path, header: list[str], own: Rows) -> tuple[list[str], str]:
    """The tags of all tables of the folder with this header, sorted, and what separates them: by the split's own rows.

    A test split may not show every class, nor an image with two; then the other tables say what separates tags.
    """
    cells: list[str] = []
    for path in table_files(root).values():
        try:
            other, rows = _without_line_numbers(*_read_rows(path), TABLES)
        except DataError:
            continue
        if other == header:
            cells += [row[1] for _, row in rows if len(row) == 2]
    first = [row[1] for _, row in own]
    separator = next((mark for some in (first, cells) for mark in "|;," if any(mark in cell for cell in some)), " ")
    return sorted({tag for cell in cells for tag in _split_tags(cell, separator)}), separator


def _tags(rows: Rows, separator: str, classes: Sequence[str], path: Path) -> np.ndarray:
    columns = {tag: c for c, tag in enumerate(classes)}
    odd = next((tag for tag in classes if not is_plain(tag)), None)
    if odd is not None:
        raise DataError(f"{path} has the tag {odd!r:.60}; tags are names without control codes.")
    warn(
        f"{path}: the tags are separated by {separator!r} and give {len(classes)} classes, such as "
        f"{', '.join(classes[:3])}; an image without a tag lacks that class."
    )
    targets = np.zeros((len(rows), len(classes)), dtype=np.int8)  # (N, C)
    for i, (_, row) in enumerate(rows):
        for tag in _split_tags(row[1], separator):
            targets[i, columns[tag]] = 1
    return targets


def _image_names(cells: list[tuple[int, str]], root: Path, path: Path) -> list[str]:
    """Paths below the folder, in one spelling; each once."""
    here = os.path.abspath(root).replace(os.sep, "/") + "/"
    seen: dict[str, int] = {}
    for number, cell in cells:
        name = cell.strip()
        if "\\" in name and ".." not in name:
            name = name.replace("\\", "/")
        if name.startswith(here):
            name = name[len(here) :]
        elif name.startswith("/") or name[1:3] == ":/":
            raise DataError(
                f"{path}, line {number}: {name!r} does not lie inside {root}; write paths below that folder, "
                "such as photos/1.jpg."
            )
        name = safe_relative(name, source=path)
        if name in seen:
            raise DataError(f"{path}, line {number}: {name!r} is listed twice; remove one.")
        seen[name] = number
    return list(seen)


def _existing_paths(root: Path, names: Sequence[str]) -> list[Path]:
    """The file of each name. A name without an image's suffix is the stem of one, if its folder has such a file."""
    folders: dict[str, dict[str, str]] = {}
    paths = []
    for name in names:
        parent, stem = os.path.split(name)
        if not is_image_name(name):
            if parent not in folders:
                folders[parent] = image_files(root / parent)
            stem = folders[parent].get(stem, stem)
        paths.append(root / parent / stem)
    return paths
