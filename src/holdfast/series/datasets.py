"""Data sets that come with the package."""

from __future__ import annotations

import io
from importlib.resources import files
from typing import Literal

import polars as pl

M4_HOURLY_HORIZON = 48


def m4_hourly(part: Literal["train", "test", "all"] = "all") -> pl.DataFrame:
    """The 414 hourly series of the M4 competition (Makridakis, Spiliotis, Assimakopoulos 2020; CC BY 4.0).

    Source, licence and changes are told in `holdfast/series/data/ATTRIBUTION.md`.

    Args:
        part: "train" leaves out the last 48 hours of each series, "test" is just these, "all" is both.

    Returns:
        unique_id (text, "H1" to "H414", in this order), ds (hours from the first on, counted from 1; int64),
        y (float64).

    Example:
        >>> m4_hourly("train").head(2).rows()
        [('H1', 1, 605.0), ('H1', 2, 586.0)]
        >>> m4_hourly("test").height == 414 * 48
        True
    """
    data = files("holdfast.series").joinpath("data/m4-hourly.parquet").read_bytes()
    table = pl.read_parquet(io.BytesIO(data)).select(
        "unique_id",
        pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("unique_id").alias("ds"),
        pl.col("y").cast(pl.Float64),
    )
    in_test = pl.col("ds") > pl.len().over("unique_id") - M4_HOURLY_HORIZON
    if part == "all":
        return table
    return table.filter(in_test if part == "test" else ~in_test)
