"""EmojiVOC: scenes of emoji in the very format of VOC2007, drawn on this machine. See data/README.md.

Which classes an image shows is drawn from the label sets of the real VOC2007 images. Everything is measured in cells
of a 224 x 224 grid and scaled to the image size, so that labels are the same at every size. An object counts as
difficult by one rule (`_is_difficult`), which the finished layout obeys: labels always follow from what can be seen.
"""

import csv
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from csra_lab._io.resources import asset
from csra_lab.datasets.dataset import MultiLabelDataset
from csra_lab.datasets.voc import VOC_CLASSES, load_voc
from csra_lab.errors import ConfigError, MissingFile
from csra_lab.synthetic.backgrounds import background, grain
from csra_lab.synthetic.prepare import in_parallel, prepared
from csra_lab.synthetic.sprites import drawing, drawings_of

VERSION = 1  # of what is drawn; another version is another folder
SEED = 2007
GRID = 224
SPLITS = ("trainval", "test", "test-unseen")
VENDORS = {"trainval": ("noto", "twemoji"), "test": ("noto", "twemoji"), "test-unseen": ("fluent",)}
IMAGES = {"full": (2000, 1000, 1000), "tiny": (60, 30, 30)}  # of each split

SMALLEST_PLAIN, LARGEST = 24, 140  # the longer side of an object, in cells
DIFFICULT_BELOW = 20  # cells of the longer visible side
DIFFICULT_HIDDEN = 0.4  # visible share
_RECOLOURED = {"car", "bus", "sofa", "chair", "bottle", "motorbike", "bicycle"}


@dataclass(frozen=True)
class EmojiObject:
    """One object of a scene. Lengths are cells of a 224 x 224 grid, whatever the image size.

    Attributes:
        name: the VOC class.
        drawing: which drawing, as "CLASS/VENDOR-CODEPOINT".
        x, y, side: the centre, and the longer side before turning.
        angle, mirrored: degrees counter-clockwise; left and right swapped before turning.
        colour: turn of the hue in 0..1, and factors of brightness, saturation and contrast.
        box: xmin, ymin, xmax, ymax of what can be seen of it; 0-based, half-open.
        visible: the share of the drawing that is neither cut off nor covered.
    """

    name: str
    drawing: str
    x: float
    y: float
    side: float
    angle: float
    mirrored: bool
    colour: tuple[float, float, float, float]
    box: tuple[int, int, int, int]
    visible: float
    difficult: bool
    truncated: bool
    occluded: bool


def load_emoji_voc(root: Path | None, split: str) -> MultiLabelDataset:
    """EmojiVOC's "trainval", "test" or "test-unseen" (drawings by a vendor that training never shows).

    Args:
        root: the prepared set itself (of any size), or the folder that holds the one of 224 px. None draws that one
            on first use, in the cache, which takes about a minute.

    Raises:
        CsraError: no such set in the folder, or another split.
    """
    folder = prepare_emoji_voc() if root is None else Path(root)
    if (folder / _folder_name(224, "full")).is_dir():
        folder = folder / _folder_name(224, "full")
    if not (folder / "VOC2007").is_dir():
        raise MissingFile(
            f"EmojiVOC is not in {folder}; draw it with `csra-lab data prepare emoji-voc`, or give the prepared folder "
            f"itself, such as {_folder_name(448, 'full')}."
        )
    dataset = load_voc(folder, "2007", split)
    dataset.name = folder.resolve().name  # a recorded run names the version
    return dataset


def prepare_emoji_voc(
    root: Path | None = None,
    *,
    image_size: int = 224,
    size: str = "full",
    progress: bool = True,
    workers: int | None = None,
) -> Path:
    """Draw EmojiVOC below `root` (default: the cache) unless it is there, and return its folder.

    The folder holds VOC2007/ in the devkit's layout, and the notices of the drawings.

    Args:
        image_size: pixels a side. Labels are the same at every size.
        size: "full" (2,000 trainval, 1,000 test, 1,000 test-unseen) or "tiny" (60, 30, 30; for tests).
        workers: processes, by default one a core. The result does not depend on them.

    Raises:
        CsraError: another size, a side outside 32 to 2048 pixels, or a folder that cannot be written.
    """
    if size not in IMAGES:
        raise ConfigError(f"EmojiVOC's size is {' or '.join(IMAGES)}, not {size!r}.")
    if not 32 <= image_size <= 2048:
        raise ConfigError(f"EmojiVOC is drawn at 32 to 2048 pixels a side, not {image_size}.")
    workers = 1 if size == "tiny" and workers is None else workers  # starting processes would take longer
    build = partial(_build, image_size=image_size, counts=IMAGES[size], progress=progress, workers=workers)
    return prepared(_folder_name(image_size, size), build, root=root)


def label_set(rng: np.random.Generator) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes present, and the classes with difficult objects only, of a random image of the real VOC2007."""
    sets, ends = _real_label_sets()
    return sets[int(np.searchsorted(ends, int(rng.random() * ends[-1]), side="right"))]


@lru_cache(maxsize=1)  # whoever draws a scene then asks for its labels
def scene(split: str, index: int) -> tuple[EmojiObject, ...]:
    """The objects of image `index` of a split, front to back."""
    # Only rng.random() and plain arithmetic: NumPy keeps that stream, so that labels and boxes are the same anywhere.
    rng = _rng(split, index, "objects")
    present, difficult_only = label_set(rng)
    return arrange(rng, _wishes(rng, present, difficult_only), VENDORS[split])


def arrange(
    rng: np.random.Generator, wishes: Iterable[tuple[str, bool, float]], vendors: tuple[str, ...]
) -> tuple[EmojiObject, ...]:
    """Place objects front to back; one for which there is no room is left out, or smaller.

    Args:
        wishes: (class, whether it is to be difficult, longer side in cells) of each.
    """
    objects, covered = [], np.zeros((GRID, GRID), dtype=bool)
    for name, difficult, side in wishes:
        placed = _place(rng, name, difficult, side, vendors, covered)
        objects += [placed] if placed else []
    return tuple(objects)


def picture(split: str, index: int, image_size: int = 224) -> Image.Image:
    """Image `index` of a split, RGB. Its background has a random stream of its own, which labels do not enter."""
    return draw(_rng(split, index, "background"), scene(split, index), image_size)


def draw(rng: np.random.Generator, objects: Sequence[EmojiObject], image_size: int = 224) -> Image.Image:
    """Objects, front to back, on a random background: RGB."""
    canvas = Image.fromarray(background(rng, image_size).astype(np.uint8))
    for item in reversed(objects):
        sprite = _rendered(item, image_size / GRID)
        left, top = item.x * image_size / GRID - sprite.width / 2, item.y * image_size / GRID - sprite.height / 2
        canvas.paste(sprite, (round(left), round(top)), sprite)
    return Image.fromarray(grain(rng, np.asarray(canvas)))


def labels_of(objects: tuple[EmojiObject, ...]) -> tuple[int, ...]:
    """VOC's labels of a scene, one a class: -1 absent, 0 difficult objects only, 1 present."""
    plain = {o.name for o in objects if not o.difficult}
    seen = {o.name for o in objects}
    return tuple(1 if name in plain else 0 if name in seen else -1 for name in VOC_CLASSES)


def _folder_name(image_size: int, size: str) -> str:
    return f"emoji-voc-{VERSION}-{image_size}px" + ("" if size == "full" else f"-{size}")


def _rng(split: str, index: int, stream: str) -> np.random.Generator:
    return np.random.default_rng([SEED, SPLITS.index(split), index, ("objects", "background").index(stream)])


def _rows(name: str) -> list[dict[str, str]]:
    """The rows of a table in assets/tables, whose comments start with #."""
    with open(asset(f"tables/{name}"), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


@lru_cache
def _real_label_sets() -> tuple[list[tuple[tuple[str, ...], tuple[str, ...]]], np.ndarray]:
    """The label sets of VOC2007, and the running total of the images that have them."""
    rows = _rows("voc2007_label_sets.csv")
    sets = [(tuple(row["present"].split()), tuple(row["difficult_only"].split())) for row in rows]
    return sets, np.cumsum([int(row["trainval"]) + int(row["test"]) for row in rows])


@lru_cache
def _objects_per_image() -> dict[str, float]:
    return {row["class"]: float(row["assumed_objects_per_image"]) for row in _rows("voc2007_classes.csv")}


def _geometric(rng: np.random.Generator, mean: float, most: int) -> int:
    """A count 0, 1, 2 ... with this mean (before it is cut at `most`)."""
    return min(most, int(math.log(1 - rng.random()) / math.log(mean / (1 + mean))))


def _wishes(rng, present: tuple[str, ...], difficult_only: tuple[str, ...]) -> list[tuple[str, bool, float]]:
    """What to place, front to back: (class, difficult, side). The mean objects a class are assumed."""

    def side(share: float) -> float:
        return SMALLEST_PLAIN * (share * LARGEST / SMALLEST_PLAIN) ** (rng.random() ** 0.8)

    first = [(name, side(1.0)) for name in present]
    first.sort(key=lambda wish: wish[1] * math.exp(2 * rng.random()))  # mostly small before large
    more = [(name, side(0.7)) for name in present for _ in range(_geometric(rng, _objects_per_image()[name] - 1, 6))]
    hard = list(difficult_only)
    hard += [
        (present + difficult_only)[int(rng.random() * len(present + difficult_only))]
        for _ in range(_geometric(rng, 0.45, 3))
    ]
    return [(name, False, s) for name, s in first + more] + [(name, True, 0.0) for name in hard]


def _is_difficult(box: tuple[int, int, int, int], visible: float) -> bool:
    """The rule: too small, or too little of it can be seen."""
    return max(box[2] - box[0], box[3] - box[1]) < DIFFICULT_BELOW or visible < DIFFICULT_HIDDEN


def _place(rng, name: str, difficult: bool, side: float, vendors, covered: np.ndarray) -> EmojiObject | None:
    """Put an object behind those that cover the grid already, and add it to `covered`. None if there is no room.

    A plain object shrinks until it fits. A difficult one is tiny, or mostly behind others or outside the frame.
    """
    choices = drawings_of(name, vendors)
    key = choices[int(rng.random() * len(choices))]
    angle, mirrored = 24 * rng.random() - 12, rng.random() < 0.5
    hue = rng.random() if name in _RECOLOURED and rng.random() < 0.5 else 0.0
    colour = (hue, *(0.75 + 0.5 * rng.random() for _ in range(3)))
    hidden = difficult and rng.random() < 0.5
    overhang = 0.35 if rng.random() < 0.3 else 0.0  # the share of its side that may be outside
    for attempt in range(60):
        if difficult:
            hidden = hidden and attempt < 40
            side, overhang = (40 + 70 * rng.random(), 0.8) if hidden else (16 + 3 * rng.random(), 0.0)
        elif attempt:
            side = max(SMALLEST_PLAIN, 0.96 * side)
        shape = _shape(key, side, angle, mirrored)  # (height, width) cells
        height, width = shape.shape
        top = int((GRID - height + 2 * overhang * height) * rng.random() - overhang * height)
        left = int((GRID - width + 2 * overhang * width) * rng.random() - overhang * width)
        ys, xs = slice(max(0, top), min(GRID, top + height)), slice(max(0, left), min(GRID, left + width))
        inside = shape[ys.start - top : ys.stop - top, xs.start - left : xs.stop - left]
        seen = inside & ~covered[ys, xs]
        area, visible = shape.sum(), seen.sum() / shape.sum()
        if visible < 0.12:
            continue
        rows, columns = np.flatnonzero(seen.any(1)) + ys.start, np.flatnonzero(seen.any(0)) + xs.start
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        if _is_difficult(box, visible) != difficult or (difficult and not hidden and visible < 0.7):
            continue
        covered[ys, xs] |= inside
        truncated, occluded = inside.sum() < 0.98 * area, seen.sum() < 0.95 * inside.sum()
        x, y = left + width / 2, top + height / 2
        flags = (difficult, bool(truncated), bool(occluded))
        return EmojiObject(name, key, x, y, side, angle, mirrored, colour, box, float(visible), *flags)
    return None


def _shape(key: str, side: float, angle: float, mirrored: bool) -> np.ndarray:
    """Which cells a drawing covers at least half: bool (height, width), its centre in the middle.

    Four points of each cell are looked up in the drawing, in NumPy, so that no other library's rounding enters.
    """
    solid = drawing(key)[1]
    scale = side / max(solid.shape)
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    h, w = (length * scale for length in solid.shape)
    height, width = math.ceil(w * abs(sine) + h * cosine), math.ceil(w * cosine + h * abs(sine))
    dy = ((np.arange(2 * height) + 0.5) / 2 - height / 2)[:, None]
    dx = ((np.arange(2 * width) + 0.5) / 2 - width / 2)[None]
    row = np.floor((sine * dx + cosine * dy) / scale + solid.shape[0] / 2).astype(int)
    column = np.floor((cosine * dx - sine * dy) / scale + solid.shape[1] / 2).astype(int)
    column = solid.shape[1] - 1 - column if mirrored else column
    inside = (row >= 0) & (row < solid.shape[0]) & (column >= 0) & (column < solid.shape[1])
    points = inside & solid[row.clip(0, solid.shape[0] - 1), column.clip(0, solid.shape[1] - 1)]
    return points.reshape(height, 2, width, 2).sum((1, 3)) >= 2  # (height, 2, width, 2) -> (height, width)


def _rendered(item: EmojiObject, scale: float) -> Image.Image:
    """The object's drawing recoloured, resized to `scale` pixels a cell and turned: RGBA, its centre in the middle."""
    art = drawing(item.drawing)[0]
    alpha, rgb = art.getchannel("A"), art.convert("RGB")
    turn, brightness, saturation, contrast = item.colour
    if turn:
        hue, *others = rgb.convert("HSV").split()
        hue = hue.point([(v + int(turn * 256)) % 256 for v in range(256)])
        rgb = Image.merge("HSV", (hue, *others)).convert("RGB")
    rgb = ImageEnhance.Brightness(rgb).enhance(brightness)
    rgb = ImageEnhance.Color(rgb).enhance(saturation)
    rgb = ImageEnhance.Contrast(rgb).enhance(contrast)
    rgb.putalpha(alpha)
    if item.mirrored:
        rgb = rgb.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    factor = item.side * scale / max(art.size)
    width, height = (max(2, round(length * factor)) for length in art.size)
    # Premultiplied, so that the colour of transparent pixels stays out; padded, so that turned edges stay smooth.
    small = rgb.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).crop((-2, -2, width + 2, height + 2))
    return small.rotate(item.angle, Image.Resampling.BICUBIC, expand=True).convert("RGBA")


def _build(folder: Path, *, image_size: int, counts: tuple[int, ...], progress: bool, workers: int | None) -> None:
    devkit = folder / "VOC2007"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (devkit / part).mkdir(parents=True)
    shutil.copy(asset("sprites/NOTICE.md"), folder)
    shutil.copytree(asset("sprites/licenses"), folder / "licenses")
    images = [(split, index) for split, count in zip(SPLITS, counts, strict=True) for index in range(count)]
    work = partial(_write_image, devkit, image_size, images)
    rows = list(in_parallel(work, len(images), label="EmojiVOC", workers=workers, progress=progress))
    _write_lists(devkit / "ImageSets" / "Main", images, rows)


def _write_image(devkit: Path, image_size: int, images: list[tuple[str, int]], number: int) -> tuple[int, ...]:
    """Draw one image, write its JPEG and XML, and return its labels (C,)."""
    split, index = images[number]
    image_id = _image_id(number)
    objects = scene(split, index)
    picture(split, index, image_size).save(devkit / "JPEGImages" / f"{image_id}.jpg", quality=90)
    (devkit / "Annotations" / f"{image_id}.xml").write_text(
        _annotation(image_id, image_size, objects), encoding="ascii"
    )
    return labels_of(objects)


def _image_id(number: int) -> str:
    return f"{number + 1:06d}"


def _annotation(image_id: str, image_size: int, objects: tuple[EmojiObject, ...]) -> str:
    """VOC's XML. Boxes are 1-based and inclusive, in whole pixels; `image` names the drawings."""
    scale = image_size / GRID
    lines = [
        f"<annotation>\n\t<folder>VOC2007</folder>\n\t<filename>{image_id}.jpg</filename>\n\t<source>",
        f"\t\t<database>EmojiVOC {VERSION}</database>\n\t\t<annotation>drawn</annotation>",
        f"\t\t<image>{' '.join(o.drawing for o in objects)}</image>\n\t</source>",
        f"\t<size><width>{image_size}</width><height>{image_size}</height><depth>3</depth></size>",
        "\t<segmented>0</segmented>",
    ]
    for o in objects:
        low = [math.floor(v * scale) + 1 for v in o.box[:2]]
        high = [math.ceil(v * scale) for v in o.box[2:]]
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (*low, *high), strict=True)
        flags = {"truncated": o.truncated, "occluded": o.occluded, "difficult": o.difficult}
        lines += [
            f"\t<object>\n\t\t<name>{o.name}</name>\n\t\t<pose>Unspecified</pose>",
            *(f"\t\t<{key}>{int(value)}</{key}>" for key, value in flags.items()),
            f"\t\t<bndbox>{''.join(f'<{key}>{value}</{key}>' for key, value in corners)}</bndbox>\n\t</object>",
        ]
    return "\n".join([*lines, "</annotation>\n"])


def _write_lists(main: Path, images: list[tuple[str, int]], rows: list[tuple[int, ...]]) -> None:
    """ImageSets/Main: the ids of each split, and the labels of each class. train and val are halves of trainval."""
    members = {split: [n for n, (s, _) in enumerate(images) if s == split] for split in SPLITS}
    half = len(members["trainval"]) // 2
    members |= {"train": members["trainval"][:half], "val": members["trainval"][half:]}
    for split, numbers in members.items():
        (main / f"{split}.txt").write_text("".join(f"{_image_id(n)}\n" for n in numbers), encoding="ascii")
        for column, name in enumerate(VOC_CLASSES):
            lines = (f"{_image_id(n)} {rows[n][column]:2d}\n" for n in numbers)
            (main / f"{name}_{split}.txt").write_text("".join(lines), encoding="ascii")
