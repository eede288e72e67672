"""Files of torchvision and mmpretrain give the same features in timm's networks, or a sentence that is true."""

import re

import pytest
import timm
import torch
import torchvision
from torch import nn

from csra_lab import MultiLabelClassifier
from csra_lab.backbones import create_backbone, load_backbone_state
from csra_lab.errors import CsraError
from csra_lab.weights.layouts import LAYOUTS, layouts_table


def shaken(model: nn.Module) -> nn.Module:
    """Batch norm with statistics and scales of its own, so that a swap of two layers shows."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.eval()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("mobilenet_v2", "mobilenetv2_100"),
        ("efficientnet_b0", "efficientnet_b0"),
        ("vgg11_bn", "vgg11_bn"),
        ("vgg11", "vgg11"),
    ],
)
@torch.no_grad()
def test_features_of_torchvision(tmp_path, theirs, ours):
    net = shaken(getattr(torchvision.models, theirs)(num_classes=3))
    state = dict(sorted(net.state_dict().items()))  # as a safetensors file has them: in no order of the network
    torch.save({k: v for k, v in state.items() if not k.startswith("classifier.0")}, tmp_path / "w.pth")
    images = torch.rand(2, 3, 64, 64)
    backbone = create_backbone(ours, weights=tmp_path / "w.pth", image_size=64).eval()
    torch.testing.assert_close(backbone(images), net.features(images), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_tokens_of_torchvisions_vit(tmp_path):
    net = torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=3, hidden_dim=192, mlp_dim=768
    ).eval()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    timm_net = timm.create_model("vit_base_patch16_224", img_size=64, embed_dim=192, depth=2, num_heads=3).eval()
    load_backbone_state(timm_net, torch.load(tmp_path / "w.pth", weights_only=True), "w.pth")
    images = torch.rand(2, 3, 64, 64)
    tokens = torch.cat([net.class_token.expand(2, -1, -1), net._process_input(images)], dim=1)
    torch.testing.assert_close(timm_net.forward_features(images), net.encoder(tokens), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_linear_classifier_of_torchvision_is_an_average_pooling_one(tmp_path):
    net = shaken(torchvision.models.mobilenet_v2(num_classes=3))
    torch.save({"model": net.state_dict()}, tmp_path / "w.pth")
    model = MultiLabelClassifier.from_checkpoint(
        tmp_path / "w.pth", backbone="mobilenetv2_100", num_classes=3, image_size=64
    )
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(model(images), net(images), rtol=1e-4, atol=1e-4)


# mmpretrain's names, written out from how its networks are built: timm's name -> theirs.
def mm_mobilenet(name: str) -> str:
    name = re.sub(r"^conv_stem", "conv1.conv", re.sub(r"^bn1", "conv1.bn", name))
    name = re.sub(r"^conv_head", "conv2.conv", re.sub(r"^bn2", "conv2.bn", name))
    first = {"conv_dw": "conv.0.conv", "bn1": "conv.0.bn", "conv_pw": "conv.1.conv", "bn2": "conv.1.bn"}
    other = {"conv_pw": "conv.0.conv", "bn1": "conv.0.bn", "conv_dw": "conv.1.conv", "bn2": "conv.1.bn",
             "conv_pwl": "conv.2.conv", "bn3": "conv.2.bn"}  # fmt: skip

    def unit(m):
        stage, block, part = int(m[1]), m[2], m[3]
        return f"layer{stage + 1}.{block}.{(first if stage == 0 else other)[part]}"

    return re.sub(r"^blocks\.(\d+)\.(\d+)\.(\w+)", unit, name)


def mm_efficientnet(name: str) -> str:
    """Stages 3 and 4 of timm are one layer there, and so are 5 and 6."""
    name = re.sub(r"^conv_stem", "layers.0.conv", re.sub(r"^bn1", "layers.0.bn", name))
    name = re.sub(r"^conv_head", "layers.6.conv", re.sub(r"^bn2", "layers.6.bn", name))
    first = {"conv_dw": "depthwise_conv.conv", "bn1": "depthwise_conv.bn", "conv_pw": "linear_conv.conv",
             "bn2": "linear_conv.bn"}  # fmt: skip
    other = {"conv_pw": "expand_conv.conv", "bn1": "expand_conv.bn", "conv_dw": "depthwise_conv.conv",
             "bn2": "depthwise_conv.bn", "conv_pwl": "linear_conv.conv", "bn3": "linear_conv.bn"}  # fmt: skip
    squeeze = {"se.conv_reduce": "se.conv1.conv", "se.conv_expand": "se.conv2.conv"}
    place = {0: (1, 0), 1: (2, 0), 2: (3, 0), 3: (4, 0), 4: (4, 3), 5: (5, 0), 6: (5, 4)}

    def unit(m):
        stage, block, part = int(m[1]), int(m[2]), m[3]
        layer, start = place[stage]
        return f"layers.{layer}.{start + block}.{(squeeze | (first if stage == 0 else other))[part]}"

    return re.sub(r"^blocks\.(\d+)\.(\d+)\.(se\.\w+|\w+)", unit, name)


def mm_vgg(name: str) -> str:
    """Convolution, norm and activation are one module there, and a pooling is one."""
    index = {0: "0.conv", 1: "0.bn", 4: "2.conv", 5: "2.bn", 8: "4.conv", 9: "4.bn", 11: "5.conv", 12: "5.bn",
             15: "7.conv", 16: "7.bn", 18: "8.conv", 19: "8.bn", 22: "10.conv", 23: "10.bn", 25: "11.conv",
             26: "11.bn"}  # fmt: skip
    return re.sub(r"^features\.(\d+)", lambda m: f"features.{index[int(m[1])]}", name)


def mm_resnet_d(name: str) -> str:
    """A pooling in the shortcut only where it halves the map: not in the first layer."""
    name = re.sub(r"^bn1", "stem.7", re.sub(r"^conv1\.", "stem.", name))
    return re.sub(r"^layer1\.0\.downsample\.(\d)", lambda m: f"layer1.0.downsample.{int(m[1]) - 1}", name)


def mm_vit(name: str) -> str:
    name = name.replace("patch_embed.proj.", "patch_embed.projection.")
    name = re.sub(r"^norm\.", "ln1.", name)
    name = re.sub(r"^blocks\.(\d+)\.norm(\d)", r"layers.\1.ln\2", name)
    name = re.sub(r"^blocks\.(\d+)\.mlp\.fc1", r"layers.\1.ffn.layers.0.0", name)
    name = re.sub(r"^blocks\.(\d+)\.mlp\.fc2", r"layers.\1.ffn.layers.1", name)
    return re.sub(r"^blocks\.(\d+)\.attn", r"layers.\1.attn", name)


@pytest.mark.parametrize(
    ("ours", "rename"),
    [
        ("mobilenetv2_100", mm_mobilenet),
        ("tf_efficientnet_b0", mm_efficientnet),
        ("vgg11_bn", mm_vgg),
        ("resnet50d", mm_resnet_d),
        ("vit_tiny_patch16_224", mm_vit),
    ],
)
@torch.no_grad()
def test_csra_heads_of_mmpretrain_on_its_other_backbones(tmp_path, ours, rename):
    net = shaken(timm.create_model(ours, **({"img_size": 64} if "vit" in ours else {})))
    unused = ("classifier.", "fc.", "head.", "pre_logits.")
    trunk = {k: v for k, v in net.state_dict().items() if not k.startswith(unused)}
    theirs = {f"backbone.{rename(k)}": v for k, v in sorted(trunk.items())}
    assert len(theirs) == len(trunk)
    weight = torch.randn(3, net.num_features if "vgg" not in ours else 512, 1, 1)
    torch.save({"state_dict": theirs | {"head.csra_heads.0.head.weight": weight}}, tmp_path / "w.pth")
    model = MultiLabelClassifier.from_checkpoint(tmp_path / "w.pth", backbone=ours, num_classes=3, image_size=64)
    images = torch.rand(2, 3, 64, 64)
    expected = net.forward_features(images)
    if "vit" in ours:
        expected = expected[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(model.features(images), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_average_head_of_mmpretrain(tmp_path):
    net = shaken(timm.create_model("mobilenetv2_100", num_classes=0))
    theirs = {f"backbone.{mm_mobilenet(k)}": v for k, v in net.state_dict().items()}
    head = {"head.fc.weight": torch.randn(3, 1280), "head.fc.bias": torch.randn(3)}
    torch.save({"state_dict": theirs | head}, tmp_path / "w.pth")
    model = MultiLabelClassifier.from_checkpoint(
        tmp_path / "w.pth", backbone="mobilenetv2_100", num_classes=3, image_size=64
    )
    images = torch.rand(2, 3, 64, 64)
    expected = net(images) @ head["head.fc.weight"].T + head["head.fc.bias"]
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        ("efficientnet_b0", "tf_efficientnet_b0", "does not compute the same.*choose efficientnet_b0"),
        ("efficientnet_v2_s", "tf_efficientnetv2_s", "EfficientNetV2.*no network of timm's does"),
        ("mobilenet_v2", "efficientnet_b0", "torchvision's MobileNetV2.*choose mobilenetv2_100"),
    ],
)
def test_numbers_that_mean_something_else_in_a_network_are_refused(tmp_path, theirs, ours, said):
    """An epsilon and a padding are not in the file: the shapes fit, and the features would be others."""
    torch.save(getattr(torchvision.models, theirs)().state_dict(), tmp_path / "w.pth")
    with pytest.raises(CsraError, match=said):
        create_backbone(ours, weights=tmp_path / "w.pth", image_size=64)


def test_what_is_said_of_a_file_that_does_not_fit_is_true(tmp_path):
    net = timm.create_model("test_resnet")
    state = {k: v for k, v in net.state_dict().items() if k != "layer4.0.conv2.weight"}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CsraError, match="not whole") as caught:
        create_backbone("test_resnet", weights=tmp_path / "w.pth", image_size=64)
    assert "another model" not in str(caught.value)
    torch.save({f"a.{k}": v for k, v in net.state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(CsraError, match="another model, or of a code base whose names are not known"):
        create_backbone("test_resnet", weights=tmp_path / "w.pth", image_size=64)


def test_the_table_names_networks_that_there_are():
    for row in layouts_table():
        for name in re.findall(r"[a-z0-9]+_?[a-z0-9_]*\d\w*", row["loads into"]):
            assert timm.is_model(name), name
    assert len(layouts_table()) == len([each for each in LAYOUTS if each.example]) + 4


@pytest.mark.parametrize("name", ["mixer_s32_224", "xcit_nano_12_p16_224", "coat_tiny", "twins_svt_small"])
def test_a_network_without_a_square_map_is_told_what_has_one(name):
    with pytest.raises(CsraError, match=r"no square map of features.*resnet50"):
        create_backbone(name)
    if name.startswith("xcit"):
        with pytest.raises(CsraError, match="no square map"):
            create_backbone(name, image_size=128)
