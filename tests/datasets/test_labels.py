"""A wrong label convention is refused where it would give splendid scores, and read rightly once it is stated."""

import json

import numpy as np
import pytest
import torch

from csra_lab._io.notice import CsraWarning
from csra_lab.catalog import load_dataset
from csra_lab.cli import main
from csra_lab.datasets.wider import load_wider
from csra_lab.errors import CsraError
from csra_lab.metrics import MultilabelMetrics, multilabel_metrics

TRUTH = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]] * 8)  # 1 present, 0 absent


def write_table(folder, values, split="trainval"):
    lines = ["image,cat,dog,cow", *(f"{split}{i}.jpg," + ",".join(row) for i, row in enumerate(values))]
    (folder / f"{split}.csv").write_text("\n".join(lines))
    return folder


def said(truth, absent, unknown=()):
    """The truth in a file's words: "1", `absent`, and `unknown` at the given places."""
    words = np.where(truth == 1, "1", absent).astype(object)
    for place in unknown:
        words[place] = "0" if absent == "-1" else "-1"
    return words


def read(folder, **stated):
    return load_dataset("folder", folder, "trainval", **stated).targets


def test_minus_one_for_absent_is_refused_until_it_is_stated(tmp_path):
    write_table(tmp_path, said(TRUTH, "-1"))
    with pytest.raises(CsraError, match=r"no label says absent.*--absent -1 --unknown 0"):
        read(tmp_path)
    assert (read(tmp_path, absent="-1") == TRUTH).all()


def test_vocs_own_words_in_a_table(tmp_path):
    places = [(0, 1), (7, 2)]  # two difficult objects
    write_table(tmp_path, said(TRUTH, "-1", places))
    with pytest.raises(CsraError, match="any model would score near 100"):
        read(tmp_path)
    expected = TRUTH.copy()
    expected[tuple(np.transpose(places))] = -1
    assert (read(tmp_path, absent="-1", unknown="0") == expected).all()


def test_blanks_mean_what_the_reader_says(tmp_path):
    write_table(tmp_path, said(TRUTH, ""))
    with pytest.raises(CsraError, match="--absent 0,blank; if it says unknown, add --unknown -1,blank"):
        read(tmp_path)
    assert (read(tmp_path, absent="0,blank") == TRUTH).all()
    assert (read(tmp_path, unknown="-1,blank") == np.where(TRUTH == 1, 1, -1)).all()  # single positives are legitimate


def test_usual_tables_load_without_a_word(tmp_path, recwarn):
    write_table(tmp_path, said(TRUTH, "0", [(0, 1)]))
    assert (read(tmp_path) == -1).sum() == 1
    assert not recwarn.list


def test_half_known_sets_are_warned_of(tmp_path):
    words = said(TRUTH, "0")
    words[10:][TRUTH[10:] == 0] = "-1"
    words[10:35] = "-1"  # whole images unknown
    write_table(tmp_path, words)
    with pytest.warns(CsraWarning, match="not counted"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        ({"absent": "none"}, "must be of 0, -1, blank"),
        ({"absent": "0", "unknown": "0"}, "cannot be both"),
        ({"unknown": "0"}, "no value says absent"),
    ],
)
def test_impossible_conventions(tmp_path, stated, sentence):
    write_table(tmp_path, said(TRUTH, "0"))
    with pytest.raises(CsraError, match=sentence):
        read(tmp_path, **stated)


def test_a_convention_is_for_folders_alone(tmp_path):
    with pytest.raises(CsraError, match="voc2007 has its own labels"):
        load_dataset("voc2007", tmp_path, "test", absent="0")


def write_lists(root, truth, absent):
    main_lists = root / "ImageSets" / "Main"
    main_lists.mkdir(parents=True)
    ids = [f"{i:06d}" for i in range(len(truth))]
    (main_lists / "trainval.txt").write_text("\n".join(ids))
    for c, name in enumerate(("cat", "dog", "cow")):
        rows = [f"{i} {1 if t else absent}" for i, t in zip(ids, truth[:, c], strict=True)]
        (main_lists / f"{name}_trainval.txt").write_text("\n".join(rows))
    return root


def test_zero_for_absent_in_class_lists(tmp_path):
    write_lists(tmp_path, TRUTH, 0)
    with pytest.raises(CsraError, match="--absent 0 --unknown -1"):
        read(tmp_path)
    data = load_dataset("folder", tmp_path, "trainval", absent="0", classes=("cat", "dog", "cow"))
    assert (data.targets == TRUTH).all()


def test_wider_with_zero_for_absent(tmp_path):
    people = [{"bbox": [0, 0, 9, 9], "attribute": [1] + [0] * 13}, {"bbox": [0, 0, 9, 9], "attribute": [0] * 14}]
    text = {"images": [{"file_name": "test/a.jpg", "targets": people}]}
    (tmp_path / "wider_attribute_test.json").write_text(json.dumps(text))
    with pytest.raises(CsraError, match="write -1 where the attribute is absent"):
        load_wider(tmp_path, "test")


def test_train_and_check_say_it_before_anything_is_computed(tmp_path, capsys):
    for split in ("trainval", "test"):
        write_table(tmp_path, said(TRUTH, "-1"), split)
    for command in (["train", "folder-lite0-csra", "--data", str(tmp_path), "--out", str(tmp_path / "run")],
                    ["data", "check", str(tmp_path)]):  # fmt: skip
        with pytest.raises(SystemExit) as exit_:
            main(command)
        assert exit_.value.code == 2
        shown = "".join(capsys.readouterr())
        assert "--absent -1 --unknown 0" in shown
    assert not (tmp_path / "run").exists()


# ---- the metric itself -----------------------------------------------------------------------------------------------

SCORES = np.random.default_rng(0).random(TRUTH.shape)


def test_the_metric_refuses_targets_without_an_absent_one():
    wrong = np.where(TRUTH == 1, 1, -1)
    with pytest.raises(CsraError, match=r"pass np\.maximum\(targets, 0\)"):
        multilabel_metrics(SCORES, wrong)
    whole = MultilabelMetrics(3)
    whole.update(SCORES, wrong)
    with pytest.raises(CsraError, match="no target is 0"):
        whole.compute()
    assert multilabel_metrics(SCORES, np.maximum(wrong, 0)).mAP == multilabel_metrics(SCORES, TRUTH).mAP < 0.7


def test_the_metric_warns_of_nearly_none():
    wrong = np.where(TRUTH == 1, 1, -1)
    wrong[0, 1] = 0
    with pytest.warns(CsraWarning, match="only 1 targets are 0"):
        multilabel_metrics(SCORES, wrong)


def test_the_metric_takes_tensors_of_any_kind_and_numpy_integers():
    expected = multilabel_metrics(SCORES, TRUTH, top_k=1)
    tensor = torch.tensor(SCORES, requires_grad=True)
    assert multilabel_metrics(tensor, torch.tensor(TRUTH), top_k=np.int64(1)).mAP == expected.mAP
    half = torch.tensor(SCORES).bfloat16()
    assert multilabel_metrics(half, TRUTH).mAP == multilabel_metrics(half.float().numpy(), TRUTH).mAP
