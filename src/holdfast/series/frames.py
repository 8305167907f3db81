"""Dataframes in and out: any kind to polars, and back to its own kind."""

from __future__ import annotations

from typing import Any, Literal

import narwhals as nw
import polars as pl

from holdfast.errors import DataError, Problem

Kind = Literal["pandas", "polars", "pyarrow"]


def as_polars(df: Any) -> tuple[pl.DataFrame, Kind]:
    """Take a dataframe of any supported kind.

    A named pandas index becomes columns, so that an index (unique_id, ds) works.

    Args:
        df: A pandas or polars frame (a LazyFrame is collected) or a pyarrow table.

    Returns:
        The table, and the kind to hand to `like`.

    Raises:
        DataError: If it is something else, or holds columns that polars cannot.

    Example:
        >>> import pandas as pd
        >>> frame, kind = as_polars(pd.DataFrame({"y": [1, 2]}, index=pd.Index([7, 8], name="ds")))
        >>> frame.columns, kind
        (['ds', 'y'], 'pandas')
    """
    if isinstance(df, pl.LazyFrame):
        df = df.collect()
    kinds: dict[nw.Implementation, Kind] = {
        nw.Implementation.PANDAS: "pandas",
        nw.Implementation.POLARS: "polars",
        nw.Implementation.PYARROW: "pyarrow",
    }
    try:
        native = nw.from_native(df, eager_only=True, pass_through=True)
        if isinstance(native, nw.DataFrame) and native.implementation in kinds:
            kind = kinds[native.implementation]
            return (_from_pandas(df) if kind == "pandas" else native.to_polars()), kind
    except (TypeError, ValueError, ImportError, pl.exceptions.PolarsError, nw.exceptions.NarwhalsError) as error:
        raise _unfit(str(error)) from error
    got = f"{type(df).__module__.split('.')[0]}.{type(df).__name__}"
    fix = "convert it, or write it to a .csv or .parquet file"
    raise DataError(Problem("the table", "a pandas or polars dataframe or a pyarrow table", got, fix))


def _from_pandas(df: Any) -> pl.DataFrame:
    """A pandas frame with the named levels of its index as columns."""
    levels = [name for name in df.index.names if name is not None and name not in df.columns]
    df = df.reset_index(level=levels) if levels else df
    if any(str(dtype).startswith("period") for dtype in df.dtypes):
        raise _unfit("a column of periods")  # Arrow would store them as plain numbers
    frame: pl.DataFrame = nw.from_native(df, eager_only=True).to_polars()
    return frame


def like(frame: pl.DataFrame, kind: Kind) -> Any:
    """Turn a table into the kind that came in.

    Args:
        frame: The table.
        kind: What `as_polars` returned beside it.

    Returns:
        A pandas or polars frame or a pyarrow table.

    Example:
        >>> like(pl.DataFrame({"y": [1.5]}), "pandas")["y"].tolist()
        [1.5]
    """
    if kind == "pandas":
        return frame.to_pandas()
    return frame.to_arrow() if kind == "pyarrow" else frame


def _unfit(got: str) -> DataError:
    fix = "give every column its own name and one type: numbers, text, dates or datetimes (not periods)"
    return DataError(Problem("the table", "columns that Arrow can hold", got, fix))
