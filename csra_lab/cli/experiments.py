"""`csra-lab four-lines` and `csra-lab ablate`: what a change of the head does, measured."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from csra_lab.cli.models import scoring_options
from csra_lab.cli.output import as_json, as_table
from csra_lab.cli.studies import STUDIES, check_study, run_study
from csra_lab.errors import ConfigError


def four_lines_command(
    model: Annotated[str, tyro.conf.Positional],
    folder: Annotated[Path, tyro.conf.Positional],
    lambdas: tuple[float, ...] | None = None,
    image_size: int | None = None,
    weights: str = "installed",
    dataset: str | None = None,
    split: str | None = None,
    min_positives: int | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """The four lines on an ImageNet classifier, no training: top-1 accuracy, or mAP on VOC's classes, against lambda.

    Args:
        model: timm's name of the classifier.
        folder: One sub-folder a class, named by WordNet id, index or name; with --dataset the folder of that data set.
        lambdas: Weights of the maximum; 0, to which the others are compared, is always among them. Left out: 0, 0.02,
            0.05, 0.1, 0.2, 0.5, 1 and 2.
        image_size: Side of the input in pixels; the network's own if left out.
        weights: installed, hub, or a weight file.
        dataset: A multi-label set with VOC's classes, such as voc2012; ImageNet's classes are then pooled into VOC's.
        split: Which split of that set; test if left out.
        min_positives: Leave out VOC classes with fewer positive images in that split; 1 if left out.
        limit: Measure on at most so many images, evenly spread.
        batch_size: Images at a time.
        out: Add the result to this JSON file of recorded runs.
        json: Print one JSON object.
    """
    from csra_lab.study.four_lines import LAMBDAS, result_table, run_four_lines

    scoring = scoring_options(batch_size=batch_size, progress=not json)
    of_the_set = {"--split": split, "--min-positives": min_positives}
    given = [flag for flag, value in of_the_set.items() if value is not None]
    if given and dataset is None:
        flags = " and ".join(given)
        raise ConfigError(f"without --dataset, {flags} would do nothing: a folder of ImageNet classes has neither.")
    record = run_four_lines(
        model, folder, lambdas=LAMBDAS if lambdas is None else lambdas, image_size=image_size, weights=weights,
        dataset=dataset, split="test" if split is None else split,
        min_positives=1 if min_positives is None else min_positives, limit=limit, out=out, **scoring,
    )  # fmt: skip
    if json:
        print(as_json(record))
        return
    what = f"{record['classes']} classes of 1000" if dataset is None else f"{len(record['classes'])} classes"
    print(f"{model} at {record['image_size']} px, {record['images']} images, {what} (in %)\n")
    print(as_table(result_table(record)))
    print(f"\n{record['note']}")


def run_ablate(arguments: list[str]) -> None:
    """`csra-lab ablate PLAN [...]`, with the plans listed by --help."""
    from csra_lab.study.plans import PLANS

    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: csra-lab ablate PLAN ... [--data DIR] [--out DIR] [--sources NAME ...] [--seeds N]\n")
        print("PLAN is all (every plan of this list), a JSON file, or one or more of\n")
        rows = [(p.name, ", ".join(p.sources[:3]) + (" ..." * (len(p.sources) > 3)), p.question)
                for p in PLANS.values()]  # fmt: skip
        print(as_table(rows))
        print("\nor a study, which tunes every method first and goes on where it stopped (hours on a CPU)\n")
        print(as_table([(name, ", ".join(s.sources), s.question) for name, s in STUDIES.items()]))
        sys.exit(0 if arguments else 2)
    tyro.cli(ablate_command, args=arguments, prog="csra-lab ablate")


def ablate_command(
    plans: Annotated[tuple[str, ...], tyro.conf.Positional],
    data: Path | None = None,
    out: Path = Path("runs/experiments"),
    sources: tuple[str, ...] | None = None,
    seeds: int | None = None,
    weights: Path | None = None,
    quiet: bool = False,
) -> None:
    """Train the heads of one or more plans on cached features, compare them, and record everything.

    Args:
        plans: Names of plans or studies, JSON files, or all (all plans, no study).
        data: Folder of the photographs, for the sources that need them.
        out: Folder of the records.
        sources: Only these sources.
        seeds: Runs of each row, instead of the plan's own number.
        weights: Folder of ImageNet weight files that some studies name; left out, they are downloaded.
        quiet: Show no progress.
    """
    from csra_lab.study.experiments import run_plans
    from csra_lab.study.plans import PLANS, SOURCES, get_plan

    if not plans:
        raise ConfigError("name one or more plans; `csra-lab ablate --help` lists them.")
    if sources == ():
        raise ConfigError(f"--sources names none; there are {', '.join(SOURCES)}.")
    studies = [name for name in plans if name in STUDIES]
    plans = tuple(name for name in plans if name not in STUDIES)
    chosen = list(PLANS.values()) if plans == ("all",) else [get_plan(name) for name in plans]
    for name in sources or ():
        if name not in SOURCES:
            raise ConfigError(f"there is no source {name!r}; there are {', '.join(SOURCES)}.")
    if seeds is not None:
        if seeds < 1:
            raise ConfigError(f"--seeds is at least 1, not {seeds}.")
        chosen = [dataclasses.replace(plan, seeds=seeds) for plan in chosen]
    for plan in chosen:
        if plan.seeds < 2 and any(entry.against for entry in plan.entries):
            raise ConfigError(
                f"{plan.name} compares methods, which needs at least 2 seeds, not {plan.seeds}; give --seeds 2 or more."
            )
    for name in studies:
        check_study(name, sources, seeds)
    if weights is not None and not any(STUDIES[name].reads_weights for name in studies):
        readers = " and ".join(name for name, study in STUDIES.items() if study.reads_weights)
        raise ConfigError(f"--weights is read by {readers} alone; nothing named here reads it.")
    strange = [name for name in sources or () if not any(name in plan.sources for plan in chosen)]
    if chosen and strange and (not studies or len(strange) == len(sources or ())):
        raise ConfigError(f"no plan named here has a source {', '.join(strange)}.")
    for name in studies:
        run_study(name, sources, out, data=data, weights=weights, seeds=seeds, quiet=quiet)
    if studies and not chosen:
        return
    run_plans(chosen, sources=sources, data=data, out=out, progress=not quiet)
