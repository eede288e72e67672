"""Multi-label losses on logits and targets in {1, 0, -1}, where -1 is unknown.

Each loss is a pure function, and a frozen config that calls it: `ASL(gamma_negative=2.0)(logits, targets)`. All are
sums over the known entries divided by B * C. That keeps them averages over images whatever the number of unknown
entries, so that batches split over processes add up to the batch. The two-way loss alone is no sum over entries.

    bce           binary cross-entropy                                  the paper's
    weighted-bce  BCE with weights for rare and frequent classes        Li et al. 2015; Cui et al. 2019
    partial-bce   BCE, more of it where few labels are known            Durand et al. 2019
    focal         damps every easy entry                                Lin et al. 2017
    asl           damps easy negatives, drops the easiest               Ridnik et al. 2021
    hill          also damps the hardest negatives, which may be wrong  Zhang et al. 2021
    splc          takes confident negatives for missing positives       Zhang et al. 2021
    two-way       ranks positives over negatives in images and classes  Kobayashi 2023

Labels that are missing have three treatments: leave them out (`unknown="ignore"`, the default), take them for absent
(`unknown="negative"`), or take them for absent and correct the confident ones (`SPLC(unknown="negative")`).
"""

from csra_lab.losses.configs import (
    ASL,
    BCE,
    LOSSES,
    SPLC,
    Focal,
    Hill,
    Loss,
    PartialBCE,
    TwoWay,
    WeightedBCE,
    create_loss,
)
from csra_lab.losses.functions import (
    Unknown,
    Weighting,
    asymmetric_loss,
    binary_cross_entropy,
    class_weights,
    fill_unknown,
    focal_loss,
    focal_margin,
    hill_loss,
    partial_binary_cross_entropy,
    splc_loss,
    two_way_loss,
    weighted_binary_cross_entropy,
)

__all__ = [
    "ASL",
    "BCE",
    "LOSSES",
    "SPLC",
    "Focal",
    "Hill",
    "Loss",
    "PartialBCE",
    "TwoWay",
    "Unknown",
    "WeightedBCE",
    "Weighting",
    "asymmetric_loss",
    "binary_cross_entropy",
    "class_weights",
    "create_loss",
    "fill_unknown",
    "focal_loss",
    "focal_margin",
    "hill_loss",
    "partial_binary_cross_entropy",
    "splc_loss",
    "two_way_loss",
    "weighted_binary_cross_entropy",
]
