"""PaperdollWIDER: WIDER-Attribute's format and attributes, with people that this lab draws.

1,200 scenes of about 3,000 dolls to train on and 600 of about 1,500 to test on, drawn on this machine in less than a
minute. The folder is read by WIDER's own reader: nothing after this file knows that the people are made of paper.
"""

import json
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from csra_lab.datasets.dataset import MultiLabelDataset
from csra_lab.datasets.wider import WIDER_ATTRIBUTES, load_wider
from csra_lab.errors import ConfigError, MissingFile
from csra_lab.synthetic.paperdoll_people import OCCASIONS
from csra_lab.synthetic.paperdoll_scene import Scene, paint_scene, sample_scene
from csra_lab.synthetic.prepare import in_parallel, prepared

VERSION = 1  # of labels, boxes and pixels: whoever changes one of them raises it
NAME = f"paperdoll-wider-{VERSION}"
SEED = 2021

# size -> scenes of each part
SCENES = {"full": {"train": 900, "val": 300, "test": 600}, "tiny": {"train": 16, "val": 6, "test": 10}}
_PARTS = ("train", "val", "test")
_FILES = {"wider_attribute_trainval.json": ("train", "val"), "wider_attribute_test.json": ("test",)}


def load_paperdoll_wider(root: Path | None, split: str) -> MultiLabelDataset:
    """One split of PaperdollWIDER: train, val, trainval (both) or test. One item is one doll's box.

    Args:
        root: the folder that `prepare_paperdoll_wider` returned, or the one that it was given; None: the cache, where
            the set is drawn on first use.

    Raises:
        CsraError: an unknown split, or a folder that holds no such set.
    """
    places = [prepare_paperdoll_wider()] if root is None else [Path(root), Path(root) / NAME]
    folder = next((place for place in places if (place / "Annotations").is_dir()), None)
    if folder is None:
        raise MissingFile(
            f"There is no PaperdollWIDER in {root}; leave the folder out, and the set is drawn in the cache."
        )
    dataset = load_wider(folder, split)
    dataset.name = folder.resolve().name  # a recorded run names the version
    return dataset


def prepare_paperdoll_wider(
    root: Path | None = None,
    *,
    size: Literal["full", "tiny"] = "full",
    progress: bool = True,
    workers: int | None = None,
) -> Path:
    """The folder of the set below `root` (None: the cache), drawn if it is not there yet.

    Args:
        size: "full", or "tiny" (32 scenes) for tests, in a folder of its own.
        workers: processes that draw; None takes one for each core. The files do not depend on it.

    Raises:
        CsraError: another size, or a folder that cannot be written.
    """
    if size not in SCENES:
        raise ConfigError(f"PaperdollWIDER has no size {size!r}; it has {', '.join(SCENES)}.")
    if size == "tiny":
        workers = workers or 1  # starting a second process would take longer than the drawing
    build = partial(draw_paperdoll_wider, scenes=SCENES[size], progress=progress, workers=workers)
    return prepared(NAME if size == "full" else f"{NAME}-{size}", build, root=root)


def draw_paperdoll_wider(folder: Path, *, scenes: dict[str, int], progress: bool, workers: int | None) -> None:
    """Draw the images and write the annotations into an empty folder."""
    for part in scenes:
        (folder / "Image" / part).mkdir(parents=True)
    (folder / "Annotations").mkdir()
    order = [(part, index) for part, count in scenes.items() for index in range(count)]
    work = partial(_draw_picture, folder=folder, order=order)
    records = list(in_parallel(work, len(order), label=NAME, progress=progress, workers=workers))
    for name, parts in _FILES.items():
        images = [r for (part, _), r in zip(order, records, strict=True) if part in parts]
        (folder / "Annotations" / name).write_text(json.dumps(annotations(images)))


def annotations(images: list[dict]) -> dict:
    """WIDER-Attribute's JSON, with a line that says where it is from."""
    return {
        "description": f"{NAME}, drawn by CSRA Lab from seed {SEED}; MIT licence",
        "attribute_id_map": {str(k): name for k, name in enumerate(WIDER_ATTRIBUTES)},
        "scene_id_map": {str(k): name for k, name in enumerate(OCCASIONS)},
        "images": images,
    }


def scene_record(part: str, index: int, scene: Scene | None = None) -> dict:
    """The entry of one image in the JSON. Person boxes are x, y, w, h in whole pixels."""
    scene = scene or sample_scene(picture_generator(part, index))
    return {
        "file_name": _file_name(part, index),
        "scene_id": list(OCCASIONS).index(scene.occasion),
        "targets": [{"bbox": list(f.bbox), "attribute": list(f.attribute)} for f in scene.people],
    }


def _draw_picture(number: int, *, folder: Path, order: list[tuple[str, int]]) -> dict:
    part, index = order[number]
    scene = sample_scene(picture_generator(part, index))
    picture = paint_scene(scene, picture_generator(part, index, pixels=True))
    picture.save(folder / "Image" / _file_name(part, index), quality=88)
    return scene_record(part, index, scene)


def picture_generator(part: str, index: int, *, pixels: bool = False) -> np.random.Generator:
    """Numbers that depend on the image alone; those of its pixels are a stream of their own."""
    return np.random.default_rng([SEED, VERSION, _PARTS.index(part), index, int(pixels)])


def _file_name(part: str, index: int) -> str:
    return f"{part}/{part}_{index:05d}.jpg"
