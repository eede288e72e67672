"""Heads: from a feature map to logits. Thin modules over `residual_attention`.

Every head is a classifier of each location followed by a way to pool the scores, and all share one interface:

    head.score_maps(x) -> (B, heads, C, h, w)    the classifiers at every location
    head.attention(x) -> (B, heads, C, h, w)     how each location weighs in the pooled score; sums to 1
    head(x) -> (B, C)                            logits

`x` is a feature map (B, d, h, w), or tokens (B, N, d); for tokens N stands where h, w stand above.
"""

import math
from collections.abc import Sequence
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csra_lab.errors import CsraError
from csra_lab.residual_attention import at_least_float32, attended_scores, attention_scores, csra_logits

PAPER_TEMPERATURES: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (1.0, math.inf),
    4: (1.0, 2.0, 4.0, math.inf),
    6: (1.0, 2.0, 3.0, 4.0, 5.0, math.inf),
    8: (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, math.inf),
}
"""Temperatures of the paper for each number of heads (section 3.4); infinity is max pooling."""


MOST_WEIGHTS = 2**29  # 2 GB; a file that asks for more is broken


class ScoreMapHead(nn.Module):
    """A linear classifier at every location (a 1x1 convolution), the shared part of all heads.

    Args:
        in_features: d, channels of the feature map.
        num_classes: C.
        heads: number of independent classifiers.
        normalize: divide each class's classifier by its length, so that scores compare directions only (section 3.4).
        bias: add a learnt constant to the scores of each class.
    """

    def __init__(
        self, in_features: int, num_classes: int, *, heads: int = 1, normalize: bool = False, bias: bool = False
    ):
        super().__init__()
        for name, value in (("in_features", in_features), ("num_classes", num_classes), ("heads", heads)):
            _whole(name, value)
        if heads * num_classes * in_features > MOST_WEIGHTS:
            raise CsraError(f"{heads} x {num_classes} x {in_features} weights are more than {MOST_WEIGHTS:,}.")
        for name, value in (("normalize", normalize), ("bias", bias)):
            if not isinstance(value, bool):
                raise CsraError(f"{name} must be true or false, not {value!r}.")
        if bias and heads > 1:
            raise CsraError(
                f"a bias goes with a single head, not {heads}: the biases of several heads would only add up."
            )
        self.in_features, self.num_classes, self.heads, self.normalize = in_features, num_classes, heads, normalize
        self.weight = nn.Parameter(torch.empty(heads, num_classes, in_features))
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the classifiers anew, from torch's generator: uniform within 1/sqrt(d), a linear layer's default."""
        nn.init.uniform_(self.weight, -(self.in_features**-0.5), self.in_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def score_maps(self, x: Tensor) -> Tensor:
        """(B, d, h, w) -> (B, heads, C, h, w), or (B, N, d) -> (B, heads, C, N): every classifier at every location."""
        self._check(x)
        weight = F.normalize(self.weight, dim=-1) if self.normalize else self.weight
        scores = _classify(weight.flatten(0, 1), x)  # (B, heads * C, N)
        scores = scores.unflatten(1, (self.heads, self.num_classes))  # (B, heads, C, N)
        if self.bias is not None:
            scores = scores + self.bias[:, None]
        return scores.unflatten(-1, x.shape[2:]) if x.ndim == 4 else scores

    def attention(self, x: Tensor) -> Tensor:
        """(B, d, h, w) -> (B, heads, C, h, w) weights over the locations, each map summing to 1."""
        scores = self.score_maps(x)
        return self.weigh(scores.flatten(3)).view_as(scores)

    def forward(self, x: Tensor) -> Tensor:
        """(B, d, h, w) or (B, N, d) -> (B, C) logits."""
        return self.pool(self.score_maps(x).flatten(3))

    def pool(self, scores: Tensor) -> Tensor:
        """(B, heads, C, N) score maps -> (B, C) logits."""
        raise NotImplementedError

    def weigh(self, scores: Tensor) -> Tensor:
        """(B, heads, C, N) score maps -> (B, heads, C, N) weights of the locations."""
        raise NotImplementedError

    def config(self) -> dict:
        """The keyword arguments that build this head again (all JSON types), besides in_features and num_classes."""
        return {"normalize": self.normalize, "bias": self.bias is not None}

    def extra_repr(self) -> str:
        fields = {"in_features": self.in_features, "num_classes": self.num_classes, **self.config()}
        return ", ".join(f"{k}={v}" for k, v in fields.items())

    def _check(self, x: Tensor) -> None:
        if x.ndim not in (3, 4) or x.shape[1 if x.ndim == 4 else 2] != self.in_features:
            raise CsraError(
                f"the head reads (B, {self.in_features}, h, w) or (B, N, {self.in_features}), not {tuple(x.shape)}."
            )


class CSRA(ScoreMapHead):
    """Class-specific residual attention (section 3).

    Args:
        in_features: d. num_classes: C.
        heads: H, one classifier and one temperature each; the logits of the heads are summed.
        lam: weight of the residual; 0 is average pooling. The paper uses 0.1 on VOC2007.
        temperatures: H numbers in [0, inf], or None for the paper's list (H = 1, 2, 4, 6 or 8).
        normalize, bias: see `ScoreMapHead`. The paper normalises.

    Raises:
        CsraError: a number of heads that the paper has no list for, without temperatures; or a wrong number of them.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        heads: int = 1,
        lam: float = 0.1,
        temperatures: Sequence[float | str] | None = None,
        normalize: bool = True,
        bias: bool = False,
    ):
        super().__init__(in_features, num_classes, heads=heads, normalize=normalize, bias=bias)
        self.lam = _finite("lam", lam)
        self.temperatures = _temperatures(heads, temperatures)

    def pool(self, scores: Tensor) -> Tensor:
        return csra_logits(scores, self.temperatures, self.lam)

    def weigh(self, scores: Tensor) -> Tensor:
        per_head = [attention_scores(scores[:, i], t) for i, t in enumerate(self.temperatures)]
        return torch.stack(per_head, dim=1)

    def config(self) -> dict:
        temperatures = ["inf" if math.isinf(t) else t for t in self.temperatures]  # JSON has no infinity
        return {"heads": self.heads, "lam": self.lam, "temperatures": temperatures, **super().config()}

    def without_residual(self) -> "AveragePooling":
        """The average-pooling head on this head's classifier: the four-line change taken back.

        Raises:
            CsraError: several heads, which are more than one linear classifier.
        """
        if self.heads != 1:
            raise CsraError(
                f"only a one-head CSRA is an average-pooling classifier with a residual; this one has {self.heads}."
            )
        return _share(self, AveragePooling(self.in_features, self.num_classes, **super().config()))


class AveragePooling(ScoreMapHead):
    """The mean score: a linear classifier on the mean feature, the baseline of every table."""

    def pool(self, scores: Tensor) -> Tensor:
        return scores.mean(dim=-1)[:, 0]

    def weigh(self, scores: Tensor) -> Tensor:
        return torch.full_like(scores, 1 / scores.shape[-1])

    def with_four_lines(self, lam: float) -> CSRA:
        """This classifier plus lam times its largest score (paper, Fig. 1). No retraining; the weights are shared."""
        four_lines = CSRA(
            self.in_features, self.num_classes, heads=1, lam=lam, temperatures=[math.inf], **self.config()
        )
        return _share(self, four_lines)


class MaxPooling(ScoreMapHead):
    """The largest score alone."""

    def pool(self, scores: Tensor) -> Tensor:
        return scores.amax(dim=-1)[:, 0]

    def weigh(self, scores: Tensor) -> Tensor:
        return attention_scores(scores, math.inf)


class SpatialOnly(ScoreMapHead):
    """The attended score without the mean: the "spatial pooling" row of the paper's Table 6.

    Args:
        temperature: T in [0, inf].
    """

    def __init__(
        self, in_features: int, num_classes: int, *, temperature: float | str = 1.0, normalize=False, bias=False
    ):
        super().__init__(in_features, num_classes, normalize=normalize, bias=bias)
        (self.temperature,) = _temperatures(1, [temperature])

    def pool(self, scores: Tensor) -> Tensor:
        return attended_scores(scores, [self.temperature])[:, 0]

    def weigh(self, scores: Tensor) -> Tensor:
        return attention_scores(scores, self.temperature)

    def config(self) -> dict:
        return {"temperature": "inf" if math.isinf(self.temperature) else self.temperature, **super().config()}


class LogSumExp(ScoreMapHead):
    """A smooth maximum: log(mean(exp(r s))) / r (Pinheiro and Collobert, CVPR 2015).

    Its attention is its derivative, the softmax of r s.

    Args:
        r: sharpness, > 0; towards 0 it is the mean, towards infinity the maximum.
    """

    def __init__(self, in_features: int, num_classes: int, *, r: float = 1.0, normalize=False, bias=False):
        super().__init__(in_features, num_classes, normalize=normalize, bias=bias)
        self.r = _positive("r", r)

    def pool(self, scores: Tensor) -> Tensor:
        wide = at_least_float32(scores)
        best = wide.amax(dim=-1, keepdim=True).detach()
        below = torch.expm1(self.r * (wide - best)).mean(dim=-1)  # expm1 and log1p keep the digits of a small r
        return (best[..., 0] + torch.log1p(below) / self.r)[:, 0].to(scores.dtype)

    def weigh(self, scores: Tensor) -> Tensor:
        return attention_scores(scores, self.r)

    def config(self) -> dict:
        return {"r": self.r, **super().config()}


class TopKMean(ScoreMapHead):
    """The mean of the k largest scores.

    Args:
        k: locations that count; where a map has fewer, all of them.
    """

    def __init__(self, in_features: int, num_classes: int, *, k: int = 3, normalize=False, bias=False):
        super().__init__(in_features, num_classes, normalize=normalize, bias=bias)
        self.k = _whole("k", k)

    def pool(self, scores: Tensor) -> Tensor:
        return scores.topk(min(self.k, scores.shape[-1]), dim=-1).values.mean(dim=-1)[:, 0]

    def weigh(self, scores: Tensor) -> Tensor:
        best = scores.topk(min(self.k, scores.shape[-1]), dim=-1).indices
        return torch.zeros_like(scores).scatter_(-1, best, 1 / best.shape[-1])

    def config(self) -> dict:
        return {"k": self.k, **super().config()}


class GeM(ScoreMapHead):
    """Generalised-mean pooling of the features, then the classifier (Radenovic et al., TPAMI 2019).

    It pools features and not scores, (mean_k x_k^p)^(1/p) in each channel, so its attention is the same for all
    classes: the share of each location in the sum of x^p, averaged over the channels. Features below `eps`
    count as `eps`.

    Args:
        p: start value of the learnt exponent, > 0; 1 is average pooling, towards infinity max pooling.
    """

    eps = 1e-6

    def __init__(self, in_features: int, num_classes: int, *, p: float = 3.0, normalize=False, bias=False):
        super().__init__(in_features, num_classes, normalize=normalize, bias=bias)
        self.start = float(_positive("p", p))
        self.p = nn.Parameter(torch.tensor(self.start))

    def forward(self, x: Tensor) -> Tensor:
        powers = self._log_powers(x)  # (B, d, N)
        log_means = powers.logsumexp(dim=-1, keepdim=True) - math.log(powers.shape[-1])  # (B, d, 1)
        pooled = (log_means / self.p).exp().transpose(1, 2)  # (B, 1, d): one token
        return self.score_maps(pooled.to(x.dtype)).flatten(3)[:, 0, :, 0]

    def attention(self, x: Tensor) -> Tensor:
        share = self._log_powers(x).softmax(dim=-1).mean(dim=1)  # (B, N)
        maps = share[:, None, None].expand(-1, 1, self.num_classes, -1).to(x.dtype)
        return maps.unflatten(-1, x.shape[2:]) if x.ndim == 4 else maps

    def _log_powers(self, x: Tensor) -> Tensor:
        """(B, d, N) logarithms of x^p with x at least eps. Powers themselves leave float32 where p is about 8."""
        self._check(x)
        locations = x.flatten(2) if x.ndim == 4 else x.transpose(1, 2)  # (B, d, N)
        return self.p * at_least_float32(locations).clamp(min=self.eps).log()

    def config(self) -> dict:
        return {"p": self.start, **super().config()}  # what p has become is among the weights


HEADS: dict[str, type[ScoreMapHead]] = {
    "csra": CSRA,
    "average": AveragePooling,
    "max": MaxPooling,
    "spatial": SpatialOnly,
    "lse": LogSumExp,
    "gem": GeM,
    "topk": TopKMean,
}
"""The heads by their short names, as recipes and `create_head` know them."""


def create_head(kind: str, in_features: int, num_classes: int, /, **options) -> ScoreMapHead:
    """A head by its short name (a key of `HEADS`) with that head's own options.

    Raises:
        CsraError: an unknown name, or an option that this head does not have or cannot take.
    """
    if kind not in HEADS:
        raise CsraError(f"there is no head {kind!r}; choose one of {', '.join(HEADS)}.")
    try:
        return HEADS[kind](in_features, num_classes, **options)
    except CsraError as error:
        raise CsraError(f"head {kind!r}: {error}") from None
    except TypeError as error:
        reason = str(error).partition("\n")[0]  # torch lists on further lines what it would have taken
        raise CsraError(f"head {kind!r} cannot be made with these options ({reason}).") from None


def head_kind(head: ScoreMapHead) -> str:
    """The short name of a head, the inverse of `create_head`."""
    return next(kind for kind, cls in HEADS.items() if type(head) is cls)


def _classify(weight: Tensor, x: Tensor) -> Tensor:
    """(R, d) classifiers at every location of (B, d, h, w) or tokens (B, N, d) -> (B, R, N), N last in memory.

    All heads are one product, so the features are read once. On a CPU a convolution copies a contiguous map into a
    layout of its own, which few classifiers do not pay for: up to N of them, `_PerImage` reads the map where it lies.
    """
    if x.ndim == 3:
        return F.linear(x, weight).transpose(1, 2).contiguous()
    if x.is_contiguous() and x.device.type == "cpu" and len(weight) <= x.shape[2] * x.shape[3]:
        return _PerImage.apply(*_as_autocast(weight, x.flatten(2)))
    return F.conv2d(x, weight[:, :, None, None]).flatten(2).contiguous()


class _PerImage(torch.autograd.Function):
    """(R, d), (B, d, N) -> (B, R, N): one matrix product for each image.

    Left to itself, torch holds a gradient of the weights (R, d) for each image before it adds them up, often more than
    the features. Here each product adds to the one gradient there is.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, x: Tensor) -> Tensor:
        return weight.expand(x.shape[0], -1, -1) @ x  # len(x) would be a constant when exported

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        weight, x = ctx.saved_tensors
        grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_weight = (grad[:1] @ x[:1].mT).sum(dim=0)  # zeros where there is no image
            for grad_of_one, features in zip(grad[1:], x[1:], strict=True):
                grad_weight.addmm_(grad_of_one, features.T)
        grad_x = weight.T.expand(x.shape[0], -1, -1) @ grad if ctx.needs_input_grad[1] else None
        return grad_weight, grad_x


def _as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In the type that torch would choose for a product here: a function of our own has to ask for it."""
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    return tuple(t.to(torch.get_autocast_dtype("cpu")) for t in tensors)


def _share(source: ScoreMapHead, target: ScoreMapHead) -> ScoreMapHead:
    """Give `target` the parameters of `source` (the same tensors, no copy)."""
    target.weight, target.bias = source.weight, source.bias
    return target.train(source.training)


def _temperatures(heads: int, temperatures: Sequence[float | str] | None) -> tuple[float, ...]:
    if temperatures is None:
        if heads not in PAPER_TEMPERATURES:
            known = ", ".join(map(str, PAPER_TEMPERATURES))
            raise CsraError(
                f"the paper gives temperatures for {known} heads; for {heads}, pass temperatures=[...] yourself."
            )
        return PAPER_TEMPERATURES[heads]
    try:
        if isinstance(temperatures, str) or any(isinstance(t, bool) for t in temperatures):
            raise TypeError
        values = tuple(float(t) for t in temperatures)
    except (TypeError, ValueError, OverflowError):
        raise CsraError(f"temperatures must be numbers or 'inf', not {temperatures!r}.") from None
    if len(values) != heads:
        raise CsraError(f"{len(values)} temperatures were given for {heads} heads; give one for each head.")
    for t in values:
        if not t >= 0:
            raise CsraError(f"a temperature must be a number from 0 to infinity, not {t}.")
    return values


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value != int(value):
        raise CsraError(f"{name} must be a whole number, not {value!r}.")
    if value < 1:
        raise CsraError(f"{name} must be at least 1, not {value}.")
    return int(value)


def _positive(name: str, value: float) -> float:
    if _finite(name, value) <= 0:
        raise CsraError(f"{name} must be a positive number, not {value}.")
    return value


def _finite(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not abs(value) < 1e38:  # what float32 holds
        raise CsraError(f"{name} must be a finite number, not {value!r}.")
    return float(value)
