"""Explorers: live in Jupyter, and in a static page with no kernel."""

from csra_lab.widgets.maps import (
    AttentionExplorer,
    HeadComposer,
    RankingExplorer,
    explore,
    maps_of_atlas,
    maps_of_photographs,
)
from csra_lab.widgets.metrics import MetricsExplorer, explore_metrics, score_set
from csra_lab.widgets.photo import PhotoExplorer, explore_photograph
from csra_lab.widgets.temperature import TemperatureExplorer

__all__ = [
    "AttentionExplorer",
    "HeadComposer",
    "MetricsExplorer",
    "PhotoExplorer",
    "RankingExplorer",
    "TemperatureExplorer",
    "explore",
    "explore_metrics",
    "explore_photograph",
    "maps_of_atlas",
    "maps_of_photographs",
    "score_set",
]
