"""What a run folder gives back, and what it says when a file is not what it should be."""

import numpy as np
import pytest

from csra_lab.datasets import MultiLabelDataset
from csra_lab.errors import LabError
from csra_lab.metrics import multilabel_metrics
from csra_lab.runs import read_evaluation, save_evaluation


@pytest.fixture
def written(tmp_path):
    rng = np.random.default_rng(0)
    targets = rng.choice([-1, 0, 1], size=(9, 2))
    targets[:2] = [[1, 1], [0, 0]]
    data = MultiLabelDataset(
        name="toy", split="test", classes=("a", "ü <b>"), ids=[f"{i:03d}" for i in range(9)],
        paths=[f"{i}.jpg" for i in range(9)], targets=targets,
    )  # fmt: skip
    scores = rng.random((9, 2))
    save_evaluation(tmp_path, data, multilabel_metrics(scores, targets), scores)
    return tmp_path, data, scores


def test_scores_come_back_as_they_were(written):
    folder, data, scores = written
    found = read_evaluation(folder)
    np.testing.assert_array_equal(found.scores, scores.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(found.targets, data.targets)
    assert (found.ids, found.classes) == (tuple(data.ids), data.classes)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"not a zip"])
def test_a_torn_file_is_named(written, content):
    folder = written[0]
    (folder / "scores.npz").write_bytes(content)
    with pytest.raises(LabError, match=r"scores\.npz does not hold scores"):
        read_evaluation(folder)


def test_one_bare_array_is_named(written):
    folder = written[0]
    with open(folder / "scores.npz", "wb") as file:
        np.save(file, np.zeros((2, 2)))
    with pytest.raises(LabError, match=r"scores\.npz does not hold scores"):
        read_evaluation(folder)


def test_other_arrays_and_objects_are_refused(written):
    folder = written[0]
    np.savez(folder / "scores.npz", scores=np.zeros((2, 2)))
    with pytest.raises(LabError, match="targets"):
        read_evaluation(folder)
    np.savez(folder / "scores.npz", scores=np.array([{}], dtype=object), targets=1, ids=1, classes=1)
    with pytest.raises(LabError, match=r"scores\.npz"):
        read_evaluation(folder)


def test_a_folder_without_scores_says_how_to_make_them(tmp_path):
    with pytest.raises(LabError, match="csra-lab evaluate"):
        read_evaluation(tmp_path)
