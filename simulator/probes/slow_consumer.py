"""A line slower than its camera: the agent's capture thread and intake, and a slow worker.

The worker reads the clock in each image (`simulator.doubles.cameras.frame_stamp`) and then sleeps for as long as
the inspection takes, so what it sees is what a model would inspect, and how old that is when the verdict is there.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.counters import CameraCounters
from agent.errors import KensaError
from agent.inspection.capture import CaptureThread
from agent.inspection.frame_pool import FramePool
from agent.inspection.intake import IntakeHub
from agent.timing.clock import SystemClock
from simulator.doubles.cameras import frame_stamp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.counters import Accounting
    from agent.ports import FrameSource
    from agent.records import CameraStatus, Frame

_CAPACITY: Final = 8  # the configuration's default
_START_S: Final = 60.0
_STOP_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class InspectedFrame:
    """One frame at the end of its judgement."""

    seq: int
    number: int  # of the exposure, as the image says
    arrival_ms: float  # from the exposure to the time that the agent took for its arrival
    age_ms: float  # from the exposure to the judgement


class SlowConsumer:
    """One camera `source`, inspected in `inspection_s` seconds a frame."""

    def __init__(self, source: FrameSource, *, inspection_s: float) -> None:
        self._inspection_s = inspection_s
        self._counters = CameraCounters()
        self._pool = FramePool(buffers=_CAPACITY * 2)
        self._hub = IntakeHub(workers=1, max_batch=1)
        intake = self._hub.add_camera(
            inspection=0, capacity=_CAPACITY, policy="newest", counters=self._counters, pool=self._pool
        )
        self._capture = CaptureThread(
            camera="top",
            source=source,
            intake=intake,
            pool=self._pool,
            counters=self._counters,
            clock=SystemClock(),
            random=random.Random(5),
        )

    @property
    def status(self) -> CameraStatus:
        """The camera's state."""
        return self._capture.status

    @property
    def accounting(self) -> Accounting:
        """The camera's counters."""
        return self._counters.snapshot()

    def run(self, seconds: float) -> list[InspectedFrame]:
        """Inspect for `seconds` from the first frame on, then stop and inspect what waits. Raises KensaError."""
        self._capture.start()
        start, until, inspected = time.monotonic(), None, []
        while until is None or time.monotonic() < until:
            if until is None and time.monotonic() > start + _START_S:
                raise KensaError(f"no frame within {_START_S:.0f} s: {self._capture.status.last_error}")
            for frame in self._take_frame():
                until = until or time.monotonic() + seconds
                inspected.append(self._inspect(frame))
        if not self._capture.stop(timeout_s=_STOP_S):
            raise KensaError(f"the camera did not stop within {_STOP_S:.0f} s")
        while rest := tuple(self._take_frame()):
            inspected += [self._inspect(frame) for frame in rest]
        self._hub.close()
        return inspected

    def _take_frame(self) -> Iterator[Frame]:
        batch = self._hub.take(0.02)
        return iter(() if batch is None else batch.frames)

    def _inspect(self, frame: Frame) -> InspectedFrame:
        stamp = frame_stamp.read_stamp(frame.pixels)
        self._pool.release(frame.buffer)
        time.sleep(self._inspection_s)
        return InspectedFrame(frame.seq, stamp.number, frame.due_ns / 1e6 % 2**32 - stamp.drawn_ms, stamp.age_ms())
