"""The loop offers the collector every inspected frame, and nothing that no model saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.errors import InferenceError
from agent.records import Outcome
from agent.slot import Trial
from tests.kits.python_models import Line, PlainModel, lease_of, saying

if TYPE_CHECKING:
    from agent.records import Box, Frame, Pixels, Scores, Verdict


class Given:
    """Notes what it is given, with a pixel that must still be the frame's."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.greys: list[int] = []
        self.regions: set[Box] = set()

    def __call__(self, frame: Frame, verdict: Verdict, roi: Box) -> None:
        assert frame.seq == verdict.seq
        self.verdicts.append(verdict)
        self.greys.append(int(frame.pixels.flat[0]))
        self.regions.add(roi)


def test_every_judged_frame_is_given_with_the_verdict_that_is_delivered() -> None:
    given = Given()
    line = Line(lease_of(PlainModel("1", saying(0.9))), collect=given)
    delivered = line.judge(3, greys=[10, 20, 30])
    assert given.verdicts == delivered
    assert given.greys == [10, 20, 30]
    assert len(given.regions) == 1


def test_in_a_trial_the_verdict_that_counts_is_given_with_the_challengers_outcome() -> None:
    given = Given()
    line = Line(lease_of(PlainModel("1", saying(0.1))), collect=given)
    challenger = lease_of(PlainModel("2", saying(0.9)))
    line.slot.begin_trial(Trial(challenger, 1.0, "salt", lambda _: None))
    line.judge(2)
    assert [(v.judgement.outcome, v.challenger_outcome) for v in given.verdicts] == [
        (Outcome.DEFECT, Outcome.DEFECT)
    ] * 2


def test_what_no_model_judged_is_not_given() -> None:
    def fail(_: Pixels) -> Scores:
        raise InferenceError("the runtime failed")

    given = Given()
    assert Line(None, collect=given).judge(2)
    assert Line(lease_of(PlainModel("1", fail)), collect=given).judge(2)
    assert given.verdicts == []
