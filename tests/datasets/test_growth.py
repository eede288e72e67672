"""Nothing between a folder and a result grows faster than its size: four times the images, about four times the work.

Work that grows with the square of the images takes 16 times, always; work in proportion takes 4 times, and now and
then more on a busy machine. So the limit stands between the two, and the least of up to three ratios is compared.
"""

import time

import numpy as np
import pytest

from csra_lab.datasets import MultiLabelDataset
from csra_lab.datasets.check import _check_copies, _check_spelling, _check_splits, _Look
from csra_lab.datasets.folder import load_folder
from csra_lab.datasets.pair import check_pair
from csra_lab.errors import CsraError
from csra_lab.training.sampling import hold_out, sample_images

SMALL, LARGE = 10_000, 40_000  # benchmarks/scale.py goes up to a million
MOST = 2.5 * LARGE / SMALL


def seconds(work, repeats: int = 2) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def lines(count: int) -> list[str]:
    return [f"a{i % 97}/view{i}.jpg,{i % 2},{(i + 1) % 2},{int(i % 3 == 0)}" for i in range(count)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    roots = {}
    for count in (SMALL, LARGE):
        roots[count] = tmp_path_factory.mktemp(str(count))
        (roots[count] / "trainval.csv").write_text("\n".join(["image,cat,dog,bird", *lines(count)]))
        twice = [*lines(count), lines(count)[0]]
        (roots[count] / "twice.csv").write_text("\n".join(["image,cat,dog,bird", *twice]))
    return roots


@pytest.fixture(scope="module")
def sets(tables):
    return {count: load_folder(root, "trainval") for count, root in tables.items()}


def ratio(work) -> float:
    """The work of 200,000 over that of 50,000, in seconds of the processor."""
    least = float("inf")
    for _ in range(3):
        least = min(least, seconds(lambda: work(LARGE)) / seconds(lambda: work(SMALL)))
        if least < MOST:
            break
    return least


def test_a_table_is_read_in_proportion(tables):
    assert ratio(lambda count: load_folder(tables[count], "trainval")) < MOST


def test_an_image_twice_at_the_end_is_found_in_proportion(tables):
    def work(count):
        with pytest.raises(CsraError, match=r"twice|both"):
            load_folder(tables[count], "twice")

    assert ratio(work) < MOST


def test_parts_are_chosen_and_pairs_checked_in_proportion(sets):
    tests = {
        count: MultiLabelDataset(
            name="x", split="test", classes=each.classes, ids=[f"t{i}" for i in range(count)],
            paths=[path.with_name(f"t{path.name}") for path in each.paths], targets=each.targets,
        )
        for count, each in sets.items()
    }  # fmt: skip
    for work in (
        lambda count: hold_out(sets[count], 0.1),
        lambda count: sample_images(sets[count], count // 2),
        lambda count: check_pair(sets[count], tests[count]),
        lambda count: sets[count].fingerprint(),
        lambda count: sets[count].subset(np.arange(count)),
    ):
        assert ratio(work) < MOST


def test_the_check_of_labels_and_copies_grows_in_proportion(sets):
    looks = {
        count: {str(p): _Look(str(p), "", 0.5, 0.2, 1.0, str(i // 2).encode()) for i, p in enumerate(each.paths)}
        for count, each in sets.items()
    }
    assert ratio(lambda count: _check_copies([sets[count]], looks[count])) < MOST
    assert ratio(lambda count: _check_splits([sets[count], sets[count]])) < MOST
    names = {count: [f"class number {i:06d}" for i in range(count // 20)] for count in sets}

    def spelling(count):
        targets = np.zeros((1, len(names[count])))
        data = MultiLabelDataset(name="x", split="x", classes=names[count], ids=["a"], paths=["a"], targets=targets)
        _check_spelling([data])

    assert ratio(spelling) < 1.5 * MOST  # names of classes alone, thousands of them
