"""The forecaster, and how its forecasts are scored."""

from holdfast.forecasting.baselines import seasonal_naive
from holdfast.forecasting.config import Config
from holdfast.forecasting.forecaster import Forecaster
from holdfast.forecasting.metrics import mean_scores, owa, score_table, skill

__all__ = ["Config", "Forecaster", "mean_scores", "owa", "score_table", "seasonal_naive", "skill"]
