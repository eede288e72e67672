"""Heads by name: from a config, from JSON, and back."""

import math
from dataclasses import fields

from csra_lab.errors import ConfigError, CsraError
from csra_lab.heads.base import ScoreMapHead
from csra_lab.heads.config import (
    AverageConfig,
    CSRAConfig,
    GeMConfig,
    HeadConfig,
    LogSumExpConfig,
    MaxConfig,
    SpatialConfig,
    TopKConfig,
)
from csra_lab.heads.label_graph import LabelGraph, LabelGraphConfig
from csra_lab.heads.poolings import CSRA, AveragePooling, GeM, LogSumExp, MaxPooling, SpatialOnly, TopKMean
from csra_lab.heads.queries import ClassQueries, ClassQueriesConfig, GroupQueries, GroupQueriesConfig
from csra_lab.heads.regularised import RegularisedAttention, RegularisedConfig
from csra_lab.heads.relatives import (
    AttentionMIL,
    AttentionMILConfig,
    LearnedCSRA,
    LearnedCSRAConfig,
    NoisyOr,
    NoisyOrConfig,
    Wildcat,
    WildcatConfig,
)

HEADS: dict[str, tuple[type[HeadConfig], type[ScoreMapHead]]] = {
    "csra": (CSRAConfig, CSRA),
    "average": (AverageConfig, AveragePooling),
    "max": (MaxConfig, MaxPooling),
    "spatial": (SpatialConfig, SpatialOnly),
    "lse": (LogSumExpConfig, LogSumExp),
    "gem": (GeMConfig, GeM),
    "topk": (TopKConfig, TopKMean),
    "learned-csra": (LearnedCSRAConfig, LearnedCSRA),
    "wildcat": (WildcatConfig, Wildcat),
    "noisy-or": (NoisyOrConfig, NoisyOr),
    "attention-mil": (AttentionMILConfig, AttentionMIL),
    "class-queries": (ClassQueriesConfig, ClassQueries),
    "group-queries": (GroupQueriesConfig, GroupQueries),
    "regularised": (RegularisedConfig, RegularisedAttention),
    "label-graph": (LabelGraphConfig, LabelGraph),
}
"""Name -> config and head, as recipes, saved models and the command line know them."""


def four_lines_head(head: ScoreMapHead, lam: float) -> CSRA:
    """The average-pooling head plus lam times its largest score; the weights are shared.

    Raises:
        CsraError: the head pools in another way.
    """
    if not isinstance(head, AveragePooling):
        raise ConfigError(f"the four-line change starts from an average-pooling head, not {head_kind(head)!r}.")
    return head.with_four_lines(lam)


def head_config(kind: str, **options) -> HeadConfig:
    """The config of a head by its name (a key of `HEADS`).

    Args:
        options: that head's own; JSON's forms are taken too (a list, "inf").

    Raises:
        CsraError: an unknown name, or an option that this head does not have or cannot take.
    """
    if kind not in HEADS:
        raise ConfigError(f"there is no head {kind!r}; choose one of {', '.join(HEADS)}.")
    config = HEADS[kind][0]
    known = [field.name for field in fields(config)]
    for name in options:
        if name not in known:
            raise ConfigError(f"head {kind!r} has no option {name!r}; its options are {', '.join(known)}.")
    try:
        return config(**options)
    except CsraError as error:
        raise ConfigError(f"head {kind!r}: {error}") from error


def build_head(config: HeadConfig, in_features: int, num_classes: int) -> ScoreMapHead:
    """The head of a config with random weights, on features of d = `in_features` channels, for C = `num_classes`.

    Raises:
        CsraError: a size that is no whole number from 1, or weights that no memory holds.
    """
    kind = config_kind(config)
    try:
        return HEADS[kind][1](in_features, num_classes, **config.options())
    except CsraError as error:
        raise ConfigError(f"head {kind!r}: {error}") from error


def create_head(kind: str, in_features: int, num_classes: int, /, **options) -> ScoreMapHead:
    """A head by its name (a key of `HEADS`) with that head's own options.

    Raises:
        CsraError: see `head_config`.
    """
    return build_head(head_config(kind, **options), in_features, num_classes)


def config_kind(config: HeadConfig) -> str:
    """The name of the head that a config makes. A CsraError for anything else."""
    kind = next((kind for kind, (cls, _) in HEADS.items() if cls is type(config)), None)
    if kind is None:
        raise ConfigError(f"a head must be one of {', '.join(HEADS)} or the config of one, not {config!r}.")
    return kind


def head_kind(head: ScoreMapHead) -> str:
    """The name of a head, the inverse of `create_head`."""
    return config_kind(head.config)


def head_json(config: HeadConfig) -> dict:
    """{"kind": name, option: value} in JSON types; JSON has no infinity, so that is "inf"."""
    return {"kind": config_kind(config), **{name: _json_value(value) for name, value in config.options().items()}}


def _json_value(value):
    if isinstance(value, tuple):
        return [_json_value(each) for each in value]
    return "inf" if isinstance(value, float) and math.isinf(value) else value
