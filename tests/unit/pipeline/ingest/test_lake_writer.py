"""The data lake in a folder: what goes in as messages comes out of the queries."""

from __future__ import annotations

import shutil
import threading
from datetime import datetime
from typing import TYPE_CHECKING

import duckdb
import pytest

from agent import wire
from agent.errors import OperatorError
from pipeline.analytics.duckdb_engine import DuckDbEngine, EngineLimits
from pipeline.analytics.lake_schema import PARTITIONS, TABLES
from pipeline.analytics.queries import QueryError, get_query
from pipeline.ingest.lake_writer import LakeWriter
from simulator.history.timeline import HistorySettings
from tests.kits.cloud import messages as kit
from tests.kits.cloud.analytics import make_past

if TYPE_CHECKING:
    from pathlib import Path


def column_types(path: Path) -> dict[str, str]:
    with duckdb.connect(":memory:") as connection:
        found = connection.execute("DESCRIBE SELECT * FROM read_parquet(?, hive_partitioning = false)", [str(path)])
        return {row[0]: row[1] for row in found.fetchall()}


def test_messages_of_every_kind_become_parquet_with_the_schemas_types(tmp_path: Path) -> None:
    payload, count = kit.full_envelope()
    with LakeWriter(tmp_path, site=kit.SITE) as writer:
        for message in (wire.encode_verdict(kit.defect(10_000)), payload, kit.gap(), kit.heartbeat(), kit.report()):
            assert writer.add_message(message) is None
    assert writer.rows == 1 + count + 1 + 2 + 1
    for table in ("verdicts", "gaps", "heartbeats", "model_reports"):
        (path,) = tmp_path.glob(f"{table}/site=kyoto/line=press-1/day=2026-03-02/*.parquet")
        assert column_types(path) == {column.name: column.type for column in TABLES[table].columns}
    assert not list((tmp_path / ".writing").iterdir())


def test_generated_histories_have_the_schemas_types(tmp_path: Path) -> None:
    make_past(tmp_path, HistorySettings(rows=900, days=5, lost=0.05))
    for table in TABLES.values():
        path = min((tmp_path / table.name).rglob("*.parquet"))
        assert column_types(path) == {column.name: column.type for column in table.columns}
    assert [column.type for column in PARTITIONS] == ["VARCHAR"] * 3


def test_a_message_that_comes_twice_is_counted_once(tmp_path: Path) -> None:
    payload, count = kit.full_envelope()
    for _ in range(3):
        with LakeWriter(tmp_path, site=kit.SITE) as writer:
            writer.add_message(payload)
            writer.add_message(wire.mark_replay(wire.encode_verdict(kit.defect(10_000))))
    with DuckDbEngine(tmp_path) as lake:
        (row,) = lake.execute(get_query("yield_by_line"), {"grain": "day"}).records()
        (loss,) = lake.execute(get_query("loss")).records()
    assert (row["parts"], row["ok"], row["defect"]) == (count + 1, count, 1)
    assert row["period"] == datetime(2026, 3, 2)  # noqa: DTZ001 - the tables' times are UTC without a zone
    assert loss["twice"] == 2 * (count + 1)


def test_a_refused_message_is_told_and_counted_and_stops_nothing(tmp_path: Path) -> None:
    with LakeWriter(tmp_path, site=kit.SITE) as writer:
        assert "not the JSON" in (writer.add_message(b"{") or "")
        writer.add_message(kit.gap())
    assert (writer.refused, writer.rows) == (1, 1)


def test_rows_are_written_when_enough_have_come_together(tmp_path: Path) -> None:
    writer = LakeWriter(tmp_path, site=kit.SITE, flush_rows=5)
    for seq in range(4):
        writer.add_message(wire.encode_verdict(kit.ok(seq)))
    assert not list(tmp_path.rglob("*.parquet"))
    writer.add_message(wire.encode_verdict(kit.ok(4)))
    assert len(list(tmp_path.rglob("*.parquet"))) == 1


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    with LakeWriter(tmp_path, site=kit.SITE, flush_rows=40) as writer:

        def send(first: int) -> None:
            for seq in range(first, first + 50):
                writer.add_message(wire.encode_verdict(kit.ok(seq)))

        threads = [threading.Thread(target=send, args=(i * 50,), name=f"send-{i}") for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with DuckDbEngine(tmp_path) as lake:
        (row,) = lake.execute(get_query("yield_by_line"), {"grain": "day"}).records()
    assert row["parts"] == 200


def test_a_flush_that_fails_keeps_its_rows_for_the_next_one(tmp_path: Path) -> None:
    blocked = tmp_path / "gaps"
    blocked.write_text("a file where a folder belongs", encoding="utf-8")
    writer = LakeWriter(tmp_path, site=kit.SITE)
    writer.add_message(kit.gap())
    with pytest.raises(OperatorError, match="cannot be written"):
        writer.flush()
    blocked.unlink()
    writer.flush()
    assert len(list(tmp_path.glob("gaps/*/*/*/*.parquet"))) == 1


def test_a_column_that_old_files_lack_reads_as_null(tmp_path: Path) -> None:
    with LakeWriter(tmp_path, site=kit.SITE) as writer:
        writer.add_message(kit.gap())
    (path,) = tmp_path.glob("gaps/*/*/*/*.parquet")
    old = path.with_name("old.parquet")
    with duckdb.connect(":memory:") as connection:
        connection.read_parquet(str(path), hive_partitioning=False).project("* EXCLUDE (exact)").write_parquet(str(old))
    path.unlink()
    with LakeWriter(tmp_path, site=kit.SITE) as writer:
        writer.add_message(wire.encode_verdict(kit.ok(1)))
    with DuckDbEngine(tmp_path) as lake:
        (row,) = lake.execute(get_query("loss")).records()
    assert row["lost"] == 10


def test_a_query_beyond_its_limits_fails_with_a_remedy_and_leaves_no_files(tmp_path: Path) -> None:
    make_past(tmp_path / "past", HistorySettings(rows=60_000, days=2))
    spill = tmp_path / "spill"
    spill.mkdir()
    with (
        DuckDbEngine(tmp_path / "past", limits=EngineLimits(threads=1, memory_mb=4, spill_mb=1), spill=spill) as lake,
        pytest.raises(QueryError, match="raise --memory-mb"),
    ):
        lake.execute(get_query("model_comparison"))
    assert not list(spill.iterdir())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="is not a folder"):
        DuckDbEngine(tmp_path / "nowhere")


def test_a_damaged_file_is_told_and_not_a_traceback(tmp_path: Path) -> None:
    with LakeWriter(tmp_path, site=kit.SITE) as writer:
        writer.add_message(wire.encode_verdict(kit.ok(1)))
    (path,) = tmp_path.glob("verdicts/*/*/*/*.parquet")
    shutil.copy(path, path.with_name("other.parquet"))
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(OperatorError, match="cannot be read"), DuckDbEngine(tmp_path) as lake:
        lake.execute(get_query("yield_by_line"))
