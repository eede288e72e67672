"""`csra-lab predict`: what is in a photograph, and where the classifier saw it."""

import itertools
import re
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from csra_lab._io.atomic_write import atomic_write
from csra_lab.classifier import MultiLabelClassifier
from csra_lab.cli.models import DEFAULT_MODEL, MODELS, best_device, is_model, load_model, model_folder
from csra_lab.cli.output import as_json
from csra_lab.datasets import open_image
from csra_lab.errors import ConfigError, CsraError
from csra_lab.thresholds import read_thresholds
from csra_lab.training.evaluation import find_images, predict_image


def predict_command(
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional],
    model: Path | None = None,
    threshold: float | None = None,
    attention: Path | None = None,
    json: bool = False,
) -> None:
    """Name what is in photographs.

    Args:
        paths: A run, a saved model or one that comes with the lab (coco, photographs, paperdoll), then images or
            folders of them. Without a model, coco: 80 classes of everyday photographs.
        model: The model, instead of naming it first.
        threshold: Probability from which a label is named; the model's own for each class, or 0.5 where it has none.
        attention: Write one picture for each label found into this folder: where the classifier looked.
        json: Print one JSON array, with the probabilities of all classes.
    """
    run, images = (model, paths) if model is not None else _split(paths)
    if not images:
        raise ConfigError("name one or more photographs or folders.")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"--threshold is a probability from 0 to 1, not {threshold}.")
    find_images(images)  # a wrong path is said before a model is loaded
    classifier = load_model(run).to(best_device())
    thresholds = _thresholds(run, classifier, threshold)
    if MODELS in model_folder(run).parents:  # of a run of their own, readers know what it knows
        print(_who_speaks(run, classifier, thresholds), file=sys.stderr)
    results, stems, failed = [], set(), False
    for path in find_images(images):
        try:
            picture = open_image(path)
        except CsraError as error:  # the rest of the folder is still worth reading
            print(f"csra-lab: {error}", file=sys.stderr)
            failed = True
            continue
        probabilities, maps = predict_image(classifier, picture)
        found = [int(i) for i in probabilities.argsort()[::-1] if probabilities[i] >= thresholds[i]]
        labels = [{"class": classifier.classes[i], "probability": round(float(probabilities[i]), 4)} for i in found]
        if json:
            everything = {c: round(float(p), 6) for c, p in zip(classifier.classes, probabilities, strict=True)}
            results.append({"path": str(path), "labels": labels, "probabilities": everything})
        else:
            print(f"{path}: " + (", ".join(f"{x['class']} {x['probability']:.2f}" for x in labels) or "nothing found"))
        if attention is not None:
            stem = _free_stem(path.stem, stems)
            for i, label in zip(found, labels, strict=True):
                title = f"{label['class']} {label['probability']:.2f}"
                _write_overlay(attention, f"{stem}_{label['class']}", picture, maps[i], title)
    if json:
        print(as_json(results))
    if failed:
        sys.exit(2)


def _split(paths: tuple[Path, ...]) -> tuple[Path, tuple[Path, ...]]:
    """The model and the images, where the model may be named first."""
    return (paths[0], paths[1:]) if paths and is_model(paths[0]) else (MODELS / DEFAULT_MODEL, paths)


def _thresholds(run: Path, classifier: MultiLabelClassifier, threshold: float | None) -> np.ndarray:
    """(C,) probabilities from which a class is named: as asked, the model's own, or 0.5."""
    own = read_thresholds(model_folder(run), classifier.classes) if threshold is None else None
    return np.full(len(classifier.classes), 0.5 if threshold is None else threshold) if own is None else own


def _who_speaks(run: Path, classifier: MultiLabelClassifier, thresholds: np.ndarray) -> str:
    """Which model names what it knows, from which probability."""
    known = ", ".join(classifier.classes[:3])
    low, high = thresholds.min(), thresholds.max()
    above = f"from {low:.2f}" if low == high else f"from its own threshold a class ({low:.2f} to {high:.2f})"
    return f"model {run.name}: knows {len(classifier.classes)} classes ({known} ...) and nothing else; named {above}"


def _free_stem(stem: str, taken: set[str]) -> str:
    """Photographs of one name in two folders get overlays of two names."""
    free = next(name for n in itertools.count(1) if (name := stem if n == 1 else f"{stem}-{n}") not in taken)
    taken.add(free)
    return free


def _write_overlay(folder: Path, name: str, picture, heat, title: str) -> None:
    from csra_lab.viz.figures import overlay  # matplotlib is slow to import

    safe = re.sub(r"[^\w.-]+", "_", name)  # class names may hold spaces or slashes
    with atomic_write(folder / f"{safe}.png") as fresh:
        overlay(picture, heat, title=title).save(fresh)
