"""A recorded run, run again from its recipe, says the same.

tests/records/rerun is a run that `train` left behind: a head on frozen ImageNet features of 60 drawn scenes.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from csra_lab.catalog import load_dataset
from csra_lab.synthetic.emoji_voc import prepare_emoji_voc
from csra_lab.training.loop import train
from csra_lab.training.run_folder import read_evaluation, read_recipe
from tests import toy

RECORD = Path(__file__).parent / "records/rerun"
# Other processors and versions add up in another order; a head on frozen features does not blow that up.
TOLERANCE_mAP = 0.005 if toy.SAME_PIXELS else 0.02
TOLERANCE_PROBABILITY = 0.01 if toy.SAME_PIXELS else 0.1


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    emoji = prepare_emoji_voc(tmp_path_factory.mktemp("cache"), size="tiny", image_size=64, progress=False)
    return [load_dataset("emoji-voc", emoji, split) for split in ("trainval", "test")]


@pytest.fixture(scope="module")
def again(sets, tmp_path_factory):
    return train(read_recipe(RECORD), *sets, tmp_path_factory.mktemp("run") / "again", progress=False)


def test_it_agrees_within_its_tolerance(again):
    recorded, found = read_evaluation(RECORD), read_evaluation(again.folder)
    assert recorded.ids == found.ids
    np.testing.assert_array_equal(recorded.targets, found.targets)
    np.testing.assert_allclose(recorded.scores, found.scores, atol=TOLERANCE_PROBABILITY)
    mAP = json.loads((RECORD / "metrics.json").read_text("utf-8"))["mAP"]
    assert again.metrics.mAP == pytest.approx(mAP, abs=TOLERANCE_mAP)


def test_on_one_machine_it_agrees_to_the_bit(again, sets, tmp_path):
    once_more = train(read_recipe(RECORD), *sets, tmp_path / "run", progress=False)
    np.testing.assert_array_equal(once_more.scores, again.scores)
    columns = ["epoch", "train_loss", "lr_low", "lr_high"]
    assert once_more.history[columns].equals(again.history[columns])
