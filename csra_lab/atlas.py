"""The score atlas: a few drawn test pictures, and the class score maps of every trained model on them.

The explorers read it, so that a page shows trained models without running one. `data/atlas` holds

pictures.json            for each data set its classes, and of each picture the id, split, file and targets
DATASET/ID               the pictures: what the models saw is the stored file
models/NAME.safetensors  (P, heads, C, h, w) float16 score maps of the P pictures; how it was made is in the header

`python -m csra_lab.atlas RUN ...` adds the models of finished runs. `python -m csra_lab.atlas` draws the pictures and
makes the models on frozen features anew, in minutes.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from csra_lab.ablation import train_heads
from csra_lab.atomic import written_whole
from csra_lab.batches import hold_out
from csra_lab.classifier import MultiLabelClassifier, create_classifier
from csra_lab.datasets import MultiLabelDataset, load_dataset, open_image
from csra_lab.datasets.transforms import eval_transform
from csra_lab.errors import LabError
from csra_lab.experiments import source_features
from csra_lab.heads import AveragePooling
from csra_lab.plans import PLANS, SOURCES
from csra_lab.runs import environment, read_recipe

ATLAS = Path(__file__).resolve().parents[1] / "data" / "atlas"


@dataclass(frozen=True)
class AtlasPicture:
    """One test picture. `targets` are its C labels: 1 present, 0 absent, -1 not known."""

    id: str
    split: str
    path: Path
    targets: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class AtlasModel:
    """The score maps of one model on all pictures of its data set.

    Attributes:
        title: for people. head: `kind` and the options of its head; see `MultiLabelClassifier.config`.
        maps: (P, heads, C, h, w) float16. made: how it was trained: recipe, command, versions.
    """

    name: str
    title: str
    dataset: str
    backbone: str
    head: dict
    maps: np.ndarray
    made: dict


@dataclass(frozen=True, eq=False)
class Atlas:
    """Pictures, classes and models; the first two by data set."""

    classes: dict[str, tuple[str, ...]]
    pictures: dict[str, tuple[AtlasPicture, ...]]
    models: dict[str, AtlasModel]


def read_atlas(folder: Path = ATLAS) -> Atlas:
    """The whole atlas. Raises a LabError that names the file where something is missing or damaged."""
    classes, pictures = _read_pictures(folder)
    models = {path.stem: _read_model(path) for path in sorted((folder / "models").glob("*.safetensors"))}
    for name, model in models.items():
        expected = (len(pictures.get(model.dataset, ())), len(classes.get(model.dataset, ())))
        if (model.maps.shape[0], model.maps.shape[2]) != expected:
            raise LabError(
                f"{folder / 'models' / name}.safetensors does not fit the pictures of the atlas; add it again."
            )
    return Atlas(classes, pictures, models)


def add_to_atlas(
    model: MultiLabelClassifier, dataset: str, *, name: str, title: str, made: dict, folder: Path = ATLAS
) -> Path:
    """Run a classifier on the pictures of a data set and write its score maps into the atlas.

    Args:
        dataset: "emoji-voc" or "paperdoll-wider". name: of the file, in letters, digits and dashes.
        title, made: see `AtlasModel`; `made` holds JSON types.

    Raises:
        LabError: another data set's classes, a bad name, or scores that half precision cannot hold.
    """
    classes, pictures = _read_pictures(folder)
    if dataset not in classes or model.classes != classes[dataset]:
        raise LabError(
            f"the atlas has pictures of {', '.join(classes)}, and this model with {len(model.classes)} classes "
            f"does not know the classes of {dataset}."
        )
    if not re.fullmatch(r"[\w-]+", name):
        raise LabError(f"the name becomes a file, so it is letters, digits and dashes, not {name!r}.")
    maps = torch.cat(list(_score_maps(model, pictures[dataset]))).half()  # (P, heads, C, h, w)
    if not maps.isfinite().all():
        raise LabError(f"the scores of {name} are not finite in half precision; look at its training.")
    config = model.config()
    about = {"title": title, "dataset": dataset, "backbone": config["backbone"], "head": config["head"], "made": made}
    path = folder / "models" / f"{name}.safetensors"
    with written_whole(path) as fresh:
        save_file({"maps": maps.contiguous()}, fresh, metadata={"about": json.dumps(about)})
    return path


def add_run(run: Path, *, folder: Path = ATLAS) -> Path:
    """Add the trained model of a run of `csra-lab train` on one of the drawn sets; see `add_to_atlas`."""
    recipe = read_recipe(run)
    if not (run / "model").exists():
        raise LabError(f"{run} has no trained model yet; run `csra-lab train` on it until an epoch is done.")
    model = MultiLabelClassifier.from_pretrained(run / "model")
    made = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    if (run / "metrics.json").exists():
        made["metrics"] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    title = f"{_head_title(model)}, {recipe.backbone}{' (frozen)' if recipe.freeze_backbone else ''}"
    name = "-".join([recipe.dataset, recipe.backbone, *re.findall(r"\w+", _head_title(model).lower())])
    return add_to_atlas(model, recipe.dataset, name=name, title=title, made=made, folder=folder)


def make_atlas(folder: Path = ATLAS, *, progress: bool = True) -> list[Path]:
    """Write the pictures, and train and add the heads on frozen EfficientNet-Lite0 features. Keeps models of runs.

    The recipes are those of the recorded plans `four-lines` and `heads`, seed 0.
    """
    write_pictures(folder)
    plan = PLANS["four-lines"]
    entries = {source: [(plan, entry) for entry in plan.entries] for source in ("emoji", "paperdoll")}
    entries["emoji"] += [(PLANS["heads"], entry) for entry in PLANS["heads"].entries if entry.label == "H = 2"]
    paths = []
    for source, rows in entries.items():
        sets, maps = source_features(SOURCES[source], None, progress=progress)
        recipes = [plan.recipe(entry, 0, source) for plan, entry in rows]
        fit, held_out = hold_out(sets["trainval"], 0.0)
        for trained in train_heads(recipes, maps["trainval"], fit=fit, held_out=held_out, progress=progress):
            recipe, classes = trained.recipe, sets["trainval"].classes
            model = create_classifier(recipe.backbone, classes=classes, pretrained=True, image_size=recipe.image_size)
            model = model.with_head(trained.head).eval()
            title = f"{_head_title(model)}, EfficientNet-Lite0 (frozen)"
            name = "-".join([recipe.dataset, "lite0", *re.findall(r"\w+", _head_title(model).lower())])
            fields = json.loads(json.dumps(dataclasses.asdict(recipe)).replace("Infinity", '"inf"'))
            made = {
                "command": "python -m csra_lab.atlas",
                "recipe": fields,
                "environment": environment(torch.device("cpu")),
            }
            paths.append(add_to_atlas(model, recipe.dataset, name=name, title=title, made=made, folder=folder))
    return paths


def write_pictures(folder: Path) -> None:
    """Choose the pictures by rule and write them with `pictures.json`.

    EmojiVOC: the first 14 of `test` and the first 6 of `test-unseen` with two labels or more, as the files they are.
    PaperdollWIDER: the first person of at least 80 x 160 pixels in each scene, for the first 16 scenes of `test`.
    """
    emoji = [(load_dataset("emoji-voc", split=split), count) for split, count in (("test", 14), ("test-unseen", 6))]
    chosen = [(data, i) for data, count in emoji for i in np.flatnonzero((data.targets == 1).sum(axis=1) >= 2)[:count]]
    people = load_dataset("paperdoll-wider", split="test")
    large = np.flatnonzero((people.crops[:, 2:] >= (80, 160)).all(axis=1))
    first = {people.paths[i]: int(i) for i in large[::-1]}  # scene -> its first large person
    dolls = [(people, i) for i in sorted(first.values())[:16]]
    content = {}
    for dataset, items in (("emoji-voc", chosen), ("paperdoll-wider", dolls)):
        content[dataset] = {"classes": list(items[0][0].classes), "pictures": []}
        (folder / dataset).mkdir(parents=True, exist_ok=True)
        for data, i in items:
            path = _write_picture(data, int(i), folder / dataset)
            line = {"id": data.ids[i], "split": data.split, "file": path.name, "targets": data.targets[i].tolist()}
            content[dataset]["pictures"].append(line)
    with written_whole(folder / "pictures.json") as fresh:
        fresh.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _write_picture(data: MultiLabelDataset, i: int, folder: Path) -> Path:
    """The picture's own file, or its crop as WebP."""
    if data.crops is None:
        path = folder / Path(data.paths[i]).name
        path.write_bytes(Path(data.paths[i]).read_bytes())
        return path
    path = folder / (re.sub(r"\W+", "-", Path(data.ids[i]).name) + ".webp")
    data.image(i).save(path, "WEBP", quality=90, method=6)
    return path


@torch.inference_mode()
def _score_maps(model: MultiLabelClassifier, pictures: Sequence[AtlasPicture]) -> Iterator[torch.Tensor]:
    """(1, heads, C, h, w) for each picture."""
    transform = eval_transform(model.image_size, mean=model.mean, std=model.std)
    device = next(model.parameters()).device
    for picture in pictures:
        yield model.eval().score_maps(transform(open_image(picture.path))[None].to(device)).float().cpu()


def _head_title(model: MultiLabelClassifier) -> str:
    head = model.config()["head"]
    if isinstance(model.head, AveragePooling):
        return "average pooling"
    if head["kind"] != "csra":
        return head["kind"]
    return "CSRA" if head["heads"] == 1 else f"CSRA {head['heads']} heads"


def _read_pictures(folder: Path) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[AtlasPicture, ...]]]:
    """Classes and pictures by data set."""
    path = folder / "pictures.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        classes = {name: tuple(part["classes"]) for name, part in content.items()}
        pictures = {
            name: tuple(
                AtlasPicture(p["id"], p["split"], folder / name / p["file"], tuple(p["targets"]))
                for p in part["pictures"]
            )
            for name, part in content.items()
        }
    except FileNotFoundError:
        raise LabError(f"there is no score atlas in {folder}; `python -m csra_lab.atlas` makes it.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabError(f"{path} cannot be read ({error!r}); make the atlas again.") from None
    return classes, pictures


def _read_model(path: Path) -> AtlasModel:
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()["about"])
            maps = file.get_tensor("maps")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise LabError(f"{path} is not a model of the atlas ({error!r}); add it again.") from None
    return AtlasModel(name=path.stem, maps=maps, **about)


def main(arguments: Sequence[str]) -> None:
    """Add the runs named, or make pictures and frozen models anew where none is."""
    try:
        for path in [add_run(Path(run)) for run in arguments] or make_atlas():
            print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")
    except LabError as error:
        print(f"csra_lab.atlas: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
