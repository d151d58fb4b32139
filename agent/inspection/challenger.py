"""Runs a challenger beside the champion, and decides whose result becomes the verdict.

The stricter outcome counts: `defect`, then `unsure`. A challenger that finds nothing, or that fails, changes nothing:
its `ok` never replaces a champion's `unknown`, its `unknown` never replaces a champion's judgement. Class, score,
scores and box of a verdict are those of the model that decided. `Verdict.origin` always names the champion; where the
challenger decided, `arm` and the challenger's outcome and digest show it; scores are omitted when the two models'
classes differ. While a trial is paused (`TrialControl.is_binding`) and once the challenger is refused, the champion's
outcome is the verdict.
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
    """One model's result for one part; `plan` and `evidence` are None where the model was not run on it."""

    judgement: Judgement
    part_us: int  # preprocessing, inference and decision: this part's share of its batch
    plan: InputPlan | None = None
    evidence: Floats | None = None  # [tiles, h, w]


@dataclass(frozen=True, slots=True)
class TrialPart:
    """A part of a batch in a trial; not assigned to the challenger where `challenger` is None."""

    batch_slice: BatchSlice  # in the champion's inputs
    key: str  # of its verdict
    champion: ModelResult
    challenger: ModelResult | None = None

    def deciding_result(self, *, same_classes: bool, counts: bool = True) -> ModelResult:
        """Return the result that becomes the verdict: the challenger's only where it counts and is stricter."""
        challenger = self.challenger
        if (
            challenger is None
            or not counts
            or _SEVERITY[challenger.judgement.outcome] <= _SEVERITY[self.champion.judgement.outcome]
        ):
            return self.champion
        return challenger if same_classes else replace(challenger, judgement=replace(challenger.judgement, scores=()))

    def observation(self, verdict: Verdict) -> Observation:
        """Return both models' raw judgements, for the statistics."""
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
    state: WorkerState, parts: Sequence[TrialPart], *, champion: Lease, challenger: Lease, shared_us: int, clock: Clock
) -> list[TrialPart]:
    """Run the challenger on `parts` of a batch that the champion has inspected; return them with its results.

    The champion's inputs are reused where both geometries are equal, else the frames are preprocessed again.
    `shared_us` is the champion's preprocessing time for a part; it is added to the challenger's time where inputs are
    reused. Any failure of the challenger is an `unknown` with its reason.
    """
    began = clock.monotonic_ns()
    results: dict[int, ModelResult] = {}  # by the identity of the frame

    def refuse(frame: Frame, error: FrameError) -> None:
        results[id(frame)] = ModelResult(unknown_judgement(str(error)), 0)

    slices = [part.batch_slice for part in parts]
    if challenger.model.geometry == champion.model.geometry and state.batch_buffer is not None:
        batch, own = state.batch_buffer.gather(slices)
    else:
        shared_us = 0
        inputs = state.buffer_for(challenger.model.geometry)
        own = inputs.write([p.frame for p in slices], refuse)
        batch = inputs.filled(own[-1].stop if own else 0)
    for p, result in zip(own, _infer(challenger, batch, own), strict=True):
        results[id(p.frame)] = result
    part_us = (clock.monotonic_ns() - began) // (1_000 * len(parts)) + shared_us
    return [replace(part, challenger=replace(results[id(part.batch_slice.frame)], part_us=part_us)) for part in parts]


def _infer(challenger: Lease, batch: Pixels, slices: Sequence[BatchSlice]) -> list[ModelResult]:
    if not slices:
        return []
    try:
        scores = challenger.model.infer(batch)
    except InferenceError as error:
        return [ModelResult(unknown_judgement(f"inference failed: {error}"), 0)] * len(slices)
    results = []
    for _, plan, start, stop in slices:
        judgement = decide_challenger(challenger.rule, plan, scores, start=start, inputs=len(batch))
        evidence = None if judgement.outcome is Outcome.UNKNOWN else scores.evidence
        results.append(ModelResult(judgement, 0, plan, None if evidence is None else evidence[start:stop]))
    return results
