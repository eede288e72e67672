"""Plans: which heads are trained on which features, with which seeds. `csra-lab ablate` runs them.

A plan asks one question. Its entries differ from one base recipe in what the question is about and in nothing else, and
every entry names the one that it is compared with.
"""

import dataclasses
import difflib
import itertools
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from csra_lab._io.validation import check_types
from csra_lab.errors import ConfigError, CsraError, DataError
from csra_lab.recipes import RECIPES, VOC2012_PHOTOGRAPH_CLASSES, Recipe
from csra_lab.recipes.config import PART_OF

FOUR_LINES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
"""Weights of the residual that are tried on a trained average-pooling head; the paper fixes 0.02 or 0.2."""


@dataclass(frozen=True)
class Source:
    """Feature maps to train on: images of a data set as one frozen backbone sees them.

    Attributes:
        dataset: a name that `load_dataset` knows. splits: the splits that are measured.
        mirror: train on the mirror images too. classes: none named means all.
        weights: of the backbone, see `create_backbone`; None for ImageNet's, wherever they can be had.
        train_split: what is trained on.
        by_photograph: images cut from one photograph are drawn together by the bootstrap.
    """

    dataset: str
    splits: tuple[str, ...] = ("test",)
    classes: tuple[str, ...] = ()
    backbone: str = "tf_efficientnet_lite0"
    image_size: int = 224
    mirror: bool = True
    weights: str | None = None
    train_split: str = "trainval"
    by_photograph: bool = False

    def recipe(self, name: str, /, **changes) -> Recipe:
        """`BASE` on this source's images and backbone; `changes` are fields of a recipe."""
        of_the_source = {"dataset": self.dataset, "backbone": self.backbone, "image_size": self.image_size}
        return BASE.replace(**{"name": name, **of_the_source, "classes": self.classes, **changes})


_PHOTOGRAPHS = Source("voc2012", classes=VOC2012_PHOTOGRAPH_CLASSES)

SOURCES: dict[str, Source] = {
    "photographs": _PHOTOGRAPHS,
    "emoji": Source("emoji-voc", splits=("test", "test-unseen")),
    "paperdoll": Source("paperdoll-wider", by_photograph=True),
    "coco": Source("coco2014", splits=("val",), mirror=False, train_split="train"),
    # One view for each image: at 448 pixels the files are four times as large.
    **{
        f"photographs-{short}-{size}": dataclasses.replace(
            _PHOTOGRAPHS, backbone=f"tf_efficientnet_{short}", image_size=size, mirror=False
        )
        for short in ("lite0", "lite1", "lite2")
        for size in (224, 448)
    },
}
"""Where the experiments run: four data sets, and the photographs by three backbones at two sizes."""


@dataclass(frozen=True)
class Entry:
    """One row of a plan's table.

    Attributes:
        label: its name in the table.
        changes: fields of the base recipe that this entry changes.
        against: label of the entry that it is compared with; empty for a row that is only shown.
        four_lines: add rows for the trained average-pooling head with these residuals, without training.
        keep: keep the test logits of this entry in the recorded run (fp16), and those of its four-line rows named here.
    """

    label: str
    changes: dict = field(default_factory=dict)
    against: str = ""
    four_lines: tuple[float, ...] = ()
    keep: bool = False
    keep_lines: tuple[float, ...] = ()


@dataclass(frozen=True)
class Plan:
    """One question, the heads that answer it, and where it is asked.

    Attributes:
        name, question: for tables and folders.
        sources: keys of `SOURCES`. entries: rows of the table. seeds: runs of each row.
        base: fields of the base recipe, `BASE` where not named.
        choose: for entries that are settings of one method, the method of each label. The best setting of each method
            is chosen by its mAP on held-out training images, and only the chosen ones are compared; there `against`
            is a method.
        conditions: also compare the rows that are kept by object size, number of objects and number of labels, where
            there are boxes.
    """

    name: str
    question: str
    sources: tuple[str, ...]
    entries: tuple[Entry, ...]
    seeds: int = 5
    base: dict = field(default_factory=dict)
    choose: dict[str, str] = field(default_factory=dict)
    conditions: bool = False

    def recipe(self, entry: Entry, seed: int, source: str) -> Recipe:
        """The whole recipe of a row's run."""
        changes = {**self.base, **entry.changes, "seed": seed}
        return SOURCES[source].recipe(f"{self.name}: {entry.label}", **changes)


BASE = RECIPES["voc2012-lite0-csra"].replace(
    name="head on cached features",
    why="",
    cost="",
    expected="",
    freeze_backbone=True,
    validation_fraction=0.0,  # nothing is chosen, so every image is trained on
    epochs=10,
    head_lr=3e-3,  # the plan `recipe` finds 3e-3 to 1e-2 best for both heads on the photographs
)
"""AdamW on classifiers that are not normalised, the cosine schedule, lam = 0.3. The plan `recipe` says how it fares."""

_AVERAGE, _CSRA = "average pooling", "CSRA"
_THREE = ("photographs", "emoji", "paperdoll")


def _twins(**keep) -> tuple[Entry, Entry]:
    return Entry(_AVERAGE, {"head": "average"}, **keep), Entry(_CSRA, against=_AVERAGE, **keep)


def _temperature(t: float) -> str:
    return "T = inf" if math.isinf(t) else f"T = {t:g}"


def _heads(count: int, temperatures: tuple[float, ...] = ()) -> dict:
    return {"num_heads": count, "temperatures": temperatures}


_OPTIMISERS = {
    "sgd": (0.03, 0.1, 0.3, 1.0, 3.0),  # the paper's optimiser and, at 0.1, its rate
    "adamw": (1e-3, 3e-3, 1e-2, 3e-2),
}


def _recipe_entries() -> tuple[tuple[Entry, ...], dict[str, str]]:
    plain, normalised = "plain", "normalised"
    against = {
        f"{_AVERAGE}, {plain}": "",
        f"{_CSRA}, {plain}": f"{_AVERAGE}, {plain}",
        f"{_AVERAGE}, {normalised}": f"{_AVERAGE}, {plain}",
        f"{_CSRA}, {normalised}": f"{_AVERAGE}, {normalised}",
    }
    entries, choose = [], {}
    for head, name in (("average", _AVERAGE), ("csra", _CSRA)):
        for classifier in (plain, normalised):
            method = f"{name}, {classifier}"
            for optimizer, rates in _OPTIMISERS.items():
                for rate, schedule in itertools.product(rates, ("cosine", "step")):
                    label = f"{method}, {optimizer} {rate:g}, {schedule}"
                    changes = {
                        "head": head, "normalize": classifier == normalised, "optimizer": optimizer, "head_lr": rate,
                        "schedule": schedule, "weight_decay": 1e-4 if optimizer == "sgd" else 1e-2,
                    }  # fmt: skip
                    entries.append(Entry(label, changes, against=against[method]))
                    choose[label] = method
    return tuple(entries), choose


_RECIPE_ENTRIES, _RECIPE_METHODS = _recipe_entries()

PLANS: dict[str, Plan] = {
    plan.name: plan
    for plan in (
        Plan(
            "four-lines",
            "Does adding lam times the maximum to a trained average-pooling head help, with no training? (Table 1)",
            _THREE,
            (
                Entry(_AVERAGE, {"head": "average"}, four_lines=FOUR_LINES, keep=True, keep_lines=(0.3,)),
                Entry(_CSRA, against=_AVERAGE, keep=True),
            ),
            conditions=True,
        ),
        Plan(
            "pooling",
            "Average, spatial only, both, and what else one could pool with (Table 6)",
            _THREE,
            (
                *_twins(),
                Entry("spatial only", {"head": "spatial"}, against=_AVERAGE),
                Entry("max", {"head": "max"}, against=_AVERAGE),
                Entry("log-sum-exp", {"head": "lse"}, against=_AVERAGE),
                Entry("GeM", {"head": "gem"}, against=_AVERAGE),
                Entry("top-3 mean", {"head": "topk"}, against=_AVERAGE),
            ),
        ),
        Plan(
            "lam",
            "How much residual? (Fig. 5)",
            _THREE,
            (
                Entry(_AVERAGE, {"head": "average"}),
                *(
                    Entry(f"lam = {lam:g}", {"lam": lam}, against=_AVERAGE)
                    for lam in (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
                ),
            ),
        ),
        Plan(
            "heads",
            "How many heads, and is it the heads or their temperatures? (Table 7)",
            _THREE,
            (
                Entry("H = 1", _heads(1)),
                *(Entry(f"H = {h}", _heads(h), against="H = 1") for h in (2, 4, 6, 8)),
                *(
                    Entry(f"H = {h}, all {_temperature(t)}", _heads(h, (t,) * h), against=f"H = {h}")
                    for h in (2, 4, 8)
                    for t in (1.0, math.inf)
                ),
                # The scores of H heads add up, so that at one rate H heads move H times as fast as one.
                *(
                    Entry(
                        f"H = {h}, rate / {h}", _heads(h) | {"head_lr": BASE.optimisation.head_lr / h}, against="H = 1"
                    )
                    for h in (2, 4, 8)
                ),
            ),
        ),
        Plan(
            "temperature",
            "One head, from a nearly flat softmax to the maximum",
            _THREE,
            (
                Entry("T = 1", _heads(1, (1.0,))),
                *(
                    Entry(_temperature(t), _heads(1, (t,)), against="T = 1")
                    for t in (0.25, 0.5, 2.0, 4.0, 8.0, 16.0, math.inf)
                ),
            ),
        ),
        Plan(
            "loss",
            "Does the residual help under the asymmetric loss too?",
            _THREE,
            (
                *_twins(),
                Entry("average pooling, ASL", {"head": "average", "loss": "asl"}, against=_AVERAGE),
                Entry("CSRA, ASL", {"loss": "asl"}, against="average pooling, ASL"),
            ),
        ),
        Plan(
            "recipe",
            "Is it the method or its training? Both heads, normalised or not, each at its own best rate (Table 8)",
            _THREE,
            _RECIPE_ENTRIES,
            base={"validation_fraction": 0.2},
            choose=_RECIPE_METHODS,
        ),
        Plan(
            "resolution",
            "Does the gain grow with the resolution and the backbone?",
            tuple(name for name in SOURCES if name.startswith("photographs-")),
            (
                Entry(_AVERAGE, {"head": "average"}, four_lines=(0.1, 0.3, 1.0)),
                Entry(_CSRA, against=_AVERAGE),
                Entry("max", {"head": "max"}, against=_AVERAGE),
            ),
        ),
    )
}


def get_plan(name: str) -> Plan:
    """A plan by name, or from a JSON file.

    A file holds `{"name": ..., "question": ..., "sources": [...], "seeds": 5, "base": {...}, "entries": [{"label": ...,
    "changes": {...}, "against": ...}, ...]}`; temperatures may hold "inf".

    Raises:
        CsraError: an unknown name (near ones are given), or what is wrong with the file.
    """
    if name in PLANS:
        return PLANS[name]
    path = Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, PLANS, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are all, {', '.join(PLANS)}, or a JSON file."
        raise ConfigError(f"there is no plan {name!r}; {hint}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = tuple(Entry(**_tuples(entry)) for entry in content.pop("entries"))
        plan = Plan(**_tuples(content), entries=entries)
        check_types(plan, "the plan")
        for entry in plan.entries:
            check_types(entry, f"entry {entry.label!r}")
            for source in plan.sources:
                plan.recipe(entry, 0, source)
    except CsraError as error:
        raise DataError(f"{path}: {error}") from error
    except KeyError as error:
        raise DataError(
            f"{path} names {error}, which is missing or unknown; sources are {', '.join(SOURCES)}."
        ) from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is not a plan ({error}).") from error
    _check(plan, path)
    return plan


def _check(plan: Plan, path: Path) -> None:
    labels = [entry.label for entry in plan.entries]
    if not labels or len(set(labels)) != len(labels):
        raise DataError(f"{path}: a plan needs entries, each with a label of its own.")
    rows = [*labels, *(four_lines_label(lam) for entry in plan.entries for lam in entry.four_lines)]
    twice = next((label for label in rows if rows.count(label) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: two rows of the table are called {twice!r}; let one entry ask for four lines.")
    of_the_source = {"name", "dataset", "backbone", "image_size", "classes", "seed"}
    for changes in (plan.base, *(entry.changes for entry in plan.entries)):
        if of_the_source & changes.keys():
            name = min(of_the_source & changes.keys())
            raise DataError(f"{path}: {name!r} comes from the plan and its sources; no entry can change it.")
        for name in filter(_ignored, changes):
            raise DataError(
                f"{path}: {name!r} would do nothing: heads are trained on features of the source, which read options "
                "of the head, the loss, validation_fraction, and how the weights move."
            )
    _check_choice(plan, labels, path)
    for entry in plan.entries:
        if entry.against and entry.against not in {*labels, *plan.choose.values()} - {entry.label}:
            raise DataError(f"{path}: {entry.label!r} is compared with {entry.against!r}, which is no entry beside it.")
        if entry.four_lines and entry.changes.get("head") != "average":
            raise DataError(f"{path}: {entry.label!r} asks for four lines, which need an average-pooling head.")
    _check_keeping(plan, path)
    if not 1 <= plan.seeds <= 1000:
        raise DataError(f"{path}: seeds is how many, at least 1 and at most 1,000, not {plan.seeds}.")
    if not plan.sources:
        raise DataError(f"{path} names no source; there are {', '.join(SOURCES)}.")
    if not plan.name.replace("-", "").isalnum():
        raise DataError(f"{path}: the name becomes a folder, so it is letters, digits and dashes, not {plan.name!r}.")


def four_lines_label(lam: float) -> str:
    """The label of the rows of four lines."""
    return f"four lines, lam = {lam:g}"


def _ignored(name: str) -> bool:
    """Whether the training of heads on cached features does not read this field of a recipe."""
    elsewhere = PART_OF.get(name) in ("data", "model", "run") and name != "validation_fraction"
    return elsewhere or name in ("accumulate", "ema_decay", "why", "cost", "expected")


def _check_choice(plan: Plan, labels: list[str], path: Path) -> None:
    """Settings are chosen on held-out images, and only methods are compared then."""
    unknown = [label for label in plan.choose if label not in labels]
    if unknown:
        raise DataError(f"{path}: choose names {unknown[0]!r}, which is no entry.")
    for entry in plan.entries if plan.choose else ():
        fraction = {**plan.base, **entry.changes}.get("validation_fraction", BASE.data.validation_fraction)
        if entry.label in plan.choose and not fraction:
            raise DataError(
                f"{path}: choose has no held-out images for {entry.label!r}; give a validation_fraction in base, "
                "as 0.2."
            )
        if entry.against and entry.label not in plan.choose:
            raise DataError(f"{path}: {entry.label!r} is compared, but only entries that choose names are.")
        if entry.against and entry.against not in plan.choose.values():
            raise DataError(
                f"{path}: {entry.label!r} is compared with {entry.against!r}; where settings are chosen, that must be "
                f"a method: {', '.join(dict.fromkeys(plan.choose.values()))}."
            )


def _check_keeping(plan: Plan, path: Path) -> None:
    """What is to be kept can be, and comparisons by condition have two kept rows to compare."""
    kept = [entry for entry in plan.entries if entry.keep]
    for entry in plan.entries:
        lost = [lam for lam in entry.keep_lines if not entry.keep or lam not in entry.four_lines]
        if lost:
            raise DataError(
                f"{path}: keep_lines of {entry.label!r} names {lost[0]:g}, which keeps nothing; it needs keep, and "
                f"{lost[0]:g} among the four_lines of the entry."
            )
    references = {entry.label for entry in kept} | {plan.choose.get(entry.label) for entry in kept}
    lines = not plan.choose and any(entry.keep_lines for entry in kept)
    if plan.conditions and not lines and not any(entry.against in references for entry in kept if entry.against):
        raise DataError(
            f"{path}: conditions reads the kept scores of two rows that are compared, and no such two are kept; set "
            "keep in both."
        )


def _tuples(fields: dict) -> dict:
    """Lists as tuples, and "inf" as infinity, at every level."""
    if isinstance(fields, dict):
        return {key: _tuples(value) for key, value in fields.items()}
    if isinstance(fields, list):
        return tuple(math.inf if value == "inf" else _tuples(value) for value in fields)
    return fields
