"""Thresholds: against brute force, at their limits, and read back as they were written."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from csra_lab.errors import CsraError
from csra_lab.thresholds import choose_thresholds, read_thresholds, write_thresholds


@pytest.fixture
def example():
    rng = np.random.default_rng(0)
    targets = (rng.random((200, 5)) < 0.2).astype(int)
    return np.round(np.clip(0.3 * targets + 0.7 * rng.random((200, 5)), 0, 1), 2), targets  # rounded: many ties


def test_no_other_threshold_has_a_larger_f1(example):
    scores, targets = example
    for c, threshold in enumerate(choose_thresholds(scores, targets)):
        chosen = f1_score(targets[:, c], scores[:, c] >= threshold)
        others = [f1_score(targets[:, c], scores[:, c] >= t) for t in np.unique(scores[:, c])]
        assert chosen == pytest.approx(max(others), abs=1e-12)


def test_ignored_entries_decide_nothing(example):
    scores, targets = example
    hidden = targets.copy()
    hidden[:50] = -1
    np.testing.assert_array_equal(choose_thresholds(scores, hidden), choose_thresholds(scores[50:], targets[50:]))


def test_a_rare_class_takes_the_threshold_of_all(example):
    scores, targets = example
    targets[:, 0] = 0
    targets[3, 0] = 1
    everything = choose_thresholds(scores.reshape(-1, 1), targets.reshape(-1, 1))[0]
    assert choose_thresholds(scores, targets)[0] == everything
    assert choose_thresholds(scores, targets, min_positives=1)[0] != everything


def test_separable_scores_are_separated():
    np.testing.assert_allclose(
        choose_thresholds([[0.1], [0.2], [0.6], [0.9]], [[0], [0], [1], [1]], min_positives=1), 0.4
    )


@pytest.fixture
def model_folder(tmp_path):
    (tmp_path / "config.json").touch()
    return tmp_path


def test_written_is_read(model_folder):
    assert read_thresholds(model_folder, ("a", "b")) is None
    write_thresholds(model_folder, [0.25, 0.5], ("a", "b"), about="a test")
    np.testing.assert_array_equal(read_thresholds(model_folder, ("b", "a")), [0.5, 0.25])


def test_none_are_written_where_nobody_would_read_them(tmp_path):
    with pytest.raises(CsraError, match=r"no saved model .* name its model/"):
        write_thresholds(tmp_path, [0.25, 0.5], ("a", "b"), about="a test")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "cannot be read"), ('{"thresholds": {"a": 1.5}}', "no probability"), ('{"thresholds": {"b": 0.5}}', "other"),
     ('{"thresholds": {"a": true}}', "no probability"), ("[]", "cannot be read")],
)  # fmt: skip
def test_a_damaged_file_is_one_sentence(tmp_path, content, words):
    (tmp_path / "thresholds.json").write_text(content)
    with pytest.raises(CsraError, match=words):
        read_thresholds(tmp_path, ("a",))


@pytest.mark.parametrize(
    ("scores", "targets", "words"),
    [
        ([[0.5]], [[0]], "no target"),
        ([[1.5]], [[1]], "must be probabilities"),
        ([0.5], [1], "both be"),
        ([[0.5]], [[1, 0]], "both"),
    ],
)
def test_wrong_arrays_are_refused(scores, targets, words):
    with pytest.raises(CsraError, match=words):
        choose_thresholds(scores, targets)


def test_what_would_not_be_read_is_not_written(model_folder):
    for thresholds in ([0.5], [0.5, 2.0], [0.5, np.nan]):
        with pytest.raises(CsraError, match="one probability for each of 2 classes"):
            write_thresholds(model_folder, thresholds, ("a", "b"), about="")
    assert [path.name for path in model_folder.iterdir()] == ["config.json"]


def test_thresholds_far_from_a_half_are_not_rounded(model_folder):
    thresholds = [1.28e-5, 1 - 1e-9, 1 / 3]
    write_thresholds(model_folder, thresholds, ("a", "b", "c"), about="a test")
    np.testing.assert_array_equal(read_thresholds(model_folder, ("a", "b", "c")), thresholds)


def test_thresholds_edited_by_hand(model_folder):
    write_thresholds(model_folder, [0.25, 0.5], ("a", "b"), about="x")
    path = model_folder / "thresholds.json"
    text = path.read_text()
    path.write_text(text, encoding="utf-8-sig")  # as some editors do
    np.testing.assert_array_equal(read_thresholds(model_folder, ("a", "b")), [0.25, 0.5])
    path.write_text(text.replace('"b": 0.5', '"b": 0.5, "a": 0.75'))
    with pytest.raises(CsraError, match="'a' is named twice"):
        read_thresholds(model_folder, ("a", "b"))
