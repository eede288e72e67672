"""COCO-2014 as a multi-label set: 80 classes, an image is positive for each class that has an object in it.

Read straight from `instances_train2014.json` and `instances_val2014.json`, in numpy; pycocotools is not needed. Three
choices, all the common practice of the papers on this task: classes stand in the order of their category ids (1 to 90
with gaps), a class seen only as a crowd (`iscrowd`) counts as present, and an image without any object stays in the set
with every target 0. Training uses "train" (82,783 images) and the test is "val" (40,504); since every other data set
here has the splits "trainval" and "test", those words mean the same two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from csra_lab.datasets.annotations import read_annotations, safe_relative
from csra_lab.datasets.dataset import Box, MultiLabelDataset
from csra_lab.errors import CsraError

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

_SPLITS = {"train": "train", "val": "val", "trainval": "train", "test": "val"}


@dataclass(frozen=True)
class CocoBoxes:
    """All boxes of one split as arrays, grouped by image; calling it with an image's id gives its boxes.

    A crowd region is one box around many objects; it comes out as a `difficult` box.
    """

    rows: dict[str, int]  # id of an image -> its row
    starts: np.ndarray  # (N + 1,) image r owns the boxes starts[r] to starts[r + 1]
    xywh: np.ndarray  # (M, 4) float32 pixels
    columns: np.ndarray  # (M,) index into COCO_CLASSES
    crowd: np.ndarray  # (M,) bool

    def __call__(self, image_id: str) -> list[Box]:
        row = self.rows[image_id]
        boxes = []
        for k in range(self.starts[row], self.starts[row + 1]):
            x, y, w, h = (float(v) for v in self.xywh[k])
            boxes.append(Box(COCO_CLASSES[self.columns[k]], x, y, x + w, y + h, difficult=bool(self.crowd[k])))
        return boxes


def load_coco2014(root: Path, split: str, transform: Callable | None = None) -> MultiLabelDataset:
    """COCO-2014 "train" (also called "trainval") or "val" (also called "test"), with boxes.

    `root` holds `annotations/` and the photographs in `train2014/` and `val2014/` (or `images/train2014/` ...); it may
    also be the folder above, which holds `coco2014/`. Reading the training JSON takes some seconds and 2-3 GB of
    memory. Raises CsraError for absent files (with how to get them), and for malformed ones.
    """
    root = Path(root)
    if split not in _SPLITS:
        raise CsraError(f"COCO has no split {split!r}; it has {', '.join(_SPLITS)}.")
    part = _SPLITS[split]
    file_name = f"annotations/instances_{part}2014.json"
    base = next((p for p in (root, root / "coco2014") if (p / file_name).is_file()), None)
    if base is None:
        raise CsraError(
            f"There is no {file_name} under {root}; fetch the data with `csra-lab data download coco2014 --root DIR`."
        )
    path = base / file_name
    folder = next((p for p in (base / f"{part}2014", base / "images" / f"{part}2014") if p.is_dir()), base)
    content = read_annotations(path, lists=("images", "annotations", "categories"))
    try:
        category_ids, names = zip(*sorted((c["id"], c["name"]) for c in content["categories"]), strict=True)
        category_ids = _whole(category_ids)  # (80,)
        image_ids = _whole([image["id"] for image in content["images"]])  # (N,)
        file_names = [safe_relative(image["file_name"], source=path) for image in content["images"]]
        objects = content["annotations"]
        image_of = _whole([o["image_id"] for o in objects])  # (M,)
        category_of = _whole([o["category_id"] for o in objects])  # (M,)
        crowd = _whole([o.get("iscrowd", 0) for o in objects])  # (M,)
        xywh = np.array([[_number(v) for v in o["bbox"]] for o in objects], dtype=np.float64).reshape(-1, 4)  # (M, 4)
    except CsraError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CsraError(f"{path} is not in COCO's instances format ({error!r}); fetch the file again.") from None
    if len(xywh) != len(objects) or not np.isin(crowd, (0, 1)).all():
        raise CsraError(f"{path} has an object whose bbox is not four numbers or whose iscrowd is not 0 or 1.")
    if names != COCO_CLASSES:
        raise CsraError(f"{path} does not list COCO's 80 categories; check that it is the instances file of 2014.")
    rows = _positions(image_of, image_ids, what="image_id", path=path)  # (M,)
    columns = _positions(category_of, category_ids, what="category_id", path=path)  # (M,)
    if not ((np.abs(xywh) < 1e9).all() and (xywh[:, 2:] >= 0).all()):
        raise CsraError(f"{path} has a box with a negative or infinite side; fetch the file again.")

    targets = np.zeros((len(image_ids), len(COCO_CLASSES)), dtype=np.int8)  # (N, 80)
    targets[rows, columns] = 1
    order = np.argsort(rows, kind="stable")
    ids = [Path(name).stem for name in file_names]
    rows_of_ids = {i: row for row, i in enumerate(ids)}
    if len(rows_of_ids) != len(ids):
        twice = next(i for row, i in enumerate(ids) if rows_of_ids[i] != row)
        raise CsraError(f"{path} has two images named {twice!r}; fetch the file again.")
    return MultiLabelDataset(
        name="coco2014",
        split=part,
        classes=COCO_CLASSES,
        ids=ids,
        paths=[folder / name for name in file_names],
        targets=targets,
        transform=transform,
        box_reader=CocoBoxes(
            rows=rows_of_ids,
            starts=np.searchsorted(rows[order], np.arange(len(ids) + 1)),
            xywh=xywh[order].astype(np.float32),
            columns=columns[order],
            crowd=crowd[order] == 1,
        ),
    )


def _whole(values: Sequence) -> np.ndarray:
    """(n,) int64, where all are whole numbers; TypeError or OverflowError otherwise."""
    if not all(type(v) is int for v in values):
        raise TypeError("an id is not a whole number")
    return np.array(values, dtype=np.int64)


def _number(value: float) -> float:
    if type(value) not in (int, float):
        raise TypeError("a side of a box is not a number")
    return value


def _positions(values: np.ndarray, known: np.ndarray, *, what: str, path: Path) -> np.ndarray:
    """For each value its index in `known`; CsraError for one that is not there, or known twice."""
    order = np.argsort(known)
    ordered = known[order]
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if twice.size:
        raise CsraError(f"{path} lists the {what} {twice[0]} twice; fetch the file again.")
    if not known.size:
        raise CsraError(f"{path} lists no {what}; fetch the file again.")
    found = np.searchsorted(ordered, values).clip(max=len(known) - 1)
    stray = values[ordered[found] != values]
    if stray.size:
        raise CsraError(f"{path} has an object with the unknown {what} {stray[0]}; fetch the file again.")
    return order[found]
