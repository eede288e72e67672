"""A training run in a process of its own, for tests that kill it or start two: DEVKIT OUT RECIPE_JSON."""

import json
import os
import sys
from pathlib import Path

import torch

from csra_lab.recipes import Recipe
from csra_lab.training.loop import train
from tests import toy

if __name__ == "__main__":
    torch.set_num_threads(1)  # as tests/conftest.py: sums split over another number of threads round otherwise
    devkit, out, fields = sys.argv[1:]
    recipe = Recipe.from_json(json.loads(fields))
    sets = [toy.load(Path(devkit), split) for split in ("trainval", "test")]
    train(recipe, *sets, out, progress=False)
    print(f"{os.environ.get('RANK', 0)}/{os.environ.get('WORLD_SIZE', 1)}")
