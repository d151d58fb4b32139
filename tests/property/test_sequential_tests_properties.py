"""Facts about the statistics that hold for all counts: martingale, order, bounds."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.sequential_tests import Sprt, SprtPlan, e_value, mcnemar_p, psi, wilson

COUNTS = st.integers(0, 2_000)
SCORES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60)


@given(left=COUNTS, right=COUNTS)
def test_the_e_process_is_a_martingale_under_the_null(left: int, right: int) -> None:
    """What is expected after one more discordant pair is what there is now."""
    if abs(left - right) < 900:  # beyond, the value is bounded to stay finite
        expected = (e_value(left + 1, right) + e_value(left, right + 1)) / 2

        assert math.isclose(expected, e_value(left, right), rel_tol=1e-6)


def test_every_sequence_of_twelve_pairs_together_expects_one() -> None:
    sequences = itertools.product((0, 1), repeat=12)

    assert math.isclose(sum(e_value(12 - sum(s), sum(s)) for s in sequences) / 2**12, 1.0, rel_tol=1e-9)


def test_stopping_at_any_threshold_still_expects_one() -> None:
    """Optional stopping by enumeration: stop at E >= 4 or after 14 pairs; nobody gains by choosing when to stop."""
    total = 0.0
    open_counts = {(0, 0): 1.0}
    for _ in range(14):
        following: dict[tuple[int, int], float] = {}
        for (left, right), weight in open_counts.items():
            for counts in ((left + 1, right), (left, right + 1)):
                if e_value(*counts) >= 4.0:
                    total += weight / 2 * e_value(*counts)
                else:
                    following[counts] = following.get(counts, 0.0) + weight / 2
        open_counts = following
    total += sum(weight * e_value(*counts) for counts, weight in open_counts.items())

    assert math.isclose(total, 1.0, rel_tol=1e-9)


@given(left=st.integers(0, 60), right=st.integers(0, 60))
def test_mcnemar_equals_the_sum_of_exact_fractions(left: int, right: int) -> None:
    n = left + right
    tail = Fraction(sum(math.comb(n, i) for i in range(min(left, right) + 1)), 2**n)

    assert math.isclose(mcnemar_p(left, right), float(min(Fraction(1), 2 * tail)), rel_tol=1e-9)


@given(events=COUNTS, more=COUNTS, confidence=st.floats(0.5, 0.999))
def test_wilson_holds_the_rate_and_stays_a_rate(events: int, more: int, confidence: float) -> None:
    trials = events + more
    low, high = wilson(events, trials, confidence=confidence)

    assert 0.0 <= low <= high <= 1.0
    if trials:
        assert low - 1e-12 <= events / trials <= high + 1e-12


@given(reference=SCORES, current=SCORES, bins=st.integers(2, 20))
def test_psi_is_finite_not_negative_and_zero_against_itself(
    reference: list[float], current: list[float], bins: int
) -> None:
    first, second = np.array(reference), np.array(current)

    assert 0.0 <= psi(first, second, bins=bins) < math.inf
    assert psi(first, first, bins=bins) == 0.0
    assert psi(first, second[::-1], bins=bins) == psi(first, second, bins=bins)


@given(events=st.lists(st.booleans(), max_size=400))
def test_an_sprt_never_takes_a_refusal_back_and_never_falls_below_its_bound(events: list[bool]) -> None:
    plan = SprtPlan(0.01, 0.03)
    test, refused = Sprt(plan), False
    for event in events:
        test.add(event=event)
        assert plan.lower <= test.log_ratio < math.inf
        assert test.refused >= refused
        refused = test.refused
    assert (test.trials, test.events) == (len(events), sum(events))
