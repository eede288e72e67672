"""Multi-label losses on logits and targets in {1, 0, -1}, where -1 entries may be left out."""

import torch
import torch.nn.functional as F
from torch import Tensor


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The paper's loss: binary cross-entropy of every class.

    Args:
        logits: (B, C). targets: (B, C) in {1, 0, -1}; entries of -1 add nothing.

    Returns:
        The sum over the known entries, divided by B * C. Dividing by all entries keeps it an average over images
        whatever the number of unknown ones, so that batches split over processes add up to the batch.
    """
    known = targets >= 0
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets.clamp(min=0).float(), reduction="none")
    return (losses * known).sum() / logits.numel()


def asymmetric_loss(
    logits: Tensor, targets: Tensor, *, gamma_negative: float = 4.0, gamma_positive: float = 0.0, margin: float = 0.05
) -> Tensor:
    """Asymmetric loss (Ridnik et al., ICCV 2021, Eq. 5-7): easy negatives are damped, the easiest dropped.

    Args:
        logits: (B, C). targets: (B, C) in {1, 0, -1}; entries of -1 add nothing.
        gamma_negative, gamma_positive: focusing exponents. margin: probability taken off every negative.

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
    losses = -torch.where(targets == 1, positive, negative)
    return (losses * (targets >= 0)).sum() / logits.numel()


LOSSES = {"bce": binary_cross_entropy, "asl": asymmetric_loss}
