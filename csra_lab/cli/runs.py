"""`csra-lab runs`: what finished and unfinished runs gave, two of them side by side, and one as a page."""

import dataclasses
import json as json_format
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from csra_lab._io.atomic_write import atomic_write
from csra_lab.catalog import load_dataset
from csra_lab.cli import run_group
from csra_lab.cli.html import Page, curve, thumbnail
from csra_lab.cli.output import as_json, as_table, check_output
from csra_lab.datasets import MultiLabelDataset
from csra_lab.errors import CsraError, DataError, MissingFile
from csra_lab.heads import config_kind
from csra_lab.metrics import average_precision
from csra_lab.recipes import Recipe
from csra_lab.significance import bootstrap_mAP, image_interval
from csra_lab.training.run_folder import Scored, differences, is_finished, read_evaluation, read_history, read_recipe

MISSES = 24  # images of a report


def run_runs(arguments: list[str]) -> None:
    """`csra-lab runs list [DIR]`, `csra-lab runs compare A B`, `csra-lab runs report RUN`."""
    usages = ("list [DIR]", "compare A B", "report RUN [--against OTHER] [--data DIR] [--out FILE]")
    run_group("runs", RUN_COMMANDS, usages, arguments)


def list_command(folder: Annotated[Path, tyro.conf.Positional] = Path("runs"), json: bool = False) -> None:
    """Show the runs below a folder, the newest last.

    Args:
        folder: Where to look.
        json: Print one JSON array.
    """
    if not folder.is_dir():
        raise MissingFile(
            f"there is no folder {folder}; `csra-lab train` writes runs into runs/ unless --out says else."
        )
    rows = [_summary(path.parent, folder) for path in _by_age(folder)]
    if json:
        print(as_json(rows))
    elif not rows:
        print(f"no run lies below {folder}")
    else:
        shown = [[_text(value) for value in row.values()] for row in rows]
        print(
            as_table([["run", "data", "classifier", "head", "epochs", "val mAP", "test mAP", "state", "begun"], *shown])
        )


def compare_command(
    a: Annotated[Path, tyro.conf.Positional], b: Annotated[Path, tyro.conf.Positional], json: bool = False
) -> None:
    """Two runs side by side: what they were asked, what they scored, and the interval of the difference.

    Args:
        a: A run, or what `csra-lab evaluate --out` wrote, which has no recipe.
        b: Another one, of the same test images.
        json: Print one JSON object.
    """
    runs = all((run / "recipe.json").exists() for run in (a, b))
    scored = all((run / "metrics.json").exists() for run in (a, b))
    said = [(_asked(run) if runs else {}) | (_how_scored(run) if scored else {}) for run in (a, b)]
    asked = {name: {"a": there, "b": here} for name, there, here in differences(*said)}
    names = _names(a, b)
    first, second = _same_test(a, b)
    APs = [100 * average_precision(each.scores, each.targets) for each in (first, second)]
    difference = interval(first, second)
    if others := {_how_scored(run)["ap"] for run in (a, b) if scored} - {None, "average"}:
        print(f"csra-lab: mAP is of average precision here, not by {' and '.join(sorted(others))}.", file=sys.stderr)
    if json:
        classes = {c: {"a": x, "b": y} for c, x, y in zip(first.classes, *map(list, APs), strict=True)}
        print(as_json({"recipes": asked, "difference": difference, "AP": classes}))
        return
    if not runs:
        print("not both are runs, so only how they were measured and their scores are compared")
    if asked:
        print(as_table([("field", *names), *((n, str(v["a"]), str(v["b"])) for n, v in asked.items())]))
    else:
        print("the recipes are the same" if runs else "both were measured the same way")
    print()
    print(in_words(difference, *names))
    print()
    order = np.argsort(-np.abs(np.nan_to_num(APs[1] - APs[0])), kind="stable")
    rows = [(first.classes[c], *(_text(x[c]) for x in APs), _text(APs[1][c] - APs[0][c])) for c in order]
    print(as_table([("class, AP in %", *names, "difference"), *rows]))


def report_command(
    run: Annotated[Path, tyro.conf.Positional],
    against: Path | None = None,
    data: Path | None = None,
    out: Path | None = None,
) -> None:
    """Write one page about a run: its curves, its classes, and its worst misses.

    Args:
        run: The run.
        against: Another run of the same test images, for the interval of the difference.
        data: Folder of the data set, for the images of the misses; without it they are named by their ids.
        out: The page; report.html in the run's folder if left out.
    """
    out = run / "report.html" if out is None else out
    check_output(out, "--out", "report.html")
    recipe, scored = read_recipe(run), _read(run)
    images = _test_set(recipe, data, scored)
    with atomic_write(out) as fresh:
        page = Page(fresh, f"{recipe.name}: {run.resolve().name}")
        page.open()
        try:
            _write_summary(page, run, recipe, scored)
            if against is not None:
                names = _names(against, run)
                page.heading(f"Against {names[0]}")
                page.paragraph(in_words(interval(*_same_test(against, run)), *names))
            _write_classes(page, scored)
            _write_misses(page, scored, images)
        finally:
            page.close()
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def _names(a: Path, b: Path) -> tuple[str, str]:
    """What two runs are called: their folders' names, or the paths where these are the same."""
    short = a.resolve().name, b.resolve().name
    return short if short[0] != short[1] else (str(a), str(b))


def interval(a: Scored, b: Scored) -> dict[str, float]:
    """mAP of both in %, their difference and its 95 % interval for other test images: a paired bootstrap.

    Where persons share photographs, whole photographs are drawn. One run each says nothing of other seeds;
    `csra_lab.significance.compare` does, of several.
    """
    b = _in_order_of(a, b)
    scores = np.stack([a.scores, b.scores])  # (2, N, C)
    groups = a.groups or b.groups
    drawn = 100 * bootstrap_mAP(scores, a.targets, groups=groups, resamples=1000)  # (2, R)
    seen = [100 * float(np.nanmean(average_precision(each, a.targets))) for each in scores]
    units = len(a.ids) if groups is None else len(set(groups))
    low, high = image_interval(seen[1] - seen[0], drawn[1] - drawn[0], units=units)
    return {"a": seen[0], "b": seen[1], "difference": seen[1] - seen[0], "lower": low, "upper": high}


def in_words(found: dict[str, float], a: str, b: str) -> str:
    """The difference as a sentence that says what it does not cover."""
    sure = found["lower"] > 0 or found["upper"] < 0
    verdict = "not 0 for other test images" if sure else "it could be 0"
    return (
        f"mAP {found['a']:.2f} ({a}) and {found['b']:.2f} ({b}): a difference of {found['difference']:+.2f}, between "
        f"{found['lower']:+.2f} and {found['upper']:+.2f} with 95 % confidence over test images, so {verdict}. "
        "Other seeds of the training would move it further."
    )


def _asked(run: Path) -> dict:
    recipe = read_recipe(run).to_json()
    return {part: value for part, value in recipe.items() if part not in ("name", "why", "cost", "expected")}


def _how_scored(run: Path) -> dict:
    """How a run was scored, with what training does where it does not say."""
    found = {"difficult": "ignore"} | _metrics(run / "metrics.json")
    return {name: found.get(name) for name in ("split", "difficult", "four_lines", "threshold", "top_k", "ap")}


def _metrics(file: Path) -> dict:
    """A metrics.json; empty before the run is scored. A damaged file raises a CsraError."""
    if not file.exists():
        return {}
    try:
        found = dict(json_format.loads(file.read_text(encoding="utf-8")))
        return found | {"mAP": float(found["mAP"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged; `csra-lab evaluate {file.parent} --out FOLDER` measures again.") from error


def _read(run: Path) -> Scored:
    """The scores of a run, with unknown labels counted as absent where they were when it was measured."""
    scored = read_evaluation(run)
    if _how_scored(run)["difficult"] == "negative":
        return dataclasses.replace(scored, targets=np.maximum(scored.targets, 0))
    return scored


def _same_test(a: Path, b: Path) -> tuple[Scored, Scored]:
    first, second = _read(a), _read(b)
    for what, x, y in (("classes", first.classes, second.classes), ("test images", first.ids, second.ids)):
        if set(x) != set(y) or (what == "classes" and x != y):
            raise CsraError(f"{a} and {b} have different {what}, so their scores cannot be compared image by image.")
    if (_in_order_of(first, second).targets != first.targets).any():
        raise CsraError(
            f"{a} and {b} were measured against different labels, or with unknown ones counted otherwise; evaluate "
            "both again with --out and one --difficult."
        )
    return first, second


def _in_order_of(first: Scored, second: Scored) -> Scored:
    """The second, its images in the order of the first, which has the same ones."""
    place = {image: row for row, image in enumerate(second.ids)}
    rows = [place[image] for image in first.ids]
    keys = None if second.keys is None else tuple(second.keys[row] for row in rows)
    return dataclasses.replace(
        second, ids=first.ids, scores=second.scores[rows], targets=second.targets[rows], keys=keys
    )


def _by_age(folder: Path) -> list[Path]:
    """The records of runs, at most three folders down, the newest last."""
    found = [path for depth in range(4) for path in folder.glob("*/" * depth + "recipe.json")]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def _summary(run: Path, below: Path) -> dict:
    name = str(run.relative_to(below))
    try:
        recipe, history, test = read_recipe(run), read_history(run), _metrics(run / "metrics.json")
    except CsraError as error:
        fields = ("run", "data", "classifier", "head", "epochs", "val", "test", "state", "begun")  # in this order
        return dict.fromkeys(fields) | {"run": name, "state": f"unreadable: {error}"}
    validation = [row["validation_mAP"] for row in history if row["validation_mAP"] is not None]
    return {
        "run": name,
        "data": recipe.data.dataset,
        "classifier": f"{recipe.model.backbone} {recipe.model.image_size} px",
        "head": config_kind(recipe.head),
        "epochs": f"{len(history)}/{recipe.optimisation.epochs}",
        "val": 100 * max(validation) if validation else None,
        "test": 100 * test["mAP"] if test else None,
        "state": "finished" if is_finished(run) else "under way",
        "begun": datetime.fromtimestamp((run / "recipe.json").stat().st_mtime).isoformat(" ", "minutes"),
    }


def _text(value: object) -> str:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.2f}"
    return "" if value is None else str(value)


def _test_set(recipe: Recipe, data: Path | None, scored: Scored) -> MultiLabelDataset | None:
    """The test images, where their folder is named; CsraError if the scored ones are not among them."""
    if data is None:
        return None
    source = recipe.data
    found = load_dataset(source.dataset, data, source.test_split, absent=source.absent, unknown=source.unknown)
    there = set(found.ids)
    absent = next((image for image in scored.ids if image not in there), None)
    if absent is not None:
        raise CsraError(
            f"{found.name} {found.split} in {data} has no image {absent}; give the folder of this run's data."
        )
    return found


def _write_summary(page: Page, run: Path, recipe: Recipe, scored: Scored) -> None:
    positive = (scored.targets == 1).sum()
    mAP = 100 * float(np.nanmean(average_precision(scored.scores, scored.targets)))
    page.paragraph(
        f"{recipe.model.backbone} at {recipe.model.image_size} pixels, head {config_kind(recipe.head)}, on "
        f"{recipe.data.dataset}: mAP {mAP:.2f} % on {len(scored.ids):,} test images with {positive:,} labels."
    )
    page.heading("Curves")
    history = read_history(run)
    for name, title in (("train_loss", "training loss"), ("validation_mAP", "validation mAP")):
        values = [float("nan") if (value := row[name]) is None else value for row in history]
        page.write(curve(values, title=title))


def _write_classes(page: Page, scored: Scored) -> None:
    page.heading("Classes")
    APs = 100 * average_precision(scored.scores, scored.targets)
    known, positive = scored.targets != -1, scored.targets == 1
    share = 100 * positive.sum(0) / np.maximum(known.sum(0), 1)
    named = scored.scores >= 0.5
    correct = (named & positive).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = 100 * correct / (named & known).sum(0), 100 * correct / positive.sum(0)
    rows = [
        (scored.classes[c], APs[c], share[c], precision[c], recall[c], str(int(positive[:, c].sum())))
        for c in np.argsort(APs, kind="stable")
    ]
    head = ("class", "AP, %", "AP of guessing, %", "precision at 0.5, %", "recall at 0.5, %", "test images with it")
    page.table(head, rows)


def _write_misses(page: Page, scored: Scored, images: MultiLabelDataset | None) -> None:
    """The surest wrong labels, and the present labels with the lowest probability."""
    rows = {} if images is None else {image: row for row, image in enumerate(images.ids)}
    for title, wrong in (("Named and absent", 0), ("Present and missed", 1)):
        page.heading(title)
        page.write('<div class="sheet">')
        for i, c in worst(scored, wrong):
            picture = "" if images is None else thumbnail(images.image(rows[scored.ids[i]]))
            page.figure(picture, scored.ids[i], {scored.classes[c]: scored.scores[i, c]})
        page.write("</div>")


def worst(scored: Scored, target: int) -> Iterator[tuple[int, int]]:
    """(image, class) of the entries with this target whose probability is furthest from it, the worst first."""
    error = np.where(scored.targets == target, np.abs(scored.scores - target), -1).ravel()
    for place in np.argsort(-error, kind="stable")[:MISSES]:
        if error[place] > 0.5:
            i, c = divmod(int(place), scored.targets.shape[1])
            yield i, c


RUN_COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_command,
    "compare": compare_command,
    "report": report_command,
}
