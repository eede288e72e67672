"""Heads: from a feature map to logits. Thin modules over `residual_attention`.

Every head is a classifier of each location followed by a way to pool the scores, and all share one interface:

    head.score_maps(x) -> (B, heads, C, h, w)    the classifiers at every location
    head.attention(x) -> (B, heads, C, h, w)     where the head looks; sums to 1
    head(x) -> (B, C)                            logits

`x` is a feature map (B, d, h, w), or tokens (B, N, d); for tokens N stands where h, w stand above. Each head has a
frozen config that holds exactly its own options; `HEADS` maps a head's name to both. CSRA's attention is Eq. 2's alone;
how much a location counts in its logit, the mean included, is `residual_attention.logit_weights`.
"""

from csra_lab.heads.base import ScoreMapHead
from csra_lab.heads.build import (
    HEADS,
    build_head,
    config_kind,
    create_head,
    four_lines_head,
    head_config,
    head_json,
    head_kind,
)
from csra_lab.heads.config import (
    PAPER_TEMPERATURES,
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

__all__ = [
    "CSRA",
    "HEADS",
    "PAPER_TEMPERATURES",
    "AttentionMIL",
    "AttentionMILConfig",
    "AverageConfig",
    "AveragePooling",
    "CSRAConfig",
    "ClassQueries",
    "ClassQueriesConfig",
    "GeM",
    "GeMConfig",
    "GroupQueries",
    "GroupQueriesConfig",
    "HeadConfig",
    "LabelGraph",
    "LabelGraphConfig",
    "LearnedCSRA",
    "LearnedCSRAConfig",
    "LogSumExp",
    "LogSumExpConfig",
    "MaxConfig",
    "MaxPooling",
    "NoisyOr",
    "NoisyOrConfig",
    "RegularisedAttention",
    "RegularisedConfig",
    "ScoreMapHead",
    "SpatialConfig",
    "SpatialOnly",
    "TopKConfig",
    "TopKMean",
    "Wildcat",
    "WildcatConfig",
    "build_head",
    "config_kind",
    "create_head",
    "four_lines_head",
    "head_config",
    "head_json",
    "head_kind",
]
