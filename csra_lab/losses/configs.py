"""The losses with their options, as frozen configs: what a recipe records."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar, get_args

import torch
from torch import Tensor

from csra_lab._io.validation import check_choice, check_types
from csra_lab.errors import ConfigError
from csra_lab.losses.functions import (
    Unknown,
    Weighting,
    asymmetric_loss,
    binary_cross_entropy,
    class_weights,
    fill_unknown,
    focal_loss,
    hill_loss,
    partial_binary_cross_entropy,
    splc_loss,
    two_way_loss,
    weighted_binary_cross_entropy,
)

_FOCUSING, _LOGIT, _SHARE = (0, 1000), (-1000, 1000), (0, 1)


@dataclass(frozen=True)
class Loss:
    """A loss with its options: called with logits and targets, recorded by `config()`.

    Attributes:
        unknown: what an entry of -1 means.

    Raises:
        ConfigError: an option that is not of its type, or out of its limits.
    """

    LIMITS: ClassVar[Mapping[str, tuple[float, float]]] = {}
    unknown: Unknown = "ignore"

    def __post_init__(self) -> None:
        check_choice("unknown", self.unknown, get_args(Unknown))
        check_types(self, f"loss {type(self).__name__}")
        for name, (low, high) in self.LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"loss {type(self).__name__}: {name} must be from {low:,} to {high:,}, not {value}.")

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, C) logits and (B, C) targets in {1, 0, -1} -> a scalar, float32."""
        return self.compute(logits, fill_unknown(targets, self.unknown))

    def with_labels(self, targets: Tensor) -> "Loss":
        """This loss for a training set with these (N, C) targets: itself, but for one that still has to read them."""
        return self

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, C) logits and targets -> the loss, after unknown entries became what `unknown` says."""
        raise NotImplementedError

    def config(self) -> dict:
        """The options that build this loss again."""
        return asdict(self)


@dataclass(frozen=True)
class BCE(Loss):
    """See `binary_cross_entropy`."""

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        return binary_cross_entropy(logits, targets)


@dataclass(frozen=True)
class WeightedBCE(Loss):
    """See `weighted_binary_cross_entropy`; `WeightedBCE.of(targets)` reads the weights off a training set.

    Attributes:
        positive, negative: C weights each. With none, training reads them off its labels (`with_labels`), and the loss
            by itself is plain BCE.
    """

    positive: tuple[float, ...] = ()
    negative: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("positive", "negative"):
            weights = getattr(self, name)
            object.__setattr__(self, name, tuple(weights) if isinstance(weights, list) else weights)  # JSON gives lists
        super().__post_init__()
        if not all(0 <= weight <= 1e6 for weight in (*self.positive, *self.negative)):
            raise ConfigError("the weights of a weighted loss must be from 0 to 1,000,000.")
        if len(self.positive) != len(self.negative):
            raise ConfigError(
                f"{len(self.positive)} weights of positives and {len(self.negative)} of negatives differ."
            )

    @classmethod
    def of(cls, targets: Tensor, weighting: Weighting = "exponential", *, unknown: Unknown = "ignore", **options):
        """The loss for a training set with these (N, C) targets; see `class_weights` for the options."""
        pair = class_weights(fill_unknown(targets, unknown), weighting, **options)
        return cls(unknown, *(tuple(weights.tolist()) for weights in pair))

    def with_labels(self, targets: Tensor) -> Loss:
        return self if self.positive else WeightedBCE.of(targets, unknown=self.unknown)

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        if not self.positive:
            return binary_cross_entropy(logits, targets)
        if len(self.positive) != logits.shape[1]:
            raise ConfigError(f"the loss has weights for {len(self.positive)} classes, not {logits.shape[1]}.")
        pair = (logits.new_tensor(weights, dtype=torch.float32) for weights in (self.positive, self.negative))
        return weighted_binary_cross_entropy(logits, targets, *pair)


@dataclass(frozen=True)
class PartialBCE(Loss):
    """See `partial_binary_cross_entropy`."""

    LIMITS: ClassVar = dict.fromkeys(("alpha", "beta", "gamma"), (-1000, 1000))
    alpha: float = -4.45
    beta: float = 5.45
    gamma: float = 1.0

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        return partial_binary_cross_entropy(logits, targets, alpha=self.alpha, beta=self.beta, gamma=self.gamma)


@dataclass(frozen=True)
class Focal(Loss):
    """See `focal_loss`."""

    LIMITS: ClassVar = {"gamma": _FOCUSING, "alpha": _SHARE}
    gamma: float = 2.0
    alpha: float | None = None

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        return focal_loss(logits, targets, gamma=self.gamma, alpha=self.alpha)


@dataclass(frozen=True)
class ASL(Loss):
    """See `asymmetric_loss`."""

    LIMITS: ClassVar = {"gamma_negative": _FOCUSING, "gamma_positive": _FOCUSING, "margin": _SHARE}
    gamma_negative: float = 4.0
    gamma_positive: float = 0.0
    margin: float = 0.05

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        options = {"gamma_negative": self.gamma_negative, "gamma_positive": self.gamma_positive}
        return asymmetric_loss(logits, targets, margin=self.margin, **options)


@dataclass(frozen=True)
class Hill(Loss):
    """See `hill_loss`."""

    LIMITS: ClassVar = {"lam": (1, 1000), "margin": _LOGIT, "gamma": _FOCUSING}  # below 1 negatives could earn
    lam: float = 1.5
    margin: float = 1.0
    gamma: float = 2.0

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        return hill_loss(logits, targets, lam=self.lam, margin=self.margin, gamma=self.gamma)


@dataclass(frozen=True)
class SPLC(Loss):
    """See `splc_loss`."""

    LIMITS: ClassVar = {"tau": _SHARE, "margin": _LOGIT, "gamma": _FOCUSING}
    tau: float = 0.6
    margin: float = 1.0
    gamma: float = 2.0

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        return splc_loss(logits, targets, tau=self.tau, margin=self.margin, gamma=self.gamma)


@dataclass(frozen=True)
class TwoWay(Loss):
    """See `two_way_loss`."""

    LIMITS: ClassVar = dict.fromkeys(("t_positive", "t_negative"), (0.001, 1000))
    t_positive: float = 4.0
    t_negative: float = 1.0

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        return two_way_loss(logits, targets, t_positive=self.t_positive, t_negative=self.t_negative)


LOSSES: dict[str, Loss] = {
    "bce": BCE(),
    "weighted-bce": WeightedBCE(),
    "partial-bce": PartialBCE(),
    "focal": Focal(),
    "asl": ASL(),
    "hill": Hill(),
    "splc": SPLC(),
    "two-way": TwoWay(),
}
"""Every loss by name, with its paper's options."""


def create_loss(name: str, **options) -> Loss:
    """A loss by name: `create_loss("asl", gamma_negative=2.0)`.

    Raises:
        CsraError: an unknown name, or an option that this loss does not have.
    """
    if name not in LOSSES:
        raise ConfigError(f"there is no loss {name!r}; choose {', '.join(LOSSES)}.")
    try:
        return type(LOSSES[name])(**options)
    except TypeError as error:
        known = ", ".join(LOSSES[name].config())
        raise ConfigError(f"loss {name!r} has the options {known}, not {', '.join(options)}.") from error
