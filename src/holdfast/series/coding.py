"""Covariates as numbers: what is text becomes a column per category, and categories stay those of the fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from holdfast.series.findings import Findings, listed


@dataclass(frozen=True, eq=False)
class Features:
    """Columns of numbers (float32, [rows, number of names]) and their names."""

    values: NDArray[np.float32]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Coding:
    """One-hot coding of text.

    Attributes:
        categories: Values of each column of text, sorted.

    Example:
        >>> covariates = pl.DataFrame({"day": ["Sat", "Sun"], "price": pl.Series([1.0, 2.0], dtype=pl.Float32)})
        >>> features = Coding.of(covariates).features(list(covariates), 2, Findings("the table"))
        >>> features.names, features.values.tolist()
        (('day=Sat', 'day=Sun', 'price'), [[1.0, 0.0, 1.0], [0.0, 1.0, 2.0]])
    """

    categories: dict[str, list[str]]

    @classmethod
    def of(cls, covariates: pl.DataFrame, categories: Mapping[str, Sequence[str]] | None = None) -> Coding:
        """The coding of a fit: that of its categories, or of those in a table."""
        if categories is not None:
            return cls({name: list(words) for name, words in categories.items()})
        text = [column for column in covariates if column.dtype == pl.String]
        return cls({column.name: sorted(column.drop_nulls().unique()) for column in text})

    def features(self, covariates: Sequence[pl.Series], rows: int, findings: Findings) -> Features:
        """Covariates as numbers, nan where missing; text that the fit did not have is 0 in all of its columns.

        Args:
            covariates: Columns of float32 or text.
            rows: Their length, in case that there are none.
            findings: Takes a note about new text, and a problem where there is text instead of numbers.
        """
        columns: dict[str, pl.Series] = {}
        for column in covariates:
            if column.name not in self.categories:
                columns[column.name] = column
                if column.dtype == pl.String:
                    got, fix = repr(column.drop_nulls()[0]), "write numbers, or fit again"
                    findings.report(f"column {column.name!r}", expected="numbers, as in fitting", got=got, fix=fix)
            else:
                words = _as_words(column)
                self._note_new(words, findings)
                columns |= {f"{words.name}={word}": words == word for word in self.categories[words.name]}
        values = np.empty((rows, len(columns)), dtype=np.float32)
        for position, column in enumerate(columns.values()):
            values[:, position] = column.cast(pl.Float32, strict=False).fill_null(float("nan")).to_numpy()
        return Features(values, tuple(columns))

    def _note_new(self, words: pl.Series, findings: Findings) -> None:
        given = words.drop_nulls().unique(maintain_order=True)
        new = given.filter(~given.is_in(self.categories[words.name])).to_list()
        if new:
            findings.concern(
                f"column {words.name!r}: {listed(new)} did not occur in the fit, and is read as no category"
            )


def _as_words(column: pl.Series) -> pl.Series:
    """Text, also of a column that holds nothing but whole numbers this time."""
    if column.dtype.is_numeric() and (column == column.round()).all():
        column = column.cast(pl.Int64, strict=False)
    words: pl.Series = column.cast(pl.String)
    return words
