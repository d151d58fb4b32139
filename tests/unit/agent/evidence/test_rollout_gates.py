"""A candidate passes its phases by evidence beside the running model; refusals give reasons."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.decision import unknown_judgement
from agent.evidence.rollout_gates import RolloutAction, RolloutEvaluator
from agent.records import Judgement, Observation, Outcome
from agent.release.rollout_policy import RolloutPolicy
from agent.release_records import Gate

if TYPE_CHECKING:
    from collections.abc import Iterable

POLICY = RolloutPolicy(deadline_ms=200.0)
OK, DEFECT, UNSURE, UNKNOWN = Outcome.OK, Outcome.DEFECT, Outcome.UNSURE, Outcome.UNKNOWN


def judgement(outcome: Outcome, score: float) -> Judgement:
    return unknown_judgement("scores are not finite") if outcome is UNKNOWN else Judgement(outcome, "any", score, ())


def part(
    champion: Outcome = OK,
    challenger: Outcome = OK,
    *,
    scores: tuple[float, float] = (0.1, 0.1),
    late: bool = False,
    assigned: bool = True,
    key: str = "line/cam/1/0",
) -> Observation:
    return Observation(
        key=key,
        camera="cam",
        champion=judgement(champion, scores[0]),
        challenger=judgement(challenger, scores[1]),
        champion_us=2_000,
        challenger_us=3_000,
        latency_us=200_001 if late else 200_000,
        image=None if champion is challenger else "pictures/0.jpg",
        assigned=assigned,
    )


def shown(judge: RolloutEvaluator, parts: Iterable[Observation]) -> RolloutEvaluator:
    for seen in parts:
        judge.observe(seen)
    return judge


def started(policy: RolloutPolicy = POLICY) -> RolloutEvaluator:
    judge = RolloutEvaluator(policy)
    judge.begin_phase("shadow", parts=policy.shadow_parts)
    return judge


GOOD_SHADOW = [part()] * 300 + [part(DEFECT, DEFECT)] * 8


# --- shadow -----------------------------------------------------------------------------------------------------------


def test_a_shadow_without_disagreement_passes_once_it_saw_enough_parts_and_defects() -> None:
    judge = shown(started(), [part()] * 299)
    assert judge.decide().action is RolloutAction.CONTINUE
    judge.observe(part())
    assert judge.decide().action is RolloutAction.CONTINUE, "300 parts without a defect prove nothing"
    shown(judge, [part(DEFECT, DEFECT)] * 7)
    assert judge.decide().action is RolloutAction.CONTINUE
    judge.observe(part(DEFECT, UNSURE))
    assert judge.decide().action is RolloutAction.PASS


def test_a_line_without_defects_waits_for_them_ten_times_as_long_and_no_longer() -> None:
    judge = shown(started(), [part()] * 2_999)
    assert judge.decide().action is RolloutAction.CONTINUE
    assert judge.decide(overdue=False).refusal is None
    judge.observe(part())
    assert judge.decide().action is RolloutAction.PASS


def test_a_shadow_does_not_pass_before_the_test_of_disagreement_has_accepted() -> None:
    judge = shown(started(), [*[part(DEFECT, OK), part(OK, DEFECT)] * 2, *GOOD_SHADOW])
    assert judge.decide().action is RolloutAction.CONTINUE

    shown(judge, [part()] * 150)

    assert judge.decide().action is RolloutAction.PASS


def test_a_disagreeing_candidate_is_refused_with_figures_and_limits() -> None:
    judge = shown(started(), [part(OK, DEFECT)] * 7)

    decision = judge.decide()

    assert decision.action is RolloutAction.REFUSE
    assert decision.refusal is not None
    assert (decision.refusal.gate, decision.refusal.reason) == (Gate.SHADOW, "disagrees")
    assert decision.refusal.figures == {"rate": 1.0, "events": 7.0, "parts": 7.0}
    assert decision.refusal.limits == {"rate": 0.03}
    assert "disagrees with the running model on 7 of 7 parts: up to 1.00% are fine" in decision.refusal.text


def spread(count: int, *, apart: int = 7) -> list[Observation]:
    """Parts on which the candidate alone rejects, `apart` parts from each other."""
    return [part(OK, DEFECT), *[part()] * (apart - 1)] * count


def test_the_sentence_says_what_decided_and_apart_from_it_what_was_before() -> None:
    policy = RolloutPolicy.model_validate({"disagreement": {"good": 0.02, "bad": 0.08}})
    judge = shown(started(policy), [part()] * 1_070)

    refusal = shown(judge, spread(30)).decide().refusal

    assert refusal is not None
    figures = refusal.figures
    assert figures["events"] / figures["parts"] == figures["rate"] == pytest.approx(1 / 7, abs=0.02)
    assert (figures["events_before"], figures["parts_before"]) == (0.0, 1_070.0)
    counts = f"on {figures['events']:.0f} of the last {figures['parts']:.0f} parts, on none of the 1,070 before"
    assert f"disagrees with the running model {counts}: up to 2.00% are fine, 8.00% are too many" in refusal.text


def test_nine_of_the_last_nine_parts_hold_a_trial_and_the_alarm_says_so() -> None:
    policy = RolloutPolicy.model_validate({"disagreement": {"good": 0.02, "bad": 0.08}})
    judge = shown(started(policy), [*[part()] * 1_070, *[part(OK, DEFECT)] * 9])

    decision = judge.decide()

    assert (decision.action, decision.refusal) == (RolloutAction.HOLD, None)
    assert decision.held is not None
    assert "on 9 of the last 9 parts, on none of the 1,070 before, in one run" in decision.held
    assert "glare or a smeared part" in decision.held
    assert "`kensa model ab report --pictures`" in decision.held
    assert judge.is_in_doubt


def test_a_held_trial_waits_for_a_person_however_late_it_is_and_goes_on_when_told() -> None:
    judge = shown(started(), [*GOOD_SHADOW, *[part(DEFECT, OK)] * 30])
    assert judge.decide(overdue=True).action is RolloutAction.HOLD
    shown(judge, [part()] * 3_000)
    assert judge.decide(overdue=True).action is RolloutAction.HOLD, "letting through in a run is for a person to judge"

    judge.reset_evidence()

    assert judge.decide().action is RolloutAction.CONTINUE
    assert not judge.is_in_doubt
    shown(judge, [part()] * 300)
    assert judge.decide().action is RolloutAction.PASS
    assert judge.report().let_through == 30, "the counts for people stay"


def test_a_short_run_that_the_candidate_let_through_asks_a_person_before_the_commit() -> None:
    judge = shown(started(), [*GOOD_SHADOW, *[part(DEFECT, OK)] * 9, *[part()] * 900])

    decision = judge.decide(overdue=True)

    assert decision.refusal is None
    assert decision.held is not None
    assert "alone let 9 through and alone rejected 0, but in one run" in decision.held


def test_a_run_that_goes_on_after_a_person_forgave_it_refuses_nothing() -> None:
    judge = shown(started(), [*GOOD_SHADOW, *[part(OK, DEFECT)] * 30])
    judge.reset_evidence()

    decision = shown(judge, [part(OK, DEFECT)] * 100).decide()

    assert decision.refusal is None
    assert decision.action is RolloutAction.HOLD


def test_what_comes_back_after_a_person_forgave_it_is_refused() -> None:
    judge = shown(started(), [*GOOD_SHADOW, *[part(OK, DEFECT)] * 30])
    judge.reset_evidence()

    assert shown(judge, spread(60)).decide().action is RolloutAction.REFUSE


def test_a_person_cannot_forgive_a_refusal() -> None:
    judge = shown(started(), [part(OK, DEFECT)] * 7)

    judge.reset_evidence()

    assert judge.decide().action is RolloutAction.REFUSE


def test_a_run_in_which_the_candidate_rejects_is_over_when_it_has_agreed_for_long_enough() -> None:
    judge = shown(started(), [*GOOD_SHADOW, *[part(OK, DEFECT)] * 30])
    assert judge.decide().action is RolloutAction.HOLD

    shown(judge, [part()] * 700)

    later = judge.decide()
    assert (later.action, later.held) == (RolloutAction.PASS, None)
    assert not judge.is_in_doubt


def test_one_slow_second_does_not_put_a_release_on_the_deny_list() -> None:
    judge = shown(started(), GOOD_SHADOW)
    judge.begin_phase("trial", parts=1_000, share=1.0)

    shown(judge, [*[part()] * 600, *[part(late=True)] * 30])

    assert judge.decide().action is RolloutAction.HOLD
    assert not judge.is_in_doubt, "its word may count: it is late, not wrong"
    shown(judge, [part()] * 1_500)
    assert judge.decide().action is RolloutAction.PASS


def test_one_burst_of_failures_does_not_either_and_lasting_failure_does() -> None:
    judge = shown(started(), [*[part()] * 600, *[part(OK, UNKNOWN)] * 10])
    held = judge.decide()

    refusal = shown(judge, [part(OK, UNKNOWN)] * 30).decide().refusal

    assert held.action is RolloutAction.HOLD
    assert refusal is not None
    assert refusal.gate is Gate.ERRORS
    assert "on 40 of the last 40 parts, on none of the 600 before" in refusal.text


def test_one_sided_runs_hold_the_candidate_and_never_refuse_it_alone() -> None:
    runs = [*[part(OK, DEFECT)] * 5, *[part()] * 400] * 20
    judge = shown(started(), [*GOOD_SHADOW, *runs])

    decision = judge.decide()

    assert decision.action is RolloutAction.HOLD
    assert decision.held is not None
    assert "alone rejected 100, but in 20 separate runs" in decision.held


def test_unsure_counts_as_not_let_through() -> None:
    same = shown(started(), [part(DEFECT, UNSURE), part(UNSURE, DEFECT)] * 200)
    assert same.report().disagreement == 0.0

    worse = shown(started(), [part(UNSURE, OK)] * 7)
    assert worse.decide().action is RolloutAction.REFUSE


def test_parts_that_the_running_model_could_not_judge_are_no_pairs_and_nobodys_error() -> None:
    judge = shown(started(), [part(UNKNOWN, UNKNOWN), part(UNKNOWN, DEFECT), part(UNKNOWN, OK)] * 100)

    assert judge.decide().action is RolloutAction.CONTINUE
    assert judge.progress()["pairs"] == 0.0
    assert judge.progress()["errors"] == 0.0


def test_a_candidate_that_fails_is_refused_in_three_parts_with_its_own_reason() -> None:
    judge = shown(started(), [part(OK, UNKNOWN)] * 3)

    refusal = judge.decide().refusal

    assert refusal is not None
    assert refusal.gate is Gate.ERRORS
    assert "gave no judgement (scores are not finite) on 3 of 3 parts" in refusal.text


# --- trial ------------------------------------------------------------------------------------------------------------


def test_late_parts_refuse_a_trial_and_the_text_tells_how_late_the_line_is_by_itself() -> None:
    judge = shown(started(), GOOD_SHADOW)
    judge.begin_phase("trial", parts=20, share=0.01)
    shown(judge, [part(assigned=False, late=True)] * 2 + [part(assigned=False)] * 998)
    assert judge.decide().action is RolloutAction.CONTINUE

    shown(judge, [part(late=True)] * 5)

    refusal = judge.decide().refusal
    assert refusal is not None
    assert (refusal.gate, refusal.reason) == (Gate.DEADLINES, "too_late")
    assert "after 200 ms; of 1000 parts without it 2 were late" in refusal.text


def test_a_release_that_may_reject_more_is_refused_in_its_trial_when_it_rejects_everything() -> None:
    judge = shown(started(POLICY.model_copy(update={"may_reject_more": True})), GOOD_SHADOW)
    judge.begin_phase("trial", parts=1_000, share=1.0)

    refusal = shown(judge, [part(OK, DEFECT)] * 40).decide().refusal

    assert refusal is not None
    assert (refusal.gate, refusal.reason) == (Gate.VERDICTS, "disagrees")


def test_a_line_that_is_late_by_itself_is_not_the_candidates_fault() -> None:
    judge = shown(started(), GOOD_SHADOW)
    judge.begin_phase("trial", parts=20, share=0.5)

    for _ in range(20):
        shown(judge, [part(assigned=False, late=True), part(late=True)] + [part(assigned=False), part()] * 9)

    assert judge.decide().refusal is None


def test_a_shadow_delays_nothing_so_lateness_meanwhile_is_not_the_candidates_fault() -> None:
    judge = shown(started(), [part(late=True)] * 200)

    assert judge.decide().refusal is None


def test_only_assigned_parts_are_pairs() -> None:
    judge = shown(started(), GOOD_SHADOW)
    judge.begin_phase("trial", parts=20, share=0.01)
    shown(judge, [part(assigned=False)] * 5_000)

    assert judge.decide().action is RolloutAction.CONTINUE
    assert judge.progress()["phase_pairs"] == 0.0
    shown(judge, [part()] * 20)
    assert judge.decide().action is RolloutAction.PASS


@pytest.mark.parametrize(
    ("seen", "reason", "announcement"),
    [(part(DEFECT, OK), "lets_more_through", "may_pass_more"), (part(OK, DEFECT), "rejects_more", "may_reject_more")],
)
def test_one_sided_disagreement_adds_up_over_the_phases(
    seen: Observation,
    reason: str,
    announcement: str,
) -> None:
    for announced in ("", "may_pass_more", "may_reject_more"):
        judge = started(POLICY.model_copy(update={announced: True} if announced else {}))
        shown(judge, [*GOOD_SHADOW, seen, *[part()] * 400])
        assert judge.decide().action is RolloutAction.PASS
        for share, parts in ((0.01, 20), (0.05, 150), (0.25, 200)):
            judge.begin_phase("trial", parts=parts, share=share)
            shown(judge, [seen] * 4 + [part()] * (parts - 4))
        decision = judge.decide()
        assert (decision.action is RolloutAction.REFUSE) is (announced != announcement)
        if decision.refusal is not None:
            assert (decision.refusal.gate, decision.refusal.reason) == (Gate.VERDICTS, reason)
            assert decision.refusal.figures["e_value"] >= decision.refusal.limits["e_value"] == 1_000.0


def test_suspicion_holds_the_commit_back_but_not_a_small_share() -> None:
    judge = shown(started(), [*GOOD_SHADOW, *[part()] * 600])
    assert judge.decide().action is RolloutAction.PASS
    judge.begin_phase("trial", parts=20, share=0.25)
    shown(judge, [part(DEFECT, OK)] * 9 + [part()] * 11)
    assert judge.decide().action is RolloutAction.PASS, "evidence of 100 : 1 is below the limit of 1,000"

    judge.begin_phase("trial", parts=20, share=1.0)
    shown(judge, [part()] * 500)
    assert judge.decide().action is RolloutAction.CONTINUE
    shown(judge, [part(OK, DEFECT)] * 2)
    assert judge.decide().action is RolloutAction.PASS


def test_a_phase_that_is_overdue_is_refused_for_what_it_lacks() -> None:
    judge = shown(started(), [part()] * 10)

    decision = judge.decide(overdue=True)

    assert decision.refusal is not None
    assert (decision.refusal.gate, decision.refusal.reason) == (Gate.TIME, "shadow_not_passed")
    assert "10 of 300 parts were inspected by both models" in decision.refusal.text
    assert judge.decide().action is RolloutAction.REFUSE


def test_a_phase_that_passes_in_the_last_moment_passes() -> None:
    assert shown(started(), GOOD_SHADOW).decide(overdue=True).action is RolloutAction.PASS


# --- drift ------------------------------------------------------------------------------------------------------------


def scored(count: int, *, champion: float = 0.0, challenger: float = 0.0, seed: int = 5) -> list[Observation]:
    """Parts whose scores scatter and are shifted by so much; every outcome stays as it is."""
    rng = np.random.default_rng(seed)
    base, own = rng.beta(2, 12, count), rng.normal(0.0, 0.04, count)
    return [
        part(OK, OK, scores=(float(b + champion), float(b + o + challenger))) for b, o in zip(base, own, strict=True)
    ]


def drifting(later: list[Observation]) -> RolloutEvaluator:
    judge = shown(started(), [part(DEFECT, DEFECT)] * 8 + scored(1_000))
    assert judge.decide().alarm is None
    assert judge.decide().action is RolloutAction.PASS
    judge.begin_phase("trial", parts=1_000, share=1.0)
    return shown(judge, later)


def test_steady_scores_raise_no_alarm() -> None:
    judge = drifting(scored(1_100, seed=6))

    assert judge.decide().alarm is None
    assert judge.decide().action is RolloutAction.PASS
    assert judge.progress()["psi_champion"] < 0.1 > judge.progress()["psi_challenger"]


def test_if_both_drift_it_is_light_or_camera_and_the_candidate_is_held_but_never_refused() -> None:
    judge = drifting(scored(1_100, champion=0.1, challenger=0.1, seed=6))

    for overdue in (False, True):
        decision = judge.decide(overdue=overdue)
        assert decision.action is RolloutAction.HOLD
        assert decision.alarm is not None
        assert "check light and camera" in decision.alarm


def test_if_the_candidate_drifts_alone_it_is_held_and_in_the_end_refused() -> None:
    judge = drifting(scored(1_100, challenger=0.1, seed=6))

    held, ended = judge.decide(), judge.decide(overdue=True)

    assert held.action is RolloutAction.HOLD
    assert held.alarm is not None
    assert "the candidate alone" in held.alarm
    assert ended.refusal is not None
    assert (ended.refusal.gate, ended.refusal.reason) == (Gate.DRIFT, "scores_drifted")
    assert ended.refusal.figures["psi_challenger"] >= 0.25
    assert ended.refusal.figures["psi_champion"] < 0.1


def test_if_the_running_model_drifts_alone_a_person_is_told_and_the_rollout_goes_on() -> None:
    decision = drifting(scored(1_100, champion=0.1, seed=6)).decide()

    assert decision.action is RolloutAction.PASS
    assert decision.alarm is not None


def test_a_little_drift_of_the_candidate_is_an_alarm_only() -> None:
    judge = drifting(scored(1_100, challenger=0.035, seed=6))

    decision = judge.decide()

    assert 0.1 <= judge.progress()["psi_challenger"] < 0.25
    assert decision.action is RolloutAction.PASS
    assert decision.alarm is not None


def test_another_seed_with_another_calibration_is_not_held_for_its_scores() -> None:
    judge = shown(started(), [part(DEFECT, DEFECT)] * 8 + scored(1_200, challenger=0.2))

    assert judge.progress()["psi_between"] > 1.0
    assert judge.decide().action is RolloutAction.PASS
    assert judge.decide().alarm is None


def test_the_running_models_own_scores_moved_by_a_constant_are_held_and_in_the_end_refused() -> None:
    moved = [part(scores=(seen.champion.score, seen.champion.score + 0.1)) for seen in scored(1_200)]
    judge = shown(started(), [part(DEFECT, DEFECT)] * 8 + moved)

    held, ended = judge.decide(), judge.decide(overdue=True)

    assert held.action is RolloutAction.HOLD
    assert ended.refusal is not None
    assert (ended.refusal.gate, ended.refusal.reason) == (Gate.DRIFT, "scores_shifted")
    assert ended.refusal.figures["shift"] == pytest.approx(0.1)


# --- A/B --------------------------------------------------------------------------------------------------------------


def test_an_ab_test_never_passes_and_is_never_overdue() -> None:
    judge = RolloutEvaluator(POLICY)
    judge.begin_phase("ab", parts=0)
    shown(judge, [part()] * 1_000 + scored(1_200, challenger=0.2))

    assert judge.decide().action is RolloutAction.CONTINUE
    assert judge.decide(overdue=True).action is RolloutAction.CONTINUE


@pytest.mark.parametrize(
    ("seen", "gate"),
    [
        (part(DEFECT, OK), Gate.VERDICTS),
        (part(OK, DEFECT), Gate.VERDICTS),
        (part(OK, UNKNOWN), Gate.ERRORS),
        (part(late=True), Gate.DEADLINES),
    ],
)
def test_harm_stops_an_ab_test(seen: Observation, gate: Gate) -> None:
    judge = RolloutEvaluator(POLICY)
    judge.begin_phase("ab", parts=0)

    refusal = shown(judge, [seen] * 13).decide().refusal

    assert refusal is not None
    assert refusal.gate is gate


def test_the_report_is_the_paired_comparison() -> None:
    judge = RolloutEvaluator(POLICY)
    judge.begin_phase("ab", parts=0)
    shown(judge, [part()] * 90 + [part(DEFECT, DEFECT)] * 4 + [part(DEFECT, OK, key="a")] * 1)
    shown(judge, [part(OK, UNSURE, key="b")] * 3 + [part(OK, UNKNOWN), part(UNKNOWN, OK)])

    report = judge.report()

    assert (report.pairs, report.both_ok, report.both_not_ok, report.let_through, report.rejected) == (98, 90, 4, 1, 3)
    assert report.disagreement == pytest.approx(4 / 98)
    assert report.disagreement_low < 4 / 98 < report.disagreement_high
    assert report.mcnemar_p == pytest.approx(10 / 16)
    assert 0.0 < report.e_value < 1.0
    assert (report.champion.ok, report.champion.defect, report.champion.unknown) == (94, 5, 1)
    assert (report.challenger.unsure, report.challenger.unknown) == (3, 1)
    assert report.champion.p50_us == pytest.approx(2_000, rel=0.15)
    assert report.challenger.p99_us == pytest.approx(3_000, rel=0.15)
    assert [(d.key, d.champion, d.challenger, d.image) for d in report.disagreements] == [
        ("a", DEFECT, OK, "pictures/0.jpg"),
        *[("b", OK, UNSURE, "pictures/0.jpg")] * 3,
    ]


def test_the_report_keeps_the_last_fifty_disagreements() -> None:
    judge = RolloutEvaluator(POLICY)
    judge.begin_phase("ab", parts=0)
    shown(judge, [part(*((DEFECT, OK) if i % 2 else (OK, DEFECT)), key=str(i)) for i in range(120)])

    assert [d.key for d in judge.report().disagreements] == [str(i) for i in range(70, 120)]


def test_an_empty_report_and_empty_progress_are_finite() -> None:
    judge = RolloutEvaluator(RolloutPolicy())

    assert judge.report().pairs == 0
    assert judge.report().mcnemar_p == 1.0
    assert judge.report().e_value == pytest.approx(1.0)
    assert all(math.isfinite(value) for value in judge.progress().values())
