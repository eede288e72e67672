"""What a foreign checkpoint becomes here: a network with its weights, a head's config, and how pixels are read."""

from collections.abc import Sequence
from pathlib import Path

from csra_lab.backbones import Backbone, create_backbone, fit_position_embedding
from csra_lab.errors import DataError
from csra_lab.heads import AverageConfig, CSRAConfig, HeadConfig
from csra_lab.weights.foreign import ForeignCheckpoint
from csra_lab.weights.layouts import to_timm
from csra_lab.weights.sources import load_state

Pixels = tuple[Sequence[float] | None, Sequence[float] | None]
"""Mean and standard deviation of each channel; None for the backbone's own."""
PIXELS_NOTE = (
    "pixels are read as 0..1, as mmpretrain's own settings for CSRA have it; where its config file has another "
    "data_preprocessor, pass mean and std."
)


def fitting_network(
    found: ForeignCheckpoint, path: str | Path, *, backbone: str, num_classes: int, image_size: int | None
) -> Backbone:
    """The network that a checkpoint's head reads, with random weights.

    Raises:
        CsraError: the checkpoint has another class count, or was made with another backbone.
    """
    _, classes, width = found.head_weight.shape
    if classes != num_classes:
        raise DataError(f"{path} classifies {classes} classes, not {num_classes}; pass num_classes={classes}.")
    network = create_backbone(backbone, image_size=image_size)
    if network.num_features != width and found.layout == "linear":
        raise DataError(
            f"the classifier in {path} reads {width} numbers and the feature map of {backbone} has "
            f"{network.num_features} channels: either it was made with another backbone, or it does not read the "
            "mean feature and has no score maps."
        )
    if network.num_features != width:
        raise DataError(
            f"{path} was trained on features of {width} channels and {backbone} gives {network.num_features}; "
            "choose the backbone it was made with."
        )
    if found.layout == "linear" and network.drops_class_token:
        raise DataError(f"the classifier in {path} reads the class token of {backbone}, so it has no score maps.")
    return network


def foreign_head(found: ForeignCheckpoint, *, lam: float, temperatures: Sequence[float] | None) -> HeadConfig:
    """The config of the head that gives the checkpoint's logits. `lam` and `temperatures` are CSRA's alone."""
    if found.layout == "linear":
        return AverageConfig(bias=found.head_bias is not None)
    return CSRAConfig(num_heads=len(found.head_weight), lam=lam, temperatures=tuple(temperatures or ()))


def foreign_pixels(found: ForeignCheckpoint, network: Backbone) -> Pixels:
    """Mean and standard deviation that the layout means: ResNets with CSRA heads read plain 0..1 pixels."""
    if found.layout == "linear" or not network.convolutional:
        return None, None
    return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def load_backbone(network: Backbone, found: ForeignCheckpoint, path: str | Path) -> None:
    """Load the checkpoint's backbone; its position embeddings are interpolated to the network's size.

    Raises:
        CsraError: a tensor that is absent, left over, or of another shape.
    """
    counters = {k: v for k, v in network.model.state_dict().items() if k.endswith("num_batches_tracked")}
    state = to_timm(found.backbone, network.model, network.name, path)
    state = {k: fit_position_embedding(network.model, k, v) for k, v in state.items()}
    load_state(network.model, counters | state, path)
