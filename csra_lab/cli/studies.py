"""Studies that `csra-lab ablate` runs beside the plans: each tunes every method first, and goes on step by step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from csra_lab._io.atomic_write import check_folder
from csra_lab.errors import ConfigError

Log = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """One run of a study.

    Attributes:
        source: a key of `study.plans.SOURCES`. out: folder of the records. data: folder of the images.
        weights: folder of weight files. seeds: runs of each method.
    """

    source: str
    out: Path
    data: Path | None
    weights: Path | None
    seeds: int
    log: Log


@dataclass(frozen=True)
class Study:
    """What a study asks, and how it is run.

    Attributes:
        sources: keys of `study.plans.SOURCES` that it runs on where none are named.
        run: gives the folder of the record.
        only: the sources that it can run on; empty for all.
        seeds: runs of each method where no number is given.
        reads_weights: whether it has networks whose weights are files.
    """

    question: str
    sources: tuple[str, ...]
    run: Callable[[Order], Path]
    only: tuple[str, ...] = ()
    seeds: int = 5
    reads_weights: bool = False


def _own_best(order: Order) -> Path:
    from csra_lab.study.own_best import run_own_best

    return run_own_best(order.source, order.out / "own-best", data=order.data, seeds=order.seeds, log=order.log)


def _five_folds(order: Order) -> Path:
    from csra_lab.study.five_folds import run_five_folds

    return run_five_folds(order.out, data=order.data, seeds=order.seeds, log=order.log)


def _gains(name: str, order: Order) -> Path:
    from csra_lab.study import backbone_gains

    networks, resamples = {
        "networks": (backbone_gains.NETWORKS, 2),
        "sizes": (backbone_gains.SIZES, 3),
        "crossed": (backbone_gains.CROSSED, 2),
    }[name]
    return backbone_gains.run_backbone_gains(
        order.source, order.out / name, data=order.data, weights=order.weights, networks=networks, seeds=order.seeds,
        resamples=resamples * order.seeds, log=order.log, question=STUDIES[name].question,
    )  # fmt: skip


def _schedules(order: Order) -> Path:
    from csra_lab.study.schedules import run_schedules

    return run_schedules(order.source, order.out / "schedules", data=order.data, seeds=order.seeds, log=order.log)


def _relatives(order: Order) -> Path:
    from csra_lab.study.relatives import run_relatives

    return run_relatives(order.source, order.out / "relatives", data=order.data, runs=order.seeds, log=order.log)


_DRAWN_AND_REAL = ("photographs", "emoji", "paperdoll")
_REAL = ("photographs", "coco")

STUDIES: dict[str, Study] = {
    "own-best": Study("Each method at its own best rate: what can be told apart?", _DRAWN_AND_REAL, _own_best),
    "five-folds": Study(
        "Every photograph tested once: does CSRA gain there, too?", ("photographs",), _five_folds, ("photographs",), 3
    ),
    "networks": Study(
        "Does CSRA's gain depend on the backbone?",
        ("photographs",),
        partial(_gains, "networks"),
        _REAL,
        reads_weights=True,
    ),
    "sizes": Study(
        "Does CSRA gain more on larger images, both heads at their own rates?",
        ("photographs",),
        partial(_gains, "sizes"),
        _REAL,
    ),
    "crossed": Study(
        "Does CSRA gain more with a larger network, or on larger images?",
        ("photographs",),
        partial(_gains, "crossed"),
        _REAL,
        reads_weights=True,
    ),
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
    name: str,
    sources: tuple[str, ...] | None,
    out: Path,
    *,
    data: Path | None,
    weights: Path | None,
    seeds: int | None,
    quiet: bool,
) -> None:
    """Run one of `STUDIES` on some sources, and print the folder of each record. What was done before goes on."""
    check_folder(out, "--out")
    study = STUDIES[name]
    log: Log = (lambda line: None) if quiet else print
    for source in sources or study.sources:
        print(study.run(Order(source, out, data, weights, seeds or study.seeds, log)))
