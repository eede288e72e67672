"""The four lines on a classifier that somebody else built: `add_four_lines(model, lam)`.

A classifier with a global average pool before its linear layer computes the mean of its score maps (paper, section
3.1). So it takes no new weights to add lam times their maximum (Fig. 1). What has to be found is where the model
pools and where it classifies. The model runs once on an example; every torch function that it calls is recorded, and
the record is read backwards from the logits:

    logits <- linear layer [<- normalisation] <- average pool <- feature map
    logits <- average pool <- score maps

The linear layer may be a 1x1 convolution or a matrix product. The second line is a network whose convolution classifies
before the pool, such as SqueezeNet. Reshapes and dropout in between change no number and are passed over. Each step is
verified by its values, not by its name alone. A model with anything else there (a class token, a maximum, a hidden
layer) is refused, and the message says what stands in the way.

A batch norm between pool and classifier is affine and is applied to each location. A layer norm is not: each location
is centred by itself and divided by the standard deviation of the pooled feature, so that the mean of the score maps
still is the logit.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from csra_lab.errors import ConfigError, CsraError
from csra_lab.metrics import average_precision
from csra_lab.metrics.functions import check_absent_of
from csra_lab.modes import evaluating

LAMS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0)
"""The lambdas that `choose_lam` tries; 0 is the model as it was."""

AVERAGES = {"adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool1d", "avg_pool2d", "mean"}
PRODUCTS = {"linear", "conv2d", "matmul", "mm", "__matmul__", "addmm"}
MOVES = {"flatten", "reshape", "view", "squeeze", "unsqueeze", "permute", "transpose", "movedim", "contiguous", "clone"}
MOVES |= {"to", "float", "type", "type_as", "dropout", "dropout_", "dropout2d", "feature_dropout", "__get__"}
REASONS = {
    "__getitem__": "its classifier reads a single token (a class token), not an average over locations",
    "select": "its classifier reads a single token (a class token), not an average over locations",
    "linear": "a hidden layer stands right before its classifier, so the logit is no average of score maps",
    "conv2d": "a convolution stands right before its classifier (a hidden layer, or a flattened map), not a pool",
}
for _name in ("amax", "max", "max_pool2d", "adaptive_max_pool2d", "boolean_dispatch"):
    REASONS[_name] = "it pools by the maximum; the four lines add the maximum to an average"
for _name in ("relu", "relu_", "gelu", "silu", "hardswish", "hardtanh", "tanh", "sigmoid", "leaky_relu", "relu6"):
    REASONS[_name] = f"the nonlinearity {_name.rstrip('_')} stands between its pool and its classifier (a hidden layer)"


class FourLines(nn.Module):
    """Somebody's classifier, whose logits are its own plus lam times the maximum of its score maps.

    Made by `add_four_lines`. The model is held, not copied: its weights are shared, and it can be trained through this.

    Attributes:
        model: the classifier as it was.
        lam: weight of the maximum; may be set at any time.
    """

    def __init__(self, model: nn.Module, lam: float, tail: "_Tail"):
        super().__init__()
        self.model, self.lam, self._tail = model, lam, tail

    def forward(self, *args, **kwargs):
        """What the model returns for its inputs, with the logits (B, C) replaced."""
        output, scores = self._run(*args, **kwargs)
        logits = _logits_of(output)
        return _with_logits(output, logits + self.lam * scores.flatten(2).amax(dim=-1).to(logits.dtype))

    def score_maps(self, *args, **kwargs) -> Tensor:
        """The model's inputs -> (B, C, h, w) score maps, or (B, C, N) for tokens; their mean is the model's logit."""
        return self._run(*args, **kwargs)[1]

    def _run(self, *args, **kwargs) -> tuple[Any, Tensor]:
        with _Recorder(last=self._tail.length) as recorder:
            output = self.model(*args, **kwargs)
        return output, self._tail.score_maps(list(recorder.calls))

    def extra_repr(self) -> str:
        return f"lam={self.lam}"


def add_four_lines(model: nn.Module, lam: float, *, example: Tensor | None = None) -> FourLines:
    """Add lam times the largest score to any classifier that averages over locations before its linear layer.

    Works on classifiers of torchvision, timm, huggingface and your own: `add_four_lines(resnet50(), 0.2)(images)`.

    Args:
        model: takes images (B, 3, H, W) first, and returns logits (B, C), or an output with `.logits`.
        lam: weight of the maximum. `choose_lam` finds one on held-out images.
        example: images (B, 3, H, W) with which the model is traced; None draws two of the model's own size, else 224.

    Raises:
        CsraError: the model does not average over locations before its classifier; the message says what it does.
    """
    if isinstance(lam, bool) or not isinstance(lam, Real) or not math.isfinite(lam):
        raise ConfigError(f"lam must be a finite number, not {lam!r}.")
    images = _example(model) if example is None else example
    with evaluating(model), torch.no_grad(), _Recorder() as recorder:
        output = model(images)
    return FourLines(model, float(lam), _find_tail(_logits_of(output), list(recorder.calls), type(model).__name__))


# --- lambda on held-out images ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LamChoice:
    """What `choose_lam` measured on held-out images.

    Attributes:
        lam: the lambda with the largest mAP; of equal ones the smallest.
        lams: what was tried. mAPs: the mAP of each, fractions.
        images: number of held-out images.
    """

    lam: float
    lams: tuple[float, ...]
    mAPs: tuple[float, ...]
    images: int


@torch.no_grad()
def choose_lam(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, lams: Sequence[float] = LAMS
) -> LamChoice:
    """The lambda with the best mAP on held-out images: one pass over them, whatever the number of lambdas.

    The mAP of the chosen lambda is the best of several on these images; measure the gain on other images.

    Args:
        model: a classifier that `add_four_lines` takes, or what it returned. Evaluated in eval mode.
        batches: pairs of images (B, 3, H, W) and targets (B, C) in {1, 0, -1}, such as a DataLoader gives. They are
            moved to the model's device.
        lams: lambdas to try.

    Raises:
        CsraError: no images, no lambda, no positive among them, targets of which none is known to be absent, or what
            `add_four_lines` raises.
    """
    if not len(lams):
        raise ConfigError("there is no lambda to choose; name one or more in lams.")
    four, means, maxima, targets = None, [], [], []
    device = next(model.parameters()).device
    with evaluating(model):
        for images, labels in batches:
            images = images.to(device)
            if four is None:
                four = model if isinstance(model, FourLines) else add_four_lines(model, 0, example=images)
            output, scores = four._run(images)
            means.append(_logits_of(output).double().cpu())
            maxima.append(scores.flatten(2).amax(dim=-1).double().cpu())
            targets.append(torch.as_tensor(labels).cpu())
    if four is None:
        raise ConfigError("there are no held-out images to choose lambda on.")
    mean, best, truth = (torch.cat(parts).numpy() for parts in (means, maxima, targets))
    if not (truth == 1).any():
        raise ConfigError("no held-out image has a positive label, so no lambda is better than another.")
    check_absent_of(truth)
    mAPs = [float(np.nanmean(average_precision(mean + lam * best, truth))) for lam in lams]
    lam = min(lam for lam, mAP in zip(lams, mAPs, strict=True) if mAP == max(mAPs))
    return LamChoice(float(lam), tuple(map(float, lams)), tuple(mAPs), len(truth))


# --- what a model computes --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Call:
    """One torch function that a model called, with what went in and came out."""

    name: str
    args: tuple
    kwargs: dict
    result: Tensor

    def argument(self, place: int, name: str) -> Any:
        return self.args[place] if len(self.args) > place else self.kwargs.get(name)

    @property
    def source(self) -> Any:
        """The first argument, a tensor in all calls that matter here."""
        return self.argument(0, "input")


class _Recorder(TorchFunctionMode):
    """Records the torch functions called inside `with`, those that return a tensor; the `last` of them, or all."""

    def __init__(self, last: int | None = None):
        super().__init__()
        self.calls: deque[_Call] = deque(maxlen=last)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            self.calls.append(_Call(getattr(func, "__name__", "?"), args, kwargs, result))
        return result


@dataclass(frozen=True)
class _Tail:
    """Where a model pools and classifies, counted from its last call backwards.

    Attributes:
        names: of all calls from the pool to the end; at run time they must be the same.
        product, norm: places of the classifier and the normalisation among them; None where there is none.
        channels: dimension of the pool's input that holds the channels.
        shape: of the pool's input for one image; for another the pool is verified again.
    """

    names: tuple[str, ...]
    product: int | None
    norm: int | None
    channels: int
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.names)

    def score_maps(self, calls: Sequence[_Call]) -> Tensor:
        """The calls of one run -> (B, C, h, w) or (B, C, N) score maps."""
        names = tuple(call.name for call in calls)
        if names != self.names:
            raise CsraError(
                f"the model ended with {', '.join(names)}, not with {', '.join(self.names)} as when it was traced; "
                "call it with images alone (no labels), or call add_four_lines again with such an input."
            )
        pool = calls[0]
        one_place = pool.source.numel() == pool.result.numel()  # the mean, and the maximum, of one location
        if pool.source.shape[1:] != self.shape and not one_place and _averaged(pool) != self.channels:
            raise CsraError(
                f"for images of this size the model does not average over its whole map of {tuple(pool.source.shape)}; "
                "give images of the size with which it was traced, or pool with AdaptiveAvgPool2d(1)."
            )
        features = pool.source.movedim(self.channels, -1)  # (B, h, w, d) or (B, N, d)
        if self.norm is not None:
            features = _normalized(calls[self.norm], features, pool.result)
        if self.product is not None:
            weight, bias = _classifier(calls[self.product])
            features = F.linear(features, weight, bias)  # (B, h, w, C)
        return features.movedim(-1, 1)


def _find_tail(logits: Tensor, calls: list[_Call], name: str) -> _Tail:
    """Read the record backwards from the logits."""

    def refuse(call: _Call | None) -> CsraError:
        unknown = f"{call.name if call else 'nothing that was recorded'} stands where an average over locations should"
        return CsraError(f"{name} cannot take the four lines: {REASONS.get(call.name if call else '', unknown)}.")

    def producer(tensor: Tensor, before: int = len(calls)) -> int | None:
        """The place of the call that computed these numbers; calls that only reshape or copy are passed over."""
        for place in range(before - 1, -1, -1):
            if calls[place].result is tensor:
                return producer(calls[place].source, place) if _only_moves(calls[place]) else place
        return None

    product = norm = None
    place = producer(logits)
    if place is not None and calls[place].name in PRODUCTS:
        product = place
        call = calls[product]
        place = producer(call.argument(1, "mat1") if call.name == "addmm" else call.source, product)
    if place is not None and calls[place].name in ("layer_norm", "batch_norm"):
        norm = place
        place = producer(calls[norm].source, norm)
    pool = calls[place] if place is not None else None
    channels = _averaged(pool) if pool is not None and pool.name in AVERAGES else None
    if pool is not None and pool.name in AVERAGES and pool.source.numel() == pool.result.numel():
        raise CsraError(
            f"{name} cannot take the four lines from this example: its map is {tuple(pool.source.shape)}, a single "
            "place; give a larger image."
        )
    if place is None or channels is None:
        raise refuse(pool)
    made = producer(calls[place].source, place) if product is None else None
    while made is not None and calls[made].name in ("transpose", "permute", "movedim"):
        made = producer(calls[made].source, made)
    if made is not None and (calls[made].name in ("stack", "cat") or calls[made].result.ndim == 2):
        raise CsraError(
            f"{name} cannot take the four lines: its logits are a mean over several views or models, not over the "
            "locations of a map; add the four lines to the classifier inside it."
        )
    names = tuple(call.name for call in calls[place:])
    tail = _Tail(
        names,
        product=None if product is None else product - place,
        norm=None if norm is None else norm - place,
        channels=channels,
        shape=tuple(calls[place].source.shape[1:]),
    )
    maps = tail.score_maps(calls[place:]).flatten(2).mean(dim=-1)
    if maps.shape != logits.shape or not torch.allclose(maps, logits, rtol=1e-3, atol=1e-4 * float(logits.abs().max())):
        raise CsraError(f"{name} cannot take the four lines: the mean of its score maps is not its logit.")
    return tail


def _only_moves(call: _Call) -> bool:
    """Whether a call reshapes or copies: it gives back the numbers of its first argument, in their order."""
    source = call.source
    if call.name not in MOVES or not isinstance(source, Tensor) or source.numel() != call.result.numel():
        return False
    return torch.equal(source.reshape(-1).to(call.result.dtype), call.result.reshape(-1))


def _averaged(pool: _Call) -> int | None:
    """The channel dimension of the map of which a call is the global average; None where it is something else."""
    source, result = pool.source, pool.result
    layouts: dict[int, dict[int, tuple[int, ...]]] = {4: {1: (2, 3), 3: (1, 2)}, 3: {2: (1,), 1: (2,)}}
    for channels, dims in layouts.get(source.ndim, {}).items():
        mean = source.mean(dim=dims)
        if source.numel() == mean.numel() or mean.numel() != result.numel():
            continue
        rtol, atol = (1e-4, 1e-6) if result.dtype in (torch.float32, torch.float64) else (2e-2, 2e-2)
        if torch.allclose(mean.flatten().to(result.dtype), result.flatten(), rtol=rtol, atol=atol):
            return channels
    return None


def _classifier(call: _Call) -> tuple[Tensor, Tensor | None]:
    """(C, d) weights and (C,) bias of a linear layer, a 1x1 convolution or a matrix product."""
    if call.name == "addmm":
        return call.argument(2, "mat2").mT, call.args[0]
    weight = call.argument(1, "weight" if call.name in ("linear", "conv2d") else "other")
    if call.name == "linear":
        return weight, call.argument(2, "bias")
    if call.name == "conv2d":
        return weight.flatten(1), call.argument(2, "bias")  # (C, d, 1, 1) -> (C, d)
    return weight.mT, None


def _normalized(call: _Call, features: Tensor, pooled: Tensor) -> Tensor:
    """(B, ..., d) features as the normalisation after the pool sees them; see the top of this file."""
    d = features.shape[-1]
    if call.name == "batch_norm":
        if call.argument(5, "training"):
            raise CsraError("the batch norm after the pool uses statistics of the batch; set the model to eval mode.")
        flat = features.reshape(-1, d)
        options = dict(zip(("running_mean", "running_var", "weight", "bias"), call.args[1:5], strict=False))
        options |= {k: v for k, v in call.kwargs.items() if k != "input"}
        return F.batch_norm(flat, **options).view_as(features)
    weight, bias, eps = (call.argument(i, n) for i, n in ((2, "weight"), (3, "bias"), (4, "eps")))
    variance = pooled.reshape(-1, d).var(dim=-1, unbiased=False) + (1e-5 if eps is None else eps)  # (B,)
    centred = features - features.mean(dim=-1, keepdim=True)
    scaled = centred * variance.rsqrt().view(-1, *[1] * (features.ndim - 1))
    scaled = scaled if weight is None else scaled * weight
    return scaled if bias is None else scaled + bias


# --- what goes in and comes out ---------------------------------------------------------------------------------------


def _example(model: nn.Module) -> Tensor:
    """Two images of noise, of the size that the model names."""
    config = getattr(model, "pretrained_cfg", None) or {}
    side = getattr(getattr(model, "config", None), "image_size", None)
    size = tuple(config.get("input_size") or (3, 224, 224))
    size = (3, side, side) if isinstance(side, int) else size
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *size, generator=generator).to(parameter)


def _logits_of(output: Any) -> Tensor:
    """The (B, C) logits in what a model returned."""
    logits = getattr(output, "logits", output[0] if isinstance(output, tuple) else output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise CsraError(f"the model must return logits (B, C), or an output with .logits, not {shape}.")
    return logits


def _with_logits(output: Any, logits: Tensor) -> Any:
    """The same output with other logits."""
    if hasattr(output, "logits"):
        if hasattr(output, "_replace"):  # a named tuple
            return output._replace(logits=logits)
        output.logits = logits
        return output
    return (logits, *output[1:]) if isinstance(output, tuple) else logits
