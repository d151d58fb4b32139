"""The intake: bounded queues between the capture threads and the workers.

Each camera's queue is bounded, with a policy: `newest` displaces the oldest waiting frame of the same camera, `wait`
blocks the capture thread. A displaced frame is counted as `overrun`; if it carries a part id it gets an `unknown`
verdict instead, because a triggered part always ends in a verdict. Batches never mix inspections, the oldest frame goes
first, and no worker waits for a batch to fill.

The capacity absorbs bursts. A queue that is longer at each `take` than at the previous one, or that overflows and has
not been empty for half a second, is overloaded: the line is slower than the camera, and every frame would wait for the
whole queue before it is inspected. Such a queue keeps only its newest frame, until nothing was displaced for a second
(the idea of CoDel, RFC 8289: overload differs from a burst in that the queue does not shrink, not in its length). Time
is that of the frames, `Frame.due_ns`.
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

_STOP_POLL_S: Final = 0.1  # how soon a blocked capture thread notices that it must stop
_OVERLOAD_NS: Final = 500_000_000  # not empty for so long, and full: the line is slower than the camera
_BEHIND_NS: Final = 50_000_000  # between the oldest and the newest frame: less is no delay, however many wait
_GROWTHS: Final = 2  # consecutive takes
_RELIEF_NS: Final = 1_000_000_000  # nothing displaced for so long: no longer overloaded
_MAX_LATE: Final = 256  # refused frames that wait for their `unknown` before the capture threads are blocked
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
    filled_ns: int = 0  # due time of the frame that arrived when the queue was last empty
    displaced_ns: int = 0  # due time of the frame that last displaced one
    last_length: int = 0  # how many waited at the last take
    growths: int = 0  # consecutive takes at which more waited than before
    is_overloaded: bool = False


class IntakeHub:
    """All cameras' queues behind one condition; composed before the threads start, then fixed."""

    def __init__(self, *, workers: int, max_batch: int) -> None:
        """Serve `workers` workers with batches of at most `max_batch` frames."""
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
        """Add a camera before the threads start; return the intake for its capture thread."""
        queue = _CameraQueue(inspection, capacity, policy, counters, pool)
        self._queues.append(queue)
        return CameraIntake(self, queue)

    def take(self, timeout_s: float) -> Batch | None:
        """Return the waiting frames, at most a fair share for one worker; None after `timeout_s` without a frame."""
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
        """The number of waiting frames."""
        return self._pending

    def close(self) -> None:
        """Refuse new frames; waiting ones can still be taken."""
        with self._lock:
            self._closed = True
            self._filled.notify_all()
            self._room.notify_all()

    def discard_pending(self) -> None:
        """Drop the frames that still wait, counted as `shutdown`; for a drain that ran out of time."""
        with self._lock:
            for queue in self._queues:
                for frame in queue.waiting:
                    queue.counters.count_dropped(DropReason.SHUTDOWN, seq=frame.seq, name=frame.part_id)
                    queue.pool.release(frame.buffer)
                queue.waiting.clear()
            for late in self._late.values():
                for counters, frame in late:
                    counters.count_dropped(DropReason.SHUTDOWN, seq=frame.seq, name=frame.part_id)
            self._late.clear()
            self._pending = 0

    def _pop(self) -> Batch:
        """Pop the oldest frame and others of its inspection; only a share, so that bursts spread over the cores."""
        filled = [queue for queue in self._queues if queue.waiting]
        first = min(filled, key=_oldest_due_ns)
        self._check_growth(first)
        share = min(self._max_batch, -(-self._pending // self._workers))
        same_inspection = [queue for queue in filled if queue.inspection == first.inspection]
        frames: list[Frame] = []
        while same_inspection and len(frames) < share:
            queue = same_inspection[0] if len(same_inspection) == 1 else min(same_inspection, key=_oldest_due_ns)
            frames.append(queue.waiting.popleft())
            if not queue.waiting:
                same_inspection.remove(queue)
        self._pending -= len(frames)
        return Batch(first.inspection, tuple(frames))

    def _check_growth(self, queue: _CameraQueue) -> None:
        """Mark a queue that grows from take to take as overloaded; only its newest frame is taken then."""
        found, newest_ns = len(queue.waiting), queue.waiting[-1].due_ns
        is_behind = queue.policy == "newest" and newest_ns - queue.waiting[0].due_ns >= _BEHIND_NS
        queue.growths = queue.growths + 1 if is_behind and found > queue.last_length else 0
        queue.last_length = found
        if queue.growths >= _GROWTHS:
            queue.is_overloaded, queue.displaced_ns = True, newest_ns
            self._keep_newest(queue, kept=1)

    def _keep_newest(self, queue: _CameraQueue, *, kept: int) -> None:
        """Displace all but the newest frames; displaced parts get their verdict in order."""
        while len(queue.waiting) > kept and queue.waiting[0].part_id is None:
            self._displace(queue)

    def _offer(self, queue: _CameraQueue, frame: Frame, stop: threading.Event) -> bool:
        with self._lock:
            while len(queue.waiting) >= queue.capacity and queue.policy == "wait":
                if self._closed or stop.is_set():
                    return False
                self._room.wait(_STOP_POLL_S)
            if self._closed:
                return False
            self._make_room(queue, frame.due_ns)
            queue.waiting.append(frame)
            self._pending += 1
            self._filled.notify()
            return True

    def _refuse(self, queue: _CameraQueue, frame: Frame, stop: threading.Event) -> bool:
        with self._lock:
            while sum(map(len, self._late.values())) >= _MAX_LATE and not (self._closed or stop.is_set()):
                self._room.wait(_STOP_POLL_S)
            if self._closed:
                return False
            self._late.setdefault(queue.inspection, []).append((queue.counters, frame))
            self._filled.notify()
            return True

    def _make_room(self, queue: _CameraQueue, now_ns: int) -> None:
        if not queue.waiting:
            queue.filled_ns = now_ns
        elif len(queue.waiting) >= queue.capacity or (queue.is_overloaded and queue.waiting[0].part_id is None):
            queue.displaced_ns = now_ns
            queue.is_overloaded |= now_ns - queue.filled_ns >= _OVERLOAD_NS
            self._displace(queue)
            if queue.is_overloaded:
                self._keep_newest(queue, kept=0)
        if now_ns - queue.displaced_ns >= _RELIEF_NS:
            queue.is_overloaded = False

    def _displace(self, queue: _CameraQueue) -> None:
        oldest = queue.waiting.popleft()
        self._pending -= 1
        if oldest.part_id is None:
            queue.counters.count_dropped(DropReason.OVERRUN, seq=oldest.seq)
            queue.pool.release(oldest.buffer)
        else:
            queue.pool.release(oldest.buffer)
            late = replace(oldest, pixels=NO_PIXELS, buffer=-1)
            self._late.setdefault(queue.inspection, []).append((queue.counters, late))


def _oldest_due_ns(queue: _CameraQueue) -> int:
    return queue.waiting[0].due_ns


class CameraIntake:
    """One camera's access to the hub, used by its capture thread."""

    def __init__(self, hub: IntakeHub, queue: _CameraQueue) -> None:
        """Made by `IntakeHub.add_camera`."""
        self._hub = hub
        self._queue = queue

    def offer(self, frame: Frame, stop: threading.Event) -> bool:
        """Queue a frame. False when the hub is closed (or `stop` is set while waiting): the caller counts the drop.

        Policy `newest` never blocks; `wait` blocks until there is room.
        """
        return self._hub._offer(self._queue, frame, stop)  # noqa: SLF001 - the hub's other half

    def offer_refused(self, frame: Frame, stop: threading.Event) -> bool:
        """Queue a part's exposure that cannot be inspected (`frame.refused` is why), so that it gets `unknown`.

        False as in `offer`. Blocks while too many wait for their verdict.
        """
        return self._hub._refuse(self._queue, frame, stop)  # noqa: SLF001 - the hub's other half
