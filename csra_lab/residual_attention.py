"""The equations of class-specific residual attention, as pure functions on score maps.

A score map holds one number for every class and location: `s[c, k] = x_k . m_c`, the classifier of class `c` applied to
the feature at location `k`. Everything below reads score maps and nothing else, so a chapter, an explorer, a test and a
training step call the same lines.

Notation: B images, H heads, C classes, N = h*w locations, lam the weight of the residual, T in [0, inf] what the
paper calls the temperature. It multiplies the scores, so it is an inverse temperature: T = 0 gives the mean and T = inf
the maximum.
Source: Zhu and Wu, "Residual Attention: A Simple but Effective Method for Multi-Label Recognition", ICCV 2021.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from csra_lab.errors import ConfigError

Temperatures = float | Sequence[float] | Tensor
"""One temperature for each head; a single number for a single head."""


def attention_scores(scores: Tensor, temperature: float) -> Tensor:
    """Class-specific attention (Eq. 2): a softmax over locations of T times the scores.

    T multiplies, so it is an inverse temperature in the sense of physics: a large T is cold and sharp.

    Args:
        scores: (..., N) score maps.
        temperature: T >= 0. Zero weighs every location alike; `math.inf` puts all weight on the first best location.

    Returns:
        (..., N) weights that sum to 1 over the locations, in the type of `scores`; whole numbers give float32.

    Raises:
        CsraError: a temperature that is negative or not a number.
    """
    _check_temperatures([temperature])
    scores = _with_fractions(scores)
    if math.isinf(temperature):
        best = scores.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(scores).scatter_(-1, best, 1.0)
    return _softmax(at_least_float32(scores), [temperature]).to(scores.dtype)


def csra_logits(scores: Tensor, temperatures: Temperatures, lam: float) -> Tensor:
    """Logits of multi-head CSRA: each head's mean score plus lam times its attended score, summed (Eq. 7, 8, 13).

    Args:
        scores: (B, H, C, N) score maps, one for every head.
        temperatures: (H,) temperatures in [0, inf]; `math.inf` is max pooling.
        lam: weight of the residual; 0 leaves the linear classifier on the mean feature.

    Returns:
        (B, C) logits. Half-precision scores give float32: rounded to bfloat16, two thirds of a test set's logits tie,
        which costs up to 0.1 of mAP.

    Raises:
        CsraError: the scores are not 4-d, a temperature is negative, or there is not one for each head.
    """
    if scores.ndim != 4:
        raise ConfigError(f"csra_logits needs scores of shape (B, heads, C, N), not {tuple(scores.shape)}.")
    temperatures = for_heads(temperatures, scores.shape[1])
    wide = at_least_float32(scores)
    logits = wide.mean(dim=-1)  # (B, H, C)
    if lam != 0:
        logits = logits + lam * attended_scores(wide, temperatures)
    return logits.sum(dim=1)  # (B, C)


def attended_scores(scores: Tensor, temperatures: Temperatures) -> Tensor:
    """The softmax-weighted mean score of every head: the second term of Eq. 8, for all heads in one go.

    Args:
        scores: (B, H, C, N) score maps.
        temperatures: (H,) temperatures in [0, inf].

    Returns:
        (B, H, C) attended scores: the mean at T = 0, the maximum at T = inf, in between otherwise. In the type of
        `scores`, summed in float32 at least; whole numbers give float32.

    Raises:
        CsraError: a temperature is negative, or there is not one for each head.
    """
    temperatures = for_heads(temperatures, scores.shape[1])
    scores = _with_fractions(scores)
    wide = at_least_float32(scores)
    soft = [i for i, t in enumerate(temperatures) if not math.isinf(t)]
    if not soft:
        return scores.amax(dim=-1)
    if len(soft) == len(temperatures):
        return _expectation(wide, temperatures).to(scores.dtype)

    # The paper's lists hold finite temperatures and one infinity: two array operations, whatever the number of heads.
    hard = [i for i, t in enumerate(temperatures) if math.isinf(t)]
    softened = _expectation(_take_heads(wide, soft), [temperatures[i] for i in soft])
    maxima = _take_heads(wide, hard).amax(dim=-1)
    both = torch.cat([softened, maxima], dim=1).to(scores.dtype)  # (B, H, C), finite temperatures first
    order = soft + hard
    if order == sorted(order):
        return both
    return both[:, [order.index(i) for i in range(len(order))]]


def residual_max(scores: Tensor, lam: float) -> Tensor:
    """The four lines (paper, Fig. 1): the mean score plus lam times the largest. CSRA with one head at T = inf.

    Args:
        scores: (B, C, N) or (B, C, h, w) score maps of any trained classifier.
        lam: weight of the maximum.

    Returns:
        (B, C) logits; half-precision scores give float32, see `csra_logits`.

    Raises:
        CsraError: scores of another shape.
    """
    if scores.ndim not in (3, 4):
        raise ConfigError(f"residual_max needs scores of shape (B, C, N) or (B, C, h, w), not {tuple(scores.shape)}.")
    scores = at_least_float32(scores).flatten(2)
    average = scores.mean(dim=2)
    maximum = scores.amax(dim=2)
    return average + lam * maximum


def logit_weights(scores: Tensor, temperature: float, lam: float) -> Tensor:
    """How much each location counts in the logit: 1/N + lam * attention, the bracket of Eq. 10.

    The logit of Eq. 8 is the sum of `logit_weights * scores` over the locations.

    Args:
        scores: (..., N) score maps.
        temperature: T in [0, inf].
        lam: weight of the residual.

    Returns:
        (..., N) weights that sum to 1 + lam.

    Raises:
        CsraError: see `attention_scores`.
    """
    return 1 / scores.shape[-1] + lam * attention_scores(scores, temperature)


def residual_weights(scores: Tensor, temperature: float, lam: float) -> Tensor:
    """The share of each location in the class-specific feature: (1/N + lam * attention) / (1 + lam) (Eq. 12).

    These are `logit_weights` divided by their sum: a mixture of the uniform weights, with weight 1 / (1 + lam), and of
    the attention, with weight lam / (1 + lam).

    Args:
        scores: (..., N) score maps.
        temperature: T in [0, inf].
        lam: weight of the residual, above -1.

    Returns:
        (..., N) weights that sum to 1; none is negative where lam is not.

    Raises:
        CsraError: lam is not above -1, so the weights have no positive sum; or see `attention_scores`.
    """
    if not lam > -1:
        raise ConfigError(
            f"residual_weights needs lam above -1, not {lam}: the weights sum to 1 + lam before division."
        )
    return logit_weights(scores, temperature, lam) / (1 + lam)


def gap_to_max(scores: Tensor, temperature: float) -> Tensor:
    """How far the attended score at temperature T lies below the maximum: max_k s_k - sum_k a_k s_k, never negative.

    Args:
        scores: (..., N) score maps.
        temperature: T in [0, inf].

    Returns:
        (...) gaps, in the unit of the scores.

    Raises:
        CsraError: see `attention_scores`.
    """
    below = scores.amax(dim=-1, keepdim=True) - scores  # (..., N), zero at the best location
    return (attention_scores(scores, temperature) * below).sum(dim=-1)


def gap_bound(margin: Tensor | float, num_locations: int, temperature: float) -> Tensor:
    """The largest `gap_to_max` of scores with this many locations and this margin or a larger one. It is attained.

    Let n = N - 1, and let W be Lambert's function, W(x) exp(W(x)) = x. The worst scores have one best location and n
    others that all lie the same distance d below it, with T d = max(T m, 1 + W(n/e)). Hence

        gap <= n m exp(-T m) / (1 + n exp(-T m))   where T m >= 1 + W(n/e)
        gap <= W(n/e) / T                          elsewhere

    Proof: gap <= g / T is the same as sum over the others of (x_k - g) exp(-x_k) <= g, with x_k = T d_k >= T m. Each
    term is largest at x_k = max(T m, 1 + g), so the worst g solves n (x - g) exp(-x) = g at that x.

    Args:
        margin: (...) best minus second-best score, or less than that; >= 0.
        num_locations: N.
        temperature: T in (0, inf].

    Returns:
        (...) bounds, in the unit of the scores and the type of `margin`, exact up to rounding: a gap below the smallest
        normal number of the type may round to more. At T = inf they are 0.

    Raises:
        CsraError: a temperature that is not above 0.
    """
    if not temperature > 0:
        raise ConfigError(f"gap_bound needs a temperature above 0, not {temperature}.")
    margin = torch.as_tensor(margin) * 1.0  # whole numbers become float32
    if math.isinf(temperature):
        return torch.zeros_like(margin)
    others, largest = num_locations - 1, torch.finfo(margin.dtype).max  # keeps T and 1/T finite in this type
    from scipy.special import lambertw  # needed only here, and predicting should not wait for it

    worst = float(lambertw(others / math.e).real)  # T * gap of the worst scores of any margin
    scaled = min(temperature, largest) * margin
    tail = others * torch.exp(-scaled)
    by_margin = margin * tail / (1 + tail)
    return torch.where(scaled >= 1 + worst, by_margin, min(worst / temperature, largest))


def _expectation(scores: Tensor, temperatures: Sequence[float]) -> Tensor:
    """(B, H, C, N) scores -> (B, H, C) means under the softmax of each head's temperature."""
    return (_softmax(scores, temperatures) * scores).sum(dim=-1)


def _column(temperatures: Sequence[float], scores: Tensor) -> Tensor:
    """(H, 1, 1) temperatures where the scores are. A GPU fills them in: a copy would wait for all work before it."""
    if scores.device.type == "cpu":
        return torch.tensor(temperatures, dtype=scores.dtype).view(-1, 1, 1)
    return torch.cat([scores.new_full((1, 1, 1), t) for t in temperatures])


def _softmax(scores: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Softmax of T * scores, with one temperature for all or one for each head of (B, H, C, N)."""
    largest = torch.finfo(scores.dtype).max  # float32 has no 1e39, and inf * 0 is not a number
    temperatures = [min(t, largest) for t in temperatures]
    alike = len(set(temperatures)) == 1
    if alike and temperatures[0] == 1:
        return torch.softmax(scores, dim=-1)
    # The maximum is taken off first, so that T = 1e4 cannot overflow; in place: `below` is ours, and large.
    below = scores - scores.amax(dim=-1, keepdim=True).detach()
    return torch.softmax(below.mul_(temperatures[0] if alike else _column(temperatures, scores)), dim=-1)


def at_least_float32(scores: Tensor) -> Tensor:
    """Half-precision and whole numbers of any shape as float32, in which sums lose nothing; others as they are."""
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else _with_fractions(scores)


def _with_fractions(scores: Tensor) -> Tensor:
    """Whole numbers as float32, so that weights are not cut to 0; others as they are."""
    return scores if scores.is_floating_point() else scores.float()


def _take_heads(scores: Tensor, heads: list[int]) -> Tensor:
    """Slice where the heads are neighbours (no copy), index where they are not."""
    first, last = heads[0], heads[-1]
    return scores[:, first : last + 1] if last - first + 1 == len(heads) else scores[:, heads]


def for_heads(temperatures: Temperatures, heads: int) -> list[float]:
    """The temperatures as a list of numbers, one for each head."""
    if hasattr(temperatures, "flatten"):  # a tensor, or an array of NumPy
        temperatures = temperatures.flatten().tolist()
    values = [float(t) for t in temperatures] if isinstance(temperatures, Sequence) else [float(temperatures)]
    _check_temperatures(values)
    if len(values) != heads:
        raise ConfigError(f"{len(values)} temperatures were given for {heads} heads; give one for each head.")
    return values


def _check_temperatures(temperatures: Sequence[float]) -> None:
    for t in temperatures:
        if not t >= 0:  # also refuses NaN
            raise ConfigError(f"a temperature must be a number from 0 to infinity, not {t}.")
