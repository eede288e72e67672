"""The multi-label classifier: a backbone and a head, one object to call, save, load and publish."""

import copy
import json
import reprlib
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import timm.data
import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from csra_lab._io import strict_json
from csra_lab._io.atomic_write import atomic_write
from csra_lab._io.notice import warn
from csra_lab._io.validation import is_plain
from csra_lab.backbones import Backbone, Weights, best_weights, create_backbone, fit_position_embedding, load_timm
from csra_lab.datasets.transforms import eval_transform, train_transform
from csra_lab.errors import ConfigError, DataError, MissingFile
from csra_lab.heads import (
    CSRA,
    AverageConfig,
    CSRAConfig,
    HeadConfig,
    ScoreMapHead,
    build_head,
    four_lines_head,
    head_config,
    head_json,
    head_kind,
)
from csra_lab.prediction import ImageInput, Prediction, iterate_predictions
from csra_lab.weights.foreign import read_foreign_checkpoint
from csra_lab.weights.layouts import to_timm
from csra_lab.weights.sources import hub_access, load_state, read_state_dict

HEAD_FILE = "head.safetensors"
Module = TypeVar("Module", bound=nn.Module)


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

    `save_pretrained`, `from_pretrained` and `push_to_hub` come from huggingface_hub: a safetensors file with the
    weights and a `config.json` with exactly these arguments. The weights start random; see `create_classifier`.
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
        classes = tuple(classes)
        if not classes or len(set(classes)) != len(classes):
            raise ConfigError(
                f"a classifier needs one or more distinct class names, not {reprlib.repr(list(classes))}."
            )
        if not isinstance(head, HeadConfig):
            head = head_config(head["kind"], **{k: v for k, v in head.items() if k != "kind"})
        self.backbone = backbone
        self.head = build_head(head, backbone.num_features, len(classes))
        self.classes = classes
        self.image_size = backbone.image_size
        self.mean = tuple(mean if mean is not None else backbone.mean)
        self.std = tuple(std if std is not None else backbone.std)
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
        return self.head(self.backbone(images))

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, d, h, w) feature map."""
        return self.backbone(images)

    def score_maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, heads, C, h, w): the classifier of every class at every location."""
        return self.head.score_maps(self.backbone(images))

    def attention(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, heads, C, h, w): weights of the locations, each map summing to 1."""
        return self.head.attention(self.backbone(images))

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

        The weights are shared, not copied. The modules are not: `eval`, `train`, `to` and `requires_grad_` of one
        classifier leave the other as it is.

        Raises:
            CsraError: the head has another number of classes.
        """
        if head.num_classes != len(self.classes):
            raise ConfigError(f"this classifier has {len(self.classes)} classes and the new head {head.num_classes}.")
        model = copy.copy(self)
        model._modules = {**self._modules, "backbone": _sharing(self.backbone), "head": head}
        model._hub_mixin_config = model.config()
        return model

    def with_four_lines(self, lam: float) -> "MultiLabelClassifier":
        """The trained average-pooling classifier plus lam times its largest score; nothing is retrained or copied.

        Raises:
            CsraError: the head pools in another way.
        """
        return self.with_head(_sharing(four_lines_head(self.head, lam)).train(self.head.training))

    def without_residual(self) -> "MultiLabelClassifier":
        """The average-pooling classifier inside a one-head CSRA.

        Raises:
            CsraError: the head is not CSRA, or has several heads.
        """
        if not isinstance(self.head, CSRA):
            raise ConfigError(f"only a CSRA head has a residual to leave out, not {head_kind(self.head)!r}.")
        return self.with_head(_sharing(self.head.without_residual()).train(self.head.training))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, source: str | Path, **options
    ) -> "MultiLabelClassifier":
        """A classifier that `save_pretrained` wrote, from its folder or from the hub.

        Args:
            source: the folder, or the hub's "owner/name".
            options: for the hub only, those of `huggingface_hub.snapshot_download` (`revision`, `token`, ...).

        Raises:
            CsraError: names the folder or file and what is wrong with it.
        """
        folder = Path(source)
        if not folder.exists():
            if str(source).count("/") != 1 or str(source).startswith((".", "/", "~", "runs/")):
                raise MissingFile(f"there is no model folder {source}; check the path.")
            with hub_access(f"the model {source}"):
                folder = Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors"], **options))
        elif options:
            raise ConfigError(
                f"{folder} is a folder here, for which {', '.join(options)} would do nothing; leave it out."
            )
        config = _read_config(folder / "config.json")
        if (folder / HEAD_FILE).exists():
            name = config["backbone"]
            backbone = create_backbone(name, weights=best_weights(name), image_size=config["image_size"])
            model = cls._from_parts(backbone, config["classes"], config["head"], config["mean"], config["std"])
            load_state(model.head, read_state_dict(folder / HEAD_FILE), folder / HEAD_FILE)
            return model.eval()
        model = cls(**config)
        load_state(model, read_state_dict(folder / "model.safetensors"), folder / "model.safetensors")
        return model.eval()

    def save_head(self, folder: str | Path) -> None:
        """Write the head alone, for a classifier whose backbone still has its ImageNet weights.

        `from_pretrained` reads the folder: `config.json` and, some thousand numbers long, `head.safetensors`.
        """
        folder = Path(folder)
        with atomic_write(folder / "config.json") as path:
            path.write_text(strict_json.dumps(self.config(), indent=2) + "\n", encoding="utf-8")
        with atomic_write(folder / HEAD_FILE) as path:
            save_file({k: v.contiguous() for k, v in self.head.state_dict().items()}, path)

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
            mean, std: None for what each layout means: ResNets there read plain 0..1 pixels, ViTs mean = std = 0.5.

        Raises:
            CsraError: not such a file, another class count, or another backbone.
        """
        found = read_foreign_checkpoint(path)
        heads, found_classes, width = found.head_weight.shape
        if found_classes != num_classes:
            raise DataError(
                f"{path} classifies {found_classes} classes, not {num_classes}; pass num_classes={found_classes}."
            )
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
        if found.layout == "linear":
            if network.drops_class_token:
                raise DataError(
                    f"the classifier in {path} reads the class token of {backbone}, so it has no score maps."
                )
            config: HeadConfig = AverageConfig(bias=found.head_bias is not None)
        else:
            config = CSRAConfig(num_heads=heads, lam=lam, temperatures=tuple(temperatures or ()))
            if network.convolutional and mean is None and std is None:
                mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
                if found.layout == "mmpretrain":
                    warn(
                        f"{path}: pixels are read as 0..1, as mmpretrain's own settings for CSRA have it; where its "
                        "config file has another data_preprocessor, pass mean and std."
                    )
        classes = classes if classes is not None else [f"class {i}" for i in range(num_classes)]
        model = cls._from_parts(network, classes, config, mean, std)
        counters = {k: v for k, v in network.model.state_dict().items() if k.endswith("num_batches_tracked")}
        state = to_timm(found.backbone, network.model, backbone, path)
        state = {k: fit_position_embedding(network.model, k, v) for k, v in state.items()}
        load_state(network.model, counters | state, path)
        with torch.no_grad():
            model.head.weight.copy_(found.head_weight)
            if found.head_bias is not None and model.head.bias is not None:
                model.head.bias.copy_(found.head_bias)
        return model.eval()


def _sharing(module: Module) -> Module:
    """A copy of a module's tree whose tensors are other objects on the same memory."""
    memo: dict[int, object] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        alias = tensor.detach()
        memo[id(tensor)] = nn.Parameter(alias, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else alias
    return copy.deepcopy(module, memo)


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
        CsraError: see `create_backbone` and `head_config`.
    """
    if (num_classes is None) == (classes is None):
        raise ConfigError("create_classifier needs either num_classes or classes.")
    if isinstance(head, HeadConfig) and head_options:
        raise ConfigError(f"{', '.join(head_options)} would do nothing beside a head's config; change the config.")
    config = head if isinstance(head, HeadConfig) else head_config(head, **head_options)
    network = create_backbone(backbone, weights=weights, image_size=image_size)
    classes = [f"class {i}" for i in range(num_classes or 0)] if classes is None else classes
    return MultiLabelClassifier._from_parts(network, classes, config, mean, std)


def imagenet_classifier(
    backbone: str, *, weights: Weights = "installed", image_size: int | None = None
) -> MultiLabelClassifier:
    """A pretrained network with its own ImageNet classifier as an average-pooling head, so that it gives score maps.

    That works where the network's logits are a linear function of the mean feature, which is checked on random input.

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
    info = timm.data.ImageNetInfo()
    if linear.out_features == info.num_classes():
        classes = _distinct([info.index_to_description(i).split(",")[0] for i in range(linear.out_features)])
    else:
        classes = [f"class {i}" for i in range(linear.out_features)]
    features = Backbone(network, backbone, size)
    model = MultiLabelClassifier._from_parts(
        features, classes, {"kind": "average", "bias": linear.bias is not None}
    ).eval()
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


def _distinct(names: list[str]) -> list[str]:
    """ImageNet has two cranes: number the names that occur twice."""
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFile(
            f"{path.parent} holds no {path.name}, so it is not a saved classifier; give a folder that has one."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); save the model again.") from error
    problem = _config_problem(config)
    if problem:
        raise DataError(f"{path} does not describe a classifier of this lab: {problem}.")
    return config


def _config_problem(config) -> str:
    """What is wrong with the content of a config.json, or nothing."""
    wanted = {"backbone", "classes", "head", "image_size", "mean", "std"}
    if not isinstance(config, dict) or set(config) != wanted:
        return f"it needs the keys {', '.join(sorted(wanted))}, and no others"
    classes, head, size = config["classes"], config["head"], config["image_size"]
    if isinstance(size, bool) or not isinstance(size, int):
        return f"image_size must be a whole number, not {size!r}"
    if not isinstance(config["backbone"], str):
        return f"backbone must be a name, not {config['backbone']!r}"
    if not isinstance(classes, list) or not all(isinstance(name, str) and is_plain(name) for name in classes):
        return f"classes must be a list of names without control characters, not {reprlib.repr(classes)}"
    if not isinstance(head, dict) or not isinstance(head.get("kind"), str):
        return f"head must name its kind, and is {head!r}"
    for key in ("mean", "std"):
        values = config[key]
        if not isinstance(values, list) or len(values) != 3 or not all(_is_number(v) for v in values):
            return f"{key} must be three numbers, not {reprlib.repr(values)}"
    if not all(v > 0 for v in config["std"]):
        return f"std must be above 0, not {config['std']}"
    return ""


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e38
