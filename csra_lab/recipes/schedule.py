"""Learning rates over a run."""

import math

from csra_lab.recipes.config import OptimisationConfig


def learning_rate_factor(epoch: float, plan: OptimisationConfig) -> float:
    """The share of the peak learning rate at a moment of training (fractional epochs from 0 to `plan.epochs`)."""
    if plan.schedule == "one-cycle":  # up for 30 % of the time, then down to nothing, both along a cosine
        rise = 0.3 * plan.epochs
        if epoch < rise:
            return 0.04 + 0.96 * _half_cosine(1 - epoch / rise)
        return _half_cosine((epoch - rise) / (plan.epochs - rise))
    if epoch < plan.warmup_epochs:
        return epoch / plan.warmup_epochs
    if plan.schedule == "cosine":
        return _half_cosine((epoch - plan.warmup_epochs) / max(plan.epochs - plan.warmup_epochs, 1e-9))
    if plan.schedule == "step":
        return plan.step_gamma ** math.floor(epoch / plan.step_epochs)
    return 1.0


def _half_cosine(x: float) -> float:
    """From 1 at x = 0 to 0 at x = 1."""
    return 0.5 * (1 + math.cos(math.pi * min(max(x, 0.0), 1.0)))
