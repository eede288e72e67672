"""Readers of data sets: images, classes, and an integer target matrix, one file a format."""

from csra_lab.datasets.coco import COCO_CLASSES
from csra_lab.datasets.dataset import Box, MultiLabelDataset, open_image
from csra_lab.datasets.voc import VOC_CLASSES, write_voc_predictions
from csra_lab.datasets.wider import WIDER_ATTRIBUTES

__all__ = [
    "COCO_CLASSES",
    "VOC_CLASSES",
    "WIDER_ATTRIBUTES",
    "Box",
    "MultiLabelDataset",
    "open_image",
    "write_voc_predictions",
]
