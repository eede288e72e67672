"""Batch norms folded into convolutions: same outputs, an untouched network, and what cannot be folded left alone."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from csra_lab.folding import folded


def _trained(model: nn.Module) -> nn.Module:
    """Statistics and scales as after training: none is 0 or 1."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


def _norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "tf_efficientnet_lite0", "vgg11_bn", "resnetv2_50"])
def test_a_folded_network_gives_the_same_with_fewer_layers(name):
    model = _trained(timm.create_model(name, num_classes=5))
    model.train()
    before = copy.deepcopy(model.state_dict())
    other = folded(model, (1, 3, 64, 64))
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found, expected = other(images), copy.deepcopy(model).eval()(images)
    assert (found - expected).abs().max() < 2e-4 * expected.abs().max()
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    # Where norms come first, those at the start of a block follow a sum and not a convolution.
    assert _norms(other) == 0 if name != "resnetv2_50" else 0 < _norms(other) < _norms(model)


class Net(nn.Module):
    def __init__(self, **parts):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        for name, part in parts.items():
            setattr(self, name, part)
        _trained(self)

    def forward(self, x):
        return self.norm(self.conv(x))


class TwoReaders(Net):
    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


class TwiceCalled(Net):
    def forward(self, x):
        return self.norm(self.conv(x)).mean() + self.conv(x)


class Reshaped(Net):
    def forward(self, x):
        return self.norm(self.conv(x).flip(1))


class NotANumber(Net):
    def forward(self, x):
        return super().forward(x) * float("nan")


def _watched() -> Net:
    net = Net()
    net.norm.register_forward_hook(lambda *_: None)
    return net


@pytest.mark.parametrize(
    "net",
    [
        TwoReaders(), TwiceCalled(), Reshaped(), NotANumber(), _watched(),
        Net(norm=nn.BatchNorm2d(4, track_running_stats=False)), Net(conv=weight_norm(nn.Conv2d(3, 4, 3))),
        Net(norm=nn.Identity()),
    ],
    ids=["two readers", "called twice", "not its output", "nan", "watched", "no statistics", "made weights", "no norm"],
)  # fmt: skip
def test_what_cannot_be_folded_is_left_alone(net):
    assert folded(net, (1, 3, 8, 8)) is net


def test_the_plain_pair_is_folded():
    net = Net()
    assert (_norms(folded(net, (1, 3, 8, 8))), _norms(net)) == (0, 1)
