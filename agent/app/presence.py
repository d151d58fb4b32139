"""Announces the retained status of this device.

It is `online` while the device is connected and `offline` after its stop or its last will.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import agent
from agent.wire import Presence, StatusMessage, encode_status, status_topic

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.timing.clock import Clock


@runtime_checkable
class PresenceAnnouncer(Protocol):
    """A transport that can register a last will with its broker; that of Greengrass cannot."""

    def announce(
        self, *, topic: str, online: Callable[[], bytes], will: Callable[[], bytes], stopped: Callable[[], bytes]
    ) -> None:
        """Maintain a retained message on `topic`; the payloads are built when they are needed."""


def announce_presence(transport: object, *, thing: str, line: str, boot_epoch: int, clock: Clock) -> None:
    """Let `transport` maintain the status of `thing`, where it can. Call before it starts."""
    if not isinstance(transport, PresenceAnnouncer):
        return
    connected_us = 0

    def now_us() -> int:
        return max(0, clock.utc_ns() // 1_000)

    def message(state: Presence, *, since_us: int | None, reason: str) -> bytes:
        return encode_status(
            StatusMessage(
                thing=thing,
                line=line,
                boot_epoch=boot_epoch,
                agent_version=agent.__version__,
                state=state,
                since_us=since_us,
                connected_us=connected_us,
                reason=reason,
            )
        )

    def will() -> bytes:
        nonlocal connected_us
        connected_us = now_us()
        return message(Presence.OFFLINE, since_us=None, reason="connection lost")

    transport.announce(
        topic=status_topic(thing),
        online=lambda: message(Presence.ONLINE, since_us=now_us(), reason="connected"),
        will=will,
        stopped=lambda: message(Presence.OFFLINE, since_us=now_us(), reason="stopped"),
    )
