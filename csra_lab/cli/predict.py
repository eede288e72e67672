"""`csra-lab predict`: what is in a photograph, and where the classifier saw it."""

import itertools
import re
import sys
from pathlib import Path
from typing import Annotated

import tyro

from csra_lab._io.atomic_write import atomic_write
from csra_lab.cli.models import MODELS, best_device, is_model, load_model
from csra_lab.cli.output import as_json
from csra_lab.datasets import open_image
from csra_lab.errors import CsraError
from csra_lab.training.evaluation import find_images, predict_image


def predict_command(
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional],
    threshold: float = 0.5,
    attention: Path | None = None,
    json: bool = False,
) -> None:
    """Name what is in photographs.

    Args:
        paths: A run, a saved model or one that comes with the lab (photographs, paperdoll), then photographs or
            folders of them. Without a model, the photographs model.
        threshold: Probability from which a label is named.
        attention: Write one picture for each label found into this folder: where the classifier looked.
        json: Print one JSON array, with the probabilities of all classes.
    """
    run, images = (paths[0], paths[1:]) if paths and is_model(paths[0]) else (MODELS / "photographs", paths)
    if not images:
        raise CsraError("name one or more photographs or folders.")
    if not 0 <= threshold <= 1:
        raise CsraError(f"--threshold is a probability from 0 to 1, not {threshold}.")
    find_images(images)  # a wrong path is said before a model is loaded
    model = load_model(run).to(best_device())
    results, stems, failed = [], set(), False
    for path in find_images(images):
        try:
            picture = open_image(path)
        except CsraError as error:  # the rest of the folder is still worth reading
            print(f"csra-lab: {error}", file=sys.stderr)
            failed = True
            continue
        probabilities, maps = predict_image(model, picture)
        found = [int(i) for i in probabilities.argsort()[::-1] if probabilities[i] >= threshold]
        labels = [{"class": model.classes[i], "probability": round(float(probabilities[i]), 4)} for i in found]
        if json:
            everything = {c: round(float(p), 6) for c, p in zip(model.classes, probabilities, strict=True)}
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
