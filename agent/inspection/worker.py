"""The hot loop: take a batch, lease the model, preprocess in place, infer, decide, hand over. Run to completion.

One worker a core, no queue between preprocessing and inference. In steady state nothing of a frame's size is
allocated: pixels go from the camera's buffer through the preprocessor's work buffers into the worker's own batch
buffer. Whatever goes wrong with a frame ends in a counted drop or an `unknown` verdict; whatever goes wrong with a
batch ends in `unknown` verdicts; the worker goes on.

A shadow costs the line the offer of a reference, after the verdict. In a trial the parts that are not assigned to the
challenger get their verdicts first; the others wait for both models (`agent.inspection.trial` says whose word counts).
Parts that no model saw (displaced, refused, SAFE), or whose picture proves nothing (dark, bright, flat, frozen), belong
to no arm and are not observed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.decision import decide, unknown
from agent.errors import InferenceError
from agent.inspection.desk import Desk, InspectionContext, Station
from agent.inspection.trial import Opinion, Part, consult
from agent.records import DropReason, Outcome, Verdict
from agent.supervision import STOP

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from agent.clock import Clock
    from agent.errors import FrameError
    from agent.inspection.desk import Inputs, Placed
    from agent.inspection.intake import Batch, IntakeHub
    from agent.ports import VerdictSink
    from agent.records import Floats, Frame, Judgement
    from agent.slot import Lease, ShadowTap, Trial
    from agent.supervision import SupervisedThread, Supervisor

__all__ = ["InspectionContext", "Station", "Worker", "start_worker"]

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
        self._desks = [Desk(context=context, max_batch=max_batch) for context in contexts]
        self._undecided: dict[int, Frame] = {}  # by identity: frames of the batch in work without a verdict or drop
        self._inspection = 0  # theirs

    def run(self, drained: threading.Event) -> None:
        """Work until `drained` is set and nothing waits."""
        self.give_up("the machine ran out of memory or the like")
        while True:
            batch = self._hub.take(_POLL_S)
            if batch is not None:
                self.judge(batch)
            elif drained.is_set():
                return

    def give_up(self, why: str) -> None:
        """Give `unknown` to the frames that an earlier run left undecided; no part vanishes with a fault."""
        frames = list(self._undecided.values())
        if frames:
            self._not_judged(self._desks[self._inspection], frames, f"not judged: {why}")

    def judge(self, batch: Batch) -> None:
        """Judge one batch: the hot path."""
        self._inspection = batch.inspection
        self._undecided = {id(frame): frame for frame in (*batch.late, *batch.frames)}
        desk = self._desks[batch.inspection]
        lease = desk.lease()
        for frame in batch.late:
            self._not_judged(desk, [frame], frame.refused or "overrun: displaced by newer parts")
        if not batch.frames:
            return
        if lease is None or desk.inputs is None:
            self._not_judged(desk, batch.frames, "no usable model")
            return
        began = self._clock.monotonic_ns()
        placed = self._place(desk, desk.inputs, batch.frames)
        if not placed:
            return
        placed_ns = self._clock.monotonic_ns()
        evidence: Floats | None = None
        failure: str | None = None
        try:
            result = lease.model.infer(desk.inputs.written(placed[-1].stop))
        except InferenceError as error:
            self._has_failed = True
            self._on_fault(str(error))
            failure = f"inference failed: {error}"
            judgements = [unknown(failure)] * len(placed)
        else:
            self._note_well()
            rule, scores, evidence = lease.rule, result.scores, result.evidence
            judgements = [
                decide(rule, plan, scores[start:stop], None if evidence is None else evidence[start:stop])
                for _, plan, start, stop in placed
            ]
        if desk.monitor is not None:
            seen = [(p.frame.camera, judgement) for p, judgement in zip(placed, judgements, strict=True)]
            desk.monitor.judged(desk.chart_key, lease.model.identity, seen)
        part_us = (self._clock.monotonic_ns() - began) // (1_000 * len(placed))
        if lease.trial is None or lease.trial.control.ended:
            self._finish(desk, placed, judgements, evidence, keep=failure is None, tap=lease.shadow, part_us=part_us)
            return
        parts = []
        for p, judgement in zip(placed, judgements, strict=True):
            cells = None if evidence is None else evidence[p.start : p.stop]
            opinion = Opinion(judgement, part_us, None if failure is not None else p.plan, cells)
            parts.append(Part(p, desk.key(p.frame), opinion))
        self._try(desk, lease, lease.trial, parts, shared_us=(placed_ns - began) // (1_000 * len(placed)))

    def _note_well(self) -> None:
        if self._has_failed:
            self._has_failed = False
            self._on_well()

    def _place(self, desk: Desk, inputs: Inputs, frames: Sequence[Frame]) -> list[Placed]:
        """Write the frames' inputs; what cannot be used or proves nothing ends here, with its reason."""
        placed = inputs.place(frames, lambda frame, error: self._refuse(desk, frame, error))
        if not placed:
            return placed
        fit, unfit = desk.screen(placed)
        for frame, reason in unfit:
            self._not_judged(desk, [frame], reason)
        return fit

    def _finish(
        self,
        desk: Desk,
        placed: Sequence[Placed],
        judgements: Sequence[Judgement],
        evidence: Floats | None,
        *,
        keep: bool,
        tap: ShadowTap | None,
        part_us: int,
    ) -> None:
        """Turn the champion's judgements into verdicts, keep what must be kept, hand over."""
        now = self._clock.monotonic_ns()
        keeper, collect = (desk.keeper, desk.collect) if keep else (None, None)
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

    def _try(self, desk: Desk, lease: Lease, trial: Trial, parts: Sequence[Part], *, shared_us: int) -> None:
        """Let the challenger judge its share; the other parts do not wait for it."""
        assigned: list[Part] = []
        alone: list[Part] = []
        for part in parts:
            name = part.placed.frame.part_id
            (assigned if trial.assigned(part.key if name is None else name) else alone).append(part)
        if alone:
            self._conclude(desk, lease, trial, alone)
        if assigned:
            judged = consult(
                desk, assigned, champion=lease, challenger=trial.challenger, shared_us=shared_us, clock=self._clock
            )
            self._conclude(desk, lease, trial, judged)

    def _conclude(self, desk: Desk, lease: Lease, trial: Trial, parts: Sequence[Part]) -> None:
        """Turn a trial's opinions into verdicts by the stricter one, hand over, then tell the statistics."""
        now = self._clock.monotonic_ns()
        model, control = trial.challenger.model, trial.control
        counts = control.counts and not control.ended
        same_classes = model.rule.classes == lease.model.rule.classes
        verdicts = []
        for part in parts:
            frame, other = part.placed.frame, part.challenger
            origin = desk.origin(frame.camera)
            said = part.decisive(same_classes=same_classes, counts=counts)
            image = None
            if said.judgement.outcome is not Outcome.OK and said.plan is not None and desk.keeper is not None:
                image = desk.keeper.offer(frame, origin=origin, plan=said.plan, evidence=said.evidence)
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
                desk.collect(frame, verdict, part.placed.plan.roi)
            verdicts.append(verdict)
        self._deliver(desk, [part.placed.frame for part in parts], verdicts)
        if desk.monitor is not None:
            said_by = [part.challenger.judgement for part in parts if part.challenger is not None]
            desk.monitor.challenged(model.identity, said_by)
        for part, verdict in zip(parts, verdicts, strict=True):
            trial.observe(part.observation(verdict))

    def _refuse(self, desk: Desk, frame: Frame, error: FrameError) -> None:
        """A frame that cannot be used is dropped, or `unknown` if triggered."""
        if frame.part_id is not None:
            self._not_judged(desk, [frame], str(error))
            return
        station = desk.stations[frame.camera]
        station.counters.dropped(DropReason(error.reason), seq=frame.seq, detail=error.detail)
        self._undecided.pop(id(frame), None)
        station.pool.release(frame.buffer)

    def _not_judged(self, desk: Desk, frames: Sequence[Frame], reason: str) -> None:
        now, judgement = self._clock.monotonic_ns(), unknown(reason)
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
        desk: Desk,
        frames: Sequence[Frame],
        verdicts: Sequence[Verdict],
        tap: ShadowTap | None = None,
        part_us: int = 0,
    ) -> None:
        """Hand verdicts over, count, give buffers back: to the tap where it takes them, else to the pool."""
        self._sink.append(verdicts)
        for frame in frames:
            self._undecided.pop(id(frame), None)
        for frame, verdict in zip(frames, verdicts, strict=True):
            station = desk.stations[frame.camera]
            judgement = verdict.judgement
            station.counters.judged(judgement.outcome, verdict.latency_us)
            release = station.pool.release
            if tap is None or not tap.offer(
                frame, verdict=verdict, champion_us=part_us, site=desk.site, release=release
            ):
                release(frame.buffer)


def start_worker(worker: Worker, *, index: int, drained: threading.Event, supervisor: Supervisor) -> SupervisedThread:
    """Start `worker` in a named thread; a bug stops the agent: it does not thin out workers."""
    thread = supervisor.thread(
        lambda: worker.run(drained),
        kind="worker",
        name=f"kensa-worker-{index}",
        policy=STOP,
        stop=drained,
        on_fault=lambda fault: worker.give_up(fault.text),
    )
    thread.start()
    return thread
