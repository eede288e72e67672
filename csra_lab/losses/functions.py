"""The losses as pure functions: sums over the known entries divided by B * C, but for the two-way loss.

Logits and targets of different shapes raise a CsraError. The values of the targets are not looked at, which would take
time in every step; a batch without images gives no number.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from csra_lab._io.validation import check_choice
from csra_lab.errors import ConfigError

Unknown = Literal["ignore", "negative"]
"""What an entry of -1 means for a loss: nothing, or absent."""
Weighting = Literal["exponential", "balanced", "effective"]
"""How `class_weights` turns the frequency of a class into weights."""
_FAR = -1e30  # stands for minus infinity in a log-sum-exp, with a gradient of 0 instead of NaN


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The paper's loss: binary cross-entropy of every class.

    Args:
        logits: (B, C).
        targets: (B, C) in {1, 0, -1}; entries of -1 add nothing. Soft labels, as mixup makes, are not for these
            losses: others than this one take all but 1 for absent.

    Returns:
        The sum over the known entries, divided by B * C.
    """
    _check_shapes(logits, targets)
    known = targets >= 0
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets.clamp(min=0).float(), reduction="none")
    return (losses * known).sum() / logits.numel()


def weighted_binary_cross_entropy(
    logits: Tensor, targets: Tensor, positive_weights: Tensor, negative_weights: Tensor
) -> Tensor:
    """Binary cross-entropy with one weight for the positives and one for the negatives of each class.

    Args:
        logits: (B, C). targets: (B, C), as of `binary_cross_entropy`.
        positive_weights, negative_weights: (C,) weights, for instance from `class_weights`; all 1 is plain BCE.
    """
    logits = logits.float()
    positive = positive_weights.to(logits) * F.logsigmoid(logits)
    negative = negative_weights.to(logits) * F.logsigmoid(-logits)
    return _sum_of_known(positive, negative, targets)


def class_weights(targets: Tensor, weighting: Weighting = "exponential", *, beta: float = 0.999) -> tuple[Tensor, ...]:
    """Weights for `weighted_binary_cross_entropy`, from the labels of a training set.

    With r the share of positives among a class's n known labels:

        "exponential"   exp(1 - r) for positives, exp(r) for negatives (DeepMAR, Li et al., ACPR 2015)
        "balanced"      1 / (2 r) and 1 / (2 (1 - r)): both sides count alike
        "effective"     1 / E(positives) and 1 / E(negatives), E(m) = (1 - beta^m) / (1 - beta), scaled so that a
                        class's entries keep a mean weight of 1 (Cui et al., CVPR 2019)

    Args:
        targets: (N, C) in {1, 0, -1}.
        weighting: one of the three.
        beta: in [0, 1), only for "effective"; 0 weighs all alike, towards 1 it is "balanced".

    Returns:
        (C,) weights of positives and (C,) weights of negatives, float32.

    Raises:
        CsraError: an unknown weighting, a beta out of range, or a class without a positive or without a negative.
    """
    if weighting not in get_args(Weighting):
        raise ConfigError(f"there is no weighting {weighting!r}; choose {', '.join(get_args(Weighting))}.")
    if not 0 <= beta < 1:
        raise ConfigError(f"beta must be at least 0 and below 1, not {beta}.")
    targets = torch.as_tensor(targets)  # those of a data set are NumPy's
    positives, negatives = ((targets == value).sum(dim=0).double() for value in (1, 0))  # (C,)
    missing = ((positives == 0) | (negatives == 0)).nonzero().flatten().tolist()
    if missing:
        raise ConfigError(f"class {missing[0]} has no positive or no negative label; leave it out or give more images.")
    known = positives + negatives
    share = positives / known
    if weighting == "exponential":
        pair = torch.exp(1 - share), torch.exp(share)
    elif weighting == "balanced":
        pair = 0.5 / share, 0.5 / (1 - share)
    else:
        raw = [(1 - beta) / (1 - beta**count) for count in (positives, negatives)]
        scale = known / (raw[0] * positives + raw[1] * negatives)
        pair = raw[0] * scale, raw[1] * scale
    return tuple(weights.float() for weights in pair)


def partial_binary_cross_entropy(
    logits: Tensor, targets: Tensor, *, alpha: float = -4.45, beta: float = 5.45, gamma: float = 1.0
) -> Tensor:
    """BCE over the known labels of an image, times alpha q^gamma + beta, with q the share of its labels that are known.

    Durand et al., "Learning a Deep ConvNet for Multi-label Classification with Partial Labels", CVPR 2019,
    with their constants: the factor is 1 where all is known and 5 where a tenth is.

    Args:
        logits: (B, C). targets: (B, C), as of `binary_cross_entropy`.
        alpha, beta, gamma: of the factor. An image of which nothing is known adds nothing.
    """
    _check_shapes(logits, targets)
    known = targets >= 0
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets.clamp(min=0).float(), reduction="none")
    share = known.float().mean(dim=1)  # (B,)
    factor = alpha * share.clamp(min=1 / logits.shape[1]) ** gamma + beta
    return ((losses * known).sum(dim=1) * factor).sum() / logits.numel()


def focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Focal loss: -(1 - p_t)^gamma log p_t, with p_t the probability of the truth.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, Eq. 4 and 5.

    Args:
        logits: (B, C). targets: (B, C), as of `binary_cross_entropy`.
        gamma: >= 0; 0 is BCE.
        alpha: weight of positives, with 1 - alpha for negatives; None weighs both 1. The paper's detector uses 0.25.
    """
    logits = logits.float()
    log_p, log_rest = F.logsigmoid(logits), F.logsigmoid(-logits)
    positive_weight, negative_weight = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    positive = positive_weight * torch.exp(gamma * log_rest) * log_p
    negative = negative_weight * torch.exp(gamma * log_p) * log_rest
    return _sum_of_known(positive, negative, targets)


def asymmetric_loss(
    logits: Tensor, targets: Tensor, *, gamma_negative: float = 4.0, gamma_positive: float = 0.0, margin: float = 0.05
) -> Tensor:
    """Asymmetric loss (Ridnik et al., ICCV 2021, Eq. 5-7): easy negatives are damped, the easiest dropped.

    Args:
        logits: (B, C). targets: (B, C), as of `binary_cross_entropy`.
        gamma_negative, gamma_positive: focusing exponents.
        margin: probability taken off every negative.

    Returns:
        The sum over the known entries, divided by B * C (the original sums over all, so its learning
        rates are for a loss B * C times as large).
    """
    logits = logits.float()
    log_p, log_rest = F.logsigmoid(logits), F.logsigmoid(-logits)  # log p and log(1 - p), exact in both tails
    positive = torch.exp(gamma_positive * log_rest) * log_p
    shifted = (torch.sigmoid(logits) - margin).clamp(min=1e-8)  # probability of a negative after the margin
    log_margin = torch.tensor(margin, device=logits.device).log()  # -inf for no margin
    negative = shifted**gamma_negative * torch.logaddexp(log_rest, log_margin).clamp(max=0)  # log(1 - shifted)
    return _sum_of_known(positive, negative, targets)


def hill_loss(logits: Tensor, targets: Tensor, *, lam: float = 1.5, margin: float = 1.0, gamma: float = 2.0) -> Tensor:
    """Hill loss, for training sets in which positives are missing.

    A negative costs (lam - p) p^2. Its slope, p^2 (1 - p) (2 lam - 3 p), falls back to 0 at p = 1: a negative that the
    model is sure of is taken for a missing positive. Positives have the focal margin loss.

    Zhang et al., "Simple and Robust Loss Design for Multi-Label Learning with Missing Labels", 2021.

    Args:
        logits: (B, C). targets: (B, C), as of `binary_cross_entropy`.
        lam: height of the hill; at 1.5 the slope is 3 p^2 (1 - p)^2.
        margin, gamma: of the positives, see `focal_margin`.
    """
    logits = logits.float()
    p = torch.sigmoid(logits)
    return _sum_of_known(focal_margin(logits, margin, gamma), -(lam - p) * p**2, targets)


def splc_loss(logits: Tensor, targets: Tensor, *, tau: float = 0.6, margin: float = 1.0, gamma: float = 2.0) -> Tensor:
    """Self-paced loss correction: a negative with probability above tau is trained as a positive.

    Positives have the focal margin loss, the other negatives focal loss. The paper (Zhang et al. 2021; see
    `hill_loss`) starts the correction after the first epoch, when probabilities mean something; train one epoch with
    `tau=1` before it, or start from a trained classifier.

    Args:
        logits: (B, C). targets: (B, C), as of `binary_cross_entropy`.
        tau: probability above which a negative counts as missing, from 0 to 1; 1 corrects none.
        margin, gamma: see `focal_margin`.
    """
    logits = logits.float()
    positive = focal_margin(logits, margin, gamma)
    negative = torch.exp(gamma * F.logsigmoid(logits)) * F.logsigmoid(-logits)
    missing = torch.sigmoid(logits.detach()) > tau
    return _sum_of_known(positive, torch.where(missing, positive, negative), targets)


def focal_margin(logits: Tensor, margin: float, gamma: float) -> Tensor:
    """The log-likelihood (1 - q)^gamma log q of positives with q = sigmoid(logit - margin) (Zhang et al. 2021).

    Args:
        logits: of any shape.
        margin: logit that a positive has to be ahead.
        gamma: focusing exponent.
    """
    shifted = logits - margin
    return torch.exp(gamma * F.logsigmoid(-shifted)) * F.logsigmoid(shifted)


def two_way_loss(logits: Tensor, targets: Tensor, *, t_positive: float = 4.0, t_negative: float = 1.0) -> Tensor:
    """Two-way loss: smoothed, the hardest negative is to score below the hardest positive, twice.

    Once over the classes of each image, once over the images of each class:

        softplus(t_n log sum_n exp(x_n / t_n) + t_p log sum_p exp(-x_p / t_p))

    averaged over the images, and over the classes, that have a positive; the two averages are added. Kobayashi,
    "Two-way Multi-Label Loss", CVPR 2023. The classes' part reads the batch as a whole, so parts of a
    batch, on several processes or with gradient accumulation, do not add up to it: each part is ranked by itself.

    Args:
        logits: (B, C). targets: (B, C), as of `binary_cross_entropy`.
        t_positive, t_negative: temperatures, > 0.
    """
    _check_shapes(logits, targets)
    logits = logits.float()
    # (B, C) filled so that what does not belong vanishes in the sum
    negatives = torch.where(targets == 0, logits / t_negative, _FAR)
    positives = torch.where(targets == 1, -logits / t_positive, _FAR)
    loss = logits.new_zeros(())
    for dim in (1, 0):
        gap = t_negative * negatives.logsumexp(dim) + t_positive * positives.logsumexp(dim)
        counted = (targets == 1).any(dim)  # (B,) or (C,)
        loss = loss + (F.softplus(gap) * counted).sum() / counted.sum().clamp(min=1)
    return loss


def fill_unknown(targets: Tensor, unknown: Unknown) -> Tensor:
    """(B, C) targets in which -1 stays ("ignore") or becomes 0 ("negative")."""
    check_choice("unknown", unknown, get_args(Unknown))
    return targets.clamp(min=0) if unknown == "negative" else targets


def _check_shapes(logits: Tensor, targets: Tensor) -> None:
    """Refuse targets that would be stretched to the logits' shape: every one would count for several entries."""
    if logits.shape != targets.shape:
        raise ConfigError(
            f"logits and targets must both be (images, classes), not {tuple(logits.shape)} and {tuple(targets.shape)}."
        )


def _sum_of_known(positive: Tensor, negative: Tensor, targets: Tensor) -> Tensor:
    """Log-likelihoods of every entry as a positive and as a negative -> minus the sum of the true ones over B * C."""
    _check_shapes(positive, targets)
    return -(torch.where(targets == 1, positive, negative) * (targets >= 0)).sum() / targets.numel()
