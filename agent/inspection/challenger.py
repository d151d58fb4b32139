"""Runs a challenger beside the champion, and decides whose result becomes the verdict.

The stricter outcome counts: `defect`, then `unsure`. A challenger that finds nothing, or that fails, changes nothing:
its `ok` never lifts a champion's `unknown`, its `unknown` never spoils a champion's judgement. Class, score, scores and
box of a verdict are those of the model that decided. `Verdict.origin` always names the champion; where the challenger
decided, `arm` and the challenger's outcome and digest say so; scores stay away when the two models' classes differ.
While a trial is held (`TrialControl.counts`) and once the challenger is refused, the champion's outcome is the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from agent.decision import decide_challenger, unknown_judgement
from agent.errors import InferenceError
from agent.records import Observation, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.errors import FrameError
    from agent.inspection.worker_state import BatchSlice, WorkerState
    from agent.preprocess import InputPlan
    from agent.records import Floats, Frame, Judgement, Pixels, Verdict
    from agent.slot import Lease
    from agent.timing.clock import Clock

_SEVERITY: Final = {Outcome.OK: 0, Outcome.UNKNOWN: 0, Outcome.UNSURE: 1, Outcome.DEFECT: 2}


@dataclass(frozen=True, slots=True)
class ModelResult:
    """What one model says of one part, and what it saw: `plan` and `evidence` are None where it saw nothing."""

    judgement: Judgement
    part_us: int  # preprocessing, inference and decision: this part's share of its batch
    plan: InputPlan | None = None
    evidence: Floats | None = None  # [tiles, h, w]


@dataclass(frozen=True, slots=True)
class TrialPart:
    """A part of a batch in a trial. Without a challenger it is not assigned."""

    batch_slice: BatchSlice  # in the champion's inputs
    key: str  # of its verdict
    champion: ModelResult
    challenger: ModelResult | None = None

    def deciding_result(self, *, same_classes: bool, counts: bool = True) -> ModelResult:
        """The opinion that becomes the verdict: the challenger's only where it counts and is the stricter one."""
        other = self.challenger
        if (
            other is None
            or not counts
            or _SEVERITY[other.judgement.outcome] <= _SEVERITY[self.champion.judgement.outcome]
        ):
            return self.champion
        return other if same_classes else replace(other, judgement=replace(other.judgement, scores=()))

    def observation(self, verdict: Verdict) -> Observation:
        """Both models' raw judgements, for the statistics."""
        other = self.champion if self.challenger is None else self.challenger
        return Observation(
            key=self.key,
            camera=self.batch_slice.frame.camera,
            champion=self.champion.judgement,
            challenger=other.judgement,
            champion_us=self.champion.part_us,
            challenger_us=other.part_us,
            latency_us=verdict.latency_us,
            image=verdict.image,
            assigned=self.challenger is not None,
        )


def run_challenger(
    desk: WorkerState, parts: Sequence[TrialPart], *, champion: Lease, challenger: Lease, shared_us: int, clock: Clock
) -> list[TrialPart]:
    """Let the challenger judge `parts` of a batch that the champion judged before; returns them with its opinions.

    The champion's inputs serve again where both geometries are equal, else the frames are preprocessed once more.
    `shared_us` is what preprocessing a part took the champion; it counts for the challenger too where it gains by it.
    What goes wrong with the challenger is an `unknown` with its reason.
    """
    began = clock.monotonic_ns()
    opinions: dict[int, ModelResult] = {}  # by the identity of the frame

    def refuse(frame: Frame, error: FrameError) -> None:
        opinions[id(frame)] = ModelResult(unknown_judgement(str(error)), 0)

    placed = [part.batch_slice for part in parts]
    if challenger.model.geometry == champion.model.geometry and desk.batch_buffer is not None:
        batch, own = desk.batch_buffer.gather(placed)
    else:
        shared_us = 0
        inputs = desk.buffer_for(challenger.model.geometry)
        own = inputs.write([p.frame for p in placed], refuse)
        batch = inputs.filled(own[-1].stop if own else 0)
    for p, opinion in zip(own, _infer(challenger, batch, own), strict=True):
        opinions[id(p.frame)] = opinion
    part_us = (clock.monotonic_ns() - began) // (1_000 * len(parts)) + shared_us
    return [replace(part, challenger=replace(opinions[id(part.batch_slice.frame)], part_us=part_us)) for part in parts]


def _infer(challenger: Lease, batch: Pixels, placed: Sequence[BatchSlice]) -> list[ModelResult]:
    if not placed:
        return []
    try:
        result = challenger.model.infer(batch)
    except InferenceError as error:
        return [ModelResult(unknown_judgement(f"inference failed: {error}"), 0)] * len(placed)
    opinions = []
    for _, plan, start, stop in placed:
        judgement = decide_challenger(challenger.rule, plan, result, start=start, inputs=len(batch))
        evidence = None if judgement.outcome is Outcome.UNKNOWN else result.evidence
        opinions.append(ModelResult(judgement, 0, plan, None if evidence is None else evidence[start:stop]))
    return opinions
