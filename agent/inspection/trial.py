"""Two models, one verdict: how a challenger's word counts in a trial or an A/B test.

The stricter outcome counts: `defect`, then `unsure`. A challenger that finds nothing, or that fails, changes nothing:
its `ok` never lifts a champion's `unknown`, its `unknown` never spoils a champion's judgement. Class, score, scores and
box of a verdict are those of the model that decided. `Verdict.origin` always names the champion; where the challenger
decided, `arm` and the challenger's outcome and digest say so; scores stay away when the two models' classes differ.
While a trial is held (`TrialControl.counts`) and once the challenger is refused, the champion's outcome is the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from agent.decision import decide_untried, unknown
from agent.errors import InferenceError
from agent.records import Observation, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.clock import Clock
    from agent.errors import FrameError
    from agent.inspection.desk import Desk, Placed
    from agent.preprocess import Plan
    from agent.records import Floats, Frame, Judgement, Pixels, Verdict
    from agent.slot import Lease

_SAY: Final = {Outcome.OK: 0, Outcome.UNKNOWN: 0, Outcome.UNSURE: 1, Outcome.DEFECT: 2}


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one model says of one part, and what it saw: `plan` and `evidence` are None where it saw nothing."""

    judgement: Judgement
    part_us: int  # preprocessing, inference and decision: this part's share of its batch
    plan: Plan | None = None
    evidence: Floats | None = None  # [tiles, h, w]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a batch in a trial. Without a challenger it is not assigned."""

    placed: Placed  # in the champion's inputs
    key: str  # of its verdict
    champion: Opinion
    challenger: Opinion | None = None

    def decisive(self, *, same_classes: bool, counts: bool = True) -> Opinion:
        """The opinion that becomes the verdict: the challenger's only where it counts and is the stricter one."""
        other = self.challenger
        if other is None or not counts or _SAY[other.judgement.outcome] <= _SAY[self.champion.judgement.outcome]:
            return self.champion
        return other if same_classes else replace(other, judgement=replace(other.judgement, scores=()))

    def observation(self, verdict: Verdict) -> Observation:
        """Both models' raw judgements, for the statistics."""
        other = self.champion if self.challenger is None else self.challenger
        return Observation(
            key=self.key,
            camera=self.placed.frame.camera,
            champion=self.champion.judgement,
            challenger=other.judgement,
            champion_us=self.champion.part_us,
            challenger_us=other.part_us,
            latency_us=verdict.latency_us,
            image=verdict.image,
            assigned=self.challenger is not None,
        )


def consult(
    desk: Desk, parts: Sequence[Part], *, champion: Lease, challenger: Lease, shared_us: int, clock: Clock
) -> list[Part]:
    """Let the challenger judge `parts` of a batch that the champion judged before; returns them with its opinions.

    The champion's inputs serve again where both geometries are equal, else the frames are preprocessed once more.
    `shared_us` is what preprocessing a part took the champion; it counts for the challenger too where it gains by it.
    What goes wrong with the challenger is an `unknown` with its reason.
    """
    began = clock.monotonic_ns()
    opinions: dict[int, Opinion] = {}  # by the identity of the frame

    def refuse(frame: Frame, error: FrameError) -> None:
        opinions[id(frame)] = Opinion(unknown(str(error)), 0)

    placed = [part.placed for part in parts]
    if challenger.model.geometry == champion.model.geometry and desk.inputs is not None:
        batch, own = desk.inputs.gather(placed)
    else:
        shared_us = 0
        inputs = desk.inputs_for(challenger.model.geometry)
        own = inputs.place([p.frame for p in placed], refuse)
        batch = inputs.written(own[-1].stop if own else 0)
    for p, opinion in zip(own, _judge(challenger, batch, own), strict=True):
        opinions[id(p.frame)] = opinion
    part_us = (clock.monotonic_ns() - began) // (1_000 * len(parts)) + shared_us
    return [replace(part, challenger=replace(opinions[id(part.placed.frame)], part_us=part_us)) for part in parts]


def _judge(challenger: Lease, batch: Pixels, placed: Sequence[Placed]) -> list[Opinion]:
    if not placed:
        return []
    try:
        result = challenger.model.infer(batch)
    except InferenceError as error:
        return [Opinion(unknown(f"inference failed: {error}"), 0)] * len(placed)
    opinions = []
    for _, plan, start, stop in placed:
        judgement = decide_untried(challenger.rule, plan, result, start=start, inputs=len(batch))
        evidence = None if judgement.outcome is Outcome.UNKNOWN else result.evidence
        opinions.append(Opinion(judgement, 0, plan, None if evidence is None else evidence[start:stop]))
    return opinions
