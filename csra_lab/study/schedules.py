"""Does the length of the schedule decide what CSRA gains? Both heads at several lengths, each at its own best rate.

A record as `study.own_best` writes it, of the methods "average pooling, E epochs" and "CSRA, E epochs". Which length is
best for a head is chosen on held-out images, in tuning.csv, as its rate is.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from csra_lab.claims import Claim
from csra_lab.study.own_best import AVERAGE, CSRA, Method, run_own_best
from csra_lab.study.plans import BASE

LENGTHS = (5, 10, 20, 40)
"""Epochs; the rate falls along a cosine to 0 at the end of each."""
USUAL = BASE.optimisation.epochs
RESAMPLES = 15


def label(head: str, epochs: int) -> str:
    """The name of a head's method."""
    return f"{head}, {epochs} epochs"


def schedule_methods(lengths: tuple[int, ...] = LENGTHS) -> dict[str, Method]:
    """Average pooling and CSRA at every length."""
    heads = {AVERAGE: "average", CSRA: "csra"}
    return {label(name, e): Method({"head": head, "epochs": e}) for name, head in heads.items() for e in lengths}


def schedule_claims(lengths: tuple[int, ...] = LENGTHS) -> tuple[Claim, ...]:
    """CSRA's gain at every length, and what each other length changes: of either head, and of the gain."""
    others = [e for e in lengths if e != USUAL]
    return (
        *(Claim.difference(label(CSRA, e), label(AVERAGE, e)) for e in lengths),
        *(Claim.difference(label(head, e), label(head, USUAL)) for head in (AVERAGE, CSRA) for e in others),
        *(
            Claim.interaction(f"gain at {e} epochs - gain at {USUAL}", label(CSRA, e), label(AVERAGE, e),
                              label(CSRA, USUAL), label(AVERAGE, USUAL))
            for e in others
        ),
    )  # fmt: skip


def best_lengths(tuning: pd.DataFrame) -> dict[str, int]:
    """Head -> its best length on held-out images, from the tuning.csv of a record."""
    parts = tuning.method.str.removesuffix(" epochs").str.rsplit(", ", n=1, expand=True)  # head, epochs
    best = parts.loc[tuning.held_out_mAP.groupby(parts[0]).idxmax()]
    return {head: int(epochs) for head, epochs in best.itertuples(index=False)}


def run_schedules(
    source: str,
    out: Path,
    *,
    data: Path | None = None,
    lengths: tuple[int, ...] = LENGTHS,
    seeds: int = 5,
    resamples: int = RESAMPLES,
    log: Callable[[str], None] = print,
) -> Path:
    """Tune, train and measure both heads at every length; see `run_own_best`."""
    return run_own_best(
        source, out, data=data, methods=schedule_methods(lengths), claims=schedule_claims(lengths), seeds=seeds,
        resamples=resamples, question="Does the length of the schedule decide what CSRA gains?", log=log,
    )  # fmt: skip
