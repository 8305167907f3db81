"""What every forecaster is asked for, what it hands back, and the clock that cuts its training off."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

# The architecture of the speed rows: LSTM layers, units, steps fed, windows per training step.
LAYERS, UNITS, CONTEXT, BATCH = 2, 128, 96, 128
WARM_UP = 5  # training steps that do not count in a rate


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to fit.

    Attributes:
        horizon: Steps to forecast.
        season: Steps of one season.
        seconds: Training is cut off at the end of the step that passes them. None: no limit but the library's own.
        steps: Training is cut off after so many steps. None: no limit but the library's own.
        seed: Of weights and windows.
        equal: The architecture of the speed rows instead of the library's defaults.
        interval: With the quantiles .1 and .9, also where the library's default is a point forecast.
    """

    horizon: int = 48
    season: int = 24
    seconds: float | None = None
    steps: int | None = None
    seed: int = 0
    equal: bool = False
    interval: bool = False


@dataclass
class Clock:
    """The time at which training started, and the end of each of its steps."""

    seconds: float | None = None
    steps: int | None = None
    started: float = 0.0
    ends: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Training starts now."""
        self.started = time.perf_counter()

    def tick(self) -> bool:
        """A step is over; whether it was the last one."""
        self.ends.append(time.perf_counter())
        spent = self.seconds is not None and self.trained >= self.seconds
        return spent or (self.steps is not None and len(self.ends) >= self.steps)

    @property
    def trained(self) -> float:
        """Seconds from the start to the end of the newest step."""
        return self.ends[-1] - self.started if self.ends else 0.0

    @property
    def pace(self) -> float | None:
        """Seconds per step, after a warm-up; None if there were too few steps."""
        counted = len(self.ends) - 1 - WARM_UP
        return (self.ends[-1] - self.ends[WARM_UP]) / counted if counted > 0 else None


def clock_of(task: Task) -> Clock:
    """A clock with the limits of a task."""
    return Clock(task.seconds, task.steps)


def cut_off(base: type, clock: Clock) -> Any:
    """A callback of Lightning that stops the trainer at the end of the step in which the clock runs out.

    Args:
        base: `Callback` of the Lightning that the library uses: `pytorch_lightning` and `lightning.pytorch` refuse
            each other's.
        clock: With the limits.
    """

    class CutOff(base):  # type: ignore[misc]
        def on_train_start(self, trainer: Any, module: Any) -> None:
            clock.start()

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if clock.tick():
                trainer.should_stop = True

    return CutOff()


def trainer_options(base: type, clock: Clock) -> dict[str, Any]:
    """Options of a Lightning trainer: the CPU, the cut-off, no output. Everything else is the library's own."""
    return {
        "callbacks": [cut_off(base, clock)],
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tempfile.mkdtemp(),
    }


@dataclass(frozen=True)
class Fitted:
    """A trained forecaster.

    Attributes:
        clock: When its training steps ended.
        convert: A long table into the form that the library predicts from; not part of any time.
        predict: That form into a table made by `forecasts`.
    """

    clock: Clock
    convert: Callable[[pl.DataFrame], Any]
    predict: Callable[[Any], pl.DataFrame]


def series_of(table: pl.DataFrame) -> dict[str, NDArray[np.float64]]:
    """The values of each series of a long table, in the order of the table."""
    ids, starts = np.unique(table["unique_id"].rle_id().to_numpy(), return_index=True)
    values = np.split(table["y"].to_numpy(), starts[1:])
    return dict(zip(table["unique_id"].gather(starts[: len(ids)]).to_list(), values, strict=True))


def forecasts(
    ids: list[str], point_nF: NDArray[Any], low_nF: NDArray[Any] | None = None, high_nF: NDArray[Any] | None = None
) -> pl.DataFrame:
    """Columns `unique_id`, `step` (from 1), `point`, and `low` and `high` of the 80 % interval where there is one."""
    count, horizon = point_nF.shape
    columns = {"point": point_nF, "low": low_nF, "high": high_nF}
    steps = np.tile(np.arange(1, horizon + 1), count)
    owner = pl.Series("unique_id", ids).gather(np.repeat(np.arange(count), horizon))
    values = [pl.Series(name, given.ravel()).cast(pl.Float64) for name, given in columns.items() if given is not None]
    return pl.DataFrame([owner, pl.Series("step", steps), *values])


def numbered(table: pl.DataFrame) -> pl.DataFrame:
    """A table of forecasts with the column `step` that counts the rows of each series in the order of `ds`."""
    return table.sort("unique_id", "ds").with_columns(pl.int_range(1, pl.len() + 1).over("unique_id").alias("step"))
