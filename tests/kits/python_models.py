"""Models behind the `Model` port whose answers are a Python function."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from agent.counters import CameraCounters
from agent.inspection.frame_pool import FramePool
from agent.inspection.intake import IntakeHub
from agent.inspection.worker import CameraContext, InspectionContext, Worker
from agent.preprocess import digest
from agent.records import DecisionRule, Frame, Geometry, ModelIdentity, Scores
from agent.slot import Lease, ModelSlot
from simulator.doubles.clocks.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.images.plausibility import ImageLimits
    from agent.inspection.frame_recorder import FrameRecorder
    from agent.inspection.monitor import InspectionMonitor
    from agent.inspection.worker_state import CollectFrame
    from agent.records import Pixels, Verdict

SMALL = Geometry(mode="whole", height=8, width=8, channels=1)
TINY = Geometry(mode="whole", height=4, width=4, channels=1)


class PlainModel:
    """A model that answers what `answer` says; counts its batches."""

    def __init__(
        self,
        version: str,
        answer: Callable[[Pixels], Scores],
        *,
        geometry: Geometry = SMALL,
        classes: tuple[str, ...] = ("ok", "spot"),
    ) -> None:
        """`classes` are good parts first, then one defect."""
        self.identity = ModelIdentity("plain", version, version.rjust(64, "0"))
        self.geometry = geometry
        self.rule = DecisionRule(classes, frozenset(classes[1:]), dict.fromkeys(classes[1:], 0.5), 0.1)
        self.preprocess_digest = digest(geometry)
        self.image_limits: ImageLimits | None = None
        self.batches: list[int] = []
        self.answer = answer

    def infer(self, batch: Pixels) -> Scores:
        """See `Model.infer`."""
        self.batches.append(len(batch))
        return self.answer(batch)


def saying(score: float) -> Callable[[Pixels], Scores]:
    """An answer that gives every part this score for its defect, with evidence in one corner."""

    def answer(batch: Pixels) -> Scores:
        evidence = np.zeros((len(batch), 2, 2), np.float32)
        evidence[:, 0, 0] = score
        return Scores(np.tile(np.array([[0.0, score]], np.float32), (len(batch), 1)), evidence)

    return answer


def lease_of(model: PlainModel) -> Lease:
    """A lease with the model's own rule."""
    return Lease(model, model.rule)


class Line:
    """One inspection with one camera, and a worker that is called by hand."""

    def __init__(
        self,
        champion: Lease | None,
        *,
        keeper: FrameRecorder | None = None,
        collect: CollectFrame | None = None,
        monitor: InspectionMonitor | None = None,
    ) -> None:
        """Inspect with `champion`."""
        self.slot = ModelSlot(champion)
        self.pool = FramePool(buffers=20)
        self.counters = CameraCounters()
        self.clock = ManualClock()
        self.verdicts: list[Verdict] = []
        self.appended: list[int] = []  # verdicts of each hand-over
        self.faults: list[str] = []
        self._hub = IntakeHub(workers=1, max_batch=8)
        self.intake = self._hub.add_camera(
            inspection=0, capacity=16, policy="newest", counters=self.counters, pool=self.pool
        )
        station = CameraContext("thing", "line", "part", "cam", 1, self.counters, self.pool)
        self.worker = Worker(
            hub=self._hub,
            contexts=[InspectionContext(self.slot, keeper, {"cam": station}, collect, monitor)],
            sink=self,
            clock=self.clock,
            max_batch=8,
            on_fault=self.faults.append,
        )
        self._seq = 0

    def append(self, verdicts: Sequence[Verdict]) -> None:
        """See `VerdictSink.append`."""
        self.verdicts.extend(verdicts)
        self.appended.append(len(verdicts))

    def judge(
        self, count: int = 1, *, greys: Sequence[int] | None = None, part_ids: Sequence[str] | None = None
    ) -> list[Verdict]:
        """Let `count` parts pass as one batch; returns their verdicts by sequence number."""
        for i in range(count):
            self.offer(grey=100 if greys is None else greys[i], part_id=None if part_ids is None else part_ids[i])
        return self.work()

    def offer(self, *, grey: int = 100, part_id: str | None = None) -> None:
        """Let one part pass the camera."""
        buffer = self.pool.acquire((8, 8))
        pixels = self.pool.buffer(buffer)
        pixels[...] = grey
        frame = Frame("cam", self._seq, self.clock.monotonic_ns(), 0, pixels, part_id=part_id, buffer=buffer)
        self._seq += 1
        self.counters.count_captured()
        assert self.intake.offer(frame, threading.Event())

    def work(self) -> list[Verdict]:
        """Let the worker judge one batch; returns its verdicts by sequence number."""
        known = len(self.verdicts)
        batch = self._hub.take(0.0)
        assert batch is not None
        self.worker.inspect(batch)
        return sorted(self.verdicts[known:], key=lambda v: v.seq)
