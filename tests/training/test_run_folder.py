"""What a run folder gives back, and what it says when a file is not what it should be."""

import numpy as np
import pytest

from csra_lab.datasets import MultiLabelDataset
from csra_lab.errors import CsraError
from csra_lab.metrics import multilabel_metrics
from csra_lab.training.run_folder import from_logits, read_evaluation, save_evaluation, to_logits


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
    np.testing.assert_allclose(found.scores, scores, rtol=2e-3)
    np.testing.assert_array_equal(found.targets, data.targets)
    assert (found.ids, found.classes) == (tuple(data.ids), data.classes)


def test_sure_labels_do_not_tie():
    """Rounded to float16, probabilities from 0.9998 are all 1, and large residuals looked bad for it."""
    logits = np.linspace(-30, 30, 100)
    probabilities = from_logits(logits)
    assert len(np.unique(probabilities.astype(np.float16))) < 80
    kept = from_logits(to_logits(probabilities))
    assert (np.diff(kept) > 0).all()
    np.testing.assert_allclose(np.log(kept) - np.log1p(-kept), logits, rtol=1e-3)
    assert to_logits(np.array([0.0, 1.0])).tolist() == [-1000, 40]
    np.testing.assert_array_equal(from_logits(to_logits(from_logits(to_logits(probabilities)))), kept)
    assert np.isnan(to_logits(np.array([np.nan]))).all()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"not a zip"])
def test_a_torn_file_is_named(written, content):
    folder = written[0]
    (folder / "scores.npz").write_bytes(content)
    with pytest.raises(CsraError, match=r"scores\.npz does not hold scores"):
        read_evaluation(folder)


def test_one_bare_array_is_named(written):
    folder = written[0]
    with open(folder / "scores.npz", "wb") as file:
        np.save(file, np.zeros((2, 2)))
    with pytest.raises(CsraError, match=r"scores\.npz does not hold scores"):
        read_evaluation(folder)


def test_other_arrays_and_objects_are_refused(written):
    folder = written[0]
    np.savez(folder / "scores.npz", logits=np.zeros((2, 2)))
    with pytest.raises(CsraError, match="targets"):
        read_evaluation(folder)
    np.savez(folder / "scores.npz", logits=np.array([{}], dtype=object), targets=1, ids=1, classes=1)
    with pytest.raises(CsraError, match=r"scores\.npz"):
        read_evaluation(folder)


def test_a_folder_without_scores_says_how_to_make_them(tmp_path):
    with pytest.raises(CsraError, match="csra-lab evaluate"):
        read_evaluation(tmp_path)


def test_the_metrics_of_the_file_are_those_that_were_reported(tmp_path):
    """A poor model: its scores lie so close that float16 ties them, and ties give another mAP."""
    rng = np.random.default_rng(3)
    targets = rng.integers(0, 2, (400, 3))
    scores = from_logits((-3 + 1e-4 * rng.normal(size=(400, 3))).astype(np.float32))
    data = MultiLabelDataset(
        name="toy", split="test", classes=("a", "b", "c"), ids=[f"{i:03d}" for i in range(400)],
        paths=[f"{i}.jpg" for i in range(400)], targets=targets,
    )  # fmt: skip
    metrics = multilabel_metrics(scores, targets)
    save_evaluation(tmp_path, data, metrics, scores)
    again = multilabel_metrics(read_evaluation(tmp_path).scores, targets)
    assert again.mAP == metrics.mAP
    assert multilabel_metrics(from_logits(to_logits(scores)), targets).mAP != metrics.mAP
    closer = 0.3 + 1e-10 * rng.random((400, 3))  # float32 ties these
    save_evaluation(tmp_path, data, multilabel_metrics(closer, targets), closer)
    kept = read_evaluation(tmp_path).scores
    np.testing.assert_array_equal(np.argsort(kept, axis=0), np.argsort(closer, axis=0))


def test_float16_files_of_earlier_runs_are_read(tmp_path):
    logits = np.array([[0.5, -1.0]], dtype=np.float16)
    np.savez(
        tmp_path / "scores.npz", logits=logits, targets=np.array([[1, 0]], np.int8), ids=np.array(["x"]),
        classes=np.array(["a", "b"]),
    )  # fmt: skip
    np.testing.assert_allclose(read_evaluation(tmp_path).scores, from_logits(logits))


def test_persons_of_one_photograph_stay_together(tmp_path):
    targets = np.array([[1], [0], [1], [0]])
    scores = np.linspace(0.2, 0.8, 4)[:, None]
    data = MultiLabelDataset(
        name="people", split="test", classes=("hat",), ids=("a#0", "a#1", "b#0", "b#1"),
        paths=["x/a.jpg", "x/a.jpg", "x/b.jpg", "x/b.jpg"], targets=targets, crops=np.ones((4, 4)),
    )  # fmt: skip
    save_evaluation(tmp_path, data, multilabel_metrics(scores, targets), scores)
    assert read_evaluation(tmp_path).groups == ("a.jpg", "a.jpg", "b.jpg", "b.jpg")
    stored = dict(np.load(tmp_path / "scores.npz"))
    np.savez(tmp_path / "scores.npz", **{name: array for name, array in stored.items() if name != "keys"})
    assert read_evaluation(tmp_path).groups == ("a", "a", "b", "b")  # a file of an earlier run
    np.savez(tmp_path / "scores.npz", **stored | {"keys": np.array(["a"])})
    with pytest.raises(CsraError, match=r"scores\.npz .*keys"):
        read_evaluation(tmp_path)


def test_a_hash_in_the_name_of_an_image_makes_no_persons(tmp_path):
    targets = np.array([[1], [0]])
    data = MultiLabelDataset(
        name="toy", split="test", classes=("hat",), ids=("a#0", "a#1"), paths=["a#0.jpg", "a#1.jpg"], targets=targets
    )
    save_evaluation(tmp_path, data, multilabel_metrics(targets, targets), targets * 0.5 + 0.2)
    assert len(set(read_evaluation(tmp_path).groups)) == 2


def test_an_image_an_item_needs_no_groups(written):
    assert read_evaluation(written[0]).groups is None
