"""A test of a rate refuses separate events and counts a run of parts as one event."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.evidence.run_tests import (
    BLOCK_PARTS,
    LASTING_PARTS,
    MIN_RUNS,
    PERSISTENT_PARTS,
    RunCounter,
    RunSprt,
    block_plan,
    expected_run_events,
)
from agent.sequential_tests import Sprt, SprtPlan

PLAN = SprtPlan(0.01, 0.03)


def shown(test: RunSprt, *stretches: tuple[int, bool], unit: str = "cam") -> RunSprt:
    for count, event in stretches:
        for _ in range(count):
            test.add(event=event, unit=unit)
    return test


def started(*, tolerates_long_runs: bool = True) -> RunSprt:
    test = RunSprt(PLAN, tolerates_long_runs=tolerates_long_runs)
    test.begin_phase()
    return test


def test_a_run_of_any_length_is_one_run_and_ends_with_a_clean_block() -> None:
    runs = RunCounter()
    begun = [runs.add(event=event, unit="cam").begins_run for event in [False, *[True] * 33, *[False] * 9, True]]

    assert [i for i, begins in enumerate(begun) if begins] == [1, 43]


def test_parts_of_other_cameras_in_between_do_not_cut_a_run() -> None:
    runs, begun = RunCounter(), 0
    for _ in range(20):
        begun += runs.add(event=True, unit="dazzled").begins_run
        runs.add(event=False, unit="other")

    assert begun == 1
    assert runs.is_running


def test_a_block_counts_at_its_first_event_and_a_clean_one_at_its_end() -> None:
    runs = RunCounter()

    blocks = [runs.add(event=event, unit="cam").block for event in [False, True, True, False, False, *[False] * 5]]

    assert blocks == [None, True, None, None, None, None, None, None, None, False]


def test_the_test_of_blocks_has_the_rates_of_blocks_of_independent_parts() -> None:
    drawn = np.random.default_rng(3).random((200_000, BLOCK_PARTS)) < PLAN.good

    assert block_plan(PLAN).good == pytest.approx(drawn.any(axis=1).mean(), abs=0.002)
    assert block_plan(PLAN).alpha == PLAN.alpha


@pytest.mark.parametrize("rate", [0.005, 0.05, 0.2])
def test_independent_parts_have_as_many_events_a_run_as_the_formula_says(rate: float) -> None:
    runs, events = RunCounter(), np.random.default_rng(4).random(200_000) < rate

    begun = sum(runs.add(event=bool(event), unit="cam").begins_run for event in events)

    assert events.sum() / begun == pytest.approx(expected_run_events(rate), rel=0.03)


def test_a_rate_of_everything_has_no_runs_to_count() -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\), got 1.0"):
        expected_run_events(1.0)


@pytest.mark.parametrize("length", [11, 30, LASTING_PARTS - 1])
def test_one_run_after_a_good_time_casts_doubt_and_refuses_nothing(length: int) -> None:
    test = shown(started(), (1_000, False), (length, True))

    assert test.is_in_doubt
    assert not test.is_accepted
    assert not test.is_refused


def test_doubt_ends_when_the_test_of_parts_accepts_anew() -> None:
    test = shown(started(), (1_000, False), (15, True), (500, False))
    assert test.is_in_doubt

    shown(test, (100, False))

    assert test.is_accepted
    assert not test.is_in_doubt


def test_separate_events_that_add_up_are_refused() -> None:
    test = shown(started(), (1_000, False), *[(1, True), (5, False)] * 20)

    assert test.is_refused
    assert test.runs >= MIN_RUNS


def test_what_happens_to_every_part_from_the_start_is_refused_as_fast_as_by_walds_test() -> None:
    assert not shown(started(), (6, True)).is_refused
    assert shown(started(), (7, True)).is_refused


def test_a_phase_that_begins_in_the_middle_of_a_run_proves_nothing_by_it() -> None:
    test = shown(started(), (1_000, False), (3, True))
    test.begin_phase()

    shown(test, (39, True))

    assert test.is_in_doubt
    assert not test.is_refused


def test_a_phase_in_which_every_part_has_the_event_from_its_beginning_is_refused() -> None:
    test = shown(started(), (1_000, False))
    test.begin_phase()

    assert shown(test, (11, True)).is_refused


@pytest.mark.parametrize(
    ("share", "parts"), [(1.0, LASTING_PARTS), (0.25, LASTING_PARTS // 4), (0.1, LASTING_PARTS // 10)]
)
def test_what_lasts_for_a_thousand_parts_of_the_line_is_no_passing_glare(share: float, parts: int) -> None:
    test = shown(started(), (1_000, False), (1, True))  # so that the phase begins in a run
    test.begin_phase(share=share)

    assert not shown(test, (parts - 2, True)).is_refused
    assert shown(test, (1, True)).is_refused


def test_a_long_run_refuses_what_was_never_accepted() -> None:
    test = shown(started(), (10, False), (PERSISTENT_PARTS - 1, True))
    assert not test.is_refused

    assert shown(test, (1, True)).is_refused


def test_failures_that_last_are_nobody_elses_fault() -> None:
    test = shown(started(tolerates_long_runs=False), (1_000, False), (PERSISTENT_PARTS + 20, True))

    assert test.is_refused


@given(events=st.lists(st.booleans(), max_size=300), runs=st.lists(st.integers(1, 40), max_size=10))
def test_it_neither_refuses_nor_accepts_before_walds_test_does(events: list[bool], runs: list[int]) -> None:
    test, wald = started(), Sprt(PLAN)
    wald_refused = wald_accepted = False
    for event in [*events, *(i % 2 == 0 for i, length in enumerate(runs) for _ in range(length))]:
        test.add(event=event, unit="cam")
        wald.add(event=event)
        wald_refused, wald_accepted = wald_refused or wald.refused, wald_accepted or wald.accepted
        assert wald_refused or not test.is_refused
        assert wald_accepted or not test.is_accepted
        assert test.is_refused <= test.is_in_doubt
