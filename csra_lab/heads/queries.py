"""Learned queries that look at the map: one for each class (Query2Label), or one for each group (ML-Decoder)."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from csra_lab.errors import ConfigError
from csra_lab.heads.base import ScoreMapHead
from csra_lab.heads.config import HeadConfig, whole
from csra_lab.residual_attention import at_least_float32


@dataclass(frozen=True)
class ClassQueriesConfig(HeadConfig):
    """One decoder layer with a learned query for each class (Query2Label, Liu et al. 2021).

    Attributes:
        width: of queries, keys and values; features are first projected to it.
        attention_heads: parts of the width that attend by themselves; they divide it.
        hidden: of the feed-forward part.
    """

    width: int = 128
    attention_heads: int = 4
    hidden: int = 256

    def __post_init__(self):
        super().__post_init__()
        for name in ("width", "attention_heads", "hidden"):
            whole(name, getattr(self, name))
        if self.width % self.attention_heads:
            raise ConfigError(f"attention_heads must divide the width {self.width}, not {self.attention_heads}.")


@dataclass(frozen=True)
class GroupQueriesConfig(ClassQueriesConfig):
    """The same layer with a query for each group of classes (ML-Decoder, Ridnik et al. 2021).

    Attributes:
        groups: queries; each serves C / groups neighbouring classes, rounded up. With fewer classes, one for each.
    """

    groups: int = 4

    def __post_init__(self):
        super().__post_init__()
        whole("groups", self.groups)


class ClassQueries(ScoreMapHead):
    """Each class's learned query attends to the locations, and a linear classifier reads what it took from there.

    With features f_k = P x_k, a query q and, in each of n attention heads,
    A_k = softmax_k(W_q q . W_k f_k / sqrt(width / n)):

        u = LN(q + W_o sum_k A_k W_v f_k)
        v = LN(u + W_2 relu(W_1 u))
        logit_c = w_c . v

    It is the decoder layer of Query2Label without position encodings, so that locations may come in any order, and
    without self-attention of the queries, which in a first layer are the same for all images (ML-Decoder, section 3).

    The logit is not a sum of scores over locations. `score_maps` gives the nearest thing: the logit of a class that
    looks at this location alone. With one location it is the logit. `attention` is A, averaged over the attention
    heads, and what a location adds to the logit need not follow it. Options: `ClassQueriesConfig`.
    """

    Config = ClassQueriesConfig
    config: ClassQueriesConfig

    def __init__(self, in_features: int, num_classes: int, **options):
        super().__init__(in_features, num_classes, **options)
        width, hidden = self.config.width, self.config.hidden
        self.project = nn.Linear(in_features, width)
        self.queries = nn.Embedding(math.ceil(num_classes / self._classes_of_a_query()), width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm, self.last_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, width)

    @staticmethod
    def _width(config: ClassQueriesConfig, in_features: int) -> int:
        return config.width

    def _classes_of_a_query(self) -> int:
        return 1

    def forward(self, x: Tensor) -> Tensor:
        features = self._projected(x)  # (B, N, width)
        values = self._split(self.value(features))  # (B, heads, N, width / heads)
        attended = (self._attend(features) @ values).transpose(1, 2).flatten(2)  # (B, queries, width)
        return at_least_float32(self._classify(attended))

    def score_maps(self, x: Tensor) -> Tensor:
        values = self.value(self._projected(x))  # (B, N, width)
        scores = self._classify(values[:, :, None].expand(-1, -1, len(self.queries.weight), -1))  # (B, N, C)
        maps = scores.transpose(1, 2)[:, None]
        return maps.unflatten(-1, x.shape[2:]) if x.ndim == 4 else maps

    def attention(self, x: Tensor) -> Tensor:
        maps = self._of_classes(self._attend(self._projected(x)).mean(dim=1), dim=1)[:, None]  # (B, 1, C, N)
        return maps.unflatten(-1, x.shape[2:]) if x.ndim == 4 else maps

    def _projected(self, x: Tensor) -> Tensor:
        """(B, d, h, w) or (B, N, d) -> (B, N, width)."""
        self._check(x)
        return self.project(x.flatten(2).transpose(1, 2) if x.ndim == 4 else x)

    def _attend(self, features: Tensor) -> Tensor:
        """(B, N, width) -> (B, heads, queries, N) weights."""
        queries, keys = self._split(self.query(self.queries.weight)[None]), self._split(self.key(features))
        return (queries @ keys.mT * keys.shape[-1] ** -0.5).softmax(dim=-1)

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, N, width) -> (B, heads, N, width / heads)."""
        return tokens.unflatten(-1, (self.config.attention_heads, -1)).transpose(1, 2)

    def _classify(self, attended: Tensor) -> Tensor:
        """(..., queries, width) values -> (..., C) logits."""
        taken = self.norm(self.queries.weight + self.out(attended))
        taken = self.last_norm(taken + self.second(self.first(taken).relu()))
        weight = F.normalize(self.weight[0], dim=-1) if self.config.normalize else self.weight[0]
        logits = (self._of_classes(taken, dim=-2) * weight).sum(dim=-1)
        return logits if self.bias is None else logits + self.bias

    def _of_classes(self, of_queries: Tensor, dim: int) -> Tensor:
        """Repeat each query's entry for the classes that it serves."""
        size = self._classes_of_a_query()
        if size == 1:
            return of_queries
        return of_queries.repeat_interleave(size, dim=dim).narrow(dim, 0, self.num_classes)


class GroupQueries(ClassQueries):
    """`ClassQueries` with a query for each group of classes, so that the cost does not grow with their number.

    Classes c and c + 1 of one group share what their query took from the map and differ by their classifier alone
    (ML-Decoder's group fully-connected layer), hence they share their attention. With groups = C it is
    `ClassQueries`. Options: `GroupQueriesConfig`.
    """

    Config = GroupQueriesConfig
    config: GroupQueriesConfig

    def _classes_of_a_query(self) -> int:
        return math.ceil(self.num_classes / self.config.groups)
