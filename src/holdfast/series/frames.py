"""Dataframes in and out: any kind to polars, and back to its own kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import polars as pl
from narwhals.dependencies import is_pandas_dataframe, is_pandas_series

from holdfast.errors import DataError, Problem
from holdfast.series.calendar import Freq
from holdfast.series.findings import listed
from holdfast.series.options import TableOptions

Library = Literal["pandas", "polars", "pyarrow"]
# A period has the time of its start: what pandas calls by an end is called by a start here.
_STARTS = {"M": "MS", "Q": "QS", "Y": "YS", "A": "YS"}


@dataclass(frozen=True)
class Kind:
    """The kind of a dataframe.

    Attributes:
        library: pandas, polars or pyarrow.
        dtypes: Types of the columns of ids and times as that library calls them, by name, where polars has others.

    Example:
        >>> Kind("pandas", {"month": "period[M]"}).freq("month")
        Freq(text='1mo')
    """

    library: Library = "polars"
    dtypes: Mapping[str, str] = field(default_factory=dict)

    def freq(self, name: str) -> Freq | None:
        """The calendar step of a column of periods; None for any other column."""
        match = re.fullmatch(r"period\[(\d*)([A-Za-z]+)(-[A-Z]+)?\]", self.dtypes.get(name, ""))
        if match is None or match[2] in ("us", "ns"):
            return None
        return Freq.parse(f"{match[1]}{_STARTS.get(match[2], match[2])}")


def as_polars(df: Any, options: TableOptions | None = None) -> tuple[pl.DataFrame, Kind, tuple[str, ...]]:
    """Take a dataframe of any supported kind.

    A pandas index becomes columns where it holds the times, or has a name; a pandas Series is the target.

    Args:
        df: A pandas frame or Series, a polars frame (a LazyFrame is collected), a pyarrow table or anything that
            exports Arrow data, or a dict of columns.
        options: The columns of ids, times and target.

    Returns:
        The table, the kind to hand to `like`, and what was done that should be known.

    Raises:
        DataError: If it is something else, or a column holds values of several types.

    Example:
        >>> import pandas as pd
        >>> days = pd.date_range("2024-01-31", periods=2)
        >>> frame, kind, _ = as_polars(pd.DataFrame({"y": [1, 2]}, index=days))
        >>> frame.columns, kind.library
        (['ds', 'y'], 'pandas')
    """
    options = options or TableOptions()
    if is_pandas_dataframe(df) or is_pandas_series(df):
        return _from_pandas(df, options)
    if isinstance(df, pl.DataFrame | pl.LazyFrame):
        return (df.collect() if isinstance(df, pl.LazyFrame) else df), Kind(), ()
    if isinstance(df, dict):
        return _unless_unfit(lambda: pl.DataFrame({str(name): values for name, values in df.items()})), Kind(), ()
    import pyarrow as pa

    try:
        table = pa.table(df)  # also a record batch, a reader, and what others export through the Arrow interface
    except (TypeError, ValueError) as error:
        raise _unknown(df) from error
    _check_names(table.column_names)
    frame = _unless_unfit(lambda: pl.DataFrame(table))
    types = {each.name: str(each.type) for each in table.schema}
    return frame, _kind("pyarrow", frame, types, options), ()


def like(frame: pl.DataFrame, kind: Kind) -> Any:
    """Turn a table into the kind that came in; ids and times get the types that they came in.

    Args:
        frame: The table.
        kind: What `as_polars` returned with it.

    Returns:
        A pandas or polars frame or a pyarrow table.

    Example:
        >>> from datetime import date
        >>> like(pl.DataFrame({"ds": [date(2024, 5, 1)]}), Kind("pandas", {"ds": "period[M]"}))["ds"].tolist()
        [Period('2024-05', 'M')]
    """
    dtypes = {name: dtype for name, dtype in kind.dtypes.items() if name in frame.columns}
    if kind.library == "pandas":
        return frame.to_pandas().astype(dtypes)
    if kind.library == "pyarrow":
        import pyarrow as pa

        table = frame.to_arrow()
        types = {name: pa.type_for_alias(dtype) for name, dtype in dtypes.items()}
        return table.cast(pa.schema([(each.name, types.get(each.name, each.type)) for each in table.schema]))
    return frame


def _kind(library: Library, frame: pl.DataFrame, given: Mapping[str, str], options: TableOptions) -> Kind:
    """The kind of a frame, with those types of ids and times that polars would not bring back by itself."""
    keys = [name for name in (*options.id_cols, options.time_col) if name in frame.columns]
    back = like(frame.select(keys).head(0), Kind(library))
    plain = {name: str(back.dtypes[name] if library == "pandas" else back.schema.field(name).type) for name in keys}
    other = {name: given[name] for name in keys if given[name] != plain[name] and _can_come_back(library, given[name])}
    if options.time_col in other:
        other["cutoff"] = other[options.time_col]
    return Kind(library, other)


def _can_come_back(library: Library, dtype: str) -> bool:
    """Whether a type can be made from its name alone."""
    if library == "pandas":
        return dtype != "object"  # whatever it held came back as a type of its own
    import pyarrow as pa

    try:
        pa.type_for_alias(dtype)
    except ValueError:
        return False
    return True


def _from_pandas(df: Any, options: TableOptions) -> tuple[pl.DataFrame, Kind, tuple[str, ...]]:
    """A pandas frame or Series, with the levels of its index that have a use as columns."""
    series = df.ndim == 1
    df = df.to_frame(options.target_col) if series else df.set_axis([str(name) for name in df.columns], axis=1)
    _check_names(list(df.columns))
    df, notes = _index_as_columns(df, options, numbers=series)
    columns = {name: _column(df[name]) for name in df.columns}
    mixed = [name for name in (*options.id_cols, *options.covariates) if isinstance(columns.get(name), list)]
    if mixed:
        raise DataError([_mixed(name, df[name]) for name in mixed])
    frame = pl.DataFrame(columns, schema_overrides={name: pl.String for name in df if isinstance(columns[name], list)})
    return frame, _kind("pandas", frame, {name: str(dtype) for name, dtype in df.dtypes.items()}, options), notes


def _index_as_columns(df: Any, options: TableOptions, *, numbers: bool) -> tuple[Any, tuple[str, ...]]:
    """The index as columns: its one level of times as the time column, the others as the ids that are lacking.

    Levels that are called otherwise get the names of these columns, which is noted; a Series may have whole numbers.
    """
    index, taken = df.index, set(df.columns)
    names = [None if name is None else str(name) for name in index.names]
    values = [index.get_level_values(level) for level in range(index.nlevels)]
    renamed: dict[int, str] = {}
    if options.time_col not in taken and options.time_col not in names:
        times = [level for level, each in enumerate(values) if each.inferred_type in ("datetime64", "period", "date")]
        times = [0] if not times and numbers and index.nlevels == 1 and values[0].inferred_type == "integer" else times
        renamed |= dict.fromkeys(times, options.time_col) if len(times) == 1 else {}
    if index.nlevels > 1 and (renamed or options.time_col in names):
        others = [k for k, name in enumerate(names) if k not in renamed and name not in (options.time_col, *taken)]
        others = [level for level in others if names[level] not in options.id_cols]
        lacking = [name for name in options.id_cols if name not in taken and name not in names]
        renamed |= dict(zip(others, lacking, strict=True)) if len(others) == len(lacking) else {}
    notes = [
        f"column {new!r}: read from the index {names[level]!r}"
        if names[level]
        else f"column {new!r}: read from the index"
        for level, new in sorted(renamed.items())
    ]
    names = [renamed.get(level, name) for level, name in enumerate(names)]
    kept = [level for level, name in enumerate(names) if name is not None and name not in taken]
    df = df.set_axis(index.set_names(names if index.nlevels > 1 else names[0]))
    return (df.reset_index(level=kept) if kept else df), tuple(notes)


def _column(column: Any) -> pl.Series | list[str | None]:
    """A pandas column as polars has it; as a list of text where its values are of several types."""
    dtype = str(column.dtype)
    if dtype.startswith("period"):
        column = column.dt.to_timestamp()
    elif dtype.startswith("Sparse"):
        column = column.sparse.to_dense()
    elif dtype == "category" and column.cat.categories.inferred_type != "string":
        column = column.astype(object)
    try:
        values: Any = pl.from_pandas(column.reset_index(drop=True))
    except (TypeError, ValueError, ArithmeticError, NotImplementedError, pl.exceptions.PolarsError):
        return _texts(column)
    cut_short = dtype == "object" and values.dtype == pl.Date and any(isinstance(value, datetime) for value in column)
    return _texts(column) if cut_short else values


def _texts(column: Any) -> list[str | None]:
    return [None if lost else str(value) for value, lost in zip(column, column.isna(), strict=True)]


def _mixed(name: str, column: Any) -> Problem:
    """The problem of a column with values of several types: all that are not of its most common one."""
    given = [(row, value) for row, (value, lost) in enumerate(zip(column, column.isna(), strict=True)) if not lost]
    common = Counter(type(value) for _, value in given).most_common(1)[0][0]
    others = [(row, value) for row, value in given if type(value) is not common] or given
    got = listed(others, lambda item: f"{item[1]!r} ({type(item[1]).__name__}) in row {item[0]}")
    expected = (
        "numbers, text or times" if others is given else f"one type in the whole column, such as {common.__name__}"
    )
    fix = f"correct these rows, or make all of it text: df[{name!r}] = df[{name!r}].astype(str)"
    return Problem(f"the table, column {name!r}", expected, got, fix)


def _unless_unfit(make: Callable[[], pl.DataFrame]) -> pl.DataFrame:
    try:
        return make()
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        got, fix = str(error).splitlines()[0], "give each column as many values, of one type: numbers, text or times"
        raise DataError(Problem("the table", "columns that polars can hold", got, fix)) from error


def _check_names(names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        got = f"{', '.join(map(repr, twice))} more than once"
        raise DataError(Problem("the table", "a name of its own for each column", got, "rename or drop one of them"))


def _unknown(df: Any) -> DataError:
    got = f"{type(df).__module__.split('.')[0]}.{type(df).__name__}"
    fix = "make a dataframe of it, with a column of times (Dask: .compute(), DuckDB: .pl(), Spark: .toPandas())"
    return DataError(Problem("the table", "a pandas or polars dataframe, a pyarrow table, or a path", got, fix))
