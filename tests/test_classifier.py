"""The classifier: saved and read back to the bit, and other projects' checkpoints with the logits they mean."""

import copy
import json
import warnings

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from csra_lab import CSRA, MultiLabelClassifier, create_classifier, imagenet_classifier
from csra_lab._io.notice import CsraWarning
from csra_lab.errors import CsraError
from csra_lab.heads import HEADS, AveragePooling, create_head
from csra_lab.weights.sources import has_installed_weights


def small(head="csra", **options):
    return create_classifier("test_resnet", num_classes=3, image_size=64, head=head, **options).eval()


def shaken(model):
    """With batch statistics away from 0 and 1, so that a buffer that goes missing shows."""
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.uniform_(-0.2, 0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- making one --------------------------------------------------------------------------------------------------


def test_the_example_of_the_documentation():
    with torch.device("meta"):
        model = create_classifier(
            "resnet101", num_classes=20, head="csra", num_heads=1, lam=0.1, weights="none", image_size=448
        )
        images = torch.empty(2, 3, 448, 448)
        assert model(images).shape == (2, 20)
        assert model.features(images).shape == (2, 2048, 14, 14)
        assert model.score_maps(images).shape == model.attention(images).shape == (2, 1, 20, 14, 14)
    assert isinstance(model.head, CSRA)
    assert model.head.config.normalize
    assert (model.head.config.lam, model.head.config.temperatures) == (0.1, (1.0,))
    assert model.classes[:2] == ("class 0", "class 1")
    assert model.mean == (0.485, 0.456, 0.406)
    assert model.config()["backbone"] == "resnet101"


def test_its_steps_are_its_parts():
    model, images = small(num_heads=2), torch.randn(2, 3, 64, 64)
    features = model.backbone(images)
    assert torch.equal(model.features(images), features)
    assert torch.equal(model.score_maps(images), model.head.score_maps(features))
    assert torch.equal(model.attention(images), model.head.attention(features))
    assert torch.equal(model(images), model.head(features))
    torch.testing.assert_close(model.attention(images).sum((3, 4)), torch.ones(2, 2, 3))
    assert model.bfloat16().attention(images).dtype == torch.bfloat16


def test_images_that_nobody_normalised_are_refused():
    with pytest.raises(CsraError, match=r"torch\.uint8: divide by 255 and normalise"):
        small()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_what_a_head_and_a_classifier_take_as_numbers(tmp_path):
    options = {"temperatures": torch.tensor([0.0]), "mean": torch.zeros(3), "std": np.ones(3)}
    model = create_classifier("test_resnet", num_classes=2, image_size=32, **options)
    model.save_pretrained(tmp_path)
    again = MultiLabelClassifier.from_pretrained(tmp_path)
    assert again.head.config.temperatures == (0.0,)
    assert (again.mean, again.std) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "either num_classes or classes"),
        ({"num_classes": 2, "classes": ["a", "b"]}, "either num_classes or classes"),
        ({"classes": []}, "distinct class names"),
        ({"classes": "cat"}, "list of distinct class names"),
        ({"classes": {"a", "b"}}, "A set has no order"),
        ({"num_classes": 3, "temperatures": 0.0}, "temperatures must be a list of numbers"),
        ({"num_classes": 3, "mean": 0.5}, "mean must be three numbers"),
        ({"classes": ["a", "b", "a"]}, "distinct class names"),
        ({"num_classes": 0}, "num_classes must be"),
        ({"num_classes": 3, "head": "attention"}, "'attention'"),
        ({"num_classes": 3, "lambda_": 0.1}, "lambda_"),
        ({"num_classes": 3, "num_heads": 3}, "for 3, pass temperatures"),
        ({"num_classes": 3, "weights": "no/such/file.pth"}, "no/such/file.pth"),
        ({"num_classes": 3, "weights": "installed"}, "test_resnet"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(CsraError, match=said):
        create_classifier("test_resnet", image_size=64, **options)


def test_pretrained_from_a_file(tmp_path):
    whole = timm.create_model("test_resnet")
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    model = create_classifier("test_resnet", num_classes=3, weights=tmp_path / "w.pth", image_size=64)
    assert torch.equal(model.backbone.model.conv1[0].weight, whole.conv1[0].weight)


# ---- saved and read back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_saved_and_read_back_to_the_bit(tmp_path, head):
    model = create_classifier(
        "test_resnet", classes=["cat", "dog", "Ünïcode"], image_size=96, head=head, mean=(0, 0.1, 0.2), std=(1, 2, 3)
    )
    shaken(model)
    if head == "gem":
        with torch.no_grad():
            model.head.p.fill_(2.25)  # learnt away from its start value
    model.save_pretrained(tmp_path / "m")
    again = MultiLabelClassifier.from_pretrained(tmp_path / "m")
    assert not again.training
    assert again.config() == model.config()
    assert again.classes == ("cat", "dog", "Ünïcode")
    assert (again.mean, again.std, again.image_size) == ((0, 0.1, 0.2), (1, 2, 3), 96)
    assert model.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    images = torch.randn(2, 3, 96, 96)
    assert torch.equal(model.eval()(images), again(images))
    again.save_pretrained(tmp_path / "n")
    assert tree(tmp_path / "n") == tree(tmp_path / "m")  # and written again to the byte


def test_what_is_written(tmp_path):
    small(num_heads=2).save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["head"] == {
        "kind": "csra", "num_heads": 2, "lam": 0.1, "temperatures": [1.0, "inf"], "normalize": True, "bias": False,
    }  # fmt: skip
    assert sorted(config) == ["backbone", "classes", "head", "image_size", "mean", "std"]
    assert load_file(tmp_path / "m" / "model.safetensors")["head.weight"].shape == (2, 3, 96)


def test_channels_last_and_transformers_save_too(tmp_path):
    model = small().to(memory_format=torch.channels_last)
    model.save_pretrained(tmp_path / "m")
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(MultiLabelClassifier.from_pretrained(str(tmp_path / "m"))(images), model(images))
    vit = create_classifier("test_vit", num_classes=2, image_size=96).eval()
    vit.save_pretrained(tmp_path / "v")
    images = torch.randn(1, 3, 96, 96)
    assert torch.equal(MultiLabelClassifier.from_pretrained(tmp_path / "v")(images), vit(images))


def test_it_can_be_published():
    assert callable(MultiLabelClassifier.push_to_hub)  # and is not called here


GOOD = {"backbone": "test_resnet", "classes": ["a", "b", "c"], "image_size": 64, "mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_size": "big"}, "'big'"),
        ({"image_size": 64.5}, "64.5"),
        ({"image_size": -1}, "-1"),
        ({"image_size": 8}, "8 pixels"),
        ({"backbone": 5}, "backbone must be a name, not 5"),
        ({"backbone": "resnet19"}, "did you mean"),
        ({"backbone": "resnet10t"}, "another model|has shape"),
        ({"classes": "abc"}, "classes must be a list"),
        ({"classes": 7}, "classes must be a list"),
        ({"classes": [1, 2, 3]}, "classes must be a list"),
        ({"classes": ["a", "a", "b"]}, "distinct"),
        ({"classes": ["a", "b"]}, r"head\.weight.*\(1, 3, 96\).*\(1, 2, 96\)"),
        ({"classes": []}, "one or more"),
        ({"mean": None}, "mean must be three numbers"),
        ({"mean": [0, 0]}, "mean must be three numbers"),
        ({"mean": "abc"}, "mean must be three numbers"),
        ({"mean": [0, 0, "x"]}, "mean must be three numbers"),
        ({"std": [1, 1, 0]}, "std must be above 0"),
        ({"std": [float("nan")] * 3}, "std must be three numbers"),
        ({"head": "csra"}, "head must name its kind"),
        ({"head": {}}, "head must name its kind"),
        ({"head": {"kind": ["csra"]}}, "head must name its kind"),
        ({"head": {"kind": "attention"}}, "'attention'"),
        ({"head": {"kind": "csra", "lam": "x"}}, "csra"),
        ({"head": {"kind": "csra", "num_heads": "2"}}, "csra"),
        ({"head": {"kind": "csra", "num_heads": 2}}, r"head\.weight"),
        ({"head": {"kind": "average", "bias": True}}, r"head\.bias"),
        ({"head": {"kind": "csra", "lam": float("nan")}}, "lam"),
        ({"license": "mit"}, "keys"),
    ],
)
def test_bad_configs(tmp_path, change, said):
    folder = tmp_path / "m"
    small().save_pretrained(folder)
    content = {"head": {"kind": "csra"}, **GOOD}
    (folder / "config.json").write_text(json.dumps(content))
    MultiLabelClassifier.from_pretrained(folder)  # good as it is
    (folder / "config.json").write_text(json.dumps({**content, **change}))
    before = tree(tmp_path)
    with pytest.raises(CsraError, match=said) as caught:
        MultiLabelClassifier.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("key", [*GOOD, "head"])
def test_configs_with_a_key_missing(tmp_path, key):
    content = {"head": {"kind": "csra"}, **GOOD}
    del content[key]
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CsraError, match=rf"config\.json does not describe.*{key}"):
        MultiLabelClassifier.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read as JSON"),
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe\x00", "cannot be read as JSON"),
        (b"[]", "does not describe"),
        (b"null", "does not describe"),
        (b'"text"', "does not describe"),
    ],
)
def test_configs_that_are_none(tmp_path, content, said):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CsraError, match=rf"config\.json {said}"):
        MultiLabelClassifier.from_pretrained(tmp_path)


def test_folders_that_are_no_classifier(tmp_path):
    for source in (tmp_path / "no", "no-such-folder", "./no/such", "a/b/c", str(tmp_path / "no")):
        with pytest.raises(CsraError, match="there is no model folder"):
            MultiLabelClassifier.from_pretrained(source)
    with pytest.raises(CsraError, match=r"holds no config\.json"):
        MultiLabelClassifier.from_pretrained(tmp_path)
    small().save_pretrained(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(CsraError, match=r"model\.safetensors is not a whole"):
        MultiLabelClassifier.from_pretrained(tmp_path / "m")
    weights.write_bytes(whole)
    state = {name: tensor.clone() for name, tensor in load_file(weights).items()}  # some versions map the file
    for change, said in (
        ({"head.weight": torch.full((1, 3, 96), float("nan"))}, "NaN"),
        ({"more": torch.ones(1)}, "'more'"),
    ):
        save_file(state | change, weights)
        with pytest.raises(CsraError, match=said):
            MultiLabelClassifier.from_pretrained(tmp_path / "m")
    weights.unlink()
    with pytest.raises(CsraError, match=r"there is no weight file .*model\.safetensors"):
        MultiLabelClassifier.from_pretrained(tmp_path / "m")


# ---- the four lines ----------------------------------------------------------------------------------------------


def test_four_lines_on_a_trained_average_and_back():
    model, images = shaken(small("average", bias=True)), torch.randn(2, 3, 64, 64)
    before, maps = model(images), model.score_maps(images)[:, 0]
    four = model.with_four_lines(0.3)
    torch.testing.assert_close(four(images), maps.mean((2, 3)) + 0.3 * maps.amax((2, 3)))
    back = four.without_residual()
    assert torch.equal(back(images), before)
    assert torch.equal(model(images), before)
    assert isinstance(model.head, AveragePooling)
    for shared in (four, back):  # the same memory, and no module of one is a module of the other
        pairs = zip(model.backbone.parameters(), shared.backbone.parameters(), strict=True)
        assert all(a.data_ptr() == b.data_ptr() for a, b in pairs)
        assert shared.backbone is not model.backbone
    assert four.head.weight.data_ptr() == model.head.weight.data_ptr()
    assert not four.training
    assert four.config()["head"]["lam"] == 0.3
    assert model.config() == back.config()
    assert model.config()["head"]["kind"] == "average"


def test_a_four_line_model_is_saved_as_what_it_is(tmp_path):
    model, images = small("average"), torch.randn(1, 3, 64, 64)
    four = model.with_four_lines(0.3)
    four.save_pretrained(tmp_path / "four")
    model.save_pretrained(tmp_path / "average")
    assert torch.equal(MultiLabelClassifier.from_pretrained(tmp_path / "four")(images), four(images))
    assert torch.equal(MultiLabelClassifier.from_pretrained(tmp_path / "average")(images), model(images))


def test_the_four_lines_need_an_average_head():
    for head in set(HEADS) - {"average"}:
        with pytest.raises(CsraError, match=head):
            small(head).with_four_lines(0.1)
    for head in set(HEADS) - {"csra"}:
        with pytest.raises(CsraError, match=head):
            small(head).without_residual()
    with pytest.raises(CsraError, match="2"):
        small(num_heads=2).without_residual()


# ---- ImageNet classifiers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "resnet10t"])
def test_an_imagenet_classifier_gives_timms_logits(tmp_path, name):
    whole = shaken(timm.create_model(name)).eval()
    with torch.no_grad():
        whole.get_classifier().weight.mul_(20)  # far from zero, as a trained one
        whole.get_classifier().bias.uniform_(-1, 1)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    images = torch.randn(2, 3, 64, 64)
    model = imagenet_classifier(name, weights=tmp_path / "w.pth", image_size=64)
    torch.testing.assert_close(model(images), whole(images), rtol=1e-4, atol=1e-4)
    assert len(model.classes) == len(set(model.classes)) == 1000
    assert not model.training


@pytest.mark.parametrize(
    "name",
    [
        "test_vit",  # a class token
        "mobilenetv3_small_050",  # a layer between the mean and the classifier
        "test_convnext",  # the mean is normalised
        "test_vit4",  # the mean is normalised here too
    ],
)
def test_networks_without_score_maps_say_so(tmp_path, name):
    torch.save(timm.create_model(name).state_dict(), tmp_path / "w.pth")
    with pytest.raises(CsraError, match=f"{name} does not average its feature map"):
        imagenet_classifier(name, weights=tmp_path / "w.pth")


def test_an_imagenet_classifier_needs_its_own_classifier(tmp_path):
    """A file without one, or with another, must not leave a random one under ImageNet's names."""
    for num_classes in (0, 20):
        torch.save(timm.create_model("test_resnet", num_classes=num_classes).state_dict(), tmp_path / "w.pth")
        with pytest.raises(CsraError, match="'fc"):
            imagenet_classifier("test_resnet", weights=tmp_path / "w.pth", image_size=64)


@pytest.fixture(scope="module")
def lite0():
    if not has_installed_weights("tf_efficientnet_lite0"):
        pytest.skip("the package with the ImageNet weights is not installed")
    return imagenet_classifier("tf_efficientnet_lite0")


def test_installed_weights_know_a_cat_and_a_cup(lite0):
    data = pytest.importorskip("skimage.data")
    mean, std = torch.tensor(lite0.mean).view(3, 1, 1), torch.tensor(lite0.std).view(3, 1, 1)
    for picture, name in ((data.chelsea(), "Egyptian cat"), (data.coffee(), "espresso")):
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255
        image = (F.interpolate(pixels, size=(224, 224), mode="bilinear", antialias=True)[0] - mean) / std
        with torch.no_grad():
            logits = lite0(image[None])[0]
            four = lite0.with_four_lines(0.2)(image[None])[0]
        assert lite0.classes[logits.argmax()] == name
        assert lite0.classes[four.argmax()] == name


def test_installed_weights_start_a_backbone(lite0):
    model = create_classifier("tf_efficientnet_lite0", num_classes=2, weights="installed", image_size=64)
    own, theirs = model.backbone.state_dict(), lite0.backbone.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[k], theirs[k]) for k in own)


# ---- other projects' checkpoints ---------------------------------------------------------------------------------


def literal_csra(features, weights, temperatures, lam):
    """(B, d, h, w) and H tensors (C, d, 1, 1), as those checkpoints mean them: normalised, summed over the heads."""
    logits = 0
    for weight, temperature in zip(weights, temperatures, strict=True):
        scores = F.conv2d(features, weight) / weight.flatten(1).norm(dim=1)[None, :, None, None]
        scores = scores.flatten(2)  # (B, C, N)
        if temperature == float("inf"):
            attended = scores.max(dim=-1).values
        else:
            attended = (torch.softmax(temperature * scores, dim=-1) * scores).sum(-1)
        logits = logits + scores.mean(-1) + lam * attended
    return logits


@pytest.fixture(scope="module")
def resnet18():
    """torchvision's network, and its tensors without the classifier."""
    net = shaken(torchvision.models.resnet18()).eval()
    trunk = {k: v for k, v in net.state_dict().items() if not k.startswith("fc.")}
    return net, trunk


def torchvision_features(net, images):
    x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
    return net.layer4(net.layer3(net.layer2(net.layer1(x))))


def head_tensors(heads, classes, d):
    return [torch.randn(classes, d, 1, 1) for _ in range(heads)]


PAPER = {1: [1.0], 2: [1.0, float("inf")], 4: [1.0, 2.0, 4.0, float("inf")]}


def wrapped(state, wrapping):
    if wrapping == "state_dict":
        return {"state_dict": state, "epoch": 12, "optimizer": {"param_groups": [{"lr": 0.1}]}}
    if wrapping == "data parallel":
        return {f"module.{k}": v for k, v in state.items()}
    if wrapping == "both":
        return {"state_dict": {f"module.{k}": v for k, v in state.items()}}
    return state


@pytest.mark.parametrize(
    ("layout", "heads", "wrapping"),
    [
        ("authors", 1, "plain"),
        ("authors", 2, "data parallel"),
        ("authors", 4, "both"),
        ("authors", 1, "safetensors"),
        ("mmpretrain", 1, "state_dict"),
        ("mmpretrain", 4, "both"),
        ("mmpretrain", 2, "safetensors"),
    ],
)
def test_resnets_of_other_code(tmp_path, resnet18, layout, heads, wrapping):
    net, trunk = resnet18
    weights = head_tensors(heads, 5, 512)
    if layout == "authors":
        state = trunk | {f"classifier.multi_head.{i}.head.weight": w for i, w in enumerate(weights)}
    else:
        state = {f"backbone.{k}": v for k, v in trunk.items()}
        state |= {f"head.csra_heads.{i}.head.weight": w for i, w in enumerate(weights)}
        state |= {"data_preprocessor.mean": torch.zeros(3, 1, 1), "data_preprocessor.std": torch.ones(3, 1, 1)}
    path = tmp_path / ("w.safetensors" if wrapping == "safetensors" else "w.pth")
    save_file(state, path) if wrapping == "safetensors" else torch.save(wrapped(state, wrapping), path)
    model = MultiLabelClassifier.from_checkpoint(path, backbone="resnet18", num_classes=5, lam=0.25, image_size=96)
    images = torch.rand(2, 3, 96, 96)
    expected = literal_csra(torchvision_features(net, images), weights, PAPER[heads], 0.25)
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)
    assert not model.training
    assert (model.mean, model.std) == ((0, 0, 0), (1, 1, 1))  # they read plain pixels
    shifted = MultiLabelClassifier.from_checkpoint(path, backbone="resnet18", num_classes=5, mean=(0.5,) * 3)
    assert (shifted.mean, shifted.std) == ((0.5,) * 3, (1, 1, 1))  # what is not named is as the layout has it
    assert model.head.num_heads == heads
    model.save_pretrained(tmp_path / "ours")
    assert torch.equal(MultiLabelClassifier.from_pretrained(tmp_path / "ours")(images), model(images))


@pytest.mark.parametrize("size", [160, 224])
@pytest.mark.parametrize("heads", [1, 2])
def test_vits_of_the_authors_at_their_size_and_at_another(tmp_path, size, heads):
    net = timm.create_model("test_vit").eval()
    trunk = {k: v for k, v in net.state_dict().items() if not k.startswith("head.")}
    weights = head_tensors(heads, 5, 64)
    path = tmp_path / "w.pth"
    torch.save(trunk | {f"classifier.multi_head.{i}.head.weight": w for i, w in enumerate(weights)}, path)
    model = MultiLabelClassifier.from_checkpoint(path, backbone="test_vit", num_classes=5, lam=0.3, image_size=size)
    assert (model.mean, model.std) == ((0.5,) * 3, (0.5,) * 3)
    images, side = torch.rand(2, 3, size, size), size // 16
    if size != 160:
        grid = trunk["pos_embed"][:, 1:].unflatten(1, (10, 10)).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(side, side), mode="bicubic", antialias=True)
        resized = torch.cat([trunk["pos_embed"][:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
        net = timm.create_model("test_vit", img_size=size, num_classes=0).eval()
        net.load_state_dict(trunk | {"pos_embed": resized})
    tokens = net.forward_features(images)[:, 1:]  # without the class token
    features = tokens.transpose(1, 2).unflatten(2, (side, side))
    torch.testing.assert_close(model(images), literal_csra(features, weights, PAPER[heads], 0.3), rtol=1e-4, atol=1e-4)


def test_other_temperatures_means_and_names(tmp_path, resnet18):
    net, trunk = resnet18
    weights = head_tensors(3, 2, 512)
    path = tmp_path / "w.pth"
    torch.save(trunk | {f"classifier.multi_head.{i}.head.weight": w for i, w in enumerate(weights)}, path)
    with pytest.raises(CsraError, match="for 3, pass temperatures"):
        MultiLabelClassifier.from_checkpoint(path, backbone="resnet18", num_classes=2, image_size=64)
    model = MultiLabelClassifier.from_checkpoint(
        path, backbone="resnet18", num_classes=2, temperatures=[2.0, 9.0, float("inf")], lam=1.0,
        classes=["cat", "dog"], mean=(0.1, 0.2, 0.3), std=(1, 2, 3), image_size=64,
    )  # fmt: skip
    images = torch.rand(2, 3, 64, 64)
    expected = literal_csra(torchvision_features(net, images), weights, [2.0, 9.0, float("inf")], 1.0)
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)
    assert (model.classes, model.mean, model.std) == (("cat", "dog"), (0.1, 0.2, 0.3), (1, 2, 3))


def test_heads_are_in_the_order_of_their_numbers(tmp_path, resnet18):
    """As text, head 10 comes before head 2."""
    net, trunk = resnet18
    weights, temperatures = head_tensors(11, 2, 512), [float(t) for t in range(11)]
    path = tmp_path / "w.pth"
    state = {
        f"head.csra_heads.{i}.head.weight": w for i, w in sorted(enumerate(weights), key=lambda item: str(item[0]))
    }
    torch.save(state | {f"backbone.{k}": v for k, v in trunk.items()}, path)
    model = MultiLabelClassifier.from_checkpoint(
        path, backbone="resnet18", num_classes=2, temperatures=temperatures, lam=1.0, image_size=64
    )
    images = torch.rand(1, 3, 64, 64)
    expected = literal_csra(torchvision_features(net, images), weights, temperatures, 1.0)
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_a_plain_classifier_is_an_average_pooling_one(tmp_path, resnet18, bias):
    net = copy.deepcopy(resnet18[0])
    net.fc = torch.nn.Linear(512, 6, bias=bias)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    model = MultiLabelClassifier.from_checkpoint(tmp_path / "w.pth", backbone="resnet18", num_classes=6, image_size=64)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), net(images), rtol=1e-4, atol=1e-4)
    maps = model.score_maps(images)[:, 0]
    torch.testing.assert_close(
        model.with_four_lines(0.5)(images), net(images) + 0.5 * maps.amax((2, 3)), rtol=1e-4, atol=1e-4
    )


def test_checkpoints_that_do_not_fit(tmp_path):
    net = timm.create_model("test_resnet")
    trunk = {k: v for k, v in net.state_dict().items() if not k.startswith("fc.")}
    path = tmp_path / "w.pth"
    key = "classifier.multi_head.{}.head.weight".format
    one, two = torch.randn(2, 5, 96, 1, 1)

    def load(state, backbone="test_resnet", num_classes=5):
        torch.save(state, path)
        before = tree(tmp_path)
        try:
            return MultiLabelClassifier.from_checkpoint(path, backbone=backbone, num_classes=num_classes, image_size=64)
        finally:
            assert tree(tmp_path) == before

    load(trunk | {key(0): one})  # good as it is
    with pytest.raises(CsraError, match="2 class names were given for num_classes = 5"):
        MultiLabelClassifier.from_checkpoint(path, backbone="test_resnet", num_classes=5, classes=["a", "b"])
    less = {k: v for k, v in trunk.items() if k != "layer3.0.conv2.weight"}
    with_nan = trunk | {"bn1.bias": torch.full_like(trunk["bn1.bias"], float("nan"))}
    for state, options, said in [
        (trunk | {key(0): one}, {"num_classes": 20}, "classifies 5 classes, not 20; pass num_classes=5"),
        (trunk | {key(0): one}, {"backbone": "resnet10t"}, "96 channels and resnet10t gives 512"),
        (trunk | {key(0): one}, {"backbone": "test_vit3"}, "checkpoint of another model"),
        (trunk | {key(0): one}, {"backbone": "resnet19"}, "did you mean"),
        (trunk | {key(0): one, key(2): two}, {}, r"heads \[0, 2\]; one is missing"),
        (trunk | {key(1): one}, {}, r"heads \[1\]"),
        (trunk | {key(0): one, key(1): two[:4]}, {}, "differ in shape"),
        (trunk, {}, "no classifier in a layout known here"),
        (less | {key(0): one}, {}, "has no 'layer3.0.conv2.weight'"),
        (trunk | {key(0): one, "extra.weight": one}, {}, "also holds 'extra.weight'"),
        (trunk | {key(0): one.squeeze(-1)[:, :, 0][:, :3]}, {}, "3 channels"),
        (with_nan | {key(0): one}, {}, "NaN or infinite values in 'bn1.bias'"),
        (trunk | {key(0): one * float("inf")}, {}, "NaN or infinite"),
        ({"state_dict": {}}, {}, "no named tensors"),
        ({"weight": torch.ones(2, 2)}, {}, "no classifier in a layout known here"),
    ]:
        with pytest.raises(CsraError, match=said) as caught:
            load(state, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(CsraError, match="there is no weight file"):
        MultiLabelClassifier.from_checkpoint(tmp_path / "no.pth", backbone="resnet18", num_classes=5)


def test_another_head_on_the_same_backbone():
    model, images = small("average"), torch.randn(1, 3, 64, 64)
    other = model.with_head(create_head("max", 96, 3).eval())
    assert torch.equal(other(images), other.head(model.features(images)))
    assert other.config()["head"]["kind"] == "max"
    assert model.config()["head"]["kind"] == "average"
    logits = model(images)
    other.register_forward_hook(lambda module, inputs, output: output * 0)
    assert torch.equal(model(images), logits)
    assert (other(images) == 0).all()


def test_a_classifier_of_the_class_token_has_no_score_maps(tmp_path):
    network = timm.create_model("test_vit", num_classes=3)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(CsraError, match="class token"):
        MultiLabelClassifier.from_checkpoint(tmp_path / "vit.pth", backbone="test_vit", num_classes=3)


def test_a_head_that_does_not_fit_is_refused():
    model = create_classifier("test_resnet", num_classes=3, image_size=64)
    with pytest.raises(CsraError, match="3 classes and the new head 4"):
        model.with_head(CSRA(model.backbone.num_features, 4))
    with pytest.raises(CsraError, match=r"features of size .*, and the new head reads 7"):
        model.with_head(CSRA(7, 3))


def test_a_head_alone_is_not_saved_over_a_backbone_that_was_trained(tmp_path):
    name = "tf_efficientnet_lite0"
    if not has_installed_weights(name):
        pytest.skip("needs the package of its weights")
    model = create_classifier(name, num_classes=2, image_size=32, weights="installed").eval()
    model.save_head(tmp_path / "head")
    with torch.no_grad():
        model.backbone.model.conv_stem.weight[0, 0, 0, 0] += 0.01
    with pytest.raises(CsraError, match=r"conv_stem\.weight.*save_pretrained"):
        model.save_head(tmp_path / "trained")
    assert not (tmp_path / "trained").exists()


def test_a_head_read_over_another_backbone_says_so(tmp_path, monkeypatch):
    """A network whose weights no installed package holds: what it was saved with is known when it is read."""
    backbone = create_classifier("test_resnet", num_classes=2, image_size=64).backbone
    monkeypatch.setattr("csra_lab.classifier.create_backbone", lambda *_, **__: copy.deepcopy(backbone))
    model = MultiLabelClassifier._from_parts(copy.deepcopy(backbone), ["a", "b"], {"kind": "csra"})
    model.save_head(tmp_path / "same")
    with warnings.catch_warnings(action="error"):
        again = MultiLabelClassifier.from_pretrained(tmp_path / "same")
    assert torch.equal(again.head.weight, model.head.weight)
    with torch.no_grad():
        next(model.backbone.parameters()).mul_(1.001)
    model.save_head(tmp_path / "trained")
    with pytest.warns(CsraWarning, match="other backbone weights"):
        MultiLabelClassifier.from_pretrained(tmp_path / "trained")
