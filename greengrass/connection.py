"""The life of the IPC connection to the nucleus: connect, subscribe, notice the end, and begin again with a new client.

The SDK's clients do not reconnect, and nucleus lite ends the whole connection over one message that is too large; so a
client is used for one connection and thrown away. Everything that was listened to is listened to again on the next.
When the nucleus answers and does not know the token any more, the next attempts use the component's name and the token
in turn: lite forgets its tokens whenever its IPC daemon restarts.

Promise: the SDK's own thread does nothing but put events to a bounded queue; handlers run one after the other, in the
order of arrival, in the thread `ipc-events`, and may call the nucleus. No vendor's exception leaves this module: what
goes wrong is an `IpcError`, classified by its class alone, because the text of an error does not arrive on lite.
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

from agent.clock import NS_PER_S
from agent.errors import KensaError, OperatorError
from agent.supervision import Boundary, Supervisor
from greengrass.faults import VENDOR_ERRORS, Fault, IpcError, translated
from greengrass.ipc_client import Credentials, open_client
from greengrass.ipc_streams import Stream, Subscription, Watcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from agent.clock import Clock
    from agent.supervision import SupervisedThread

_WAITING: Final = 1_000  # events between the SDK's thread and ours
_CLOSE_S: Final = 1.0
_SETTLED_NS: Final = 10 * NS_PER_S  # a connection that lived so long starts the back-off anew
_AGAIN_NS: Final = NS_PER_S  # first wait before a subscription is tried again; doubles
_LONGEST_AGAIN_NS: Final = 30 * NS_PER_S
_MAX_DOUBLINGS: Final = 16
_NUCLEUS: Final = "the connection to the nucleus"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Answer:
    asked: Any  # the SDK's operation; of a subscription it lives as long as that
    response: Any


class Connection:
    """Connects in the thread `ipc` for as long as it is open. `call` and `listen` from any thread but the SDK's."""

    def __init__(
        self,
        *,
        socket_path: str,
        token: str,
        clock: Clock,
        component: str | None = None,
        timeout_s: float = 5.0,
        backoff_s: tuple[float, float] = (0.2, 10.0),
        supervisor: Supervisor | None = None,
    ) -> None:
        """Prepare; nothing is connected yet.

        `socket_path` and `token` are what the nucleus gave this process, `component` is the name of the component that
        it belongs to; without it only the token is tried.
        """
        self._socket_path = socket_path
        self._credentials = Credentials(token, component)
        self._by: Literal["token", "name"] = "token"
        self._clock = clock
        self._timeout_s = timeout_s
        self._backoff_s = backoff_s
        self._random = random.Random()  # noqa: S311 - spreads reconnects, guards nothing
        self._client: Any = None
        self._watchers: list[Callable[[bool, str], None]] = []
        self._subscriptions: list[Subscription] = []
        self._closed_streams: queue.SimpleQueue[tuple[Subscription, Stream]] = queue.SimpleQueue()
        self._events: queue.Queue[tuple[Callable[[Any], None], Any] | None] = queue.Queue(_WAITING)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._up = threading.Event()
        self.supervisor = supervisor or Supervisor(clock=clock)
        # A bug ends one connection or one event, never the making of the next.
        self._serving = Boundary(
            self.supervisor, kind="ipc", what="the IPC connection", make=lambda text: IpcError(Fault.CLOSED, text)
        )
        self._delivering = Boundary(
            self.supervisor, kind="ipc-events", what="an event of the nucleus", make=OperatorError
        )
        self._threads: list[SupervisedThread] = []
        self._conditions = self.supervisor.condition_log(_log)
        self._refused_ns: int | None = None  # since when the nucleus answers and does not know this component
        self.connects = 0
        self.overrun = 0  # events that were dropped because too many waited

    # --- any thread ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect."""
        for name, run in (("ipc", self._run), ("ipc-events", self._dispatch)):
            thread = self.supervisor.thread(run, kind=name, name=name, stop=self._stop)
            thread.start()
            self._threads.append(thread)

    def wait_up(self, timeout_s: float) -> bool:
        """Wait until connected and everything that was listened to by then is listened to."""
        return self._clock.wait(self._up, timeout_s)

    @property
    def is_up(self) -> bool:
        """Whether there is a connection now."""
        return self._up.is_set()

    @property
    def disowned_s(self) -> float:
        """For how long the nucleus has answered and not known this component: after its own restart on lite."""
        since_ns = self._refused_ns
        return 0.0 if since_ns is None else (self._clock.monotonic_ns() - since_ns) / NS_PER_S

    def watch(self, watcher: Callable[[bool, str], None]) -> None:
        """Call `watcher(up, reason)` on each change, from the thread `ipc`, and now if it is up. It must not block."""
        self._watchers.append(watcher)
        if self.is_up:
            watcher(True, "connected to the nucleus")  # noqa: FBT003 - as on a change

    def listen(
        self, operation: str, request: Any, on_event: Callable[[Any], None], *, describe: str, is_optional: bool = False
    ) -> Subscription:
        """Deliver the events of `operation` (such as `subscribe_to_topic`) from now on, over every connection."""
        subscription = Subscription(operation, request, on_event, is_optional=is_optional, describe=describe)
        self._subscriptions.append(subscription)
        self._wake.set()
        return subscription

    def renew(self, operation: str) -> None:
        """Make every subscription of `operation` anew: they exist, but nothing seems to arrive."""
        for subscription in list(self._subscriptions):
            if subscription.operation == operation and (stream := subscription.stream) is not None:
                stream.close()

    def call(self, operation: str, request: Any, *, timeout_s: float | None = None) -> Any:
        """Do one operation (such as `publish_to_iot_core`) and return its response. Raises IpcError."""
        client = self._client
        if client is None:
            raise IpcError(Fault.CLOSED, f"{operation}: not connected to the nucleus")
        return self._ask(client, operation, request, None, self._timeout_s if timeout_s is None else timeout_s).response

    def probe(self, operation: str, request: Any, *, timeout_s: float) -> None:
        """Try `operation` once and listen to nothing that may follow. Raises IpcError."""
        client = self._client
        if client is None:
            raise IpcError(Fault.CLOSED, f"{operation}: not connected to the nucleus")
        is_stream = operation.startswith("subscribe_")
        stream = Stream(Subscription(operation, request, _ignore, describe=operation), _pass_over, _pass_over)
        answer = self._ask(client, operation, request, stream if is_stream else None, timeout_s)
        if is_stream:
            answer.asked.close()

    def post(self, job: Callable[[Any], None], argument: Any) -> None:
        """Do `job(argument)` in the thread `ipc-events`, after the events that have arrived; never blocks."""
        self._enqueue(job, argument)

    def _enqueue(self, job: Callable[[Any], None], argument: Any) -> None:
        try:
            self._events.put_nowait((job, argument))
        except queue.Full:
            self.overrun += 1
            self.supervisor.losses.count("ipc_events_overrun")

    def close(self) -> None:
        """End the connection and the threads; safe to call twice."""
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_CLOSE_S)

    # --- the SDK's thread ---------------------------------------------------------------------------------------------

    def _put(self, subscription: Subscription, event: Any) -> None:
        self._enqueue(subscription.on_event, event)

    def _note_unreadable(self) -> None:
        self.supervisor.losses.count("ipc_events_unreadable")

    def _stream_closed(self, subscription: Subscription, stream: Stream) -> None:
        self._closed_streams.put((subscription, stream))
        self._wake.set()

    # --- the thread ipc -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            began_ns = self._clock.monotonic_ns()
            try:
                with self._serving:
                    reason = self._serve()
            except IpcError as error:
                reason = str(error)
            self._tell(up=False, reason=reason)
            lived = self._clock.monotonic_ns() - began_ns
            failures = 0 if lived >= _SETTLED_NS else min(failures + 1, _MAX_DOUBLINGS)
            first_s, longest_s = self._backoff_s
            ceiling_s = min(longest_s, first_s * 2.0**failures)
            if not self._stop.is_set():
                self._conditions.broken(_NUCLEUS, reason)
            self._clock.wait(self._stop, self._random.uniform(ceiling_s / 2, ceiling_s))
        self._stop_events()

    def _stop_events(self) -> None:
        while True:
            try:
                self._events.put_nowait(None)
            except queue.Full:
                self._events.get_nowait()
            else:
                return

    def _serve(self) -> str:
        """One connection, to its end; return why it ended. Raises IpcError when there is none."""
        watcher = Watcher(self._wake)
        try:
            client = open_client(
                socket_path=self._socket_path,
                message=self._credentials.message(self._by),
                handler=watcher,
                timeout_s=self._timeout_s,
            )
        except (FutureTimeoutError, *VENDOR_ERRORS) as error:
            self._note_refused()
            raise IpcError(Fault.CLOSED, f"{self._socket_path}: {type(error).__name__}") from error
        self.connects += 1
        self._refused_ns = None
        self._conditions.well(_NUCLEUS, f"stands again, by this component's {self._by},")
        try:
            self._client = client
            for subscription in self._subscriptions:
                subscription.stream = subscription.handler = None
                is_absent = subscription.is_optional and subscription.fault is not None
                subscription.again_ns, subscription.failures = (None if is_absent else 0), 0
            self._make_due(client)
            self._tell(up=True, reason="connected to the nucleus")
            while watcher.ended is None and not self._stop.is_set():
                self._clock.wait(self._wake, self._wait_s())
                self._wake.clear()
                self._note_closed()
                if watcher.ended is None:
                    self._make_due(client)
        finally:
            self._client = None
            self._up.clear()
            _end(client.close())
        return watcher.ended or "closed here"

    def _note_refused(self) -> None:
        """A wrong token is answered by an end without a word: tell it from a nucleus that is not there."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(self._timeout_s)
            try:
                probe.connect(self._socket_path)
            except OSError:
                self._refused_ns = None
                return
        if self._refused_ns is None:
            self._refused_ns = self._clock.monotonic_ns()
        if self._credentials.component is not None:
            self._by = "name" if self._by == "token" else "token"

    def _tell(self, *, up: bool, reason: str) -> None:
        if up:
            self._up.set()
        for watcher in self._watchers:
            watcher(up, reason)

    def _note_closed(self) -> None:
        while not self._closed_streams.empty():
            subscription, stream = self._closed_streams.get()
            if subscription.handler is stream:  # and not an earlier one
                subscription.stream = subscription.handler = None
                subscription.again_ns = self._clock.monotonic_ns()

    def _wait_s(self) -> float:
        due = [s.again_ns for s in self._subscriptions if s.again_ns is not None]
        now_ns = self._clock.monotonic_ns()
        return min(60.0, max(0.0, (min(due) - now_ns) / NS_PER_S)) if due else 60.0

    def _make_due(self, client: Any) -> None:
        for subscription in list(self._subscriptions):
            now_ns = self._clock.monotonic_ns()
            if subscription.again_ns is not None and subscription.again_ns <= now_ns:
                self._make(client, subscription)

    def _make(self, client: Any, subscription: Subscription) -> None:
        stream = Stream(subscription, self._put, self._stream_closed, self._note_unreadable)
        subscription.again_ns = None
        try:
            answer = self._ask(client, subscription.operation, subscription.request, stream, self._timeout_s)
        except IpcError as error:
            subscription.fault = error.fault
            if error.fault is Fault.UNAUTHORIZED:
                _log.error("%s is not allowed: add it to accessControl of the component", subscription.describe)
            elif not subscription.is_optional and error.fault is not Fault.CLOSED:
                wait_ns = min(_LONGEST_AGAIN_NS, _AGAIN_NS << min(subscription.failures, _MAX_DOUBLINGS))
                subscription.failures += 1
                subscription.again_ns = self._clock.monotonic_ns() + wait_ns
        else:
            subscription.stream, subscription.handler = answer.asked, stream
            subscription.fault, subscription.failures = None, 0

    @staticmethod
    def _ask(client: Any, operation: str, request: Any, stream: Stream | None, timeout_s: float) -> _Answer:
        """Ask and wait for the response. Raises IpcError."""
        asked = None
        try:
            new = getattr(client, f"new_{operation}")
            asked = new() if stream is None else new(stream)
            asked.activate(request).result(timeout_s)
            return _Answer(asked, asked.get_response().result(timeout_s))
        except FutureTimeoutError as error:
            if asked is not None:
                asked.close()
            raise translated(error, operation) from error
        except VENDOR_ERRORS as error:
            raise translated(error, operation) from error

    # --- the thread ipc-events ----------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while (item := self._events.get()) is not None:
            job, argument = item
            try:
                with self._delivering:
                    job(argument)
            except KensaError as error:
                self.supervisor.losses.count("ipc_events_failed")
                _log.warning("an event of the nucleus is lost: %s", error)


def _ignore(_event: Any) -> None:
    """Nobody listens."""


def _pass_over(_subscription: Subscription, _what: Any) -> None:
    """Nobody listens."""


def _end(closing: Future[None]) -> None:
    """Wait for the SDK to close; how it ended does not matter any more."""
    try:
        closing.exception(_CLOSE_S)
    except FutureTimeoutError:
        _log.warning("the IPC client did not close within %g s", _CLOSE_S)
