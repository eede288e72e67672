"""`csra-lab train` and `csra-lab evaluate`: a classifier from a recipe, and its metrics on a split."""

import copy
import dataclasses
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from csra_lab._io.atomic_write import check_folder
from csra_lab._io.notice import CsraWarning, warn
from csra_lab.catalog import load_dataset
from csra_lab.classifier import MultiLabelClassifier
from csra_lab.cli.models import found_folder, scoring_options
from csra_lab.cli.output import as_json, as_table, metrics_table
from csra_lab.datasets import MultiLabelDataset, write_voc_predictions
from csra_lab.datasets.pair import match_classes, shared_items
from csra_lab.datasets.voc import check_voc_predictions
from csra_lab.errors import ConfigError, CsraError
from csra_lab.heads import PAPER_TEMPERATURES, CSRAConfig, HeadConfig, config_kind
from csra_lab.losses import Loss
from csra_lab.recipes import RECIPES, DataConfig, ModelConfig, OptimisationConfig, Recipe, RunConfig, get_recipe
from csra_lab.training.evaluation import evaluate, score
from csra_lab.training.run_folder import data_marks, is_trained_on, read_evaluation, read_recipe, save_evaluation

HELD_OUT = "held-out"
"""Instead of a split: the part of the training split that a run was not fitted to."""
Part = DataConfig | ModelConfig | OptimisationConfig | RunConfig


def run_train(arguments: list[str]) -> None:
    """`csra-lab train RECIPE [--data DIR] [--out DIR] [--head NAME] [--loss NAME] [--FIELD VALUE ...]`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: csra-lab train RECIPE --data DIR [--out DIR] [--head NAME] [--loss NAME] [--FIELD VALUE ...]\n")
        print("csra-lab train RECIPE --help lists the fields that can be overridden.")
        print("csra-lab train --list WORD ... lists the recipes that have all these words in their line. Recipes:\n")
        print(_recipe_table())
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--list":
        print(_recipe_table(arguments[1:]))
        return
    recipe, data, options = read_options(arguments)
    train_set, test_set = _splits(recipe.data, data)
    from csra_lab.training.loop import train  # it takes seconds to import, and bad input has been told by now

    labelled = test_set if (test_set.targets >= 0).any() else None
    if labelled is None:
        warn(f"{test_set.name} {test_set.split} has no labels, so the run ends without a test score.")
    result = train(recipe, train_set, labelled, **options)
    if not int(os.environ.get("RANK", 0)):
        if result.metrics is not None:
            print(metrics_table(result.metrics, f"{test_set.name} {test_set.split}, {len(test_set)} images"))
        print(f"model: {result.folder / 'model'}")


def read_options(arguments: list[str]) -> tuple[Recipe, Path | None, dict]:
    """The recipe that a command line means, the folder of its data, and the keyword arguments of `train`."""
    recipe, rest = get_recipe(arguments[0]), arguments[1:]
    head, rest = _taken(rest, "--head")
    loss, rest = _taken(rest, "--loss")
    start = recipe.replace(**({"head": head} if head else {}), **({"loss": loss} if loss else {}))
    named, inline = _named(start.head), tyro.conf.arg(name="")

    def command(
        data_: Annotated[DataConfig, inline] = start.data,
        model: Annotated[ModelConfig, inline] = start.model,
        head: HeadConfig = named,
        optimisation: Annotated[OptimisationConfig, inline] = start.optimisation,
        run: Annotated[RunConfig, inline] = start.run,
        loss: Loss = start.loss,
        data: Path | None = None,
        out: Path = Path("runs") / recipe.name,
        quiet: bool = False,
        tensorboard: bool = False,
    ) -> tuple[Recipe, Path | None, dict]:
        """Train a classifier, choose its best epoch on held-out training images, and measure it on the test split.

        --head NAME (csra, average, max, class-queries, ...) and --loss NAME (bce, asl, focal, ...) choose others;
        their own options then take the place of those below.

        Args:
            data: Folder of the data set.
            out: Folder of the run; the same command goes on with an unfinished run there.
            quiet: Show no progress.
            tensorboard: Also write the history for TensorBoard, into the run's folder.
        """
        parts: list[tuple[Part, Part]] = [
            (start.data, data_), (start.model, model), (start.optimisation, optimisation), (start.run, run)
        ]  # fmt: skip
        changes = {}
        for before, after in parts:
            for field in dataclasses.fields(before):
                if getattr(before, field.name) != getattr(after, field.name):
                    changes[field.name] = getattr(after, field.name)
        options = {"out": out, "progress": not quiet, "tensorboard": tensorboard}
        return start.replace(head=head, loss=loss, **changes), data, options

    # tyro offers the options of the head and the loss at hand, which no annotation above can name
    command.__annotations__ |= {"head": Annotated[type(start.head), inline], "loss": type(start.loss)}
    return tyro.cli(command, args=rest, prog=f"csra-lab train {recipe.name}")


def _splits(source: DataConfig, folder: Path | None) -> tuple[MultiLabelDataset, MultiLabelDataset]:
    """The training and the test split that a recipe names."""
    return _load_split(source, folder, source.train_split), _load_split(source, folder, source.test_split)


def _load_split(source: DataConfig, folder: Path | None, name: str) -> MultiLabelDataset:
    classes = source.classes or None
    return load_dataset(source.dataset, folder, name, classes=classes, absent=source.absent, unknown=source.unknown)


def _named(head: HeadConfig) -> HeadConfig:
    """A head without the temperatures that its number of heads implies, so that --num-heads 4 alone is enough."""
    head = copy.copy(head)
    if isinstance(head, CSRAConfig) and head.temperatures == PAPER_TEMPERATURES.get(head.num_heads):
        object.__setattr__(head, "temperatures", ())  # the config, made anew with what is named, fills them in
    return head


def _taken(arguments: list[str], flag: str) -> tuple[str, list[str]]:
    """The value of a flag, "" where it is not given, and the other arguments."""
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            return arguments[i + 1], arguments[:i] + arguments[i + 2 :]
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}="), arguments[:i] + arguments[i + 1 :]
    return "", arguments


def _recipe_table(words: Sequence[str] = ()) -> str:
    """All recipes, or those whose line holds all the words, whatever their case."""
    rows = [("recipe", "classifier", "data", "cost", "expected")]
    for recipe in RECIPES.values():
        head = f"{recipe.model.backbone} {recipe.model.image_size} px, {config_kind(recipe.head)}"
        row = (recipe.name, head, recipe.data.dataset, recipe.cost, recipe.expected)
        if all(word.lower() in " ".join(row).lower() for word in words):
            rows.append(row)
    if len(rows) == 1:
        raise ConfigError(f"no recipe has {' and '.join(words)} in its line; `csra-lab train --help` lists all.")
    return as_table(rows)


def evaluate_command(
    run: Annotated[Path, tyro.conf.Positional],
    data: Path | None = None,
    split: str = "test",
    dataset: str | None = None,
    absent: str | None = None,
    unknown: str | None = None,
    four_lines: float | None = None,
    ap: Literal["average", "voc11", "envelope"] = "average",
    threshold: float | None = None,
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
        split: Which split. "held-out" is the part of its training split that the run was not fitted to, by which its
            best epoch was chosen: settings are chosen by it, and not by the test split.
        dataset: Name of the data set; the run's own if left out.
        absent: In folders, the labels that say absent, as -1 or 0,blank; without this and --unknown, as the run's.
        unknown: In folders, the labels that are not counted, as 0 or blank; without this and --absent, as the run's.
        four_lines: Add this lambda times the largest score to an average-pooling model: the four lines, no training.
        ap: Definition of average precision.
        threshold: Probability from which a label counts as predicted; 0.5 where --top-k is not given either.
        top_k: Predict the k highest labels of each image; with --threshold only those that reach it.
        difficult: What unknown targets do: left out, or counted as absent.
        server_format: Also write the scores into this folder, as the VOC evaluation server wants them; of a split
            without labels, only that.
        out: Also write metrics.json and scores.npz into this folder, as a run has them.
        batch_size: Images at a time.
        json: Print one JSON object.
    """
    for folder, option in ((out, "--out"), (server_format, "--server-format")):
        if folder is not None:
            check_folder(folder, option)
    model = MultiLabelClassifier.from_pretrained(found_folder(run))
    if four_lines is not None:
        model = model.with_four_lines(four_lines)
    recipe = read_recipe(run) if (run / "recipe.json").exists() else None
    trained = None if recipe is None else recipe.data
    name = dataset or (None if trained is None else trained.dataset)
    if name is None:
        raise ConfigError(f"{run} does not say which data set it was trained on; name it with --dataset.")
    if out is not None and (out / "recipe.json").exists():
        own_test = None if trained is None else (trained.dataset, trained.test_split, None)
        if out.resolve() != run.resolve() or (name, split, four_lines) != own_test:
            raise ConfigError(f"{out} holds a run and its test scores, which --out would replace; name another folder.")
    if split == HELD_OUT:
        if absent is not None or unknown is not None:
            raise ConfigError("the held-out part is read as in training; leave out --absent and --unknown.")
        found = _held_out(run, recipe, name, data)
    else:
        if trained is not None and name == trained.dataset and absent is None and unknown is None:
            absent, unknown = trained.absent, trained.unknown
        found = load_dataset(name, data, split, absent=absent, unknown=unknown)
    data_set = match_classes(model.classes, found)
    if out is not None and (out / "recipe.json").exists():
        usual = (ap, threshold, top_k, difficult) == ("average", None, None, "ignore")
        if not usual or not _are_its_test_items(out, data_set):
            raise ConfigError(
                f"{out} holds a run and other test scores, which --out would replace; name another folder."
            )
        if trained is not None and trained.train_split != split and is_trained_on(run, data_marks(data_set)):
            raise ConfigError(f"{run} was trained on these very images, so they are no test; name the data it had.")
    if trained is not None and split != HELD_OUT:
        _warn_of_trained_images(run, trained, data_set, data, of_its_set=name == trained.dataset)
    scoring = scoring_options(batch_size=batch_size, progress=not json)
    model.to(scoring["device"])
    if server_format is not None:
        check_voc_predictions(server_format, data_set)
        if not (data_set.targets >= 0).any():
            if out is not None or json:
                raise ConfigError(
                    f"{data_set.name} {split} has no labels to measure against; leave out --out and --json."
                )
            print(write_voc_predictions(server_format, data_set, score(model, data_set, **scoring)))
            return
    metrics, scores = evaluate(model, data_set, ap=ap, threshold=threshold, top_k=top_k, difficult=difficult, **scoring)
    measured = {"difficult": difficult, "four_lines": four_lines}
    if out is not None:
        save_evaluation(out, data_set, metrics, scores, **measured)
    if server_format is not None:
        write_voc_predictions(server_format, data_set, scores)
    if json:
        print(as_json({"dataset": data_set.name, "split": split, **measured, **metrics.to_dict()}))
    else:
        print(metrics_table(metrics, f"{data_set.name} {split}, {len(data_set)} images"))


def _are_its_test_items(run: Path, dataset: MultiLabelDataset) -> bool:
    """Whether a run's own test scores are of these images and labels; those that are not there or torn may be anew."""
    try:
        there = read_evaluation(run)
    except CsraError:
        return True
    return there.ids == dataset.ids and np.array_equal(there.targets, dataset.targets)


def _warn_of_trained_images(
    run: Path, source: DataConfig, measured: MultiLabelDataset, folder: Path | None, *, of_its_set: bool
) -> None:
    """Say so where a run is measured on images it was trained on. `of_its_set`: the folder holds their split too."""
    shared = len(measured) if is_trained_on(run, data_marks(measured)) else 0
    if not shared and of_its_set:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CsraWarning)  # these are of another split
                train_set = _load_split(source, folder, source.train_split)
            shared = len(shared_items(train_set, measured)) if is_trained_on(run, data_marks(train_set)) else 0
        except CsraError:  # it is not there
            return
    if shared:
        warn(
            f"{shared:,} of these {len(measured):,} images are in {source.train_split}, from which {run} took its "
            "training images: what is measured on them says little of others."
        )


def _held_out(run: Path, recipe: Recipe | None, name: str, folder: Path | None) -> MultiLabelDataset:
    """The part of its training split that a run was not fitted to."""
    if recipe is None:
        raise ConfigError(f"{run} does not say what it held out; give the folder of a run, which has a recipe.json.")
    if name != recipe.data.dataset or recipe.data.validation_fraction == 0:
        raise ConfigError(f"{run} held no part of {name} out; train with --validation-fraction, such as 0.2.")
    from csra_lab.training.data import split_off

    train_set = _load_split(recipe.data, folder, recipe.data.train_split)
    if not is_trained_on(run, data_marks(train_set)):
        raise ConfigError(
            f"{run} was trained on other images or labels than the {len(train_set)} of {name} {train_set.split} here, "
            "so it may have been fitted to what would be held out of them; name the same data."
        )
    began = Path(recipe.model.weights)
    earlier = next((p for p in (began, *began.parents[:2]) if began.exists() and (p / "recipe.json").is_file()), None)
    if earlier is not None and is_trained_on(earlier, data_marks(train_set)):
        warn(
            f"{run} began with the weights of {earlier}, which was trained on the same split: what {run.name} held out "
            "was perhaps not new to it."
        )
    parts = split_off(recipe, train_set)
    held_out = parts.train_set.subset(parts.held_out)
    held_out.split = HELD_OUT
    return held_out
