"""Keeps an IPC connection to the nucleus: connects, subscribes, and reconnects with a new client.

The SDK's clients do not reconnect, and nucleus lite ends the whole connection over one message that is too large; so a
client serves one connection and is discarded. All subscriptions are renewed on the next one. When the nucleus answers
but no longer recognises the token, the next attempts use the component's name and the token in turn: lite forgets its
tokens whenever its IPC daemon restarts.

Promise: the SDK's own thread only puts events into a bounded queue; handlers run one after the other, in the order of
arrival, in the thread `ipc-events`, and may call the nucleus. No exception of the SDK leaves this module: errors are
`IpcError`s, classified by the class alone, because the text of an error does not arrive on lite.
"""

from __future__ import annotations

import logging
import queue
import random
import socket
import threading
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from agent.errors import KensaError, OperatorError
from agent.supervision import ErrorBoundary, ThreadSupervisor
from agent.timing.backoff import Backoff
from agent.timing.clock import NS_PER_S
from greengrass.ipc.client import Credentials, open_client
from greengrass.ipc.errors import SDK_ERRORS, IpcError, IpcErrorKind, from_sdk_error
from greengrass.ipc.subscriptions import ConnectionHandler, StreamHandler, Subscription

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from agent.supervision import SupervisedThread
    from agent.timing.clock import Clock

_MAX_QUEUED_EVENTS: Final = 1_000  # events between the SDK's thread and ours
_CLOSE_S: Final = 1.0
_STABLE_NS: Final = 10 * NS_PER_S  # a connection that lasted so long resets the back-off
_SUBSCRIBE_BACKOFF: Final = Backoff(first_s=1.0, longest_s=30.0)  # before a subscription is tried again
_NUCLEUS: Final = "the connection to the nucleus"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Response:
    operation: Any  # the SDK's operation; for a subscription it stays open
    response: Any


class Connection:
    """Stays connected in the thread `ipc` until closed. `call` and `subscribe` from any thread but the SDK's."""

    def __init__(
        self,
        *,
        socket_path: str,
        token: str,
        clock: Clock,
        component: str | None = None,
        timeout_s: float = 5.0,
        backoff_s: tuple[float, float] = (0.2, 10.0),
        supervisor: ThreadSupervisor | None = None,
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            socket_path: Of the nucleus, from this process's environment.
            token: From this process's environment.
            clock: Source of monotonic time and waits.
            component: Name of this process's component; without it only the token is tried.
            timeout_s: Bound of connecting and of one operation.
            backoff_s: Shortest and longest pause before a new attempt.
            supervisor: Runs the threads; by default one of its own.
        """
        self._socket_path = socket_path
        self._credentials = Credentials(token, component)
        self._auth_method: Literal["token", "name"] = "token"
        self._clock = clock
        self._timeout_s = timeout_s
        self._backoff = Backoff(*backoff_s)
        self._random = random.Random()  # noqa: S311 - spreads reconnects, guards nothing
        self._client: Any = None
        self._listeners: list[Callable[[bool, str], None]] = []
        self._subscriptions: list[Subscription] = []
        self._closed_streams: queue.SimpleQueue[tuple[Subscription, StreamHandler]] = queue.SimpleQueue()
        self._events: queue.Queue[tuple[Callable[[Any], None], Any] | None] = queue.Queue(_MAX_QUEUED_EVENTS)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._connected = threading.Event()
        self.supervisor = supervisor or ThreadSupervisor(clock=clock)
        # A bug ends one connection or one event, never the making of the next.
        self._connection_boundary = ErrorBoundary(
            self.supervisor,
            kind="ipc",
            what="the IPC connection",
            make=lambda text: IpcError(IpcErrorKind.CLOSED, text),
        )
        self._event_boundary = ErrorBoundary(
            self.supervisor, kind="ipc-events", what="an event of the nucleus", make=OperatorError
        )
        self._threads: list[SupervisedThread] = []
        self._conditions = self.supervisor.condition_log(_log)
        self._rejected_since_ns: int | None = None  # since when the nucleus answers without recognising this component
        self.connects = 0

    # --- any thread ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect."""
        for name, run in (("ipc", self._run), ("ipc-events", self._dispatch)):
            thread = self.supervisor.thread(run, kind=name, name=name, stop=self._stop)
            thread.start()
            self._threads.append(thread)

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait until connected and every subscription made so far has been requested."""
        return self._clock.wait(self._connected, timeout_s)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connected.is_set()

    @property
    def unrecognised_s(self) -> float:
        """How long the nucleus has answered without recognising this component: after its own restart on lite."""
        since_ns = self._rejected_since_ns
        return 0.0 if since_ns is None else (self._clock.monotonic_ns() - since_ns) / NS_PER_S

    def add_listener(self, listener: Callable[[bool, str], None]) -> None:
        """Call `listener(up, reason)` on each change, in the thread `ipc`, and now if it is up. It must not block."""
        self._listeners.append(listener)
        if self.is_connected:
            listener(True, "connected to the nucleus")  # noqa: FBT003 - as on a change

    def subscribe(
        self,
        operation: str,
        request: Any,
        on_event: Callable[[Any], None],
        *,
        description: str,
        is_optional: bool = False,
    ) -> Subscription:
        """Deliver the events of `operation` (such as `subscribe_to_topic`) from now on, over every connection.

        Args:
            operation: Name of the SDK's operation.
            request: The SDK's request.
            on_event: Called in the thread `ipc-events`.
            description: Names the subscription in the log.
            is_optional: Whether a nucleus may lack the operation; then it is tried once.
        """
        subscription = Subscription(operation, request, on_event, is_optional=is_optional, description=description)
        self._subscriptions.append(subscription)
        self._wake.set()
        return subscription

    def resubscribe(self, operation: str) -> None:
        """Renew every subscription of `operation`: they exist, but no events seem to arrive."""
        for subscription in list(self._subscriptions):
            if subscription.operation == operation and (stream := subscription.stream) is not None:
                stream.close()

    def call(self, operation: str, request: Any, *, timeout_s: float | None = None) -> Any:
        """Call an operation (such as `publish_to_iot_core`) and return its response. Raises IpcError."""
        client = self._client
        if client is None:
            raise IpcError(IpcErrorKind.CLOSED, f"{operation}: not connected to the nucleus")
        return self._request(
            client, operation, request, None, self._timeout_s if timeout_s is None else timeout_s
        ).response

    def probe(self, operation: str, request: Any, *, timeout_s: float) -> None:
        """Try `operation` once and ignore the events that may follow. Raises IpcError."""
        client = self._client
        if client is None:
            raise IpcError(IpcErrorKind.CLOSED, f"{operation}: not connected to the nucleus")
        is_stream = operation.startswith("subscribe_")
        stream = StreamHandler(
            Subscription(operation, request, _ignore_event, description=operation), _ignore_stream, _ignore_stream
        )
        answer = self._request(client, operation, request, stream if is_stream else None, timeout_s)
        if is_stream:
            answer.operation.close()

    def call_soon(self, job: Callable[[Any], None], argument: Any) -> None:
        """Call `job(argument)` in the thread `ipc-events`, after the events that have arrived; never blocks."""
        self._enqueue(job, argument)

    def _enqueue(self, job: Callable[[Any], None], argument: Any) -> None:
        try:
            self._events.put_nowait((job, argument))
        except queue.Full:
            self.supervisor.losses.count("ipc_events_overrun")

    def close(self) -> None:
        """End the connection and the threads; safe to call twice."""
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_CLOSE_S)

    # --- the SDK's thread ---------------------------------------------------------------------------------------------

    def _enqueue_event(self, subscription: Subscription, event: Any) -> None:
        self._enqueue(subscription.on_event, event)

    def _count_unreadable(self) -> None:
        self.supervisor.losses.count("ipc_events_unreadable")

    def _on_stream_closed(self, subscription: Subscription, stream: StreamHandler) -> None:
        self._closed_streams.put((subscription, stream))
        self._wake.set()

    # --- the thread ipc -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            began_ns = self._clock.monotonic_ns()
            try:
                with self._connection_boundary:
                    reason = self._serve_connection()
            except IpcError as error:
                reason = str(error)
            self._notify_listeners(up=False, reason=reason)
            lived = self._clock.monotonic_ns() - began_ns
            failures = 0 if lived >= _STABLE_NS else failures + 1
            if not self._stop.is_set():
                self._conditions.report_fault(_NUCLEUS, reason)
            self._clock.wait(self._stop, self._backoff.delay_s(failures + 1, self._random))
        self._stop_events()

    def _stop_events(self) -> None:
        while True:
            try:
                self._events.put_nowait(None)
            except queue.Full:
                self._events.get_nowait()
            else:
                return

    def _serve_connection(self) -> str:
        """Serve one connection to its end; return why it ended. Raises IpcError when there is none."""
        handler = ConnectionHandler(self._wake)
        try:
            client = open_client(
                socket_path=self._socket_path,
                message=self._credentials.connect_message(self._auth_method),
                handler=handler,
                timeout_s=self._timeout_s,
            )
        except (FutureTimeoutError, *SDK_ERRORS) as error:
            self._record_rejection()
            raise IpcError(IpcErrorKind.CLOSED, f"{self._socket_path}: {type(error).__name__}") from error
        self.connects += 1
        self._rejected_since_ns = None
        self._conditions.clear_fault(_NUCLEUS, f"is up again, by this component's {self._auth_method},")
        try:
            self._client = client
            for subscription in self._subscriptions:
                subscription.stream = subscription.handler = None
                is_absent = subscription.is_optional and subscription.error_kind is not None
                subscription.retry_at_ns, subscription.failures = (None if is_absent else 0), 0
            self._open_due_subscriptions(client)
            self._notify_listeners(up=True, reason="connected to the nucleus")
            while handler.end_reason is None and not self._stop.is_set():
                self._clock.wait(self._wake, self._wait_s())
                self._wake.clear()
                self._drain_closed_streams()
                if handler.end_reason is None:
                    self._open_due_subscriptions(client)
        finally:
            self._client = None
            self._connected.clear()
            _wait_closed(client.close())
        return handler.end_reason or "closed here"

    def _record_rejection(self) -> None:
        """Distinguish a rejected token, which the nucleus answers by closing, from a nucleus that is not running."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(self._timeout_s)
            try:
                probe.connect(self._socket_path)
            except OSError:
                self._rejected_since_ns = None
                return
        if self._rejected_since_ns is None:
            self._rejected_since_ns = self._clock.monotonic_ns()
        if self._credentials.component is not None:
            self._auth_method = "name" if self._auth_method == "token" else "token"

    def _notify_listeners(self, *, up: bool, reason: str) -> None:
        if up:
            self._connected.set()
        for listener in self._listeners:
            listener(up, reason)

    def _drain_closed_streams(self) -> None:
        while not self._closed_streams.empty():
            subscription, stream = self._closed_streams.get()
            if subscription.handler is stream:  # and not an earlier one
                subscription.stream = subscription.handler = None
                subscription.retry_at_ns = self._clock.monotonic_ns()

    def _wait_s(self) -> float:
        due = [s.retry_at_ns for s in self._subscriptions if s.retry_at_ns is not None]
        now_ns = self._clock.monotonic_ns()
        return min(60.0, max(0.0, (min(due) - now_ns) / NS_PER_S)) if due else 60.0

    def _open_due_subscriptions(self, client: Any) -> None:
        for subscription in list(self._subscriptions):
            now_ns = self._clock.monotonic_ns()
            if subscription.retry_at_ns is not None and subscription.retry_at_ns <= now_ns:
                self._open_subscription(client, subscription)

    def _open_subscription(self, client: Any, subscription: Subscription) -> None:
        stream = StreamHandler(subscription, self._enqueue_event, self._on_stream_closed, self._count_unreadable)
        subscription.retry_at_ns = None
        try:
            answer = self._request(client, subscription.operation, subscription.request, stream, self._timeout_s)
        except IpcError as error:
            subscription.error_kind = error.kind
            if error.kind is IpcErrorKind.UNAUTHORIZED:
                _log.error("%s is not allowed: add it to the component's accessControl", subscription.description)
            elif not subscription.is_optional and error.kind is not IpcErrorKind.CLOSED:
                subscription.failures += 1
                wait_s = _SUBSCRIBE_BACKOFF.ceiling_s(subscription.failures)
                subscription.retry_at_ns = self._clock.monotonic_ns() + round(wait_s * NS_PER_S)
        else:
            subscription.stream, subscription.handler = answer.operation, stream
            subscription.error_kind, subscription.failures = None, 0

    @staticmethod
    def _request(
        client: Any, operation: str, request: Any, stream: StreamHandler | None, timeout_s: float
    ) -> _Response:
        """Send the request and wait for the response. Raises IpcError."""
        started = None
        try:
            new = getattr(client, f"new_{operation}")
            started = new() if stream is None else new(stream)
            started.activate(request).result(timeout_s)
            return _Response(started, started.get_response().result(timeout_s))
        except FutureTimeoutError as error:
            if started is not None:
                started.close()
            raise from_sdk_error(error, operation) from error
        except SDK_ERRORS as error:
            raise from_sdk_error(error, operation) from error

    # --- the thread ipc-events ----------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while (item := self._events.get()) is not None:
            job, argument = item
            try:
                with self._event_boundary:
                    job(argument)
            except KensaError as error:
                self.supervisor.losses.count("ipc_events_failed")
                _log.warning("an event of the nucleus is lost: %s", error)


def _ignore_event(_event: Any) -> None:
    """Do nothing."""


def _ignore_stream(_subscription: Subscription, _what: Any) -> None:
    """Do nothing."""


def _wait_closed(closing: Future[None]) -> None:
    """Wait for the SDK to close; the outcome no longer matters."""
    try:
        closing.exception(_CLOSE_S)
    except FutureTimeoutError:
        _log.warning("the IPC client did not close within %g s", _CLOSE_S)
