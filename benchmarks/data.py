"""How fast are labels, boxes, photographs and crops read? Against torchvision's VOCDetection and Pillow.

The devkit is made here: VOC2007's 9,963 images in the devkit's layout, with lists and XML files of random objects, and
photographs of noise over a gradient, which JPEG compresses about as far as real ones.

Predictions.
    labels      VOCDetection has no labels: they come out of the 9,963 XML files, at about 100 us each for opening,
                parsing and building dictionaries, so 1 s. The 40 lists hold 200,000 short lines, split and compared at
                0.1 us a line, so 20 ms: 50 times.
    boxes       first 1: the same parser, less a dictionary. That was wrong: any file may come, so defusedxml parses it,
                whose parser is Python's own with a handler in Python for each start of an element, about three times as
                slow as the C parser alone, which saves a process from a file that unpacks to gigabytes: 0.4.
    decode      ours is Pillow and checks: 1. Decoded at 1/4, as training at 224 pixels does with so large a one, a JPEG
                still has its bits read, about half of the work, and the transform and the colours of 1 pixel in 16: 2.
    crops       WIDER has 57,524 people in 13,789 photographs, 4.2 in each, and a photograph is read once for all
                of them: 4 with 4 in each. In random order nothing can be shared: 1.
"""

import json
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from machine import frugal, options, peak_memory, report, take_turns
from PIL import Image
from torchvision.datasets import VOCDetection

from csra_lab.catalog import load_dataset
from csra_lab.datasets import VOC_CLASSES, Box, MultiLabelDataset, open_image

SPLITS = {"trainval": 5011, "test": 4952}
PEOPLE = 4


def photograph(side: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """(width, height) of a gradient with coarse and fine noise."""
    width, height = side
    coarse = rng.integers(0, 160, size=(max(1, height // 24), max(1, width // 24), 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(side, Image.Resampling.BICUBIC)).astype(np.int16)
    return Image.fromarray((smooth + rng.integers(0, 24, size=(height, width, 1))).clip(0, 255).astype(np.uint8))


def write_devkit(
    root: Path, counts: dict[str, int], *, photographs: tuple[int, int] | None = None, boxes: bool = True
) -> Path:
    """VOCdevkit/VOC2007 below `root`, and its folder: lists, XML files, and photographs where a size is given."""
    rng = np.random.default_rng(0)
    base = root / "VOCdevkit" / "VOC2007"
    lists = base / "ImageSets" / "Main"
    for folder in (lists, base / "Annotations", base / "JPEGImages"):
        folder.mkdir(parents=True)
    first = 1
    for split, count in counts.items():
        ids = [f"{first + i:06d}" for i in range(count)]
        first += count
        present = np.full((count, len(VOC_CLASSES)), -1)
        for i, image_id in enumerate(ids):
            objects = [(int(c), bool(rng.random() < 0.1)) for c in rng.integers(0, 20, size=rng.integers(1, 6))]
            for c, difficult in objects:
                present[i, c] = max(present[i, c], 0 if difficult else 1)
            if boxes:
                (base / "Annotations" / f"{image_id}.xml").write_text(_xml(image_id, objects, rng))
            if photographs:
                photograph(photographs, rng).save(base / "JPEGImages" / f"{image_id}.jpg", quality=90)
        (lists / f"{split}.txt").write_text("".join(f"{i}\n" for i in ids))
        for c, name in enumerate(VOC_CLASSES):
            lines = (f"{i} {label:2d}\n" for i, label in zip(ids, present[:, c], strict=True))
            (lists / f"{name}_{split}.txt").write_text("".join(lines))
    return root / "VOCdevkit"


def _xml(image_id: str, objects: Sequence[tuple[int, bool]], rng: np.random.Generator) -> str:
    parts = [f"<annotation><folder>VOC2007</folder><filename>{image_id}.jpg</filename>"]
    parts.append("<size><width>500</width><height>375</height><depth>3</depth></size><segmented>0</segmented>")
    for c, difficult in objects:
        x, y, w, h = (int(v) for v in rng.integers(1, 180, size=4))
        parts.append(
            f"<object><name>{VOC_CLASSES[c]}</name><pose>Left</pose><truncated>0</truncated>"
            f"<difficult>{int(difficult)}</difficult><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        )
    return "\n".join([*parts, "</annotation>"])


def our_targets(devkit: Path) -> np.ndarray:
    """(N, 20) in {1, 0, -1} of both splits."""
    return np.concatenate([load_dataset("voc2007", devkit, split).targets for split in SPLITS])


def their_annotations(devkit: Path) -> list[dict]:
    """What VOCDetection gives for every image of both splits, less the photograph."""
    found = []
    for split in SPLITS:
        dataset = VOCDetection(devkit.parent, year="2007", image_set=split)
        found += [dataset.parse_voc_xml(ElementTree.parse(path).getroot()) for path in dataset.annotations]
    return found


def their_targets(devkit: Path) -> np.ndarray:
    """The same targets, from the objects in those annotations."""
    annotations = their_annotations(devkit)
    targets = np.zeros((len(annotations), len(VOC_CLASSES)), dtype=np.int8)
    for row, annotation in zip(targets, annotations, strict=True):
        for thing in annotation["annotation"]["object"]:
            c = VOC_CLASSES.index(thing["name"])
            row[c] = 1 if thing["difficult"] == "0" or row[c] == 1 else -1
    return targets


def our_boxes(devkit: Path) -> list[list[Box]]:
    sets = [load_dataset("voc2007", devkit, split) for split in SPLITS]
    return [dataset.boxes(i) for dataset in sets for i in range(len(dataset))]


def their_boxes(devkit: Path) -> list[list[Box]]:
    """Their annotations as our boxes."""
    return [
        [
            Box(
                thing["name"],
                float(thing["bndbox"]["xmin"]) - 1,
                float(thing["bndbox"]["ymin"]) - 1,
                float(thing["bndbox"]["xmax"]),
                float(thing["bndbox"]["ymax"]),
                difficult=thing["difficult"] == "1",
            )
            for thing in annotation["annotation"]["object"]
        ]
        for annotation in their_annotations(devkit)
    ]


def people(folder: Path, photographs: int, size: tuple[int, int]) -> MultiLabelDataset:
    """PEOPLE crops in each of some photographs, one after the other, as WIDER lists them."""
    rng = np.random.default_rng(0)
    paths, crops = [], []
    for i in range(photographs):
        path = folder / f"{i}.jpg"
        photograph(size, rng).save(path, quality=90)
        for _ in range(PEOPLE):
            paths.append(path)
            crops.append([*rng.uniform(0, min(size) / 2, size=2), min(size) / 6, min(size) / 3])
    return MultiLabelDataset(
        name="people", split="test", classes=["person"], ids=[str(i) for i in range(len(paths))], paths=paths,
        targets=np.ones((len(paths), 1)), crops=np.array(crops),
    )  # fmt: skip


def read_items(dataset: MultiLabelDataset, order: Sequence[int]) -> list[Image.Image]:
    return [dataset.image(i) for i in order]


def open_for_each(dataset: MultiLabelDataset, order: Sequence[int]) -> list[Image.Image]:
    """Every person's photograph opened for that person."""
    crops = []
    for i in order:
        x, y, w, h = dataset.crops[i]
        box = (int(x), int(y), int(np.ceil(x + w)), int(np.ceil(y + h)))
        crops.append(pillow(dataset.paths[i]).crop(box))
    return crops


def pillow(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def memory(tiny: bool) -> dict[str, list[int | None]]:
    """Peak bytes of the two pairs that index a devkit."""
    with tempfile.TemporaryDirectory() as folder:
        devkit = write_devkit(Path(folder), _counts(tiny))
        pairs = {"labels": (our_targets, their_targets), "boxes": (our_boxes, their_boxes)}
        return {name: [peak_memory(partial(f, devkit)) for f in pair] for name, pair in pairs.items()}


def _counts(tiny: bool) -> dict[str, int]:
    return dict.fromkeys(SPLITS, 20) if tiny else SPLITS


def main(argv: Sequence[str] | None = None) -> list[dict]:
    chosen = options(argv, __doc__)
    if chosen.part == "memory":
        print(json.dumps(memory(chosen.tiny)))
        return []
    held = frugal([__file__, "--part", "memory", *["--tiny"] * chosen.tiny])
    repeats, rows = 1 if chosen.tiny else 5, []

    def add(what: str, against: str, items: int, ours, theirs, predicted: float) -> None:
        best = take_turns({"ours": ours, "theirs": theirs}, repeats=repeats)
        ratio = best["theirs"] / best["ours"]
        mine, other = held.get(what, (None, None))
        rows.append(
            {
                "what": what,
                "against": against,
                "items": items,
                "ms_an_item": 1e3 * best["ours"] / items,
                "ratio": ratio,
                "predicted": predicted,
                "memory_mb": mine and mine / 1e6,
                "their_memory_mb": other and other / 1e6,
            }
        )

    with tempfile.TemporaryDirectory() as folder:
        counts = _counts(chosen.tiny)
        devkit = write_devkit(Path(folder), counts)
        total = sum(counts.values())
        torchvisions = "torchvision VOCDetection"
        add("labels", torchvisions, total, partial(our_targets, devkit), partial(their_targets, devkit), 50.0)
        add("boxes", torchvisions, total, partial(our_boxes, devkit), partial(their_boxes, devkit), 0.4)

        rng = np.random.default_rng(0)
        small, large = [((60, 40), (300, 200)), ((500, 375), (3000, 2000))][not chosen.tiny]
        number = 2 if chosen.tiny else 100
        for name, size in (("small", small), ("large", large)):
            for i in range(number if name == "small" else max(1, number // 10)):
                photograph(size, rng).save(Path(folder) / f"{name}-{i}.jpg", quality=90)
        photographs = {name: sorted(Path(folder).glob(f"{name}-*.jpg")) for name in ("small", "large")}
        for name, min_side, predicted in (("small", None, 1.0), ("large", small[1], 2.0)):
            paths = photographs[name]
            add(
                f"decode {'x'.join(map(str, small if name == 'small' else large))}",
                "Pillow, in full",
                len(paths),
                lambda paths=paths, side=min_side: [open_image(p, min_side=side) for p in paths],
                lambda paths=paths: [pillow(p) for p in paths],
                predicted,
            )

        dataset = people(Path(folder), 2 if chosen.tiny else 25, small if chosen.tiny else (1024, 768))
        in_order = list(range(len(dataset)))
        shuffled = rng.permutation(len(dataset)).tolist()
        for what, order, predicted in (("crops in order", in_order, float(PEOPLE)), ("crops shuffled", shuffled, 1.0)):
            add(
                what,
                "a photograph opened for each",
                len(order),
                partial(read_items, dataset, order),
                partial(open_for_each, dataset, order),
                predicted,
            )
    return report("data", rows, chosen)


if __name__ == "__main__":
    main(sys.argv[1:])
