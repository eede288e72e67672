"""The models that commands work with: found, loaded, given a device; and the commands `models` and `export`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from csra_lab._io.atomic_write import check_file
from csra_lab._io.resources import asset
from csra_lab.classifier import MultiLabelClassifier
from csra_lab.cli.output import as_json, as_table
from csra_lab.cost import model_cost
from csra_lab.device import best_device, reading_threads
from csra_lab.errors import ConfigError, MissingFile
from csra_lab.export import example, export_onnx, save_program
from csra_lab.recipes import PAPER_BACKBONES
from csra_lab.thresholds import read_thresholds
from csra_lab.weights.saved import saved_folder

MODELS = asset("models")  # heads that come with the lab
DEFAULT_MODEL = "coco"  # what `predict` takes where no model is named
EXPORTS = {".onnx": export_onnx, ".pt2": save_program}


def is_model(path: Path) -> bool:
    """Whether a path is a run, a saved model, or the name of one that comes with the lab."""
    return any((path / name).exists() for name in ("recipe.json", "config.json")) or ships(path)


def ships(path: Path) -> bool:
    """Whether this is the name of a model that comes with the lab, and of nothing that lies here."""
    return not path.exists() and len(path.parts) == 1 and (MODELS / path / "config.json").exists()


def model_folder(run: Path) -> Path:
    """The folder that holds the classifier of a run, of a saved model, or of a name that comes with the lab."""
    run = MODELS / run if ships(run) else run
    folder = run / "model"
    if (run / "recipe.json").exists() and not folder.exists():
        raise MissingFile(f"{run} has no trained model yet; run `csra-lab train` on it until an epoch is done.")
    return folder if folder.exists() else run


def found_folder(run: Path) -> Path:
    """The folder of the classifier of a run, of a saved model, of a name that comes with the lab, or of the hub's.

    Raises:
        CsraError: no such run; one below a folder that is here, or below runs/, is not sought on a hub.
    """
    folder = model_folder(run)
    if not folder.exists() and (len(run.parts) != 2 or run.parts[0] == "runs" or run.parent.is_dir()):
        raise MissingFile(f"there is no run or model {run}; `csra-lab runs list` shows the runs below runs/.")
    return saved_folder(folder)


def scoring_options(*, batch_size: int, progress: bool) -> dict:
    """What `evaluate` is told about this machine; beside a GPU, other processes read the images."""
    device = best_device()
    workers = {"workers": reading_threads()} if device == "cuda" else {}
    return {"device": device, "batch_size": batch_size, "progress": progress, **workers}


def export_command(
    run: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    with_resize: bool = False,
) -> None:
    """Write a trained classifier for other runtimes: out.onnx for ONNX, out.pt2 for torch.export.

    Args:
        run: A run, a saved model, or one that comes with the lab (coco, photographs, paperdoll).
        out: The file to write; its ending says the format.
        with_resize: The file resizes and normalises too, and reads the bytes of images of any size.
    """
    if out.suffix not in EXPORTS:
        raise ConfigError(f"{out} must end in {' or '.join(EXPORTS)}, which says the format to write.")
    check_file(out, "csra-lab export RUN")
    folder = found_folder(run)
    model = MultiLabelClassifier.from_pretrained(folder)
    thresholds = read_thresholds(folder, model.classes)
    EXPORTS[out.suffix](model, out, with_resize=with_resize, thresholds=thresholds)
    size = model.image_size
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (model.mean, model.std))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
    if with_resize:
        print("pixels  (batch, 3, height, width) uint8, RGB, of any size: the file resizes and normalises")
    else:
        print(f"images  (batch, 3, {size}, {size}) float32, RGB from 0 to 1, minus {mean}, over {std},")
        print("        resized to that square as Pillow's BILINEAR does; bicubic or a crop moves the scores")
    print(f"logits  (batch, {len(model.classes)}); the probability of a class is the sigmoid of its logit")
    print(f"classes {', '.join(model.classes)}")
    if thresholds is not None:
        print(f"named   by `predict` from these probabilities on: {', '.join(f'{t:.2g}' for t in thresholds)}")
    if out.suffix == ".onnx":
        print("\n" + example(model, str(out), with_resize=with_resize))


def models_command(
    backbones: Annotated[tuple[str, ...], tyro.conf.Positional] = tuple(PAPER_BACKBONES.values()), json: bool = False
) -> None:
    """Parameters and multiply-adds of the published models with CSRA, counted for 20 classes and one image.

    Args:
        backbones: timm's names; the published ones if left out.
        json: Print one JSON array.
    """
    rows = []
    for backbone in backbones:
        for size in (224, 448):
            for heads in (1, 8):
                cost = model_cost(backbone, num_classes=20, image_size=size, head="csra", num_heads=heads)
                rows.append({"backbone": backbone, "image_size": size, "heads": heads, **dataclasses.asdict(cost)})
    if json:
        print(as_json(rows))
        return
    table = [("backbone", "pixels", "heads", "parameters", "multiply-adds", "of these the head")]
    for row in rows:
        share = 100 * row["head_multiply_adds"] / row["multiply_adds"]
        sizes = (f"{row['parameters'] / 1e6:.2f} M", f"{row['multiply_adds'] / 1e9:.2f} G", f"{share:.2f} %")
        table.append((row["backbone"], str(row["image_size"]), str(row["heads"]), *sizes))
    print(as_table(table))
