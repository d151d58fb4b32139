"""What the shadow adapter asks of the way to the broker, and what it has asked the service."""

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
    """One kind of question: whether it is wanted, and what is under way."""

    wanted: bool = False
    token: str | None = None  # of the one that waits for its answer
    deadline_ns: int = 0
    earliest_ns: int = 0
    failures: int = 0

    def sent(self, token: str, now_ns: int, pause_ns: int) -> None:
        """It went out with `token`; the next one at the earliest `pause_ns` later."""
        self.wanted, self.token = False, token
        self.deadline_ns = now_ns + _backoff_ns(self.failures)
        self.earliest_ns = now_ns + pause_ns

    def failed(self, now_ns: int) -> None:
        """Ask again later."""
        self.wanted, self.token = True, None
        self.earliest_ns = max(self.earliest_ns, now_ns + _backoff_ns(self.failures) // 2)
        self.failures += 1

    def answered(self) -> None:
        """The service answered."""
        self.token, self.failures = None, 0


class SubscribingTransport(Protocol):
    """The part of a `ports.Transport` that the shadow needs; Greengrass has another way to it."""

    def subscribe(self, topic: str, on_message: Callable[[str, bytes], None]) -> None:
        """See `ports.Transport.subscribe`."""


@runtime_checkable
class OnConnectTransport(SubscribingTransport, Protocol):
    """A transport that can ask alone on a fresh connection, and remembers brokers that carry no shadow."""

    def publish_on_connect(self, ask: Callable[[], tuple[str, bytes]], on_refused: Callable[[str], None]) -> None:
        """Send what `ask()` returns first on each connection, or call `on_refused(reason)` where that must not be."""

    def disable_shadow(self, reason: str) -> None:
        """Speak to the shadow no more for a day."""


def _backoff_ns(failures: int) -> int:
    return round(_BACKOFF.ceiling_s(failures + 1) * NS_PER_S)
