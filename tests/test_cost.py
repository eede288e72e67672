"""Counts of parameters and multiply-adds against known numbers and counts made by hand."""

import pytest
import torch
from torch import nn

from csra_lab.classifier import MultiLabelClassifier, create_classifier
from csra_lab.cost import Cost, count_multiply_adds, count_parameters, model_cost
from csra_lab.recipes import GIGA_MULTIPLY_ADDS, PAPER_BACKBONES


def literal_convolutions(model, images):
    """Every convolution and matrix of a network, one by one: outputs times the numbers that each output needs."""
    total = 0

    def count(module, _, output):
        nonlocal total
        if isinstance(module, nn.Conv2d):
            window = module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
            total += output.numel() * window
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    hooks = [m.register_forward_hook(count) for m in model.modules()]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return total


def one_image(model) -> torch.Tensor:
    return next(model.parameters()).new_zeros(1, 3, model.image_size, model.image_size)


def test_a_network_counted_by_hand():
    """3x3 convolution 3 -> 8 with stride 2, depthwise 3x3, 1x1 convolution 8 -> 5, on 16 pixels; then one-head CSRA."""

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
            self.b = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.c = nn.Conv2d(8, 5, 1)
            self.norm = nn.BatchNorm2d(5)
            self.image_size = 16

        def forward(self, x):
            return self.norm(self.c(self.b(self.a(x))))

    by_hand = 64 * 8 * 27 + 64 * 8 * 9 + 64 * 5 * 8
    tiny = Tiny()
    assert count_multiply_adds(tiny, one_image(tiny)) == by_hand
    assert count_parameters(Tiny()) == 8 * 27 + (8 * 9 + 8) + (5 * 8 + 5) + 2 * 5


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "mobilenetv2_035", "resnet10t"])
def test_convolutional_networks_layer_by_layer(name):
    cost = model_cost(name, num_classes=7, image_size=64, head="average")
    with torch.device("meta"):
        model = create_classifier(name, num_classes=7, image_size=64, head="average").eval()
        layers = literal_convolutions(model.backbone, torch.empty(1, 3, 64, 64))
    d, (h, w) = model.backbone.num_features, model.backbone.grid
    assert cost.head_multiply_adds == 7 * d * h * w
    assert cost.multiply_adds == layers + cost.head_multiply_adds


def test_known_networks():
    assert GIGA_MULTIPLY_ADDS["resnet101", 224] == 7.80
    assert GIGA_MULTIPLY_ADDS["vitb16", 224] == 17.56
    resnet50 = model_cost("resnet50", num_classes=20, image_size=224)
    assert round(resnet50.multiply_adds / 1e9, 1) == 4.1


def test_a_transformer_by_its_formula():
    """Patches, and for each block: queries, keys, values and their projection, two products of attention, the MLP."""
    d, depth, tokens, patches, hidden = 768, 12, 197, 196, 3072
    block = tokens * (4 * d * d + 2 * d * hidden) + 2 * tokens * tokens * d
    expected = patches * 3 * 16 * 16 * d + depth * block
    cost = model_cost("vit_base_patch16_224", num_classes=20)
    assert cost.multiply_adds - cost.head_multiply_adds == expected
    assert cost.head_multiply_adds >= 20 * d * patches


@pytest.mark.parametrize(("short", "size"), GIGA_MULTIPLY_ADDS, ids=str)
def test_the_numbers_of_the_recipes_are_counted_again(short, size):
    cost = model_cost(PAPER_BACKBONES[short], num_classes=20, image_size=size, head="average")
    assert round((cost.multiply_adds - cost.head_multiply_adds) / 1e9, 2) == GIGA_MULTIPLY_ADDS[short, size]


@pytest.mark.parametrize(
    "options",
    [{"head": "average", "bias": True}, {"head": "csra", "num_heads": 4}, {"head": "gem"}, {"head": "topk", "k": 2}],
    ids=str,
)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_shapes_alone_cost_what_the_real_model_costs(name, options):
    cost = model_cost(name, num_classes=5, image_size=96, **options)
    real = create_classifier(name, num_classes=5, image_size=96, **options).eval()
    assert isinstance(cost, Cost)
    assert (
        cost.parameters
        == count_parameters(real)
        == sum(p.numel() for p in real.state_dict().values()) - sum(b.numel() for b in real.buffers())
    )
    assert cost.head_parameters == count_parameters(real.head)
    assert cost.multiply_adds == count_multiply_adds(real, one_image(real))
    assert 0 < cost.head_multiply_adds < cost.multiply_adds


def test_counting_allocates_nothing_and_changes_nothing():
    model = create_classifier("test_resnet", num_classes=5, image_size=64).train()
    before = {k: v.clone() for k, v in model.eval().state_dict().items()}
    count_multiply_adds(model, one_image(model))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(p.grad is not None for p in model.parameters())
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    model_cost("test_resnet", num_classes=5, image_size=64)
    assert torch.equal(torch.rand(3), expected)
    assert torch.empty(1).device.type == "cpu"


def test_more_heads_cost_more_and_a_larger_image_too():
    costs = [model_cost("test_resnet", num_classes=5, image_size=96, num_heads=h) for h in (1, 2, 4)]
    assert costs[1].head_parameters == 2 * costs[0].head_parameters
    assert costs[2].head_parameters == 4 * costs[0].head_parameters
    assert costs[0].multiply_adds < costs[1].multiply_adds < costs[2].multiply_adds
    larger = model_cost("test_resnet", num_classes=5, image_size=192)
    assert larger.parameters == costs[0].parameters
    ratio = (larger.multiply_adds - larger.head_multiply_adds) / (costs[0].multiply_adds - costs[0].head_multiply_adds)
    assert ratio == pytest.approx(4)


def test_a_saved_model_counts_the_same(tmp_path):
    model = create_classifier("test_resnet", num_classes=5, image_size=64).eval()
    model.save_pretrained(tmp_path)
    again = MultiLabelClassifier.from_pretrained(tmp_path)
    assert count_multiply_adds(again, one_image(again)) == count_multiply_adds(model, one_image(model))
    assert count_parameters(again) == count_parameters(model)
