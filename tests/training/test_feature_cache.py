"""Kept features: the same as computed ones, whole after a kill, checked when opened, and anew for anything new."""

import dataclasses
import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image

from csra_lab._io import atomic_write
from csra_lab.backbones import create_backbone
from csra_lab.datasets import MultiLabelDataset
from csra_lab.errors import CsraError
from csra_lab.recipes import get_recipe
from csra_lab.training import feature_cache as module
from csra_lab.training import feature_key
from csra_lab.training.feature_cache import cache_features, compute_features
from csra_lab.training.loop import train
from csra_lab.training.sampling import SeededItems
from tests import toy


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    return toy.write_devkit(tmp_path_factory.mktemp("toy"), trainval=150, test=10)


@pytest.fixture(scope="module")
def data(devkit):
    return toy.load(devkit, "trainval")


def network(seed=0):
    torch.manual_seed(seed)
    return create_backbone("test_efficientnet", image_size=64)


def the_folder(root):
    (folder,) = (root / "features").iterdir()
    return folder


def test_kept_features_are_the_computed_ones(data, tmp_path):
    backbone = network()
    kept = cache_features(backbone, data, mirror=True, root=tmp_path)
    computed = compute_features(
        backbone, data, image_size=64, mean=backbone.mean, std=backbone.std, mirror=True, batch_size=10
    )
    assert kept.maps.shape == computed.maps.shape == (150, 2, backbone.num_features, *backbone.grid)
    assert kept.maps.dtype == torch.float16
    torch.testing.assert_close(kept.maps, computed.maps, rtol=2e-3, atol=1e-3)  # other batches, one bit of fp16
    assert the_folder(tmp_path).joinpath("maps.f16").stat().st_size == 2 * kept.maps.numel()
    item, target = kept[3]
    assert item.shape == (backbone.num_features, *backbone.grid)
    assert torch.equal(target, torch.from_numpy(data.targets[3]))


def test_a_backbone_can_be_trained_after_it_gave_features(data, tmp_path):
    backbone = network()
    backbone.model.conv_stem.weight.data = backbone.model.conv_stem.weight.data.contiguous()  # so that it is moved
    backbone.train().model.bn1.eval()  # frozen
    cache_features(backbone, data.subset(range(4)), root=tmp_path)
    assert [backbone.training, backbone.model.bn1.training] == [True, False]  # as they were
    backbone(torch.randn(2, 3, 64, 64)).mean().backward()
    assert backbone.model.conv_stem.weight.grad is not None


def test_the_second_time_nothing_is_computed(data, tmp_path, monkeypatch):
    first = cache_features(network(), data, root=tmp_path)
    monkeypatch.setattr(module, "_batches", None)
    again = cache_features(network(), data, root=tmp_path)
    assert torch.equal(first.maps, again.maps)


def test_anything_that_changes_the_features_is_another_file(data, devkit, tmp_path):
    cache_features(network(), data, root=tmp_path)
    cache_features(network(seed=1), data, root=tmp_path)  # other weights
    cache_features(network(), data, mirror=True, root=tmp_path)
    cache_features(network(), data.subset(range(149)), root=tmp_path)
    cache_features(network(), data, dtype=torch.bfloat16, root=tmp_path)
    assert len(list((tmp_path / "features").iterdir())) == 5


def test_what_is_changed_in_memory_leaves_the_file_alone(data, tmp_path):
    kept = cache_features(network(), data, root=tmp_path)
    before = kept.maps[0].clone()
    kept.maps[0] = 0
    assert torch.equal(cache_features(network(), data, root=tmp_path).maps[0], before)


def test_views_are_those_that_training_draws(data, tmp_path):
    kept = cache_features(network(), data, mirror=True, root=tmp_path)
    items = np.arange(40)
    views = kept.drawn_views(items, seed=3, epoch=2)
    assert set(views) == {0, 1}
    drawn = SeededItems(kept, 3)
    for i, view in zip(items, views, strict=True):
        assert torch.equal(drawn[2, int(i)][0], kept.maps[i, view])


def test_a_part_is_read_where_it_lies_and_draws_the_same_views(data, tmp_path):
    kept = cache_features(network(), data, mirror=True, root=tmp_path)
    rows = np.array([7, 3, 11])
    whole, part = SeededItems(kept, 3), kept.part(rows)
    assert len(part) == 3
    for i, row in enumerate(rows):
        torch.manual_seed(i)
        features, target = part[i]
        torch.manual_seed(i)
        assert torch.equal(features, kept[int(row)][0])
        assert torch.equal(target, whole[0, int(row)][1])
        assert features.untyped_storage().data_ptr() == kept.maps.untyped_storage().data_ptr()  # no copy
    upright = kept.part(rows, views=1)
    assert all(torch.equal(upright[i][0], kept.maps[row, 0]) for i, row in enumerate(rows) for _ in range(4))


def test_another_process_is_given_the_file_and_not_its_content(data, tmp_path):
    kept = cache_features(network(), data, root=tmp_path)
    content = pickle.dumps(SeededItems(kept.part(np.arange(100)), 0))
    assert len(content) < kept.maps.numel() / 10
    there = pickle.loads(content)
    assert torch.equal(there[0, 42][0], kept.maps[42, 0])


def test_other_pixels_are_other_features(data, tmp_path):
    few = data.subset(range(4))
    ours = cache_features(network(), few, root=tmp_path)
    plain = cache_features(network(), few, mean=(0.0,) * 3, std=(1.0,) * 3, root=tmp_path)
    assert not torch.allclose(ours.maps.float(), plain.maps.float())


def test_a_twin_and_a_second_seed_compute_no_features_again(devkit, tmp_path, monkeypatch):
    monkeypatch.setenv("CSRA_LAB_CACHE", str(tmp_path / "cache"))
    recipe = get_recipe("voc2012-lite0-csra").replace(
        backbone="test_efficientnet", weights="none", image_size=64, classes=toy.CLASSES, epochs=1, batch_size=8,
        freeze_backbone=True, subset=24,
    )  # fmt: skip
    torch.manual_seed(0)
    train_set = toy.load(devkit, "trainval")
    first = train(recipe, train_set, None, tmp_path / "a", progress=False)
    monkeypatch.setattr(module, "_batches", None)
    twin = train(recipe.replace(head="average"), train_set, None, tmp_path / "b", progress=False)
    again = train(recipe.replace(epochs=2), train_set, None, tmp_path / "c", progress=False)
    assert len(again.history) == 2
    assert first.model.head.weight.shape == twin.model.head.weight.shape


def compute_slowly(devkit, root):
    """In a process that the test kills: a pause after every block."""
    torch.set_num_threads(1)
    written = module.atomic_write

    def slow(path):
        time.sleep(0.15)
        return written(path)

    module.atomic_write = slow
    cache_features(network(), toy.load(devkit, "trainval"), root=root)


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_killed_computation_goes_on_where_it_stopped(devkit, data, tmp_path, monkeypatch, blocks):
    process = multiprocessing.get_context("spawn").Process(target=compute_slowly, args=(devkit, tmp_path))
    process.start()
    deadline = time.monotonic() + 60
    while True:
        notes = list(tmp_path.glob("features/*.part/features.json"))
        if notes and len(json.loads(notes[0].read_text())["crc32"]) >= blocks:
            break
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not [p for p in (tmp_path / "features").iterdir() if p.suffix not in (".part", ".lock")]

    seen = []
    batches = module._batches
    monkeypatch.setattr(module, "_batches", lambda b, inputs, **k: seen.append(len(inputs)) or batches(b, inputs, **k))
    resumed = cache_features(network(), data, root=tmp_path)
    assert seen[0] <= 150 - 64 * blocks
    whole = cache_features(network(), data, root=tmp_path / "whole")
    assert torch.equal(resumed.maps, whole.maps)


def compute_a_share(devkit, root, rank, world, counts):
    """One of several processes: what it computes, and how many images."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{root}/meet", rank=rank, world_size=world)
    torch.set_num_threads(1)
    batches, seen = module._batches, []
    module._batches = lambda b, inputs, **k: seen.append(len(inputs)) or batches(b, inputs, **k)
    data = toy.load(devkit, "trainval")
    maps = cache_features(network(), data, mirror=True, root=root, rank=rank, world=world).maps
    images = sum(seen)
    one_block = cache_features(network(), data.subset(range(64)), root=root / "small", rank=rank, world=world).maps
    counts.put((rank, images, sum(seen) - images, maps.float().sum().item(), tuple(one_block.shape[:1])))
    torch.distributed.destroy_process_group()


def test_processes_share_the_images_and_each_is_computed_once(devkit, data, tmp_path):
    """150 images are three blocks for two processes; of 64 images, one block, one process has nothing to do."""
    context = multiprocessing.get_context("spawn")
    counts, shared = context.Queue(), tmp_path / "shared"
    shared.mkdir()
    processes = [context.Process(target=compute_a_share, args=(devkit, shared, r, 2, counts)) for r in range(2)]
    for process in processes:
        process.start()
    found = sorted(counts.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert [images for _, images, *_ in found] == [64, 86]
    assert [images for _, _, images, *_ in found] == [0, 64]
    whole = cache_features(network(), data, mirror=True, root=tmp_path / "whole")
    assert {(total, shape) for *_, total, shape in found} == {(whole.maps.float().sum().item(), (64,))}
    files = [the_folder(root) / "maps.f16" for root in (shared, tmp_path / "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not list(shared.rglob("*.shards"))


def test_a_half_written_block_is_computed_again(data, tmp_path):
    whole = cache_features(network(), data, root=tmp_path)
    folder = the_folder(tmp_path)
    part = folder.rename(folder.with_name(folder.name + ".part"))
    content = bytearray((part / "maps.f16").read_bytes())
    content[70 * len(content) // 150] ^= 1  # a picture of the second block
    (part / "maps.f16").write_bytes(content[:-5])
    again = cache_features(network(), data, root=tmp_path)
    assert torch.equal(again.maps, whole.maps)


@pytest.mark.parametrize("harm", ["one bit", "cut short", "longer", "no note", "empty note"])
def test_damage_is_noticed(data, tmp_path, harm):
    cache_features(network(), data, root=tmp_path)
    folder = the_folder(tmp_path)
    file, note = folder / "maps.f16", folder / "features.json"
    content = file.read_bytes()
    if harm == "one bit":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "cut short":
        file.write_bytes(content[:-100])
    elif harm == "longer":
        file.write_bytes(content + b"..")
    elif harm == "no note":
        note.unlink()
    else:
        note.write_text("{}")
    with pytest.raises(CsraError, match="damaged; delete that folder"):
        cache_features(network(), data, root=tmp_path)


def test_a_file_that_has_not_changed_is_not_read_again(data, tmp_path, monkeypatch):
    cache_features(network(), data, root=tmp_path)
    checks = []
    monkeypatch.setattr(module.zlib, "crc32", lambda *_: checks.append(1))
    again = cache_features(network(), data, root=tmp_path)
    assert not checks
    assert again.maps.isfinite().all()


def test_a_disk_without_room_is_said_before_anything_is_computed(data, tmp_path, monkeypatch):
    usage = dataclasses.make_dataclass("Usage", ["free"])
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage(1000))
    with pytest.raises(CsraError, match="CSRA_LAB_CACHE"):
        cache_features(network(), data, root=tmp_path)


def test_a_bad_picture_is_named_and_the_rest_is_kept(devkit, data, tmp_path):
    broken = data.subset(range(150))
    broken.paths[100] = tmp_path / "missing.jpg"
    with pytest.raises(CsraError, match=r"missing\.jpg"):
        cache_features(network(), broken, root=tmp_path)
    (note,) = tmp_path.glob("features/*.part/features.json")
    assert len(json.loads(note.read_text())["crc32"]) == 1  # the first block stays


def write_bitmaps(folder, seed):
    """Four images of 40 x 40 whose files all have one size."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{i}.bmp")
    return bitmaps(folder)


def bitmaps(folder):
    paths = [folder / f"{i}.bmp" for i in range(4)]
    return MultiLabelDataset(
        name="photos", split="trainval", classes=("cat",), ids=list("0123"), paths=paths, targets=np.ones((4, 1))
    )


def test_images_are_known_by_their_content_and_not_by_their_folder(tmp_path):
    first, second = write_bitmaps(tmp_path / "A/photos", 0), write_bitmaps(tmp_path / "B/photos", 1)
    ours, theirs = (cache_features(network(), data, root=tmp_path).maps for data in (first, second))
    assert not torch.equal(ours, theirs)
    assert len(list((tmp_path / "features").iterdir())) == 2
    shutil.copytree(tmp_path / "A/photos", tmp_path / "C/photos", copy_function=shutil.copyfile)  # a later time
    assert torch.equal(cache_features(network(), bitmaps(tmp_path / "C/photos"), root=tmp_path).maps, ours)
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_an_image_that_is_edited_in_place_has_other_features(tmp_path):
    data = write_bitmaps(tmp_path / "photos", 0)
    before = cache_features(network(), data, root=tmp_path).maps
    shutil.copyfile(data.paths[1], data.paths[0])
    os.utime(data.paths[0], ns=(0, 10**9))  # a clock may be too coarse for a test
    after = cache_features(network(), data, root=tmp_path).maps
    assert torch.equal(after[0], before[1])
    assert torch.equal(after[1:], before[1:])


def test_an_image_that_is_edited_in_its_middle_has_another_key(tmp_path):
    data = write_bitmaps(tmp_path / "photos", 0)
    Image.new("RGB", (400, 400)).save(data.paths[0])  # 480 kB
    keys = [feature_key.feature_key(network(), data, (4,), "None", ())]
    with Image.open(data.paths[0]) as image:
        image.paste((255, 0, 0), (150, 150, 250, 250))
        image.save(data.paths[0])
    os.utime(data.paths[0], ns=(0, 10**9))
    keys.append(feature_key.feature_key(network(), data, (4,), "None", ()))
    assert keys[0] != keys[1]


def test_an_unchanged_image_is_read_once_for_its_key(tmp_path, monkeypatch):
    data = write_bitmaps(tmp_path / "photos", 0)
    first = feature_key.feature_key(network(), data, (4,), "None", ())
    monkeypatch.setattr(feature_key, "open", None, raising=False)
    assert feature_key.feature_key(network(), data, (4,), "None", ()) == first


def test_features_that_float16_cannot_hold_are_refused(data, tmp_path):
    backbone = network()
    with torch.no_grad():
        for part in backbone.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.weight.mul_(1000)
    few = data.subset(range(4))
    with pytest.raises(CsraError, match=r"test_efficientnet gives features .* float16"):
        cache_features(backbone, few, root=tmp_path)
    assert not list((tmp_path / "features").glob("*px-??????????"))


def test_a_cache_that_cannot_be_written_is_read(data, tmp_path, monkeypatch):
    backbone = network()
    kept = cache_features(backbone, data, root=tmp_path)
    the_folder(tmp_path).joinpath("checked.json").unlink()

    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(atomic_write.tempfile, "mkdtemp", read_only)
    assert torch.equal(cache_features(backbone, data, root=tmp_path).maps, kept.maps)
