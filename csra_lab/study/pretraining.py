"""Drawn pretraining: a backbone learns from scenes that no other set of the lab holds, before two heads share it.

EmojiVOC draws its training scenes from numbers 0 to 1,999 of a stream that never ends. Pretraining takes those from
`FIRST` on: fresh scenes of the same kind, as many as a machine has time for, at whatever size the network reads.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from csra_lab.datasets import VOC_CLASSES, MultiLabelDataset
from csra_lab.datasets.voc import load_voc
from csra_lab.errors import CsraError
from csra_lab.synthetic.emoji_voc import VERSION, labels_of, picture, scene
from csra_lab.synthetic.prepare import in_parallel, prepared

FIRST = 10_000
"""Number of the first scene; EmojiVOC's own are below it."""
MAX_SCENES = 10_000_000


def load_scenes(
    count: int,
    *,
    image_size: int,
    root: Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> MultiLabelDataset:
    """Fresh training scenes of EmojiVOC, in VOC's layout without boxes, drawn on first use.

    Args:
        count: how many. A scene takes about 20 ms of one core.
        image_size: pixels a side. Labels are the same at every size.
        root: the folder below which they lie; the cache if left out.
        workers: processes, by default one a core. The files do not depend on it.

    Raises:
        CsraError: a count outside 1 to `MAX_SCENES`, or a folder that cannot be written.
    """
    if not 1 <= count <= MAX_SCENES:
        raise CsraError(f"pretraining draws 1 to {MAX_SCENES:,} scenes, not {count}.")
    build = partial(_build, image_size=image_size, count=count, workers=workers, progress=progress)
    folder = prepared(f"emoji-scenes-{VERSION}-{image_size}px-{count}", build, root=root)
    scenes = load_voc(folder, "2007", "trainval")
    scenes.name = folder.name
    return scenes


def _build(folder: Path, *, image_size: int, count: int, workers: int | None, progress: bool) -> None:
    devkit = folder / "VOC2007"
    for part in ("JPEGImages", "ImageSets/Main"):
        (devkit / part).mkdir(parents=True)
    work = partial(_write_scene, devkit, image_size)
    rows = list(in_parallel(work, count, label="scenes", workers=workers, progress=progress))
    lists = devkit / "ImageSets" / "Main"
    _write(lists / "trainval.txt", (_image_id(n) for n in range(count)))
    for column, name in enumerate(VOC_CLASSES):
        _write(lists / f"{name}_trainval.txt", (f"{_image_id(n)} {rows[n][column]:2d}" for n in range(count)))


def _write_scene(devkit: Path, image_size: int, number: int) -> tuple[int, ...]:
    """Draw one scene as a JPEG, and return its labels (C,): -1, 0 difficult, 1."""
    index = FIRST + number
    picture("trainval", index, image_size).save(devkit / "JPEGImages" / f"{_image_id(number)}.jpg", quality=90)
    return labels_of(scene("trainval", index))


def _image_id(number: int) -> str:
    return f"{number + 1:06d}"


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
