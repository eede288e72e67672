"""The folder of a run: what was asked, where it ran, and what came out.

recipe.json        the recipe, the weights that its loss read off the labels, and the versions and device it ran with
history.csv        a line an epoch
model/             the best weights, as `MultiLabelClassifier.from_pretrained` reads them, and a card that tells of them
metrics.json       metrics of the test split
scores.npz         ids, classes, (N, C) logits and targets of the test split; its keys where persons share photographs
state.pt           only while the run is under way
.lock              only while a process is training; a killed one's keeps nobody out
"""

import contextlib
import csv
import dataclasses
import hashlib
import json
import lzma
import os
import platform
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import accelerate
import numpy as np
import PIL
import timm
import torch
import torchvision
from filelock import FileLock, Timeout

from csra_lab._io import strict_json
from csra_lab._io.arrays import write_arrays
from csra_lab._io.atomic_write import atomic_write
from csra_lab._io.notice import warn
from csra_lab._io.provenance import code_version
from csra_lab.datasets import MultiLabelDataset
from csra_lab.errors import ConfigError, CsraError, DataError, MissingFile
from csra_lab.losses import Loss
from csra_lab.metrics import MetricValues
from csra_lab.recipes import Recipe
from csra_lab.training.sampling import image_names

LOCK = ".lock"
PATIENCE = 10.0  # seconds that a folder in use is waited for: the readers of a killed run notice late that it is gone


def check_run_folder(out: Path, recipe: Recipe, train_set: MultiLabelDataset) -> None:
    """Raise a CsraError unless `out` is free, or holds an unfinished run of this very recipe on this very data."""
    record = out / "recipe.json"
    if not record.exists():
        begun = (LOCK, f".{record.name}.")  # a kill before the recipe was written
        if out.exists() and (not out.is_dir() or any(not p.name.startswith(begun) for p in out.iterdir())):
            raise ConfigError(f"{out} exists and is not a run; choose another --out.")
        return
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        found = dict(content["recipe"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{record} does not hold a recipe; choose another --out, or delete that folder.") from error
    for name, there, here in differences(found, recipe.to_json()):
        again = ""
        if name == "epochs" and is_finished(out):
            again = f" That run is finished; to train on from it, start a new one with --weights {out / 'model'}."
        raise ConfigError(
            f"{out} holds another run ({name} is {there!r} there and {here!r} here); choose another --out.{again}"
        )
    if not is_trained_on(out, data_marks(train_set)):
        raise ConfigError(
            f"{out} holds a run of this recipe on other data (other images, classes or labels than the "
            f"{len(train_set)} of {train_set.name} {train_set.split} here); choose another --out."
        )
    before = content["train_set"].get("bytes")  # earlier runs have none
    if before is not None and before != bytes_of(train_set):
        warn(f"{out}: the image files have another size than when this run began; were they changed in between?")
    if is_finished(out):
        raise ConfigError(
            f"{out} holds this run already, finished; choose another --out, or `csra-lab evaluate {out}`."
        )


def data_marks(train_set: MultiLabelDataset) -> dict[str, str]:
    """What tells training sets apart: their fingerprint, and a digest of the file names, which say what is held out."""
    names = "\n".join(image_names(train_set)).encode("utf-8", "surrogateescape")
    return {"fingerprint": train_set.fingerprint(), "names": hashlib.blake2b(names, digest_size=8).hexdigest()}


def bytes_of(train_set: MultiLabelDataset) -> int:
    """Size of the image files together; files that are not there count nothing."""
    total = 0
    for path in dict.fromkeys(train_set.paths):
        with contextlib.suppress(OSError):
            total += os.stat(path).st_size
    return total


def is_trained_on(folder: Path, marks: dict[str, str]) -> bool:
    """Whether a run, whose recipe can be read, was trained on the set with these `data_marks`."""
    data = json.loads((folder / "recipe.json").read_text(encoding="utf-8")).get("train_set")
    # The runs of earlier versions have no names.
    return isinstance(data, dict) and "fingerprint" in data and all(data.get(k, v) == v for k, v in marks.items())


@contextlib.contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Keep other processes from training in a folder, which is made; if nothing is written into it, it goes again.

    The lock is the kernel's, so a process that dies gives it back, however it died.

    Raises:
        CsraError: another process trains there, or the folder cannot be written.
    """
    made, lock = not out.exists(), out / LOCK
    held = FileLock(lock, timeout=PATIENCE)
    try:
        out.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout as error:
        raise ConfigError(
            f"another process is training in {out}; wait until it ends, or choose another --out."
        ) from error
    except OSError as error:
        raise CsraError(
            f"{out} cannot be written ({error.strerror}); choose a folder with space that you may write."
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps a file that is open
            lock.unlink()
        held.release()
        if made:
            with contextlib.suppress(OSError):  # there is something in it
                out.rmdir()


@contextlib.contextmanager
def free_if_nothing_is_kept(out: Path) -> Iterator[None]:
    """Where training fails before its first state, take its recipe away: the folder is free for a mended command."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # what is to be said is the other error
            if not any(p.name != "recipe.json" and not p.name.startswith(".") for p in out.iterdir()):
                (out / "recipe.json").unlink(missing_ok=True)
        raise


def is_finished(folder: Path) -> bool:
    """Whether a run came to its end: a line of history for each of its epochs, and no state to go on from.

    Raises:
        CsraError: no run there, or its recipe or history cannot be read.
    """
    if (Path(folder) / "state.pt").exists():
        return False
    return len(read_history(folder)) >= read_recipe(folder).optimisation.epochs


def differences(found: dict, wanted: dict) -> Iterator[tuple[str, object, object]]:
    """(field, value there, value here) of every field that differs, part by part."""
    for part, here in wanted.items():
        there = found.get(part)
        if isinstance(here, dict):
            there = there if isinstance(there, dict) else {}
            names = dict.fromkeys((*here, *there))
            yield from ((n, there.get(n), here.get(n)) for n in names if there.get(n) != here.get(n))
        elif there != here:
            yield part, there, here


def write_recipe(out: Path, recipe: Recipe, train_set: MultiLabelDataset, device: torch.device, loss: Loss) -> None:
    """Write `recipe.json` into a new run folder, with the loss where it is not the recipe's but has read the labels."""
    data = {"images": len(train_set), **data_marks(train_set), "bytes": bytes_of(train_set)}
    content = {"recipe": recipe.to_json(), "train_set": data, "environment": environment(device)}
    if loss != recipe.loss:
        content["loss"] = recipe.replace(loss=loss).to_json()["loss"]
    strict_json.write(out / "recipe.json", content)


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a run folder.

    Raises:
        CsraError: no such folder, or no run in it.
    """
    path = Path(folder) / "recipe.json"
    try:
        return Recipe.from_json(json.loads(path.read_text(encoding="utf-8"))["recipe"])
    except FileNotFoundError as error:
        raise MissingFile(
            f"{folder} is not a run (no recipe.json); give the folder that `csra-lab train` wrote."
        ) from error
    except CsraError as error:
        raise DataError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} does not hold a recipe of this lab ({error}); train again.") from error


def read_history(folder: Path) -> list[dict[str, float | None]]:
    """The lines of a run's `history.csv`, an epoch each; none before the first. What was not measured is None.

    Raises:
        CsraError: a file that is no history.
    """
    path = Path(folder) / "history.csv"
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = [
                {name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)
            ]
        return [{"train_loss": None, "validation_mAP": None, **line} for line in lines]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path} does not hold the history of a run ({error}); train again.") from error


def environment(device: torch.device) -> dict[str, str | bool]:
    """The lab's code, versions and the device: what a number may depend on besides its recipe."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU {platform.machine()}"
    return {
        **code_version(),
        "device": name,
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in (torch, torchvision, timm, accelerate, np)},
        "pillow": PIL.__version__,  # 13 resizes some images otherwise than 12 did
    }


def save_evaluation(
    folder: Path, dataset: MultiLabelDataset, metrics: MetricValues, scores: np.ndarray, **measured
) -> None:
    """Write `metrics.json` and `scores.npz` of a split, from its (N, C) scores, into a run folder.

    Args:
        measured: how, where it was not as training does it; it stands in `metrics.json` too.
    """
    with atomic_write(folder / "scores.npz") as path, open(path, "wb") as file:
        truth = {"targets": dataset.targets, "ids": np.array(dataset.ids), "classes": np.array(dataset.classes)}
        if len(set(dataset.keys)) < len(dataset) or any("#" in name for name in dataset.ids):  # see `Scored.groups`
            truth["keys"] = np.array(dataset.keys)
        write_arrays(file, {"logits": to_exact_logits(scores)} | truth)
    result = {"dataset": dataset.name, "split": dataset.split, **measured, **metrics.to_dict()}
    strict_json.write(folder / "metrics.json", result)


def to_logits(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities of any shape as float16 logits, for keeping.

    The probabilities themselves must not be rounded to float16: it has no number between 0.9995 and 1, so the surest
    labels would tie, and ties cost average precision most where the scores are largest.
    """
    return _logits(probabilities).astype(np.float16)


def to_exact_logits(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities of any shape as logits that give every ranking back: float32, or float64 where that would tie.

    float16 ties scores of a poor model, and the metrics of the file are then not those that were reported.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    logits = _logits(probabilities)
    small = logits.astype(np.float32)
    order = np.argsort(probabilities, axis=None)
    rises = np.diff(probabilities.ravel()[order]) > 0
    same = np.array_equal(np.diff(from_logits(small).ravel()[order]) > 0, rises)
    return small if same else logits


def _logits(probabilities: np.ndarray) -> np.ndarray:
    probabilities = np.asarray(probabilities, dtype=np.float64)
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities) - np.log1p(-probabilities)
    return np.clip(logits, -1000, 40)  # float64 has no probability beyond


def from_logits(logits: np.ndarray) -> np.ndarray:
    """Kept logits of any shape as float64 probabilities."""
    return torch.sigmoid(torch.from_numpy(np.asarray(logits, dtype=np.float64))).numpy()


@dataclasses.dataclass(frozen=True)
class Scored:
    """A test split as a run scored it.

    Attributes:
        scores: (N, C) float64 probabilities; files of earlier runs hold float16 logits, which tie some of them.
        targets: (N, C) in {1, 0, -1}.
        ids: N strings. classes: C names.
        keys: N strings, the image of each item; None where each has its own, and in files of earlier runs.
    """

    scores: np.ndarray
    targets: np.ndarray
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    keys: tuple[str, ...] | None = None

    @property
    def groups(self) -> tuple[str, ...] | None:
        """Which items are drawn together: the keys, or the photographs of WIDER's ids, PHOTOGRAPH#PERSON."""
        if self.keys is None and all("#" in name for name in self.ids):
            return tuple(name.rpartition("#")[0] for name in self.ids)
        return self.keys


def read_evaluation(folder: str | Path) -> Scored:
    """The scores of a run folder, or of a folder that `csra-lab evaluate --out` wrote.

    Raises:
        CsraError: no scores there, or not such a file.
    """
    path = Path(folder) / "scores.npz"
    try:
        arrays = _read_arrays(path)
        found = {name: arrays[name] for name in ("logits", "targets", "ids", "classes")}
    except FileNotFoundError as error:
        raise MissingFile(f"{folder} holds no scores.npz; score its test split with `csra-lab evaluate`.") from error
    except KeyError as error:
        raise DataError(f"{path} does not hold scores of this lab (no {error}); evaluate again.") from error
    keys = arrays.get("keys")
    problem = _scores_problem(**found, keys=keys)
    if problem:
        raise DataError(f"{path} does not hold scores of this lab ({problem}); evaluate again.")
    return Scored(
        scores=from_logits(found["logits"]),
        targets=found["targets"].astype(np.int8),
        ids=tuple(found["ids"].tolist()),
        classes=tuple(found["classes"].tolist()),
        keys=None if keys is None else tuple(keys.tolist()),
    )


def _scores_problem(
    logits: np.ndarray, targets: np.ndarray, ids: np.ndarray, classes: np.ndarray, keys: np.ndarray | None = None
) -> str:
    """What is wrong with the arrays of a scores.npz, or nothing."""
    if logits.ndim != 2 or not logits.size or logits.dtype.kind != "f" or not np.isfinite(logits).all():
        return f"logits of shape {logits.shape} must be finite numbers of images and classes"
    if targets.shape != logits.shape or not np.isin(targets, (-1, 0, 1)).all():
        return f"targets of shape {targets.shape} must be 1, 0 and -1, one for each logit"
    for name, values, count in (("ids", ids, logits.shape[0]), ("classes", classes, logits.shape[1])):
        if values.dtype.kind != "U" or values.shape != (count,) or len(set(values.tolist())) != count:
            return f"{name} of shape {values.shape} must be {count} different names"
    if keys is not None and (keys.dtype.kind != "U" or keys.shape != ids.shape):
        return f"keys of shape {keys.shape} must be {len(ids)} names"
    return ""


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name. Objects, which could run code, are refused, and so is a file that would
    unpack to far more than its size."""
    try:
        with zipfile.ZipFile(path) as pack:
            unpacked = sum(member.file_size for member in pack.infolist())
        if unpacked > 100 * path.stat().st_size + 16e6:
            raise DataError(f"{path} would unpack to {unpacked / 1e6:,.0f} MB, which no scores do; evaluate again.")
        with np.load(path, allow_pickle=False) as stored:
            return {name: np.atleast_1d(stored[name]) for name in stored.files}
    except (CsraError, FileNotFoundError):
        raise
    except TORN as error:
        reason = str(error).split("\n")[0]
        raise DataError(f"{path} does not hold scores of this lab ({reason}); evaluate again.") from error


# What zipfile, its two packers and NumPy raise for files that are not whole.
TORN = (
    OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, MemoryError, struct.error,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
