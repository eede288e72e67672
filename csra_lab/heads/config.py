"""The options of each head, as a frozen config that holds exactly its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real

from csra_lab.errors import ConfigError
from csra_lab.residual_attention import for_heads

PAPER_TEMPERATURES: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (1.0, math.inf),
    4: (1.0, 2.0, 4.0, math.inf),
    6: (1.0, 2.0, 3.0, 4.0, 5.0, math.inf),
    8: (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, math.inf),
}
"""Temperatures of the paper for each number of heads (section 3.4); infinity is max pooling."""


@dataclass(frozen=True)
class HeadConfig:
    """The options that every head has.

    Attributes:
        normalize: divide each class's classifier by its length, so that scores compare directions only (section 3.4).
        bias: add a learnt constant to the scores of each class.
    """

    normalize: bool = False
    bias: bool = False

    def __post_init__(self):
        for name in ("normalize", "bias"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false, not {getattr(self, name)!r}.")

    def options(self) -> dict:
        """The options by name: the keyword arguments that build the head again."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class CSRAConfig(HeadConfig):
    """Class-specific residual attention (section 3). The paper normalises.

    Attributes:
        num_heads: H, one classifier and one temperature each.
        lam: weight of the residual; 0 is average pooling. The paper uses 0.1 on VOC2007.
        temperatures: H numbers in [0, inf]; none named means the paper's list (H = 1, 2, 4, 6 or 8).

    Raises:
        CsraError: a number of heads that the paper has no list for, without temperatures; or a wrong number of them.
    """

    num_heads: int = 1
    lam: float = 0.1
    temperatures: tuple[float, ...] = ()
    normalize: bool = True

    def __post_init__(self):
        super().__post_init__()
        whole("num_heads", self.num_heads)
        finite("lam", self.lam)
        named = None if isinstance(self.temperatures, tuple | list) and not self.temperatures else self.temperatures
        object.__setattr__(self, "temperatures", temperatures(self.num_heads, named))


@dataclass(frozen=True)
class AverageConfig(HeadConfig):
    """The mean score: the baseline of every table."""


@dataclass(frozen=True)
class MaxConfig(HeadConfig):
    """The largest score alone."""


@dataclass(frozen=True)
class SpatialConfig(HeadConfig):
    """The attended score without the mean (Table 6).

    Attributes:
        temperature: T in [0, inf].
    """

    temperature: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "temperature", temperatures(1, [self.temperature])[0])


@dataclass(frozen=True)
class LogSumExpConfig(HeadConfig):
    """A smooth maximum (Pinheiro and Collobert, CVPR 2015).

    Attributes:
        r: sharpness, > 0; towards 0 it is the mean, towards infinity the maximum.
    """

    r: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        positive("r", self.r)


@dataclass(frozen=True)
class TopKConfig(HeadConfig):
    """The mean of the k largest scores.

    Attributes:
        k: locations that count; where a map has fewer, all of them.
    """

    k: int = 3

    def __post_init__(self):
        super().__post_init__()
        whole("k", self.k)


@dataclass(frozen=True)
class GeMConfig(HeadConfig):
    """Generalised-mean pooling of the features (Radenovic et al., TPAMI 2019).

    Attributes:
        p: start value of the learnt exponent, > 0; 1 is average pooling, towards infinity max pooling.
    """

    p: float = 3.0

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "p", positive("p", self.p))


def temperatures(heads: int, temperatures: Sequence[float | str] | None) -> tuple[float, ...]:
    """H temperatures as numbers from 0 to infinity; the paper's list where none is named. CsraError for others."""
    if temperatures is None:
        if heads not in PAPER_TEMPERATURES:
            known = ", ".join(map(str, PAPER_TEMPERATURES))
            raise ConfigError(
                f"the paper gives temperatures for {known} heads; for {heads}, pass temperatures=[...] yourself."
            )
        return PAPER_TEMPERATURES[heads]
    try:
        if isinstance(temperatures, str) or any(isinstance(t, bool) for t in temperatures):
            raise TypeError
        values = tuple(float(t) for t in temperatures)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"temperatures must be a list of numbers or 'inf', one for each head, not {temperatures!r}."
        ) from error
    return tuple(for_heads(values, heads))


def whole(name: str, value: int) -> int:
    """A whole number from 1 on. CsraError for another value."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ConfigError(f"{name} must be a whole number, not {value!r}.")
    if value < 1:
        raise ConfigError(f"{name} must be at least 1, not {value}.")
    return int(value)


def positive(name: str, value: float) -> float:
    """A number above 0. CsraError for another value."""
    if finite(name, value) <= 0:
        raise ConfigError(f"{name} must be a positive number, not {value}.")
    return float(value)


def finite(name: str, value: float) -> float:
    """A number that float32 holds. CsraError for another value."""
    if isinstance(value, bool) or not isinstance(value, Real) or not abs(value) < 1e38:  # what float32 holds
        raise ConfigError(f"{name} must be a finite number, not {value!r}.")
    return float(value)
