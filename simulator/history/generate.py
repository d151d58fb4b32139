"""Writes a plant's history as the tables of the data lake, and the truth beside it.

`truth/site=.../line=.../day=.../` holds the parts that really are defects (camera, boot_epoch, seq, true_class); all
others are good. It is no table of the lake: only tests and the simulator's tables of labels know it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import duckdb

from pipeline.analytics.lake_schema import TABLES
from simulator.history.part_rows import parts_sql
from simulator.history.telemetry_rows import FrameCounts, gaps_sql, heartbeats_sql, model_reports_sql
from simulator.history.timeline import CAMERAS, EPOCH_DAYS, line_days

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from simulator.history.timeline import HistorySettings, LineDay

TRUTH: Final = "truth"
_LABEL_DELAY: Final = "INTERVAL 30 HOUR"


@dataclass(frozen=True, slots=True)
class HistoryTotals:
    """What was written."""

    verdicts: int  # rows, duplicates included
    labels: int
    defects: int  # parts that really are


def generate_history(
    out: Path, settings: HistorySettings, *, progress: Callable[[int, int], None] | None = None, threads: int = 2
) -> HistoryTotals:
    """Write the history of `settings` under `out`, which must not hold tables yet. Raises FileExistsError."""
    for name in (*TABLES, TRUTH):
        if (out / name).exists():
            raise FileExistsError(f"{out / name} is there already: give an empty folder.")
    verdicts = labels = defects = 0
    before: dict[str, dict[str, FrameCounts]] = {}  # line -> camera -> since the agents' start
    with duckdb.connect(":memory:", config={"threads": threads, "preserve_insertion_order": True}) as connection:
        for done, shift in enumerate(line_days(settings), 1):
            if shift.index % EPOCH_DAYS == 0:
                before.pop(shift.line.name, None)
            counts = before.setdefault(shift.line.name, dict.fromkeys(CAMERAS, FrameCounts(0, 0)))
            first_seq = {camera: count.captured for camera, count in counts.items()}
            connection.execute(f"CREATE OR REPLACE TEMP TABLE parts AS {parts_sql(shift, settings, first_seq)}")
            verdicts += _write(connection, out, shift, "verdicts", _verdicts_sql())
            labels += _write(connection, out, shift, "labels", _labels_sql(settings))
            defects += _write(
                connection, out, shift, TRUTH, "SELECT camera, boot_epoch, seq, true_class FROM parts WHERE is_defect"
            )
            _write(connection, out, shift, "heartbeats", heartbeats_sql(shift, counts))
            before[shift.line.name] = _count_frames(connection, counts)
            _write(connection, out, shift, "gaps", gaps_sql())
            reports = model_reports_sql(shift, settings)
            if reports is not None:
                _write(connection, out, shift, "model_reports", reports)
            if progress is not None:
                progress(done, settings.days * len(settings.lines))
    return HistoryTotals(verdicts, labels, defects)


def _count_frames(connection: duckdb.DuckDBPyConnection, before: dict[str, FrameCounts]) -> dict[str, FrameCounts]:
    rows = connection.execute("SELECT camera, count(*), count_if(is_dropped) FROM parts GROUP BY camera").fetchall()
    found = {camera: FrameCounts(int(captured), int(dropped)) for camera, captured, dropped in rows}
    none = FrameCounts(0, 0)
    return {
        camera: FrameCounts(
            old.captured + found.get(camera, none).captured, old.dropped + found.get(camera, none).dropped
        )
        for camera, old in before.items()
    }


def _verdicts_sql() -> str:
    columns = ", ".join(TABLES["verdicts"].column_names)
    again = columns.replace("replay", "true AS replay")
    return (
        f"SELECT {columns} FROM parts WHERE is_here "  # noqa: S608 - the schema's own names
        f"UNION ALL SELECT {again} FROM parts WHERE is_twice AND is_here"
    )


def _labels_sql(settings: HistorySettings) -> str:
    """What people said of the collected frames: all that was not let through, and a sample of what was.

    One in a hundred was labelled wrongly at first and corrected later.
    """
    reason = "CASE WHEN outcome = 'ok' THEN 'sample' ELSE outcome END"
    rate = f"CASE WHEN outcome = 'ok' THEN {settings.sample_rate:.8f} END"
    collected = "(outcome IN ('defect', 'unsure') OR outcome = 'ok' AND is_sampled)"
    chosen = f"FROM parts WHERE {collected} AND is_labelled AND is_here"
    tail = f"{reason} AS reason, {rate} AS sample_rate {chosen}"
    return (
        "SELECT key, camera, boot_epoch, seq, true_class AS label_class, is_defect, 'inspector' AS source, "
        f"captured_at + {_LABEL_DELAY} AS labelled_at, {tail} UNION ALL "
        "SELECT key, camera, boot_epoch, seq, CASE WHEN is_defect THEN 'good' ELSE 'stain' END AS label_class, "
        f"NOT is_defect AS is_defect, 'trainee' AS source, captured_at + INTERVAL 8 HOUR AS labelled_at, {tail} "
        "AND is_mistaken"
    )


def _write(connection: duckdb.DuckDBPyConnection, out: Path, shift: LineDay, table: str, select: str) -> int:
    folder = out / table / f"site={shift.site}" / f"line={shift.line.name}" / f"day={shift.day:%Y-%m-%d}"
    folder.mkdir(parents=True)
    path = folder / "0.parquet"
    if table in TABLES:
        typed = ", ".join(f"CAST({column.name} AS {column.type}) AS {column.name}" for column in TABLES[table].columns)
        select = f"SELECT {typed} FROM ({select})"  # noqa: S608 - the schema's own names
    result = connection.execute(
        f"COPY ({select}) TO {_path(path)} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
    ).fetchone()
    count = int(result[0]) if result else 0
    if not count:
        shutil.rmtree(folder)
    return count


def _path(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
