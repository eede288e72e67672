"""PASCAL VOC 2007 and 2012, read from the devkit's own class lists.

`ImageSets/Main/SPLIT.txt` names the images; `ImageSets/Main/CLASS_SPLIT.txt` says of each image -1 (absent), 0 (only
objects marked difficult) or 1 (present). Here these become 0, -1 (ignore) and 1. CSRA's protocol counts a difficult
object as a negative in training and ignores it in the test; training and evaluation do that, not the reader.

The public VOC2012 devkit has no class lists for `test`: the labels are kept by the evaluation server. Such a split
loads with every target -1, unknown, and `write_voc_predictions` writes what the server takes.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from csra_lab._io.validation import is_plain
from csra_lab.datasets.dataset import Box, MultiLabelDataset
from csra_lab.errors import CsraError

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

_TARGET = {"-1": 0, "0": -1, "1": 1, "+1": 1}
_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_MAX_XML_BYTES = 1 << 20


def load_voc2007(root: Path, split: str, transform: Callable | None = None) -> MultiLabelDataset:
    """VOC2007: 5,011 trainval and 4,952 test images. See `load_voc`."""
    return load_voc(root, "2007", split, transform)


def load_voc2012(root: Path, split: str, transform: Callable | None = None) -> MultiLabelDataset:
    """VOC2012: 11,540 trainval images; 10,991 test images without public labels. See `load_voc`."""
    return load_voc(root, "2012", split, transform)


def load_voc(root: Path, year: str, split: str, transform: Callable | None = None) -> MultiLabelDataset:
    """One split of VOC of one year; `root` is VOCdevkit/, the folder above it, or VOCdevkit/VOC{year}/ itself.

    Only the lists are read, so that this takes milliseconds; photographs and XML are opened when an item is asked for.
    Raises CsraError for an absent folder, an unknown split, and a list that is malformed (path and line are named).
    """
    folder = find_devkit(Path(root), year)
    return load_devkit(folder, split, name=f"voc{year}", classes=VOC_CLASSES, transform=transform)


def load_devkit(
    folder: Path, split: str, *, name: str, classes: Sequence[str], transform: Callable | None = None
) -> MultiLabelDataset:
    """One split of any folder in the devkit's layout, with the class lists of `classes`.

    Raises:
        CsraError: see `load_voc`.
    """
    main = folder / "ImageSets" / "Main"
    id_list = main / f"{split}.txt"
    splits = sorted(p.stem for p in main.glob("*.txt") if "_" not in p.stem)
    if split not in splits:
        hint = " The test lists of 2012 come from VOC's evaluation server." * ((name, split) == ("voc2012", "test"))
        raise CsraError(f"{name} has no split {split!r} in {main}; it has {', '.join(splits) or 'none'}.{hint}")
    ids = _read_ids(id_list)
    lists = [main / f"{c}_{split}.txt" for c in classes]
    missing = [p.name for p in lists if not p.is_file()]
    if missing and len(missing) < len(lists):
        raise CsraError(
            f"{main} lacks {', '.join(missing)}; unpack the devkit again, or remove its other {split} lists."
        )
    targets = np.full((len(ids), len(classes)), -1, dtype=np.int8)  # (N, C)
    if not missing:
        for column, path in enumerate(lists):
            targets[:, column] = _read_labels(path, ids, id_list)
    return MultiLabelDataset(
        name=name,
        split=split,
        classes=classes,
        ids=ids,
        paths=[folder / "JPEGImages" / f"{i}.jpg" for i in ids],
        targets=targets,
        transform=transform,
        box_reader=partial(read_voc_boxes, folder / "Annotations"),
    )


def find_devkit(root: Path, year: str) -> Path:
    """The folder VOC{year} under `root`, in any of the three accepted layouts. CsraError says how to get the data."""
    wanted = f"VOC{year}"
    candidates = [root / wanted, root / "VOCdevkit" / wanted]
    if root.resolve().name not in {"VOC2007", "VOC2012"} - {wanted}:
        candidates.append(root)
    for folder in candidates:
        if (folder / "ImageSets" / "Main").is_dir():
            return folder
    raise CsraError(
        f"There is no {wanted} with ImageSets/Main under {root}; give the VOCdevkit folder, or fetch the data with "
        f"`csra-lab data download voc{year} --root DIR`."
    )


def _read_text(path: Path) -> str:
    """The text of a list. Windows line ends are fine, other encodings than UTF-8 are not."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CsraError(f"The list {path} cannot be read ({error.strerror}); check the file.") from None
    try:
        if b"\0" in raw:
            raise UnicodeError
        return raw.decode("utf-8-sig").rstrip()
    except UnicodeError:
        raise CsraError(f"The list {path} is not plain UTF-8 text; save it as UTF-8.") from None


def _read_ids(path: Path) -> tuple[str, ...]:
    text = _read_text(path)
    ids = tuple(line.strip() for line in text.split("\n"))
    if not text:
        raise CsraError(f"The list {path} names no image; unpack the devkit again.")
    for number, i in enumerate(ids, start=1):
        if not _SAFE_ID.fullmatch(i) or ".." in i:
            raise CsraError(f"{path}, line {number}: {i!r} is not an image id; write one plain file stem a line.")
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        number, i = next((n, i) for n, i in enumerate(ids, start=1) if i in seen or seen.add(i))
        raise CsraError(f"{path}, line {number}: {i!r} is listed twice; remove one.")
    return ids


def _read_labels(path: Path, ids: tuple[str, ...], id_list: Path) -> list[int]:
    """The targets (N,) of one class list, which must name exactly `ids` in their order."""
    text = _read_text(path)
    tokens = text.split()  # id, label, id, label, ...
    if tokens[0::2] == list(ids) and len(tokens) == 2 * len(ids) and _TARGET.keys() >= set(tokens[1::2]):
        return [_TARGET[label] for label in tokens[1::2]]
    # Something is wrong. Walk the lines, to name the first that is.
    rows = [line.split() for line in text.split("\n")] if text else []
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or row[1] not in _TARGET:
            raise CsraError(f"{path}, line {number}: {' '.join(row)!r} is not an image id and one of -1, 0, 1.")
        if number > len(ids) or row[0] != ids[number - 1]:
            expected = "the end of the file" if number > len(ids) else repr(ids[number - 1])
            raise CsraError(
                f"{path}, line {number}: {row[0]!r} stands where {id_list.name} has {expected}; "
                "both must list the same images in the same order."
            )
    raise CsraError(f"{path} ends after line {len(rows)}, but {id_list.name} lists {len(ids)} images.")


def read_voc_boxes(annotations: Path, image_id: str) -> list[Box]:
    """The objects in Annotations/ID.xml. Coordinates may be fractions; 1-based inclusive becomes 0-based half-open.

    A file with a DOCTYPE or an ENTITY is refused unread, as is one above 1 MiB.

    Raises:
        CsraError: names the file, and the object that is not as VOC has it.
    """
    path = Path(annotations) / f"{image_id}.xml"
    root = _parse_xml(path)
    if root.tag != "annotation":
        raise CsraError(f"{path} holds <{root.tag[:40]}> where VOC has <annotation>; check that it is the right file.")
    boxes = []
    for number, item in enumerate(root.findall("object"), start=1):
        name = (item.findtext("name") or "").strip()
        corners = item.find("bndbox")
        if len(item.findall("name")) > 1 or len(item.findall("bndbox")) > 1:
            raise CsraError(f"{path}: object {number} has two names or two boxes; make two objects of it.")
        try:
            texts = [corners.findtext(k) for k in ("xmin", "ymin", "xmax", "ymax")]
            if any("_" in text for text in texts):  # which Python takes for a digit's neighbour
                raise ValueError
            xmin, ymin, xmax, ymax = map(float, texts)
        except (AttributeError, TypeError, ValueError):
            raise CsraError(f"{path}: object {number} lacks a bndbox with four numbers; correct the file.") from None
        inside = all(abs(v) <= 1e6 for v in (xmin, ymin, xmax, ymax))  # of any picture; NaN is not
        if not is_plain(name) or not inside or xmax < xmin or ymax < ymin:
            raise CsraError(
                f"{path}: object {number} ({name or 'no name'}) has the box {xmin:g} {ymin:g} {xmax:g} {ymax:g}; "
                "it needs a name, xmin <= xmax and ymin <= ymax."
            )
        flags = {k: (item.findtext(k) or "0").strip() for k in ("difficult", "truncated", "occluded")}
        odd = next((k for k, value in flags.items() if value not in ("0", "1")), None)
        if odd is not None:
            raise CsraError(f"{path}: object {number} is {odd} {flags[odd]!r:.40}; it must be 0 or 1.")
        flags = {k: value == "1" for k, value in flags.items()}
        boxes.append(Box(name, xmin - 1, ymin - 1, xmax, ymax, **flags))
    return boxes


def _parse_xml(path: Path) -> ElementTree.Element:
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_XML_BYTES + 1)
    except OSError as error:
        raise CsraError(f"The annotation {path} cannot be read ({error.strerror}); unpack the devkit again.") from None
    if len(raw) > _MAX_XML_BYTES:
        raise CsraError(f"The annotation {path} is larger than 1 MiB, which no VOC annotation is; replace it.")
    if b"\0" in raw:
        raise CsraError(f"The annotation {path} is not UTF-8 text; save it as UTF-8.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")  # a photographer's name; the fields that are read are ASCII
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise CsraError(f"The annotation {path} holds a DOCTYPE or ENTITY, which is refused; remove it.")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise CsraError(f"The annotation {path} is not valid XML ({error}); unpack the devkit again.") from None


def write_voc_predictions(
    folder: str | Path, dataset: MultiLabelDataset, scores: np.ndarray, *, competition: str = "comp2"
) -> Path:
    """Write scores (N, C) as the VOC evaluation server takes them, and return the folder with the C files.

    The files are `results/VOC2012/Main/comp2_cls_test_CLASS.txt` under `folder`, one line `ID SCORE` an image; pack the
    `results` folder as .tar.gz to submit it. "comp1" is for methods that saw only VOC's own training data, "comp2" for
    any other data too: ImageNet weights make it comp2. All files appear at once or none does; existing results are
    refused, not overwritten.

    Raises:
        CsraError: another data set's classes, scores that are not finite or not (N, C), or a folder that cannot be
            written.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if competition not in ("comp1", "comp2"):
        raise CsraError(f"The competition must be comp1 (only VOC data) or comp2 (any data), not {competition!r}.")
    if not dataset.name.startswith("voc"):
        raise CsraError(f"Only VOC predictions can be written for the VOC server, not those of {dataset.name}.")
    if dataset.classes != VOC_CLASSES:
        raise CsraError(
            f"The server wants all {len(VOC_CLASSES)} VOC classes; the scores are of {len(dataset.classes)}."
        )
    if scores.shape != dataset.targets.shape or not np.isfinite(scores).all():
        raise CsraError(f"Scores must be finite numbers of shape {dataset.targets.shape}, not of shape {scores.shape}.")
    main = Path(folder) / "results" / dataset.name.upper() / "Main"
    if main.exists():
        raise CsraError(f"{main} exists already; name another folder or remove it.")
    staging = None
    try:
        main.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".Main-", dir=main.parent))
        for column, name in enumerate(dataset.classes):
            lines = [f"{i} {score:.9g}\n" for i, score in zip(dataset.ids, scores[:, column], strict=True)]
            (staging / f"{competition}_cls_{dataset.split}_{name}.txt").write_text("".join(lines), encoding="ascii")
        staging.chmod(0o755)
        staging.rename(main)
    except OSError as error:
        raise CsraError(
            f"The predictions cannot be written to {main} ({error.strerror}); check space and rights."
        ) from None
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return main
