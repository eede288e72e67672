"""Recipes: everything that decides a training run."""

from csra_lab.recipes.config import (
    DataConfig,
    ModelConfig,
    OptimisationConfig,
    Recipe,
    RunConfig,
    average_twin,
    loss_kind,
)
from csra_lab.recipes.named import (
    GIGA_MULTIPLY_ADDS,
    MEASURED,
    PAPER_BACKBONES,
    RECIPES,
    VOC2012_PHOTOGRAPH_CLASSES,
    get_recipe,
)
from csra_lab.recipes.schedule import learning_rate_factor

__all__ = [
    "GIGA_MULTIPLY_ADDS",
    "MEASURED",
    "PAPER_BACKBONES",
    "RECIPES",
    "VOC2012_PHOTOGRAPH_CLASSES",
    "DataConfig",
    "ModelConfig",
    "OptimisationConfig",
    "Recipe",
    "RunConfig",
    "average_twin",
    "get_recipe",
    "learning_rate_factor",
    "loss_kind",
]
