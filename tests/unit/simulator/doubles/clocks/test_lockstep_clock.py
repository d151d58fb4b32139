"""Threads on a virtual clock: exact order, no real waiting."""

from __future__ import annotations

import threading
import time

import pytest

from agent.timing.clock import NS_PER_S
from simulator.doubles.clocks.lockstep_clock import LockstepClock


def seconds(clock: LockstepClock) -> float:
    return clock.monotonic_ns() / NS_PER_S


def begin(
    clock: LockstepClock, name: str, period_s: float, seen: list[tuple[float, str]], times: int
) -> threading.Thread:
    """A thread that says its name every `period_s`."""

    def run() -> None:
        never = threading.Event()
        for _ in range(times):
            clock.wait(never, period_s)
            seen.append((seconds(clock), name))
        clock.end_thread()

    thread = threading.Thread(target=run, name=name, daemon=True)
    clock.start_thread(thread.start)
    return thread


def test_two_threads_run_in_the_order_of_their_waits_whatever_the_machine_does() -> None:
    clock, seen = LockstepClock(), list[tuple[float, str]]()
    begin(clock, "slow", 3_600.0, seen, 2)
    begin(clock, "quick", 1_500.0, seen, 4)

    began = time.monotonic()
    while clock.run_next(7_300 * NS_PER_S):
        pass

    assert seen == [
        (1_501.0, "quick"),
        (3_001.0, "quick"),
        (3_601.0, "slow"),
        (4_501.0, "quick"),
        (6_001.0, "quick"),
        (7_201.0, "slow"),
    ]
    assert seconds(clock) == 7_300.0
    assert time.monotonic() - began < 30.0


def test_an_event_ends_a_wait_at_the_next_step_and_moves_no_time() -> None:
    clock, woken, seen = LockstepClock(), threading.Event(), list[bool]()

    def run() -> None:
        seen.append(clock.wait(woken, 60.0))
        clock.end_thread()

    clock.start_thread(threading.Thread(target=run, daemon=True).start)
    woken.set()
    clock.run_next(10 * NS_PER_S)

    assert seen == [True]
    assert seconds(clock) == 1.0


def test_work_of_the_conductor_takes_time_and_others_are_late() -> None:
    clock, seen = LockstepClock(), list[tuple[float, str]]()
    begin(clock, "camera", 1.0, seen, 1)

    clock.advance(5.0)
    clock.run_next(10 * NS_PER_S)

    assert seen == [(6.0, "camera")]


def test_a_thread_that_is_set_free_does_not_wait_any_more() -> None:
    clock, ended = LockstepClock(), threading.Event()

    def run() -> None:
        while not ended.is_set():
            clock.wait(ended, 3_600.0)
        clock.end_thread()

    thread = threading.Thread(target=run, daemon=True)
    player = clock.start_thread(thread.start)
    ended.set()
    clock.release_thread(player)
    thread.join(30.0)

    assert not thread.is_alive()
    assert not clock.run_next(2 * NS_PER_S)


def test_a_thread_that_was_not_begun_here_cannot_wait() -> None:
    with pytest.raises(RuntimeError, match="not begun here"):
        LockstepClock().wait(threading.Event(), 1.0)
