"""Kept pictures against read ones, crops by matrices against Pillow, and training on either."""

import pickle
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from csra_lab.datasets.dataset import MultiLabelDataset
from csra_lab.datasets.transforms import eval_transform, train_transform
from csra_lab.errors import CsraError
from csra_lab.training import data as training_data
from csra_lab.training import image_cache as kept_images
from csra_lab.training.data import cut_on_device
from csra_lab.training.image_cache import Crops, Draws, ImageCache, fits, resize_matrices
from csra_lab.training.loop import train
from csra_lab.training.sampling import Batches, SeededItems
from tests import toy
from tests.training.test_loop import CONV, VIT, assert_same_bits

CPU = torch.device("cpu")
PIXELS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
SIZES = ((40, 70), (300, 200), (31, 31), (5, 400), (64, 48), (1, 1), (2, 9), (97, 101))  # width, height


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Noise with soft and hard edges, of all shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = []
    for i, (width, height) in enumerate(SIZES):
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        pixels[: height // 2] = np.linspace(0, 255, width)[:, None]
        paths.append(folder / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    targets = rng.integers(-1, 2, (len(paths), 3))
    ids = [p.stem for p in paths]
    return MultiLabelDataset(name="noise", split="all", classes=tuple("abc"), ids=ids, paths=paths, targets=targets)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    devkit = toy.write_devkit(tmp_path_factory.mktemp("toy"))
    return toy.load(devkit, "trainval"), toy.load(devkit, "test")


def levels(a, b):
    """How far two batches of images are apart, in steps of 1/255."""
    return (a - b).abs() * 255 * torch.tensor(PIXELS["std"]).view(3, 1, 1)


def test_kept_pictures_are_the_pictures(pictures):
    kept = ImageCache(pictures)
    assert len(kept) == len(pictures)
    assert kept.pixels.numel() == 3 * sum(w * h for w, h in SIZES)
    for i in range(len(kept)):
        (a, a_target), (b, b_target) = kept[i], pictures[i]
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        assert a.mode == "RGB"
        assert torch.equal(a_target, b_target)


def test_nothing_done_to_a_kept_picture_reaches_the_next_epoch(pictures):
    kept = ImageCache(pictures)
    before = kept.pixels.clone()
    transform = train_transform(16, randaugment=True, **PIXELS)
    for i in range(len(kept)):
        transform(kept[i][0])
        kept[i][0].paste((1, 2, 3), (0, 0, 1, 1))
    assert torch.equal(kept.pixels, before)


def test_people_who_share_a_photograph_are_kept_as_their_crops(pictures):
    crops = np.array([[0, 0, 10, 20], [5.5, 3, 20, 30], [10, 10, 500, 500], [0, 0, 3, 3]])
    people = pictures.subset([1, 1, 1, 4])
    people = MultiLabelDataset(
        name="people",
        split="all",
        classes=tuple("abc"),
        ids="wxyz",
        paths=people.paths,
        targets=people.targets,
        crops=crops,
    )
    kept = ImageCache(people)
    for i in range(4):
        np.testing.assert_array_equal(np.asarray(kept[i][0]), np.asarray(people.image(i)))


def test_a_picture_that_cannot_be_read_is_named(pictures, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    paths = [*pictures.paths, broken]
    with_it = MultiLabelDataset(
        name="x", split="y", classes=("a",), ids=[p.name for p in paths], paths=paths, targets=np.zeros((len(paths), 1))
    )
    with pytest.raises(CsraError, match=r"broken\.png"):
        ImageCache(with_it)


def test_a_bad_picture_is_told_before_the_rest_is_read(pictures, monkeypatch):
    read = []

    def broken(self, i):
        read.append(i)
        if i == 0:
            raise CsraError("broken")
        time.sleep(0.001)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(MultiLabelDataset, "image", broken)
    with pytest.raises(CsraError, match="broken"):
        ImageCache(pictures.subset([0] * 3000))
    assert len(read) < 2000


@pytest.mark.parametrize("size", [1, 7, 32, 150])
@pytest.mark.parametrize("length", [1, 2, 3, 31, 32, 33, 64, 400])
def test_a_resize_is_a_matrix(length, size):
    line = np.random.default_rng(length).random((1, length), dtype=np.float32)
    expected = np.asarray(Image.fromarray(line).resize((size, 1), Image.Resampling.BILINEAR))  # in floating point
    extent = length + 5  # padding must not be looked at
    padded = np.pad(line, ((0, 0), (0, 5)), constant_values=1e6)
    matrix = resize_matrices(torch.tensor([length]), size, extent)
    assert matrix.shape == (1, size, extent)
    np.testing.assert_allclose(padded @ matrix[0].numpy().T, expected, atol=1e-5)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(1, size))


def test_a_resize_to_its_own_length_changes_nothing():
    assert torch.equal(resize_matrices(torch.tensor([9]), 9, 9)[0], torch.eye(9))


@pytest.mark.parametrize("lengths", [[0], [5, 11], [-1, 3]])
def test_lines_of_impossible_lengths_are_refused(lengths):
    with pytest.raises(CsraError, match="1 to 10"):
        resize_matrices(torch.tensor(lengths), 4, 10)


@pytest.mark.parametrize("scale", [1.0, 0.7, 0.05])
@pytest.mark.parametrize("image_size", [32, 111])
def test_crops_are_those_of_the_transform(pictures, image_size, scale):
    """The same seed gives the same crop and flip, and the pixels differ by less than the transform rounds."""
    transform = train_transform(image_size, crop_scale=(scale, 1.0), **PIXELS)
    kept = ImageCache(pictures)
    read, drawn = SeededItems(pictures, 3, transform), SeededItems(Draws(kept, (scale, 1.0)), 3)
    crops = Crops(kept, CPU, image_size, **PIXELS)
    flips = set()
    for epoch in range(4):
        keys = [(epoch, i) for i in range(len(kept))]
        draws = torch.stack([drawn[key][0] for key in keys])
        flips |= set(draws[:, 5].tolist())
        images = crops(draws)
        expected = torch.stack([read[key][0] for key in keys])
        assert images.shape == expected.shape
        assert images.dtype == torch.float32
        assert levels(images, expected).max() < 1.01  # Pillow rounds twice, each time by half a level
        assert levels(images, expected).mean() < 0.35
    assert flips == {0, 1}


def test_a_whole_picture_is_the_test_transform(pictures):
    kept = ImageCache(pictures)
    whole = torch.tensor([[i, 0, 0, h, w, 0] for i, (w, h) in enumerate(SIZES)])
    images = Crops(kept, CPU, 24, **PIXELS)(whole)
    expected = torch.stack([eval_transform(24, **PIXELS)(pictures.image(i)) for i in range(len(kept))])
    assert levels(images, expected).max() < 1.01


def test_flips_and_crops_have_the_distribution_they_are_said_to_have(pictures):
    """Half are flipped; areas are spread evenly over the range, where the shape of the picture allows all."""
    drawn = SeededItems(Draws(ImageCache(pictures.subset([6 + 1, 7])), (0.3, 0.7)), 0)
    draws = torch.stack([drawn[epoch, i][0] for epoch in range(1000) for i in range(2)]).float()
    assert abs(draws[:, 5].mean() - 0.5) < 4 * 0.5 / 2000**0.5
    areas = (draws[:, 3] * draws[:, 4] / (97 * 101)).sort().values
    even = torch.linspace(0.3, 0.7, len(areas))
    assert (areas - even).abs().max() < 0.4 * 1.95 / 2000**0.5 + 0.01  # Kolmogorov-Smirnov at 1 in 1,000; whole pixels


def test_a_batch_gives_what_its_pictures_give_alone(pictures):
    kept = ImageCache(pictures)
    drawn = SeededItems(Draws(kept, (0.5, 1.0)), 0)
    draws = torch.stack([drawn[0, i][0] for i in (3, 1, 1, 7, 5)])
    crops = Crops(kept, CPU, 20, **PIXELS)
    alone = torch.cat([crops(draw[None]) for draw in draws])
    torch.testing.assert_close(crops(draws), alone, atol=1e-5, rtol=1e-5)


def test_workers_draw_what_one_process_draws(pictures):
    drawn = SeededItems(Draws(ImageCache(pictures), (0.5, 1.0)), 0)
    batches = Batches(len(drawn), 4, seed=0, epoch=0)
    here, there = (torch.cat([d for d, _ in DataLoader(drawn, batch_sampler=batches, num_workers=w)]) for w in (0, 2))
    assert torch.equal(here, there)


def test_kept_pictures_can_go_to_other_processes(pictures):
    kept = ImageCache(pictures)
    again = pickle.loads(pickle.dumps(kept))
    assert torch.equal(kept.pixels, again.pixels)


def test_whether_pictures_fit_is_told_from_some_of_them(pictures, monkeypatch):
    even = pictures.subset([1] * 200)  # 180,000 bytes each
    looked_at = []
    original = MultiLabelDataset.image
    monkeypatch.setattr(MultiLabelDataset, "image", lambda self, i: looked_at.append(i) or original(self, i))
    for most, expected in ((200 * 180_000, True), (200 * 180_000 - 1, False)):
        monkeypatch.setattr(kept_images, "MOST_ON_CPU", most)
        assert fits(even, CPU) is expected
        assert not fits(even, CPU, processes=2)
    assert len(looked_at) <= 4 * 128
    assert len(set(looked_at)) < 100


@pytest.mark.parametrize("change", [{}, {"randaugment": True}, {"workers": 2}])
def test_training_on_kept_pictures_ends_with_the_same_bits(sets, tmp_path, change):
    recipe = VIT.replace(epochs=2, **change)
    for images in ("off", "memory"):
        train(recipe.replace(image_cache=images), *sets, tmp_path / images, progress=False)
    assert_same_bits(tmp_path / "off", tmp_path / "memory")


def test_no_picture_at_all_is_said_in_one_sentence(sets, tmp_path):
    recipe = VIT.replace(validation_fraction=0.0)
    for images in ("auto", "memory"):
        with pytest.raises(CsraError, match="nothing to learn"):
            train(recipe.replace(image_cache=images), sets[0].subset([]), None, tmp_path / images)


def test_pictures_that_do_not_fit_are_read(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(kept_images, "MOST_ON_CPU", 1000)
    monkeypatch.setattr(training_data, "ImageCache", None)  # would fail if it were called
    train(VIT.replace(epochs=1), *sets, tmp_path / "run", progress=False)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_with_crops_cut_on_the_device_learns_the_same(sets, tmp_path, monkeypatch, precision):
    """What a GPU does, on this device: equal but for the rounding of pixels to bytes."""
    recipe = VIT.replace(epochs=2, precision=precision)
    plain = train(recipe, *sets, tmp_path / "plain", progress=False)
    cut = []
    original = Crops.__call__

    def counted(self, draws):
        assert not torch.is_autocast_enabled("cpu")  # a resize in bfloat16 would lose a level of 256
        cut.append(len(draws))
        return original(self, draws)

    monkeypatch.setattr(Crops, "__call__", counted)
    monkeypatch.setattr(training_data, "cut_on_device", lambda recipe, device: True)
    there = train(recipe, *sets, tmp_path / "there", progress=False)
    assert sum(cut) == 2 * 16  # two epochs of two batches of eight, of the 18 pictures that are not held out
    np.testing.assert_allclose(there.history.train_loss, plain.history.train_loss, rtol=0.01)
    assert (there.history.train_loss != plain.history.train_loss).any()
    np.testing.assert_allclose(there.scores, plain.scores, atol=0.02)


def test_only_a_gpu_cuts_and_never_what_randaugment_wants():
    gpu = torch.device("cuda")
    assert cut_on_device(VIT, gpu)
    assert not cut_on_device(VIT.replace(randaugment=True), gpu)
    assert not cut_on_device(VIT, CPU)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_network_trains_as_the_plain_one(sets, tmp_path, monkeypatch, mode):
    """The mode reaches torch, and the loop goes through what torch.compile gives; the compiler itself is left out."""
    asked = []

    def compile_without_compiling(module, *, mode):
        asked.append(mode)
        return torch._dynamo.optimize("eager")(module)

    monkeypatch.setattr(torch, "compile", compile_without_compiling)
    recipe = CONV.replace(epochs=1)
    train(recipe, *sets, tmp_path / "plain", progress=False)
    train(recipe.replace(compile=mode), *sets, tmp_path / "compiled", progress=False)
    assert asked == [mode]
    assert_same_bits(tmp_path / "plain", tmp_path / "compiled")


def test_a_machine_without_a_compiler_is_told(sets, tmp_path, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no compiler was found\nand more")

    monkeypatch.setattr(torch, "compile", lambda module, *, mode: torch._dynamo.optimize(broken)(module))
    with pytest.raises(CsraError, match=r"could not be compiled .*; train with --compile no"):
        train(CONV.replace(epochs=1, compile="default"), *sets, tmp_path / "run", progress=False)
