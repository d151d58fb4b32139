"""Decides how long to wait before the next connection, and detects two devices with one client id.

MQTT 5 reports when another client took the session over (0x8E). MQTT 3.1.1 only closes the connection, and two devices
with one client id then disconnect each other every half second: connections that all begin well and end within seconds
with nothing in flight. Both cases are named in the reason, and followed by a much longer wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.timing.backoff import Backoff

if TYPE_CHECKING:
    import random

_SHORT_S: Final = 5.0  # a shorter connection counts for a storm
_LONG_S: Final = 30.0  # a longer one ends it
_TAKEOVER_STREAK: Final = 4  # short connections in a row
_SUSPECTED_S: Final = 10.0  # longest wait while another device is only suspected: a bad network can look the same


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionEnd:
    """How one connection went."""

    reason: str
    up_s: float | None  # how long it was up; None when it never was
    acked: bool  # whether the broker acknowledged anything
    idle: bool  # whether nothing was in flight at its end
    taken_over: bool  # the broker reported another client with this client id


class ReconnectPolicy:
    """One transport's connections, one after the other."""

    def __init__(self, *, client_id: str, backoff_s: tuple[float, float], rng: random.Random) -> None:
        """`backoff_s` is the first and the longest wait."""
        self._client_id = client_id
        self._backoff = Backoff(*backoff_s)
        self._rng = rng
        self._failures = 0
        self._storm = 0

    def record_end(self, ended: ConnectionEnd) -> tuple[str, float]:
        """Return why the connection ended, for a person, and how many seconds to wait before the next."""
        self._count(ended)
        reason, ceiling_s = ended.reason, self._backoff.ceiling_s(self._failures + 1)
        if ended.taken_over:
            reason, ceiling_s = (
                f"another device uses this client id, {self._client_id!r}: {reason}",
                self._backoff.longest_s,
            )
        elif self._storm >= _TAKEOVER_STREAK:
            ceiling_s = min(self._backoff.longest_s, _SUSPECTED_S)
            reason = (
                f"another device uses this client id, {self._client_id!r}, as it seems: {self._storm} connections in "
                f"a row ended within seconds ({reason}). Every agent needs its own"
            )
        return reason, self._rng.uniform(ceiling_s / 2, ceiling_s)

    def _count(self, ended: ConnectionEnd) -> None:
        works = ended.up_s is not None and (ended.acked or ended.up_s >= _SHORT_S)
        self._failures = 0 if works else self._failures + 1
        if ended.up_s is None or ended.up_s > _LONG_S:
            self._storm = 0
        elif ended.idle and ended.up_s < _SHORT_S:
            self._storm += 1
