"""Buffers rows and appends them to a folder as Parquet, partitioned by site, line and day.

Promise: a reader never sees a partial file (files are written to a temporary folder and renamed); a failed flush keeps
its rows for the next one, and flushed rows stay. Like Firehose it does not deduplicate: repeated rows are written
twice.
"""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from typing import TYPE_CHECKING, Final

import duckdb

from agent.errors import MessageError, OperatorError
from pipeline.analytics.lake_schema import PARTITIONS, TABLES
from pipeline.ingest.message_rows import message_to_rows

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import Self

    from pipeline.ingest.table_rows import Row

FLUSH_ROWS: Final = 50_000
_TEMPORARY: Final = ".writing"
_OUT: Final = "out"


class LakeWriter:
    """Appends to the tables under one folder. Thread-safe; a context manager that flushes on exit."""

    def __init__(self, folder: Path, *, site: str, flush_rows: int = FLUSH_ROWS) -> None:
        """Write under `folder`, which is created; messages come from devices of `site`."""
        self._folder = folder
        self._site = site
        self._flush_rows = flush_rows
        self._lock = threading.Lock()
        self._pending: dict[str, list[str]] = {}
        self._count = 0
        self.rows = 0  # accepted
        self.refused = 0  # messages that are not Kensa's

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the remaining rows."""
        self.flush()

    def add_message(self, payload: bytes) -> str | None:
        """Add one message; returns the reason of a refusal, else None. Raises OperatorError (disk)."""
        try:
            rows = message_to_rows(payload, site=self._site)
        except MessageError as error:
            with self._lock:
                self.refused += 1
            return str(error)
        self.add(rows)
        return None

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows; writes them once `flush_rows` are pending. Raises OperatorError (disk)."""
        with self._lock:
            for row in rows:
                self._pending.setdefault(row.partition.table, []).append(row.to_json_line(with_partition=True))
                self._count += 1
                self.rows += 1
            if self._count >= self._flush_rows:
                self._flush()

    def flush(self) -> None:
        """Write all pending rows. Raises OperatorError and keeps the rows on failure."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        for table in list(self._pending):
            lines = self._pending[table]
            try:
                self._write(table, lines)
            except (OSError, duckdb.Error) as error:
                raise OperatorError(f"{self._folder / table} cannot be written: {error}") from error
            del self._pending[table]
            self._count -= len(lines)

    def _write(self, table: str, lines: list[str]) -> None:
        aside = self._folder / _TEMPORARY / uuid.uuid4().hex
        try:
            for path in write_parquet(table, lines, aside):
                target = self._folder / table / path.parent.relative_to(aside / _OUT)
                target.mkdir(parents=True, exist_ok=True)
                os.replace(path, target / f"{uuid.uuid4().hex}.parquet")  # noqa: PTH105 - one call, atomic
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def write_parquet(table: str, lines: Iterable[str], aside: Path) -> list[Path]:
    """Convert rows, as JSON with their partitions, to Parquet below `aside`, which is created; returns the files.

    The files are in `out/site=.../line=.../day=.../`. Raises OSError, duckdb.Error.
    """
    aside.mkdir(parents=True)
    source = aside / "rows.jsonl"
    source.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    _convert(table, source, aside / _OUT)
    return sorted((aside / _OUT).rglob("*.parquet"))


def _convert(table: str, source: Path, out: Path) -> None:
    """Convert JSON lines to partitioned Parquet."""
    columns = (*TABLES[table].columns, *PARTITIONS)
    types = ", ".join(f"'{column.name}': '{column.type}'" for column in columns)
    names = ", ".join(column.name for column in PARTITIONS)
    select = (
        f"SELECT * FROM read_json({_text(source)}, format = 'newline_delimited', columns = {{{types}}}, "  # noqa: S608
        "timestampformat = '%Y-%m-%d %H:%M:%S.%f', maximum_object_size = 1048576)"
    )
    with duckdb.connect(":memory:", config={"threads": 1, "autoinstall_known_extensions": False}) as connection:
        connection.execute(
            f"COPY ({select}) TO {_text(out)} (FORMAT parquet, COMPRESSION zstd, PARTITION_BY ({names}))"
        )


def _text(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
