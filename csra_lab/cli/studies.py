"""Studies that `csra-lab ablate` runs beside the plans: each tunes every method first, and goes on step by step."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from csra_lab.errors import ConfigError

Log = Callable[[str], None]


@dataclass(frozen=True)
class Study:
    """What a study asks, and how it is run.

    Attributes:
        sources: keys of `study.plans.SOURCES` that it runs on where none are named.
        run: (source, folder of the records, folder of the images or None, seeds, log) -> folder of the record.
        only: the sources that it can run on; empty for all.
        seeds: runs of each method where no number is given.
    """

    question: str
    sources: tuple[str, ...]
    run: Callable[[str, Path, Path | None, int, Log], Path]
    only: tuple[str, ...] = ()
    seeds: int = 5


def _own_best(source: str, out: Path, data: Path | None, seeds: int, log: Log) -> Path:
    from csra_lab.study.own_best import run_own_best

    return run_own_best(source, out / "own-best", data=data, seeds=seeds, log=log)


def _five_folds(source: str, out: Path, data: Path | None, seeds: int, log: Log) -> Path:
    from csra_lab.study.five_folds import run_five_folds

    return run_five_folds(out, data=data, seeds=seeds, log=log)


def _networks(source: str, out: Path, data: Path | None, seeds: int, log: Log) -> Path:
    from csra_lab.study.backbone_gains import run_backbone_gains

    return run_backbone_gains(source, out / "networks", data=data, seeds=seeds, resamples=seeds, log=log)


def _sizes(source: str, out: Path, data: Path | None, seeds: int, log: Log) -> Path:
    from csra_lab.study.backbone_gains import SIZES, run_backbone_gains

    return run_backbone_gains(
        source, out / "sizes", data=data, networks=SIZES, seeds=seeds, resamples=3 * seeds, log=log,
        question=STUDIES["sizes"].question,
    )  # fmt: skip


def _schedules(source: str, out: Path, data: Path | None, seeds: int, log: Log) -> Path:
    from csra_lab.study.schedules import run_schedules

    return run_schedules(source, out / "schedules", data=data, seeds=seeds, log=log)


def _relatives(source: str, out: Path, data: Path | None, seeds: int, log: Log) -> Path:
    from csra_lab.study.relatives import run_relatives

    return run_relatives(source, out / "relatives", data=data, runs=seeds, log=log)


_DRAWN_AND_REAL = ("photographs", "emoji", "paperdoll")
_REAL = ("photographs", "coco")

STUDIES: dict[str, Study] = {
    "own-best": Study("Each method at its own best rate: what can be told apart?", _DRAWN_AND_REAL, _own_best),
    "five-folds": Study(
        "Every photograph tested once: does CSRA gain there, too?", ("photographs",), _five_folds, ("photographs",), 3
    ),
    "networks": Study("Does CSRA's gain depend on the backbone?", ("photographs",), _networks, _REAL, 3),
    "sizes": Study("Does CSRA gain more on larger images, both heads at their own rates?", _REAL[:1], _sizes, _REAL),
    "schedules": Study("Does the length of the schedule decide what CSRA gains?", _DRAWN_AND_REAL, _schedules),
    "relatives": Study("Which of the heads people use beats CSRA, and where?", _DRAWN_AND_REAL, _relatives),
}


def check_study(name: str, sources: tuple[str, ...] | None, seeds: int | None) -> None:
    """Refuse what one of `STUDIES` cannot do, before any of them has begun.

    Raises:
        CsraError: fewer than two seeds, which have no interval; a source that the study cannot run on.
    """
    study = STUDIES[name]
    if seeds is not None and seeds < 2:
        raise ConfigError(f"{name} needs at least 2 seeds for its intervals, not {seeds}.")
    for source in sources or ():
        if study.only and source not in study.only:
            raise ConfigError(f"{name} runs on {' and '.join(study.only)}, not on {source}.")


def run_study(
    name: str, sources: tuple[str, ...] | None, data: Path | None, out: Path, seeds: int | None, *, quiet: bool
) -> None:
    """Run one of `STUDIES` on some sources, and print the folder of each record. What was done before goes on."""
    study = STUDIES[name]
    log: Log = (lambda line: None) if quiet else print
    for source in sources or study.sources:
        print(study.run(source, out, data, seeds or study.seeds, log))
