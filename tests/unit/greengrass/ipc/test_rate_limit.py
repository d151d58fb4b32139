"""Rate limit of a component: neither a second nor the time of a slot holds too many messages."""

from __future__ import annotations

import random

import pytest

from agent.timing.clock import NS_PER_S
from greengrass.ipc.rate_limit import PublishRateLimiter
from simulator.doubles.clocks.manual_clock import ManualClock


@pytest.mark.parametrize("seed", range(5))
def test_neither_a_second_nor_the_time_of_a_slot_holds_too_much(seed: int) -> None:
    rng = random.Random(seed)
    clock = ManualClock()
    rate_limiter = PublishRateLimiter(clock=clock)
    sent: list[tuple[int, int]] = []
    for _ in range(400):
        if rng.random() < 0.1:
            clock.advance(rng.uniform(0.0, 0.5))  # bursts after silence
        size = rng.choice([100, 800, 4_800])
        clock.advance(rate_limiter.reserve(size))
        sent.append((clock.monotonic_ns(), size))
    for index, (began_ns, _) in enumerate(sent):
        later = [(at_ns - began_ns, size) for at_ns, size in sent[index:]]
        assert sum(after_ns < NS_PER_S for after_ns, _ in later) <= 39
        slot = [size for after_ns, size in later if after_ns < 0.13 * NS_PER_S]
        assert len(slot) <= 10
        assert sum(slot) <= 15_000


def test_a_burst_of_four_does_not_wait() -> None:
    rate_limiter = PublishRateLimiter(clock=ManualClock())
    assert [rate_limiter.reserve(500) for _ in range(4)] == [0.0] * 4
    assert rate_limiter.reserve(500) > 0.0
