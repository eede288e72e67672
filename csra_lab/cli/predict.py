"""`csra-lab predict`: what is in photographs, and where the classifier saw it."""

import csv as csv_format
import itertools
import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from csra_lab._io import strict_json
from csra_lab._io.atomic_write import atomic_write, check_folder
from csra_lab._io.progress import progress_bar
from csra_lab._io.validation import printable
from csra_lab.classifier import MultiLabelClassifier
from csra_lab.cli.html import Page, thumbnail
from csra_lab.cli.models import DEFAULT_MODEL, MODELS, found_folder, is_model
from csra_lab.cli.output import check_output
from csra_lab.datasets import open_image
from csra_lab.device import best_device
from csra_lab.errors import ConfigError, CsraError
from csra_lab.prediction import Prediction, predict_each
from csra_lab.thresholds import read_thresholds
from csra_lab.training.evaluation import find_images


@dataclass(frozen=True)
class Found:
    """One image and what is said of it. `labels`: columns of the classes that are named, the surest first."""

    path: Path
    prediction: Prediction
    labels: tuple[int, ...]


def predict_command(
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional],
    model: Path | None = None,
    threshold: float | None = None,
    attention: Path | None = None,
    report: Path | None = None,
    csv: Path | None = None,
    json: bool = False,
    batch_size: int = 32,
    workers: int | None = None,
) -> None:
    """Name what is in photographs.

    Args:
        paths: A run, a saved model or one that comes with the lab (coco, photographs, paperdoll), then images or
            folders of them. Without a model, coco: 80 classes of everyday photographs.
        model: The model, instead of naming it first.
        threshold: Probability from which a label is named; the model's own for each class, or 0.5 where it has none.
        attention: Write one image for each label found into this folder: where the classifier looked.
        report: Write one HTML page with all images and their labels, which needs no other file.
        csv: Write a table with the probability of every class for every image.
        json: Print one JSON array, an object an image as it is done, with the probabilities of all classes.
        batch_size: Images at a time.
        workers: Threads that read images; as many as suit the machine if left out.
    """
    run, images = (model, paths) if model is not None else _split(paths)
    if not images:
        raise ConfigError("name one or more photographs or folders.")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"--threshold is a probability from 0 to 1, not {threshold}.")
    for option, path, example in (("--csv", csv, "table.csv"), ("--report", report, "page.html")):
        if path is not None:
            check_output(path, option, example)
    if csv is not None and report is not None and csv.resolve() == report.resolve():
        raise ConfigError(f"--csv and --report are both {csv}; name two files.")
    if attention is not None:
        check_folder(attention, "--attention")
    files = find_images(images)  # a wrong path is said before a model is loaded
    if attention is not None and any(attention.resolve() == file.parent.resolve() for file in files):
        raise ConfigError(f"{attention} holds the images themselves; name another folder with --attention.")
    folder = found_folder(run)
    classifier = MultiLabelClassifier.from_pretrained(folder).to(best_device())
    thresholds = _thresholds(folder, classifier, threshold)
    if MODELS in folder.parents:  # of a run of their own, readers know what it knows
        print(_who_speaks(run, classifier, thresholds), file=sys.stderr)
    failed: list[Path] = []

    def unreadable(path: Path, error: CsraError) -> None:
        print(f"csra-lab: {printable(str(error))}", file=sys.stderr)  # the rest of the folder is still worth reading
        failed.append(path)

    pairs = predict_each(
        classifier,
        files,
        batch_size=batch_size,
        workers=workers,
        attention=attention is not None,
        unreadable=unreadable,
    )
    with ExitStack() as stack:
        outputs: list[_Output] = [_Json(classifier) if json else _Text(classifier)]
        if csv is not None:
            outputs.append(_Csv(classifier, stack.enter_context(atomic_write(csv))))
        if report is not None:
            outputs.append(_Report(classifier, stack.enter_context(atomic_write(report)), run, len(files)))
        if attention is not None:
            outputs.append(_Overlays(classifier, attention))
        for output in outputs:
            stack.enter_context(output)
        with progress_bar(len(files), desc="predicting", shown=not sys.stdout.isatty()) as bar:
            for path, prediction in pairs:
                found = Found(path, prediction, _named(prediction.probabilities, thresholds))
                for output in outputs:
                    output.add(found)
                bar.update(1)
    if failed:
        sys.exit(2)


class _Output:
    """Where predictions go, one after the other."""

    def __init__(self, model: MultiLabelClassifier):
        self.classes = model.classes

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        return None

    def add(self, found: Found) -> None:
        raise NotImplementedError

    def words(self, found: Found) -> str:
        named = (f"{self.classes[i]} {found.prediction.probabilities[i]:.2f}" for i in found.labels)
        return ", ".join(named) or "nothing found"


class _Text(_Output):
    def add(self, found: Found) -> None:
        print(printable(f"{found.path}: {self.words(found)}"), flush=True)


class _Json(_Output):
    """One JSON array, of which each element is written as soon as it is known."""

    def __init__(self, model: MultiLabelClassifier):
        super().__init__(model)
        self.before = "["

    def add(self, found: Found) -> None:
        values = found.prediction.probabilities
        labels = [{"class": self.classes[i], "probability": round(float(values[i]), 4)} for i in found.labels]
        everything = {c: float(p) for c, p in zip(self.classes, values, strict=True)}
        element = {"path": str(found.path), "labels": labels, "probabilities": everything}
        print(f"{self.before}\n{strict_json.dumps(element, indent=2)}", end="", flush=True)
        self.before = ","

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            print("[]" if self.before == "[" else "\n]", flush=True)


class _Csv(_Output):
    """A line an image: its path, then the probability of every class, with all its digits: near 1 fewer would tie."""

    def __init__(self, model: MultiLabelClassifier, path: Path):
        super().__init__(model)
        self.path = path

    def __enter__(self):
        self.file = open(self.path, "w", newline="", encoding="utf-8", errors="surrogateescape")
        self.table = csv_format.writer(self.file)
        self.table.writerow(["image", *self.classes])
        return self

    def add(self, found: Found) -> None:
        self.table.writerow([found.path, *map(repr, found.prediction.probabilities.tolist())])

    def __exit__(self, *_) -> None:
        self.file.close()


class _Report(_Output):
    """A contact sheet: every image small, with the labels that are named."""

    def __init__(self, model: MultiLabelClassifier, path: Path, run: Path, count: int):
        super().__init__(model)
        self.page = Page(path, f"{count:,} images by {run.name}")

    def __enter__(self):
        self.page.open()
        self.page.write('<div class="sheet">')
        return self

    def add(self, found: Found) -> None:
        labels = {self.classes[i]: found.prediction.probabilities[i] for i in found.labels}
        self.page.figure(thumbnail(found.path), str(found.path), labels)

    def __exit__(self, *_) -> None:
        self.page.write("</div>")
        self.page.close()


class _Overlays(_Output):
    """An image for each label that is named: where the classifier looked."""

    def __init__(self, model: MultiLabelClassifier, folder: Path):
        super().__init__(model)
        self.folder = folder
        self.stems: set[str] = set()
        self.names: set[str] = set()
        taken: set[str] = set()
        self.safe = [_free_name(name, taken) for name in self.classes]  # the same for a class in every image
        self.room = 195 - max(len(name.encode()) for name in self.safe)  # for an image's name

    def add(self, found: Found) -> None:
        if not found.labels:
            return
        attention = found.prediction.attention
        assert attention is not None  # it was asked for
        picture, stem = open_image(found.path), _free_name(found.path.stem, self.stems, self.room)
        for i in found.labels:
            title = f"{self.classes[i]} {found.prediction.probabilities[i]:.2f}"
            name = _free_name(f"{stem}_{self.safe[i]}", self.names, longest=200)
            _write_overlay(self.folder / f"{name}.png", picture, attention[i], title)


def _named(probabilities: np.ndarray, thresholds: np.ndarray) -> tuple[int, ...]:
    """Columns of the classes at or above their threshold, the surest first."""
    return tuple(int(i) for i in np.argsort(-probabilities, kind="stable") if probabilities[i] >= thresholds[i])


def _split(paths: tuple[Path, ...]) -> tuple[Path, tuple[Path, ...]]:
    """The model and the images, where the model may be named first."""
    return (paths[0], paths[1:]) if paths and is_model(paths[0]) else (MODELS / DEFAULT_MODEL, paths)


def _thresholds(folder: Path, classifier: MultiLabelClassifier, threshold: float | None) -> np.ndarray:
    """(C,) probabilities from which a class is named: as asked, the model's own, or 0.5."""
    own = read_thresholds(folder, classifier.classes) if threshold is None else None
    return np.full(len(classifier.classes), 0.5 if threshold is None else threshold) if own is None else own


def _who_speaks(run: Path, classifier: MultiLabelClassifier, thresholds: np.ndarray) -> str:
    """Which model names what it knows, from which probability."""
    known = ", ".join(classifier.classes[:3])
    low, high = thresholds.min(), thresholds.max()
    above = f"from {low:.2f}" if low == high else f"from its own threshold a class ({low:.2f} to {high:.2f})"
    return f"model {run.name}: knows {len(classifier.classes)} classes ({known} ...) and nothing else; named {above}"


def _free_name(name: str, taken: set[str], longest: int = 90) -> str:
    """A name of some `longest` bytes that every disk takes and no other file has, whatever the case of its letters."""
    safe = re.sub(r"[^\w.-]+", "_", name)  # class names may hold spaces or slashes
    safe = safe.encode()[:longest].decode(errors="ignore")
    names = (safe if n == 1 else f"{safe}-{n}" for n in itertools.count(1))
    free = next(name for name in names if name.casefold() not in taken)
    taken.add(free.casefold())
    return free


def _write_overlay(path: Path, picture, heat, title: str) -> None:
    from csra_lab.viz.figures import overlay  # matplotlib is slow to import

    with atomic_write(path) as fresh:
        overlay(picture, heat, title=title).save(fresh)
