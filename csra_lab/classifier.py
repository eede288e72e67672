"""The multi-label classifier: a backbone and a head, one object to call, save, load and publish."""

import copy
import math
import reprlib
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from PIL import Image
from torch import Tensor, nn

from csra_lab._io import strict_json
from csra_lab._io.notice import warn
from csra_lab._io.validation import is_name
from csra_lab.backbones import Backbone, Weights, best_weights, create_backbone, load_timm
from csra_lab.datasets.imagenet_folder import imagenet_names
from csra_lab.datasets.transforms import eval_transform, train_transform
from csra_lab.errors import ConfigError
from csra_lab.heads import (
    CSRA,
    HeadConfig,
    ScoreMapHead,
    build_head,
    four_lines_head,
    head_config,
    head_json,
    head_kind,
)
from csra_lab.heads.base import shared_copy
from csra_lab.prediction import ImageInput, Prediction, iterate_predictions
from csra_lab.weights.foreign import read_foreign_checkpoint
from csra_lab.weights.foreign_parts import PIXELS_NOTE, fitting_network, foreign_head, foreign_pixels, load_backbone
from csra_lab.weights.saved import read_config, saved_folder
from csra_lab.weights.sources import check_unchanged, load_state, read_head, read_state_dict, write_head

HEAD_FILE = "head.safetensors"


class MultiLabelClassifier(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="csra-lab",
    tags=["multi-label-image-classification", "csra"],
    license="mit",
):
    """A backbone and a head: images (B, 3, H, W) -> logits (B, C).

    Args:
        backbone: timm's name of the network.
        classes: C class names, in the order of the logits.
        head: a head's config, or as JSON {"kind": a key of `csra_lab.heads.build.HEADS`, ...that head's options}.
        image_size: side of the square input in pixels.
        mean, std: input normalisation per channel; None for the backbone's own.

    `save_pretrained` and `push_to_hub` come from huggingface_hub: they write a safetensors file with the weights and a
    `config.json` with exactly these arguments. The weights start random; see `create_classifier`.
    """

    backbone: Backbone
    head: ScoreMapHead

    def __init__(
        self,
        *,
        backbone: str,
        classes: Sequence[str],
        head: HeadConfig | dict,
        image_size: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ):
        super().__init__()
        self._assemble(create_backbone(backbone, image_size=image_size), classes, head, mean, std)

    @classmethod
    def _from_parts(
        cls, backbone: Backbone, classes, head: HeadConfig | dict, mean=None, std=None
    ) -> "MultiLabelClassifier":
        """Put an existing backbone under a new head, without building a network twice."""
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._assemble(backbone, classes, head, mean, std)
        return model

    def _assemble(self, backbone: Backbone, classes, head: HeadConfig | dict, mean, std) -> None:
        names = () if isinstance(classes, str | set | frozenset) else tuple(classes)  # letters are no names
        if not names or len(set(names)) != len(names) or not all(map(is_name, names)):
            raise ConfigError(
                "a classifier needs a list of distinct class names, one or more, of letters and without control codes, "
                f"not {reprlib.repr(classes)}.{' A set has no order.' if isinstance(classes, set | frozenset) else ''}"
            )
        if not isinstance(head, HeadConfig):
            head = head_config(head["kind"], **{k: v for k, v in head.items() if k != "kind"})
        self.backbone = backbone
        self.head = build_head(head, backbone.num_features, len(names))
        self.classes = names
        self.image_size = backbone.image_size
        self.mean = _three_numbers("mean", mean if mean is not None else backbone.mean)
        self.std = _three_numbers("std", std if std is not None else backbone.std)
        self._hub_mixin_config = self.config()

    def config(self) -> dict:
        """The constructor's arguments, in JSON types: a number of NumPy is one of Python's there."""
        return strict_json.plain({
            "backbone": self.backbone.name,
            "classes": list(self.classes),
            "head": head_json(self.head.config),
            "image_size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
        })  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, C) logits."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, d, h, w) feature map.

        Raises:
            CsraError: images of whole numbers, which nobody has normalised.
        """
        if not images.is_floating_point():
            raise ConfigError(
                f"images must be fractions, as model.transform gives, not {images.dtype}: divide by 255 and normalise."
            )
        return self.backbone(images.to(self.head.weight.dtype))

    def score_maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, heads, C, h, w): the classifier of every class at every location."""
        return self.head.score_maps(self.features(images))

    def attention(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, heads, C, h, w): weights of the locations, each map summing to 1."""
        return self.head.attention(self.features(images))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @property
    def transform(self) -> Callable:
        """What turns a PIL RGB image into this model's input (3, S, S): resized to a square, normalised."""
        return eval_transform(self.image_size, mean=self.mean, std=self.std)

    def train_transform(self, **options) -> Callable:
        """The augmentation for this model's input; `options` are those of `csra_lab.datasets.transforms`."""
        return train_transform(self.image_size, mean=self.mean, std=self.std, **options)

    def predict(self, images: ImageInput | Iterable[ImageInput], **options) -> list[Prediction]:
        """What this classifier says of images, in batches; images are read while the network works.

        Args:
            images: one or several files, PIL images, or (3, S, S) tensors that `transform` made.
            options: `batch_size=32`, `top=None`, `workers=None`, `attention=False`, `score_maps=False`; see
                `csra_lab.prediction.iterate_predictions`, which also serves folders that are too large for a list.

        Raises:
            CsraError: an image that cannot be read, or see `iterate_predictions`.
        """
        one = isinstance(images, str | PathLike | Image.Image) or (isinstance(images, Tensor) and images.ndim == 3)
        several: Any = [images] if one else images
        return list(iterate_predictions(self, several, **options))

    def with_head(self, head: ScoreMapHead) -> "MultiLabelClassifier":
        """This classifier with another head on the same backbone.

        The weights are shared, not copied, until one of the two is moved: to a device, or by its first prediction into
        a faster memory format. The modules are not shared: `eval`, `train`, `to` and `requires_grad_` of one classifier
        leave the other as it is.

        Raises:
            CsraError: the head has another number of classes, or reads features of another size.
        """
        if head.num_classes != len(self.classes):
            raise ConfigError(f"this classifier has {len(self.classes)} classes and the new head {head.num_classes}.")
        if head.in_features != self.backbone.num_features:
            raise ConfigError(
                f"{self.backbone.name} has features of size {self.backbone.num_features}, and the new head reads "
                f"{head.in_features}."
            )
        model = copy.copy(self)
        vars(model).update({k: copy.copy(v) for k, v in vars(self).items() if isinstance(v, dict | set)})  # hooks too
        model._modules = {**self._modules, "backbone": shared_copy(self.backbone), "head": head}
        model._hub_mixin_config = model.config()
        return model

    def with_four_lines(self, lam: float) -> "MultiLabelClassifier":
        """The trained average-pooling classifier plus lam times its largest score; nothing is retrained or copied.

        Raises:
            CsraError: the head pools in another way.
        """
        return self.with_head(shared_copy(four_lines_head(self.head, lam)).train(self.head.training))

    def without_residual(self) -> "MultiLabelClassifier":
        """The average-pooling classifier inside a one-head CSRA.

        Raises:
            CsraError: the head is not CSRA, or has several heads.
        """
        if not isinstance(self.head, CSRA):
            raise ConfigError(f"only a CSRA head has a residual to leave out, not {head_kind(self.head)!r}.")
        return self.with_head(shared_copy(self.head.without_residual()).train(self.head.training))

    @classmethod
    def from_pretrained(cls, source: str | Path, **options) -> "MultiLabelClassifier":  # type: ignore[override]
        """A classifier that `save_pretrained` wrote, from its folder or from the hub.

        Args:
            source: the folder, or the hub's "owner/name".
            options: for the hub only, those of `huggingface_hub.snapshot_download` (`revision`, `token`, ...).

        Raises:
            CsraError: names the folder or file and what is wrong with it.
        """
        folder = saved_folder(source, **options)
        config = read_config(folder / "config.json")
        if (folder / HEAD_FILE).exists():
            name = config["backbone"]
            backbone = create_backbone(name, weights=best_weights(name), image_size=config["image_size"])
            model = cls._from_parts(backbone, config["classes"], config["head"], config["mean"], config["std"])
            read_head(folder / HEAD_FILE, model.head, backbone)
            return model.eval()
        model = cls(**config)
        load_state(model, read_state_dict(folder / "model.safetensors"), folder / "model.safetensors")
        return model.eval()

    def save_head(self, folder: str | Path) -> None:
        """Write the head alone, for a classifier whose backbone still has its ImageNet weights.

        `from_pretrained` reads the folder: `config.json` and, some thousand numbers long, `head.safetensors`.
        Where the backbone has other weights than when the head was saved, reading warns.

        Raises:
            CsraError: the backbone's ImageNet weights are installed, and it holds others.
        """
        folder, name = Path(folder), self.backbone.name
        if best_weights(name) == "installed":
            check_unchanged(self.backbone, create_backbone(name, weights="installed", image_size=self.image_size))
        strict_json.write(folder / "config.json", self.config())
        write_head(folder / HEAD_FILE, self.head, self.backbone)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        backbone: str,
        num_classes: int,
        lam: float = 0.1,
        classes: Sequence[str] | None = None,
        temperatures: Sequence[float] | None = None,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> "MultiLabelClassifier":
        """A checkpoint of the authors' code or of mmpretrain's, as this lab's classifier with the same logits.

        Args:
            path: the file (`.pth` or `.safetensors`). Only tensors are read; code in it is never run.
            backbone: timm's name of the network it was trained with.
            num_classes: C. lam: the residual's weight, which checkpoints do not hold. classes: names, if you have them.
            temperatures: None for the paper's list for the number of heads found.
            image_size: None for the backbone's own; position embeddings are interpolated to it.
            mean, std: input normalisation; None for what the checkpoint means. Convolutional networks with the authors'
                head read plain 0..1 pixels; all others are normalised as timm's network of that name.

        Raises:
            CsraError: not such a file, another class count, or another backbone.
        """
        if classes is not None and len(classes) != num_classes:
            raise ConfigError(f"{len(classes)} class names were given for num_classes = {num_classes}.")
        found = read_foreign_checkpoint(path)
        network = fitting_network(found, path, backbone=backbone, num_classes=num_classes, image_size=image_size)
        config = foreign_head(found, lam=lam, temperatures=temperatures)
        meant = foreign_pixels(found, network)
        if mean is None and std is None and None not in meant and found.layout == "mmpretrain":
            warn(f"{path}: {PIXELS_NOTE}")
        mean, std = meant[0] if mean is None else mean, meant[1] if std is None else std
        classes = classes if classes is not None else [f"class {i}" for i in range(num_classes)]
        model = cls._from_parts(network, classes, config, mean, std)
        load_backbone(network, found, path)
        with torch.no_grad():
            model.head.weight.copy_(found.head_weight)
            if found.head_bias is not None and model.head.bias is not None:
                model.head.bias.copy_(found.head_bias)
        return model.eval()


def _three_numbers(name: str, values: Sequence[float]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise ConfigError(f"{name} must be three numbers, one for each colour, not {values!r}.")
    return numbers


def create_classifier(
    backbone: str,
    *,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    head: str | HeadConfig = "csra",
    weights: Weights = "none",
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **head_options,
) -> MultiLabelClassifier:
    """A new classifier, as in `create_classifier("resnet101", num_classes=20, head="csra", lam=0.1, image_size=448)`.

    Args:
        backbone: timm's name.
        num_classes or classes: how many classes, or their names.
        head: a key of `csra_lab.heads.build.HEADS`, and `head_options` are its own (`num_heads`, `lam`, ...); or
            a head's config.
        weights: of the backbone: "none" for random ones, "installed" for ImageNet's that come with the package, "hub"
            for timm's hub, or the path of a weight file.
        image_size: side of the square input; None for the backbone's own.
        mean, std: input normalisation; None for the backbone's own.

    Raises:
        CsraError: a number of classes below 1; see `create_backbone` and `head_config`.
    """
    if (num_classes is None) == (classes is None):
        raise ConfigError("create_classifier needs either num_classes or classes.")
    if num_classes is not None and (not isinstance(num_classes, Integral) or num_classes < 1):
        raise ConfigError(f"num_classes must be a whole number from 1 on, not {num_classes!r}.")
    if isinstance(head, HeadConfig) and head_options:
        raise ConfigError(f"{', '.join(head_options)} would do nothing beside a head's config; change the config.")
    config = head if isinstance(head, HeadConfig) else head_config(head, **head_options)
    network = create_backbone(backbone, weights=weights, image_size=image_size)
    classes = [f"class {i}" for i in range(int(num_classes or 0))] if classes is None else classes
    return MultiLabelClassifier._from_parts(network, classes, config, mean, std)


def imagenet_classifier(
    backbone: str, *, weights: Weights = "installed", image_size: int | None = None
) -> MultiLabelClassifier:
    """A pretrained network with its own ImageNet classifier as an average-pooling head, so that it gives score maps.

    That works where the network's logits are a linear function of the mean feature, which is checked on random input.
    ImageNet's logits were trained for a softmax: the sigmoids that `predict` gives of them rank the classes, and are no
    probabilities.

    Args:
        backbone: timm's name.
        weights: "installed", "hub", or the path of a weight file that holds the classifier too.
        image_size: side of the square input; None for the backbone's own.

    Raises:
        CsraError: the network pools in another way, or its weights cannot be had.
    """
    network, size = load_timm(backbone, weights=weights, image_size=image_size, with_classifier=True)
    network.eval()
    linear: Any = network.get_classifier()
    probe = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(probe)
    if not isinstance(linear, nn.Linear):
        raise ConfigError(f"the classifier of {backbone} is not one linear layer, so it has no score maps.")
    names = imagenet_names()
    classes = names if linear.out_features == len(names) else [f"class {i}" for i in range(linear.out_features)]
    features = Backbone(network, backbone, size)
    head = {"kind": "average", "bias": linear.bias is not None}
    model = MultiLabelClassifier._from_parts(features, classes, head).eval()
    linear_in_the_mean = features.num_features == linear.in_features
    with torch.no_grad():
        if linear_in_the_mean:
            model.head.weight.copy_(linear.weight[None])
            if model.head.bias is not None:
                model.head.bias.copy_(linear.bias)
            linear_in_the_mean = (model(probe) - expected).abs().max() <= 1e-3 * expected.abs().max()
    if not linear_in_the_mean:
        raise ConfigError(
            f"{backbone} does not average its feature map before the classifier, so it has no score maps."
        )
    return model
