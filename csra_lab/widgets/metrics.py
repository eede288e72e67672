"""Explorer of metrics: what a threshold does to precision, recall and F1, and three areas that are all called AP."""

from collections.abc import Mapping, Sequence

import numpy as np
import traitlets
from numpy.typing import ArrayLike

from csra_lab.errors import ConfigError
from csra_lab.metrics import multilabel_metrics
from csra_lab.metrics.functions import as_numpy, checked
from csra_lab.widgets.base import Explorer, module, packed


class MetricsExplorer(Explorer):
    """Drag the threshold: precision, recall and F1 follow, beside the areas that three definitions call AP.

    Attributes:
        data: see `score_set`. scores: which of the methods of all sets, counted through. label: which of its labels.
        ap: "average", "voc11" or "envelope", as in `csra_lab.metrics`. threshold: probability from which it is named.
    """

    title = "Metrics explorer"
    _esm = module("metrics")
    data = traitlets.Dict().tag(sync=True)
    scores = traitlets.Int(0, min=0).tag(sync=True)
    label = traitlets.Int(0, min=0).tag(sync=True)
    ap = traitlets.Enum(["average", "voc11", "envelope"], "average").tag(sync=True)
    threshold = traitlets.Float(0.5, min=0, max=1).tag(sync=True)


def explore_metrics(*sets: dict) -> MetricsExplorer:
    """The metrics explorer on one or more sets made by `score_set`. CsraError without one."""
    if not sets:
        raise ConfigError("explore_metrics needs a score_set: names of classes, targets, and the scores of a method.")
    return MetricsExplorer(data={"sets": list(sets)})


def score_set(name: str, classes: Sequence[str], targets: ArrayLike, methods: Mapping[str, ArrayLike]) -> dict:
    """Scores of methods on one test set, for `explore_metrics`.

    Args:
        classes: C names. targets: (N, C) of 1, 0 and -1 (ignore). methods: name -> (N, C) probabilities; float16 stays
            so, others become float32.

    Raises:
        CsraError: what `multilabel_metrics` refuses.
    """
    known, kept = as_numpy(targets), {}
    for method, scores in methods.items():
        values, known = checked(scores, targets, classes)
        half = as_numpy(scores).dtype == np.float16
        kept[method] = values.astype(np.float16 if half else np.float32)
        multilabel_metrics(kept[method], known, classes=classes)  # says what else is wrong with them
    return {
        "name": name,
        "classes": list(classes),
        "targets": packed(known.astype(np.int8)),
        "methods": [{"name": method, "scores": packed(scores)} for method, scores in kept.items()],
    }
