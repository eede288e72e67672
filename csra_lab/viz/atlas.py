"""The score atlas: a few drawn test pictures, and the class score maps of every trained model on them.

The explorers read it, so that a page shows trained models without running one. `csra_lab/assets/atlas` holds

pictures.json            for each data set its classes, and of each picture the id, split, file and targets
DATASET/ID               the pictures: what the models saw is the stored file
models/NAME.safetensors  (P, heads, C, h, w) float16 score maps of the P pictures; how it was made is in the header

`build_atlas.py` makes it, and adds the models of runs.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from csra_lab._io import strict_json
from csra_lab._io.atomic_write import atomic_write
from csra_lab._io.resources import asset
from csra_lab.classifier import MultiLabelClassifier
from csra_lab.datasets import open_image
from csra_lab.errors import ConfigError, CsraError, DataError, MissingFile
from csra_lab.modes import evaluating

ATLAS = asset("atlas")


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
    """The whole atlas. Raises a CsraError that names the file where something is missing or damaged."""
    classes, pictures = _read_pictures(folder)
    models = {path.stem: _read_model(path) for path in sorted((folder / "models").glob("*.safetensors"))}
    for name, model in models.items():
        expected = (len(pictures.get(model.dataset, ())), len(classes.get(model.dataset, ())))
        if (model.maps.shape[0], model.maps.shape[2]) != expected:
            raise DataError(
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
        CsraError: another data set's classes, a bad name, or scores that half precision cannot hold.
    """
    classes, pictures = _read_pictures(folder)
    if dataset not in classes or model.classes != classes[dataset]:
        raise ConfigError(
            f"the atlas has pictures of {', '.join(classes)}, and this model with {len(model.classes)} classes "
            f"does not know the classes of {dataset}."
        )
    if not re.fullmatch(r"[\w-]+", name):
        raise ConfigError(f"the name becomes a file, so it is letters, digits and dashes, not {name!r}.")
    maps = torch.cat(list(_score_maps(model, pictures[dataset]))).half()  # (P, heads, C, h, w)
    if not maps.isfinite().all():
        raise CsraError(f"the scores of {name} are not finite in half precision; look at its training.")
    config = model.config()
    about = {"title": title, "dataset": dataset, "backbone": config["backbone"], "head": config["head"], "made": made}
    path = folder / "models" / f"{name}.safetensors"
    with atomic_write(path) as fresh:
        save_file({"maps": maps.contiguous()}, fresh, metadata={"about": strict_json.dumps(about)})
    return path


@torch.inference_mode()
def _score_maps(model: MultiLabelClassifier, pictures: Sequence[AtlasPicture]) -> Iterator[torch.Tensor]:
    """(1, heads, C, h, w) for each picture."""
    transform, device = model.transform, model.device
    with evaluating(model):
        for picture in pictures:
            yield model.score_maps(transform(open_image(picture.path))[None].to(device)).float().cpu()


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
    except FileNotFoundError as error:
        raise MissingFile(
            f"there is no score atlas in {folder}; `python -m csra_lab.cli.build_atlas` makes it."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({error!r}); make the atlas again.") from error
    return classes, pictures


def _read_model(path: Path) -> AtlasModel:
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()["about"])
            maps = file.get_tensor("maps")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a model of the atlas ({error!r}); add it again.") from error
    return AtlasModel(name=path.stem, maps=maps, **about)
