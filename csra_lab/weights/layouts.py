"""Names of tensors in torchvision's and mmpretrain's files, turned into timm's; and which networks of timm's fit.

Two code bases may hold the same numbers under other names, and the same names for networks that compute otherwise: an
epsilon or a padding is not in a file. So a layout says for which networks of timm's its numbers mean the same, and
another network is refused although all shapes would fit.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from csra_lab.errors import CsraError

State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """How one code base names the tensors of one kind of network.

    Attributes:
        code: whose. network: what it is called there.
        mark: a name that only this layout has.
        fits: architectures of timm's that compute the same. example: one of them.
        rename: (names of the file, names of the network) -> {name in the file: name in timm}.
        drop: names of the file's classifier, of any size.
        why: what sets other networks of timm's apart.
    """

    code: Literal["torchvision", "mmpretrain"]
    network: str
    mark: str
    fits: str
    example: str
    rename: Callable[[list[str], list[str]], dict[str, str]]
    drop: str = r"(?!)"
    why: str = "their numbers are of other shapes"


def to_timm(state: State, model: nn.Module, name: str, source: object) -> State:
    """The tensors under the names of `model`; as they are where no layout is recognised.

    Args:
        state: bare names, as `read_state_dict` gives them. model: of timm. name: timm's name of it.
        source: the file, for messages.

    Raises:
        CsraError: the file is of a layout whose numbers mean something else in this network.
    """
    wanted, name = list(model.state_dict()), name.partition(".")[0]  # without the tag of timm's weights
    layout = next((each for each in LAYOUTS if any(re.fullmatch(each.mark, key) for key in state)), None)
    same_names = len(state.keys() & set(wanted)) > len(wanted) / 2
    if layout is None or (same_names and not re.fullmatch(layout.fits, name)):
        return state
    if not re.fullmatch(layout.fits, name):
        raise CsraError(
            f"{source} holds {layout.code}'s {layout.network}, and {name} does not compute the same from these numbers "
            f"({layout.why}); "
            + (f"choose {layout.example} or its like." if layout.example else "no network of timm's does.")
        )
    state = {key: tensor for key, tensor in state.items() if not re.fullmatch(layout.drop, key)}
    names = layout.rename(list(state), wanted)
    return {names.get(key, key): tensor for key, tensor in state.items()}


def in_order(rank: Callable[[str], tuple]) -> Callable[[list[str], list[str]], dict[str, str]]:
    """Pair the modules of a file, sorted by `rank` into the order of the network, with timm's modules in theirs."""

    def rename(names: list[str], wanted: list[str]) -> dict[str, str]:
        theirs = sorted({name.rpartition(".")[0] for name in names}, key=rank)
        # timm's modules stand in the order of the network, its classifier last
        ours = list(dict.fromkeys(name.rpartition(".")[0] for name in wanted))
        if len(theirs) > len(ours):
            return {}
        pairs = dict(zip(theirs, ours, strict=False))
        return {n: f"{pairs[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}" for n in names}

    return rename


def by_rules(*rules: tuple[str, str]) -> Callable[[list[str], list[str]], dict[str, str]]:
    """Rename by the first pattern that a name begins with."""

    def rename(names: list[str], _: list[str]) -> dict[str, str]:
        found = {}
        for name in names:
            for pattern, replacement in rules:
                new, count = re.subn(f"^{pattern}", replacement, name)
                if count:
                    found[name] = new
                    break
        return found

    return rename


_RANK = {
    # within a network, a block and a unit, what comes first
    "conv1": 0, "stem": 0, "layer1": 1, "layer2": 2, "layer3": 3, "layer4": 4, "layer5": 5, "layer6": 6, "layer7": 7,
    "conv2": 8, "expand_conv": 0, "depthwise_conv": 1, "se": 2, "linear_conv": 3, "conv": 0, "bn": 1,
    "fc1": 0, "fc2": 1, "features": 0, "layers": 0, "block": 0, "classifier": 9,
}  # fmt: skip


def _place(module: str) -> tuple:
    """Where a module stands in its network, from the numbers and words of its name."""
    return tuple(int(part) if part.isdigit() else _RANK[part] for part in module.split("."))


def _resnet_place(module: str) -> tuple:
    """ResNets with a deep stem: within a block conv and norm take turns, and the shortcut comes last."""
    parts = module.split(".")
    if parts[0] == "stem":
        return (0, int(parts[1]))
    within = {f"{kind}{i}": 2 * i + (kind == "bn") for i in (1, 2, 3) for kind in ("conv", "bn")}
    inside = 9 if parts[2] == "downsample" else within[parts[2]]
    return (int(parts[0].removeprefix("layer")), int(parts[1]), inside, *map(int, parts[3:]))


_EFFICIENTNETS = r"efficientnet_b[0-4]"
_SAME = "padding and the epsilon of batch norm differ"

LAYOUTS = (
    Layout(
        "torchvision", "EfficientNet-B0 to B4", r"features\.1\.0\.block\.1\.fc1\.weight", _EFFICIENTNETS,
        "efficientnet_b0", in_order(_place), r"(?!)", _SAME,
    ),
    Layout(
        "torchvision", "EfficientNetV2", r"features\.1\.0\.block\.0\.0\.weight", r"(?!)", "", in_order(_place),
        why=_SAME,
    ),
    Layout("torchvision", "MobileNetV2", r"features\.1\.conv\.1\.weight", r"mobilenetv2_\w+", "mobilenetv2_100",
           in_order(_place)),
    Layout("torchvision", "VGG", r"features\.(1[1-9]|2\d)\.weight", r"vgg\d+(_bn)?", "vgg16", by_rules(),
           r"classifier\.\d+\.\w+"),
    Layout(
        "torchvision", "ViT", r"encoder\.pos_embedding", r"vit_(base|large|huge)_patch\d+_\w+", "vit_base_patch16_224",
        by_rules(
            (r"class_token", "cls_token"), (r"encoder\.pos_embedding", "pos_embed"), (r"conv_proj", "patch_embed.proj"),
            (r"encoder\.layers\.encoder_layer_(\d+)\.ln_", r"blocks.\1.norm"),
            (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_", r"blocks.\1.attn.qkv."),
            (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj", r"blocks.\1.attn.proj"),
            (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(0|linear_1)\b", r"blocks.\1.mlp.fc1"),
            (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(3|linear_2)\b", r"blocks.\1.mlp.fc2"),
            (r"encoder\.ln\.", "norm."), (r"heads\.head", "head"),
        ),
    ),
    Layout("mmpretrain", "MobileNetV2", r"layer1\.0\.conv\.0\.conv\.weight", r"mobilenetv2_\w+", "mobilenetv2_100",
           in_order(_place)),
    Layout(
        "mmpretrain", "EfficientNet", r"layers\.1\.0\.depthwise_conv\.conv\.weight", r"tf_efficientnet_b\d",
        "tf_efficientnet_b0", in_order(_place), why=_SAME,
    ),
    Layout("mmpretrain", "VGG", r"features\.0\.conv\.weight", r"vgg\d+(_bn)?", "vgg16", in_order(_place),
           r"classifier\.\d+\.\w+"),
    Layout("mmpretrain", "ResNetV1c and ResNetV1d", r"stem\.7\.weight", r"resnet\d+[cd]", "resnet50d",
           in_order(_resnet_place)),
    Layout(
        "mmpretrain", "ViT", r"layers\.0\.ffn\.layers\.0\.0\.weight", r"vit_\w+", "vit_base_patch16_224",
        by_rules(
            (r"patch_embed\.projection", "patch_embed.proj"), (r"layers\.(\d+)\.ln(\d)", r"blocks.\1.norm\2"),
            (r"layers\.(\d+)\.ffn\.layers\.0\.0", r"blocks.\1.mlp.fc1"),
            (r"layers\.(\d+)\.ffn\.layers\.1", r"blocks.\1.mlp.fc2"), (r"layers\.(\d+)", r"blocks.\1"),
            (r"ln1", "norm"),
        ),
    ),
)  # fmt: skip
"""What is read besides timm's own names; ResNets of all three have the same names."""


def layouts_table() -> list[dict[str, str]]:
    """A row for each layout: whose, which network, and a network of timm's that it loads into."""
    plain = [
        {"file of": "timm", "network": "every network", "loads into": "the same name"},
        {"file of": "torchvision", "network": "ResNet", "loads into": "resnet101 and its like"},
        {"file of": "mmpretrain", "network": "ResNet", "loads into": "resnet101 and its like"},
        {
            "file of": "the paper's authors",
            "network": "ResNet, ViT",
            "loads into": "resnet101, vit_base_patch16_224 ...",
        },
    ]
    rows = [
        {"file of": layout.code, "network": layout.network, "loads into": layout.example}
        for layout in LAYOUTS
        if layout.example
    ]
    return plain + rows
