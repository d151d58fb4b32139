"""The result of a query, and its forms as JSON, CSV and text."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.analytics.queries import Query

Value = str | int | float | bool | datetime | date | None


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The rows of one query, in its columns' order. Times are UTC without a zone."""

    query: Query
    parameters: Mapping[str, str]
    rows: tuple[tuple[Value, ...], ...]
    seconds: float  # time that the engine took

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(column.name for column in self.query.columns)

    def records(self) -> Iterator[dict[str, Value]]:
        """Each row by column name."""
        for row in self.rows:
            yield dict(zip(self.columns, row, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return the result as values for `json.dumps`."""
        return {
            "query": self.query.name,
            "version": self.query.version,
            "parameters": dict(self.parameters),
            "seconds": round(self.seconds, 3),
            "rows": [{key: to_json_value(value) for key, value in record.items()} for record in self.records()],
        }

    def to_csv(self) -> str:
        """Return the rows as CSV below a line of names."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([["" if value is None else to_json_value(value) for value in row] for row in self.rows])
        return text.getvalue()


def to_json_value(value: Value) -> str | int | float | bool | None:
    """Return `value` as a JSON value: times in ISO 8601."""
    return value.isoformat() if isinstance(value, date) else value


def from_engine_value(value: object) -> Value:
    """Convert a value of an engine: decimals become numbers, unknown types become text."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if value is None or isinstance(value, (str, int, float, bool, datetime, date)):
        return value
    return str(value)


def text_table(columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    """Format rows as aligned columns for a terminal; numbers to four significant digits."""
    cells = [[*columns], *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    right = [all(row[i] is None or isinstance(row[i], (int, float)) for row in rows) for i in range(len(columns))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    )


def _cell(value: Value) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return str(value)
