"""A saved classifier: its folder, here or from the hub, and its config.json, checked before anything is built."""

import json
import reprlib
from pathlib import Path

from huggingface_hub import snapshot_download

from csra_lab._io.validation import is_name
from csra_lab.errors import ConfigError, DataError, MissingFile
from csra_lab.weights.sources import hub_access


def saved_folder(source: str | Path, **options) -> Path:
    """The folder of a saved classifier: `source` itself, or what the hub has under that name.

    Args:
        options: for the hub only, those of `huggingface_hub.snapshot_download`.

    Raises:
        CsraError: no such folder or name, no connection, or options for a folder that is here.
    """
    folder = Path(source)
    if not folder.exists():
        if str(source).count("/") != 1 or str(source).startswith((".", "/", "~", "runs/")):
            raise MissingFile(f"there is no model folder {source}; check the path.")
        with hub_access(f"the model {source}"):
            return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors"], **options))
    if options:
        raise ConfigError(f"{folder} is a folder here, for which {', '.join(options)} would do nothing; leave it out.")
    return folder


def read_config(path: Path) -> dict:
    """The constructor's arguments of a `MultiLabelClassifier`, as `save_pretrained` wrote them.

    Raises:
        CsraError: the file is absent, no JSON, or does not describe a classifier.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFile(
            f"{path.parent} holds no {path.name}, so it is not a saved classifier; give a folder that has one."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); save the model again.") from error
    problem = _config_problem(config)
    if problem:
        raise DataError(f"{path} does not describe a classifier of this lab: {problem}.")
    return config


def _config_problem(config) -> str:
    """What is wrong with the content of a config.json, or nothing."""
    wanted = {"backbone", "classes", "head", "image_size", "mean", "std"}
    if not isinstance(config, dict) or set(config) != wanted:
        return f"it needs the keys {', '.join(sorted(wanted))}, and no others"
    classes, head, size = config["classes"], config["head"], config["image_size"]
    if isinstance(size, bool) or not isinstance(size, int):
        return f"image_size must be a whole number, not {size!r}"
    if not isinstance(config["backbone"], str):
        return f"backbone must be a name, not {config['backbone']!r}"
    if not isinstance(classes, list) or not all(map(is_name, classes)):
        return f"classes must be a list of names without control characters, not {reprlib.repr(classes)}"
    if not isinstance(head, dict) or not isinstance(head.get("kind"), str):
        return f"head must name its kind, and is {head!r}"
    for key in ("mean", "std"):
        values = config[key]
        if not isinstance(values, list) or len(values) != 3 or not all(_is_number(v) for v in values):
            return f"{key} must be three numbers, not {reprlib.repr(values)}"
    if not all(v > 0 for v in config["std"]):
        return f"std must be above 0, not {config['std']}"
    return ""


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e38
