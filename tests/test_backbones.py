"""Any timm network as a feature map: the right map, the right way up, from the right weights."""

import warnings

import pytest
import timm
import torch
from packaging.version import Version
from safetensors.torch import save_file
from torch import nn

from csra_lab import create_classifier
from csra_lab.backbones import Backbone, best_weights, create_backbone, load_backbone_state, load_timm
from csra_lab.errors import CsraError
from csra_lab.weights.sources import has_installed_weights

OLD_TIMM = Version(timm.__version__) < Version("1.0.31")
# name, image size, channels, side of the grid
FAMILIES = [
    ("resnet10t", 64, 512, 2),
    ("resnet18", 96, 512, 3),
    ("resnet50", 64, 2048, 2),
    ("vgg11", 64, 512, 2),
    ("vgg16_bn", 64, 512, 2),
    ("mobilenetv2_050", 64, 1280, 2),
    ("mobilenetv3_small_050", 64, 288, 2),
    ("test_efficientnet", 64, 256, 2),
    ("efficientnet_b0", 96, 1280, 3),
    ("tf_efficientnet_lite0", 64, 1280, 2),
    ("test_vit", 96, 64, 6),
    ("vit_tiny_patch16_224", 96, 192, 6),
    ("deit_tiny_distilled_patch16_224", 64, 192, 4),  # two prefix tokens
    ("test_vit4", 64, 96, 4),  # register tokens, average pooled
    ("vit_base_patch14_reg4_dinov2", 70, 768, 5),
    ("vit_wee_patch16_reg1_gap_256", 64, 256, 4),
    ("eva02_tiny_patch14_224", 70, 192, 5),  # rotary positions
    ("vit_tiny_r_s16_p8_224", 64, 192, 2),  # patches cut from a convolution's map
    ("swin_tiny_patch4_window7_224", 96, 768, 3),  # works channels-last
    pytest.param(
        "swinv2_tiny_window8_256", 96, 768, 3, marks=pytest.mark.skipif(OLD_TIMM, reason="mended in timm 1.0.31")
    ),
    ("test_convnext", 64, 64, 2),
    ("pvt_v2_b0", 64, 256, 2),
]
CONVOLUTIONAL = ("resnet", "vgg", "mobilenet", "efficientnet", "convnext")


@pytest.mark.parametrize(("name", "size", "channels", "side"), FAMILIES)
def test_families_give_feature_maps(name, size, channels, side):
    with torch.device("meta"):
        backbone = create_backbone(name, image_size=size).eval()
        features = backbone(torch.empty(2, 3, size, size))
    assert features.shape == (2, channels, side, side)
    assert (backbone.num_features, backbone.grid, backbone.image_size) == (channels, (side, side), size)
    assert backbone.name == name
    assert len(backbone.mean) == len(backbone.std) == 3
    if any(family in name for family in CONVOLUTIONAL):
        assert backbone.convolutional
    if name.startswith(("test_vit", "vit_tiny_patch", "deit", "swin")):
        assert not backbone.convolutional


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv2_035", "test_efficientnet"])
def test_convolutional_maps_are_timms(name):
    """The mean of the map is what timm's own classifier reads, where nothing stands between."""
    torch.manual_seed(1)
    whole = timm.create_model(name).eval()
    torch.manual_seed(1)
    backbone = create_backbone(name, image_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(backbone(images), whole.forward_features(images))
    last = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(backbone(last), backbone(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["test_vit", "deit_tiny_distilled_patch16_224", "test_vit4", "vit_wee_patch16_reg1_gap_256"]
)
def test_tokens_are_timms_without_the_prefix(name):
    with torch.no_grad():
        backbone = create_backbone(name, image_size=64).eval()
        images = torch.randn(2, 3, 64, 64)
        tokens = backbone.model.forward_features(images)
        tokens = backbone.model.fc_norm(tokens)
        prefix = backbone.model.num_prefix_tokens
        assert prefix >= 1
        assert tokens.shape[1] == prefix + 16
        for row in range(4):
            for column in range(4):
                at = backbone(images)[:, :, row, column]
                assert torch.equal(at, tokens[:, prefix + 4 * row + column])


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("test_vit", 16),
        ("deit_tiny_distilled_patch16_224", 16),
        ("test_vit4", 16),
        ("swin_tiny_patch4_window7_224", 32),
    ],
)
def test_a_change_in_one_patch_moves_its_own_location(name, patch):
    """With the blocks stubbed out nothing mixes, so a map laid out wrongly would show at another place."""
    size = 4 * patch if patch == 16 else 96
    backbone = create_backbone(name, image_size=size).eval()
    if name.startswith("swin"):
        for stage in backbone.model.layers:
            stage.blocks = nn.Identity()
    else:
        backbone.model.blocks = nn.Sequential()
    side = size // patch
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        before = backbone(images)
        for row, column in [(0, 0), (0, side - 1), (side - 1, 0), (1, 2)]:
            changed = images.clone()
            changed[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] += 1
            moved = (backbone(changed) - before).abs().amax(1)[0] > 1e-6  # (h, w)
            assert moved.nonzero().tolist() == [[row, column]]


def test_unequal_sides_keep_their_layout():
    backbone = create_backbone("test_resnet", image_size=64).eval()
    with torch.no_grad():
        assert backbone(torch.randn(1, 3, 64, 128)).shape[2:] == (2, 4)


def test_the_network_keeps_its_mode_and_has_no_hooks_left():
    backbone = create_backbone("test_resnet", image_size=64)
    assert backbone.training
    assert all(not m._forward_pre_hooks for m in backbone.modules())
    frozen = timm.create_model("test_resnet").eval()
    Backbone(frozen, "test_resnet", 64)
    assert all(not m._forward_pre_hooks for m in frozen.modules())


# ---- what is dropped ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "mobilenetv2_035", "test_efficientnet", "test_vit", "test_vit3"])
def test_every_parameter_left_is_used(name):
    """A part that no logit depends on would count, be saved, and stop training on several processes."""
    with torch.device("meta"):
        backbone = create_backbone(name, image_size=64)
        backbone(torch.randn(2, 3, 64, 64)).sum().backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


def test_classifiers_and_fully_connected_layers_are_gone():
    with torch.device("meta"):
        backbone, whole = create_backbone("vgg16"), timm.create_model("vgg16")
        count = sum(p.numel() for p in backbone.parameters())
        assert count == sum(p.numel() for p in whole.features.parameters()) == 14_714_688
        assert sum(p.numel() for p in whole.parameters()) == 138_357_544
        assert sum(p.numel() for p in create_backbone("resnet101").parameters()) == 44_549_160 - 2_049_000
        assert sum(p.numel() for p in create_backbone("vit_base_patch16_224").parameters()) == 86_567_656 - 769_000


# ---- sizes and names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("test_vit", 100, "16-pixel patches.*100 pixels.*96 and 112"),
        ("vit_base_patch16_224", 447, "432 and 448"),
        ("vit_base_patch14_dinov2", 224 + 1, "224 and 238"),
        ("test_vit", 8, "nearest that work: 16"),
        ("swin_tiny_patch4_window7_224", 90, "88 and 92"),
        ("resnet18", 8, "8 pixels; the smallest that works is 32"),
        ("resnet18", 0, "0 pixels"),
        ("resnet18", -64, "-64 pixels"),
        ("test_vit", 0, "0 pixels"),
        ("test_vit", 96.0, "96.0 pixels"),
        ("resnet18", "big", "'big'"),
        ("levit_128s", 64, "levit_128s gives no square map of features.*networks that do: resnet50"),
        ("mixer_s32_224", None, "mixer_s32_224 gives no square map of features.*networks that do: resnet50"),
        ("crossvit_tiny_240", None, "crossvit_tiny_240 gives no square map of features"),
        ("xcit_nano_12_p16_224", None, "xcit_nano_12_p16_224 gives no square map of features"),
    ],
)
def test_sizes_and_networks_that_do_not_work_are_named(name, size, said):
    with pytest.raises(CsraError, match=said) as caught, torch.device("meta"):
        create_backbone(name, image_size=size)
    assert "\n" not in str(caught.value)


def test_the_nearest_sizes_do_work():
    with torch.device("meta"):
        for size in (96, 112):
            assert create_backbone("test_vit", image_size=size).grid == (size // 16, size // 16)
        assert create_backbone("resnet18", image_size=32).grid == (1, 1)
        assert create_backbone("resnet18", image_size=33).grid == (2, 2)  # convolutions take odd sizes
        assert create_backbone("test_vit").image_size == 160  # None is the network's own


@pytest.mark.parametrize(
    ("name", "channels", "side"),
    [("resnet18-layer3", 256, 4), ("resnet18-layer1", 64, 16), ("regnety_002-s3", 152, 4), ("test_vit-blocks", 64, 4)],
)
def test_a_network_is_cut_after_a_part(name, channels, side):
    whole, part = name.split("-")
    torch.manual_seed(0)
    full = timm.create_model(whole, **({"img_size": 64} if "vit" in whole else {})).eval()
    seen = []
    getattr(full, part).register_forward_hook(lambda *args: seen.append(args[2]))
    backbone = create_backbone(name, image_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    kept = {key: tensor for key, tensor in full.state_dict().items() if key in backbone.model.state_dict()}
    load_backbone_state(backbone.model, kept, "here")
    with torch.no_grad():
        full.forward_features(images)
        found = backbone(images)
    assert (backbone.num_features, backbone.grid) == (channels, (side, side))
    expected = seen[0] if seen[0].ndim == 4 else seen[0][:, 1:].transpose(1, 2).unflatten(2, (side, side))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_file_of_the_whole_network_or_of_its_kept_part_fits_the_cut_one(tmp_path):
    whole = timm.create_model("resnet18").state_dict()
    for name, state in (
        ("whole", whole),
        ("kept", {k: v for k, v in whole.items() if not k.startswith(("layer4", "fc"))}),
        ("some", {k: v for k, v in whole.items() if k != "layer4.0.conv1.weight"}),
    ):
        save_file(state, tmp_path / f"{name}.safetensors")
        backbone = create_backbone("resnet18-layer3", weights=tmp_path / f"{name}.safetensors", image_size=64)
        held = backbone.model.state_dict()
        assert all(torch.equal(held[key], whole[key]) for key in held)
        assert not any(key.startswith("layer4") for key in held)
    save_file({k: v for k, v in whole.items() if k != "layer3.0.conv1.weight"}, tmp_path / "less.safetensors")
    with pytest.raises(CsraError, match=r"layer3\.0\.conv1\.weight"):
        create_backbone("resnet18-layer3", weights=tmp_path / "less.safetensors", image_size=64)


def test_a_cut_network_with_installed_weights_is_the_whole_ones_beginning():
    images = torch.randn(1, 3, 64, 64)
    whole, part = (
        create_backbone(f"tf_efficientnet_lite0{last}", weights="installed", image_size=64).eval()
        for last in ("", "-blocks")
    )
    seen = []
    whole.model.blocks.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        whole(images)
        torch.testing.assert_close(part(images), seen[0], rtol=0, atol=0)
    assert best_weights("tf_efficientnet_lite0-blocks") == "installed"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "resnet18-layer5",
            "resnet18 has no part .layer5. to be cut after; its parts: conv1, .*layer4, .*fc",
        ),
        ("resnet18-", "timm has no network"),
        ("resnet19-layer3", "timm has no network 'resnet19'"),
    ],
)
def test_parts_that_there_are_not_are_named(name, said):
    with pytest.raises(CsraError, match=said):
        create_backbone(name)


def test_a_cut_network_has_no_classifier_for_the_four_lines():
    with pytest.raises(CsraError, match="resnet18-layer3 ends before the classifier of resnet18"):
        load_timm("resnet18-layer3", with_classifier=True)


@pytest.mark.parametrize("name", ["resnet19", "ResNet101", "vit_base_patch16", "res net"])
def test_unknown_names_suggest(name):
    with pytest.raises(CsraError, match=f"timm has no network '{name}'"):
        create_backbone(name)


def test_suggestions_are_near():
    with pytest.raises(CsraError, match="did you mean resnet18"):
        create_backbone("resnet19")
    with pytest.raises(CsraError, match="list_models"):
        create_backbone("zzzzzz")


# ---- weights from a file -----------------------------------------------------------------------------------------


def save(model, path, **extra):
    state = {**model.state_dict(), **extra}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_a_file_gives_its_weights(tmp_path, name, ending):
    torch.manual_seed(3)
    size = 160 if name == "test_vit" else 64
    whole = timm.create_model(name).eval()
    path = save(whole, tmp_path / f"w.{ending}")
    backbone = create_backbone(name, weights=path, image_size=size).eval()
    images = torch.randn(1, 3, size, size)
    expected = whole.forward_features(images)
    if name == "test_vit":
        expected = expected[:, 1:].transpose(1, 2).unflatten(2, (10, 10))
    torch.testing.assert_close(backbone(images), expected)


def test_a_classifier_of_any_size_in_the_file_is_left_alone(tmp_path):
    whole = timm.create_model("test_resnet", num_classes=7)
    backbone = create_backbone("test_resnet", weights=save(whole, tmp_path / "w.pth"), image_size=64)
    assert torch.equal(backbone.model.conv1[0].weight, whole.conv1[0].weight)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is copied there; the names are what is tested
        vgg = timm.create_model("vgg11")
        load_backbone_state(vgg, {k: v for k, v in vgg.state_dict().items() if not k.startswith("head.")}, "w.pth")
    headless = timm.create_model("test_resnet", num_classes=0)
    create_backbone("test_resnet", weights=save(headless, tmp_path / "w.pth"), image_size=64)


@pytest.mark.parametrize(("name", "size"), [("test_efficientnet", 64), ("vgg11", 64), ("test_vit", 96)])
def test_the_backbone_of_a_saved_classifier_starts_another(tmp_path, name, size):
    trained = create_classifier(name, num_classes=3, image_size=64)
    trained.save_pretrained(tmp_path)
    backbone = create_backbone(name, weights=tmp_path / "model.safetensors", image_size=size)
    expected = trained.backbone.state_dict()
    found = backbone.state_dict()
    assert found.keys() == expected.keys()
    same = [torch.equal(found[k], expected[k]) for k in found if not k.endswith("pos_embed")]
    assert all(same)
    assert any("pos_embed" in k for k in found) == (name == "test_vit")  # interpolated to the new size


def test_a_saved_classifier_of_another_network_is_refused(tmp_path):
    create_classifier("test_efficientnet", num_classes=3, image_size=64).save_pretrained(tmp_path)
    with pytest.raises(CsraError, match="another model"):
        create_backbone("test_resnet", weights=tmp_path / "model.safetensors", image_size=64)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(CsraError, match="not a whole safetensors file"):
        create_backbone("test_efficientnet", weights=tmp_path / "model.safetensors", image_size=64)


def test_the_classifier_of_a_file_is_loaded_where_it_is_asked_for(tmp_path):
    whole = timm.create_model("test_resnet")
    model, _ = load_timm("test_resnet", weights=save(whole, tmp_path / "w.pth"), image_size=64, with_classifier=True)
    assert torch.equal(model.fc.weight, whole.fc.weight)
    for num_classes, said in ((0, "has no 'fc"), (7, r"'fc.*\(7,")):
        path = save(timm.create_model("test_resnet", num_classes=num_classes), tmp_path / "w.pth")
        with pytest.raises(CsraError, match=said):
            load_timm("test_resnet", weights=path, image_size=64, with_classifier=True)


def test_files_without_batch_counters_load(tmp_path):
    """torchvision's old files have none, and the network does not need them."""
    whole = timm.create_model("test_resnet")
    state = {k: v for k, v in whole.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth")
    create_backbone("test_resnet", weights=tmp_path / "w.pth", image_size=64)


@pytest.mark.parametrize("name", ["test_vit", "test_vit4"])
def test_position_embeddings_are_interpolated(tmp_path, name):
    """A smooth embedding made for one grid reads the same at the same place of another."""
    whole = timm.create_model(name)
    grid, d = 10, whole.embed_dim
    prefix = whole.pos_embed.shape[1] - grid * grid
    ramp = torch.linspace(0.05, 0.95, grid)
    smooth = (ramp[:, None] + 2 * ramp[None, :]).flatten()[:, None].expand(-1, d)
    with torch.no_grad():
        whole.pos_embed[0, prefix:] = smooth
    backbone = create_backbone(name, weights=save(whole, tmp_path / "w.pth"), image_size=320)
    embedded = backbone.model.pos_embed[0, prefix:].unflatten(0, (20, 20))[..., 0]
    assert torch.equal(backbone.model.pos_embed[0, :prefix], whole.pos_embed[0, :prefix])
    fine = (torch.arange(20) + 0.5) / 20
    expected = fine[:, None] + 2 * fine[None, :]
    torch.testing.assert_close(embedded[3:-3, 3:-3], expected[3:-3, 3:-3], rtol=0, atol=0.02)
    assert backbone.grid == (20, 20)
    same = create_backbone(name, weights=tmp_path / "w.pth")
    assert torch.equal(same.model.pos_embed, whole.pos_embed)


@pytest.mark.parametrize(
    ("name", "other", "said"),
    [
        ("test_resnet", "resnet10t", "not whole|not the model it was made with|has shape"),
        ("test_vit", "test_vit2", "not whole|not the model it was made with|has shape"),
        ("resnet10t", "resnet14t", "has shape"),
    ],
)
def test_a_file_of_another_network_is_refused(tmp_path, name, other, said):
    path = save(timm.create_model(other), tmp_path / "other.pth")
    with pytest.raises(CsraError, match=said) as caught:
        create_backbone(name, weights=path, image_size=64)
    assert str(path) in str(caught.value)


def test_a_file_of_a_deeper_network_is_refused(tmp_path):
    whole = timm.create_model("test_resnet")
    deeper = {f"layer4.1.{k}": v for k, v in whole.layer4[0].state_dict().items()}
    path = save(whole, tmp_path / "deeper.pth", **deeper)
    with pytest.raises(CsraError, match=r"deeper\.pth also holds 'layer4\.1\.conv1"):
        create_backbone("test_resnet", weights=path, image_size=64)


def test_random_weights_follow_torchs_seed():
    states = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        states.append(create_backbone("test_resnet", image_size=64).model.conv1[0].weight)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


# ---- installed weights -------------------------------------------------------------------------------------------


def test_the_best_source_is_the_installed_one():
    installed = has_installed_weights("tf_efficientnet_lite0")
    assert best_weights("tf_efficientnet_lite0") == ("installed" if installed else "hub")
    assert best_weights("resnet18") == "hub"
    with pytest.raises(CsraError, match="no installed package holds weights for resnet18"):
        create_backbone("resnet18", weights="installed")
