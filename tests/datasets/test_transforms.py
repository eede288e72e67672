import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from csra_lab.datasets.transforms import eval_transform, train_transform
from csra_lab.errors import CsraError

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8))


def test_eval_is_pillows_resize_and_nothing_else(image):
    out = eval_transform(32, **PLAIN)(image)
    assert (out.shape, out.dtype) == ((3, 32, 32), torch.float32)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
    assert np.allclose(out.numpy(), expected, atol=1e-6)


def test_normalisation(image):
    plain, half = eval_transform(32, **PLAIN)(image), eval_transform(32, **HALF)(image)
    assert torch.allclose(half, plain * 2 - 1, atol=1e-6)
    channels = eval_transform(32, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))(image)
    expected = (plain - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([1.0, 2.0, 4.0])[:, None, None]
    assert torch.allclose(channels, expected, atol=1e-6)


@pytest.mark.parametrize("randaugment", [False, True])
def test_train_follows_torchs_seed_and_nothing_else(image, randaugment):
    transform = pickle.loads(pickle.dumps(train_transform(32, randaugment=randaugment, **HALF)))
    seen = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        np.random.seed(len(seen))  # noqa: NPY002  draws from other generators must not matter
        seen.append(transform(image))
    assert seen[0].shape == (3, 32, 32)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_a_whole_crop_without_flip_is_the_eval_transform(image):
    square = image.resize((64, 64))
    whole = train_transform(32, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False, **HALF)
    assert torch.equal(whole(square), eval_transform(32, **HALF)(square))
    flipped = train_transform(32, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), **HALF)
    expected = eval_transform(32, **HALF)(square)
    kinds = set()
    for seed in range(12):
        torch.manual_seed(seed)
        out = flipped(square)
        mirrored = torch.allclose(out, expected.flip(-1), atol=0.02)
        assert mirrored or torch.equal(out, expected)
        kinds.add(mirrored)
    assert kinds == {True, False}


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 0},
        {"image_size": 2.5},
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.5, 1.5)},
        {"crop_ratio": (2.0, 1.0)},
        {"std": (0.0, 1.0, 1.0)},
        {"mean": (0.5,)},
    ],
)
def test_wrong_values(wrong):
    with pytest.raises(CsraError):
        train_transform(**{"image_size": 32, **HALF, **wrong})
