"""CSRA and the poolings it is compared with. Thin modules over `residual_attention`."""

import math

import torch
from torch import Tensor, nn

from csra_lab.errors import ConfigError
from csra_lab.heads.base import ScoreMapHead, share_weights
from csra_lab.heads.config import (
    AverageConfig,
    CSRAConfig,
    GeMConfig,
    LogSumExpConfig,
    MaxConfig,
    SpatialConfig,
    TopKConfig,
)
from csra_lab.residual_attention import at_least_float32, attended_scores, attention_scores, csra_logits


class CSRA(ScoreMapHead):
    """Class-specific residual attention (section 3).

    Options: `CSRAConfig`. The logits of several heads are summed.
    """

    Config = CSRAConfig
    config: CSRAConfig

    def pool(self, scores: Tensor) -> Tensor:
        return csra_logits(scores, self.config.temperatures, self.config.lam)

    def weigh(self, scores: Tensor) -> Tensor:
        per_head = [attention_scores(scores[:, i], t) for i, t in enumerate(self.config.temperatures)]
        return torch.stack(per_head, dim=1)

    def mixture(self) -> tuple[tuple[float, float, float], ...]:
        return tuple((1.0, self.config.lam, T) for T in self.config.temperatures)

    def without_residual(self) -> "AveragePooling":
        """The average-pooling head on this head's classifier: the four-line change taken back.

        Raises:
            CsraError: several heads, which are more than one linear classifier.
        """
        if self.num_heads != 1:
            raise ConfigError(
                f"only a one-head CSRA is an average-pooling classifier with a residual; this one has {self.num_heads}."
            )
        options = {"normalize": self.config.normalize, "bias": self.config.bias}
        return share_weights(self, AveragePooling(self.in_features, self.num_classes, **options))


class AveragePooling(ScoreMapHead):
    """The mean score: a linear classifier on the mean feature, the baseline of every table.

    Options: `AverageConfig`.
    """

    Config = AverageConfig
    config: AverageConfig

    def pool(self, scores: Tensor) -> Tensor:
        return scores[:, 0].mean(dim=-1)

    def weigh(self, scores: Tensor) -> Tensor:
        return torch.full_like(scores, 1 / scores.shape[-1])

    def mixture(self) -> tuple[tuple[float, float, float], ...]:
        return ((1.0, 0.0, 0.0),)

    def with_four_lines(self, lam: float) -> CSRA:
        """This classifier plus lam times its largest score (paper, Fig. 1). No retraining; the weights are shared."""
        four_lines = CSRA(
            self.in_features, self.num_classes, lam=lam, temperatures=(math.inf,), **self.config.options()
        )
        return share_weights(self, four_lines)


class MaxPooling(ScoreMapHead):
    """The largest score alone. Options: `MaxConfig`."""

    Config = MaxConfig
    config: MaxConfig

    def pool(self, scores: Tensor) -> Tensor:
        return scores.amax(dim=-1)[:, 0]

    def weigh(self, scores: Tensor) -> Tensor:
        return attention_scores(scores, math.inf)

    def mixture(self) -> tuple[tuple[float, float, float], ...]:
        return ((0.0, 1.0, math.inf),)


class SpatialOnly(ScoreMapHead):
    """The attended score without the mean: the "spatial pooling" row of Table 6. Options: `SpatialConfig`."""

    Config = SpatialConfig
    config: SpatialConfig

    def pool(self, scores: Tensor) -> Tensor:
        return attended_scores(scores, [self.config.temperature])[:, 0]

    def weigh(self, scores: Tensor) -> Tensor:
        return attention_scores(scores, self.config.temperature)

    def mixture(self) -> tuple[tuple[float, float, float], ...]:
        return ((0.0, 1.0, self.config.temperature),)


class LogSumExp(ScoreMapHead):
    """A smooth maximum: log(mean(exp(r s))) / r (Pinheiro and Collobert, CVPR 2015).

    Its attention is its derivative, the softmax of r s. Options: `LogSumExpConfig`.
    """

    Config = LogSumExpConfig
    config: LogSumExpConfig

    def pool(self, scores: Tensor) -> Tensor:
        wide = at_least_float32(scores)
        best = wide.amax(dim=-1, keepdim=True).detach()
        below = torch.expm1(self.config.r * (wide - best)).mean(dim=-1)  # expm1 and log1p keep the digits of a small r
        return (best[..., 0] + torch.log1p(below) / self.config.r)[:, 0].to(scores.dtype)

    def weigh(self, scores: Tensor) -> Tensor:
        return attention_scores(scores, self.config.r)


class TopKMean(ScoreMapHead):
    """The mean of the k largest scores. Options: `TopKConfig`."""

    Config = TopKConfig
    config: TopKConfig

    def pool(self, scores: Tensor) -> Tensor:
        return scores.topk(min(self.config.k, scores.shape[-1]), dim=-1).values.mean(dim=-1)[:, 0]

    def weigh(self, scores: Tensor) -> Tensor:
        best = scores.topk(min(self.config.k, scores.shape[-1]), dim=-1).indices
        return torch.zeros_like(scores).scatter_(-1, best, 1 / best.shape[-1])


class GeM(ScoreMapHead):
    """Generalised-mean pooling of the features, then the classifier (Radenovic et al., TPAMI 2019).

    It pools features and not scores, (mean_k x_k^p)^(1/p) in each channel, so its attention is the same for all
    classes: the share of each location in the sum of x^p, averaged over the channels. Features below `eps`
    count as `eps`. Options: `GeMConfig`, whose p is where the learnt exponent starts.
    """

    Config = GeMConfig
    config: GeMConfig
    eps = 1e-6

    def __init__(self, in_features: int, num_classes: int, **options):
        super().__init__(in_features, num_classes, **options)
        self.p = nn.Parameter(torch.tensor(self.config.p))

    def forward(self, x: Tensor) -> Tensor:
        powers = self._log_powers(x)  # (B, d, N)
        log_means = powers.logsumexp(dim=-1, keepdim=True) - math.log(powers.shape[-1])  # (B, d, 1)
        pooled = (log_means / self.p).exp().transpose(1, 2)  # (B, 1, d): one token
        return at_least_float32(self.score_maps(pooled))[:, 0, :, 0]

    def attention(self, x: Tensor) -> Tensor:
        share = self._log_powers(x).softmax(dim=-1).mean(dim=1)  # (B, N)
        maps = share[:, None, None].expand(-1, 1, self.num_classes, -1).to(x.dtype)
        return maps.unflatten(-1, x.shape[2:]) if x.ndim == 4 else maps

    def _log_powers(self, x: Tensor) -> Tensor:
        """(B, d, N) logarithms of x^p with x at least eps. Powers themselves leave float32 where p is about 8."""
        self._check(x)
        locations = x.flatten(2) if x.ndim == 4 else x.transpose(1, 2)  # (B, d, N)
        return self.p * at_least_float32(locations).clamp(min=self.eps).log()
