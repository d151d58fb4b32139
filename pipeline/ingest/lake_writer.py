"""The data lake in a folder: rows are gathered and written as Parquet, partitioned by site, line and day.

Promise: a reader never sees half a file (files are written aside and renamed), a flush that fails leaves its rows for
the next one, and what was flushed stays. Like Firehose it knows no keys: what comes twice is written twice.
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
    """Appends to the tables under one folder. Thread-safe; a context manager that flushes at its end."""

    def __init__(self, folder: Path, *, site: str, flush_rows: int = FLUSH_ROWS) -> None:
        """Write under `folder`, which is made; messages come from devices of `site`."""
        self._folder = folder
        self._site = site
        self._flush_rows = flush_rows
        self._lock = threading.Lock()
        self._pending: dict[str, list[str]] = {}
        self._count = 0
        self.rows = 0  # taken
        self.refused = 0  # messages that were none of Kensa's

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left."""
        self.flush()

    def add_message(self, payload: bytes) -> str | None:
        """Take one message; returns why it was refused, None when it was not. Raises OperatorError (disk)."""
        try:
            rows = message_to_rows(payload, site=self._site)
        except MessageError as error:
            with self._lock:
                self.refused += 1
            return str(error)
        self.add(rows)
        return None

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows; writes when enough have come together. Raises OperatorError (disk)."""
        with self._lock:
            for row in rows:
                self._pending.setdefault(row.partition.table, []).append(row.to_json_line(with_place=True))
                self._count += 1
                self.rows += 1
            if self._count >= self._flush_rows:
                self._flush()

    def flush(self) -> None:
        """Write everything that waits. Raises OperatorError, and keeps the rows then."""
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
    """Rewrite rows, as JSON with their places, as Parquet below `aside`, which is made; returns the files.

    They lie in `out/site=.../line=.../day=.../`. Raises OSError, duckdb.Error.
    """
    aside.mkdir(parents=True)
    source = aside / "rows.jsonl"
    source.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    _convert(table, source, aside / _OUT)
    return sorted((aside / _OUT).rglob("*.parquet"))


def _convert(table: str, source: Path, out: Path) -> None:
    """Rewrite JSON lines as partitioned Parquet."""
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
