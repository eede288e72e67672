"""Regularised attention: a learned attention for each class, and a small network over what it saw (SRN)."""

from dataclasses import dataclass

from torch import Tensor, nn

from csra_lab.errors import ConfigError
from csra_lab.heads.base import ScoreMapHead, full_precision
from csra_lab.heads.config import HeadConfig, finite, whole
from csra_lab.residual_attention import at_least_float32


@dataclass(frozen=True)
class RegularisedConfig(HeadConfig):
    """Spatial regularisation (SRN, Zhu et al., CVPR 2017), trained in one stage.

    Attributes:
        hidden: channels of the attention's and of the regulariser's layers; 512 in the paper.
        alpha: share of the mean score in the logit, from 0 to 1; 1 is average pooling. The paper takes 0.5.
    """

    hidden: int = 128
    alpha: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        whole("hidden", self.hidden)
        if not 0 <= finite("alpha", self.alpha) <= 1:
            raise ConfigError(f"alpha must be from 0 to 1, not {self.alpha}.")


class RegularisedAttention(ScoreMapHead):
    """alpha times the mean score plus 1 - alpha times what a network makes of the attended confidences of all classes.

    With a_k = softmax_k of three layers on x_k, one map for each class, and confidences sigmoid(s_k),

        u_k = a_k * sigmoid(s_k)
        logits = alpha * mean_k s_k + (1 - alpha) * W_3 sum_k relu(W_2 relu(W_1 u_k))

    so that classes learn from each other where they were seen. In SRN the three parts are trained one after another,
    the attention's middle layer sees 3 x 3 locations, and a last filter spans the 14 x 14 locations of its one map
    size. Here all is trained at once, each layer sees one location and the locations are summed, so that maps of any
    size and tokens are read. `score_maps` are s, and `attention` is a; the first is classified by `weight` and the
    second by layers of its own. Options: `RegularisedConfig`.
    """

    Config = RegularisedConfig
    config: RegularisedConfig

    def __init__(self, in_features: int, num_classes: int, **options):
        super().__init__(in_features, num_classes, **options)
        hidden = self.config.hidden
        self.look = nn.Sequential(*_layers(in_features, hidden), nn.Linear(hidden, num_classes))
        self.relate = nn.Sequential(*_layers(num_classes, hidden))
        self.last = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        scores, weights = at_least_float32(self.score_maps(x)).flatten(3)[:, 0], self._weights(x)  # (B, C, N)
        weight = self.last.weight.dtype
        seen = (weights * scores.sigmoid()).transpose(1, 2).to(weight)  # (B, N, C)
        related = at_least_float32(self.relate(seen)).sum(dim=1)  # (B, hidden)
        with full_precision(x):
            related = at_least_float32(self.last(related.to(weight)))  # (B, C)
        return self.config.alpha * scores.mean(dim=-1) + (1 - self.config.alpha) * related

    def attention(self, x: Tensor) -> Tensor:
        self._check(x)
        maps = self._weights(x)[:, None]  # (B, 1, C, N)
        return maps.unflatten(-1, x.shape[2:]) if x.ndim == 4 else maps

    def _weights(self, x: Tensor) -> Tensor:
        """(B, C, N), summing to 1 over the locations."""
        locations = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x  # (B, N, d)
        return at_least_float32(self.look(locations)).softmax(dim=1).transpose(1, 2)


def _layers(inputs: int, hidden: int) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
