"""The query files: documented, versioned, valid for both engines, and closed to hostile values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st
from sqlglot import exp

from agent.errors import UsageError
from pipeline.analytics.duckdb_engine import DuckDbEngine
from pipeline.analytics.lake_schema import PARTITIONS, TABLES
from pipeline.analytics.queries import Parameter, Query, QueryError, catalogue, get_query, read_query

if TYPE_CHECKING:
    from pipeline.analytics.queries import Dialect

DAYS = {"first_day": "2026-01-05", "last_day": "2026-01-11"}
VERSIONS = Path(__file__).parent / "analytics_versions.json"
HOSTILE = (
    "'; DROP TABLE verdicts; --", "' OR '1'='1", "x' UNION SELECT * FROM labels --", "*/ SELECT 1 /*", "\\'", "a\x00b",
    "",
    "2026-01-05'", "hour) FROM verdicts; --", "-- ", "$1", ":site", "\uff11\uff12", "**", "a" * 65,
)  # fmt: skip


@pytest.mark.parametrize("name", catalogue())
@pytest.mark.parametrize("dialect", ["athena", "duckdb"])
def test_every_query_is_one_select_for_either_engine(name: str, dialect: Dialect) -> None:
    query = get_query(name)
    text = query.sql(query.bind({}, **DAYS), dialect)
    tree = sqlglot.parse_one(text, read=dialect)
    assert isinstance(tree, exp.Query)
    assert not list(tree.find_all(exp.Placeholder, exp.Parameter))
    tables = {table.name for table in tree.find_all(exp.Table)}
    made = {cte.alias for cte in tree.find_all(exp.CTE)}
    assert tables - made - {"n"} <= set(TABLES)


@pytest.mark.parametrize("name", catalogue())
def test_every_query_answers_with_its_documented_columns_even_without_data(name: str, tmp_path: Path) -> None:
    with DuckDbEngine(tmp_path) as lake:
        answer = lake.execute(get_query(name))
    assert answer.rows == ()
    assert answer.columns == tuple(column.name for column in get_query(name).columns)


def test_a_changed_query_has_a_new_version() -> None:
    """Write the file anew with `python -m tests.unit.pipeline.analytics.test_queries` after raising `-- version:`."""
    known = json.loads(VERSIONS.read_text(encoding="utf-8"))
    assert versions() == known


def versions() -> dict[str, list[object]]:
    return {name: [query.version, query.digest] for name, query in catalogue().items()}


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("name", ["first_day", "site", "line", "grain", "z"])
def test_hostile_values_are_refused_and_named(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"--param {name}="):
        get_query("yield_by_line").bind({name: value}, **DAYS)


@pytest.mark.parametrize("value", ["1e999", "nan", "inf", "0x10", "0", "11", "1_0", "+1", " 1"])
def test_numbers_out_of_range_are_refused(value: str) -> None:
    with pytest.raises(UsageError, match=r"a number from 0\.1 to 10 is needed"):
        get_query("yield_by_line").bind({"z": value}, **DAYS)


@pytest.mark.parametrize("value", ["2026-13-40", "2026-02-30", "2026-1-5", "20260105", "2026-W02-1"])
def test_days_that_do_not_exist_are_refused(value: str) -> None:
    with pytest.raises(UsageError, match="a day as YYYY-MM-DD is needed"):
        get_query("yield_by_line").bind({"first_day": value}, **DAYS)


def test_an_unknown_parameter_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(UsageError, match=r"has no parameter 'limit'\. It has: first_day, last_day"):
        get_query("yield_by_line").bind({"limit": "1"}, **DAYS)


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(UsageError, match="lies after"):
        get_query("yield_by_line").bind({"first_day": "2026-02-01"}, **DAYS)


def test_an_unknown_query_is_refused_and_all_are_named() -> None:
    with pytest.raises(UsageError, match="yield_by_line"):
        get_query("../yield_by_line")


@given(value=st.text(max_size=80), kind=st.sampled_from(["day", "name", "number(0.1..10)", "whole(1..60)", "hour|day"]))
def test_what_a_parameter_takes_becomes_one_literal_and_nothing_else(value: str, kind: str) -> None:
    parameter = Parameter("p", kind, "x", "a value")
    try:
        literal = parameter.literal(value)
    except UsageError:
        return
    for dialect in ("athena", "duckdb"):
        tree = sqlglot.parse_one(f"SELECT {literal.sql(dialect=dialect)}", read=dialect)
        (only,) = tree.expressions
        only = only.this if isinstance(only, exp.Neg) else only
        assert isinstance(only, exp.Literal)


@given(value=st.text(max_size=40))
def test_a_text_that_gets_into_a_statement_is_quoted(value: str) -> None:
    """Even if a kind let everything through."""
    query = get_query("yield_by_line")
    values = {**query.bind({}, **DAYS)}
    literal = exp.Literal.string(value)
    tree = sqlglot.parse_one("SELECT :p", read="athena").transform(
        lambda node: literal if isinstance(node, exp.Placeholder) else node
    )
    for dialect in ("athena", "duckdb"):
        (only,) = sqlglot.parse_one(tree.sql(dialect=dialect), read=dialect).expressions
        assert isinstance(only, exp.Literal)
        assert only.this == value
    assert values["site"] == "*"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("SELECT 1 AS a\n", "must begin with"),
        ("-- q: what\n-- version: 1\nSELECT 1 AS a\n", "documents others"),
        ("-- q: what\n-- version: 1\n-- column a: x\n-- parma b\nSELECT 1 AS a\n", "is neither"),
        ("-- q: what\n-- version: 1\n-- column a: x\nSELECT :b AS a\n", "uses the parameters"),
        ("-- q: what\n-- version: 1\n-- column a: x\nSELECT 1 AS a; SELECT 2 AS a\n", "must be one SELECT"),
        ("-- q: what\n-- version: 1\n-- column a: x\nDELETE FROM verdicts\n", "must be one SELECT"),
        ("-- q: what\n-- version: 1\n-- column a: x\nSELECT (1 AS a\n", "is not Athena's SQL"),
    ],
)
def test_a_file_whose_head_and_body_disagree_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "q.sql"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(QueryError, match=complaint):
        read_query(path)


@pytest.mark.parametrize("query", catalogue().values(), ids=lambda query: query.name)
def test_every_query_that_reads_verdicts_takes_each_key_once(query: Query) -> None:
    tree = sqlglot.parse_one(query.body, read="athena")
    for select in tree.find_all(exp.Select):
        source = select.args.get("from_")
        if source is None or source.this.name != "verdicts":
            continue
        keys = {column.sql() for column in select.args["group"].expressions}
        idempotent = query.name == "release_history" or "max_by" in select.sql(dialect="athena").lower()
        assert idempotent or {"site", "line", "camera", "boot_epoch", "seq"} <= keys


def test_no_column_of_a_table_is_called_like_a_partition() -> None:
    for table in TABLES.values():
        assert not {column.name for column in PARTITIONS} & set(table.column_names)
        assert len(set(table.column_names)) == len(table.column_names)


if __name__ == "__main__":
    VERSIONS.write_text(json.dumps(versions(), indent=1) + "\n", encoding="utf-8")
