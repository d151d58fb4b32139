"""The hot loop: take a batch, lease the model, preprocess in place, infer, decide, hand over. Run to completion.

One worker a core, no queue between preprocessing and inference. In steady state nothing of a frame's size is
allocated: pixels go from the camera's buffer through the preprocessor's work buffers into the worker's own batch
buffer. Whatever goes wrong with a frame ends in a counted drop or an `unknown` verdict; whatever goes wrong with a
batch ends in `unknown` verdicts; the worker goes on.

A shadow costs the line the offer of a reference, after the verdict. In a trial the parts that are not assigned to the
challenger get their verdicts first; the others wait for both models (`agent.inspection.challenger` says whose word
counts). Parts that no model saw (displaced, refused, NO_MODEL), or whose picture proves nothing (dark, bright, flat,
frozen), belong to no arm and are not observed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.decision import decide, unknown_judgement
from agent.errors import InferenceError
from agent.inspection.challenger import ModelResult, TrialPart, run_challenger
from agent.inspection.worker_state import CameraContext, InspectionContext, WorkerState
from agent.records import DropReason, Outcome, Verdict
from agent.supervision import STOP_AGENT

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from agent.errors import FrameError
    from agent.inspection.intake import Batch, IntakeHub
    from agent.inspection.worker_state import BatchBuffer, BatchSlice
    from agent.ports import VerdictSink
    from agent.records import Floats, Frame, Judgement
    from agent.slot import FrameTap, Lease, Trial
    from agent.supervision import SupervisedThread, ThreadSupervisor
    from agent.timing.clock import Clock

__all__ = ["CameraContext", "InspectionContext", "Worker", "start_worker"]

_POLL_S: Final = 0.2  # how soon an idle worker notices that it must stop


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
        on_well: Callable[[], object] = lambda: None,
    ) -> None:
        """Judge what `hub` gives with `contexts` (indexed as the hub's inspections) and hand verdicts to `sink`.

        `on_fault` hears of every batch that the runtime failed on, `on_well` of the first one after that.
        """
        self._hub = hub
        self._sink = sink
        self._clock = clock
        self._on_fault = on_fault
        self._on_well = on_well
        self._has_failed = False  # the runtime, on the last batch
        self._states = [WorkerState(context=context, max_batch=max_batch) for context in contexts]
        self._undecided: dict[int, Frame] = {}  # by identity: frames of the batch in work without a verdict or drop
        self._inspection = 0  # theirs

    def run(self, drained: threading.Event) -> None:
        """Work until `drained` is set and nothing waits."""
        self.finish_undecided("the machine ran out of memory or the like")
        while True:
            batch = self._hub.take(_POLL_S)
            if batch is not None:
                self.inspect(batch)
            elif drained.is_set():
                return

    def finish_undecided(self, why: str) -> None:
        """Give `unknown` to the frames that an earlier run left undecided; no part vanishes with a fault."""
        frames = list(self._undecided.values())
        if frames:
            self._finish_unknown(self._states[self._inspection], frames, f"not judged: {why}")

    def inspect(self, batch: Batch) -> None:
        """Judge one batch: the hot path."""
        self._inspection = batch.inspection
        self._undecided = {id(frame): frame for frame in (*batch.late, *batch.frames)}
        desk = self._states[batch.inspection]
        lease = desk.lease()
        for frame in batch.late:
            self._finish_unknown(desk, [frame], frame.refused or "overrun: displaced by newer parts")
        if not batch.frames:
            return
        if lease is None or desk.batch_buffer is None:
            self._finish_unknown(desk, batch.frames, "no usable model")
            return
        began = self._clock.monotonic_ns()
        placed = self._preprocess(desk, desk.batch_buffer, batch.frames)
        if not placed:
            return
        placed_ns = self._clock.monotonic_ns()
        evidence: Floats | None = None
        failure: str | None = None
        try:
            result = lease.model.infer(desk.batch_buffer.filled(placed[-1].stop))
        except InferenceError as error:
            self._has_failed = True
            self._on_fault(str(error))
            failure = f"inference failed: {error}"
            judgements = [unknown_judgement(failure)] * len(placed)
        else:
            self._note_recovered()
            rule, scores, evidence = lease.rule, result.scores, result.evidence
            judgements = [
                decide(rule, plan, scores[start:stop], None if evidence is None else evidence[start:stop])
                for _, plan, start, stop in placed
            ]
        if desk.monitor is not None:
            seen = [(p.frame.camera, judgement) for p, judgement in zip(placed, judgements, strict=True)]
            desk.monitor.record_champion(desk.chart_key, lease.model.identity, seen)
        part_us = (self._clock.monotonic_ns() - began) // (1_000 * len(placed))
        if lease.trial is None or lease.trial.control.has_ended:
            self._finish(desk, placed, judgements, evidence, keep=failure is None, tap=lease.frame_tap, part_us=part_us)
            return
        parts = []
        for p, judgement in zip(placed, judgements, strict=True):
            cells = None if evidence is None else evidence[p.start : p.stop]
            opinion = ModelResult(judgement, part_us, None if failure is not None else p.plan, cells)
            parts.append(TrialPart(p, desk.verdict_key(p.frame), opinion))
        self._run_trial(desk, lease, lease.trial, parts, shared_us=(placed_ns - began) // (1_000 * len(placed)))

    def _note_recovered(self) -> None:
        if self._has_failed:
            self._has_failed = False
            self._on_well()

    def _preprocess(self, desk: WorkerState, inputs: BatchBuffer, frames: Sequence[Frame]) -> list[BatchSlice]:
        """Write the frames' inputs; what cannot be used or proves nothing ends here, with its reason."""
        placed = inputs.write(frames, lambda frame, error: self._drop_or_unknown(desk, frame, error))
        if not placed:
            return placed
        fit, unfit = desk.check_images(placed)
        for frame, reason in unfit:
            self._finish_unknown(desk, [frame], reason)
        return fit

    def _finish(
        self,
        desk: WorkerState,
        placed: Sequence[BatchSlice],
        judgements: Sequence[Judgement],
        evidence: Floats | None,
        *,
        keep: bool,
        tap: FrameTap | None,
        part_us: int,
    ) -> None:
        """Turn the champion's judgements into verdicts, keep what must be kept, hand over."""
        now = self._clock.monotonic_ns()
        keeper, collect = (desk.recorder, desk.collect) if keep else (None, None)
        verdicts: list[Verdict] = []
        for (frame, plan, start, stop), judgement in zip(placed, judgements, strict=True):
            origin = desk.origin(frame.camera)
            image = None
            if judgement.outcome is not Outcome.OK and keeper is not None:
                cells = None if evidence is None else evidence[start:stop]
                image = keeper.offer(frame, origin=origin, plan=plan, evidence=cells)
            verdict = Verdict(
                origin=origin,
                seq=frame.seq,
                captured_utc_ns=frame.captured_utc_ns,
                judgement=judgement,
                latency_us=(now - frame.due_ns) // 1_000,
                part_id=frame.part_id,
                image=image,
                decided_ns=now,
            )
            if collect is not None:
                collect(frame, verdict, plan.roi)
            verdicts.append(verdict)
        self._deliver(desk, [p.frame for p in placed], verdicts, tap, part_us)

    def _run_trial(
        self, desk: WorkerState, lease: Lease, trial: Trial, parts: Sequence[TrialPart], *, shared_us: int
    ) -> None:
        """Let the challenger judge its share; the other parts do not wait for it."""
        assigned: list[TrialPart] = []
        alone: list[TrialPart] = []
        for part in parts:
            name = part.batch_slice.frame.part_id
            (assigned if trial.is_assigned(part.key if name is None else name) else alone).append(part)
        if alone:
            self._finish_trial(desk, lease, trial, alone)
        if assigned:
            inspected = run_challenger(
                desk, assigned, champion=lease, challenger=trial.challenger, shared_us=shared_us, clock=self._clock
            )
            self._finish_trial(desk, lease, trial, inspected)

    def _finish_trial(self, desk: WorkerState, lease: Lease, trial: Trial, parts: Sequence[TrialPart]) -> None:
        """Turn a trial's opinions into verdicts by the stricter one, hand over, then tell the statistics."""
        now = self._clock.monotonic_ns()
        model, control = trial.challenger.model, trial.control
        counts = control.is_binding and not control.has_ended
        same_classes = model.rule.classes == lease.model.rule.classes
        verdicts = []
        for part in parts:
            frame, other = part.batch_slice.frame, part.challenger
            origin = desk.origin(frame.camera)
            said = part.deciding_result(same_classes=same_classes, counts=counts)
            image = None
            if said.judgement.outcome is not Outcome.OK and said.plan is not None and desk.recorder is not None:
                image = desk.recorder.offer(frame, origin=origin, plan=said.plan, evidence=said.evidence)
            verdict = Verdict(
                origin=origin,
                seq=frame.seq,
                captured_utc_ns=frame.captured_utc_ns,
                judgement=said.judgement,
                latency_us=(now - frame.due_ns) // 1_000,
                part_id=frame.part_id,
                image=image,
                arm="champion" if other is None else "challenger",
                challenger_outcome=None if other is None else other.judgement.outcome,
                challenger_sha256=None if other is None else model.identity.sha256,
                decided_ns=now,
            )
            if desk.collect is not None:
                desk.collect(frame, verdict, part.batch_slice.plan.roi)
            verdicts.append(verdict)
        self._deliver(desk, [part.batch_slice.frame for part in parts], verdicts)
        if desk.monitor is not None:
            said_by = [part.challenger.judgement for part in parts if part.challenger is not None]
            desk.monitor.record_challenger(model.identity, said_by)
        for part, verdict in zip(parts, verdicts, strict=True):
            trial.observe(part.observation(verdict))

    def _drop_or_unknown(self, desk: WorkerState, frame: Frame, error: FrameError) -> None:
        """A frame that cannot be used is dropped, or `unknown` if triggered."""
        if frame.part_id is not None:
            self._finish_unknown(desk, [frame], str(error))
            return
        station = desk.cameras[frame.camera]
        station.counters.count_dropped(DropReason(error.reason), seq=frame.seq, detail=error.detail)
        self._undecided.pop(id(frame), None)
        station.pool.release(frame.buffer)

    def _finish_unknown(self, desk: WorkerState, frames: Sequence[Frame], reason: str) -> None:
        now, judgement = self._clock.monotonic_ns(), unknown_judgement(reason)
        verdicts = [
            Verdict(
                origin=desk.origin(frame.camera),
                seq=frame.seq,
                captured_utc_ns=frame.captured_utc_ns,
                judgement=judgement,
                latency_us=(now - frame.due_ns) // 1_000,
                part_id=frame.part_id,
                decided_ns=now,
            )
            for frame in frames
        ]
        self._deliver(desk, frames, verdicts)

    def _deliver(
        self,
        desk: WorkerState,
        frames: Sequence[Frame],
        verdicts: Sequence[Verdict],
        tap: FrameTap | None = None,
        part_us: int = 0,
    ) -> None:
        """Hand verdicts over, count, give buffers back: to the tap where it takes them, else to the pool."""
        self._sink.append(verdicts)
        for frame in frames:
            self._undecided.pop(id(frame), None)
        for frame, verdict in zip(frames, verdicts, strict=True):
            station = desk.cameras[frame.camera]
            judgement = verdict.judgement
            station.counters.count_inspected(judgement.outcome, verdict.latency_us)
            release = station.pool.release
            if tap is None or not tap.offer(
                frame, verdict=verdict, champion_us=part_us, site=desk.site, release=release
            ):
                release(frame.buffer)


def start_worker(
    worker: Worker, *, index: int, drained: threading.Event, supervisor: ThreadSupervisor
) -> SupervisedThread:
    """Start `worker` in a named thread; a bug stops the agent: it does not thin out workers."""
    thread = supervisor.thread(
        lambda: worker.run(drained),
        kind="worker",
        name=f"kensa-worker-{index}",
        policy=STOP_AGENT,
        stop=drained,
        on_fault=lambda fault: worker.finish_undecided(fault.text),
    )
    thread.start()
    return thread
