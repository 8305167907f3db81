"""The rows of a table on the regular grid of their series: sorted, without duplicates, without gaps.

Legend: n series, N given rows, sorted by series and time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.errors import HoldfastError
from holdfast.series.calendar import ROWS, Freq
from holdfast.series.findings import Findings, listed, series_name
from holdfast.series.inference import infer_freq, infer_rows
from holdfast.series.options import TableOptions
from holdfast.series.snapping import snap
from holdfast.series.stamps import Stamps
from holdfast.series.times import is_clock_change
from holdfast.series.values import Values
from holdfast.series.wall import Ints
from holdfast.series.zones import in_zone

Flags = NDArray[np.bool_]
LOCAL_TIME = (
    "the clocks change at this hour: the times look like local time without a zone; give them in UTC or with a zone"
)


@dataclass(frozen=True)
class Grid:
    """Where each given row belongs.

    Attributes:
        order: Row number in the table of each row [N].
        ids: Keys of the series, sorted [n].
        times: Times of the rows [N].
        first: Range of rows of each series [n + 1].
        steps: Steps since the first row of its series [N].
        lengths: Steps up to the forecast: from the first row to the last one that is not of the future, missing ones
            included [n].
        freq: Calendar step.
        stamps: How the table writes its times.
    """

    order: Ints
    ids: pl.Series
    times: pl.Series
    first: Ints
    steps: Ints
    lengths: Ints
    freq: Freq
    stamps: Stamps

    @property
    def starts(self) -> pl.Series:
        """Time of the first row of each series [n]."""
        return self.times.gather(self.first[:-1])

    @property
    def series(self) -> Ints:
        """Series number of each row [N]."""
        return np.repeat(np.arange(len(self.ids)), np.diff(self.first))

    @property
    def extents(self) -> Ints:
        """Steps from the first to the last given row, those of the future and missing ones included [n]."""
        return self.steps[self.first[1:] - 1] + 1

    @property
    def missing(self) -> Ints:
        """Rows between the first and the last one of each series that are not there [n]."""
        return self.extents - np.diff(self.first)

    def at(self, series: Ints, steps: Ints) -> pl.Series:
        """The time of each step of a series.

        Args:
            series: Numbers of series.
            steps: As many steps, from the first row of the series on.
        """
        if not self.freq.by_rows:
            return self.freq.at(self.starts.gather(series), steps)
        last = np.diff(self.first)[series] - 1
        given = self.times.gather(self.first[series] + np.minimum(steps, last))
        after = np.flatnonzero(steps > last)
        return given.scatter(after, self.freq.at(given.gather(after), (steps - last)[after])) if len(after) else given

    def name_row(self, i: int, findings: Findings) -> str:
        """Row i of the N as a person finds it in the table."""
        series = int(np.searchsorted(self.first, i, side="right")) - 1
        return f"{series_name(self.ids[series])} at {self.stamp(i)} ({findings.row(int(self.order[i]))})"

    def stamp(self, i: int) -> str:
        """The time of row i of the N as the table writes it, with its weekday where the calendar depends on that."""
        written = str(self.stamps.write(self.times[i : i + 1])[0])
        weekly = self.freq.unit == "b" or (self.freq.slots is not None and self.freq.slots.weeks == 1)
        return f"{self.times[i : i + 1].dt.to_string('%A')[0]} {written}" if weekly else written


def place_rows(values: Values, options: TableOptions, findings: Findings) -> Grid | None:
    """Sort the rows, find the frequency, and report every row that is doubled, off the grid or missing.

    Returns:
        The grid, or None where ids, times or the frequency cannot be told.
    """
    ids, times, stamps = values.ids, values.times, values.stamps
    if ids is None or times is None or stamps is None:
        return None
    whole = np.flatnonzero((ids.is_not_null() & times.is_not_null()).to_numpy())
    if not len(whole):
        return None
    times = in_zone(ids, times, options.tz, findings)
    if times is None:
        return None
    order = _sort(ids, times, whole, findings)
    freq = options.freq
    if options.snap:
        moved = _snapped(ids, times, order, freq, findings)
        if moved is None:
            return None
        times, freq = moved
    sorted_ids, sorted_times = ids.gather(order), times.gather(order)
    new = _starts_series(sorted_ids)
    double = ~new & (sorted_times == sorted_times.shift(1)).fill_null(False).to_numpy()
    if double.any():
        _report_double(sorted_ids, stamps.write(sorted_times), order, double, findings)
        order, new = order[~double], new[~double]
        sorted_ids, sorted_times = ids.gather(order), times.gather(order)
    first = np.append(np.flatnonzero(new), len(order))
    known = _frequency(sorted_ids, sorted_times, first, freq, findings)
    if known is None:
        return None
    series = np.repeat(np.arange(len(first) - 1), np.diff(first))
    number = np.arange(len(order)) - first[series]
    if known.text == ROWS:
        sorted_times, stamps = pl.Series("ds", number), Stamps("", pl.Int64())
    starts = sorted_times.gather(first[series])
    steps = number if known.by_rows else known.steps(starts, sorted_times)
    lengths = _lengths(steps, first, values.ahead[order], options)
    grid = Grid(order, sorted_ids.gather(first[:-1]), sorted_times, first, steps, lengths, known, stamps)
    if len(whole) == len(ids) and not known.by_rows:  # a row without a time would be reported once more, as a gap
        _check_grid(grid, (known.at(starts, steps) == sorted_times).to_numpy(), options, findings)
    return grid


def _snapped(
    ids: pl.Series, times: pl.Series, order: Ints, freq: str | int | None, findings: Findings
) -> tuple[pl.Series, str | int] | None:
    """All times on the nearest steps of a grid, in the order of the table."""
    sorted_times = times.gather(order)
    ticks = sorted_times.to_physical().cast(pl.Int64)
    before = np.flatnonzero(~_starts_series(ids.gather(order))[1:] & (np.diff(ticks.to_numpy()) > 0))
    moved = snap(sorted_times, before, None if freq is None else Freq.parse(freq), findings)
    return None if moved is None else (times.clone().scatter(order, moved[0]), moved[1].text)


def _lengths(steps: Ints, first: Ints, ahead: Flags, options: TableOptions) -> Ints:
    """Steps of each series before its first row of the future.

    More rows than are to be forecast, with nothing in them, are an outage of all series, and no future.
    """
    given = steps[first[1:] - 1] + 1
    end = np.where(ahead, steps, np.iinfo(np.int64).max)
    before = np.minimum(np.minimum.reduceat(end, first[:-1]), given)
    outage = options.horizon is not None and not options.future and (given - before).max() > options.horizon
    return np.asarray(given if outage else before)


def _sort(ids: pl.Series, times: pl.Series, whole: Ints, findings: Findings) -> Ints:
    """Row numbers by id and time; equal rows stay in their order."""
    id_codes, ds_codes = _codes(sort_key(ids)[whole]), _codes(times[whole])
    key = id_codes * len(whole) + ds_codes  # one integer sorts much faster than text and time
    if not (np.diff(key) < 0).any():
        return whole
    by_id = np.argsort(id_codes, kind="stable")  # series may stand in any order, or row by row beside each other
    backwards = int(((np.diff(key[by_id]) < 0) & (np.diff(id_codes[by_id]) == 0)).sum())
    if backwards:
        findings.notes.append(f"sorted by time (rows that stood below a later one of their series: {backwards})")
    return np.asarray(whole[np.argsort(key, kind="stable")])


def _codes(keys: pl.Series) -> Ints:
    """The rank of each key among the different keys."""
    ranks = keys.unique().sort().to_frame("key").with_row_index("rank")
    joined = keys.to_frame("key").join(ranks, on="key", how="left", maintain_order="left")
    return np.asarray(joined["rank"].cast(pl.Int64).to_numpy())


def sort_key(ids: pl.Series) -> pl.Series:
    """Ids as they sort: a categorical by its text, whatever the order in which the categories were met."""
    if isinstance(ids.dtype, pl.Struct):
        return pl.DataFrame([sort_key(column) for column in ids.struct.unnest()]).to_struct(ids.name)
    return ids.cast(pl.String) if ids.dtype == pl.Categorical else ids


def _starts_series(sorted_ids: pl.Series) -> Flags:
    return (sorted_ids != sorted_ids.shift(1)).fill_null(True).to_numpy()


def _frequency(
    ids: pl.Series, times: pl.Series, first: Ints, freq: str | int | None, findings: Findings
) -> Freq | None:
    """The given frequency if it fits the type of the times, else the inferred one."""
    try:
        if freq == ROWS:
            return _by_rows(infer_rows(times, ids, first), findings)
        known = infer_freq(times, ids, findings.source) if freq is None else Freq.parse(freq)
    except HoldfastError as error:
        findings.adopt(error)
        return None
    whole_numbers = times.dtype.is_integer()
    if whole_numbers != (known.unit == ""):
        expected = f"times that step by {known.text}" if known.unit else f"whole numbers that step by {known.text}"
        got = "whole numbers" if whole_numbers else f"times of type {times.dtype}"
        fix = "write the times as dates" if whole_numbers else "write the times as whole numbers"
        findings.report("times", expected=expected, got=got, fix=fix)
        return None
    if known.sub_daily and times.dtype == pl.Date:
        got, fix = "dates without a time of day", "add the time of day"
        findings.report("times", expected=f"datetimes that step by {known.text}", got=got, fix=fix)
        return None
    return known


def _by_rows(freq: Freq, findings: Findings) -> Freq:
    """Say what taking each row as a step means for the times of forecasts."""
    then = "the times keep no calendar, so rows and forecasts are numbered"
    if freq.text != ROWS:
        then = f"forecasts continue in steps of {str(freq.text).removeprefix(f'{ROWS}:')}"
    findings.notes.append(f"took each row as one step; {then}")
    return freq


def _report_double(ids: pl.Series, times: pl.Series, order: Ints, double: Flags, findings: Findings) -> None:
    at = np.flatnonzero(double).tolist()

    def say(i: int) -> str:
        rows = f"{findings.row(int(order[i - 1]))} and {findings.row(int(order[i]))}"
        return f"{series_name(ids[i])} at {times[i]} in {rows}"

    fix = "keep one row for each time, or add the rows up; if they are several series, name their column with --id-col"
    if is_clock_change(times.gather(at)).mean() > 0.5:
        fix = f"{LOCAL_TIME} (an hour that the clock shows twice in autumn)"
    expected = "one row for each series and time"
    findings.report("times", expected=expected, got=f"duplicate rows: {listed(at, say)}", fix=fix)


def _check_grid(grid: Grid, fits: Flags, options: TableOptions, findings: Findings) -> None:
    """Report series of another frequency, rows off the grid, and gaps."""
    leap = np.diff(grid.steps, prepend=grid.steps[0])
    leap[grid.first[:-1]] = 1
    if fits.all() and (leap == 1).all():
        return
    fits_above = np.append(True, fits[:-1])
    # Who asks to fill gaps may have sparse series, a few rows of which happen to be evenly spaced.
    other = _other_frequency(grid, fits & fits_above & (leap == 1), fewest=10 if options.fill_gaps else 3)
    if other.any():
        _report_other_frequency(grid, np.flatnonzero(other).tolist(), findings)
    same = ~other[grid.series]
    off = np.flatnonzero(~fits & same).tolist()
    if off:
        fix = "correct these times"
        expected = f"times that step by {grid.freq.text} from the first row of each series"
        got = f"off the grid: {listed(off, lambda i: grid.name_row(i, findings))}"
        findings.report("times", expected=expected, got=got, fix=fix)
    before = np.flatnonzero(same & fits & fits_above & (leap > 1)) - 1
    if len(before):
        _judge_gaps(grid, before, leap[before + 1] - 1, options, findings)


def _other_frequency(grid: Grid, regular: Flags, fewest: int) -> Flags:
    """Series of enough rows with no regular step, whose steps are about equal (months vary by 11 %)."""
    inner = np.ones(len(regular), dtype=bool)
    inner[grid.first[:-1]] = False
    some_regular = np.add.reduceat(regular & inner, grid.first[:-1]) > 0
    ticks = grid.times.to_physical().cast(pl.Int64).to_numpy()
    step = np.diff(ticks, prepend=ticks[0])
    shortest = np.minimum.reduceat(np.where(inner, step, np.iinfo(np.int64).max), grid.first[:-1])
    longest = np.maximum.reduceat(np.where(inner, step, 0), grid.first[:-1])
    return ~some_regular & (np.diff(grid.first) >= fewest) & (longest <= 1.15 * shortest)


def _report_other_frequency(grid: Grid, series: list[int], findings: Findings) -> None:
    def say(i: int) -> str:
        own = _own_frequency(grid.times[int(grid.first[i]) : int(grid.first[i + 1])])
        return f"{own} from {grid.name_row(int(grid.first[i]), findings)} on"

    fix = "forecast each frequency by itself, or aggregate to one frequency first"
    if len(series) == len(grid.ids):
        fix = "aggregate the rows to this frequency first"
    expected = f"one frequency in all series, {grid.freq.text}"
    findings.report("times", expected=expected, got=f"other frequencies: {listed(series, say)}", fix=fix)


def _own_frequency(times: pl.Series) -> str:
    try:
        return str(infer_freq(times).text)
    except HoldfastError:
        return "no regular step"


def _judge_gaps(grid: Grid, before: Ints, missing: Ints, options: TableOptions, findings: Findings) -> None:
    """Report gaps, or note that they will be filled."""
    total, touched = int(missing.sum()), len(np.unique(grid.series[before]))
    counted = f"missing rows: {total}, in {touched} of {len(grid.ids)} series"
    covariates = options.future  # rows without past covariates are read as any gap in them
    if options.fill_gaps and not covariates and total <= 100 * len(grid.order):
        findings.notes.append(f"inserted {counted}; y is missing there")
        return

    def say(k: int) -> str:
        return f"{missing[k]} after {grid.name_row(int(before[k]), findings)}"

    fix = "insert the rows"
    if covariates:
        names = ", ".join(repr(name) for name in covariates)
        fix = f"insert the rows with their covariates ({names}), which cannot be invented, or leave the covariates out"
    elif options.fill_gaps:
        fix = "correct the times: there are more than a hundred times as many rows missing as given"
    if _hours_skipped(grid, before, missing).mean() > 0.5:
        fix = f"{LOCAL_TIME} (an hour that the clock skips in spring); or {fix}"
    expected = f"one row every {grid.freq.text} from the first to the last row of a series"
    findings.report("times", expected=expected, got=f"{counted}: {listed(range(len(before)), say)}", fix=fix)


def _hours_skipped(grid: Grid, before: Ints, missing: Ints) -> Flags:
    """Whether what is missing is one hour, at which clocks go forward."""
    skipped, back = (grid.at(grid.series[before], grid.steps[before] + 1 + extra) for extra in (0, missing))
    if not isinstance(skipped.dtype, pl.Datetime):
        return np.zeros(len(before), dtype=bool)
    return np.asarray(((back - skipped).dt.total_minutes() == 60).to_numpy() & is_clock_change(skipped))
