"""EfficientNet-Lite0 for a browser: a plan of layers, and all numbers in one run of bytes.

Batch norms are folded into the convolutions. Weights are whole numbers of 16 bits with a scale for each output channel,
which is closer to float32 than half precision is and as small. They are made from the installed weights when a page is
built, or when Jupyter asks for them; none lie in this repository. photo_network.js reads what is written here.
"""

import base64
import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csra_lab._io.resources import asset
from csra_lab.backbones import Backbone
from csra_lab.classifier import MultiLabelClassifier, imagenet_classifier
from csra_lab.errors import CsraError
from csra_lab.heads import CSRA, AveragePooling, ScoreMapHead

BACKBONE = "tf_efficientnet_lite0"
PART = 3 * 2**18  # bytes; a multiple of 3, so that base64 has no padding, and below 1 MB as text
PANEL = 8  # outputs that lie together in memory; photo_kernels.js computes them together
CHANNELS = 16  # channels that the depthwise kernel takes at once


@dataclass(frozen=True)
class BrowserNetwork:
    """What a browser needs to run the network and its heads.

    Attributes:
        layers: in order: kind ("stem", "product", "depthwise"), kernel, stride, inputs, outputs (of a product, those
            that are computed), high (upper limit, or None for a linear layer), and whether a block begins there
            ("opens") or adds its input at the end ("adds").
        heads: name, title, classes, num_heads, lam, temperatures, bias (whether there is one), multilabel, size, mean
            and std.
        content: for each layer, then for each head: scales and biases (float32), then weights (int16).
    """

    layers: tuple[dict, ...]
    heads: tuple[dict, ...]
    content: bytes

    @functools.cached_property
    def key(self) -> str:
        """A name of this content, so that a page never reads the numbers of another build."""
        return hashlib.blake2b(self.content, digest_size=6).hexdigest()

    @property
    def num_parts(self) -> int:
        """How many parts the content comes in."""
        return -(-len(self.content) // PART)

    def part(self, number: int) -> bytes:
        """A part of the content, counted from 0; all but the last are of the same size."""
        return self.content[number * PART : (number + 1) * PART]

    def manifest(self) -> dict:
        """All but the numbers, as JSON."""
        about = {"key": self.key, "parts": self.num_parts, "partBytes": PART, "bytes": len(self.content)}
        return about | {"layers": list(self.layers), "heads": list(self.heads)}

    def write_scripts(self, folder: Path) -> Path:
        """Write the numbers as scripts, which a page can load from `file://` too; returns their folder in `folder`."""
        target = folder / self.key
        target.mkdir(parents=True, exist_ok=True)
        for number in range(self.num_parts):
            text = base64.b64encode(self.part(number)).decode()
            script = f'csraLabPart("{self.key}", {number}, "{text}");\n'
            (target / f"part-{number}.js").write_text(script, encoding="ascii")
        return target


@functools.cache
def browser_models() -> tuple[tuple[str, MultiLabelClassifier], ...]:
    """The ImageNet classifier, and every classifier on the same backbone that comes with the lab, by name."""
    found = [("imagenet", imagenet_classifier(BACKBONE))]
    for path in sorted(p for p in asset("models").iterdir() if (p / "config.json").exists()):
        model = MultiLabelClassifier.from_pretrained(path)
        if model.backbone.name == BACKBONE and isinstance(model.head, CSRA | AveragePooling):
            found.append((path.name, model))
    return tuple(found)


@functools.cache
def browser_network() -> BrowserNetwork:
    """The network with the heads of `browser_models`.

    Raises:
        CsraError: timm builds the network otherwise than it did, so that the plan does not give its features.
    """
    (_, imagenet), *_ = browser_models()
    layers: list[dict] = []
    arrays: list[np.ndarray] = []
    for layer, weight, bias in _layers(imagenet.backbone.model):
        layers.append(layer)
        arrays += _rounded(_packed(layer["kind"], weight), bias)
    _check_plan(imagenet.backbone, layers)
    heads = []
    for name, model in browser_models():
        heads.append({**_about(name, model), "multilabel": name != "imagenet"})
        arrays += _rounded(_packed_product(_classifiers(model.head)), _biases(model.head))
    return BrowserNetwork(tuple(layers), tuple(heads), b"".join(a.tobytes() for a in arrays))


def _about(name: str, model: MultiLabelClassifier) -> dict:
    head, title = model.head, "ImageNet" if name == "imagenet" else name
    lam, temperatures = (head.config.lam, head.config.temperatures) if isinstance(head, CSRA) else (0.0, ())
    return {
        "name": name,
        "title": f"{title}: {len(model.classes)} labels",
        "classes": list(model.classes),
        "num_heads": head.num_heads,
        "lam": lam,
        "temperatures": ["inf" if t == float("inf") else float(t) for t in temperatures],
        "size": model.image_size,
        "mean": list(model.mean),
        "std": list(model.std),
    }


def _classifiers(head: ScoreMapHead) -> Tensor:
    """(heads * C, d)"""
    weight = F.normalize(head.weight, dim=-1) if head.config.normalize else head.weight
    return weight.detach().flatten(0, 1)


def _biases(head: ScoreMapHead) -> Tensor:
    """(heads * C,): the bias belongs to each location's score, and only a single head has one."""
    return torch.zeros(head.num_heads * head.num_classes) if head.bias is None else head.bias.detach()


def _layers(network: nn.Module) -> Iterator[tuple[dict, Tensor, Tensor]]:
    """Each convolution with its batch norm folded in: the layer, its weight (as torch has it) and its bias."""
    part = network.get_submodule
    blocks = [block for stage in part("blocks").children() for block in stage.children()]
    first, last = (part("conv_stem"), part("bn1")), (part("conv_head"), part("bn2"))
    groups = [_convolutions(first), *(_convolutions(block.modules()) for block in blocks), _convolutions(last)]
    adds = [False, *(bool(block.has_skip) for block in blocks), False]
    for convolutions, skip in zip(groups, adds, strict=True):
        for i, (conv, norm) in enumerate(convolutions):
            scale = norm.weight.detach() / (norm.get_buffer("running_var") + norm.eps).sqrt()
            kind = "stem" if conv.in_channels == 3 else "product" if conv.groups == 1 else "depthwise"
            layer = {
                "kind": kind,
                "kernel": conv.kernel_size[0],
                "stride": conv.stride[0],
                "inputs": conv.in_channels,
                "outputs": conv.out_channels,
                "high": 6 if isinstance(norm.act, nn.ReLU6) else None,
                "opens": i == 0,
                "adds": skip and i == len(convolutions) - 1,
            }
            yield (
                layer,
                conv.weight.detach() * scale[:, None, None, None],
                norm.bias.detach() - norm.get_buffer("running_mean") * scale,
            )


def _convolutions(modules: Iterable[nn.Module]) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions, each with the batch norm that follows it: an EfficientNet-Lite has nothing else in a block."""
    found = list(modules)
    norms = (m for m in found if isinstance(m, nn.BatchNorm2d))
    return list(zip((m for m in found if isinstance(m, nn.Conv2d)), norms, strict=True))


def _packed(kind: str, weight: Tensor) -> np.ndarray:
    """The weights as the kernels read them; the first axis but one is the outputs', as `_rounded` wants it."""
    if kind == "depthwise":
        if len(weight) % CHANNELS:
            raise CsraError(f"a layer of {BACKBONE} has {len(weight)} channels, no multiple of {CHANNELS}.")
        return weight[:, 0].permute(1, 2, 0).flatten(0, 1)[None].numpy()  # (1, k * k, C)
    return _packed_product(weight.permute(0, 2, 3, 1).flatten(1))  # (outputs, k * k * inputs)


def _packed_product(weight: Tensor) -> np.ndarray:
    """(M, K) -> panels (M / 8, K, 8), with zeros where M is no multiple of 8 or K none of 4."""
    weight = F.pad(weight, (0, -weight.shape[1] % 4, 0, -len(weight) % PANEL))
    return weight.unflatten(0, (-1, PANEL)).mT.contiguous().numpy()


def _rounded(weight: np.ndarray, bias: Tensor) -> list[np.ndarray]:
    """Scales and biases (float32), and the weights (panels, K, outputs of a panel) as int16."""
    largest = np.abs(weight).max(axis=1, keepdims=True)  # (panels, 1, outputs of a panel)
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(2**15 - 1)
    padded = np.zeros(scale.size, np.float32)
    padded[: len(bias)] = bias.numpy()
    return [scale.ravel(), padded, np.rint(weight / scale).astype("<i2")]


@torch.inference_mode()
def _check_plan(backbone: Backbone, layers: list[dict]) -> None:
    """Run the plan with torch's own convolutions: another timm may have built the network otherwise."""
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = backbone(image)
    x = opened = image
    for layer, (_, weight, bias) in zip(layers, _layers(backbone.model), strict=True):
        opened = x if layer["opens"] else opened
        k, stride, size = layer["kernel"], layer["stride"], x.shape[-1]
        missing = max((-(-size // stride) - 1) * stride + k - size, 0)
        x = F.pad(x, (missing // 2, missing - missing // 2) * 2)
        x = F.conv2d(x, weight, bias, stride, groups=layer["inputs"] if layer["kind"] == "depthwise" else 1)
        x = x + opened if layer["adds"] else x
        x = x.clamp(0, layer["high"]) if layer["high"] else x
    if x.shape != expected.shape or (x - expected).abs().max() > 1e-3 * expected.abs().max():
        raise CsraError(f"this timm builds {BACKBONE} in another way than the browser's plan of it.")
