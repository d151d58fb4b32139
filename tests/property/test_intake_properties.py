"""Whatever happens to the intake, captured = inspected + dropped + pending, and no buffer is lost.

Newest-wins keeps the newest, wait never drops, and a triggered part always comes out for a verdict.
"""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.counters import CameraCounters
from agent.inspection.frame_pool import FramePool
from agent.inspection.intake import Batch, IntakeHub
from agent.records import DropReason, Frame, Outcome

CAPACITY = {"a": 1, "b": 3, "c": 2, "d": 2}
INSPECTION = {"a": 0, "b": 0, "c": 1, "d": 1}
WAITS = {"d"}
NAMES = sorted(CAPACITY)
WORKERS, MAX_BATCH = 2, 3
BUFFERS = 12  # fewer than could be on their way: misses are part of the game


class IntakeMachine(RuleBasedStateMachine):
    """Cameras and workers in any order, against a model of plain deques."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = IntakeHub(workers=WORKERS, max_batch=MAX_BATCH)
        self.pool = FramePool(buffers=BUFFERS)
        self.stop = threading.Event()
        self.stop.set()  # a camera that would have to wait gives up at once
        self.counters = {name: CameraCounters() for name in NAMES}
        self.intakes = {
            name: self.hub.add_camera(
                inspection=INSPECTION[name],
                capacity=CAPACITY[name],
                policy="wait" if name in WAITS else "newest",
                counters=self.counters[name],
                pool=self.pool,
            )
            for name in NAMES
        }
        self.waiting: dict[str, deque[tuple[int, str | None]]] = {name: deque() for name in NAMES}
        self.displaced: list[str] = []  # part ids that must come out as late
        self.seqs = dict.fromkeys(NAMES, 0)
        self.now = 0
        self.in_work: list[Batch] = []
        self.closed = False

    @rule(name=st.sampled_from(NAMES), triggered=st.booleans())
    def capture(self, name: str, triggered: bool) -> None:  # noqa: FBT001 - hypothesis passes it by name
        seq, self.now = self.seqs[name], self.now + 1
        self.seqs[name] += 1
        part = f"{name}-{seq}" if triggered else None
        buffer = self.pool.acquire((2, 2))
        self.counters[name].count_captured()
        frame = Frame(name, seq, self.now, 0, np.zeros((2, 2), np.uint8), part, None, buffer)

        taken = self.intakes[name].offer(frame, self.stop)

        lane = self.waiting[name]
        full = len(lane) == CAPACITY[name]
        assert taken == (not self.closed and not (full and name in WAITS))
        if not taken:
            self.counters[name].count_dropped(DropReason.SHUTDOWN)
            self.pool.release(buffer)
            return
        if full:
            _, oldest_part = lane.popleft()
            if oldest_part is not None:
                self.displaced.append(oldest_part)
        lane.append((seq, part))

    @rule()
    def take(self) -> None:
        batch = self.hub.take(0.0)
        pending = sum(len(lane) for lane in self.waiting.values())
        if batch is None:
            assert pending == 0
            assert not self.displaced
            return
        self.in_work.append(batch)
        for frame in batch.late:
            assert frame.part_id is not None
            self.displaced.remove(frame.part_id)
        if batch.late:
            return
        assert 1 <= len(batch.frames) <= min(MAX_BATCH, -(-pending // WORKERS))
        for frame in batch.frames:  # each camera's frames leave in their order
            assert INSPECTION[frame.camera] == batch.inspection
            assert (frame.seq, frame.part_id) == self.waiting[frame.camera].popleft()
        due = [frame.due_ns for frame in batch.frames]
        assert due == sorted(due)

    @precondition(lambda self: self.in_work)
    @rule(data=st.data())
    def judge(self, data: st.DataObject) -> None:
        batch = self.in_work.pop(data.draw(st.integers(0, len(self.in_work) - 1)))
        for frame in batch.frames + batch.late:
            self.pool.release(frame.buffer)
            self.counters[frame.camera].count_inspected(Outcome.UNKNOWN if frame in batch.late else Outcome.OK, 1)

    @rule()
    def close(self) -> None:
        self.hub.close()
        self.closed = True

    @invariant()
    def everything_is_accounted_for(self) -> None:
        late_in_work = [f.camera for b in self.in_work for f in b.late]
        for name in NAMES:
            snapshot = self.counters[name].snapshot()
            in_work = sum(f.camera == name for b in self.in_work for f in b.frames) + late_in_work.count(name)
            displaced = sum(part.startswith(f"{name}-") for part in self.displaced)
            assert snapshot.captured == self.seqs[name]
            assert snapshot.pending == len(self.waiting[name]) + in_work + displaced
            assert "overrun" not in snapshot.dropped or name not in WAITS

    @invariant()
    def the_newest_frames_wait(self) -> None:
        for lane in self.waiting.values():
            seqs = [seq for seq, _ in lane]
            assert seqs == sorted(seqs)
        assert self.hub.pending == sum(len(lane) for lane in self.waiting.values())

    @invariant()
    def every_buffer_belongs_to_a_frame_on_its_way(self) -> None:
        on_their_way = self.hub.pending + sum(len(batch.frames) for batch in self.in_work)
        assert self.pool.held <= on_their_way

    def teardown(self) -> None:
        """A drain that ran out of time leaves nothing unaccounted for."""
        while self.in_work:
            batch = self.in_work.pop()
            for frame in batch.frames + batch.late:
                self.pool.release(frame.buffer)
                self.counters[frame.camera].count_inspected(Outcome.OK, 1)
        self.hub.close()
        self.hub.discard_pending()
        assert all(counters.snapshot().pending == 0 for counters in self.counters.values())
        assert self.pool.held == 0


TestIntake = IntakeMachine.TestCase
TestIntake.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
