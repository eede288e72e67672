"""A recipe: everything that decides a training run, in parts that each say what one room of the lab reads.

A recipe cannot hold what it does not use. An option that a head or a loss does not have is refused, so is a change that
would do nothing (RandAugment on a frozen backbone), and `to_json` records only what the run reads.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from csra_lab._io.notice import warn
from csra_lab._io.validation import check_types
from csra_lab.errors import ConfigError, CsraError
from csra_lab.heads import CSRAConfig, HeadConfig, config_kind, head_config, head_json
from csra_lab.losses import BCE, LOSSES, Loss, create_loss

WEIGHTS = ("installed", "hub", "none")
"""Where a backbone's first weights come from; or the path of a file. "installed" comes with the package."""


@dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    dataset: str  # a name that `load_dataset` knows
    train_split: str = "trainval"
    test_split: str = "test"
    subset: int | None = None  # train on so many images of the split, the same for every seed; None for all
    classes: tuple[str, ...] = ()  # classes to keep; none named means all
    absent: str | None = None  # in folders: the labels that say absent, as "-1" or "0,blank"; None for the layout's own
    unknown: str | None = None  # in folders: the labels that are not counted, as "0" or "blank"
    validation_fraction: float = 0.0  # share of the training split that chooses the best epoch; 0 takes the last epoch
    image_cache: Literal["auto", "memory", "off"] = "auto"  # decode once and keep in memory, or in every epoch


@dataclass(frozen=True)
class ModelConfig:
    """The backbone."""

    backbone: str  # timm's name of the network
    image_size: int  # side of the square input, pixels
    weights: str = "hub"  # "installed", "hub", "none", or the path of a weight file
    pixels: Literal["backbone", "plain"] = "backbone"  # normalised as the backbone was trained, or 0..1 as they are
    freeze_backbone: bool = False  # train the head alone, on features computed once (images and mirror images)
    freeze_statistics: bool = False  # batch norm keeps the statistics it was trained with; scale and shift still learn


@dataclass(frozen=True)
class OptimisationConfig:
    """How the weights move."""

    epochs: int = 30
    batch_size: int = 16  # images of one optimiser step, over all processes together
    accumulate: int = 1  # parts into which each process cuts its share of a batch, to save memory
    optimizer: Literal["sgd", "adamw"] = "sgd"
    backbone_lr: float = 0.01  # peak learning rate
    head_lr: float = 0.1  # peak learning rate
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["step", "cosine", "one-cycle", "constant"] = "step"
    warmup_epochs: float = 2.0  # linear rise of the learning rate (one-cycle has its own rise)
    step_epochs: float = 5.0  # epochs between the steps of the step schedule
    step_gamma: float = 0.1  # factor of each step
    augmentation: Literal["crop", "flip"] = "crop"  # random resized crop and flip, or the whole image and flip
    crop_scale: float = 0.7  # smallest share of the image that a random crop keeps
    crop_ratio: float = 4 / 3  # widest shape of a random crop, width over height; the narrowest is 1 over it
    randaugment: bool = False
    ema_decay: float = 0.0  # keep and use an average of the weights with this decay; 0 for none


@dataclass(frozen=True)
class RunConfig:
    """Where and how it is computed."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 on a GPU that has it, else fp32
    compile: Literal["no", "default", "reduce-overhead"] = "no"  # torch.compile's mode; it takes a minute to start
    seed: int = 0  # of weights, order and augmentation
    workers: int = -1  # loader processes; -1 for a number that suits the machine


PARTS = {"data": DataConfig, "model": ModelConfig, "optimisation": OptimisationConfig, "run": RunConfig}
PART_OF = {f.name: part for part, cls in PARTS.items() for f in dataclasses.fields(cls)}
"""Field -> the part of a recipe that holds it. No two parts share a name."""

_LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("epochs", "batch_size", "accumulate"), (1, 1_000_000)),
    **dict.fromkeys(("backbone_lr", "head_lr"), (0, 1e38)),
    **dict.fromkeys(("weight_decay", "warmup_epochs"), (0, 1_000_000)),
    **dict.fromkeys(("ema_decay", "step_gamma"), (0, 1)),
    "momentum": (0, 0.999999),  # at 1 no gradient is forgotten, and AdamW cannot be built
    "image_size": (1, 2048),
    "seed": (0, 2**63 - 1),
    "step_epochs": (0.001, 1_000_000),
    "crop_scale": (0.01, 1),
    "crop_ratio": (1, 100),
    "validation_fraction": (0, 0.9),
    "workers": (-1, 256),
    "subset": (1, 1_000_000_000),
}


PAPER_LOSS = BCE(unknown="negative")
"""The paper counts unknown labels as absent in training."""


@dataclass(frozen=True)
class Recipe:
    """A training run. `csra-lab train NAME` runs it, and every field can be overridden there.

    Attributes:
        name: what the run is called. data, model, head, optimisation, loss, run: its parts.
        why: what it is for, and whose settings it has. cost: what a run takes. expected: the score to expect, and who
            measured it.

    Raises:
        ConfigError: a value of another kind or out of its range, or a field with a value that would do nothing.
    """

    name: str
    data: DataConfig
    model: ModelConfig
    head: HeadConfig = field(default_factory=CSRAConfig)
    optimisation: OptimisationConfig = field(default_factory=OptimisationConfig)
    loss: Loss = PAPER_LOSS
    run: RunConfig = field(default_factory=RunConfig)
    why: str = ""
    cost: str = ""
    expected: str = ""

    def __post_init__(self):
        if not isinstance(self.name, str):
            raise ConfigError(f"a recipe's name must be a text, not {self.name!r}.")
        for part, kind in PARTS.items():
            if not isinstance(getattr(self, part), kind):
                raise ConfigError(f"recipe {self.name}: {part} must be a {kind.__name__}, not {getattr(self, part)!r}.")
            check_types(getattr(self, part), f"recipe {self.name}")
        config_kind(self.head)
        loss_kind(self.loss)
        for name, (low, high) in _LIMITS.items():
            value = getattr(getattr(self, PART_OF[name]), name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"recipe {self.name}: {name} must be from {low:,} to {high:,}, not {value}.")
        if len(set(self.data.classes)) != len(self.data.classes):
            named = ", ".join(self.data.classes)
            raise ConfigError(f"recipe {self.name}: classes must name each class once, not {named}.")
        for name, reason in self.unused().items():
            if getattr(getattr(self, PART_OF[name]), name) != _default(name):
                raise ConfigError(f"recipe {self.name}: {name} would do nothing, since {reason}.")
        plan = self.optimisation
        if plan.schedule != "one-cycle" and plan.warmup_epochs > plan.epochs:
            warn(
                f"recipe {self.name}: {plan.epochs} epochs end within the warm-up of {plan.warmup_epochs:g}, so the "
                "learning rate never reaches its peak; a smaller warmup_epochs helps."
            )

    @classmethod
    def of(cls, name: str, *, dataset: str, backbone: str, image_size: int, **fields) -> "Recipe":
        """A recipe from fields of any part by their names, as in `replace`."""
        about = {key: fields.pop(key) for key in ("why", "cost", "expected") if key in fields}
        start = cls(name, DataConfig(dataset), ModelConfig(backbone, image_size), **about)
        return start.replace(**fields) if fields else start

    def replace(self, **changes) -> "Recipe":
        """This recipe with other values.

        Args:
            changes: fields of any part by their names; `head` as a name or a config, options of the head by their
                names; `loss` as a name or a config (its options are given in the config; a name keeps `unknown`). With
                another head only the options that both have are carried over, and a field of before that would now do
                nothing goes back to its default.

        Raises:
            ConfigError: a field or an option that there is not, a value of another kind, or a change that would do
                nothing, by name.
        """
        about = ("name", "why", "cost", "expected")
        whole: dict[str, Any] = {name: changes.pop(name) for name in (*about, *PARTS) if name in changes}
        head, loss = changes.pop("head", self.head), changes.pop("loss", self.loss)
        loss = create_loss(loss, unknown=self.loss.unknown) if isinstance(loss, str) else loss
        fields = {name: changes.pop(name) for name in list(changes) if name in PART_OF}
        head = _changed_head(self.name, self.head, head, changes)
        given = [*fields, *(name for name, part in PART_OF.items() if part in whole)]
        parts = {part: whole.pop(part, getattr(self, part)) for part in PARTS}
        values = {name: getattr(parts[part], name) for name, part in PART_OF.items()} | fields
        values |= {name: _default(name) for name in _unused(values) if name not in given}
        for part in PARTS:
            of_part = {name: value for name, value in values.items() if PART_OF[name] == part}
            parts[part] = dataclasses.replace(parts[part], **of_part)
        return dataclasses.replace(self, **whole, **parts, head=head, loss=loss)

    def unused(self) -> dict[str, str]:
        """The fields that this recipe's run does not read, and why."""
        return _unused({name: getattr(getattr(self, part), name) for name, part in PART_OF.items()})

    def to_json(self) -> dict:
        """What the run reads, in JSON types: a table for each part."""
        without_effect = self.unused()

        def used(part) -> dict:
            return {key: value for key, value in dataclasses.asdict(part).items() if key not in without_effect}

        content: dict[str, Any] = {"name": self.name, **{part: used(getattr(self, part)) for part in PARTS}}
        content["data"]["classes"] = list(self.data.classes)
        content["head"] = head_json(self.head)
        content["loss"] = {"kind": loss_kind(self.loss), **_lists(self.loss.config())}
        return content

    @classmethod
    def from_json(cls, content: Mapping) -> "Recipe":
        """The recipe that `to_json` wrote; what its run did not read has the default.

        Raises:
            ConfigError: a part, field or value that is none.
        """
        try:
            unknown = [name for name in content if name not in ("name", "head", "loss", *PARTS)]
            if unknown:
                raise ConfigError(
                    f"a recipe has no part {unknown[0]!r}; its parts are {', '.join(PARTS)}, head and loss."
                )
            parts = {part: cls_(**_tuples(content[part])) for part, cls_ in PARTS.items()}
            head, loss = dict(content["head"]), dict(content["loss"])
            return cls(
                content["name"], head=head_config(head.pop("kind"), **_tuples(head)),
                loss=create_loss(loss.pop("kind"), **loss), **parts,
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, CsraError):
                raise
            raise ConfigError(f"this is not a recipe of this lab ({type(error).__name__}: {error}).") from error


def loss_kind(loss: Loss) -> str:
    """The name of a loss, as `create_loss` knows it. A CsraError for anything else."""
    kind = next((kind for kind, each in LOSSES.items() if type(each) is type(loss)), None)
    if kind is None:
        raise ConfigError(f"a loss must be one of {', '.join(LOSSES)} or the config of one, not {loss!r}.")
    return kind


def average_twin(recipe: Recipe) -> Recipe:
    """The same recipe with average pooling: the same-recipe baseline."""
    return recipe.replace(name=recipe.name.replace("csra", "avg"), head="average", expected="")


def _changed_head(name: str, before: HeadConfig, head: HeadConfig | str, options: dict) -> HeadConfig:
    try:
        if isinstance(head, HeadConfig) and not options:
            return head
        kind = head if isinstance(head, str) else config_kind(head)
        start = before if isinstance(head, str) else head
        shared = start.options() if config_kind(start) == kind else {"normalize": start.normalize, "bias": start.bias}
        if "num_heads" in options and "temperatures" not in options:
            shared.pop("temperatures", None)  # another number of heads has a list of its own
        return head_config(kind, **(shared | options))
    except CsraError as error:
        raise ConfigError(f"recipe {name}: {error}") from error


def _unused(values: Mapping) -> dict[str, str]:
    """The fields that a run with these values of all fields does not read, and why."""
    unused = {}
    if values["freeze_backbone"]:
        for name in ("backbone_lr", "freeze_statistics", "augmentation", "crop_scale", "crop_ratio", "randaugment"):
            unused[name] = "the backbone is frozen and its features are computed once"
        unused["image_cache"] = "the backbone is frozen and its features are cached instead"
    elif values["augmentation"] != "crop":
        for name in ("crop_scale", "crop_ratio"):
            unused[name] = "nothing is cropped where augmentation is flip"
    if values["schedule"] != "step":
        for name in ("step_epochs", "step_gamma"):
            unused[name] = f"the schedule is {values['schedule']} and has no steps"
    if values["schedule"] == "one-cycle":
        unused["warmup_epochs"] = "the schedule is one-cycle, which has its own rise"
    return unused


def _default(name: str):
    return next(f.default for f in dataclasses.fields(PARTS[PART_OF[name]]) if f.name == name)


def _lists(options: dict) -> dict:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}


def _tuples(options: Mapping) -> dict:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
