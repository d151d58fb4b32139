"""The rate limit allows a burst, then the sustained rate, in every window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.timing.clock import NS_PER_S
from agent.timing.rate import RateLimit


def test_a_burst_is_taken_at_once_and_then_one_each_interval() -> None:
    rate, now = RateLimit(per_s=2.0, burst=3), 5 * NS_PER_S
    assert [rate.try_take(now) for _ in range(4)] == [True, True, True, False]
    assert not rate.try_take(now + NS_PER_S // 2 - 1)
    assert rate.try_take(now + NS_PER_S // 2)
    assert not rate.try_take(now + NS_PER_S // 2)


def test_what_is_not_taken_is_saved_up_to_the_burst_only() -> None:
    rate = RateLimit(per_s=10.0, burst=2)
    assert [rate.try_take(100 * NS_PER_S) for _ in range(3)] == [True, True, False]


@given(st.floats(0.5, 1_000.0), st.integers(1, 20), st.lists(st.floats(0.0, 0.5), min_size=1, max_size=200))
def test_no_window_holds_more_than_burst_and_rate_allow(per_s: float, burst: int, gaps: list[float]) -> None:
    rate, now, taken = RateLimit(per_s=per_s, burst=burst), NS_PER_S, []
    for gap in gaps:
        now += round(gap * NS_PER_S)
        if rate.try_take(now):
            taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            allowed = burst + (taken[last] - taken[first]) / NS_PER_S * per_s
            assert last - first + 1 <= allowed + 1e-3


def test_spending_says_how_long_to_wait() -> None:
    rate, now = RateLimit(per_s=1_000.0, burst=100), NS_PER_S
    waits = []
    for _ in range(10):
        waits.append(rate.take_with_delay(now, 200))
        now += waits[-1]
    assert abs(now - NS_PER_S - (2_000 - 100) / 1_000 * NS_PER_S) < NS_PER_S / 100


def test_a_burst_waits_for_nothing_and_the_next_one_for_one_interval() -> None:
    rate, now = RateLimit(per_s=10.0, burst=4), NS_PER_S
    assert [rate.take_with_delay(now, 1) for _ in range(6)] == [0, 0, 0, 0, NS_PER_S // 10, NS_PER_S // 5]
    whole = RateLimit(per_s=10.0, burst=4)
    assert whole.take_with_delay(now, 4) == 0
    assert whole.take_with_delay(now, 4) == 4 * NS_PER_S // 10


def test_other_bounds_count_from_now_on() -> None:
    rate = RateLimit(per_s=0.001, burst=1)
    assert rate.try_take(NS_PER_S)
    rate.set_limit(per_s=1_000.0, burst=1)
    assert not rate.try_take(2 * NS_PER_S), "what was taken is still to be paid for"
    other = RateLimit(per_s=1.0, burst=1)
    other.set_limit(per_s=1.0, burst=5)
    assert [other.try_take(NS_PER_S) for _ in range(6)] == [True] * 5 + [False]
