"""Simulated rollouts: bad models leave early, good ones stay, the blind spot is the stated one.

A seeded tenth of what `kensa bench faults` runs; the whole 200 releases are marked slow.
"""

from __future__ import annotations

import pytest

from agent.evidence.rollout_gates import RolloutAction
from agent.release_records import Gate
from simulator.campaigns.rollout.rollout_simulation import (
    ALWAYS_DEFECT,
    ALWAYS_OK,
    BLIND_SPOT,
    CandidateProfile,
    equally_good,
    run_equally_good,
    run_rollouts,
    simulate_rollout,
)
from simulator.campaigns.rollout.trial_simulation import DisagreementProfile, run_trials


@pytest.mark.parametrize("candidate", [ALWAYS_OK, ALWAYS_DEFECT], ids=lambda candidate: candidate.name)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_model_that_always_says_the_same_leaves_within_a_thousand_parts(
    candidate: CandidateProfile, seed: int
) -> None:
    counts = run_rollouts([candidate], releases=20, defects=0.02, seed=seed)

    assert counts.refused == 20
    assert counts.median_parts <= 1_000
    assert counts.most_frames <= 2_000, "it is refused in the shadow, so frames of the line are parts"


def test_equally_good_models_are_committed() -> None:
    counts = run_equally_good(releases=20)

    assert counts.committed >= 19
    assert counts.undecided == 0


@pytest.mark.slow
def test_of_two_hundred_equally_good_models_at_most_one_is_refused() -> None:
    counts = run_equally_good(releases=200)

    assert counts.committed >= 199


def test_a_model_with_five_percent_disagreement_is_refused_in_a_few_hundred_parts() -> None:
    counts = run_rollouts([equally_good(0.05, defects=0.02, let_through_share=0.2)], releases=20)

    assert counts.gates == {Gate.SHADOW: 20}
    assert counts.median_parts <= 300
    assert counts.most_parts <= 1_000


def test_total_failure_is_refused_in_three_parts() -> None:
    counts = run_rollouts([CandidateProfile("fails", failure_rate=1.0)], releases=5)

    assert counts.gates == {Gate.ERRORS: 5}
    assert counts.most_parts == 3


def test_a_model_that_makes_every_part_late_is_refused_in_the_first_parts_of_its_trial() -> None:
    # a shadow delays no decision, so the trial is the first to show it
    end = simulate_rollout(CandidateProfile("late", late_rate=1.0))

    assert (end.action, end.gate, end.phase) == (RolloutAction.REFUSE, Gate.DEADLINES, "trial 1%")


def test_a_model_that_fails_now_and_then_is_refused_before_it_gets_a_large_share() -> None:
    counts = run_rollouts([CandidateProfile("fails", failure_rate=0.05)], releases=10)

    assert counts.refused == 10
    assert counts.most_parts <= 500


def test_a_model_that_is_late_now_and_then_is_refused_in_its_trial() -> None:
    ends = [simulate_rollout(CandidateProfile("late", late_rate=0.05), seed=seed) for seed in range(10)]

    assert {(end.action, end.gate) for end in ends} == {(RolloutAction.REFUSE, Gate.DEADLINES)}
    assert {end.phase for end in ends} <= {"trial 1%", "trial 5%", "trial 25%"}


def test_the_blind_spot_is_not_seen_here() -> None:
    """10 % missed defects, balanced by 0.2 % false alarms: only labelled parts, the golden set's, show this model."""
    counts = run_rollouts([BLIND_SPOT], releases=10)

    assert counts.committed == 10


def test_the_other_blind_spot_a_line_with_hardly_any_defect() -> None:
    """At 0.01 % defects there is nothing to see a model by that lets everything through."""
    assert simulate_rollout(ALWAYS_OK, defects=0.0001, seed=1).action is RolloutAction.PASS


def test_shifted_scores_do_not_get_through_even_where_no_outcome_changes() -> None:
    end = simulate_rollout(CandidateProfile("shifted", score_shift=0.1), seed=3, max_frames=10_000)

    assert (end.action, end.gate) == (RolloutAction.REFUSE, Gate.DRIFT)


def test_equal_seeds_give_equal_rollouts() -> None:
    assert simulate_rollout(ALWAYS_OK, seed=7) == simulate_rollout(ALWAYS_OK, seed=7)


@pytest.mark.parametrize("run_parts", [3, 10])
def test_a_good_release_whose_disagreements_come_in_runs_is_committed_and_not_refused(run_parts: int) -> None:
    """A hundredth of what `kensa bench trials` simulates, over the parts of a whole rollout."""
    counts = run_trials(DisagreementProfile(0.005, run_parts), rollouts=30, parts=3_500, seed=77)

    assert counts.refused == 0
    assert counts.committed >= 20, "the others are held, and still in their trial"


def test_five_percent_independent_disagreement_is_refused_within_250_parts_in_the_median() -> None:
    counts = run_trials(DisagreementProfile(0.05), rollouts=60, parts=2_000, seed=77)

    assert counts.refused == 60
    assert counts.median_refused_at is not None
    assert counts.median_refused_at <= 250


def test_a_release_that_rejects_whole_runs_is_held_for_a_person_instead_of_refused() -> None:
    counts = run_trials(DisagreementProfile(0.005, 5, let_through_share=0.0), rollouts=10, parts=8_000, seed=77)

    assert (counts.refused, counts.ever_held) == (0, 10)
