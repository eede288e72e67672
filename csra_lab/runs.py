"""The folder of a run: what was asked, where it ran, and what came out.

recipe.json        the recipe, and the versions and device it ran with
history.csv        a line an epoch
model/             the best weights, as `MultiLabelClassifier.from_pretrained` reads them
metrics.json       metrics of the test split
scores.npz         ids, classes, (N, C) float16 scores and targets of the test split
state.pt           only while the run is under way
"""

import dataclasses
import json
import platform
import zipfile
from pathlib import Path

import accelerate
import numpy as np
import timm
import torch
import torchvision

from csra_lab.atomic import written_whole
from csra_lab.datasets import MultiLabelDataset
from csra_lab.errors import LabError
from csra_lab.metrics import MultilabelMetrics
from csra_lab.recipes import Recipe


def check_run_folder(out: Path, recipe: Recipe) -> None:
    """Raise a LabError unless `out` is free, or holds an unfinished run of this very recipe."""
    record = out / "recipe.json"
    if not record.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise LabError(f"{out} exists and is not a run; choose another --out.")
        return
    try:
        found = json.loads(record.read_text(encoding="utf-8"))["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        raise LabError(f"{record} does not hold a recipe; choose another --out, or delete that folder.") from None
    wanted = _json_types(recipe)
    for key, value in wanted.items():
        if found.get(key) != value:
            raise LabError(
                f"{out} holds another run ({key} is {found.get(key)!r} there and {value!r} here); choose another --out."
            )
    if (out / "history.csv").exists() and not (out / "state.pt").exists():
        raise LabError(f"{out} holds this run already, finished; choose another --out, or `csra-lab evaluate {out}`.")


def write_recipe(out: Path, recipe: Recipe, device: torch.device) -> None:
    """Write `recipe.json` into a new run folder."""
    with written_whole(out / "recipe.json") as path:
        content = {"recipe": _json_types(recipe), "environment": environment(device)}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a run folder.

    Raises:
        LabError: no such folder, or no run in it.
    """
    path = Path(folder) / "recipe.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))["recipe"]
        return Recipe(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    except FileNotFoundError:
        raise LabError(
            f"{folder} is not a run (no recipe.json); give the folder that `csra-lab train` wrote."
        ) from None
    except LabError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabError(f"{path} does not hold a recipe of this lab ({error}); train again.") from None


def environment(device: torch.device) -> dict[str, str]:
    """Versions and the device: what a number may depend on besides its recipe."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU {platform.machine()}"
    return {
        "device": name,
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in (torch, torchvision, timm, accelerate, np)},
    }


def save_evaluation(folder: Path, dataset: MultiLabelDataset, metrics: MultilabelMetrics, scores: np.ndarray) -> None:
    """Write `metrics.json` and `scores.npz` of a split into a run folder."""
    with written_whole(folder / "scores.npz") as path, open(path, "wb") as file:
        np.savez_compressed(
            file,
            scores=scores.astype(np.float16),
            targets=dataset.targets,
            ids=np.array(dataset.ids),
            classes=np.array(dataset.classes),
        )
    result = {"dataset": dataset.name, "split": dataset.split, **metrics.to_dict()}
    with written_whole(folder / "metrics.json") as path:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Scored:
    """A test split as a run scored it.

    Attributes:
        scores: (N, C) probabilities; they were stored as float16. targets: (N, C) in {1, 0, -1}.
        ids: N strings. classes: C names.
    """

    scores: np.ndarray
    targets: np.ndarray
    ids: tuple[str, ...]
    classes: tuple[str, ...]


def read_evaluation(folder: str | Path) -> Scored:
    """The scores of a run folder, or of a folder that `csra-lab evaluate --out` wrote.

    Raises:
        LabError: no scores there, or not such a file.
    """
    path = Path(folder) / "scores.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Scored(
                scores=stored["scores"].astype(np.float32),
                targets=stored["targets"].astype(np.int8),
                ids=tuple(stored["ids"].tolist()),
                classes=tuple(stored["classes"].tolist()),
            )
    except FileNotFoundError:
        raise LabError(f"{folder} holds no scores.npz; score its test split with `csra-lab evaluate`.") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise LabError(f"{path} does not hold scores of this lab ({error}); evaluate again.") from None


def _json_types(recipe: Recipe) -> dict:
    return json.loads(json.dumps(dataclasses.asdict(recipe)))
