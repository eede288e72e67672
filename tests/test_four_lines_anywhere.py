"""The four lines on classifiers that others built: average + lam * maximum of score maps computed by hand."""

from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models as tv
import transformers as hf
from torch import nn

from csra_lab import create_classifier
from csra_lab.errors import CsraError
from csra_lab.four_lines_anywhere import LAMS, FourLines, add_four_lines, choose_lam
from csra_lab.metrics import average_precision

CLASSES = 7


def classify(features, layer):
    """(B, d, h, w) or (B, N, d) -> (B, C, N) scores, a location at a time."""
    locations = features.flatten(2).transpose(1, 2) if features.ndim == 4 else features  # (B, N, d)
    return torch.stack([layer(locations[:, k]) for k in range(locations.shape[1])], dim=-1)


def after_norm(features, norm, layer):
    """The same with a layer norm after the pool: its standard deviation is that of the mean feature."""
    locations = features.flatten(2).transpose(1, 2) if features.ndim == 4 else features
    scale = (locations.mean(dim=1).var(dim=-1, unbiased=False) + norm.eps).sqrt()
    maps = []
    for k in range(locations.shape[1]):
        x = locations[:, k]
        x = (x - x.mean(dim=-1, keepdim=True)) / scale[:, None] * norm.weight + norm.bias
        maps.append(layer(x))
    return torch.stack(maps, dim=-1)


# ---- architectures: how to make one, and its score maps by its own parts -------------------------------------------


def tv_convnext():
    setting = tv.convnext.CNBlockConfig
    return tv.ConvNeXt([setting(8, 16, 1), setting(16, 24, 1), setting(24, None, 1)], num_classes=CLASSES)


def tv_swin():
    return tv.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=CLASSES)


def hf_resnet():
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    config.num_labels = CLASSES
    return hf.ResNetForImageClassification(config)


def hf_convnext():
    config = hf.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, num_labels=CLASSES)
    return hf.ConvNextForImageClassification(config)


def hf_swin():
    config = hf.SwinConfig(image_size=64, window_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2])
    config.num_labels = CLASSES
    return hf.SwinForImageClassification(config)


def hf_vit(**options):
    config = hf.ViTConfig(
        image_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, **options
    )
    return hf.ViTForImageClassification(config)


class BatchNormHead(nn.Module):
    """Pool, batch norm, matrix product: as in networks for re-identification."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm1d(8)
        nn.init.uniform_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        self.weight = nn.Parameter(torch.randn(8, CLASSES))

    def forward(self, x):
        return self.norm(self.conv(x).mean((2, 3))) @ self.weight


class GraphClassifier(nn.Module):
    """ML-GCN's form with an average pool: a graph convolution over label embeddings generates the classifier."""

    def __init__(self, pool=nn.AdaptiveAvgPool2d(1)):  # noqa: B008
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 8, 3, stride=2), pool
        self.register_buffer("labels", torch.randn(CLASSES, 5))
        self.register_buffer("graph", torch.rand(CLASSES, CLASSES).softmax(dim=1))
        self.one, self.two = nn.Linear(5, 6, bias=False), nn.Linear(6, 8, bias=False)

    def generated(self):
        hidden = F.leaky_relu(self.graph @ self.one(self.labels), 0.2)
        return self.graph @ self.two(hidden)  # (C, d)

    def forward(self, x):
        features = self.pool(self.conv(x).relu()).flatten(1)
        return torch.matmul(features, self.generated().transpose(0, 1))


def children(model, drop):
    return nn.Sequential(*list(model.children())[:-drop])


MODELS = {
    "torchvision resnet18": (partial(tv.resnet18), lambda m, x: classify(children(m, 2)(x), m.fc)),
    "torchvision mobilenet_v2": (tv.mobilenet_v2, lambda m, x: classify(m.features(x), m.classifier[1])),
    "torchvision efficientnet_b0": (tv.efficientnet_b0, lambda m, x: classify(m.features(x), m.classifier[1])),
    "torchvision densenet121": (tv.densenet121, lambda m, x: classify(m.features(x).relu(), m.classifier)),
    "torchvision shufflenet": (tv.shufflenet_v2_x0_5, lambda m, x: classify(children(m, 1)(x), m.fc)),
    "torchvision squeezenet": (tv.squeezenet1_1, lambda m, x: m.classifier[:-1](m.features(x)).flatten(2)),
    "torchvision mnasnet": (tv.mnasnet0_5, lambda m, x: classify(m.layers(x), m.classifier[1])),
    "torchvision regnet": (tv.regnet_y_400mf, lambda m, x: classify(m.trunk_output(m.stem(x)), m.fc)),
    "torchvision convnext": (tv_convnext, lambda m, x: after_norm(m.features(x), m.classifier[0], m.classifier[2])),
    "torchvision swin": (tv_swin, lambda m, x: classify(m.norm(m.features(x)).permute(0, 3, 1, 2), m.head)),
    "timm efficientnet_lite0": (
        partial(timm.create_model, "tf_efficientnet_lite0", drop_rate=0.2),
        lambda m, x: classify(m.forward_features(x), m.classifier),
    ),
    "timm vit, averaged": (
        partial(timm.create_model, "vit_tiny_patch16_224", depth=1, img_size=64, global_pool="avg"),
        lambda m, x: after_norm(m.forward_features(x)[:, 1:], m.fc_norm, m.head),
    ),
    "timm regnety_002": (
        partial(timm.create_model, "regnety_002"),
        lambda m, x: classify(m.forward_features(x), m.head.fc),
    ),
    "huggingface resnet": (hf_resnet, lambda m, x: classify(m.resnet(x).last_hidden_state, m.classifier[1])),
    "huggingface convnext": (
        hf_convnext,
        lambda m, x: after_norm(m.convnext.encoder(m.convnext.embeddings(x))[0], m.convnext.layernorm, m.classifier),
    ),
    "huggingface swin": (hf_swin, lambda m, x: classify(m.swin(x).last_hidden_state, m.classifier)),
    "batch norm after the pool": (
        BatchNormHead,
        lambda m, x: classify(m.conv(x), lambda feature: m.norm(feature) @ m.weight),
    ),
    "ml-gcn": (GraphClassifier, lambda m, x: classify(m.conv(x).relu(), lambda f: f @ m.generated().T)),
}


def make(name):
    torch.manual_seed(0)
    build = MODELS[name][0]
    model = build(num_classes=CLASSES) if isinstance(build, partial) or (name.startswith("torchvision") and (
        build not in (tv_convnext, tv_swin)
    )) else build()  # fmt: skip
    return model.eval()


def logits_of(output):
    return getattr(output, "logits", output)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_average_plus_lam_times_maximum(name):
    model, images = make(name), torch.randn(3, 3, 64, 64)
    maps = MODELS[name][1](model, images)  # (B, C, N)
    assert maps.shape[2] > 1
    assert (maps.std(dim=-1) > 0).any()
    four = add_four_lines(model, 0.7, example=images[:2])
    torch.testing.assert_close(logits_of(model(images)), maps.mean(-1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits_of(four(images)), maps.mean(-1) + 0.7 * maps.amax(-1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(four.score_maps(images).flatten(2), maps, rtol=1e-3, atol=1e-4)
    four.lam = 0.0
    assert torch.equal(logits_of(four(images)), logits_of(model(images)))  # lam 0 is the model itself


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (partial(timm.create_model, "resnet18", global_pool="max"), "pools by the maximum"),
        (partial(timm.create_model, "mobilenetv3_small_050"), "hidden layer"),
        (partial(timm.create_model, "vit_tiny_patch16_224", depth=1, img_size=64), "class token"),
        (hf_vit, "class token"),
        (partial(tv.squeezenet1_1, num_classes=3), None),
        (partial(tv.vgg11, num_classes=3), "hidden layer"),
        (partial(GraphClassifier, nn.AdaptiveMaxPool2d(1)), "pools by the maximum"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(1), nn.Linear(4 * 62 * 62, 2)),
            "flattened map",
        ),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)), "stands"),
        (lambda: nn.Conv2d(3, 4, 3), "must return logits"),
    ],
)
def test_refused_with_a_reason(build, reason):
    model, images = build(), torch.randn(2, 3, 64, 64)
    if reason is None:
        assert isinstance(add_four_lines(model, 1, example=images), FourLines)
        return
    with pytest.raises(CsraError, match=reason):
        add_four_lines(model, 0.1, example=images)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.Tanh()])
def test_a_nonlinearity_after_the_pool_is_refused_even_where_it_changes_nothing(activation):
    """A ReLU on features that are positive on this example would pass any check of values."""
    positive = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus())
    model = nn.Sequential(positive, nn.AdaptiveAvgPool2d(1), nn.Flatten(), activation, nn.Linear(4, 2))
    with pytest.raises(CsraError, match="nonlinearity"):
        add_four_lines(model, 0.1, example=torch.randn(2, 3, 16, 16))


def small():
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(8, CLASSES))


def test_weights_are_shared_and_train_through_it():
    model = small().train()
    four = add_four_lines(model, 0.5, example=torch.randn(2, 3, 20, 20))
    assert model.training
    assert set(map(id, four.parameters())) == set(map(id, model.parameters()))
    four(torch.randn(4, 3, 28, 36)).sum().backward()  # of another size than the example
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@torch.no_grad()
def test_channels_last_and_double_precision():
    model, images = small().eval().double(), torch.randn(2, 3, 20, 20, dtype=torch.float64)
    four = add_four_lines(model, 0.5, example=images)
    last = add_four_lines(model.to(memory_format=torch.channels_last), 0.5, example=images)
    torch.testing.assert_close(last(images.to(memory_format=torch.channels_last)), four(images))


def test_its_own_example_has_the_models_size():
    model = timm.create_model("test_vit", global_pool="avg", num_classes=3).eval()
    assert add_four_lines(model, 0.2)(torch.randn(1, 3, 160, 160)).shape == (1, 3)


class Views(nn.Module):
    """A classifier's mean logit over an image and its mirror image."""

    def __init__(self, dim):
        super().__init__()
        self.net, self.dim = small(), dim

    def forward(self, images):
        return torch.stack([self.net(images), self.net(images.flip(-1))], self.dim).mean(self.dim)


class Crops(Views):
    """The same as one batch of twice as many images."""

    def forward(self, images):
        together = self.net(torch.cat([images, images.flip(-1)]))
        return together.view(2, len(images), -1).transpose(0, 1).mean(1)


@pytest.mark.parametrize("model", [Views(1), Views(2), Crops(1)])
def test_a_mean_over_views_is_no_mean_over_locations(model):
    model = model.eval()
    with pytest.raises(CsraError, match="several views or models"):
        add_four_lines(model, 0.5, example=torch.randn(3, 3, 20, 20))


@torch.no_grad()
def test_a_pool_that_leaves_out_part_of_a_larger_map_is_told():
    layers = [nn.Conv2d(3, 4, 3, stride=4), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 2)]
    four = add_four_lines(nn.Sequential(*layers).eval(), 0.5, example=torch.randn(2, 3, 16, 16))
    assert four(torch.randn(1, 3, 16, 16)).shape == (1, 2)
    with pytest.raises(CsraError, match="whole map"):
        four(torch.randn(2, 3, 20, 20))  # a map of 5 x 5, of which the pool sees 4 x 4


@torch.no_grad()
def test_on_a_map_of_one_place_the_mean_is_the_maximum():
    layers = [nn.Conv2d(3, 4, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    model = nn.Sequential(*layers).eval()
    with pytest.raises(CsraError, match="a single place; give a larger image"):
        add_four_lines(model, 0.5, example=torch.randn(2, 3, 4, 4))
    images = torch.randn(2, 3, 4, 4)
    four = add_four_lines(model, 0.5, example=torch.randn(2, 3, 16, 16))
    torch.testing.assert_close(four(images), 1.5 * model(images))


def test_another_ending_than_traced_is_told():
    model = hf_resnet().eval()
    images = torch.randn(2, 3, 64, 64)
    four = add_four_lines(model, 0.2, example=images)
    with pytest.raises(CsraError, match="images alone"):
        four(images, labels=torch.tensor([0, 1]))


@pytest.mark.parametrize("lam", [float("nan"), float("inf"), "0.1", True])
def test_lam_is_a_finite_number(lam):
    with pytest.raises(CsraError, match="lam must be"):
        add_four_lines(small(), lam)


# ---- lambda on held-out images -------------------------------------------------------------------------------------


def held_out(batches=3):
    return [(torch.randn(8, 3, 20, 20), torch.randint(-1, 2, (8, CLASSES))) for _ in range(batches)]


@torch.no_grad()
def test_choose_lam_is_the_literal_search():
    model, batches = small().train(), held_out()
    choice = choose_lam(model, batches)
    assert model.training
    assert (choice.lams, choice.images) == (LAMS, 24)
    targets = torch.cat([labels for _, labels in batches]).numpy()
    for lam, mAP in zip(choice.lams, choice.mAPs, strict=True):
        four = add_four_lines(model.eval(), lam, example=batches[0][0])
        logits = torch.cat([four(images) for images, _ in batches]).double().numpy()
        assert mAP == pytest.approx(average_precision(logits, targets).mean(), abs=1e-9)
    assert choice.lam == choice.lams[choice.mAPs.index(max(choice.mAPs))]
    again = choose_lam(add_four_lines(model, 9.0, example=batches[0][0]), batches)
    assert again.lams == choice.lams
    assert again.mAPs == pytest.approx(choice.mAPs)


@torch.no_grad()
def test_the_labs_own_average_pooling_is_taken():
    model = create_classifier("test_resnet", num_classes=CLASSES, image_size=64, head="average").eval()
    images = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(add_four_lines(model, 0.3)(images), model.with_four_lines(0.3)(images))


def test_choose_lam_without_images_or_positives():
    with pytest.raises(CsraError, match="no held-out images"):
        choose_lam(small(), [])
    with pytest.raises(CsraError, match="no held-out image has a positive"):
        choose_lam(small(), [(torch.randn(2, 3, 20, 20), torch.zeros(2, CLASSES))])
    with pytest.raises(CsraError, match="no lambda to choose"):
        choose_lam(small(), held_out(), lams=())
    minus = [(images, 2 * (labels == 1).int() - 1) for images, labels in held_out()]
    with pytest.raises(CsraError, match="no target is 0"):
        choose_lam(small(), minus)


def test_modules_that_were_frozen_stay_frozen():
    model = small().train()
    frozen, *others = model.children()
    frozen.eval()
    batches = [(torch.randn(2, 3, 20, 20), torch.ones(2, CLASSES))]
    add_four_lines(model, 0.1, example=batches[0][0])
    choose_lam(model, batches)
    assert model.training
    assert not frozen.training
    assert all(module.training for module in others)
