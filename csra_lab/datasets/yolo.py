"""YOLO's layout: a text file of boxes beside each image, names of the classes in data.yaml or classes.txt.

    images/train/1.jpg   labels/train/1.txt        or        train/images/1.jpg   train/labels/1.txt

A line of a text file is `class x y width height`, the class as a number and the rest in parts of the image.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from csra_lab._io.notice import warn
from csra_lab._io.validation import is_plain
from csra_lab.datasets.dataset import MultiLabelDataset
from csra_lab.datasets.images import walk_images
from csra_lab.errors import DataError


def yolo_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> its folders of images and of labels, of a folder in YOLO's layout; empty for another."""
    root = Path(root)
    found = {}
    for labels in sorted([*root.glob("labels/*"), *root.glob("*/labels")]):
        split = labels.name if labels.parent.name == "labels" else labels.parent.name
        images = root / "images" / split if labels.parent.name == "labels" else labels.parent / "images"
        if labels.is_dir() and images.is_dir():
            found[split] = (images, labels)
    return found


def load_yolo(root: Path, split: str) -> MultiLabelDataset:
    """One split of a folder in YOLO's layout. An image without a text file shows no class, as YOLO trains on it.

    Raises:
        DataError: no names of classes, or a line that is not as YOLO writes it.
    """
    images, labels = yolo_folders(root)[split]
    classes = _class_names(root)
    paths, _ = walk_images(images)
    names = [path.relative_to(images).as_posix() for path in paths]
    targets = np.zeros((len(paths), len(classes)), dtype=np.int8)  # (N, C)
    for row, name in enumerate(names):
        for column in _classes_in(labels / f"{os.path.splitext(name)[0]}.txt", len(classes)):
            targets[row, column] = 1
    texts = [path for path in labels.rglob("*") if path.suffix.lower() == ".txt" and path.name != "classes.txt"]
    read = {os.path.splitext(name)[0] + ".txt" for name in names}
    unread = sorted({path.relative_to(labels).as_posix() for path in texts} - read)
    if unread:
        warn(
            f"{labels}: {len(unread):,} of {len(texts):,} text files belong to no image and are not read, such as "
            f"{unread[0]}; an image without a text file counts as one without objects."
        )
    if not paths:
        raise DataError(f"{images} holds no image; put the images of {split} there.")
    return MultiLabelDataset(
        name=root.resolve().name,
        split=split,
        classes=classes,
        ids=names,
        paths=paths,
        targets=targets,
        root=images,
    )


def _class_names(root: Path) -> tuple[str, ...]:
    files = sorted([*root.glob("*.yaml"), *root.glob("*.yml")], key=lambda path: (path.stem != "data", path.name))
    for i, path in enumerate(files):
        names = _yaml_names(_read(path), path)
        if names:
            others = [other.name for other in files[i + 1 :] if _names_others(other, names)]
            if others:
                warn(f"the classes are those that {path} names; {', '.join(others)} names others.")
            return _checked(names, path)
    for path in (root / "classes.txt", root / "labels" / "classes.txt"):
        if path.is_file():
            return _checked([line.strip() for line in _read(path).rstrip().split("\n")], path)
    raise DataError(f"{root} names no classes; write data.yaml with names: [cat, dog], or classes.txt with one a line.")


def _names_others(path: Path, names: list[str]) -> bool:
    try:
        return _yaml_names(_read(path), path) not in ([], names)
    except DataError:
        return False


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); save it as UTF-8.") from error


_QUOTED = r"""'(?:[^']|'')*'|"(?:[^"\\\n]|\\.)*\""""
_GAP = r"(?:\s|\#[^\n]*\n)*"
_FLOW_ITEM = re.compile(
    rf"{_GAP}(?:(\d{{1,9}})\s*:\s*)?({_QUOTED}|[^\s'\"\[\]{{}},#](?:[^\[\]{{}},\n#]|(?<!\s)\#)*){_GAP}(?:,|(?=[\]}}]))"
)
_FLOW_END = re.compile(rf"{_GAP}[\]}}]")
_LINE_ITEM = re.compile(rf"\s*(?:-|(\d{{1,9}})\s*:)\s+({_QUOTED}|[^\s'\"#].*?)\s*(?:\s\#.*)?")


def _yaml_names(text: str, path: Path) -> list[str]:
    """The list under `names:` in the ways that YOLO's tools write it: [a, b], {0: a}, lines "- a", lines "0: a"."""
    start = re.search(r"^names:[ \t]*", text, re.MULTILINE)
    if start is None:
        return []
    rest = text[start.end() :]
    items = _items_in_brackets(rest, path) if rest[:1] in ("[", "{") else _items_in_lines(rest, path)
    names = [_unquoted(name) for _, name in items]
    numbers = [int(number) for number, _ in items if number is not None]
    if not numbers:
        return names
    if sorted(numbers) != list(range(len(names))):
        raise DataError(f"{path}: the numbers of the {len(names)} classes must be 0 to {len(names) - 1}, each once.")
    return [name for _, name in sorted(zip(numbers, names, strict=True))]


def _items_in_brackets(rest: str, path: Path) -> list[tuple[str | None, str]]:
    """[a, "b, c"] or {0: a, 1: b} -> numbers, where there are any, and names as they are written."""
    items, place = [], 1
    while not _FLOW_END.match(rest, place):
        item = _FLOW_ITEM.match(rest, place)
        if item is None:
            raise _unclear(rest[place:].strip().split("\n")[0], path)
        items.append((item[1], item[2]))
        place = item.end()
    return items


def _items_in_lines(rest: str, path: Path) -> list[tuple[str | None, str]]:
    """Lines "- a" or "0: a", up to the next key, in the same form."""
    items = []
    for line in rest.split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        item = _LINE_ITEM.fullmatch(line)
        if item is None and re.match(r"[^\s\d-]", line):  # another key
            break
        if item is None:
            raise _unclear(line.strip(), path)
        items.append((item[1], item[2]))
    return items


def _unclear(text: str, path: Path) -> DataError:
    return DataError(f'{path}: {text[:40]!r} under names: cannot be read; write a line "- name" for each class.')


def _unquoted(name: str) -> str:
    if name.startswith("'"):
        return name[1:-1].replace("''", "'").strip()
    return (_ESCAPE.sub(_escaped, name[1:-1]) if name.startswith('"') else name).strip()


_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")


def _escaped(found: re.Match) -> str:
    """What YAML means by a backslash and what follows, in double quotes; a control code is refused with the name."""
    code = found[1] or found[2] or found[3]
    if code:
        return chr(min(int(code, 16), 0x10FFFF))
    return {"t": "\t", "n": "\n", "_": "\N{NO-BREAK SPACE}"}.get(found[4], found[4])


def _checked(names: list[str], path: Path) -> tuple[str, ...]:
    if len(set(names)) != len(names) or not all(names) or not all(map(is_plain, names)):
        raise DataError(f"{path}: the names of the classes must be distinct and not empty; correct the file.")
    return tuple(names)


def _classes_in(path: Path, count: int) -> set[int]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return set()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); save it as plain text.") from error
    found = set()
    for number, line in enumerate(lines, start=1):
        cells = line.split()
        if not cells:
            continue
        if not cells[0].isdecimal() or len(cells) < 5:
            raise DataError(f"{path}, line {number}: {line[:40]!r} is not a class's number and a box of four numbers.")
        if int(cells[0]) >= count:
            raise DataError(f"{path}, line {number}: class {cells[0]} is not among the {count} that are named.")
        found.add(int(cells[0]))
    return found
