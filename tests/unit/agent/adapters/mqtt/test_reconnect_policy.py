"""The wait after a connection, and the detection of another device with the same client id."""

from __future__ import annotations

import random

from agent.adapters.mqtt.reconnect_policy import ConnectionEnd, ReconnectPolicy


def restarts() -> ReconnectPolicy:
    return ReconnectPolicy(client_id="thing-1", backoff_s=(0.5, 30.0), rng=random.Random(1))


def ended(
    *, up_s: float | None = 0.4, acked: bool = True, idle: bool = True, taken_over: bool = False
) -> ConnectionEnd:
    return ConnectionEnd(reason="the connection was lost", up_s=up_s, acked=acked, idle=idle, taken_over=taken_over)


def test_attempts_that_fail_are_further_and_further_apart() -> None:
    attempts = restarts()
    waits = [attempts.record_end(ended(up_s=None, acked=False))[1] for _ in range(9)]
    for number, wait_s in enumerate(waits):
        ceiling_s = min(30.0, 0.5 * 2 ** (number + 1))
        assert ceiling_s / 2 <= wait_s <= ceiling_s


def test_a_connection_that_worked_is_followed_at_once() -> None:
    attempts = restarts()
    for _ in range(5):
        attempts.record_end(ended(up_s=None, acked=False))
    assert attempts.record_end(ended(up_s=60.0))[1] <= 0.5


def test_a_session_that_is_taken_over_is_named_and_waited_out() -> None:
    reason, wait_s = restarts().record_end(ended(taken_over=True))
    assert reason.startswith("another device uses this client id, 'thing-1'")
    assert 15.0 <= wait_s <= 30.0


def test_a_storm_of_short_connections_is_named_with_a_doubt() -> None:
    attempts = restarts()
    told = [attempts.record_end(ended()) for _ in range(4)]
    assert all("another device" not in reason and wait_s <= 0.5 for reason, wait_s in told[:3])
    assert "another device uses this client id, 'thing-1', as it seems" in told[3][0]
    assert 5.0 <= told[3][1] <= 10.0


def test_connections_that_end_on_a_message_or_before_they_stand_are_no_storm() -> None:
    attempts = restarts()
    for _ in range(9):
        assert "another device" not in attempts.record_end(ended(idle=False))[0], "a topic that the broker hangs up on"
    for _ in range(3):
        attempts.record_end(ended())
        assert "another device" not in attempts.record_end(ended(up_s=None))[0], "a broker that restarts"


def test_a_long_connection_ends_the_storm() -> None:
    attempts = restarts()
    for _ in range(6):
        attempts.record_end(ended())
    reason, wait_s = attempts.record_end(ended(up_s=31.0))
    assert "another device" not in reason
    assert wait_s <= 0.5
