"""Arrays in files: the same bytes each time, and every number back."""

import numpy as np
import pytest

from csra_lab._io.arrays import joined_bytes, split_bytes, write_arrays
from csra_lab.errors import CsraError


def every_half() -> np.ndarray:
    """All 65,536 numbers of 16 bits, infinities and not-a-numbers among them."""
    return np.arange(2**16, dtype=np.uint16).view(np.float16)


@pytest.mark.parametrize("shape", [(2**16,), (4, 128, 128), (0, 3)])
def test_bytes_are_joined_as_they_were(shape):
    halves = every_half()[: int(np.prod(shape))].reshape(shape)
    planes = split_bytes(halves)
    assert planes.shape == (2, *shape)
    assert planes.dtype == np.uint8
    assert joined_bytes(planes).tobytes() == halves.tobytes()
    assert joined_bytes(planes).shape == shape


def test_what_was_not_split_is_not_joined():
    for other in (np.zeros((2, 3), np.float16), np.zeros((5, 3), np.uint8), np.zeros((), np.uint8)):
        with pytest.raises(CsraError, match="an earlier version"):
            joined_bytes(other)


def test_one_byte_says_the_size_of_a_number():
    low, high = split_bytes(np.array([1, 2, 4], np.float16))
    assert low.tolist() == [0, 0, 0]
    assert high.tolist() == [0x3C, 0x40, 0x44]


def test_transposed_arrays_keep_their_order():
    halves = every_half()[:12].reshape(3, 4).T
    np.testing.assert_array_equal(joined_bytes(split_bytes(halves)), halves)


def test_scores_of_seeds_take_less_room_apart(tmp_path):
    of_image = np.random.default_rng(0).normal(-3, 2, size=(1, 500, 20))
    logits = (of_image + np.random.default_rng(1).normal(0, 0.3, size=(5, 500, 20))).astype(np.float16)
    sizes = []
    for content in (logits, split_bytes(logits)):
        write_arrays(tmp_path / "a.npz", {"logits": content})
        sizes.append((tmp_path / "a.npz").stat().st_size)
    assert sizes[1] < 0.95 * sizes[0]


def test_the_same_arrays_give_the_same_bytes_under_their_names(tmp_path):
    arrays = {"four lines, lam = 0.2 on test": np.arange(6.0).reshape(2, 3), "ids": np.array(["a", "bc"])}
    for name in ("one.npz", "two.npz"):
        write_arrays(tmp_path / name, arrays)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with np.load(tmp_path / "one.npz", allow_pickle=False) as stored:
        assert {name: stored[name].tolist() for name in stored.files} == {k: v.tolist() for k, v in arrays.items()}
