"""Checkpoints of other CSRA implementations, read by their key layouts. No code of theirs is used.

Three layouts, each a state dict (maybe wrapped in `state_dict`):

- the authors': `classifier.multi_head.<i>.head.weight` (C, d, 1, 1) for head i, no bias; backbone under torchvision's
  names (ResNet) or timm's (ViT);
- mmpretrain's: `head.csra_heads.<i>.head.weight` (C, d, 1, 1); backbone under `backbone.` and torchvision's names;
- a plain torchvision, timm or mmpretrain classifier: `fc.weight`, `head.weight`, `head.fc.weight`, `classifier.weight`
  or `classifier.1.weight` (C, d) with a bias; an average-pooling baseline.

Names of the backbone's tensors become timm's in `csra_lab.weights.layouts`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from csra_lab.errors import DataError
from csra_lab.weights.sources import read_state_dict

_CSRA_HEAD = re.compile(r"(?:module\.)?(?:classifier\.multi_head|head\.csra_heads)\.(\d+)\.head\.weight")
_LINEAR_HEADS = ("head.fc", "fc", "head", "classifier", "classifier.1", "heads.head")
_LEFT_OVER = {f"{name}.{part}" for name in _LINEAR_HEADS for part in ("weight", "bias")}  # of ImageNet


@dataclass(frozen=True)
class ForeignCheckpoint:
    """A checkpoint taken apart.

    Attributes:
        backbone: tensors, without a prefix; their names may still be torchvision's or mmpretrain's.
        head_weight: (heads, C, d). head_bias: (C,), for plain linear classifiers only.
        layout: "authors", "mmpretrain" or "linear".
    """

    backbone: dict[str, Tensor]
    head_weight: Tensor
    head_bias: Tensor | None
    layout: str


def read_foreign_checkpoint(path: str | Path) -> ForeignCheckpoint:
    """Take a checkpoint of another implementation apart; see the module for the layouts.

    Raises:
        CsraError: an unreadable file, or one with none of the layouts.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in read_state_dict(path).items()}
    heads = {int(m[1]): name for name in state if (m := _CSRA_HEAD.fullmatch(name))}
    if heads:
        if sorted(heads) != list(range(len(heads))):
            raise DataError(f"{path} holds the CSRA heads {sorted(heads)}; one is missing, so the file is not whole.")
        layout = "mmpretrain" if heads[0].startswith("head.") else "authors"
        shapes = {tuple(state[name].shape) for name in heads.values()}
        if len(shapes) != 1:
            raise DataError(f"the CSRA heads in {path} differ in shape, so the file is not one model.")
        if not _is_linear(state[heads[0]]):
            raise DataError(
                f"the CSRA heads in {path} are {state[heads[0]].dtype} of shape {shapes.pop()}; "
                "they must be fractions of shape (classes, features, 1, 1)."
            )
        weight = torch.stack([state[heads[i]].flatten(1) for i in range(len(heads))])  # (heads, C, d)
        return ForeignCheckpoint(dict(_backbone_items(state, set(heads.values()))), weight, None, layout)
    for name in _LINEAR_HEADS:
        linear = state.get(f"{name}.weight")
        if linear is not None and _is_linear(linear):
            used = {f"{name}.weight", f"{name}.bias"}
            bias = state.get(f"{name}.bias")
            if bias is not None and (bias.shape != linear.shape[:1] or not bias.is_floating_point()):
                raise DataError(
                    f"{name}.bias in {path} has the shape {tuple(bias.shape)} for {len(linear)} classes; "
                    "the file is not one model."
                )
            return ForeignCheckpoint(dict(_backbone_items(state, used)), linear.flatten(1)[None], bias, "linear")
    raise DataError(
        f"{path} has no classifier in a layout known here (authors' classifier.multi_head.*, mmpretrain's "
        f"head.csra_heads.*, or {', '.join(_LINEAR_HEADS)} .weight); its names are like {next(iter(state))!r}. A "
        "backbone alone is loaded with weights=FILE of a recipe or of create_classifier."
    )


def _is_linear(weight: Tensor) -> bool:
    """Whether a tensor is a linear classifier, (C, d) or as a 1x1 convolution (C, d, 1, 1)."""
    shaped = weight.ndim == 2 or (weight.ndim == 4 and weight.shape[2:] == (1, 1))
    return shaped and weight.is_floating_point() and len(weight) > 0


def _backbone_items(state: dict[str, Tensor], head_names: set[str]) -> Iterator[tuple[str, Tensor]]:
    """Backbone tensors; mmpretrain puts `backbone.` in front and adds preprocessing constants."""
    for name, tensor in state.items():
        inner = name.removeprefix("backbone.")
        if name not in head_names and inner not in _LEFT_OVER and not name.startswith("data_preprocessor."):
            yield inner, tensor
