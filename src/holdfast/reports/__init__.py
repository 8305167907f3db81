"""Pictures and pages from tables, telemetry and plain numbers."""

from holdfast.reports.figures import forecast_figure
from holdfast.reports.flow import adjoint_panel, eigenvalue_panel, flow_figure, history_panel, surface_panel
from holdfast.reports.page import Picture, StudyPage, Table, markdown_table
from holdfast.reports.study import bound_figure, error_figure, growth_figure

__all__ = [
    "Picture",
    "StudyPage",
    "Table",
    "adjoint_panel",
    "bound_figure",
    "eigenvalue_panel",
    "error_figure",
    "flow_figure",
    "forecast_figure",
    "growth_figure",
    "history_panel",
    "markdown_table",
    "surface_panel",
]
