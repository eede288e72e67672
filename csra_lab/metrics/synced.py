"""The metrics as a torchmetrics `Metric`, whose states add up over the processes of a distributed run."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from csra_lab.errors import CsraError
from csra_lab.metrics.accumulate import MultilabelMetrics
from csra_lab.metrics.functions import MetricValues

try:
    from torchmetrics import Metric
except ImportError as error:
    raise CsraError("SyncedMultilabelMetrics needs torchmetrics: `pip install torchmetrics`.") from error

NAMES = ("mAP", "CP", "CR", "CF1", "CF1_macro", "OP", "OR", "OF1")


class SyncedMultilabelMetrics(Metric):
    """`MultilabelMetrics` for torchmetrics, Lightning and distributed evaluation.

    Every process updates with its own batches; `compute` gathers over all of them. The metrics are not means of the
    processes' metrics, which would be wrong for AP and F1, but those of all images together.

    Args:
        num_classes, options: see `MultilabelMetrics`. Without `bins` every score is gathered; with `bins` only counts.
            There are no class names: the values are tensors.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    scores: list[Tensor]
    targets: list[Tensor]
    asked: Tensor
    images: Tensor
    counts: Tensor
    histograms: Tensor

    def __init__(
        self, num_classes: int, *, bins: int | None = None, threshold=None, top_k=None, ap="average", **kwargs
    ):
        super().__init__(**kwargs)
        self.options = {"bins": bins, "threshold": threshold, "top_k": top_k, "ap": ap}
        self.num_classes = num_classes
        empty = self._new()  # refuses options out of range
        if bins is None:
            self.add_state("scores", [], dist_reduce_fx="cat")
            self.add_state("targets", [], dist_reduce_fx="cat")
        else:
            # Torchmetrics merges metrics of one kind whose states are alike after the first batch: these options keep
            # apart what counts otherwise.
            asked = [-1.0 if option is None else float(option) for option in (threshold, top_k)]
            self.add_state("asked", torch.tensor(asked, dtype=torch.float64), dist_reduce_fx="max")
            self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")
            self.add_state("counts", torch.from_numpy(empty.counts), dist_reduce_fx="sum")
            self.add_state("histograms", torch.from_numpy(empty.histograms), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch: (B, C) probabilities and (B, C) targets in {1, 0, -1}; see `MultilabelMetrics.update`."""
        batch = self._new()
        batch.update(_array(preds), _array(target))
        if self.options["bins"] is None:
            self.scores.append(preds.detach().clone())  # a caller may fill its buffers anew
            self.targets.append(target.detach().to(torch.int8, copy=True))
        else:
            self.images += batch.num_images
            self.counts += torch.from_numpy(batch.counts).to(self.counts)
            self.histograms += torch.from_numpy(batch.histograms).to(self.histograms)

    def forward(self, preds: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Add a (B, C) batch as `update` does, and give what `compute` would of it alone: NaN where that cannot be.

        Torchmetrics' own sets what was gathered aside meanwhile, and a batch without a positive would lose it.
        """
        self.update(preds, target)
        batch = self._new()
        batch.update(_array(preds), _array(target))
        try:
            found = _values(batch.compute())
        except CsraError:
            nothing = torch.tensor(torch.nan, dtype=torch.float64)
            found = dict.fromkeys(NAMES, nothing) | {"per_class_AP": nothing.repeat(self.num_classes)}
        self._forward_cache: Any = found  # what Lightning shows of a step
        return found

    def compute(self) -> dict[str, Tensor]:
        """mAP, CP, CR, CF1, CF1_macro, OP, OR and OF1 as scalars, and (C,) per_class_AP, float64 on the CPU.

        Raises:
            CsraError: see `MultilabelMetrics.compute`.
        """
        metrics = self._new()
        if self.options["bins"] is None:
            for scores, targets in zip(_batches(self.scores), _batches(self.targets), strict=True):
                metrics.update(_array(scores), _array(targets))
        else:
            metrics.num_images = int(self.images)
            metrics.counts, metrics.histograms = _array(self.counts), _array(self.histograms)
            positive, known = metrics.histograms.sum(axis=(1, 2)).tolist()
            metrics.num_absent, metrics.num_ignored = known - positive, metrics.num_images * self.num_classes - known
        return _values(metrics.compute())

    def _new(self) -> MultilabelMetrics:
        return MultilabelMetrics(self.num_classes, **self.options)


def _values(metrics: MetricValues) -> dict[str, Tensor]:
    """As `SyncedMultilabelMetrics.compute` gives them."""
    found = {name: torch.tensor(getattr(metrics, name), dtype=torch.float64) for name in NAMES}
    return found | {"per_class_AP": torch.from_numpy(metrics.per_class_AP.copy())}


def _batches(state: list[Tensor] | Tensor) -> list[Tensor]:
    """What a state holds: a tensor a batch, or once it is synchronised one of all."""
    return [state] if isinstance(state, Tensor) else state


def _array(tensor: Tensor) -> np.ndarray:
    """A tensor of any place as NumPy; bfloat16, which NumPy has not, as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
