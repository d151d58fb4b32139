"""The intake: bounded queues between the capture threads and the workers.

Bounded by camera, with a named policy: `newest` displaces the oldest waiting frame of the same camera, `wait` holds the
capture thread back. A displaced frame is counted as `overrun`; if it carries a part id it gets an `unknown` verdict
instead, because a triggered part always ends in a verdict. Batches never mix inspections, the oldest frame goes first,
and nobody waits for a batch to fill.

The capacity absorbs bursts. A queue that is longer at each taking than at the one before, or that overflows and has not
been empty for half a second, is no burst: the line is slower than the camera, and each frame would be judged when it is
as old as the queue is long. Such a queue keeps only its newest frame, until nothing was displaced for a second (the
idea of CoDel, RFC 8289: not a queue's length but that it does not shrink tells overload from a burst). Time is that of
the frames, `Frame.due_ns`.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from agent.records import DropReason

if TYPE_CHECKING:
    from agent.counters import CameraCounters
    from agent.inspection.frame_pool import FramePool
    from agent.records import Frame

_STOP_POLL_S: Final = 0.1  # how soon a held-back capture thread notices that it must stop
_OVERLOAD_NS: Final = 500_000_000  # not empty for so long, and full: the line is slower than the camera
_BEHIND_NS: Final = 50_000_000  # between the oldest and the newest frame: younger ones are fresh, however many wait
_GROWTHS: Final = 2  # takings in a row
_RELIEF_NS: Final = 1_000_000_000  # nothing displaced for so long: it is not any more
_MAX_LATE: Final = 256  # refused frames that wait for their `unknown` before the capture threads are held back
NO_PIXELS: Final = np.empty((0, 0), np.uint8)  # of a frame that only waits for its `unknown` verdict


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames of one inspection for one worker; `late` ones were displaced or refused and only get `unknown`."""

    inspection: int  # index into the hub's inspections
    frames: tuple[Frame, ...]
    late: tuple[Frame, ...] = ()


@dataclass(slots=True)
class _CameraQueue:
    """One camera's waiting frames."""

    inspection: int
    capacity: int
    policy: Literal["newest", "wait"]
    counters: CameraCounters
    pool: FramePool
    waiting: deque[Frame] = field(default_factory=deque)
    filled_ns: int = 0  # due time of the frame that came when the lane was last empty
    displaced_ns: int = 0  # due time of the frame that last displaced one
    last_length: int = 0  # how many waited at the last taking
    growths: int = 0  # takings in a row at which more waited than before
    is_overloaded: bool = False


class IntakeHub:
    """All cameras' waiting frames behind one condition; made before the threads start, then fixed."""

    def __init__(self, *, workers: int, max_batch: int) -> None:
        """Serve `workers` takers with batches of at most `max_batch` frames."""
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._workers = workers
        self._max_batch = max_batch
        self._queues: list[_CameraQueue] = []
        self._late: dict[int, list[tuple[CameraCounters, Frame]]] = {}  # by inspection
        self._pending = 0
        self._closed = False

    def add_camera(
        self,
        *,
        inspection: int,
        capacity: int,
        policy: Literal["newest", "wait"],
        counters: CameraCounters,
        pool: FramePool,
    ) -> CameraIntake:
        """Add a camera before the threads start; returns its entrance."""
        lane = _CameraQueue(inspection, capacity, policy, counters, pool)
        self._queues.append(lane)
        return CameraIntake(self, lane)

    def take(self, timeout_s: float) -> Batch | None:
        """Return what is there, at most this worker's fair share; None after `timeout_s` without a frame."""
        with self._filled:
            if not self._pending and not self._late and not self._filled.wait(timeout_s):
                return None
            if self._late:
                inspection, late = self._late.popitem()
                self._room.notify_all()
                return Batch(inspection, (), tuple(frame for _, frame in late))
            if not self._pending:
                return None
            batch = self._pop()
            self._room.notify_all()
            if self._pending:
                self._filled.notify()
            return batch

    @property
    def pending(self) -> int:
        """Frames that wait."""
        return self._pending

    def close(self) -> None:
        """Refuse new frames; what waits can still be taken."""
        with self._lock:
            self._closed = True
            self._filled.notify_all()
            self._room.notify_all()

    def discard_pending(self) -> None:
        """Drop what still waits, counted as `shutdown`; for a drain that ran out of time."""
        with self._lock:
            for lane in self._queues:
                for frame in lane.waiting:
                    lane.counters.count_dropped(DropReason.SHUTDOWN, seq=frame.seq, name=frame.part_id)
                    lane.pool.release(frame.buffer)
                lane.waiting.clear()
            for late in self._late.values():
                for counters, frame in late:
                    counters.count_dropped(DropReason.SHUTDOWN, seq=frame.seq, name=frame.part_id)
            self._late.clear()
            self._pending = 0

    def _pop(self) -> Batch:
        """Oldest frame first, then more of its inspection; a share for each worker: bursts spread over cores."""
        filled = [lane for lane in self._queues if lane.waiting]
        first = min(filled, key=_oldest_due_ns)
        self._check_growth(first)
        share = min(self._max_batch, -(-self._pending // self._workers))
        lanes = [lane for lane in filled if lane.inspection == first.inspection]
        frames: list[Frame] = []
        while lanes and len(frames) < share:
            lane = lanes[0] if len(lanes) == 1 else min(lanes, key=_oldest_due_ns)
            frames.append(lane.waiting.popleft())
            if not lane.waiting:
                lanes.remove(lane)
        self._pending -= len(frames)
        return Batch(first.inspection, tuple(frames))

    def _check_growth(self, lane: _CameraQueue) -> None:
        """A lane that grows from taking to taking is overloaded: what is taken now is its newest frame."""
        found, newest_ns = len(lane.waiting), lane.waiting[-1].due_ns
        is_behind = lane.policy == "newest" and newest_ns - lane.waiting[0].due_ns >= _BEHIND_NS
        lane.growths = lane.growths + 1 if is_behind and found > lane.last_length else 0
        lane.last_length = found
        if lane.growths >= _GROWTHS:
            lane.is_overloaded, lane.displaced_ns = True, newest_ns
            self._keep_newest(lane, kept=1)

    def _keep_newest(self, lane: _CameraQueue, *, kept: int) -> None:
        """Displace all but the newest frames; a part must get its verdict in its turn."""
        while len(lane.waiting) > kept and lane.waiting[0].part_id is None:
            self._displace(lane)

    def _offer(self, lane: _CameraQueue, frame: Frame, stop: threading.Event) -> bool:
        with self._lock:
            while len(lane.waiting) >= lane.capacity and lane.policy == "wait":
                if self._closed or stop.is_set():
                    return False
                self._room.wait(_STOP_POLL_S)
            if self._closed:
                return False
            self._make_room(lane, frame.due_ns)
            lane.waiting.append(frame)
            self._pending += 1
            self._filled.notify()
            return True

    def _refuse(self, lane: _CameraQueue, frame: Frame, stop: threading.Event) -> bool:
        with self._lock:
            while sum(map(len, self._late.values())) >= _MAX_LATE and not (self._closed or stop.is_set()):
                self._room.wait(_STOP_POLL_S)
            if self._closed:
                return False
            self._late.setdefault(lane.inspection, []).append((lane.counters, frame))
            self._filled.notify()
            return True

    def _make_room(self, lane: _CameraQueue, now_ns: int) -> None:
        if not lane.waiting:
            lane.filled_ns = now_ns
        elif len(lane.waiting) >= lane.capacity or (lane.is_overloaded and lane.waiting[0].part_id is None):
            lane.displaced_ns = now_ns
            lane.is_overloaded |= now_ns - lane.filled_ns >= _OVERLOAD_NS
            self._displace(lane)
            if lane.is_overloaded:
                self._keep_newest(lane, kept=0)
        if now_ns - lane.displaced_ns >= _RELIEF_NS:
            lane.is_overloaded = False

    def _displace(self, lane: _CameraQueue) -> None:
        oldest = lane.waiting.popleft()
        self._pending -= 1
        if oldest.part_id is None:
            lane.counters.count_dropped(DropReason.OVERRUN, seq=oldest.seq)
            lane.pool.release(oldest.buffer)
        else:
            lane.pool.release(oldest.buffer)
            late = replace(oldest, pixels=NO_PIXELS, buffer=-1)
            self._late.setdefault(lane.inspection, []).append((lane.counters, late))


def _oldest_due_ns(lane: _CameraQueue) -> int:
    return lane.waiting[0].due_ns


class CameraIntake:
    """One camera's entrance to the hub, used by its capture thread."""

    def __init__(self, hub: IntakeHub, lane: _CameraQueue) -> None:
        """Made by `IntakeHub.add_camera`."""
        self._hub = hub
        self._queue = lane

    def offer(self, frame: Frame, stop: threading.Event) -> bool:
        """Leave a frame. False when the hub is closed (or `stop` is set while waiting): the caller counts the drop.

        Policy `newest` never blocks; `wait` blocks until there is room.
        """
        return self._hub._offer(self._queue, frame, stop)  # noqa: SLF001 - one class in two faces

    def offer_refused(self, frame: Frame, stop: threading.Event) -> bool:
        """Leave a part's exposure that cannot be judged (`frame.refused` says why), so that it gets `unknown`.

        False as in `offer`. Blocks while very many wait for their verdict.
        """
        return self._hub._refuse(self._queue, frame, stop)  # noqa: SLF001 - one class in two faces
