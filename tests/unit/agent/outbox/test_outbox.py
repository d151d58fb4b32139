from __future__ import annotations

import dataclasses
import sqlite3
from typing import TYPE_CHECKING

import pytest

from agent.errors import MessageError, OutboxError, StateDirError
from agent.outbox import Outbox, OutboxLimits, find_verdict
from agent.outbox.outbox_records import Priority
from agent.outbox.storage.database import connect
from agent.records import Outcome
from agent.timing.clock import NS_PER_S, SystemClock
from agent.wire import GapReason
from simulator.doubles.clocks.manual_clock import ManualClock
from simulator.doubles.network.memory_transport import MemoryTransport
from tests.kits.outbox import make_verdict, make_verdicts, read

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent.records import Verdict


def make_outbox(path: Path, clock: ManualClock, *, max_bytes: int = 1024 * 1024) -> Outbox:
    return Outbox(state_dir=path, transport=None, clock=clock, limits=OutboxLimits(max_bytes=max_bytes))


def test_everything_arrives_once_is_found_in_the_history_and_leaves_the_outbox(tmp_path: Path) -> None:
    transport, clock = MemoryTransport(), SystemClock()
    outbox = Outbox(state_dir=tmp_path, transport=transport, clock=clock)
    outbox.start()
    sent = [make_verdict(seq, Outcome.DEFECT if seq % 50 == 0 else Outcome.OK) for seq in range(1_000)]
    for start in range(0, 1_000, 7):
        outbox.append(sent[start : start + 7])
    stats = outbox.close(clock.monotonic_ns() + 30 * NS_PER_S)
    verdicts, gaps = read(transport.delivered)
    assert sorted(verdict.seq for verdict, _ in verdicts) == list(range(1_000))
    assert gaps == []
    assert (stats.rows, stats.delivered, stats.committed) == (0, 1_000, 1_000)
    assert len(transport.delivered) < 20 + 1_000 / 32 + 20
    for seq in (0, 1, 999):
        found = find_verdict(tmp_path, f"line1/cam1/1/{seq}")
        assert found is not None
        assert found.delivered
        assert found.verdict == sent[seq]


def test_a_defect_is_committed_at_once_and_an_ok_verdict_in_time(tmp_path: Path) -> None:
    told: list[int] = []

    def on_commit(verdicts: Sequence[Verdict], _now_ns: int) -> None:
        told.extend(verdict.seq for verdict in verdicts)

    clock = ManualClock()
    outbox = Outbox(state_dir=tmp_path, transport=None, clock=clock, on_commit=on_commit)
    outbox.writer.step()
    outbox.append([make_verdict(1), make_verdict(2, Outcome.DEFECT), make_verdict(3, Outcome.UNKNOWN)])
    outbox.writer.step()
    assert sorted(told) == [2, 3]
    assert outbox.stats().committed == 2
    assert outbox.stats().uncommitted == 1
    clock.advance(0.2)
    outbox.writer.step()
    assert outbox.stats().committed == 3
    assert sorted(told) == [2, 3]
    outbox.close(clock.monotonic_ns())


def test_ok_verdicts_of_many_commits_share_one_row(tmp_path: Path) -> None:
    clock = ManualClock()
    outbox = make_outbox(tmp_path, clock)
    for seq in range(0, 40, 8):
        outbox.append(make_verdicts(seq, 8))
        clock.advance(0.2)
        outbox.writer.step()
        assert outbox.stats().committed == seq + 8
        assert find_verdict(tmp_path, f"line1/cam1/1/{seq + 7}") is not None
    assert outbox.stats().rows == 1
    assert outbox.stats().verdicts == 40
    outbox.close(clock.monotonic_ns())


def test_without_a_transport_verdicts_stay_and_are_found(tmp_path: Path) -> None:
    clock = ManualClock()
    outbox = make_outbox(tmp_path, clock)
    outbox.append(make_verdicts(0, 3))
    outbox.close(clock.monotonic_ns())
    found = find_verdict(tmp_path, "line1/cam1/1/2")
    assert found is not None
    assert not found.delivered
    assert find_verdict(tmp_path, "line1/cam1/1/3") is None
    assert find_verdict(tmp_path, "line1/cam2/1/2") is None
    again = make_outbox(tmp_path, clock)
    assert again.stats().verdicts == 3
    assert again.stats().to_health().verdicts == 3
    again.close(clock.monotonic_ns())


@pytest.mark.parametrize("key", ["", "a", "line1/cam1/1", "line1/cam1/x/1", "line1/cam1/1/-1", "a/b/c/d/e"])
def test_a_malformed_key_is_refused_with_an_example(tmp_path: Path, key: str) -> None:
    with pytest.raises(MessageError, match="line/camera/boot_epoch/seq"):
        find_verdict(tmp_path, key)


def test_a_full_outbox_gives_up_ok_verdicts_first_and_says_which(tmp_path: Path) -> None:
    clock = ManualClock()
    outbox = make_outbox(tmp_path, clock, max_bytes=192 * 1024)
    for start in range(0, 3_000, 100):
        outbox.append(make_verdicts(start, 90))
        clock.advance(0.2)
        outbox.writer.step()
        outbox.append(make_verdicts(start + 90, 10, Outcome.DEFECT))
        outbox.writer.step()
    stats = outbox.stats()
    assert stats.evicted > 0
    assert stats.bytes <= 192 * 1024 * 0.8 + 1_000
    assert stats.storage_error is None
    ok_rows, _ = outbox.writer.store.rows_after(Priority.OK, 0, 10_000)
    defects, _ = outbox.writer.store.rows_after(Priority.DEFECT, 0, 10_000)
    assert ok_rows or len(defects) < 300
    outbox.close(clock.monotonic_ns())
    transport = MemoryTransport()
    outbox = Outbox(state_dir=tmp_path, transport=transport, clock=SystemClock())
    outbox.start()
    while not outbox.stats().connected:
        outbox.publish_now("kensa/device-7/heartbeat", ())
    outbox.close(SystemClock().monotonic_ns() + 30 * NS_PER_S)
    verdicts, gaps = read(transport.delivered)
    arrived = {verdict.seq for verdict, _ in verdicts}
    named = {seq for gap in gaps for first, last in gap.ranges for seq in range(first, last + 1)}
    assert arrived | named == set(range(3_000))
    assert arrived & named == set()
    assert all(gap.exact and gap.reason is GapReason.EVICTED for gap in gaps)
    assert sum(sum(gap.counts.values()) for gap in gaps) == len(named) == stats.evicted


def test_a_verdict_with_a_number_that_cannot_be_sent_becomes_unknown(tmp_path: Path) -> None:
    clock = ManualClock()
    outbox = make_outbox(tmp_path, clock)
    verdict = make_verdict(5)
    broken = dataclasses.replace(verdict, judgement=dataclasses.replace(verdict.judgement, score=float("nan")))
    outbox.append([broken, make_verdict(6)])
    outbox.close(clock.monotonic_ns())
    found = find_verdict(tmp_path, "line1/cam1/1/5")
    assert found is not None
    assert found.verdict.judgement.outcome is Outcome.UNKNOWN
    assert "out of range" in str(found.verdict.judgement.reason)


def test_a_closed_outbox_refuses_verdicts(tmp_path: Path) -> None:
    clock = ManualClock()
    outbox = make_outbox(tmp_path, clock)
    outbox.close(clock.monotonic_ns())
    with pytest.raises(OutboxError, match="closed"):
        outbox.append([make_verdict(1)])


def test_a_state_directory_that_cannot_be_written_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StateDirError, match=r"cannot be written.*another state directory"):
        make_outbox(tmp_path / "file" / "state", ManualClock())
    (tmp_path / "outbox.db").mkdir()
    with pytest.raises(StateDirError, match=r"outbox\.db cannot be opened"):
        make_outbox(tmp_path, ManualClock())


def test_the_settings_that_durability_rests_on_are_kept(tmp_path: Path) -> None:
    connection = connect(tmp_path / "x.db", max_bytes=1024 * 1024, synchronous="FULL")

    def pragma(name: str) -> object:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    assert [pragma("journal_mode"), pragma("synchronous"), pragma("max_page_count")] == ["wal", 2, 256]
    assert pragma("journal_size_limit") == 32 * 4096
    connection.close()


def test_a_bug_in_the_writer_is_reported_by_append_instead_of_blocking_the_line(tmp_path: Path) -> None:
    def on_commit(_verdicts: Sequence[Verdict], _now_ns: int) -> None:
        raise ZeroDivisionError

    clock = SystemClock()
    outbox = Outbox(state_dir=tmp_path, transport=None, clock=clock, on_commit=on_commit)
    outbox.start()
    outbox.append([make_verdict(0, Outcome.DEFECT)])
    outbox._threads[0].join()
    with pytest.raises(OutboxError, match="bug"):
        outbox.append([make_verdict(1)])
    outbox.close(clock.monotonic_ns())


def test_the_handover_blocks_rather_than_drops(tmp_path: Path) -> None:
    clock = SystemClock()
    outbox = Outbox(state_dir=tmp_path, transport=None, clock=clock, limits=OutboxLimits(queue_capacity=16))
    outbox.start()
    for seq in range(500):
        outbox.append([make_verdict(seq)])
    assert outbox.close(clock.monotonic_ns() + 30 * NS_PER_S).committed == 500
    with sqlite3.connect(tmp_path / "outbox.db") as connection:
        assert connection.execute("SELECT sum(verdicts) FROM message").fetchone()[0] == 500
    connection.close()


def test_an_inspection_that_publishes_at_once_sends_each_ok_alone_and_without_waiting(tmp_path: Path) -> None:
    clock, transport = ManualClock(), MemoryTransport()
    outbox = Outbox(state_dir=tmp_path, transport=transport, clock=clock)
    assert outbox.sender is not None
    outbox.sender.start()
    outbox.sender.step()
    outbox.writer.step()
    outbox.set_at_once_inspections(frozenset({"top"}))
    outbox.append(make_verdicts(0, 3))
    assert outbox._queues.wake_writer.is_set(), "nobody waits for the next tick"
    outbox.writer.step()
    outbox.sender.step()
    assert [verdict.seq for verdict, _ in read(transport.delivered)[0]] == [0, 1, 2]
    assert len(transport.delivered) == 3
    outbox.set_at_once_inspections(frozenset())
    outbox.append(make_verdicts(3, 3))
    outbox.writer.step()
    outbox.sender.step()
    assert len(transport.delivered) == 3
    outbox.close(clock.monotonic_ns() + NS_PER_S)
    assert all(find_verdict(tmp_path, f"line1/cam1/1/{seq}") is not None for seq in range(6))
