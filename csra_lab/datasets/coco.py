"""COCO-2014 as a multi-label set: 80 classes, an image is positive for each class that has an object in it.

Read straight from `instances_train2014.json` and `instances_val2014.json`, in numpy; pycocotools is not needed. Three
choices, all the common practice of the papers on this task: classes stand in the order of their category ids (1 to 90
with gaps), a class seen only as a crowd (`iscrowd`) counts as present, and an image without any object stays in the set
with every target 0. Training uses "train" (82,783 images) and the test is "val" (40,504); since every other data set
here has the splits "trainval" and "test", those words mean the same two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from csra_lab._io.validation import is_plain
from csra_lab.datasets.annotations import read_annotations, safe_relative
from csra_lab.datasets.dataset import Box, MultiLabelDataset
from csra_lab.datasets.splits import pick_ids, shipped_ids, shipped_splits
from csra_lab.errors import ConfigError, CsraError, DataError, MissingFile

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


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth
class CocoBoxes:
    """All boxes of one split as arrays, grouped by image; calling it with an image's id gives its boxes.

    A crowd region is one box around many objects; it comes out as a `difficult` box.
    """

    rows: dict[str, int]  # id of an image -> its row
    starts: np.ndarray  # (N + 1,) image r owns the boxes starts[r] to starts[r + 1]
    xywh: np.ndarray  # (M, 4) float32 pixels
    columns: np.ndarray  # (M,) index into classes
    crowd: np.ndarray  # (M,) bool
    classes: tuple[str, ...] = COCO_CLASSES
    sizes: np.ndarray | None = None  # (N, 2) width and height that the file states, 0 for none

    def __call__(self, image_id: str) -> list[Box]:
        row = self.rows[image_id]
        boxes = []
        for k in range(self.starts[row], self.starts[row + 1]):
            x, y, w, h = (float(v) for v in self.xywh[k])
            boxes.append(Box(self.classes[self.columns[k]], x, y, x + w, y + h, difficult=bool(self.crowd[k])))
        return boxes

    def size(self, image_id: str) -> tuple[int, int] | None:
        """(width, height) that the file states for an image; None where it states none."""
        width, height = (0, 0) if self.sizes is None else self.sizes[self.rows[image_id]].tolist()
        return (width, height) if width > 0 and height > 0 else None


def load_coco2014(root: Path, split: str) -> MultiLabelDataset:
    """COCO-2014 "train" (also called "trainval") or "val" (also called "test"), with boxes; or COCO-2017's.

    `root` holds `annotations/` and the photographs in `train2014/` and `val2014/` (or `images/train2014/` ...); it may
    also be the folder above, which holds `coco2014/`. "sample-train" and "sample-val" are the lab's own samples (see
    `csra_lab.datasets.splits`). Reading the training JSON takes some seconds and 2-3 GB of memory. Raises CsraError for
    absent files (with how to get them), and for malformed ones.
    """
    root = Path(root)
    if split in shipped_splits("coco2014"):
        everything = load_coco2014(root, split.removeprefix("sample-"))
        return pick_ids(everything, shipped_ids("coco2014", split), split)
    if split not in _SPLITS:
        known = [*_SPLITS, *shipped_splits("coco2014")]
        raise ConfigError(f"COCO has no split {split!r}; it has {', '.join(known)}.")
    part = _SPLITS[split]
    names = [f"{part}{year}" for year in ("2014", "2017")]
    found = ((p, n) for n in names for p in (root, root / "coco2014") if _instances(p, n).is_file())
    base, name = next(found, (None, ""))
    if base is None:
        raise MissingFile(
            f"There is no annotations/instances_{names[0]}.json under {root}; fetch the data with "
            "`csra-lab data download coco2014 --root DIR`."
        )
    folder = next((p for p in (base / name, base / "images" / name) if p.is_dir()), base)
    path = _instances(base, name)
    return read_instances(path, [folder], name=f"coco{name[-4:]}", split=part, coco=True)


def _instances(base: Path, name: str) -> Path:
    return base / "annotations" / f"instances_{name}.json"


def read_instances(
    path: Path, folders: Sequence[Path], *, name: str, split: str, coco: bool = False
) -> MultiLabelDataset:
    """A file in COCO's instances format with any categories; ids may be numbers or texts, and boxes may be missing.

    Args:
        folders: where the images may lie; the first that has the first image counts. coco: the categories must be
            COCO's 80.

    Raises:
        DataError: the file is malformed; it says where.
    """
    content = read_annotations(path, lists=("images", "annotations", "categories"))
    try:
        categories = sorted(((c["id"], c["name"]) for c in content["categories"]), key=lambda c: (str(type(c[0])), c))
        classes = tuple(str(c).strip() for _, c in categories)
        if coco and classes and classes != COCO_CLASSES:
            raise DataError(
                f"{path} does not list COCO's 80 categories; for categories of your own give the folder to the data "
                "set `folder` (such as `csra-lab train folder-lite0-csra --data DIR`)."
            )
        images, objects = content["images"], content["annotations"]
        file_names = [safe_relative(image["file_name"], source=path) for image in images]
        sizes = np.array([[_side(image.get("width")), _side(image.get("height"))] for image in images]).reshape(-1, 2)
        columns = _positions([o["category_id"] for o in objects], [c for c, _ in categories], "category_id", path)
        rows = _positions([o["image_id"] for o in objects], [image["id"] for image in images], "image_id", path)
        crowd = np.array([o.get("iscrowd", 0) in (1, True) for o in objects], dtype=bool)  # (M,)
        boxed = np.array([bool(o.get("bbox")) for o in objects], dtype=bool)  # (M,)
        sides = [[_number(v) for v in o["bbox"]] for o in objects if o.get("bbox")]
        xywh = np.array(sides, dtype=np.float64).reshape(-1, 4)  # (boxed, 4)
        if len(xywh) != boxed.sum() or any(o.get("iscrowd", 0) not in (0, 1) for o in objects):
            raise ValueError("a bbox is not four numbers, or iscrowd is not 0 or 1")
    except CsraError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} is not in COCO's instances format ({error!r}); fetch the file again.") from error
    if len(set(classes)) != len(classes) or not classes or not all(map(is_plain, classes)):
        raise DataError(f"{path} is not in COCO's instances format (its categories need distinct names); correct it.")
    if not ((np.abs(xywh) < 1e9).all() and (xywh[:, 2:] >= 0).all()):
        raise DataError(f"{path} has a box with a negative or infinite side; fetch the file again.")

    targets = np.zeros((len(images), len(classes)), dtype=np.int8)  # (N, C)
    targets[rows, columns] = 1
    stems = [Path(n).stem for n in file_names]
    ids = stems if len(set(stems)) == len(stems) or coco else file_names
    rows_of_ids = {i: row for row, i in enumerate(ids)}
    if len(rows_of_ids) != len(ids):
        twice = next(i for row, i in enumerate(ids) if rows_of_ids[i] != row)
        raise DataError(f"{path} has two images named {twice!r}; fetch the file again.")
    folder = next((place for place in folders for first in file_names[:1] if (place / first).is_file()), folders[0])
    order = np.argsort(rows[boxed], kind="stable")
    reader = CocoBoxes(
        rows=rows_of_ids,
        starts=np.searchsorted(rows[boxed][order], np.arange(len(ids) + 1)),
        xywh=xywh[order].astype(np.float32),
        columns=columns[boxed][order],
        crowd=crowd[boxed][order],
        classes=classes,
        sizes=sizes,
    )
    return MultiLabelDataset(
        name=name,
        split=split,
        classes=classes,
        ids=ids,
        paths=[folder / n for n in file_names],
        targets=targets,
        box_reader=reader if boxed.any() or not objects else None,
        root=folder,
    )


def _number(value: float) -> float:
    if type(value) not in (int, float):
        raise TypeError("a side of a box is not a number")
    return value


def _side(value: object) -> int:
    """A width or height as the file states it; 0 for one that is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 0 < value < 1e9 else 0


def _positions(values: Sequence, known: Sequence, what: str, path: Path) -> np.ndarray:
    """For each value its index in `known`; DataError for one that is not there, or known twice."""
    if not all(type(v) in (int, str) for v in known) or not all(type(v) in (int, str) for v in values):
        raise TypeError(f"a {what} is neither a whole number nor a text")
    places = {value: i for i, value in enumerate(known)}
    if len(places) != len(known):
        twice = next(v for i, v in enumerate(known) if places[v] != i)
        raise DataError(f"{path} lists the {what} {twice} twice; fetch the file again.")
    if not known:
        if what == "category_id":
            raise ValueError("it lists no category")
        raise DataError(f"{path} lists no {what}; fetch the file again.")
    stray = next((value for value in values if value not in places), None)
    if stray is not None:
        raise DataError(f"{path} has an object with the unknown {what} {stray!r:.60}; fetch the file again.")
    return np.array([places[value] for value in values], dtype=np.int64)
