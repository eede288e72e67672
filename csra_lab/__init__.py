"""CSRA Lab: class-specific residual attention for multi-label image recognition, exact and small."""

from csra_lab.catalog import load_dataset
from csra_lab.classifier import MultiLabelClassifier, create_classifier, imagenet_classifier
from csra_lab.errors import CsraError
from csra_lab.heads import CSRA
from csra_lab.metrics import multilabel_metrics
from csra_lab.residual_attention import csra_logits, residual_max

__all__ = [
    "CSRA",
    "CsraError",
    "MultiLabelClassifier",
    "create_classifier",
    "csra_logits",
    "imagenet_classifier",
    "load_dataset",
    "multilabel_metrics",
    "residual_max",
]
