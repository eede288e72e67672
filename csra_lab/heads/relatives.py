"""CSRA's relatives, from their papers' equations: WILDCAT, noisy-or, attention MIL, and CSRA with learned knobs."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csra_lab.errors import ConfigError
from csra_lab.heads.base import ScoreMapHead
from csra_lab.heads.config import HeadConfig, finite, positive, whole
from csra_lab.residual_attention import at_least_float32


@dataclass(frozen=True)
class WildcatConfig(HeadConfig):
    """WILDCAT's two poolings (Durand et al., CVPR 2017).

    Attributes:
        num_heads: M, score maps of each class, which are averaged.
        k_max, k_min: locations in the positive and the negative part; where a map has fewer, all of them.
        alpha: weight of the negative part, >= 0; 0 is the mean of the k_max largest scores.
    """

    num_heads: int = 4
    k_max: int = 3
    k_min: int = 3
    alpha: float = 0.7

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_heads", "k_max", "k_min"):
            whole(name, getattr(self, name))
        if finite("alpha", self.alpha) < 0:
            raise ConfigError(f"alpha must be 0 or more, not {self.alpha}.")


class Wildcat(ScoreMapHead):
    """The mean of M maps a class, then the mean of its largest scores plus alpha times that of its smallest.

    Its attention is the share of each location in that sum. Options: `WildcatConfig`.
    """

    Config = WildcatConfig
    config: WildcatConfig

    def pool(self, scores: Tensor) -> Tensor:
        maps = scores.mean(dim=1)  # (B, C, N)
        high, low = (min(k, maps.shape[-1]) for k in (self.config.k_max, self.config.k_min))
        lowest = maps.topk(low, dim=-1, largest=False).values.mean(dim=-1)
        return maps.topk(high, dim=-1).values.mean(dim=-1) + self.config.alpha * lowest

    def weigh(self, scores: Tensor) -> Tensor:
        maps, n = scores.mean(dim=1), scores.shape[-1]
        weights = torch.zeros_like(maps)
        for k, largest, share in ((self.config.k_max, True, 1.0), (self.config.k_min, False, self.config.alpha)):
            places = maps.topk(min(k, n), dim=-1, largest=largest).indices
            weights = weights.scatter_add(-1, places, torch.full_like(maps, share / min(k, n))[..., : places.shape[-1]])
        return (weights / (1 + self.config.alpha))[:, None].expand_as(scores)


@dataclass(frozen=True)
class NoisyOrConfig(HeadConfig):
    """Noisy-or over locations: present where at least one location fires, locations taken for independent."""


class NoisyOr(ScoreMapHead):
    """The logit of 1 - prod_k (1 - sigmoid(s_k)) (Zhang, Platt and Viola, NIPS 2005).

    Its attention is its derivative with respect to the scores, scaled to sum to 1: softmax of log sigmoid(s).
    Options: `NoisyOrConfig`.
    """

    Config = NoisyOrConfig
    config: NoisyOrConfig

    def pool(self, scores: Tensor) -> Tensor:
        wide = at_least_float32(scores)[:, 0]
        absent = F.softplus(wide).sum(dim=-1)  # (B, C) minus the log-probability that no location fires
        log_absent = torch.where(wide < -15, wide, F.softplus(wide.clamp(min=-15)).log()).logsumexp(dim=-1)
        safe = absent.clamp(min=1e-4)
        return torch.where(absent < 1e-4, log_absent, safe + torch.log(-torch.expm1(-safe))).to(scores.dtype)

    def weigh(self, scores: Tensor) -> Tensor:
        return F.logsigmoid(at_least_float32(scores)).softmax(dim=-1).to(scores.dtype)


@dataclass(frozen=True)
class LearnedCSRAConfig(HeadConfig):
    """One-head CSRA whose temperature, and whose lambda of each class, are learned. Not in the paper.

    Attributes:
        lam, temperature: where they start; the temperature is above 0.
    """

    lam: float = 0.1
    temperature: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        finite("lam", self.lam)
        positive("temperature", self.temperature)


class LearnedCSRA(ScoreMapHead):
    """Mean score plus lam_c times the attended score at a learned temperature. Options: `LearnedCSRAConfig`."""

    Config = LearnedCSRAConfig
    config: LearnedCSRAConfig

    def __init__(self, in_features: int, num_classes: int, **options):
        super().__init__(in_features, num_classes, **options)
        self.lams = nn.Parameter(torch.full((num_classes,), float(self.config.lam)))
        self.log_temperature = nn.Parameter(torch.tensor(float(self.config.temperature)).log())

    def pool(self, scores: Tensor) -> Tensor:
        wide = at_least_float32(scores)
        attended = (self.weigh(wide) * wide).sum(dim=-1)[:, 0]  # (B, C)
        return (wide.mean(dim=-1)[:, 0] + self.lams * attended).to(scores.dtype)

    def weigh(self, scores: Tensor) -> Tensor:
        wide = at_least_float32(scores)
        below = wide - wide.amax(dim=-1, keepdim=True).detach()
        return (self.log_temperature.exp() * below).softmax(dim=-1).to(scores.dtype)


@dataclass(frozen=True)
class AttentionMILConfig(HeadConfig):
    """Attention over locations as instances of a bag (Ilse et al., ICML 2018).

    Attributes:
        hidden: L, width of the attention's hidden layer.
        gated: multiply its tanh by a sigmoid gate (Eq. 9) or not (Eq. 8).
    """

    hidden: int = 128
    gated: bool = True

    def __post_init__(self):
        super().__post_init__()
        whole("hidden", self.hidden)
        if not isinstance(self.gated, bool):
            raise ConfigError(f"gated must be true or false, not {self.gated!r}.")


class AttentionMIL(ScoreMapHead):
    """Scores weighted by a_k = softmax_k(w . (tanh(V x_k) * sigmoid(U x_k))), one attention for all classes.

    The classifier of the attended feature is the attended score. Options: `AttentionMILConfig`.
    """

    Config = AttentionMILConfig
    config: AttentionMILConfig

    def __init__(self, in_features: int, num_classes: int, **options):
        super().__init__(in_features, num_classes, **options)
        self.hidden = nn.Linear(in_features, self.config.hidden)
        self.gate = nn.Linear(in_features, self.config.hidden) if self.config.gated else None
        self.query = nn.Linear(self.config.hidden, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scores = at_least_float32(self.score_maps(x)).flatten(3)[:, 0]  # (B, C, N)
        return (self._weights(x)[:, None] * scores).sum(dim=-1)

    def attention(self, x: Tensor) -> Tensor:
        self._check(x)
        maps = self._weights(x)[:, None, None].expand(-1, 1, self.num_classes, -1)
        return maps.unflatten(-1, x.shape[2:]) if x.ndim == 4 else maps

    def _weights(self, x: Tensor) -> Tensor:
        locations = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x  # (B, N, d)
        hidden = self.hidden(locations).tanh()
        hidden = hidden if self.gate is None else hidden * self.gate(locations).sigmoid()
        return at_least_float32(self.query(hidden))[..., 0].softmax(dim=-1)  # (B, N)
