"""Whatever a weight file wraps around its tensors, the tensors come out; nothing in it is run."""

import argparse

import numpy as np
import pytest
import timm
import torch

from csra_lab import MultiLabelClassifier
from csra_lab._io.notice import CsraWarning
from csra_lab.backbones import create_backbone
from csra_lab.weights.sources import read_state_dict

RAW = {"a.weight": torch.arange(6.0).view(2, 3), "a.num_batches_tracked": torch.tensor(3)}
AVERAGE = {name: tensor + 1 for name, tensor in RAW.items()}


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[k], v) for k, v in expected.items())


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "params"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "backbone.", "_orig_mod.", "module.module.", "model._orig_mod."]
)
def test_envelopes_and_prefixes(tmp_path, key, prefix):
    state = {prefix + name: tensor for name, tensor in RAW.items()}
    torch.save({key: state, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}, "epoch": 3}, tmp_path / "w.pth")
    assert same(read_state_dict(tmp_path / "w.pth"), RAW)


@pytest.mark.parametrize(
    "averaged",
    [
        {"ema": AVERAGE},
        {"ema_state_dict": {f"module.{k}": v for k, v in AVERAGE.items()} | {"steps": torch.tensor(9)}},
        {"ema": {"module": AVERAGE, "decay": 0.99}},
    ],
)
def test_averaged_weights_are_taken_and_said(tmp_path, averaged):
    torch.save({"state_dict": RAW, **averaged}, tmp_path / "w.pth")
    with pytest.warns(CsraWarning, match="averaged"):
        assert same(read_state_dict(tmp_path / "w.pth"), AVERAGE)


def test_mmengine_puts_the_average_where_the_raw_weights_were(tmp_path):
    content = {"state_dict": AVERAGE, "ema_state_dict": RAW, "meta": {"mmengine_version": "0.10"}}
    torch.save(content, tmp_path / "w.pth")
    assert same(read_state_dict(tmp_path / "w.pth"), AVERAGE)


def test_numbers_of_numpy_and_arguments_may_lie_beside_the_tensors(tmp_path):
    beside = {"best": np.float64(0.5), "epoch": np.int64(3), "args": argparse.Namespace(lr=0.1, name="x")}
    torch.save({"state_dict": RAW, **beside}, tmp_path / "w.pth")
    assert same(read_state_dict(tmp_path / "w.pth"), RAW)


def test_counters_in_half_precision(tmp_path):
    torch.save({k: v.half() for k, v in RAW.items()}, tmp_path / "w.pth")
    assert read_state_dict(tmp_path / "w.pth")["a.num_batches_tracked"].dtype == torch.int64


def test_every_door_opens_the_same_file(tmp_path):
    net = timm.create_model("test_resnet")
    state = {f"module.{k}": v for k, v in net.state_dict().items()}
    torch.save({"net": state, "args": argparse.Namespace(lr=0.1)}, tmp_path / "w.pth")
    images = torch.rand(1, 3, 64, 64)
    backbone = create_backbone("test_resnet", weights=tmp_path / "w.pth", image_size=64).eval()
    torch.testing.assert_close(backbone(images), net.eval().forward_features(images))
    state["module.classifier.multi_head.0.head.weight"] = torch.randn(5, 96, 1, 1)  # and ImageNet's fc is left over
    torch.save({"net": state}, tmp_path / "w.pth")
    model = MultiLabelClassifier.from_checkpoint(
        tmp_path / "w.pth", backbone="test_resnet", num_classes=5, image_size=64
    )
    torch.testing.assert_close(model.features(images), net.forward_features(images))
