"""`kensa cloud query`: runs a query on the tables of a folder or on Athena."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import UsageError
from pipeline.analytics.duckdb_engine import DuckDbEngine, EngineLimits
from pipeline.analytics.queries import catalogue, get_query
from pipeline.analytics.query_result import text_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.analytics.query_result import QueryResult

_SHOWN = 200  # rows of a printed table; --csv and --json print all
_ATHENA_DAYS = 30  # read by --athena by default, because every byte is billed


def add_limit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that bound DuckDB."""
    group = parser.add_argument_group("limits of DuckDB")
    default = EngineLimits()
    group.add_argument("--threads", type=int, default=default.threads)
    group.add_argument("--memory-mb", type=int, default=default.memory_mb)
    group.add_argument("--spill-mb", type=int, default=default.spill_mb, help="temporary files")


def open_engine(arguments: argparse.Namespace) -> DuckDbEngine:
    """The engine over the folder `--data`. Raises UsageError."""
    for name in ("threads", "memory_mb", "spill_mb"):
        if getattr(arguments, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: must be above 0.")
    if arguments.data is None:
        raise UsageError("--data DIR is needed: the folder that holds verdicts/site=.../line=.../day=...")
    return DuckDbEngine(
        arguments.data,
        limits=EngineLimits(threads=arguments.threads, memory_mb=arguments.memory_mb, spill_mb=arguments.spill_mb),
    )


# --- query ------------------------------------------------------------------------------------------------------------


def query(argv: Sequence[str]) -> int:
    """Run `kensa cloud query`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="kensa cloud query", description="Run one of the queries of pipeline/analytics/sql on the tables."
    )
    parser.add_argument("name", nargs="?", help="name of the query; without it all are listed")
    parser.add_argument("--data", type=Path, help="folder with the tables")
    parser.add_argument("--param", action="append", default=[], metavar="K=V", help="repeatable")
    parser.add_argument("--describe", action="store_true", help="show parameters and columns instead of running it")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--csv", action="store_true", help="print CSV")
    form.add_argument("--sql", choices=("athena", "duckdb"), help="print the statement instead of running it")
    add_limit_options(parser)
    athena = parser.add_argument_group("on Athena")
    athena.add_argument("--athena", action="store_true", help="run it on Athena, by default over the last 30 days")
    athena.add_argument("--database", default="kensa", help="of the Glue catalogue (default: kensa)")
    athena.add_argument("--workgroup", default="primary")
    athena.add_argument("--output", metavar="S3_URI", help="location of results, if the workgroup sets none")
    athena.add_argument("--timeout", type=float, default=300.0, metavar="S")
    return _query(parser.parse_args(argv))


def _query(arguments: argparse.Namespace) -> int:
    if arguments.name is None:
        width = max(map(len, catalogue()))
        print("\n".join(f"{name:<{width}}  {found.summary}" for name, found in catalogue().items()))
        return 0
    if arguments.describe:
        _describe(arguments.name)
        return 0
    given = _parameters(arguments.param)
    if arguments.sql is not None:
        first, last = _default_athena_days()
        found = get_query(arguments.name)
        print(found.sql(found.bind(given, first_day=first, last_day=last), arguments.sql))
        return 0
    answer = _on_athena(arguments, given) if arguments.athena else _on_duckdb(arguments, given)
    if arguments.json:
        print(json.dumps(answer.to_json()))
    elif arguments.csv:
        print(answer.to_csv(), end="")
    else:
        _print_table(answer)
    return 0


def _describe(name: str) -> None:
    found = get_query(name)
    print(f"{found.name}, version {found.version}: {found.summary}\n\nparameters:")
    for parameter in found.parameters:
        print(f"  {parameter.name} = {parameter.default}: {parameter.meaning}; {parameter.describe_allowed}")
    print("\ncolumns:")
    for column in found.columns:
        print(f"  {column.name}: {column.meaning}")


def _parameters(texts: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name in given:
            raise UsageError(f"--param {text[:80]!r}: write NAME=VALUE, each name once.")
        given[name] = value
    return given


def _default_athena_days() -> tuple[str, str]:
    today = datetime.now(UTC).date()
    return (today - timedelta(days=_ATHENA_DAYS)).isoformat(), today.isoformat()


def _on_duckdb(arguments: argparse.Namespace, given: dict[str, str]) -> QueryResult:
    found = get_query(arguments.name)
    with open_engine(arguments) as engine:
        return engine.execute(found, given)


def _on_athena(arguments: argparse.Namespace, given: dict[str, str]) -> QueryResult:
    from pipeline.analytics.athena_engine import AthenaEngine, AthenaSettings  # noqa: PLC0415 - DuckDB needs no account
    from pipeline.cloud.aws_clients import client  # noqa: PLC0415

    first, last = _default_athena_days()
    settings = AthenaSettings(arguments.database, arguments.workgroup, arguments.output, arguments.timeout)
    return AthenaEngine(client("athena"), settings).execute(
        get_query(arguments.name), given, first_day=first, last_day=last
    )


def _print_table(answer: QueryResult) -> None:
    print(text_table(answer.columns, answer.rows[:_SHOWN]))
    left = len(answer.rows) - _SHOWN
    rest = f"; {left:,} more with --csv or --json" if left > 0 else ""
    asked = ", ".join(f"{name} = {value}" for name, value in answer.parameters.items())
    print(f"{len(answer.rows):,} rows in {answer.seconds:.2f} s{rest}. {asked}", file=sys.stderr)
