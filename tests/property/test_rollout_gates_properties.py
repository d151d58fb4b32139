"""Whatever the parts: a refusal is for good, asking changes nothing, and every figure is finite."""

from __future__ import annotations

import math
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from agent.evidence.rollout_gates import RolloutAction, RolloutEvaluator
from agent.records import Judgement, Observation, Outcome
from agent.release.rollout_policy import RolloutPolicy

POLICY = RolloutPolicy(deadline_ms=1.0, shadow_parts=5, shadow_rejects=1)
PHASES: tuple[Literal["shadow", "trial", "ab"], ...] = ("shadow", "trial", "ab")


@st.composite
def judgements(draw: st.DrawFn) -> Judgement:
    outcome = draw(st.sampled_from([Outcome.OK] * 6 + list(Outcome)))
    return Judgement(outcome, None, draw(st.floats(-1.0, 2.0)), (), reason="why")


OBSERVATIONS = st.builds(
    Observation,
    key=st.text(max_size=5),
    camera=st.just("cam"),
    champion=judgements(),
    challenger=judgements(),
    champion_us=st.integers(0, 10_000),
    challenger_us=st.integers(0, 10_000),
    latency_us=st.sampled_from([0, 0, 0, 0, 10_000]),
    assigned=st.sampled_from([True, True, False]),
)
RUNS = st.lists(st.tuples(st.lists(OBSERVATIONS, max_size=12), st.sampled_from(PHASES), st.booleans()), max_size=6)


@given(runs=RUNS, repeats=st.sampled_from([1, 40]))
def test_a_refusal_is_for_good_and_every_figure_is_finite(
    runs: list[tuple[list[Observation], Literal["shadow", "trial", "ab"], bool]], repeats: int
) -> None:
    judge, refusal = RolloutEvaluator(POLICY), None
    for parts, phase, overdue in runs:
        judge.begin_phase(phase, parts=5, share=0.5)
        for seen in parts * repeats:
            judge.observe(seen)
            decision = judge.decide()
            assert decision == judge.decide(), "asking twice changes nothing"
            assert (decision.action is RolloutAction.REFUSE) is (decision.refusal is not None)
            assert phase != "ab" or decision.action in {RolloutAction.CONTINUE, RolloutAction.REFUSE}
            assert refusal is None or decision.refusal is refusal
            refusal = decision.refusal
        refusal = judge.decide(overdue=overdue).refusal
        assert all(math.isfinite(value) for value in judge.progress().values())
        report = judge.report()
        assert report.pairs == report.both_ok + report.both_not_ok + report.let_through + report.rejected
        assert 0.0 < report.mcnemar_p <= 1.0
        if refusal is not None:
            assert all(math.isfinite(value) for value in (*refusal.figures.values(), *refusal.limits.values()))


@given(parts=st.lists(OBSERVATIONS, max_size=40))
def test_the_order_of_the_parts_does_not_change_what_the_report_counts(parts: list[Observation]) -> None:
    reports = []
    for sequence in (parts, parts[::-1]):
        judge = RolloutEvaluator(POLICY.model_copy(update={"e_threshold": 1e300}))
        judge.begin_phase("ab", parts=0)
        for seen in sequence:
            judge.observe(seen)
        report = judge.report()
        reports.append((report.pairs, report.both_ok, report.let_through, report.rejected, report.e_value))
        if judge.decide().action is RolloutAction.REFUSE:
            return  # what came after a refusal does not count

    assert reports[0] == reports[1]
