"""A trial defers a component update, for a bounded time."""

from __future__ import annotations

from typing import cast

from agent.timing.clock import SystemClock
from greengrass.deployment.update_deferral import UpdateDeferral
from greengrass.ipc.connection import Connection
from simulator.doubles.clocks.manual_clock import ManualClock


def deferral(clock: ManualClock, reason: list[str | None], defer_s: float = 100.0) -> UpdateDeferral:
    connection = Connection(socket_path="/nowhere", token="x", clock=SystemClock())  # noqa: S106 - never connected
    return UpdateDeferral(connection=connection, busy_reason=lambda: reason[0], defer_s=lambda: defer_s, clock=clock)


def test_an_update_starts_at_once_when_nothing_is_busy() -> None:
    assert deferral(ManualClock(), [None]).decide("d-1")[0] == 0


def test_a_trial_defers_an_update_but_not_for_ever() -> None:
    clock, reason = ManualClock(), ["top is in trial"]
    updates = deferral(clock, cast("list[str | None]", reason))
    waits = []
    for _ in range(10):
        wait_ms, _ = updates.decide("d-1")
        waits.append(wait_ms)
        clock.advance(wait_ms / 1_000)
    assert waits == [30_000, 30_000, 30_000, 10_000, 0, 0, 0, 0, 0, 0]
    assert updates.decide("d-2")[0] == 30_000  # the next deployment has its own time


def test_an_update_starts_when_the_trial_has_ended() -> None:
    reason: list[str | None] = ["top is in trial"]
    updates = deferral(ManualClock(), reason)
    assert updates.decide("d-1")[0] > 0
    reason[0] = None
    assert updates.decide("d-1")[0] == 0
