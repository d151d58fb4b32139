"""Reads the queries of pipeline/analytics/sql, checks them, and binds their parameters.

Promise: a file is one SELECT in Athena's dialect. Its head documents it: `name: summary`, `version`, one `param` line
for each `:name` in it and one `column` line for each column of the result, in order; a file whose head and body
disagree is refused. A parameter's value is checked against its kind and becomes a literal of the parsed statement:
a caller's text is never concatenated into SQL. The version grows with every change of the body; a test keeps the
digests.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import sqlglot
from sqlglot import exp

from agent.errors import OperatorError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER: Final = Path(__file__).parent / "sql"
Dialect = Literal["athena", "duckdb"]
FIRST_DAY: Final = "first_day"
LAST_DAY: Final = "last_day"

_HEAD: Final = re.compile(r"-- (\w+): (.+)")
_VERSION: Final = re.compile(r"-- version: ([1-9][0-9]*)")
_PARAM: Final = re.compile(r"-- param (\w+) (\S+) = (\S+): (.+)")
_COLUMN: Final = re.compile(r"-- column (\w+): (.+)")
_RANGE: Final = re.compile(r"(number|whole)\(([^.]+(?:\.[0-9]+)?)\.\.([^)]+)\)")
_NAME: Final = re.compile(r"\*|[A-Za-z0-9_-]{1,64}")
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class QueryError(OperatorError):
    """A query file is invalid, or an engine refused the query; the text names the file or the query."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One `:name` of a query."""

    name: str
    kind: str  # day, name, number(low..high), whole(low..high), or choices with | between
    default: str  # `first` and `last` of a day: the range of the engine's data
    meaning: str

    @property
    def describe_allowed(self) -> str:
        """The allowed values, as text for people."""
        if self.kind == "day":
            return "a day as YYYY-MM-DD"
        if self.kind == "name":
            return "a name of 1 to 64 letters, digits, _ and -, or * for all"
        found = _RANGE.fullmatch(self.kind)
        if found is None:
            return f"one of {', '.join(self.kind.split('|'))}"
        return f"a {'whole ' if found[1] == 'whole' else ''}number from {found[2]} to {found[3]}"

    def literal(self, value: str) -> exp.Expression:
        """Return `value` as a literal. Raises UsageError if its kind does not allow it."""
        found = _RANGE.fullmatch(self.kind)
        if found is not None:
            number = _number(value, whole=found[1] == "whole")
            if number is not None and float(found[2]) <= number <= float(found[3]):
                return exp.Literal.number(f"{number:d}" if isinstance(number, int) else f"{number!r}e0")
        elif self._is_text(value):
            return exp.Literal.string(value)
        raise UsageError(f"--param {self.name}={value[:80]!r}: {self.describe_allowed} is needed ({self.meaning}).")

    def _is_text(self, value: str) -> bool:
        if self.kind == "day":
            return _is_day(value)
        if self.kind == "name":
            return _NAME.fullmatch(value) is not None
        return value in self.kind.split("|")


def _number(value: str, *, whole: bool) -> float | int | None:
    pattern = r"-?[0-9]{1,15}" if whole else r"-?[0-9]{1,15}(\.[0-9]{1,20})?([eE]-?[0-9]{1,2})?"
    if not re.fullmatch(pattern, value, re.ASCII):
        return None
    return int(value) if whole else float(value)


def _is_day(value: str) -> bool:
    if not _DAY.fullmatch(value):
        return False
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class ColumnNote:
    """One column of the result."""

    name: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Query:
    """One query with its documentation."""

    name: str
    summary: str
    version: int
    parameters: tuple[Parameter, ...]
    columns: tuple[ColumnNote, ...]
    body: str  # Athena's dialect, with `:name` for parameters

    @property
    def digest(self) -> str:
        """SHA-256 of the body, lower-case hex."""
        return hashlib.sha256(self.body.encode()).hexdigest()

    def bind(self, given: Mapping[str, str], *, first_day: str, last_day: str) -> Mapping[str, str]:
        """Return the value of every parameter, given or default. Raises UsageError for an unknown name.

        `first_day` and `last_day` (YYYY-MM-DD) are the first and last day of the engine's data.
        """
        known = {parameter.name for parameter in self.parameters}
        unknown = sorted(set(given) - known)
        if unknown:
            names = ", ".join(parameter.name for parameter in self.parameters)
            raise UsageError(f"{self.name} has no parameter {unknown[0][:80]!r}. It has: {names}.")
        ends = {"first": first_day, "last": last_day}
        values = {p.name: given.get(p.name, ends.get(p.default, p.default)) for p in self.parameters}
        for parameter in self.parameters:
            parameter.literal(values[parameter.name])
        if values.get(FIRST_DAY, "") > values.get(LAST_DAY, "9"):
            raise UsageError(f"first_day {values[FIRST_DAY]} lies after last_day {values[LAST_DAY]}.")
        return values

    def sql(self, values: Mapping[str, str], dialect: Dialect) -> str:
        """Return the statement with all of `values` (see `bind`) as literals. Raises UsageError, QueryError."""
        by_name = {parameter.name: parameter for parameter in self.parameters}

        def bound(node: exp.Expression) -> exp.Expression:
            if isinstance(node, exp.Placeholder):
                parameter = by_name[str(node.this)]
                return parameter.literal(values[parameter.name])
            return node

        return _parsed(self.name, self.body).transform(bound).sql(dialect=dialect)


def _parsed(name: str, body: str) -> exp.Query:
    try:
        statements = sqlglot.parse(body, read="athena")
    except sqlglot.errors.SqlglotError as error:
        raise QueryError(f"{name}.sql is not Athena's SQL: {error}.") from error
    first = statements[0] if len(statements) == 1 else None
    if not isinstance(first, exp.Query):
        raise QueryError(f"{name}.sql must be one SELECT.")
    return first


def read_query(path: Path) -> Query:
    """Read one file. Raises QueryError if head and body disagree."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    head = [line for line in lines if line.startswith("--")]
    body = "\n".join(lines[len(head) :]) + "\n"
    title = _HEAD.fullmatch(head[0]) if head else None
    version = _VERSION.fullmatch(head[1]) if len(head) > 1 else None
    if title is None or title[1] != path.stem or version is None:
        raise QueryError(f"{path.name} must begin with `-- {path.stem}: summary` and `-- version: N`.")
    parameters, columns = [], []
    for line in head[2:]:
        if found := _PARAM.fullmatch(line):
            parameters.append(Parameter(*found.groups()))
        elif found := _COLUMN.fullmatch(line):
            columns.append(ColumnNote(*found.groups()))
        else:
            raise QueryError(f"{path.name}: {line!r} is neither a `param NAME KIND = DEFAULT: ...` nor a `column`.")
    query = Query(title[1], title[2], int(version[1]), tuple(parameters), tuple(columns), body)
    tree = _parsed(query.name, body)
    used = {str(node.this) for node in tree.find_all(exp.Placeholder)}
    if used != {parameter.name for parameter in parameters}:
        raise QueryError(f"{path.name} uses the parameters {sorted(used)} and documents others.")
    if tuple(tree.named_selects) != tuple(column.name for column in columns):
        raise QueryError(f"{path.name} returns {tree.named_selects} and documents others.")
    return query


@cache
def catalogue() -> Mapping[str, Query]:
    """All queries by name, sorted."""
    return {path.stem: read_query(path) for path in sorted(FOLDER.glob("*.sql"))}


def get_query(name: str) -> Query:
    """Return the query `name`. Raises UsageError for one that does not exist."""
    found = catalogue().get(name)
    if found is None:
        raise UsageError(f"There is no query {name[:80]!r}. There are: {', '.join(catalogue())}.")
    return found
