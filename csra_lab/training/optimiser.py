"""One policy of optimisers for every loop: groups of parameters, their peak rates, and the schedule over both."""

from collections.abc import Iterable

import torch
from torch import nn

from csra_lab.classifier import MultiLabelClassifier
from csra_lab.recipes import OptimisationConfig, Recipe, learning_rate_factor


def parameter_groups(parameters: Iterable[nn.Parameter], peak_lr: float, plan: OptimisationConfig) -> list[dict]:
    """Groups of an optimiser that share a peak rate. AdamW decays matrices and filters only; SGD all, as the paper."""
    parameters, groups = list(parameters), []
    for is_matrix in (True, False):
        members = [p for p in parameters if (p.ndim > 1) == is_matrix]
        decay = plan.weight_decay if is_matrix or plan.optimizer == "sgd" else 0.0
        if members:
            groups.append({"params": members, "lr": peak_lr, "peak_lr": peak_lr, "weight_decay": decay})
    return groups


def build_optimizer(groups: list[dict], plan: OptimisationConfig) -> torch.optim.Optimizer:
    """SGD or AdamW, whose steps are fused: torch's fastest, on a CPU too."""
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=plan.momentum, fused=True)
    return torch.optim.AdamW(groups, betas=(plan.momentum, 0.999), fused=True)


def model_optimizer(recipe: Recipe, model: MultiLabelClassifier) -> torch.optim.Optimizer:
    """The optimiser of a run: the backbone and the head have a rate each."""
    plan, groups = recipe.optimisation, []
    if not recipe.model.freeze_backbone:
        groups += parameter_groups(model.backbone.parameters(), plan.backbone_lr, plan)
    groups += parameter_groups(model.head.parameters(), plan.head_lr, plan)
    return build_optimizer(groups, plan)


@torch.no_grad()
def move_average(average: nn.Module, network: nn.Module, *, decay: float) -> None:
    """Move the average of a network's weights towards those of now; other numbers, as batch norm's, are copied."""
    for mean, new in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(new, 1 - decay)
    for number, current in zip(average.buffers(), network.buffers(), strict=True):
        number.copy_(current)


def set_rates(optimizer: torch.optim.Optimizer, moment: float, plan: OptimisationConfig) -> None:
    """Every group's rate at a moment of training, in epochs."""
    factor = learning_rate_factor(moment, plan)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
