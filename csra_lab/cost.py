"""What a model costs: parameters and multiply-adds, counted by running it on shapes alone."""

from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from csra_lab.classifier import create_classifier


@dataclass(frozen=True)
class Cost:
    """What one image costs.

    Attributes:
        parameters, multiply_adds: how many, in the whole model.
        head_parameters, head_multiply_adds: the head's part of them.
    """

    parameters: int
    multiply_adds: int
    head_parameters: int
    head_multiply_adds: int


def model_cost(backbone: str, *, num_classes: int, image_size: int | None = None, **head_options) -> Cost:
    """Parameters and multiply-adds of a classifier, without allocating its weights.

    A multiply-add is one multiplication with its addition; convolutions, matrix products and attention are counted,
    normalisations and activations are not (papers that print FLOPs mostly mean this number; some mean twice it).

    Args:
        backbone: timm's name. num_classes: C. image_size: pixels, None for the backbone's own.
        head_options: as for `create_classifier`.
    """
    with torch.device("meta"):
        model = create_classifier(backbone, num_classes=num_classes, image_size=image_size, **head_options).eval()
        image = torch.empty(1, 3, model.image_size, model.image_size)
        features = torch.empty(1, model.backbone.num_features, *model.backbone.grid)
    return Cost(
        parameters=count_parameters(model),
        multiply_adds=count_multiply_adds(model, image),
        head_parameters=count_parameters(model.head),
        head_multiply_adds=count_multiply_adds(model.head, features),
    )


def count_parameters(module: torch.nn.Module) -> int:
    """Numbers in the parameters of a module, frozen ones included."""
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def count_multiply_adds(module: torch.nn.Module, inputs: torch.Tensor) -> int:
    """Multiply-adds of a module on these inputs; see `model_cost`."""
    # As plain products, attention is counted on every device; torch 2.11 misses its fused form on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(inputs)
    return counter.get_total_flops() // 2
