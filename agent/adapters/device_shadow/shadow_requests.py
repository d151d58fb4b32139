"""The shadow adapter's requests to the service, and the transport that it needs for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from agent.timing.backoff import Backoff
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable

_BACKOFF: Final = Backoff(first_s=3.0, longest_s=300.0)  # the wait for an answer


@dataclass(slots=True)
class PendingRequest:
    """One kind of request: whether one is due, and which is under way."""

    wanted: bool = False
    token: str | None = None  # of the request that waits for its answer
    deadline_ns: int = 0
    earliest_ns: int = 0
    failures: int = 0

    def sent(self, token: str, now_ns: int, pause_ns: int) -> None:
        """Note that one went out with `token`; the next follows `pause_ns` later at the earliest."""
        self.wanted, self.token = False, token
        self.deadline_ns = now_ns + _backoff_ns(self.failures)
        self.earliest_ns = now_ns + pause_ns

    def failed(self, now_ns: int) -> None:
        """Send it again later, after a back-off."""
        self.wanted, self.token = True, None
        self.earliest_ns = max(self.earliest_ns, now_ns + _backoff_ns(self.failures) // 2)
        self.failures += 1

    def answered(self) -> None:
        """Note the answer of the service."""
        self.token, self.failures = None, 0


class SubscribingTransport(Protocol):
    """The share of `ports.Transport` that the shadow needs; Greengrass implements it over IPC."""

    def subscribe(self, topic: str, on_message: Callable[[str, bytes], None]) -> None:
        """See `ports.Transport.subscribe`."""


@runtime_checkable
class OnConnectTransport(SubscribingTransport, Protocol):
    """A transport that can send one request alone on a fresh connection, and remembers brokers without shadows."""

    def publish_on_connect(
        self, first_message: Callable[[], tuple[str, bytes]], on_refused: Callable[[str], None]
    ) -> None:
        """Send `first_message()` first on each connection, or call `on_refused(reason)` where that must not be."""

    def disable_shadow(self, reason: str) -> None:
        """Send nothing to the shadow for a day."""


def _backoff_ns(failures: int) -> int:
    return round(_BACKOFF.ceiling_s(failures + 1) * NS_PER_S)
