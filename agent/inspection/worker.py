"""The hot loop: take a batch, lease the model, preprocess in place, infer, decide, hand over.

One worker a core, no queue between preprocessing and inference. In steady state nothing of a frame's size is
allocated: pixels go from the camera's buffer through the preprocessor's work buffers into the worker's own batch
buffer. Any failure of a frame ends in a counted drop or an `unknown` verdict; any failure of a batch ends in `unknown`
verdicts; the worker goes on.

A shadow deployment costs the line one offered reference, after the verdict. In a trial the parts that are not assigned
to the challenger get their verdicts first; the others wait for both models (`agent.inspection.challenger` decides which
result counts). Parts that no model inspected (displaced, refused, no model), or whose image proves nothing (dark,
bright, flat, frozen), belong to no arm and are not observed.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Final

from agent.decision import decide, unknown_judgement
from agent.errors import InferenceError
from agent.inspection.challenger import ModelResult, TrialPart, run_challenger
from agent.inspection.worker_state import CameraContext, InspectionContext, WorkerState
from agent.records import DropReason, Outcome, Verdict
from agent.slot import OfferedFrame
from agent.supervision import STOP_AGENT

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Sequence

    from agent.errors import FrameError
    from agent.inspection.intake import Batch, IntakeHub
    from agent.inspection.worker_state import BatchBuffer, BatchSlice
    from agent.ports import VerdictSink
    from agent.records import Floats, Frame, Judgement
    from agent.slot import FrameTap, Lease, Trial
    from agent.supervision import SupervisedThread, ThreadSupervisor
    from agent.timing.clock import Clock

    TrialFields = tuple[str | None, Outcome | None, str | None]  # arm, challenger's outcome and digest

__all__ = ["CameraContext", "InspectionContext", "Worker", "start_worker"]

_POLL_S: Final = 0.2  # how soon an idle worker notices that it must stop
_NO_IMAGES: Final[Iterable[str | None]] = repeat(None)
_NO_TRIAL: Final[Iterable[TrialFields]] = repeat((None, None, None))


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
        """Inspect batches; `run` does so in a loop.

        Args:
            hub: Supplies batches.
            contexts: The inspections, in the order of the hub's indices.
            sink: Takes the verdicts.
            clock: The clock that latencies are measured with.
            max_batch: The most frames of a batch.
            on_fault: Called with the text of every batch that the runtime failed on.
            on_well: Called on the first batch after a fault that the runtime did not fail on.
        """
        self._hub = hub
        self._sink = sink
        self._clock = clock
        self._on_fault = on_fault
        self._on_well = on_well
        self._has_failed = False  # the runtime, on the last batch
        self._states = [WorkerState(context=context, max_batch=max_batch) for context in contexts]
        self._undecided: dict[int, Frame] = {}  # by identity: frames of the current batch without a verdict or drop
        self._inspection = 0  # theirs

    def run(self, drained: threading.Event) -> None:
        """Work until `drained` is set and no frame waits."""
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
            self._finish_unknown(self._states[self._inspection], frames, f"not inspected: {why}")

    def inspect(self, batch: Batch) -> None:
        """Inspect one batch: the hot path."""
        self._inspection = batch.inspection
        self._undecided = {id(frame): frame for frame in (*batch.late, *batch.frames)}
        state = self._states[batch.inspection]
        lease = state.lease()
        for frame in batch.late:
            self._finish_unknown(state, [frame], frame.refused or "overrun: displaced by newer parts")
        if not batch.frames:
            return
        if lease is None or state.batch_buffer is None:
            self._finish_unknown(state, batch.frames, "no usable model")
            return
        began = self._clock.monotonic_ns()
        slices = self._preprocess(state, state.batch_buffer, batch.frames)
        if not slices:
            return
        preprocessed_ns = self._clock.monotonic_ns()
        evidence: Floats | None = None
        failure: str | None = None
        try:
            result = lease.model.infer(state.batch_buffer.filled(slices[-1].stop))
        except InferenceError as error:
            self._has_failed = True
            self._on_fault(str(error))
            failure = f"inference failed: {error}"
            judgements = [unknown_judgement(failure)] * len(slices)
        else:
            self._note_recovered()
            rule, scores, evidence = lease.rule, result.scores, result.evidence
            judgements = [
                decide(rule, plan, scores[start:stop], None if evidence is None else evidence[start:stop])
                for _, plan, start, stop in slices
            ]
        if state.monitor is not None:
            inspected = [(s.frame.camera, judgement) for s, judgement in zip(slices, judgements, strict=True)]
            state.monitor.record_champion(state.chart_key, lease.model.identity, inspected)
        part_us = (self._clock.monotonic_ns() - began) // (1_000 * len(slices))
        if lease.trial is None or lease.trial.control.has_ended:
            self._finish(
                state, slices, judgements, evidence, keep=failure is None, tap=lease.frame_tap, part_us=part_us
            )
            return
        parts = []
        for s, judgement in zip(slices, judgements, strict=True):
            cells = None if evidence is None else evidence[s.start : s.stop]
            champion = ModelResult(judgement, part_us, None if failure is not None else s.plan, cells)
            parts.append(TrialPart(s, state.verdict_key(s.frame), champion))
        self._run_trial(state, lease, lease.trial, parts, shared_us=(preprocessed_ns - began) // (1_000 * len(slices)))

    def _note_recovered(self) -> None:
        if self._has_failed:
            self._has_failed = False
            self._on_well()

    def _preprocess(self, state: WorkerState, inputs: BatchBuffer, frames: Sequence[Frame]) -> list[BatchSlice]:
        """Write the frames' inputs; frames that cannot be used or prove nothing end here, with their reason."""
        slices = inputs.write(frames, lambda frame, error: self._drop_or_unknown(state, frame, error))
        if not slices:
            return slices
        usable, unusable = state.check_images(slices)
        for frame, reason in unusable:
            self._finish_unknown(state, [frame], reason)
        return usable

    def _finish(
        self,
        state: WorkerState,
        slices: Sequence[BatchSlice],
        judgements: Sequence[Judgement],
        evidence: Floats | None,
        *,
        keep: bool,
        tap: FrameTap | None,
        part_us: int,
    ) -> None:
        """Turn the champion's judgements into verdicts, record and collect frames where `keep`, and hand over."""
        now, frames = self._clock.monotonic_ns(), [s.frame for s in slices]
        recorder, collect = (state.recorder, state.collect) if keep else (None, None)
        images = _NO_IMAGES
        if recorder is not None:
            images = [
                None
                if judgement.outcome is Outcome.OK
                else recorder.offer(
                    frame,
                    origin=state.origin(frame.camera),
                    plan=plan,
                    evidence=None if evidence is None else evidence[start:stop],
                )
                for (frame, plan, start, stop), judgement in zip(slices, judgements, strict=True)
            ]
        verdicts = self._make_verdicts(state, frames, judgements, now, images)
        if collect is not None:
            for s, verdict in zip(slices, verdicts, strict=True):
                collect(s.frame, verdict, s.plan.roi)
        self._deliver(state, frames, verdicts, tap, part_us)

    def _run_trial(
        self, state: WorkerState, lease: Lease, trial: Trial, parts: Sequence[TrialPart], *, shared_us: int
    ) -> None:
        """Let the challenger inspect its share; the other parts do not wait for it."""
        assigned: list[TrialPart] = []
        alone: list[TrialPart] = []
        for part in parts:
            name = part.batch_slice.frame.part_id
            (assigned if trial.is_assigned(part.key if name is None else name) else alone).append(part)
        if alone:
            self._finish_trial(state, lease, trial, alone)
        if assigned:
            inspected = run_challenger(
                state, assigned, champion=lease, challenger=trial.challenger, shared_us=shared_us, clock=self._clock
            )
            self._finish_trial(state, lease, trial, inspected)

    def _finish_trial(self, state: WorkerState, lease: Lease, trial: Trial, parts: Sequence[TrialPart]) -> None:
        """Turn a trial's results into verdicts by the stricter one, hand over, then report to the statistics."""
        now, frames = self._clock.monotonic_ns(), [part.batch_slice.frame for part in parts]
        identity, control = trial.challenger.model.identity, trial.control
        counts = control.is_binding and not control.has_ended
        same_classes = trial.challenger.model.rule.classes == lease.model.rule.classes
        results = [part.deciding_result(same_classes=same_classes, counts=counts) for part in parts]
        images = [self._record_frame(state, frame, result) for frame, result in zip(frames, results, strict=True)]
        trial_fields: list[TrialFields] = [
            ("champion", None, None)
            if part.challenger is None
            else ("challenger", part.challenger.judgement.outcome, identity.sha256)
            for part in parts
        ]
        judgements = [result.judgement for result in results]
        verdicts = self._make_verdicts(state, frames, judgements, now, images, trial_fields)
        if state.collect is not None:
            for part, verdict in zip(parts, verdicts, strict=True):
                state.collect(part.batch_slice.frame, verdict, part.batch_slice.plan.roi)
        self._deliver(state, frames, verdicts)
        if state.monitor is not None:
            challenged = [part.challenger.judgement for part in parts if part.challenger is not None]
            state.monitor.record_challenger(identity, challenged)
        for part, verdict in zip(parts, verdicts, strict=True):
            trial.observe(part.observation(verdict))

    @staticmethod
    def _record_frame(state: WorkerState, frame: Frame, result: ModelResult) -> str | None:
        """Offer a frame that is not `ok` to the recorder; return its reference where it was taken."""
        if result.judgement.outcome is Outcome.OK or result.plan is None or state.recorder is None:
            return None
        origin = state.origin(frame.camera)
        return state.recorder.offer(frame, origin=origin, plan=result.plan, evidence=result.evidence)

    def _drop_or_unknown(self, state: WorkerState, frame: Frame, error: FrameError) -> None:
        """Drop a frame that cannot be used, or give it `unknown` if it was triggered."""
        if frame.part_id is not None:
            self._finish_unknown(state, [frame], str(error))
            return
        camera = state.cameras[frame.camera]
        camera.counters.count_dropped(DropReason(error.reason), seq=frame.seq, detail=error.detail)
        self._undecided.pop(id(frame), None)
        camera.pool.release(frame.buffer)

    def _finish_unknown(self, state: WorkerState, frames: Sequence[Frame], reason: str) -> None:
        judgements = [unknown_judgement(reason)] * len(frames)
        self._deliver(state, frames, self._make_verdicts(state, frames, judgements, self._clock.monotonic_ns()))

    @staticmethod
    def _make_verdicts(
        state: WorkerState,
        frames: Sequence[Frame],
        judgements: Sequence[Judgement],
        now_ns: int,
        images: Iterable[str | None] = _NO_IMAGES,
        trials: Iterable[TrialFields] = _NO_TRIAL,
    ) -> list[Verdict]:
        """Return the verdicts of `frames`, decided at `now_ns`; called once a batch, because the loop is hot."""
        return [
            Verdict(  # by position, in the order of the fields: keywords cost a third more time
                state.origin(frame.camera),
                frame.seq,
                frame.captured_utc_ns,
                judgement,
                (now_ns - frame.due_ns) // 1_000,
                frame.part_id,
                image,
                arm,
                outcome,
                sha256,
                now_ns,
            )
            for frame, judgement, image, (arm, outcome, sha256) in zip(frames, judgements, images, trials, strict=False)
        ]  # not strict: the defaults repeat for ever

    def _deliver(
        self,
        state: WorkerState,
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
            camera = state.cameras[frame.camera]
            camera.counters.count_inspected(verdict.judgement.outcome, verdict.latency_us)
            release = camera.pool.release
            if tap is None or not tap.offer(OfferedFrame(frame, verdict, part_us, state.site, release)):
                release(frame.buffer)


def start_worker(
    worker: Worker, *, index: int, drained: threading.Event, supervisor: ThreadSupervisor
) -> SupervisedThread:
    """Start `worker` in a named thread; a bug in it stops the agent, which never runs on with fewer workers."""
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
