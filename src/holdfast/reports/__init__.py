"""Pictures from tables, telemetry and plain numbers."""

from holdfast.reports.figures import forecast_figure
from holdfast.reports.flow import adjoint_panel, eigenvalue_panel, flow_figure, history_panel, surface_panel

__all__ = [
    "adjoint_panel",
    "eigenvalue_panel",
    "flow_figure",
    "forecast_figure",
    "history_panel",
    "surface_panel",
]
