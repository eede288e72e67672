"""The order of pictures and their augmentation: functions of seed, epoch and index, whoever asks and when."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from csra_lab.datasets import MultiLabelDataset
from csra_lab.errors import CsraError
from csra_lab.training.sampling import Batches, SeededItems, hold_out, mix_seed, sample_images


def indices(batches):
    return [[index for _, index in part] for part in batches]


# ---- which pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("items", "size"), [(10, 3), (12, 12), (7, 1), (100, 16), (13, 6)])
def test_an_epoch_shows_every_picture_at_most_once(items, size):
    batches = Batches(items, size, seed=3, epoch=5)
    parts = list(batches)
    assert len(parts) == len(batches) == items // size == batches.batches_per_epoch
    assert all(len(part) == size for part in parts)
    assert {epoch for part in parts for epoch, _ in part} == {5}
    counts = Counter(i for part in indices(batches) for i in part)
    assert set(counts.values()) == {1}
    assert set(counts) <= set(range(items))
    assert len(counts) == items // size * size


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (1, 4), (2, 2), (3, 4), (12, 1)])
def test_processes_and_parts_share_out_the_one_process_batch(world, accumulate):
    whole = indices(Batches(50, 12, seed=1, epoch=2))
    shares = [Batches(50, 12, seed=1, epoch=2, rank=rank, world=world, accumulate=accumulate) for rank in range(world)]
    assert {len(s) for s in shares} == {len(whole) * accumulate}
    for b, batch in enumerate(whole):
        together = []
        for share in shares:
            parts = indices(share)[b * accumulate : (b + 1) * accumulate]
            assert {len(part) for part in parts} == {12 // world // accumulate}
            together += [i for part in parts for i in part]
        assert sorted(together) == sorted(batch)  # the same pictures, none twice
        assert together == batch  # and even in the same order


def test_the_order_depends_on_seed_and_epoch_alone():
    first = indices(Batches(40, 8, seed=1, epoch=0))
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    batches = Batches(40, 8, seed=1, epoch=0)
    assert indices(batches) == first
    assert indices(batches) == first  # a second walk too
    others = [indices(Batches(40, 8, seed=s, epoch=e)) for s, e in ((1, 1), (2, 0), (0, 1))]
    assert all(a != b for i, a in enumerate([first, *others]) for b in others[i:])


def test_the_order_is_the_same_on_every_machine():
    """Written down once. If this changes, resumed runs and recorded runs no longer see what they saw."""
    assert mix_seed(1, 2) != mix_seed(12) != mix_seed(2, 1)
    assert all(0 <= mix_seed(i) < 2**63 for i in range(200))
    assert mix_seed(7, "item", 3, 5) == 5206826303543106568
    assert mix_seed("caf\udce9.jpg") != mix_seed("caf\udce8.jpg")  # names of files that are not UTF-8
    assert indices(Batches(8, 4, seed=0, epoch=0)) == [[1, 0, 5, 7], [6, 2, 4, 3]]


def test_every_picture_is_left_out_sometimes():
    """The remainder differs between epochs, so no picture is lost to training."""
    seen = Counter(i for epoch in range(60) for part in indices(Batches(10, 4, seed=0, epoch=epoch)) for i in part)
    assert set(seen) == set(range(10))
    assert max(seen.values()) < 60
    assert min(seen.values()) > 30  # 48 expected


def test_bad_batch_sizes_are_named():
    with pytest.raises(CsraError, match=r"batch_size 10 .* 2 processes x 2 parts.*multiple of 4"):
        Batches(100, 10, seed=0, epoch=0, world=2, accumulate=2)
    with pytest.raises(CsraError, match=r"batch_size 16 .* 10 training images"):
        Batches(10, 16, seed=0, epoch=0)


# ---- how each is augmented ---------------------------------------------------------------------------------------


class Noise(Dataset):
    """Items that draw from torch's generator, as torchvision's transforms do."""

    def __len__(self):
        return 6

    def __getitem__(self, i):
        if i == 5:
            raise CsraError("picture 5 is broken")
        return torch.rand(3) + i, torch.tensor([i])


def test_equal_keys_give_equal_items_and_others_do_not():
    items = SeededItems(Noise(), seed=1)
    assert len(items) == 6
    first = items[2, 3][0]
    torch.rand(17)
    items[2, 4]
    assert torch.equal(items[2, 3][0], first)
    assert torch.equal(SeededItems(Noise(), seed=1)[2, 3][0], first)
    others = [items[3, 3][0], SeededItems(Noise(), seed=2)[2, 3][0], items[2, 4][0] - 1]
    assert not any(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("index", [0, 5])
def test_the_generator_is_handed_back_as_it_was(index):
    items = SeededItems(Noise(), seed=1)
    before = torch.get_rng_state()
    if index == 5:
        with pytest.raises(CsraError, match="picture 5"):
            items[0, 5]
    else:
        items[0, index]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_transform_sees_the_same_seed_and_the_picture_only():
    items = SeededItems(Noise(), seed=1, transform=lambda x: x + torch.randint(100, ()))
    (a, target), (b, _) = items[4, 1], items[4, 1]
    assert torch.equal(a, b)
    assert target.tolist() == [1]
    assert not torch.equal(a, SeededItems(Noise(), seed=1)[4, 1][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_workers_change_nothing(workers):
    items, batches = SeededItems(Noise(), seed=4), Batches(5, 2, seed=4, epoch=1)
    loader = DataLoader(items, batch_sampler=batches, num_workers=workers)
    got = torch.cat([pictures for pictures, _ in loader])
    expected = torch.stack([items[key][0] for part in batches for key in part])
    assert torch.equal(got, expected)


# ---- the validation part -----------------------------------------------------------------------------------------


def dataset(names, folder="images"):
    return MultiLabelDataset(
        name="toy",
        split="trainval",
        classes=("a",),
        ids=[str(i) for i in range(len(names))],
        paths=[Path(folder, name) for name in names],
        targets=np.zeros((len(names), 1)),
    )


def names_of(data, part):
    return {data.paths[i].name for i in part}


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5, 0.9])
def test_held_out_pictures_do_not_depend_on_order_or_folder(fraction):
    names = [f"{i:06d}.jpg" for i in range(200)]
    data = dataset(names)
    train, held = hold_out(data, fraction)
    assert sorted([*train, *held]) == list(range(200))
    assert len(held) == round(200 * fraction)
    shuffled = dataset([names[i] for i in torch.randperm(200).tolist()], folder="elsewhere/deeper")
    assert names_of(shuffled, hold_out(shuffled, fraction)[1]) == names_of(data, held)


def test_people_in_one_picture_stay_together():
    names = [f"{i % 20}.jpg" for i in range(100)]
    data = dataset(names)
    train, held = hold_out(data, 0.25)
    assert names_of(data, train).isdisjoint(names_of(data, held))
    assert len(names_of(data, held)) == 5  # a quarter of the pictures
    assert len(held) == 25


def test_a_larger_part_holds_the_smaller():
    data = dataset([f"{i}.jpg" for i in range(50)])
    parts = [set(hold_out(data, f)[1].tolist()) for f in (0.1, 0.2, 0.6)]
    assert parts[0] < parts[1] < parts[2]


def test_no_part_and_empty_parts():
    data = dataset(["a.jpg", "b.jpg", "c.jpg"])
    train, held = hold_out(data, 0)
    assert train.tolist() == [0, 1, 2]
    assert len(held) == 0
    for fraction in (0.01, 0.99):
        with pytest.raises(CsraError, match=rf"{fraction} of 3 images"):
            hold_out(data, fraction)
    with pytest.raises(CsraError, match=r"0 or more, not -0\.3"):
        hold_out(data, -0.3)
    with pytest.raises(CsraError, match="at least 1, not -2"):
        sample_images(data, -2)
    with pytest.raises(CsraError, match="5 images"):
        hold_out(dataset(["a.jpg"] * 5), 0.5)  # one picture cannot be in two parts


def test_a_training_set_cut_down_keeps_whole_pictures_and_grows_by_adding():
    names = [f"{i % 30}.jpg" for i in range(90)]
    data = dataset(names)
    parts = [set(sample_images(data, count).tolist()) for count in (1, 7, 30)]
    assert parts[0] < parts[1] < parts[2] == set(range(90))
    assert [len(names_of(data, part)) for part in parts] == [1, 7, 30]
    assert len(parts[1]) == 21  # the three people of each picture
    order = torch.randperm(90).tolist()
    shuffled = dataset([names[i] for i in order])
    assert names_of(shuffled, sample_images(shuffled, 7)) == names_of(data, parts[1])
    with pytest.raises(CsraError, match="subset is 31, but toy trainval has 30"):
        sample_images(data, 31)


def test_images_that_share_a_file_name_are_told_apart_by_their_folders():
    names = [f"patient{i:03d}/study1/view1_frontal.jpg" for i in range(100)]
    data = dataset(names)
    train, held = hold_out(data, 0.1)
    assert (len(train), len(held)) == (90, 10)
    moved = dataset(names[::-1], folder="another/place")
    assert {names[::-1][i] for i in hold_out(moved, 0.1)[1]} == {names[i] for i in held}
    assert len(sample_images(data, 30)) == 30


def test_folders_change_nothing_where_file_names_differ():
    """Recorded runs on sets with several folders were split by file names."""
    names = [f"{i:03d}.jpg" for i in range(60)]
    flat, deep = dataset(names), dataset([f"{i % 3}/{name}" for i, name in enumerate(names)])
    np.testing.assert_array_equal(hold_out(flat, 0.2)[1], hold_out(deep, 0.2)[1])
    np.testing.assert_array_equal(sample_images(flat, 20), sample_images(deep, 20))
