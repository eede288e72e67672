"""Make the score atlas, or add the models of runs to it.

`python -m csra_lab.cli.build_atlas RUN ...` adds the models of finished runs. Without RUN it chooses the images and
makes the models on frozen features anew, in minutes.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from csra_lab._io import strict_json
from csra_lab.catalog import load_dataset
from csra_lab.classifier import MultiLabelClassifier, create_classifier
from csra_lab.datasets import MultiLabelDataset
from csra_lab.errors import CsraError, MissingFile
from csra_lab.heads import AveragePooling
from csra_lab.study.experiments import source_features
from csra_lab.study.head_stack import train_heads
from csra_lab.study.plans import PLANS, SOURCES
from csra_lab.training.run_folder import environment, read_recipe
from csra_lab.training.sampling import hold_out
from csra_lab.viz.atlas import ATLAS, add_to_atlas


def add_run(run: Path, *, folder: Path = ATLAS) -> Path:
    """Add the trained model of a run of `csra-lab train` on one of the drawn sets; see `add_to_atlas`."""
    recipe = read_recipe(run)
    if not (run / "model").exists():
        raise MissingFile(f"{run} has no trained model yet; run `csra-lab train` on it until an epoch is done.")
    model = MultiLabelClassifier.from_pretrained(run / "model")
    made = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    if (run / "metrics.json").exists():
        made["metrics"] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    title = f"{_head_title(model)}, {recipe.model.backbone}{' (frozen)' if recipe.model.freeze_backbone else ''}"
    name = "-".join([recipe.data.dataset, recipe.model.backbone, *re.findall(r"\w+", _head_title(model).lower())])
    return add_to_atlas(model, recipe.data.dataset, name=name, title=title, made=made, folder=folder)


def make_atlas() -> list[Path]:
    """Write the images, and train and add the heads on frozen EfficientNet-Lite0 features. Keeps models of runs.

    The recipes are those of the recorded plans `four-lines` and `heads`, seed 0.
    """
    write_pictures(ATLAS)
    plan = PLANS["four-lines"]
    entries = {source: [(plan, entry) for entry in plan.entries] for source in ("emoji", "paperdoll")}
    entries["emoji"] += [(PLANS["heads"], entry) for entry in PLANS["heads"].entries if entry.label == "H = 2"]
    paths = []
    for source, rows in entries.items():
        sets, maps = source_features(SOURCES[source], None, progress=True)
        recipes = [plan.recipe(entry, 0, source) for plan, entry in rows]
        fit, held_out = hold_out(sets["trainval"], 0.0)
        for trained in train_heads(recipes, maps["trainval"], fit=fit, held_out=held_out, progress=True):
            recipe, classes = trained.recipe, sets["trainval"].classes
            model = create_classifier(
                recipe.model.backbone, classes=classes, weights="installed", image_size=recipe.model.image_size
            )
            model = model.with_head(trained.head).eval()
            title = f"{_head_title(model)}, EfficientNet-Lite0 (frozen)"
            name = "-".join([recipe.data.dataset, "lite0", *re.findall(r"\w+", _head_title(model).lower())])
            made = {
                "command": "python -m csra_lab.cli.build_atlas",
                "recipe": recipe.to_json(),
                "environment": environment(torch.device("cpu")),
            }
            paths.append(add_to_atlas(model, recipe.data.dataset, name=name, title=title, made=made))
    return paths


def write_pictures(folder: Path) -> None:
    """Choose the images by rule and write them with `pictures.json`.

    EmojiVOC: the first 14 of `test` and the first 6 of `test-unseen` with two labels or more, as the files they are.
    PaperdollWIDER: the first person of at least 80 x 160 pixels in each scene, for the first 16 scenes of `test`.
    """
    emoji = [(load_dataset("emoji-voc", split=split), count) for split, count in (("test", 14), ("test-unseen", 6))]
    chosen = [(data, i) for data, count in emoji for i in np.flatnonzero((data.targets == 1).sum(axis=1) >= 2)[:count]]
    people = load_dataset("paperdoll-wider", split="test")
    assert people.crops is not None  # an item is a person
    large = np.flatnonzero((people.crops[:, 2:] >= (80, 160)).all(axis=1))
    first = {people.paths[i]: int(i) for i in large[::-1]}  # scene -> its first large person
    dolls = [(people, i) for i in sorted(first.values())[:16]]
    content: dict[str, dict[str, list]] = {}
    for dataset, items in (("emoji-voc", chosen), ("paperdoll-wider", dolls)):
        content[dataset] = {"classes": list(items[0][0].classes), "pictures": []}
        (folder / dataset).mkdir(parents=True, exist_ok=True)
        for data, i in items:
            path = _write_picture(data, int(i), folder / dataset)
            line = {"id": data.ids[i], "split": data.split, "file": path.name, "targets": data.targets[i].tolist()}
            content[dataset]["pictures"].append(line)
    strict_json.write(folder / "pictures.json", content, indent=1)


def _write_picture(data: MultiLabelDataset, i: int, folder: Path) -> Path:
    """The image's own file, or its crop as WebP."""
    if data.crops is None:
        path = folder / Path(data.paths[i]).name
        path.write_bytes(Path(data.paths[i]).read_bytes())
        return path
    path = folder / (re.sub(r"\W+", "-", Path(data.ids[i]).name) + ".webp")
    data.image(i).save(path, "WEBP", quality=90, method=6)
    return path


def _head_title(model: MultiLabelClassifier) -> str:
    head = model.config()["head"]
    if isinstance(model.head, AveragePooling):
        return "average pooling"
    if head["kind"] != "csra":
        return head["kind"]
    return "CSRA" if head["num_heads"] == 1 else f"CSRA {head['num_heads']} heads"


def main(arguments: Sequence[str]) -> None:
    """Add the runs named, or make images and frozen models anew where none is."""
    try:
        for path in [add_run(Path(run)) for run in arguments] or make_atlas():
            print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")
    except CsraError as error:
        print(f"csra_lab.cli.build_atlas: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
