"""Histories for the tests of the analytics, and their rows as plain Python sees them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import duckdb

from simulator.history.generate import TRUTH, generate_history

if TYPE_CHECKING:
    from pathlib import Path

    from simulator.history.timeline import HistorySettings

Record = dict[str, Any]


@dataclass(frozen=True)
class Past:
    """A history on disk."""

    folder: Path
    settings: HistorySettings

    def rows(self, table: str) -> list[Record]:
        """All rows as they lie there."""
        pattern = f"{self.folder}/{table}/*/*/*/*.parquet"
        with duckdb.connect(":memory:") as connection:
            found = connection.execute(
                "SELECT * FROM read_parquet(?, hive_partitioning = true, hive_types = {'day': VARCHAR})", [pattern]
            )
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    @cached_property
    def verdicts(self) -> list[Record]:
        """Each verdict once."""
        return list({row["key"]: row for row in self.rows("verdicts")}.values())

    @cached_property
    def truth(self) -> set[tuple[str, str, int, int]]:
        """The parts that really are defects: line, camera, boot epoch, number."""
        return {(row["line"], row["camera"], row["boot_epoch"], row["seq"]) for row in self.rows(TRUTH)}


def make_past(folder: Path, settings: HistorySettings) -> Past:
    """Generate a history under `folder`."""
    generate_history(folder, settings, threads=1)
    return Past(folder, settings)
