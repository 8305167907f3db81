"""Exponential smoothing of many series at once: the field's statistics, to be better than and to mix with."""

from holdfast.smoothing.panel import Histories, smoothing_forecasts

__all__ = ["Histories", "smoothing_forecasts"]
