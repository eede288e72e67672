"""A classifier that a graph of labels generates (ML-GCN), used on score maps."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from csra_lab.errors import ConfigError
from csra_lab.heads.base import ScoreMapHead
from csra_lab.heads.config import HeadConfig, finite, temperatures, whole
from csra_lab.residual_attention import csra_logits, residual_weights


@dataclass(frozen=True)
class LabelGraphConfig(HeadConfig):
    """ML-GCN (Chen et al., CVPR 2019), with this paper's residual on its score maps (Table 1).

    Attributes:
        embedding: numbers that describe a label. hidden: of the graph's first layer.
        threshold: labels i and j are joined where at least this share of the images with i show j too.
        share: of a label's vector that comes from the labels it is joined to, from 0 to below 1.
        lam, temperature: the residual, as in CSRA; lam = 0 is average pooling, lam > 0 at infinity the four lines.
    """

    embedding: int = 100
    hidden: int = 128
    threshold: float = 0.4
    share: float = 0.2
    lam: float = 0.0
    temperature: float = math.inf

    def __post_init__(self):
        super().__post_init__()
        for name in ("embedding", "hidden"):
            whole(name, getattr(self, name))
        for name in ("threshold", "share", "lam"):
            if finite(name, getattr(self, name)) < 0:
                raise ConfigError(f"{name} must be 0 or more, not {getattr(self, name)}.")
        if self.share >= 1:
            raise ConfigError(f"share must be below 1, not {self.share}.")
        object.__setattr__(self, "temperature", temperatures(1, [self.temperature])[0])


class LabelGraph(ScoreMapHead):
    """Classifiers A relu(A Z W_1) W_2 of a graph A over labels with vectors Z, applied at every location.

    The rectifier is leaky (0.2). `weight` (1, C, embedding) holds Z, which is learnt here; the paper takes GloVe's
    vectors. The graph is counted from the training labels by `read_labels`, and is saved with the weights; until then
    each label is joined to itself alone, and the head is a plain two-layer generator. The paper takes each channel's
    largest feature over the map; here the score maps are pooled, by their mean plus lam times the attended score.
    Options: `LabelGraphConfig`.
    """

    Config = LabelGraphConfig
    config: LabelGraphConfig
    graph: Tensor

    def __init__(self, in_features: int, num_classes: int, **options):
        super().__init__(in_features, num_classes, **options)
        self.first = nn.Linear(self.config.embedding, self.config.hidden, bias=False)
        self.second = nn.Linear(self.config.hidden, in_features, bias=False)
        self.register_buffer("graph", torch.eye(num_classes))

    @staticmethod
    def _width(config: LabelGraphConfig, in_features: int) -> int:
        return config.embedding

    def read_labels(self, targets: ArrayLike) -> None:
        """Make the graph from the (N, C) targets of a training set. A CsraError for another number of classes."""
        if np.ndim(targets) != 2 or np.shape(targets)[1] != self.num_classes:
            raise ConfigError(f"the labels must be (images, {self.num_classes} classes), not {np.shape(targets)}.")
        graph = label_graph(np.asarray(targets), threshold=self.config.threshold, share=self.config.share)
        self.graph.copy_(torch.from_numpy(graph))

    def classifiers(self) -> Tensor:
        hidden = F.leaky_relu(self.graph @ self.weight @ self.first.weight.T, 0.2)  # (1, C, hidden)
        return self.graph @ hidden @ self.second.weight.T  # (1, C, d)

    def pool(self, scores: Tensor) -> Tensor:
        return csra_logits(scores, self.config.temperature, self.config.lam)

    def weigh(self, scores: Tensor) -> Tensor:
        return residual_weights(scores, self.config.temperature, self.config.lam)


def label_graph(targets: np.ndarray, *, threshold: float, share: float) -> np.ndarray:
    """ML-GCN's graph: who is seen with whom, made binary, weighted anew and normalised (its section 3.4).

    With P[i, j] the share of the images with label i that show j, B = P >= threshold off the diagonal, and

        R[i, j] = share * B[i, j] / sum_j B[i, j]
        R[i, i] = 1 - share

    the graph is R[i, j] / sqrt(r_i r_j), with r_i the sum of row i (Kipf and Welling's normalisation).

    Args:
        targets: (N, C) of 1, 0 and -1; only 1 counts as present.

    Returns:
        (C, C) float32. A label that is joined to none, or that no image shows, has 1 on its diagonal and 0 elsewhere
        in its row.
    """
    present = (targets == 1).astype(np.float64)
    together, images = present.T @ present, present.sum(axis=0)
    joined = (together >= threshold * images[:, None]) & (images[:, None] > 0) & (together > 0)
    np.fill_diagonal(joined, False)
    degree = joined.sum(axis=1, keepdims=True)
    weights = share * joined / np.maximum(degree, 1) + (1 - share) * np.eye(len(joined))
    total = weights.sum(axis=1)
    return (weights / np.sqrt(np.outer(total, total))).astype(np.float32)
