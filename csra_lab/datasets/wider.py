"""WIDER-Attribute: 57,524 people in 13,789 photographs, 14 attributes each. One item is one person's box.

The JSON holds `images[].file_name` and, for each person in it, `targets[].bbox` (x, y, w, h in pixels) and
`targets[].attribute` (14 of 1, 0, -1; 0 = unspecified). Here 1 stays 1, -1 becomes 0 (absent), and 0 becomes -1
(ignore). Training counts an unspecified attribute as absent, the test mAP ignores it; that is theirs to do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from csra_lab.datasets.annotations import read_annotations, safe_relative
from csra_lab.datasets.dataset import MultiLabelDataset
from csra_lab.errors import ConfigError, DataError, MissingFile

WIDER_ATTRIBUTES = (
    "Male", "longHair", "sunglass", "Hat", "Tshirt", "longSleeve", "formal",
    "shorts", "jeans", "longPants", "skirt", "faceMask", "logo", "stripe",
)  # fmt: skip

# split -> (JSON file, how the names of its images begin)
_SPLITS = {
    "train": ("wider_attribute_trainval.json", "train/"),
    "val": ("wider_attribute_trainval.json", "val/"),
    "trainval": ("wider_attribute_trainval.json", ""),
    "test": ("wider_attribute_test.json", ""),
}

WIDER_STEPS = """WIDER-Attribute is handed out by its authors, not by a plain download:
  1. Open http://mmlab.ie.cuhk.edu.hk/projects/WIDERAttribute.html and read the terms of use.
  2. Get wider_attribute_image.tgz and wider_attribute_annotation.zip from the links there.
  3. Unpack the first so that DIR/Image/train, DIR/Image/val and DIR/Image/test exist.
  4. Unpack the second so that DIR/Annotations/wider_attribute_trainval.json and wider_attribute_test.json exist.
  5. Give DIR as the folder of the data set `wider`."""


def load_wider(root: Path, split: str) -> MultiLabelDataset:
    """One split of WIDER-Attribute: trainval (28,340 people), its parts train and val, or test (29,177 people).

    The JSON files are looked for in `root/Annotations`, `root/Anno` and `root`, the photographs under `root/Image`,
    `root/images` or `root`. The people of one photograph follow each other. Boxes are clipped to the photograph when it
    is opened. Raises CsraError for absent files (with the steps to get them), and for malformed ones.
    """
    root = Path(root)
    if split not in _SPLITS:
        raise ConfigError(f"WIDER has no split {split!r}; it has {', '.join(_SPLITS)}.")
    file_name, prefix = _SPLITS[split]
    path = next((p for d in ("Annotations", "Anno", ".") if (p := root / d / file_name).is_file()), None)
    if path is None:
        raise MissingFile(f"There is no Annotations/{file_name} under {root}.\n{WIDER_STEPS}")
    images = next((p for d in ("Image", "Images", "images") if (p := root / d).is_dir()), root)

    ids, paths, crops, attributes, listed = [], [], [], [], set()
    for number, image in enumerate(read_annotations(path, lists=("images",))["images"]):
        people = image.get("targets") if isinstance(image, dict) else None
        if not isinstance(people, list):
            raise DataError(f"{path}: images[{number}] has no list of targets; fetch the file again.")
        name = safe_relative(image.get("file_name"), source=path)
        if not name.startswith(prefix):
            continue
        if name in listed:
            raise DataError(f"{path} lists {name!r} twice; fetch the file again.")
        listed.add(name)
        for k, person in enumerate(people):
            where = f"{path}: person {k} of {name}"
            crops.append(_box(person, where))
            attributes.append(_attributes(person, where))
            ids.append(f"{name}#{k}")
            paths.append(images / name)
    if not ids:
        raise DataError(f"{path} lists no person for the split {split!r}; fetch the file again.")
    given = np.array(attributes, dtype=np.int8)  # (N, 14) in {1, 0, -1}, 0 = unspecified
    if (given == 1).any() and (given == 0).any() and not (given == -1).any():
        raise DataError(
            f"{path}: no person of {split} lacks an attribute (-1), and 0 is read as unspecified, so any model would "
            "score near 100; write -1 where the attribute is absent."
        )
    return MultiLabelDataset(
        name="wider",
        split=split,
        classes=WIDER_ATTRIBUTES,
        ids=ids,
        paths=paths,
        targets=np.where(given == 1, 1, np.where(given == -1, 0, -1)),
        crops=np.array(crops, dtype=np.float64),  # (N, 4)
    )


def _box(person: object, where: str) -> list[float]:
    try:
        if not isinstance(person, dict) or not all(type(v) in (int, float) for v in person["bbox"]):
            raise TypeError
        x, y, w, h = (float(v) for v in person["bbox"])
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise DataError(f"{where} has no bbox of four numbers; correct the file.") from error
    if not (np.isfinite((x, y, w, h)).all() and w > 0 and h > 0):
        raise DataError(f"{where} has the box x={x:g} y={y:g} w={w:g} h={h:g}; width and height must be above 0.")
    return [x, y, w, h]


def _attributes(person: dict, where: str) -> list[int]:
    values = person.get("attribute")
    if not isinstance(values, list) or len(values) != len(WIDER_ATTRIBUTES):
        count = len(values) if isinstance(values, list) else "no"
        raise DataError(f"{where} has {count} attribute values; there must be {len(WIDER_ATTRIBUTES)}.")
    wrong = [v for v in values if v not in (-1, 0, 1)]
    if wrong:
        raise DataError(f"{where} has the attribute value {wrong[0]!r:.40}; only 1, 0 and -1 are known.")
    return values
