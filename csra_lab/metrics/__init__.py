"""How good are the scores of N images on C classes? Average precision, and precision, recall and F1 in both averages.

Scores are an (N, C) array, targets an (N, C) array of 1 (present), 0 (absent) and -1 (ignore). An ignored entry leaves
both sides: it is neither predicted nor counted, and for AP it is taken out of its class's ranking.

Three definitions of average precision are in use, and they give different numbers for the same scores. With the images
in the order of their scores, and p(i) and r(i) the precision and recall of the first i:

    "average"   sum_i (r(i) - r(i-1)) p(i): the mean of p over the positives    CSRA, ASL, mmpretrain, scikit-learn
    "voc11"     mean over t = 0, 0.1, ..., 1 of max {p(i) : r(i) >= t}          VOC2007
    "envelope"  sum_i (r(i) - r(i-1)) max_{j >= i} p(j)                         VOC from 2010, Query2Label

Equal scores are one threshold: all of them are taken or none, so the order of the images never matters.

With Nc correct, Np predicted and Ng true labels of a class, CP and CR are the means over classes of Nc/Np and Nc/Ng;
OP and OR are the same ratios of the sums over all classes, and OF1 is their harmonic mean (Chen et al., ML-GCN, CVPR
2019). Two numbers go by the name of CF1:

    CF1         the harmonic mean of CP and CR             CSRA
    CF1_macro   the mean over classes of each class's F1   mmpretrain, ASL

`multilabel_metrics` measures whole arrays; `MultilabelMetrics` takes batches (`update`, `compute`, `reset`), if need
be in memory that does not grow with the images; `csra_lab.metrics.synced.SyncedMultilabelMetrics` is the same as a
torchmetrics `Metric`, which adds up over processes. Only that last file needs torch.
"""

from csra_lab.metrics.accumulate import MultilabelMetrics
from csra_lab.metrics.functions import (
    AveragePrecision,
    MetricValues,
    average_precision,
    chance_average_precision,
    multilabel_metrics,
)

__all__ = [
    "AveragePrecision", "MetricValues", "MultilabelMetrics", "average_precision", "chance_average_precision",
    "multilabel_metrics",
]  # fmt: skip
