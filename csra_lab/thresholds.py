"""From which probability a class is named: one threshold a class, chosen on images that were held out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from csra_lab._io import strict_json
from csra_lab.errors import ConfigError, DataError, MissingFile
from csra_lab.metrics.functions import check_absent_of, check_probabilities, checked

THRESHOLDS_FILE = "thresholds.json"
MIN_POSITIVES = 10
"""A class with fewer positives takes the threshold of all classes together."""


def choose_thresholds(
    scores: ArrayLike, targets: ArrayLike, *, min_positives: int = MIN_POSITIVES
) -> NDArray[np.float64]:
    """The threshold of each class with the largest F1 on these images; they must not have trained the classifier.

    Args:
        scores: (N, C) probabilities.
        targets: (N, C) of 1, 0 and -1 (ignore).
        min_positives: classes with fewer take the threshold with the largest F1 over all classes' entries together.

    Returns:
        (C,) thresholds, each halfway between two scores that were seen, or between the lowest and 0; a label is named
        from it on (>=).

    Raises:
        CsraError: shapes that differ, scores that are no probabilities, no positive at all, or targets of which none is
            known to be absent.
    """
    scores, targets = checked(scores, targets)
    check_probabilities(scores, None)
    check_absent_of(targets)
    scores = scores.astype(np.float64)
    if not (targets == 1).any():
        raise ConfigError("no target is 1, so there is no F1 to choose thresholds by.")
    overall = _best_threshold(scores.ravel(), targets.ravel())
    enough = (targets == 1).sum(axis=0) >= max(min_positives, 1)
    return np.array([_best_threshold(scores[:, c], targets[:, c]) if ok else overall for c, ok in enumerate(enough)])


def _best_threshold(scores: NDArray, targets: NDArray) -> float:
    """(N,) and (N,) with a positive -> the threshold of the largest F1; of equal ones the highest."""
    known = targets != -1
    order = np.argsort(-scores[known], kind="stable")
    ranked, hits = scores[known][order], np.cumsum(targets[known][order] == 1)
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + hits[-1])  # naming the first 1, 2, ... entries
    ends = np.append(ranked[1:] != ranked[:-1], True)  # equal scores are named together or not at all
    i = int(np.argmax(np.where(ends, f1, -1.0)))
    below = ranked[i + 1] if i + 1 < len(ranked) else 0.0
    return float((ranked[i] + below) / 2)


def thresholds_by_class(thresholds: ArrayLike, classes: tuple[str, ...]) -> dict[str, float]:
    """(C,) thresholds as class -> threshold, for a file.

    Raises:
        CsraError: not one probability for each class.
    """
    values = np.asarray(thresholds, dtype=np.float64)  # (C,)
    if values.shape != (len(classes),) or not ((values >= 0) & (values <= 1)).all():
        raise ConfigError(f"thresholds must be one probability for each of {len(classes)} classes, not {values}.")
    return {name: float(value) for name, value in zip(classes, values, strict=True)}


def write_thresholds(folder: str | Path, thresholds: ArrayLike, classes: tuple[str, ...], *, about: str) -> None:
    """Write (C,) thresholds beside a saved model; `about` says what they were chosen on.

    Raises:
        CsraError: not one probability for each class, or a folder without a saved model, where nobody would read them.
    """
    content = {"about": about, "thresholds": thresholds_by_class(thresholds, classes)}
    if not (Path(folder) / "config.json").exists():
        raise MissingFile(f"{folder} holds no saved model that these could belong to; of a run, name its model/.")
    strict_json.write(Path(folder) / THRESHOLDS_FILE, content, indent=1)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose names must differ: of two thresholds of one class neither is right."""
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is named twice")
    return dict(pairs)


def read_thresholds(folder: str | Path, classes: tuple[str, ...]) -> NDArray[np.float64] | None:
    """(C,) thresholds of a saved model in the order of its classes; None where it has none.

    Raises:
        CsraError: a file that is damaged, or made for other classes.
    """
    path = Path(folder) / THRESHOLDS_FILE
    try:
        by_class = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_each_once)["thresholds"]
        if set(by_class) != set(classes):
            raise DataError(f"{path} has thresholds for other classes than the model's; choose them again.")
        values = [by_class[name] for name in classes]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as thresholds ({error}); save the model again.") from error
    if not all(type(v) in (int, float) and 0 <= v <= 1 for v in values):
        raise DataError(f"{path} holds a threshold that is no probability from 0 to 1; save the model again.")
    return np.array(values, dtype=np.float64)
