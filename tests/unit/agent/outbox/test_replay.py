"""Resending a stored range of verdicts: complete, marked, and without changes to the files."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from typing import TYPE_CHECKING

import pytest

from agent.errors import OutboxError, UsageError
from agent.outbox import Outbox
from agent.outbox.replay import ReplayCursor, ReplayRange, parse_range, ranges_of
from agent.records import Outcome
from agent.timing.clock import NS_PER_S
from agent.wire import verdict_topic
from simulator.doubles.clocks.manual_clock import ManualClock
from simulator.doubles.network.memory_transport import MemoryTransport
from tests.kits.outbox import make_origin, make_verdict, read

if TYPE_CHECKING:
    from pathlib import Path


ALL = 300  # verdicts; one in ten a defect


def delivered_line(folder: Path, clock: ManualClock, *, camera: str = "cam1", epoch: int = 1) -> None:
    """A run that delivered everything, as it lies in the history."""
    origin = make_origin(camera=camera, boot_epoch=epoch)
    outbox, transport = start(folder, clock)
    for seq in range(ALL):
        outcome = Outcome.OK if seq % 10 else Outcome.DEFECT
        outbox.append([make_verdict(seq, outcome, origin=origin)])
        if seq % 50 == 49:
            step(outbox, clock)
    step(outbox, clock, seconds=5.0)
    assert len(read(transport.delivered)[0]) == ALL
    outbox.close(clock.monotonic_ns())


def start(folder: Path, clock: ManualClock, transport: MemoryTransport | None = None) -> tuple[Outbox, MemoryTransport]:
    transport = transport or MemoryTransport()
    outbox = Outbox(state_dir=folder, transport=transport, clock=clock)
    assert outbox.sender is not None
    outbox.sender.start()
    step(outbox, clock)
    return outbox, transport


def step(outbox: Outbox, clock: ManualClock, *, seconds: float = 1.0) -> None:
    assert outbox.sender is not None
    for _ in range(round(seconds / 0.25)):
        for _ in range(2):
            outbox.writer.step()
            outbox.sender.step()
        clock.advance(0.25)


def resend(outbox: Outbox, wanted: ReplayRange, clock: ManualClock) -> set[int]:
    place: ReplayCursor | None = ReplayCursor()
    found: set[int] = set()
    while place is not None:
        page = outbox.resend(wanted, place)
        if page is not None:
            place = page.next
            found |= page.numbers
        step(outbox, clock, seconds=0.25)
    step(outbox, clock)
    return found


def digest(folder: Path) -> str:
    """Of all rows; a file's bytes change with every checkpoint."""

    text = []
    for name, query in (("outbox.db", "SELECT * FROM message"), ("history.db", "SELECT * FROM delivered")):
        with sqlite3.connect(folder / name) as connection:
            text.append(repr(connection.execute(query).fetchall()))
    return hashlib.sha256("".join(text).encode()).hexdigest()


def test_a_range_arrives_again_marked_as_a_replay_and_nothing_on_disk_changes(tmp_path: Path) -> None:
    clock = ManualClock()
    delivered_line(tmp_path, clock)
    outbox, transport = start(tmp_path, clock)
    before = digest(tmp_path)
    found = resend(outbox, ReplayRange("cam1", 1, 100, 199), clock)
    assert found == set(range(100, 200))
    verdicts, gaps = read(transport.delivered)
    assert {verdict.seq for verdict, _ in verdicts} >= found
    assert all(replay for _, replay in verdicts)
    assert gaps == []
    assert digest(tmp_path) == before
    assert outbox.resends_waiting == 0
    assert outbox.stats().resent == outbox.stats().to_health().resent == len(transport.delivered) > 0
    assert outbox.stats().rows == 0
    outbox.close(clock.monotonic_ns())


def test_what_waits_in_the_outbox_is_sent_too_and_still_waits_for_its_own_turn(tmp_path: Path) -> None:
    clock = ManualClock()
    outbox, transport = start(tmp_path, clock, MemoryTransport(rejects=[verdict_topic("device-7", "cam1")]))
    outbox.append([make_verdict(seq, Outcome.DEFECT) for seq in range(20)])
    step(outbox, clock, seconds=2.0)
    assert resend(outbox, ReplayRange("cam1", 1, 0, 19), clock) == set(range(20))
    assert transport.delivered == [], "a refused topic is refused for replays too"
    assert outbox.resends_waiting == 20
    transport.rejects.clear()
    step(outbox, clock, seconds=60.0)
    assert outbox.resends_waiting == 0
    assert outbox.stats().rows == 0
    assert len(transport.delivered) == 40
    outbox.close(clock.monotonic_ns())


def test_live_verdicts_go_before_what_is_sent_again_and_a_cut_loses_neither(tmp_path: Path) -> None:
    clock = ManualClock()
    delivered_line(tmp_path, clock)
    outbox, transport = start(tmp_path, clock, MemoryTransport(auto_ack=False, max_in_flight=2))
    page = outbox.resend(ReplayRange("cam1", 1, 0, ALL - 1), ReplayCursor())
    assert page is not None
    asked = outbox.resends_waiting
    assert asked == len(page.messages) > 10
    outbox.append([make_verdict(1_000, Outcome.DEFECT)])
    step(outbox, clock, seconds=0.25)
    assert [v.seq for v, _ in read(transport.delivered[:1])[0]] == [1_000]
    transport.set_connected(False)
    step(outbox, clock)
    transport.set_connected(True)
    for _ in range(200):
        step(outbox, clock, seconds=0.25)
        transport.acknowledge(2)
        if outbox.resends_waiting == 0 and outbox.stats().rows == 0:
            break
    assert outbox.stats().resent == asked
    assert page.numbers <= {verdict.seq for verdict, _ in read(transport.delivered)[0]}
    outbox.close(clock.monotonic_ns())


def test_no_more_than_a_bounded_number_of_messages_waits_in_memory(tmp_path: Path) -> None:
    clock = ManualClock()
    delivered_line(tmp_path, clock)
    outbox, _ = start(tmp_path, clock, MemoryTransport(connected=False))
    wanted, pages = ReplayRange("cam1", 1, 0, ALL - 1), 0
    while outbox.resend(wanted, ReplayCursor()) is not None:
        pages += 1
        assert pages < 100
    assert outbox.resends_waiting < 512
    outbox.close(clock.monotonic_ns() + NS_PER_S)


def test_of_what_is_kept_no_longer_the_numbers_are_told(tmp_path: Path) -> None:
    clock = ManualClock()
    delivered_line(tmp_path, clock)
    outbox, _ = start(tmp_path, clock)
    assert resend(outbox, ReplayRange("cam1", 1, 290, 320), clock) == set(range(290, ALL))
    assert resend(outbox, ReplayRange("cam1", 7, 0, 10), clock) == set()
    assert resend(outbox, ReplayRange("other", 1, 0, 10), clock) == set()
    outbox.close(clock.monotonic_ns())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100-250", ReplayRange("cam1", 9, 100, 250)),
        ("7", ReplayRange("cam1", 9, 7, 7)),
        ("1/0-5", ReplayRange("cam1", 1, 0, 5)),
        ("line1/cam1/1/3", ReplayRange("cam1", 1, 3, 3)),
        ("line1/cam1/1/3-8", ReplayRange("cam1", 1, 3, 8)),
    ],
)
def test_a_range_is_numbers_of_the_newest_start_or_of_a_named_one_or_a_key(
    tmp_path: Path, text: str, expected: ReplayRange
) -> None:
    clock = ManualClock()
    for epoch in (1, 9):
        outbox, _ = start(tmp_path, clock)
        outbox.append([make_verdict(0, Outcome.DEFECT, origin=make_origin(boot_epoch=epoch))])
        outbox.close(clock.monotonic_ns())
    assert parse_range(tmp_path, "cam1", text) == expected


@pytest.mark.parametrize("text", ["", "5-3", "a-b", "-3", "1-2-3", "0-100000", "line1/cam2/1/3", "1/2/3", "x" * 9_999])
def test_what_is_no_range_is_named_with_what_would_be_one(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(text[:100]))):
        parse_range(tmp_path, "cam1", text)


def test_a_camera_of_which_nothing_is_kept_is_answered_with_those_that_are_known(tmp_path: Path) -> None:
    delivered_line(tmp_path, ManualClock())
    with pytest.raises(OutboxError, match="cameras with verdicts: cam1"):
        parse_range(tmp_path, "cam2", "1-2")


def test_numbers_are_told_as_ranges() -> None:
    assert ranges_of([5, 1, 2, 9, 3]) == [(1, 3), (5, 5), (9, 9)]
    assert ranges_of([]) == []
