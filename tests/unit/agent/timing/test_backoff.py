"""The back-off as pure arithmetic."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.timing.backoff import Backoff, FailureCounter


def test_the_delay_doubles_up_to_the_longest() -> None:
    backoff = Backoff(first_s=0.5, longest_s=5.0)
    assert [backoff.ceiling_s(failures) for failures in range(1, 7)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_the_growth_may_be_steeper() -> None:
    backoff = Backoff(first_s=1.0, longest_s=300.0, growth=4.0)
    assert [backoff.ceiling_s(failures) for failures in (1, 2, 3, 9)] == [1.0, 4.0, 16.0, 300.0]


@given(failures=st.integers(1, 1_000_000), seed=st.integers(0, 100))
def test_a_delay_is_random_in_its_jitter_range_only(failures: int, seed: int) -> None:
    backoff = Backoff(first_s=1.0, longest_s=120.0, jitter=(0.67, 1.33))
    ceiling_s = backoff.ceiling_s(failures)
    assert 0.67 * ceiling_s <= backoff.delay_s(failures, random.Random(seed)) <= 1.33 * ceiling_s


def test_a_counter_starts_again_after_a_success() -> None:
    counter = FailureCounter(Backoff(first_s=1.0, longest_s=60.0, jitter=(1.0, 1.0)), random.Random(1))
    assert [counter.next_delay_s() for _ in range(3)] == pytest.approx([1.0, 2.0, 4.0])
    counter.reset()
    assert counter.failures == 0
    assert counter.next_delay_s() == pytest.approx(1.0)
