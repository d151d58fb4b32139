"""Subscriptions of an IPC connection, and the handlers that the SDK calls in its own thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from greengrass.ipc.errors import IpcErrorKind


class Subscription:
    """A subscription that is renewed on every connection; `error_kind` is why it is not active."""

    def __init__(
        self,
        operation: str,
        request: Any,
        on_event: Callable[[Any], None],
        *,
        description: str,
        is_optional: bool = False,
    ) -> None:
        """`is_optional`: an operation that the nucleus does not support is tried once and not requested again."""
        self.operation = operation
        self.request = request
        self.on_event = on_event
        self.is_optional = is_optional
        self.description = description
        self.error_kind: IpcErrorKind | None = None
        self.stream: Any = None  # the SDK's operation, while it is active
        self.handler: object = None  # of that stream
        self.retry_at_ns: int | None = 0  # when to try; None: active, or not to be tried on this connection
        self.failures = 0

    @property
    def is_active(self) -> bool:
        """Whether events arrive."""
        return self.stream is not None


class ConnectionHandler:
    """Callbacks of one connection, called in the SDK's own thread."""

    def __init__(self, wake: threading.Event) -> None:
        self._wake = wake
        self.end_reason: str | None = None

    def on_connect(self) -> None:
        """Do nothing: `connect` has returned."""

    def on_disconnect(self, reason: Exception | None) -> None:
        """Record the reason, and wake the thread that serves the connection."""
        self.end_reason = "closed here" if reason is None else f"ended by the nucleus ({type(reason).__name__})"
        self._wake.set()

    def on_error(self, error: Exception) -> bool:
        """Return True, which ends the connection."""
        return True  # a protocol error: a new connection follows

    def on_ping(self, headers: object, payload: bytes) -> None:
        """Do nothing: a ping needs no answer."""


class StreamHandler:
    """Callbacks of one subscription, called in the SDK's own thread."""

    def __init__(
        self,
        subscription: Subscription,
        on_event: Callable[[Subscription, Any], None],
        on_closed: Any,
        on_unreadable: Callable[[], None] = lambda: None,
    ) -> None:
        self._subscription = subscription
        self._on_unreadable = on_unreadable
        self._on_event = on_event
        self._on_closed = on_closed

    def on_stream_event(self, event: Any) -> None:
        """Pass the event on; must not block."""
        self._on_event(self._subscription, event)

    def on_stream_error(self, error: Exception) -> bool:
        """Count an event that cannot be read, and return False, which keeps the stream."""
        self._on_unreadable()
        return False  # one unreadable event does not end the subscription

    def on_stream_closed(self) -> None:
        """Notify the connection, which subscribes again."""
        self._on_closed(self._subscription, self)
