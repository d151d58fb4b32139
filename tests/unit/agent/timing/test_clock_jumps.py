"""A clock that jumps by decades erases no history, evidence or protection."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.config import RolloutLimits
from agent.inspection.frame_recorder import FrameRecorder
from agent.lifecycle.state.journal import LifecycleRecord
from agent.lifecycle.state.record_changes import count_rollback
from agent.outbox import Outbox, OutboxLimits, find_verdict
from agent.records import Frame, Outcome
from agent.timing.clock import NS_PER_S
from simulator.doubles.clocks.manual_clock import ManualClock
from simulator.doubles.network.memory_transport import MemoryTransport
from tests.kits.collection import new_item, settings, spool_in
from tests.kits.outbox import make_origin, make_verdict

if TYPE_CHECKING:
    from pathlib import Path

TODAY_S = 1_795_000_000
DAY_S = 86_400
TIMES = {
    "the clock is set after a start in 1970": (0, TODAY_S),
    "the clock jumps to 2036 and back": (TODAY_S, 2_085_978_496, TODAY_S),
    "the clock goes back by a year": (TODAY_S, TODAY_S - 365 * DAY_S),
    "the clock flaps": (TODAY_S, 0, TODAY_S, 2_085_978_496, 0, TODAY_S),
}


def set_clock(clock: ManualClock, utc_s: int) -> None:
    clock.utc_offset_ns = utc_s * NS_PER_S - clock.now_ns


@pytest.mark.parametrize("restarted", [False, True], ids=["while it runs", "over restarts"])
@pytest.mark.parametrize("story", TIMES)
def test_the_history_of_verdicts_survives(tmp_path: Path, story: str, *, restarted: bool) -> None:
    clock = ManualClock()
    seq, outbox = 0, None
    for utc_s in TIMES[story]:
        set_clock(clock, utc_s)
        if outbox is None or restarted:
            if outbox is not None:
                outbox.close(clock.monotonic_ns())
            outbox = Outbox(state_dir=tmp_path, transport=MemoryTransport(), clock=clock)
            assert outbox.sender is not None
            outbox.sender.start()
        for _ in range(30):  # a minute at this time
            outbox.append([make_verdict(seq, Outcome.DEFECT)])
            seq += 1
            outbox.writer.step()
            assert outbox.sender is not None
            outbox.sender.step()
            clock.advance(2.0)
            assert outbox.stats().oldest_age_s <= 10.0, "the age of what waits is no matter of the clock's date"
    assert outbox is not None
    outbox.close(clock.monotonic_ns())
    assert [n for n in range(seq) if find_verdict(tmp_path, f"line1/cam1/1/{n}") is None] == []


def test_the_history_still_ends_after_the_days_that_were_asked_for(tmp_path: Path) -> None:
    clock = ManualClock()
    limits = OutboxLimits(history_s=float(DAY_S))
    outbox = Outbox(state_dir=tmp_path, transport=MemoryTransport(), clock=clock, limits=limits)
    assert outbox.sender is not None
    outbox.sender.start()
    for seq in range(72):  # one an hour, three days
        outbox.append([make_verdict(seq, Outcome.DEFECT)])
        for _ in range(2):
            outbox.writer.step()
            outbox.sender.step()
            clock.advance(1_800.0)
    outbox.close(clock.monotonic_ns())
    kept = [seq for seq in range(72) if find_verdict(tmp_path, f"line1/cam1/1/{seq}") is not None]
    assert kept == list(range(72 - len(kept), 72))
    assert 20 <= len(kept) <= 28


@pytest.mark.parametrize("story", TIMES)
def test_of_the_kept_frames_those_of_the_newest_run_stay(tmp_path: Path, story: str) -> None:
    frames = 6
    for epoch, utc_s in enumerate(TIMES[story], 1):
        clock = ManualClock()
        set_clock(clock, utc_s)
        keeper = FrameRecorder(
            state_dir=tmp_path, inspection="part", frames=frames, max_bytes=10**6, max_per_s=1e6, jpeg_quality=90,
            clock=clock,
        )  # fmt: skip
        keeper.start()
        for seq in range(4):
            pixels = np.full((8, 8, 3), seq, np.uint8)
            frame = Frame("cam", seq, 0, 0, pixels)
            assert keeper.offer(frame, origin=make_origin(boot_epoch=epoch), plan=None, evidence=None) is not None  # type: ignore[arg-type]
        keeper.close(30.0)
        for path in (tmp_path / "frames" / "part").glob(f"*-{epoch}-*.jpg"):
            os.utime(path, (utc_s, utc_s))  # as the file system would have it
    found = {tuple(map(int, path.stem.split("-")[1:])) for path in (tmp_path / "frames" / "part").glob("*.jpg")}
    last = len(TIMES[story])
    assert {(last, seq) for seq in range(4)} <= found
    assert len(found) == frames


@pytest.mark.parametrize("story", TIMES)
def test_collected_frames_wait_for_their_target_and_the_day_keeps_its_budget(tmp_path: Path, story: str) -> None:
    clock = ManualClock()
    by = settings(max_bytes_per_day=10_000)
    spool = spool_in(tmp_path, clock=clock)
    seq = 0
    for utc_s in TIMES[story]:
        set_clock(clock, utc_s)
        for _ in range(2):
            assert spool.add(new_item(seq, b"x" * 1_000), settings=by, job=(1, seq + 1)) is None
            seq += 1
    assert spool.status().waiting == seq
    for _ in range(30):
        spool.add(new_item(seq, b"x" * 1_000), settings=by, job=(1, seq + 1))
        seq += 1
    used = spool.status().day_bytes
    assert used <= 10_000
    spool.close()
    assert spool_in(tmp_path, clock=clock).status().day_bytes == used


@pytest.mark.parametrize("story", TIMES)
def test_rollbacks_are_counted_for_a_day_and_never_for_ever(story: str) -> None:
    limits = RolloutLimits(max_rollbacks_per_day=3)
    record = LifecycleRecord()
    for utc_s in TIMES[story][:2]:
        record = count_rollback(record, utc_s=float(utc_s), limits=limits)
    *_, last = TIMES[story]
    record = count_rollback(record, utc_s=float(last), limits=limits)
    assert all(t <= last for t in record.rollbacks_utc_s), "no time to come"
    later = count_rollback(replace(record, halted=False), utc_s=last + 2.0 * DAY_S, limits=limits)
    assert not later.halted
    assert len(later.rollbacks_utc_s) == 1
