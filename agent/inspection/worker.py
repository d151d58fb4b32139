"""The hot loop: take a batch, lease the model, preprocess in place, infer, decide, hand over. Run to completion.

One worker a core, no queue between preprocessing and inference. In steady state nothing of a frame's size is
allocated: pixels go from the camera's buffer through the preprocessor's work buffers into the worker's own batch
buffer. Whatever goes wrong with a frame ends in a counted drop or an `unknown` verdict; whatever goes wrong with a
batch ends in `unknown` verdicts; the worker goes on.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.decision import decide, unknown
from agent.errors import FrameError, InferenceError
from agent.preprocess import Preprocessor
from agent.records import DropReason, Judgement, Origin, Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.clock import Clock
    from agent.counters import CameraCounters
    from agent.inspection.intake import Batch, IntakeHub
    from agent.inspection.keeper import FrameKeeper
    from agent.inspection.pool import FramePool
    from agent.ports import VerdictSink
    from agent.preprocess import Plan
    from agent.records import Box, Floats, Frame, Pixels
    from agent.slot import Lease, ModelSlot

_POLL_S: Final = 0.2  # how soon an idle worker notices that it must stop
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Station:
    """What the loop needs to know of one camera; made by `app`, shared by all workers."""

    thing: str
    line: str
    inspection: str
    camera: str
    boot_epoch: int
    config_digest: str
    counters: CameraCounters
    pool: FramePool


@dataclass(frozen=True, slots=True)
class InspectionContext:
    """One inspection as the loop sees it: its slot, its ROI, where frames are kept, and its cameras."""

    slot: ModelSlot
    roi: Box | None
    keeper: FrameKeeper | None
    stations: dict[str, Station]


class _Desk:
    """One worker's own buffers for one inspection and lease: batch buffer, preprocessors, verdict origins."""

    def __init__(self, *, context: InspectionContext, lease: Lease | None, max_batch: int) -> None:
        self.lease = lease
        self._bench = context
        self._max_batch = max_batch
        self._preprocessors: dict[str, Preprocessor] = {}
        self._origins: dict[str, Origin] = {}
        self._slots: Pixels = np.empty((0, 0, 0, 0), np.uint8)

    def preprocessor(self, camera: str) -> Preprocessor:
        """Each camera has its own: its frames have one shape, so the plan is made once."""
        found = self._preprocessors.get(camera)
        if found is None:
            assert self.lease is not None  # noqa: S101 - only asked for with a model
            found = Preprocessor(self.lease.model.geometry, roi=self._bench.roi)
            self._preprocessors[camera] = found
        return found

    def slots(self, inputs: int) -> Pixels:
        """Batch buffer with room for `inputs`; grows only when a frame of more tiles than ever arrives."""
        if len(self._slots) < inputs:
            assert self.lease is not None  # noqa: S101 - only asked for with a model
            geometry = self.lease.model.geometry
            grown = np.empty(
                (max(inputs, self._max_batch), geometry.height, geometry.width, geometry.channels), np.uint8
            )
            if len(self._slots):
                grown[: len(self._slots)] = self._slots  # inputs of this batch that are already written
            self._slots = grown
        return self._slots

    def origin(self, camera: str) -> Origin:
        """The shared part of this camera's verdicts under this lease."""
        found = self._origins.get(camera)
        if found is None:
            station, model = self._bench.stations[camera], self.lease.model if self.lease else None
            found = Origin(
                thing=station.thing,
                line=station.line,
                inspection=station.inspection,
                camera=camera,
                boot_epoch=station.boot_epoch,
                config_digest=station.config_digest,
                preprocess_digest=model.preprocess_digest if model else "",
                model=model.identity if model else None,
                classes=model.rule.classes if model else (),
            )
            self._origins[camera] = found
        return found


@dataclass(frozen=True, slots=True)
class _Placed:
    """A frame whose inputs lie at [start, stop) of the batch buffer."""

    frame: Frame
    plan: Plan
    start: int
    stop: int


class Worker:
    """One run-to-completion worker; `run` is a thread's target."""

    def __init__(
        self,
        *,
        hub: IntakeHub,
        contexts: Sequence[InspectionContext],
        sink: VerdictSink,
        clock: Clock,
        max_batch: int,
        on_fault: Callable[[str], None],
    ) -> None:
        """Judge what `hub` gives with `contexts` (indexed as the hub's inspections) and hand verdicts to `sink`."""
        self._hub = hub
        self._benches = contexts
        self._sink = sink
        self._clock = clock
        self._max_batch = max_batch
        self._on_fault = on_fault
        self._desks: dict[int, _Desk] = {}

    def run(self, drained: threading.Event) -> None:
        """Work until `drained` is set and nothing waits."""
        while True:
            batch = self._hub.take(_POLL_S)
            if batch is not None:
                self.judge(batch)
            elif drained.is_set():
                return

    def judge(self, batch: Batch) -> None:
        """Judge one batch: the hot path."""
        context = self._benches[batch.inspection]
        desk = self._desk(batch.inspection, context)
        lease = desk.lease
        if batch.late:
            self._finish(desk, context, batch.late, [unknown("overrun: displaced by newer parts")] * len(batch.late))
        if not batch.frames:
            return
        if lease is None:
            self._finish(desk, context, batch.frames, [unknown("no usable model")] * len(batch.frames))
            return
        placed = self._preprocess(desk, context, batch.frames)
        if not placed:
            return
        used = placed[-1].stop
        try:
            result = lease.model.infer(desk.slots(used)[:used])
        except InferenceError as error:
            self._on_fault(str(error))
            self._finish(
                desk, context, [p.frame for p in placed], [unknown(f"inference failed: {error}")] * len(placed)
            )
            return
        scores, evidence = result.scores, result.evidence
        judgements = [
            decide(
                lease.rule, p.plan, scores[p.start : p.stop], None if evidence is None else evidence[p.start : p.stop]
            )
            for p in placed
        ]
        self._finish(desk, context, [p.frame for p in placed], judgements, placed, evidence)

    def _desk(self, inspection: int, context: InspectionContext) -> _Desk:
        lease = context.slot.lease()
        desk = self._desks.get(inspection)
        if desk is None or desk.lease is not lease:
            desk = _Desk(context=context, lease=lease, max_batch=self._max_batch)
            self._desks[inspection] = desk
        return desk

    def _preprocess(self, desk: _Desk, context: InspectionContext, frames: Sequence[Frame]) -> list[_Placed]:
        """Write all frames' inputs side by side; a frame that cannot be used is dropped, or `unknown` if triggered."""
        placed: list[_Placed] = []
        start = 0
        for frame in frames:
            try:
                preprocessor = desk.preprocessor(frame.camera)
                plan = preprocessor.plan_for(frame.pixels)
                stop = start + len(plan.tiles)
                preprocessor.into(frame.pixels, desk.slots(stop)[start:stop])
            except FrameError as error:
                self._refuse(desk, context, frame, error)
                continue
            placed.append(_Placed(frame, plan, start, stop))
            start = stop
        return placed

    def _refuse(self, desk: _Desk, context: InspectionContext, frame: Frame, error: FrameError) -> None:
        if frame.part_id is not None:
            self._finish(desk, context, [frame], [unknown(str(error))])
            return
        station = context.stations[frame.camera]
        station.counters.dropped(DropReason(error.reason))
        station.pool.release(frame.buffer)

    def _finish(
        self,
        desk: _Desk,
        context: InspectionContext,
        frames: Sequence[Frame],
        judgements: Sequence[Judgement],
        placed: Sequence[_Placed] | None = None,
        evidence: Floats | None = None,
    ) -> None:
        """Turn judgements into verdicts, keep what must be kept, hand over, give buffers back, count."""
        now = self._clock.monotonic_ns()
        verdicts: list[Verdict] = []
        for i, (frame, judgement) in enumerate(zip(frames, judgements, strict=True)):
            image = None
            if context.keeper is not None and placed is not None and judgement.outcome is not Outcome.OK:
                cells = None if evidence is None else evidence[placed[i].start : placed[i].stop]
                origin = desk.origin(frame.camera)
                image = context.keeper.offer(frame, origin=origin, plan=placed[i].plan, evidence=cells)
            verdicts.append(
                Verdict(
                    origin=desk.origin(frame.camera),
                    seq=frame.seq,
                    captured_utc_ns=frame.captured_utc_ns,
                    judgement=judgement,
                    latency_us=(now - frame.due_ns) // 1_000,
                    part_id=frame.part_id,
                    image=image,
                    decided_ns=now,
                )
            )
        self._sink.append(verdicts)
        for frame, verdict in zip(frames, verdicts, strict=True):
            station = context.stations[frame.camera]
            station.pool.release(frame.buffer)
            station.counters.judged(verdict.judgement.outcome, verdict.latency_us)


def start_worker(
    worker: Worker, *, index: int, drained: threading.Event, on_crash: Callable[[BaseException], None]
) -> threading.Thread:
    """Start `worker` in a named thread; `on_crash` hears of a bug that ended it."""

    def top() -> None:
        try:
            worker.run(drained)
        except Exception as error:  # noqa: BLE001 - a thread's top: a bug stops the agent, it does not thin out workers
            _log.exception("worker %d died", index)
            on_crash(error)

    thread = threading.Thread(target=top, name=f"kensa-worker-{index}", daemon=True)
    thread.start()
    return thread
