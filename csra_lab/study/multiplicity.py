"""Several small objects of one class: does attention gain there? (Section 3.3 of the paper, on scenes drawn for it.)

Every scene shows one class `count` times with a longer side of `side` cells, and two other classes once. The scenes
of all cells of the table share their classes, image by image, and nothing but count and size of the first class
differs; so gains of two cells are compared on the same targets. Heads are trained on EmojiVOC, each at its own best
rate. The record:

run.json      question, cells, rates, versions
results.csv   count, side, method, seed, mAP (fractions)
claims.csv    every claim with its interval; all hold together
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from csra_lab._io import strict_json
from csra_lab._io.atomic_write import atomic_write
from csra_lab.backbones import Backbone
from csra_lab.claims import Claim, measure_claims
from csra_lab.datasets.transforms import eval_transform
from csra_lab.datasets.voc import VOC_CLASSES
from csra_lab.device import for_inference, to_device
from csra_lab.metrics import average_precision
from csra_lab.modes import evaluating
from csra_lab.study.experiments import source_backbone, source_features
from csra_lab.study.head_stack import learnt, score_heads, train_heads
from csra_lab.study.own_best import AVERAGE, CSRA, METHODS
from csra_lab.study.plans import SOURCES
from csra_lab.synthetic.emoji_voc import VENDORS, EmojiObject, arrange, draw
from csra_lab.training.feature_cache import FeatureMaps
from csra_lab.training.run_folder import environment, from_logits, to_logits

COUNTS, SIDES = (1, 2, 4), (28, 56)
OTHER_SIDE = 48  # cells of the two objects of other classes
SCENES = 400
HEADS = (AVERAGE, CSRA, "max", "spatial only")


def scene_classes(index: int) -> tuple[str, str, str]:
    """The class that is repeated in scene `index`, and two others."""
    rng = np.random.default_rng([33, index])
    first = index % len(VOC_CLASSES)  # every class equally often
    others = rng.choice(np.delete(np.arange(len(VOC_CLASSES)), first), size=2, replace=False)
    return VOC_CLASSES[first], VOC_CLASSES[others[0]], VOC_CLASSES[others[1]]


def scene_objects(index: int, count: int, side: int) -> tuple[EmojiObject, ...]:
    """The objects of scene `index`: `count` of the repeated class, of `side` cells, and two others."""
    first, *others = scene_classes(index)
    wishes = [(first, False, float(side))] * count + [(name, False, float(OTHER_SIDE)) for name in others]
    for attempt in itertools.count():
        rng = np.random.default_rng([34, index, count, side, attempt])
        objects = arrange(rng, wishes, VENDORS["test"])
        if len(objects) == len(wishes) and all(o.side == wish[2] for o, wish in zip(objects, wishes, strict=True)):
            return objects
    raise AssertionError("unreachable")


def scene_image(index: int, count: int, side: int) -> Image.Image:
    """Scene `index` of a cell, 224 x 224 RGB."""
    return draw(np.random.default_rng([35, index]), scene_objects(index, count, side))


def scene_targets(scenes: int) -> NDArray[np.int8]:
    """(N, C) of 1 and 0, the same for every cell."""
    return np.array([[name in scene_classes(i) for name in VOC_CLASSES] for i in range(scenes)], dtype=np.int8)


def record_multiplicity(
    out: Path,
    rates: Mapping[str, float],
    *,
    scenes: int = SCENES,
    seeds: int = 5,
    resamples: int = 1000,
    log: Callable[[str], None] = print,
) -> None:
    """Train, draw, measure, and write the record `out`.

    Args:
        rates: learning rate of every head of `HEADS`.
        scenes: of each cell. resamples: draws of the bootstrap. log: called with a line for every step.
    """
    source = SOURCES["emoji"]
    _, maps = source_features(source, None)
    recipes = [
        source.recipe(name, **METHODS[name].changes, head_lr=rates[name], seed=seed)
        for name in HEADS
        for seed in range(seeds)
    ]
    heads = [t.head for t in learnt(train_heads(recipes, maps["trainval"]))]
    log("heads are trained")
    backbone = source_backbone(source)
    targets = scene_targets(scenes)
    scores: dict[str, NDArray] = {}
    for count, side in itertools.product(COUNTS, SIDES):
        images = (scene_image(i, count, side) for i in range(scenes))
        of_heads = score_heads(heads, image_features(backbone, images, targets)).reshape(len(HEADS), seeds, scenes, -1)
        scores |= {cell(count, side, h): from_logits(to_logits(s)) for h, s in zip(HEADS, of_heads, strict=True)}
        log(f"{count} of {side} cells: scored")
    claims = measure_claims(claims_of(), scores, targets, resamples=resamples)
    run = {
        "question": "Is CSRA's gain larger where a class has several small objects?",
        "counts": COUNTS,
        "sides": SIDES,
        "scenes": scenes,
        "seeds": seeds,
        "recipes": {recipe.name: recipe.to_json() for recipe in recipes if recipe.run.seed == 0},
        "environment": environment(torch.device("cpu")),
    }
    with atomic_write(out) as path:
        path.mkdir(parents=True)
        strict_json.write(path / "run.json", run, indent=1)
        pd.DataFrame(_lines(scores, targets)).to_csv(path / "results.csv", index=False)
        table = pd.DataFrame([claim.to_dict() for claim in claims])
        table.to_csv(path / "claims.csv", index=False, float_format="%.6f")


@torch.inference_mode()
def image_features(
    backbone: Backbone, images: Iterable[Image.Image], targets: NDArray, *, batch_size: int = 32
) -> FeatureMaps:
    """Feature maps of N images, as in testing: (N, 1, d, h, w) float16.

    Args:
        images: N of them, RGB. targets: (N, C), passed on.
    """
    transform = eval_transform(backbone.image_size, mean=backbone.mean, std=backbone.std)
    parts = []
    with evaluating(backbone):
        for_inference(backbone)
        for batch in _batches(images, batch_size):
            inputs = torch.stack([transform(image) for image in batch])
            parts.append(backbone(to_device(inputs, "cpu")).half()[:, None])  # (B, 1, d, h, w)
    return FeatureMaps(torch.cat(parts), targets)


def cell(count: int, side: int, method: str) -> str:
    """Name of a method's scores in a cell of the table."""
    return f"{count} of {side} cells: {method}"


def claims_of() -> list[Claim]:
    """CSRA against average and against the maximum in every cell, and whether several small objects gain more."""
    cells = list(itertools.product(COUNTS, SIDES))
    within = [Claim.difference(cell(*c, CSRA), cell(*c, other)) for c in cells for other in (AVERAGE, "max")]
    few, many = min(COUNTS), max(COUNTS)
    small, large = min(SIDES), max(SIDES)
    wanted = {
        f"gain of {many} small - gain of {few} small": ((many, small), (few, small)),
        f"gain of {many} large - gain of {few} large": ((many, large), (few, large)),
        f"gain of {few} small - gain of {few} large": ((few, small), (few, large)),
        f"gain of {many} small - gain of {few} large": ((many, small), (few, large)),
    }
    between = [
        Claim.interaction(name, cell(*b, CSRA), cell(*b, AVERAGE), cell(*a, CSRA), cell(*a, AVERAGE))
        for name, (b, a) in wanted.items()
    ]
    return within + between


def _lines(scores: Mapping[str, NDArray], targets: NDArray) -> Sequence[dict]:
    return [
        {"count": count, "side": side, "method": method, "seed": seed,
         "mAP": round(float(np.nanmean(average_precision(of_seed, targets))), 6)}
        for count, side in itertools.product(COUNTS, SIDES)
        for method in HEADS
        for seed, of_seed in enumerate(scores[cell(count, side, method)])
    ]  # fmt: skip


def _batches(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch
