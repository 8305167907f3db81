"""The bundled data are the published data."""

from __future__ import annotations

import csv
import math
from importlib.resources import files
from pathlib import Path

import polars as pl
import pytest

from holdfast.series import m4_hourly

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "m4-hourly"


@pytest.mark.parametrize("part", ["train", "test"])
def test_m4_hourly_equals_the_published_files(part: str) -> None:
    if not PUBLISHED.is_dir():
        pytest.skip(f"the published CSV files are not at {PUBLISHED}")
    with (PUBLISHED / f"Hourly-{part}.csv").open(newline="") as lines:
        rows = [[field for field in row if field] for row in csv.reader(lines)][1:]
    table = m4_hourly("train" if part == "train" else "test")
    grouped = table.group_by("unique_id", maintain_order=True).agg("y")
    assert grouped["unique_id"].to_list() == [row[0] for row in rows]
    for ours, theirs in zip(grouped["y"], rows, strict=True):
        assert ours.to_list() == [float(field) for field in theirs[1:]]


def test_m4_hourly_is_what_it_was() -> None:
    table = m4_hourly()
    assert table.schema == {"unique_id": pl.String, "ds": pl.Int64, "y": pl.Float64}
    assert table["unique_id"].unique(maintain_order=True).to_list() == [f"H{number}" for number in range(1, 415)]
    y = table["y"].to_list()
    assert len(y) == 373_372
    assert math.fsum(y) == 2127339749.3
    assert math.fsum(row % 1009 * value for row, value in enumerate(y)) == 1033605299733.3334


def test_the_parts_make_the_whole() -> None:
    train, test, both = (m4_hourly(part) for part in ("train", "test", "all"))
    assert pl.concat([train, test]).sort("unique_id", "ds").equals(both.sort("unique_id", "ds"))
    assert test.group_by("unique_id").len()["len"].unique().to_list() == [48]
    assert set(train.group_by("unique_id").len()["len"]) == {700, 960}
    for table in (train, both):
        ds = table.select((pl.col("ds") == pl.int_range(1, pl.len() + 1).over("unique_id")).all()).item()
        assert ds


def test_the_source_and_its_licence_are_named() -> None:
    text = files("holdfast.series").joinpath("data/ATTRIBUTION.md").read_text()
    for word in ("Makridakis", "CC BY 4.0", "Monash", "Changes"):
        assert word in text
