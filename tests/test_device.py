"""Freed memory is kept for the next batch; full memory ends in a sentence that names a batch that would have fitted."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from csra_lab import create_classifier
from csra_lab.cli import _sentence
from csra_lab.device import autocast, fit_in_memory, is_memory_error
from csra_lab.errors import CsraError
from csra_lab.recipes import get_recipe
from csra_lab.training.evaluation import predict_scores
from csra_lab.training.loop import train
from tests import toy


def fill_memory(count: int, most: int) -> None:
    """What torch raises where the processor's memory is full, for more than `most` images."""
    if count > most:
        torch.empty(2**60, dtype=torch.uint8)


def test_torchs_own_error_is_recognised():
    for run in (lambda: torch.empty(2**60, dtype=torch.uint8), lambda: bytearray(2**62)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            run()
        assert is_memory_error(caught.value)
        assert "memory is full" in _sentence(caught.value)
    assert not is_memory_error(RuntimeError("shapes do not fit"))


@pytest.mark.parametrize(("most", "said"), [(5, "4 would have: pass --batch-size 4"), (0, "not even one image")])
def test_the_batch_that_would_have_fitted_is_named(most, said):
    assert fit_in_memory(lambda count: count, 16) == 16
    with pytest.raises(CsraError, match=said):
        fit_in_memory(lambda count: fill_memory(count, most), 16)


def test_other_errors_go_through():
    with pytest.raises(ZeroDivisionError):
        fit_in_memory(lambda count: 1 / 0, 4)


class Hungry(nn.Module):
    def forward(self, images):
        fill_memory(len(images), 3)
        return images.flatten(1)[:, :2]


def test_evaluation_and_prediction_name_it():
    items = [(torch.zeros(3, 4, 4), 0)] * 8
    assert predict_scores(Hungry(), items, batch_size=2).shape == (8, 2)
    with pytest.raises(CsraError, match="a batch of 8 does not fit into memory, 2 would have"):
        predict_scores(Hungry(), items, batch_size=8)
    model = create_classifier("test_efficientnet", num_classes=2, image_size=64)
    whole = model.features
    model.features = lambda images: (fill_memory(len(images), 3), whole(images))[1]
    with pytest.raises(CsraError, match="--batch-size 2"):
        model.predict([torch.zeros(3, 64, 64)] * 8, batch_size=8)


def test_training_names_the_parts_that_keep_its_batches(tmp_path, monkeypatch):
    data = toy.load(toy.write_devkit(tmp_path), "trainval")
    recipe = get_recipe("voc2012-lite0-avg").replace(
        backbone="test_efficientnet", weights="none", image_size=64, classes=toy.CLASSES, epochs=1, batch_size=8,
        validation_fraction=0.0,
    )  # fmt: skip
    from csra_lab.training.loop import Trainer

    whole = Trainer.logits
    monkeypatch.setattr(Trainer, "logits", lambda self, x: (fill_memory(len(x), 3), whole(self, x))[1])
    with pytest.raises(CsraError, match="2 would have: pass --accumulate 4 with the same --batch-size 8"):
        train(recipe, data, None, tmp_path / "run", progress=False)
    result = train(recipe.replace(accumulate=4), data, None, tmp_path / "other", progress=False)
    assert np.isfinite(result.history.train_loss).all()


def test_depthwise_convolutions_train_in_single_precision_on_a_cpu():
    """Their gradient in bfloat16 is slow. All others multiply in bfloat16, and so does everything without gradients."""
    depthwise, grouped, pointwise = (nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 1))
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    with autocast("cpu", torch.bfloat16):
        outputs = [layer(x) for layer in (depthwise, grouped, pointwise)]
        assert F.conv2d(x, depthwise.weight, groups=8).dtype == torch.float32
    assert [each.dtype for each in outputs] == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert torch.equal(outputs[0], depthwise(x.float()))
    (found,) = torch.autograd.grad(outputs[0].sum(), depthwise.weight)
    (expected,) = torch.autograd.grad(depthwise(x.float()).sum(), depthwise.weight)
    assert torch.equal(found, expected)
    with torch.no_grad(), autocast("cpu", torch.bfloat16):
        assert depthwise(x).dtype == torch.bfloat16
    with autocast("cpu", None):
        assert pointwise(x.float()).dtype == torch.float32


@pytest.mark.parametrize("inside", [True, False])
def test_a_model_made_in_inference_mode_scores_there_and_afterwards(inside):
    with torch.inference_mode():
        model = create_classifier("test_efficientnet", num_classes=3, image_size=64)
    with torch.inference_mode(inside):
        (prediction,) = model.predict(torch.rand(3, 64, 64))
        scores = predict_scores(model, [(torch.rand(3, 64, 64), torch.ones(3))])
    assert prediction.probabilities.shape == (3,)
    assert scores.shape == (1, 3)


HELD = """
import os
import torch
from csra_lab.device import for_inference, keep_freed_memory, training_settings

SIZE = 256 * 1024**2

def kept():
    def held():
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    before = held()
    torch.ones(SIZE // 4)
    return round((held() - before) / SIZE)

assert keep_freed_memory(False), "cannot be told"
print(kept())
for_inference(torch.nn.Conv2d(3, 8, 3))
print(kept())
keep_freed_memory(False)
print(kept())
with training_settings(torch.device("cpu")):
    print(kept())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says what a process holds")
def test_freed_memory_is_kept_for_the_next_batch():
    """By both doors, and not otherwise: a layer would wait for pages that the system clears first.

    In a process of its own: where memory was full before, the C library takes large pieces from elsewhere.
    """
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=False)
    if "cannot be told" in done.stderr:
        pytest.skip("this C library cannot be told to keep memory")
    assert done.stdout.split() == ["0", "1", "0", "1"], done.stderr
