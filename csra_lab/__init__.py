"""CSRA Lab: class-specific residual attention for multi-label image recognition, exact and small.

The names below are imported when they are first used, so that `import csra_lab` costs nothing and
`import csra_lab.metrics` needs NumPy only.
"""

from typing import TYPE_CHECKING

from csra_lab._io.lazy import lazy_names

if TYPE_CHECKING:
    from csra_lab._io.resources import recorded as recorded
    from csra_lab.catalog import load_dataset as load_dataset
    from csra_lab.classifier import MultiLabelClassifier as MultiLabelClassifier
    from csra_lab.classifier import create_classifier as create_classifier
    from csra_lab.classifier import imagenet_classifier as imagenet_classifier
    from csra_lab.errors import CsraError as CsraError
    from csra_lab.four_lines_anywhere import add_four_lines as add_four_lines
    from csra_lab.four_lines_anywhere import choose_lam as choose_lam
    from csra_lab.heads import CSRA as CSRA
    from csra_lab.metrics import multilabel_metrics as multilabel_metrics
    from csra_lab.recipes import Recipe as Recipe
    from csra_lab.recipes import get_recipe as get_recipe
    from csra_lab.residual_attention import csra_logits as csra_logits
    from csra_lab.residual_attention import residual_max as residual_max
    from csra_lab.training.evaluation import evaluate as evaluate
    from csra_lab.training.loop import train as train
    from csra_lab.widgets import explore as explore

__version__ = "0.1.0"  # said here and nowhere else; pyproject.toml reads it

_HOMES = {
    "CSRA": "csra_lab.heads",
    "CsraError": "csra_lab.errors",
    "MultiLabelClassifier": "csra_lab.classifier",
    "Recipe": "csra_lab.recipes",
    "add_four_lines": "csra_lab.four_lines_anywhere",
    "choose_lam": "csra_lab.four_lines_anywhere",
    "create_classifier": "csra_lab.classifier",
    "csra_logits": "csra_lab.residual_attention",
    "evaluate": "csra_lab.training.evaluation",
    "explore": "csra_lab.widgets",
    "get_recipe": "csra_lab.recipes",
    "imagenet_classifier": "csra_lab.classifier",
    "load_dataset": "csra_lab.catalog",
    "multilabel_metrics": "csra_lab.metrics",
    "recorded": "csra_lab._io.resources",
    "residual_max": "csra_lab.residual_attention",
    "train": "csra_lab.training.loop",
}
__all__ = [*_HOMES]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
