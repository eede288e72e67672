"""The command `csra-lab`: train | evaluate | predict | models | data.

Every error of the reader's is one sentence on standard error and exit code 2.
"""

import dataclasses
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from csra_lab.atomic import written_whole
from csra_lab.classifier import MultiLabelClassifier
from csra_lab.cost import model_cost
from csra_lab.datasets import DRAWN, load_dataset, open_image, write_voc_predictions
from csra_lab.errors import LabError
from csra_lab.evaluation import check_classes, evaluate, find_images, predict_image
from csra_lab.metrics import MultilabelMetrics
from csra_lab.recipes import PAPER_BACKBONES, RECIPES, Recipe, get_recipe
from csra_lab.runs import read_recipe, save_evaluation

HELP = """usage: csra-lab COMMAND ...

  train RECIPE      train a classifier and measure it on the test split
  evaluate RUN      measure a trained classifier on a split
  predict [RUN] IMAGE ... name what is in photographs; with --attention, show where
  four-lines MODEL FOLDER ...   lambda on an ImageNet classifier, with no training
  ablate PLAN       train many heads on kept features, and say which differences are real
  models            parameters and multiply-adds of the published models
  data download NAME      fetch a data set
  data prepare NAME       draw an embedded data set: emoji-voc, paperdoll-wider
  data check FOLDER       look for what spoils training on pictures of your own

csra-lab COMMAND --help tells more."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the process ends with 0, with 2 after bad input, or with 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = {
        "train": _train_command,
        "evaluate": lambda rest: tyro.cli(evaluate_command, args=rest, prog="csra-lab evaluate"),
        "predict": lambda rest: tyro.cli(predict_command, args=rest, prog="csra-lab predict"),
        "four-lines": lambda rest: tyro.cli(four_lines_command, args=rest, prog="csra-lab four-lines"),
        "models": lambda rest: tyro.cli(models_command, args=rest, prog="csra-lab models"),
        "data": _data_command,
        "ablate": _ablate_command,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        sys.exit(0 if arguments else 2)
    try:
        if arguments[0] not in commands:
            raise LabError(f"there is no command {arguments[0]!r}; the commands are {', '.join(commands)}.")
        commands[arguments[0]](arguments[1:])
    except LabError as error:
        _fail(str(error))
    except torch.OutOfMemoryError:
        _fail("the GPU's memory is full; lower --batch-size, or raise --accumulate.")
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        sys.stdout = None
        sys.exit(0)
    except OSError as error:
        _fail(f"{error.filename or 'a file'} could not be read or written ({error.strerror or error}).")
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last whole epoch.", file=sys.stderr)
        sys.exit(130)


def _fail(sentence: str) -> None:
    print(f"csra-lab: {sentence}", file=sys.stderr)
    sys.exit(2)


# --- train ------------------------------------------------------------------------------------------------------------


def _train_command(arguments: list[str]) -> None:
    """`csra-lab train RECIPE [--data DIR] [--out DIR] [--FIELD VALUE ...]`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: csra-lab train RECIPE --data DIR [--out DIR] [--FIELD VALUE ...]\n")
        print("csra-lab train RECIPE --help lists the fields that can be overridden. Recipes:\n")
        print(_recipe_table())
        sys.exit(0 if arguments else 2)
    recipe = get_recipe(arguments[0])

    def command(
        recipe: Annotated[Recipe, tyro.conf.arg(name="")] = recipe,
        data: Path | None = None,
        out: Path = Path("runs") / recipe.name,
        quiet: bool = False,
    ) -> None:
        """Train a classifier, choose its best epoch on held-out training pictures, and measure it on the test split.

        Args:
            data: Folder of the data set.
            out: Folder of the run; the same command goes on with an unfinished run there.
            quiet: Show no progress.
        """
        train_command(recipe, data=data, out=out, quiet=quiet)

    tyro.cli(command, args=arguments[1:], prog=f"csra-lab train {recipe.name}")


def train_command(recipe: Recipe, *, data: Path | None, out: Path, quiet: bool) -> None:
    """Train a recipe and print what came out."""
    from csra_lab.training import train  # accelerate takes seconds to import, and no other command needs it

    classes = recipe.classes or None
    train_set = load_dataset(recipe.dataset, data, recipe.train_split, classes=classes)
    test_set = load_dataset(recipe.dataset, data, recipe.test_split, classes=classes)
    labelled = test_set if (test_set.targets >= 0).any() else None
    result = train(recipe, train_set, labelled, out, progress=not quiet)
    if int(os.environ.get("RANK", 0)):
        return
    if result.metrics is not None:
        print(_metrics_table(result.metrics, f"{test_set.name} {test_set.split}, {len(test_set)} images"))
    print(f"model: {out / 'model'}")


def _recipe_table() -> str:
    rows = [("recipe", "classifier", "data", "cost", "expected")]
    for recipe in RECIPES.values():
        head = f"{recipe.backbone} {recipe.image_size} px, {recipe.head}"
        rows.append((recipe.name, head, recipe.dataset, recipe.cost, recipe.expected))
    return _table(rows)


# --- evaluate ---------------------------------------------------------------------------------------------------------


def evaluate_command(
    run: Annotated[Path, tyro.conf.Positional],
    data: Path | None = None,
    split: str = "test",
    dataset: str | None = None,
    four_lines: float | None = None,
    ap: Literal["average", "voc11", "envelope"] = "average",
    threshold: float = 0.5,
    top_k: int | None = None,
    difficult: Literal["ignore", "negative"] = "ignore",
    server_format: Path | None = None,
    out: Path | None = None,
    batch_size: int = 32,
    json: bool = False,
) -> None:
    """Measure a trained classifier on a split.

    Args:
        run: Folder of a run, or of a saved model.
        data: Folder of the data set.
        split: Which split.
        dataset: Name of the data set; the run's own if left out.
        four_lines: Add this lambda times the largest score to an average-pooling model: the four lines, no training.
        ap: Definition of average precision.
        threshold: Probability from which a label counts as predicted.
        top_k: Predict the k highest labels of each image instead.
        difficult: What unknown targets do: left out, or counted as absent.
        server_format: Also write the scores into this folder, as the VOC evaluation server wants them.
        out: Also write metrics.json and scores.npz into this folder, as a run has them.
        batch_size: Images at a time.
        json: Print one JSON object.
    """
    model = _load_model(run)
    if four_lines is not None:
        model = model.with_four_lines(four_lines)
    name = dataset or (read_recipe(run).dataset if (run / "recipe.json").exists() else None)
    if name is None:
        raise LabError(f"{run} does not say which data set it was trained on; name it with --dataset.")
    data_set = load_dataset(name, data, split)
    known = [c for c in model.classes if c in data_set.classes]
    data_set = data_set.select_classes(known) if known and known != list(data_set.classes) else data_set
    check_classes(model, data_set)
    options = {"ap": ap, "threshold": threshold, "top_k": top_k, "difficult": difficult}
    device = _device()
    scoring = {"device": device, "batch_size": batch_size, "progress": not json}
    if device == "cuda":
        scoring["workers"] = min(8, os.cpu_count() or 1)
    metrics, scores = evaluate(model.to(device), data_set, **options, **scoring)
    if server_format is not None:
        write_voc_predictions(server_format, data_set, scores)
    if out is not None:
        save_evaluation(out, data_set, metrics, scores)
    if json:
        print(_json({"dataset": data_set.name, "split": split, "difficult": difficult, **metrics.to_dict()}))
    else:
        print(_metrics_table(metrics, f"{data_set.name} {split}, {len(data_set)} images"))


# --- predict ----------------------------------------------------------------------------------------------------------


def predict_command(
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional],
    threshold: float = 0.5,
    attention: Path | None = None,
    json: bool = False,
) -> None:
    """Name what is in photographs.

    Args:
        paths: A run, a saved model or one that comes with the lab (photographs, paperdoll), then photographs or
            folders of them. Without a model, the photographs model.
        threshold: Probability from which a label is named.
        attention: Write one picture for each label found into this folder: where the classifier looked.
        json: Print one JSON array, with the probabilities of all classes.
    """
    run, images = (paths[0], paths[1:]) if paths and _is_model(paths[0]) else (MODELS / "photographs", paths)
    if not images:
        raise LabError("name one or more photographs or folders.")
    if not 0 <= threshold <= 1:
        raise LabError(f"--threshold is a probability from 0 to 1, not {threshold}.")
    find_images(images)  # a wrong path is said before a model is loaded
    model = _load_model(run).to(_device())
    results, stems, failed = [], set(), False
    for path in find_images(images):
        try:
            picture = open_image(path)
        except LabError as error:  # the rest of the folder is still worth reading
            print(f"csra-lab: {error}", file=sys.stderr)
            failed = True
            continue
        probabilities, maps = predict_image(model, picture)
        found = [int(i) for i in probabilities.argsort()[::-1] if probabilities[i] >= threshold]
        labels = [{"class": model.classes[i], "probability": round(float(probabilities[i]), 4)} for i in found]
        if json:
            everything = {c: round(float(p), 6) for c, p in zip(model.classes, probabilities, strict=True)}
            results.append({"path": str(path), "labels": labels, "probabilities": everything})
        else:
            print(f"{path}: " + (", ".join(f"{x['class']} {x['probability']:.2f}" for x in labels) or "nothing found"))
        if attention is not None:
            stem = _free_stem(path.stem, stems)
            for i, label in zip(found, labels, strict=True):
                title = f"{label['class']} {label['probability']:.2f}"
                _write_overlay(attention, f"{stem}_{label['class']}", picture, maps[i], title)
    if json:
        print(_json(results))
    if failed:
        sys.exit(2)


def _free_stem(stem: str, taken: set[str]) -> str:
    """Photographs of one name in two folders get overlays of two names."""
    free = next(name for n in itertools.count(1) if (name := stem if n == 1 else f"{stem}-{n}") not in taken)
    taken.add(free)
    return free


def _write_overlay(folder: Path, name: str, picture, heat, title: str) -> None:
    from csra_lab.plots import overlay  # matplotlib is slow to import

    safe = re.sub(r"[^\w.-]+", "_", name)  # class names may hold spaces or slashes
    with written_whole(folder / f"{safe}.png") as fresh:
        overlay(picture, heat, title=title).save(fresh)


# --- four-lines -------------------------------------------------------------------------------------------------------


def four_lines_command(
    model: Annotated[str, tyro.conf.Positional],
    folder: Annotated[Path, tyro.conf.Positional],
    lambdas: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
    image_size: int | None = None,
    weights: str | None = None,
    dataset: str | None = None,
    split: str = "test",
    min_positives: int = 1,
    limit: int | None = None,
    batch_size: int = 32,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """The four lines on an ImageNet classifier, no training: top-1 accuracy, or mAP on VOC's classes, against lambda.

    Args:
        model: timm's name of the classifier.
        folder: One sub-folder a class, named by WordNet id, index or name; with --dataset the folder of that data set.
        lambdas: Weights of the maximum; 0, to which the others are compared, is always among them.
        image_size: Side of the input in pixels; the network's own if left out.
        weights: installed, hub, or a weight file; the first that there is if left out.
        dataset: A multi-label set with VOC's classes, such as voc2012; ImageNet's classes are then pooled into VOC's.
        split: Which split of it.
        min_positives: Leave out VOC classes with fewer positive images.
        limit: Measure on at most so many pictures, evenly spread.
        batch_size: Images at a time.
        out: Add the result to this JSON file of recorded runs.
        json: Print one JSON object.
    """
    from csra_lab.four_lines import result_table, run_four_lines

    device = _device()
    scoring = {"device": device, "batch_size": batch_size, "progress": not json}
    if device == "cuda":
        scoring["workers"] = min(8, os.cpu_count() or 1)
    options = {"lambdas": lambdas, "image_size": image_size, "weights": weights, "dataset": dataset, "split": split}
    options |= {"min_positives": min_positives, "limit": limit, "out": out}
    record = run_four_lines(model, folder, **options, **scoring)
    if json:
        print(_json(record))
        return
    what = f"{record['classes']} classes of 1000" if dataset is None else f"{len(record['classes'])} classes"
    print(f"{model} at {record['image_size']} px, {record['images']} images, {what} (in %)\n")
    print(_table(result_table(record)))
    print(f"\n{record['note']}")


# --- ablate -----------------------------------------------------------------------------------------------------------


def _ablate_command(arguments: list[str]) -> None:
    """`csra-lab ablate PLAN [...]`, with the plans listed by --help."""
    from csra_lab.plans import PLANS

    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: csra-lab ablate PLAN ... [--data DIR] [--out DIR] [--sources NAME ...] [--seeds N]\n")
        print("PLAN is all, a JSON file, or one or more of\n")
        print(_table([(p.name, ", ".join(p.sources[:3]) + (" ..." * (len(p.sources) > 3)), p.question)
                      for p in PLANS.values()]))  # fmt: skip
        sys.exit(0 if arguments else 2)
    tyro.cli(ablate_command, args=arguments, prog="csra-lab ablate")


def ablate_command(
    plans: Annotated[tuple[str, ...], tyro.conf.Positional],
    data: Path | None = None,
    out: Path = Path("runs/experiments"),
    sources: tuple[str, ...] | None = None,
    seeds: int | None = None,
    quiet: bool = False,
) -> None:
    """Train the heads of one or more plans on kept features, compare them, and record everything.

    Args:
        plans: Names of plans, JSON files, or all.
        data: Folder of the photographs, for the sources that need them.
        out: Folder of the records.
        sources: Only these sources.
        seeds: Runs of each row, instead of the plan's own number.
        quiet: Show no progress.
    """
    from csra_lab.experiments import run_plans
    from csra_lab.plans import PLANS, SOURCES, get_plan

    chosen = list(PLANS.values()) if plans == ("all",) else [get_plan(name) for name in plans]
    for name in sources or ():
        if name not in SOURCES:
            raise LabError(f"there is no source {name!r}; there are {', '.join(SOURCES)}.")
    if seeds is not None:
        if seeds < 1:
            raise LabError(f"--seeds is at least 1, not {seeds}.")
        chosen = [dataclasses.replace(plan, seeds=seeds) for plan in chosen]
    if not any(sources is None or set(sources) & set(plan.sources) for plan in chosen):
        raise LabError(f"no plan named here has a source {', '.join(sources)}.")
    run_plans(chosen, sources=sources, data=data, out=out, progress=not quiet)


# --- models, data -----------------------------------------------------------------------------------------------------


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
                cost = model_cost(backbone, num_classes=20, image_size=size, head="csra", heads=heads)
                rows.append({"backbone": backbone, "image_size": size, "heads": heads, **dataclasses.asdict(cost)})
    if json:
        print(_json(rows))
        return
    table = [("backbone", "pixels", "heads", "parameters", "multiply-adds", "of these the head")]
    for row in rows:
        share = 100 * row["head_multiply_adds"] / row["multiply_adds"]
        sizes = (f"{row['parameters'] / 1e6:.2f} M", f"{row['multiply_adds'] / 1e9:.2f} G", f"{share:.2f} %")
        table.append((row["backbone"], str(row["image_size"]), str(row["heads"]), *sizes))
    print(_table(table))


def _data_command(arguments: list[str]) -> None:
    """`csra-lab data download NAME --root DIR`, `data prepare NAME` and `data check FOLDER`."""
    commands = {"download": download_command, "prepare": prepare_command, "check": check_command}
    if not arguments or arguments[0] in ("-h", "--help"):
        usages = ("download NAME --root DIR", "prepare NAME [--root DIR]", "check FOLDER")
        print("usage: " + "\n       ".join(f"csra-lab data {usage}" for usage in usages))
        sys.exit(0 if arguments else 2)
    if arguments[0] not in commands:
        raise LabError(f"there is no command 'data {arguments[0]}'; there are {', '.join(commands)}.")
    tyro.cli(commands[arguments[0]], args=arguments[1:], prog=f"csra-lab data {arguments[0]}")


def prepare_command(name: Annotated[str, tyro.conf.Positional], root: Path | None = None, quiet: bool = False) -> None:
    """Draw an embedded data set, once.

    Args:
        name: emoji-voc or paperdoll-wider.
        root: Folder to put it into; the cache if left out, where every command finds it.
        quiet: Show no progress.
    """
    if name not in DRAWN:
        raise LabError(f"{name!r} is not a data set that this lab draws; there are {', '.join(DRAWN)}.")
    print(f"{name} is in {DRAWN[name](root, progress=not quiet)}")


def check_command(folder: Annotated[Path, tyro.conf.Positional], json: bool = False) -> None:
    """Look for what spoils training on pictures of your own. Exits with 2 if there is an error.

    Args:
        folder: Folder with CSV files, or in VOC's layout.
        json: Print one JSON array.
    """
    from csra_lab.datasets.check import check_folder

    if not folder.is_dir():
        raise LabError(f"there is no folder {folder}; check the path.")
    findings = check_folder(folder, progress=not json)
    if json:
        print(_json([dataclasses.asdict(finding) for finding in findings]))
    else:
        print("\n".join(f"{finding.level + ':':9}{finding.message}" for finding in findings))
    if any(finding.level == "error" for finding in findings):
        sys.exit(2)


def download_command(name: Annotated[str, tyro.conf.Positional], root: Path, quiet: bool = False) -> None:
    """Fetch a data set (resumed where a download stopped, checked, and unpacked), or say how to get it.

    Args:
        name: Name of the data set.
        root: Folder to put it into.
        quiet: Show no progress.
    """
    from csra_lab.datasets.download import download

    print(f"{name} is in {download(name, root, progress=not quiet)}")


# --- shared -----------------------------------------------------------------------------------------------------------


MODELS = Path(__file__).resolve().parents[1] / "data" / "models"  # heads that come with the lab


def _is_model(path: Path) -> bool:
    return any((path / name).exists() for name in ("recipe.json", "config.json")) or _ships(path)


def _ships(path: Path) -> bool:
    """Whether this is the name of a model that comes with the lab, and of nothing that lies here."""
    return not path.exists() and len(path.parts) == 1 and (MODELS / path / "config.json").exists()


def _load_model(run: Path) -> MultiLabelClassifier:
    run = MODELS / run if _ships(run) else run
    folder = run / "model"
    if (run / "recipe.json").exists() and not folder.exists():
        raise LabError(f"{run} has no trained model yet; run `csra-lab train` on it until an epoch is done.")
    return MultiLabelClassifier.from_pretrained(folder if folder.exists() else run)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _metrics_table(metrics: MultilabelMetrics, title: str) -> str:
    names = ("mAP", "CP", "CR", "CF1", "CF1_macro", "OP", "OR", "OF1")
    lines = [f"{title} (in %)", _table([names, tuple(f"{100 * getattr(metrics, n):.2f}" for n in names)])]
    if metrics.classes:
        pairs = zip(metrics.classes, metrics.per_class_AP, strict=True)
        pairs = [(c, "no positive" if math.isnan(ap) else f"{100 * ap:.1f}") for c, ap in pairs]
        lines.append(_table([("class", "AP"), *pairs]))
    return "\n\n".join(lines)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _json(value) -> str:
    return json.dumps(value, indent=2)


if __name__ == "__main__":
    main()
