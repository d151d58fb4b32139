"""What is listened to on an IPC connection, and what the SDK calls in its own thread: it only passes things on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from greengrass.ipc.errors import IpcErrorKind


class Subscription:
    """Something that is listened to on every connection; `fault` says why it is not."""

    def __init__(
        self, operation: str, request: Any, on_event: Callable[[Any], None], *, describe: str, is_optional: bool = False
    ) -> None:
        """`is_optional`: what the nucleus does not have is found out once and not asked for again."""
        self.operation = operation
        self.request = request
        self.on_event = on_event
        self.is_optional = is_optional
        self.description = describe
        self.error_kind: IpcErrorKind | None = None
        self.stream: Any = None  # the SDK's operation, while it is made
        self.handler: object = None  # of that stream
        self.retry_at_ns: int | None = 0  # when to try; None: made, or not to be tried on this connection
        self.failures = 0

    @property
    def is_active(self) -> bool:
        """Whether events arrive."""
        return self.stream is not None


class ConnectionHandler:
    """What the SDK calls in its own thread, for one connection."""

    def __init__(self, wake: threading.Event) -> None:
        self._wake = wake
        self.end_reason: str | None = None

    def on_connect(self) -> None:
        """Nothing to do: `connect` has returned."""

    def on_disconnect(self, reason: Exception | None) -> None:
        """Note why, and wake the thread that serves the connection."""
        self.end_reason = "closed here" if reason is None else f"ended by the nucleus ({type(reason).__name__})"
        self._wake.set()

    def on_error(self, error: Exception) -> bool:
        """Return True, which ends the connection."""
        return True  # a protocol error: end it, a new connection follows

    def on_ping(self, headers: object, payload: bytes) -> None:
        """Nothing to answer."""


class StreamHandler:
    """What the SDK calls in its own thread, for one subscription."""

    def __init__(
        self,
        subscription: Subscription,
        put: Callable[[Subscription, Any], None],
        closed: Any,
        on_unreadable: Callable[[], None] = lambda: None,
    ) -> None:
        self._subscription = subscription
        self._on_unreadable = on_unreadable
        self._on_event = put
        self._on_closed = closed

    def on_stream_event(self, event: Any) -> None:
        """Hand the event on; must not block."""
        self._on_event(self._subscription, event)

    def on_stream_error(self, error: Exception) -> bool:
        """Count an event that cannot be read, and return False, which keeps the stream."""
        self._on_unreadable()
        return False  # one event that cannot be read is no reason to hear no more

    def on_stream_closed(self) -> None:
        """Say so to the connection, which makes the subscription anew."""
        self._on_closed(self._subscription, self)
