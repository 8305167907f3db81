"""Local times: read in a time zone, the hour that the clock shows twice in autumn included."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl

from holdfast.series.findings import Findings, listed
from holdfast.series.wall import DAY, to_wall

COMMON = (
    *(f"Europe/{city}" for city in ("Berlin", "London", "Lisbon", "Athens", "Moscow", "Istanbul")),
    *(f"America/{city}" for city in ("New_York", "Chicago", "Denver", "Los_Angeles", "Phoenix", "Halifax")),
    *(f"America/{city}" for city in ("Sao_Paulo", "Santiago", "Mexico_City", "Bogota", "Buenos_Aires", "St_Johns")),
    *(f"Australia/{city}" for city in ("Sydney", "Adelaide", "Brisbane", "Perth")),
    *(f"Asia/{city}" for city in ("Tokyo", "Shanghai", "Kolkata", "Dubai", "Jakarta", "Jerusalem", "Karachi")),
    *("Pacific/Auckland", "Africa/Cairo", "Africa/Johannesburg", "Africa/Lagos", "Africa/Nairobi", "UTC"),
)


def in_zone(ids: pl.Series, times: pl.Series, zone: str | None, findings: Findings) -> pl.Series | None:
    """Times on the clock of a zone; dates and whole numbers have none and stay.

    Times without a zone are read as local. Of an hour that the clock shows twice, the first row of a series with a time
    is summer time and the second one winter time; in a table that runs backwards it is the other way round. None where
    the zone or a time does not exist.
    """
    if zone is None or not isinstance(times.dtype, pl.Datetime):
        return times
    try:
        pl.Series([0]).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(zone)
    except pl.exceptions.PolarsError:
        fix = "write it like --tz Europe/Vienna"
        findings.report("option --tz", expected="the name of a time zone", got=repr(zone), fix=fix)
        return None
    if times.dtype.time_zone is not None:
        return times.dt.convert_time_zone(zone)
    early, late = (
        times.dt.replace_time_zone(zone, ambiguous=which, non_existent="null") for which in ("earliest", "latest")
    )
    skipped = (early.is_null() & times.is_not_null()).arg_true()
    if len(skipped):
        wall = to_wall(times.drop_nulls(), local=False)
        if len(np.unique(wall % DAY)) > 1:
            got = listed(skipped.to_list(), lambda row: f"{times[row]} in {findings.row(row)}")
            fix = "correct these times, or give another zone"
            expected = f"times that the clock shows in {zone} (it goes forward then)"
            findings.report("times", expected=expected, got=got, fix=fix)
            return None
        shifted = (times + timedelta(hours=1)).dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        early, late = early.fill_null(shifted), late.fill_null(shifted)
    twice = (early != late).fill_null(False)
    if not twice.any():
        return early
    rows = pl.DataFrame({"id": ids, "ds": times}).with_row_index()
    same, ticks = ids == ids.shift(1), times.to_physical()
    backwards = (same & (ticks < ticks.shift(1))).sum() > (same & (ticks > ticks.shift(1))).sum()
    again = rows.select(pl.col("index").rank("ordinal", descending=bool(backwards)).over("id", "ds") > 1).to_series()
    read: pl.Series = early.zip_with(~(twice & again), late)
    return read


def zones_for(times: pl.Series, odd: pl.Series) -> list[str]:
    """Common zones in which odd times are no longer odd, for a trial.

    Args:
        times: Datetimes of all rows.
        odd: Naive times that are doubled or missing; empty for times with an offset.

    Returns:
        Zones whose clock shows `odd` twice or never; for times with an offset, zones in which all rows have one time of
        day.
    """
    if not isinstance(times.dtype, pl.Datetime):
        return []
    given = times.drop_nulls()
    if given.dtype.time_zone is not None:  # type: ignore[attr-defined]
        clocks = {zone: np.unique(to_wall(given.dt.convert_time_zone(zone), local=True) % DAY) for zone in COMMON}
        regular = [zone for zone, hours in clocks.items() if len(hours) == 1]
        return sorted(regular, key=lambda zone: int(clocks[zone][0] != 0))  # days start at midnight, mostly
    found = [
        zone
        for zone in COMMON
        if odd.dt.replace_time_zone(zone, ambiguous="null", non_existent="null").null_count() == len(odd)
    ]
    return found if len(odd) else []
