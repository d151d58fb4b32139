"""Athena queries: start, wait, stop and read pages, against a double of the engine."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pytest
import sqlglot

from pipeline.analytics.athena_engine import AthenaEngine, AthenaError, AthenaSettings
from pipeline.analytics.queries import get_query

DAYS = {"first_day": "2026-01-05", "last_day": "2026-01-11"}
QUERY = get_query("yield_by_line")
TYPES = (
    "varchar",
    "varchar",
    "timestamp",
    "bigint",
    "bigint",
    "bigint",
    "bigint",
    "bigint",
    "double",
    "double",
    "double",
)
NAMES = tuple(column.name for column in QUERY.columns)
FIRST = ("kyoto", "press-1", "2026-01-05 06:00:00.000", "10", "9", "1", "0", "0", "0.9", "0.59", None)


class Engine:
    """Answers as boto3's client does: `states` one after the other, then `pages` of rows."""

    def __init__(
        self, states: list[str], pages: list[list[tuple[str | None, ...]]], names: tuple[str, ...] = NAMES
    ) -> None:
        self.states, self.pages, self.names = states, pages, names
        self.started: list[dict[str, Any]] = []
        self.stopped: list[str] = []

    def start_query_execution(self, **request: Any) -> Any:
        self.started.append(request)
        return {"QueryExecutionId": "e-1"}

    def get_query_execution(self, **request: Any) -> Any:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return {"QueryExecution": {"Status": {"State": state, "StateChangeReason": "line 1:1: no such table"}}}

    def get_query_results(self, **request: Any) -> Any:
        number = int(request.get("NextToken", "0"))
        rows = [self.names, *self.pages[number]] if number == 0 else self.pages[number]
        columns = [{"Name": name, "Type": kind} for name, kind in zip(self.names, TYPES, strict=False)]
        answer: dict[str, Any] = {
            "ResultSet": {
                "ResultSetMetadata": {"ColumnInfo": columns},
                "Rows": [{"Data": [{} if cell is None else {"VarCharValue": cell} for cell in row]} for row in rows],
            }
        }
        if number + 1 < len(self.pages):
            answer["NextToken"] = str(number + 1)
        return answer

    def stop_query_execution(self, **request: Any) -> Any:
        self.stopped.append(request["QueryExecutionId"])


class Time:
    """Passes only while one sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def athena(engine: Engine, time: Time, **place: Any) -> AthenaEngine:
    return AthenaEngine(engine, AthenaSettings("kensa", **place), sleep=time.sleep, monotonic=lambda: time.now)


def test_pages_are_read_to_the_end_and_values_get_their_types() -> None:
    engine = Engine(["QUEUED", "RUNNING", "SUCCEEDED"], [[FIRST], [FIRST], [FIRST]])
    answer = athena(engine, Time()).execute(QUERY, {}, **DAYS)
    assert len(answer.rows) == 3
    at = datetime(2026, 1, 5, 6)  # noqa: DTZ001 - the tables' times are UTC without a zone
    assert answer.rows[2] == ("kyoto", "press-1", at, 10, 9, 1, 0, 0, 0.9, 0.59, None)
    assert list(answer.records())[0]["yield"] == 0.9  # noqa: RUF015 - as a caller reads it


def test_days_and_truths_get_their_types_too() -> None:
    from pipeline.analytics.athena_engine import _READERS  # noqa: PLC0415 - the table of types itself

    assert _READERS["date"]("2026-01-05") == date(2026, 1, 5)
    assert [_READERS["boolean"](text) for text in ("true", "false")] == [True, False]


def test_the_statement_is_athenas_with_every_parameter_in_it() -> None:
    engine = Engine(["SUCCEEDED"], [[]])
    athena(engine, Time(), output="s3://results/").execute(QUERY, {"line": "press-1"}, **DAYS)
    (request,) = engine.started
    assert request["QueryExecutionContext"] == {"Database": "kensa"}
    assert request["ResultConfiguration"] == {"OutputLocation": "s3://results/"}
    tree = sqlglot.parse_one(request["QueryString"], read="athena")
    assert {"press-1", "2026-01-05", "2026-01-11"} <= {literal.this for literal in tree.find_all(sqlglot.exp.Literal)}


def test_one_waits_longer_each_time_up_to_a_bound() -> None:
    time = Time()
    athena(Engine(["RUNNING"] * 9 + ["SUCCEEDED"], [[]]), time).execute(QUERY, {}, **DAYS)
    assert time.slept[:5] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert max(time.slept) == 4.0


def test_a_query_that_takes_too_long_is_stopped_for_it_costs_money() -> None:
    engine = Engine(["RUNNING"], [[]])
    with pytest.raises(AthenaError, match="stopped after 20 s"):
        athena(engine, Time(), timeout_s=20.0).execute(QUERY, {}, **DAYS)
    assert engine.stopped == ["e-1"]


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
def test_what_athena_refuses_is_told_in_its_words(state: str) -> None:
    with pytest.raises(AthenaError, match="no such table"):
        athena(Engine(["RUNNING", state], [[]]), Time()).execute(QUERY, {}, **DAYS)


def test_an_answer_with_other_columns_is_refused() -> None:
    with pytest.raises(AthenaError, match="returned the columns a, b"):
        athena(Engine(["SUCCEEDED"], [[]], names=("a", "b")), Time()).execute(QUERY, {}, **DAYS)
