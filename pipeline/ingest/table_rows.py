"""Rows of the data lake's tables, each as one line of JSON for Firehose and DuckDB.

Invariants: a row's values are in its table's order; times are UTC as `YYYY-MM-DD HH:MM:SS.ffffff`, a form that the
OpenX JSON SerDe of Firehose reads; unknown values are omitted from the line, which reads as NULL.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.analytics.lake_schema import PARTITIONS, TABLES

if TYPE_CHECKING:
    from collections.abc import Mapping

Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Partition:
    """The partition of a row."""

    table: str  # a key of `lake_schema.TABLES`
    site: str
    line: str
    day: str  # UTC, YYYY-MM-DD, of the message

    @property
    def partition_keys(self) -> dict[str, str]:
        """The partition's keys by name, in the form of Firehose's dynamic partitioning."""
        return dict(zip((column.name for column in PARTITIONS), (self.site, self.line, self.day), strict=True))


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table."""

    partition: Partition
    values: tuple[Value, ...]

    def to_json_line(self, *, with_partition: bool = False) -> str:
        """The row as one line of JSON without a newline; `with_partition` adds site, line and day."""
        named: dict[str, Value] = {
            name: value
            for name, value in zip(TABLES[self.partition.table].column_names, self.values, strict=True)
            if value is not None
        }
        if with_partition:
            named |= self.partition.partition_keys
        return json.dumps(named, separators=(",", ":"))


def make_row(partition: Partition, named: Mapping[str, Value]) -> Row:
    """Return the row with the values of `named`; missing columns are NULL. Raises KeyError for an unknown name."""
    names = TABLES[partition.table].column_names
    if unknown := set(named) - set(names):
        raise KeyError(f"{partition.table} has no column {', '.join(sorted(unknown))}")
    return Row(partition, tuple(named.get(name) for name in names))


def format_timestamp(utc_us: int) -> str:
    """Format microseconds since 1970 UTC for a row. Raises OverflowError or ValueError for times after 9999."""
    seconds, micros = divmod(utc_us, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{micros:06d}"


def utc_day(utc_us: int) -> str:
    """The UTC day of a time in microseconds, YYYY-MM-DD; raises like `format_timestamp`."""
    return f"{datetime.fromtimestamp(utc_us // 1_000_000, UTC):%Y-%m-%d}"
