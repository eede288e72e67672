"""What all heads share: a linear classifier at every location of a feature map."""

import contextlib
import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from csra_lab.errors import ConfigError
from csra_lab.heads.config import HeadConfig, whole
from csra_lab.residual_attention import at_least_float32

Head = TypeVar("Head", bound="ScoreMapHead")
Module = TypeVar("Module", bound=nn.Module)
MAX_WEIGHTS = 2**29  # 2 GB; a file that asks for more is broken


class ScoreMapHead(nn.Module):
    """A linear classifier at every location (a 1x1 convolution), the shared part of all heads.

    Args:
        in_features: d, channels of the feature map.
        num_classes: C.
        options: those of the head's `Config`.

    Attributes:
        config: the options.
    """

    Config: type[HeadConfig] = HeadConfig

    def __init__(self, in_features: int, num_classes: int, **options):
        super().__init__()
        config = self.Config(**options)
        for name, value in (("in_features", in_features), ("num_classes", num_classes)):
            whole(name, value)
        num_heads, width = getattr(config, "num_heads", 1), self._width(config, in_features)
        if num_heads * num_classes * width > MAX_WEIGHTS:
            raise ConfigError(f"{num_heads} x {num_classes} x {width} weights are more than {MAX_WEIGHTS:,}.")
        if config.bias and num_heads > 1:
            raise ConfigError(
                f"a bias goes with a single head, not {num_heads}: the biases of several heads would only add up."
            )
        self.config, self.in_features, self.num_classes, self.num_heads = config, in_features, num_classes, num_heads
        self.weight = nn.Parameter(torch.empty(num_heads, num_classes, width))
        self.bias = nn.Parameter(torch.zeros(num_classes)) if config.bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all random weights anew, from torch's generator.

        The classifiers are uniform within 1/sqrt(d), a linear layer's default; layers of the head's own have theirs.
        """
        bound = self.weight.shape[-1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        for layer in self.modules():
            if layer is not self and callable(reset := getattr(layer, "reset_parameters", None)):
                reset()

    def read_labels(self, targets: ArrayLike) -> None:
        """Training calls this once, before its first step, with the (N, C) labels that it trains on: 1, 0 or -1.

        A head that uses statistics of labels takes them from here (`LabelGraph`); the others do nothing.
        """

    def classifiers(self) -> Tensor:
        """(heads, C, d): what `score_maps` applies at every location, before normalisation."""
        return self.weight

    def score_maps(self, x: Tensor) -> Tensor:
        """(B, d, h, w) -> (B, heads, C, h, w), or (B, N, d) -> (B, heads, C, N): every classifier at every location.

        In the type of the weights, under autocast too: the largest of 49 scores in bfloat16 ties from image to image.
        """
        self._check(x)
        weight = self.classifiers()
        weight = F.normalize(weight, dim=-1) if self.config.normalize else weight
        with full_precision(x):
            scores = _classify(weight.flatten(0, 1), x.to(weight.dtype))  # (B, heads * C, N)
        scores = scores.unflatten(1, (self.num_heads, self.num_classes))  # (B, heads, C, N)
        if self.bias is not None:
            scores = scores + self.bias[:, None]
        return scores.unflatten(-1, x.shape[2:]) if x.ndim == 4 else scores

    def attention(self, x: Tensor) -> Tensor:
        """(B, d, h, w) -> (B, heads, C, h, w) weights over the locations, each map summing to 1."""
        scores = self.score_maps(x)
        return self.weigh(scores.flatten(3)).view_as(scores)

    def forward(self, x: Tensor) -> Tensor:
        """(B, d, h, w) or (B, N, d) -> (B, C) logits, in float32 at least: half as many digits would tie scores."""
        return self.pool(at_least_float32(self.score_maps(x)).flatten(3))

    def pool(self, scores: Tensor) -> Tensor:
        """(B, heads, C, N) score maps -> (B, C) logits."""
        raise NotImplementedError

    def weigh(self, scores: Tensor) -> Tensor:
        """(B, heads, C, N) score maps -> (B, heads, C, N) weights of the locations."""
        raise NotImplementedError

    def mixture(self) -> tuple[tuple[float, float, float], ...] | None:
        """(a, b, T) of each sub-head where it pools to a * mean + b * attended score at T; None for other poolings.

        Many heads are then pooled in one pass (`study.head_stack`).
        """
        return None

    @staticmethod
    def _width(config, in_features: int) -> int:
        """Numbers of each class in `weight`."""
        return in_features

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, num_classes={self.num_classes}, {self.config}"

    def _check(self, x: Tensor) -> None:
        if x.ndim not in (3, 4) or x.shape[1 if x.ndim == 4 else 2] != self.in_features:
            raise ConfigError(
                f"the head reads (B, {self.in_features}, h, w) or (B, N, {self.in_features}), not {tuple(x.shape)}."
            )


def _classify(weight: Tensor, x: Tensor) -> Tensor:
    """(R, d) classifiers at every location of (B, d, h, w) or tokens (B, N, d) -> (B, R, N), N last in memory.

    All heads are one product, so the features are read once. On a CPU a convolution copies a contiguous map into a
    layout of its own, which few classifiers do not pay for: up to N of them, `_PerImage` reads the map where it lies.
    """
    if x.ndim == 3:
        return F.linear(x, weight).transpose(1, 2).contiguous()
    if x.is_contiguous() and x.device.type == "cpu" and len(weight) <= x.shape[2] * x.shape[3]:
        x = x.flatten(2)
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # they know no function of our own
            return weight.expand(x.shape[0], -1, -1) @ x
        return _PerImage.apply(weight, x)
    return F.conv2d(x, weight[:, :, None, None]).flatten(2).contiguous()


_AT_ONCE = 2**20  # numbers in the gradients of the weights that are held at a time


class _PerImage(torch.autograd.Function):
    """(R, d), (B, d, N) -> (B, R, N): one matrix product for each image.

    Left to itself, torch holds a gradient of the weights (R, d) for each image before it adds them up, often more than
    the features. Here the gradients of some images at a time are added up: of many where few classifiers make small
    products, whose calls would cost more than they compute, and of one where the products are large.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, x: Tensor) -> Tensor:
        return weight.expand(x.shape[0], -1, -1) @ x  # len(x) would be a constant when exported

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, weight_tangent: Tensor | None, x_tangent: Tensor | None) -> Tensor:
        weight, x = ctx.saved_tensors
        parts = []
        if weight_tangent is not None:
            parts.append(weight_tangent.expand(x.shape[0], -1, -1) @ x)
        if x_tangent is not None:
            parts.append(weight.expand(x.shape[0], -1, -1) @ x_tangent)
        return sum(parts[1:], parts[0])  # (B, R, N)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        weight, x = ctx.saved_tensors
        grad_weight = None
        if ctx.needs_input_grad[0]:
            at_once = max(1, _AT_ONCE // weight.numel())
            for some, features in zip(grad.split(at_once), x.split(at_once), strict=True):
                part = (some @ features.mT).sum(dim=0)  # (b, R, d) -> (R, d)
                grad_weight = part if grad_weight is None else grad_weight + part  # not in place: vmap adds an axis
        grad_x = weight.T.expand(x.shape[0], -1, -1) @ grad if ctx.needs_input_grad[1] else None
        return grad_weight, grad_x


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """Products of a classifier without autocast, which would tie logits; x (any shape) says on which device."""
    kind = x.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)  # a "meta" device has none
    return torch.autocast(kind, enabled=False) if on else contextlib.nullcontext()


def share_weights(source: ScoreMapHead, target: Head) -> Head:
    """Give `target` the parameters of `source` (the same tensors, no copy)."""
    target.weight, target.bias = source.weight, source.bias
    return target.train(source.training)


def shared_copy(module: Module) -> Module:
    """A copy of a module's tree whose tensors are other objects on the same memory."""
    memo: dict[int, object] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        alias = tensor.detach()
        memo[id(tensor)] = nn.Parameter(alias, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else alias
    return copy.deepcopy(module, memo)
