"""Pictures from tables and telemetry."""

from holdfast.reports.figures import forecast_figure

__all__ = ["forecast_figure"]
