"""The forecaster, and how its forecasts are scored."""

from holdfast.forecasting.baselines import seasonal_naive
from holdfast.forecasting.config import Config
from holdfast.forecasting.forecaster import Forecaster
from holdfast.forecasting.metrics import mean_scores, owa, score_table, skill, weighted_quantile_loss
from holdfast.forecasting.runs import diagnose_run

__all__ = [
    "Config",
    "Forecaster",
    "diagnose_run",
    "mean_scores",
    "owa",
    "score_table",
    "seasonal_naive",
    "skill",
    "weighted_quantile_loss",
]
