"""Runs the queries on a folder of tables with DuckDB.

Promise: the files are only read. Threads, memory and spill space are bounded, and the spill folder is removed
afterwards; a query that needs more fails with a clear error. DuckDB loads no extension and uses no network.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import duckdb

from agent.errors import OperatorError
from pipeline.analytics.lake_schema import PARTITIONS, TABLES
from pipeline.analytics.queries import QueryError
from pipeline.analytics.query_result import QueryResult, from_engine_value

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from pipeline.analytics.lake_schema import Table
    from pipeline.analytics.queries import Query

MB: Final = 1_000_000
_DAY: Final = re.compile(r"day=([0-9]{4}-[0-9]{2}-[0-9]{2})")


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Limits of a query."""

    threads: int = 2
    memory_mb: int = 2_000
    spill_mb: int = 8_000  # of temporary files, see `spill` of DuckDbEngine


class DuckDbEngine:
    """The tables of one folder; a context manager. Not thread-safe."""

    def __init__(self, folder: Path, *, limits: EngineLimits | None = None, spill: Path | None = None) -> None:
        """Open `folder`; `spill` holds temporary data (default: the system's folder). Raises OperatorError."""
        if not folder.is_dir():
            raise OperatorError(f"{folder} is not a folder. Give the one that holds verdicts/site=.../line=.../day=...")
        self.folder = folder
        self._limits = limits or EngineLimits()
        self._spill = Path(tempfile.mkdtemp(prefix="kensa-lake-", dir=spill))
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "threads": self._limits.threads,
                "memory_limit": f"{self._limits.memory_mb}MB",
                "temp_directory": str(self._spill),
                "max_temp_directory_size": f"{self._limits.spill_mb}MB",
                "preserve_insertion_order": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )
        try:
            for table in TABLES.values():
                self._connection.execute(f"CREATE VIEW {table.name} AS {_view(folder, table)}")
            self._connection.execute("SET lock_configuration = true")
        except duckdb.Error as error:
            self.__exit__()
            raise OperatorError(f"The tables in {folder} cannot be read: {error}") from error

    def __enter__(self) -> Self:
        """Return the engine."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection and delete the spill folder."""
        self._connection.close()
        shutil.rmtree(self._spill, ignore_errors=True)

    def day_range(self) -> tuple[str, str] | None:
        """First and last day of all tables, YYYY-MM-DD; None for an empty folder."""
        found = sorted(
            match[1]
            for table in TABLES
            for path in self.folder.glob(f"{table}/site=*/line=*/day=*")
            if (match := _DAY.fullmatch(path.name))
        )
        return (found[0], found[-1]) if found else None

    def execute(self, query: Query, given: Mapping[str, str] | None = None) -> QueryResult:
        """Run `query` with the parameters `given`, by default over all days. Raises UsageError, QueryError."""
        first, last = self.day_range() or ("1970-01-01", "1970-01-01")
        values = query.bind(given or {}, first_day=first, last_day=last)
        text = query.sql(values, "duckdb")
        begin = time.perf_counter()
        try:
            rows = self._connection.execute(text).fetchall()
        except duckdb.OutOfMemoryException as error:
            limits = self._limits
            raise QueryError(
                f"{query.name} needs more than {limits.memory_mb} MB of memory and {limits.spill_mb} MB of disk: "
                "query fewer days, or raise --memory-mb."
            ) from error
        except duckdb.Error as error:
            raise QueryError(f"{query.name} failed on {self.folder}: {error}") from error
        seconds = time.perf_counter() - begin
        return QueryResult(
            query, values, tuple(tuple(from_engine_value(value) for value in row) for row in rows), seconds
        )


def _view(folder: Path, table: Table) -> str:
    """A SELECT with all columns of `table`, even if files lack some or there are no files."""
    columns = (*table.columns, *PARTITIONS)
    typed = ", ".join(f'CAST(NULL AS {column.type}) AS "{column.name}"' for column in columns)
    empty = f"SELECT {typed} WHERE false"
    if not list(
        folder.glob(f"{table.name}/site=*/line=*/day=*/*.parquet")
    ):  # a list, because a half-read glob stays open
        return empty
    pattern = str(folder.resolve() / table.name / "site=*" / "line=*" / "day=*" / "*.parquet")
    files = "'" + pattern.replace("'", "''") + "'"
    return (
        f"SELECT * FROM read_parquet({files}, hive_partitioning = true, union_by_name = true, "  # noqa: S608
        f"hive_types = {{'site': VARCHAR, 'line': VARCHAR, 'day': VARCHAR}}) UNION ALL BY NAME {empty}"
    )
