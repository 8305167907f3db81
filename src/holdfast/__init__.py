"""Recurrent forecasters that do not blow up: fit, guard, and see the gradients."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.errors import (
        DataError,
        DataWarning,
        HoldfastError,
        OptionError,
        Problem,
        RunDirectoryError,
        TrainingError,
    )
    from holdfast.forecasting import Config, Forecaster
    from holdfast.gradients import (
        ClipAGC,
        ClipAuto,
        ClipBlockRMS,
        ClipMedian,
        ClipNorm,
        ClipPercentile,
        ClipValue,
        ClipZScore,
        GradientGuard,
    )

__version__ = "0.1.0"

# Names are loaded when they are first asked for: importing holdfast stays fast and brings in nothing that is not used.
_HOMES = {
    "ClipAGC": "gradients",
    "ClipAuto": "gradients",
    "ClipBlockRMS": "gradients",
    "ClipMedian": "gradients",
    "ClipNorm": "gradients",
    "ClipPercentile": "gradients",
    "ClipValue": "gradients",
    "ClipZScore": "gradients",
    "Config": "forecasting",
    "DataError": "errors",
    "DataWarning": "errors",
    "Forecaster": "forecasting",
    "GradientGuard": "gradients",
    "HoldfastError": "errors",
    "OptionError": "errors",
    "Problem": "errors",
    "RunDirectoryError": "errors",
    "TrainingError": "errors",
}

__all__ = [
    "ClipAGC",
    "ClipAuto",
    "ClipBlockRMS",
    "ClipMedian",
    "ClipNorm",
    "ClipPercentile",
    "ClipValue",
    "ClipZScore",
    "Config",
    "DataError",
    "DataWarning",
    "Forecaster",
    "GradientGuard",
    "HoldfastError",
    "OptionError",
    "Problem",
    "RunDirectoryError",
    "TrainingError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
