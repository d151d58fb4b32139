"""The `DesiredState` port over the named shadow `kensa` of AWS IoT.

A delta is a hint, not a fact: it only causes a read of the whole document. So a delta may come twice, late, in any
order, or be made up, and costs one `get` at most; only the answer that carries this client's own token counts. The
document is read at start, after every reconnection, on a delta and every hour.

The newest state of each inspection is reported: at most one update a second when something happened, one in ten seconds
when only the progress moved. An update counts as delivered when the service accepted its token; until then, and after
each reconnection, it is sent again. Nothing is queued while the broker is away.

A broker that ends the connection on such topics (IoT Core does where the policy lacks them, and so do small brokers)
would also cost the verdicts. So where the transport can (`OnConnectTransport`), the document is requested alone at the
beginning of a connection, before any verdict goes out, and the transport reports when this broker must not get such
messages. An update that the policy forbids shows later: after three ends of the connection right after a request the
shadow is given up for a day, or for an hour where the transport remembers nothing.

Promise: callbacks only put to bounded places. A message that is no valid hint has no effect but a count (`counters`)
and, at most once an hour for each reason, a line in the log. `step` is called by one thread only.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, Final

from agent.adapters.device_shadow.shadow_requests import OnConnectTransport, PendingRequest, SubscribingTransport
from agent.adapters.device_shadow.shadow_state import KnownDocument, ReportedStates
from agent.errors import MessageError
from agent.supervision import ThreadSupervisor
from agent.timing.clock import NS_PER_S
from agent.wire import shadow_documents as documents
from agent.wire import shadow_topic
from agent.wire.codec import truncate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from agent.release_records import DesiredRelease, ModelStatus
    from agent.supervision import SupervisedThread
    from agent.timing.clock import Clock
    from agent.wire.shadow_documents import ShadowDocument

_MAX_ARRIVED: Final = 256  # messages between the transport's thread and ours
_GET_INTERVAL_NS: Final = NS_PER_S  # shortest time between two reads
_UPDATE_INTERVAL_NS: Final = NS_PER_S  # shortest time between two updates
_PROGRESS_INTERVAL_NS: Final = 10 * NS_PER_S  # the same when only the progress moved
_REREAD_NS: Final = 3_600 * NS_PER_S
_MAX_FAILURES: Final = 3
_FAILURE_WINDOW_NS: Final = 2 * NS_PER_S  # an end of the connection so soon after a request was the answer to it
_SUSPENDED_NS: Final = 3_600 * NS_PER_S
_CLOSE_S: Final = 10.0
_IDLE_NS: Final = 60 * NS_PER_S
_NOT_FOUND: Final = 404
_BUSY: Final = frozenset({409, 429, 500})  # worth another try; every other refusal is about the request itself
_log = logging.getLogger("agent.adapters.device_shadow")


class ShadowDesiredState:
    """A `ports.DesiredState` over a transport, whose messages go out through the outbox."""

    def __init__(
        self,
        *,
        thing: str,
        inspections: Collection[str],
        transport: SubscribingTransport,
        publish_now: Callable[[str, Sequence[bytes]], None],
        add_connection_listener: Callable[[Callable[[bool], None]], None],
        clock: Clock,
        supervisor: ThreadSupervisor | None = None,
    ) -> None:
        """Subscribe; so this comes before the transport starts.

        Raises MessageError for a thing whose name does not fit into a topic.

        Args:
            thing: the device whose shadow this is.
            inspections: those that may be desired and reported.
            transport: the way to the broker.
            publish_now: the outbox's: publishes the newest message of a topic.
            add_connection_listener: the outbox's: calls back when the connection comes or goes.
            clock: monotonic time.
            supervisor: runs the thread, counts losses, reports conditions; one of its own where None.
        """
        self._inspections = frozenset(inspections)
        self._publish_now = publish_now
        self._clock = clock
        self._topics = {request: shadow_topic(thing, request) for request in ("get", "update")}
        self._on_desired: Callable[[str, DesiredRelease], None] | None = None
        self._arrived: deque[tuple[str, bytes]] = deque()
        self._changes: deque[Callable[[int], None]] = deque()  # called with the time, in the shadow's thread
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._supervisor = supervisor or ThreadSupervisor(clock=clock)
        self._conditions = self._supervisor.condition_log(_log)
        self._thread: SupervisedThread | None = None
        self._up = False
        self._asked_first = False  # the document was requested on this connection before it counted as up
        self._refused: str | None = None  # why this broker must not get messages to the shadow
        self._get_request = PendingRequest()
        self._update_request = PendingRequest()
        self._reread_ns = 0
        self._published_ns = 0
        self._failures = 0  # ends of the connection in a row that came right after a request
        self._suspended_until_ns = 0
        self._document = KnownDocument()
        self._reported = ReportedStates()
        self._delivered: dict[str, DesiredRelease] = {}
        self._tokens = itertools.count(1)
        self._name = secrets.token_hex(4)  # distinguishes this process's requests from another's
        self._counts: Counter[str] = Counter()
        self._on_connect_transport = transport if isinstance(transport, OnConnectTransport) else None
        self._connect(thing, transport, add_connection_listener)

    def _connect(
        self,
        thing: str,
        transport: SubscribingTransport,
        add_connection_listener: Callable[[Callable[[bool], None]], None],
    ) -> None:
        for answer in ("get/accepted", "get/rejected", "update/accepted", "update/rejected", "update/delta"):
            transport.subscribe(shadow_topic(thing, answer), self._arrival_handler(answer))
        if self._on_connect_transport is not None:
            self._on_connect_transport.publish_on_connect(
                self._first_request, lambda reason: self._change(partial(self._refuse, reason))
            )
        add_connection_listener(lambda up: self._change(partial(self._connection, up)))

    # --- any thread ---------------------------------------------------------------------------------------------------

    def start(self, *, on_desired: Callable[[str, DesiredRelease], None]) -> None:
        """See `DesiredState.start`. `on_desired` is called from the thread `shadow`."""
        self._on_desired = on_desired
        self._thread = self._supervisor.thread(
            self._run, kind="shadow", name="shadow", stop=self._stop, wake=self._wake
        )
        self._thread.start()

    def report(self, status: ModelStatus) -> None:
        """See `DesiredState.report`."""
        self._reported.newest[status.inspection] = status
        self._wake.set()

    def close(self) -> None:
        """See `DesiredState.close`; states that were not reported yet are passed to the outbox first."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    @property
    def counters(self) -> Mapping[str, int]:
        """Counts of hints: `taken`, and those without effect by reason."""
        return dict(self._counts)

    def _arrival_handler(self, answer: str) -> Callable[[str, bytes], None]:
        def take(_topic: str, payload: bytes) -> None:
            if len(self._arrived) >= _MAX_ARRIVED:
                self._counts["overrun"] += 1
                self._supervisor.losses.count("shadow_overrun")
                return
            self._arrived.append((answer, payload))
            self._wake.set()

        return take

    def _change(self, change: Callable[[int], None]) -> None:
        self._changes.append(change)
        self._wake.set()

    def _first_request(self) -> tuple[str, bytes]:
        token = self._token()
        self._change(partial(self._on_first_get, token))
        return self._topics["get"], documents.encode_get(token)

    # --- the shadow's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            self._clock.wait(self._wake, self.step())
        self._update_request.earliest_ns = 0
        self.step()

    def step(self) -> float:
        """Do what is due; return how many seconds may pass until the next step unless something wakes it."""
        now_ns = self._clock.monotonic_ns()
        while self._changes:
            self._changes.popleft()(now_ns)
        while self._arrived:
            answer, payload = self._arrived.popleft()
            self._dispatch(answer, payload, now_ns)
        if not self._up or self._refused is not None or now_ns < self._suspended_until_ns:
            return _IDLE_NS / NS_PER_S
        for request in (self._get_request, self._update_request):
            if request.token is not None and now_ns >= request.deadline_ns:
                self._count_and_warn("unanswered", "no answer on the shadow's topics; is this AWS IoT Core?", now_ns)
                request.failed(now_ns)
        if now_ns >= self._reread_ns:
            self._get_request.wanted = True
        if self._get_request.wanted and self._get_request.token is None and now_ns >= self._get_request.earliest_ns:
            self._send_get(now_ns)
        self._report(now_ns)
        return self._wait_s(now_ns)

    def _on_first_get(self, token: str, now_ns: int) -> None:
        """Note that the transport requests the document, on a connection that does not count as up yet."""
        self._refused = None
        self._asked_first = True
        self._get_request, self._update_request, self._reported.sent = PendingRequest(), PendingRequest(), {}
        self._sent_get(token, now_ns)

    def _refuse(self, reason: str, now_ns: int) -> None:
        """Stop using the shadow on this broker, for the transport's `reason`, which it has logged."""
        self._refused = reason
        self._counts["refused_by_broker"] += 1
        self._get_request, self._update_request = PendingRequest(), PendingRequest()

    def _connection(self, up: bool, now_ns: int) -> None:  # noqa: FBT001
        asked = self._get_request.token is not None or self._update_request.token is not None
        if not up and self._up and asked and now_ns - self._published_ns < _FAILURE_WINDOW_NS:
            self._failures += 1
            if self._failures >= _MAX_FAILURES:
                self._failures = 0
                self._suspend(now_ns)
        self._up = up
        is_asked, self._asked_first = up and self._asked_first, False
        if not is_asked:
            self._get_request = PendingRequest(wanted=up)
        self._update_request = PendingRequest()
        self._reported.sent = {}  # whatever was under way may be lost

    def _suspend(self, now_ns: int) -> None:
        reason = "the broker ended the connection after each message to the shadow"
        if self._on_connect_transport is not None:
            self._refuse(reason, now_ns)
            self._on_connect_transport.disable_shadow(reason)
            return
        self._suspended_until_ns = now_ns + _SUSPENDED_NS
        text = f"{reason}; it is left alone for an hour. Allow the shadow's topics in the policy of the certificate"
        self._count_and_warn("refused_by_broker", text, now_ns)

    def _dispatch(self, answer: str, payload: bytes, now_ns: int) -> None:
        self._failures = 0
        try:
            match answer:
                case "get/accepted":
                    self._read(documents.parse_document(payload), now_ns)
                case "update/delta":
                    self._on_delta(documents.parse_delta(payload), now_ns)
                case "update/accepted":
                    self._accepted(documents.parse_token(payload))
                case _:
                    self._rejected(answer, documents.parse_rejected(payload), now_ns)
        except MessageError as error:
            limit = documents.MAX_DOCUMENT_BYTES if answer.endswith("accepted") else documents.MAX_DELTA_BYTES
            reason = "oversized" if len(payload) > limit else "malformed"
            self._count_and_warn(reason, f"{answer}: {error}", now_ns)

    def _read(self, message: ShadowDocument, now_ns: int) -> None:
        """Take the whole document; only the answer to this client's own request counts."""
        if self._get_request.token is None or message.token != self._get_request.token:
            self._count_and_warn("foreign", "an answer to no request of this process, or a second one", now_ns)
            return
        self._get_request.answered()
        is_behind = self._document.update(message)
        self._get_request.wanted &= is_behind
        self._reported.unknown_inspections = message.reported - self._inspections
        self._update_request.wanted |= bool(self._reported.unknown_inspections)
        for inspection, members in message.desired.items():
            self._deliver(inspection, members, now_ns)

    def _deliver(self, inspection: str, members: Mapping[str, object], now_ns: int) -> None:
        if inspection not in self._inspections:
            known = ", ".join(sorted(self._inspections))
            self._count_and_warn(
                "unknown_inspection", f"{truncate(inspection, 80)!r} is no inspection here: {known}", now_ns
            )
            return
        try:
            desired = documents.parse_desired(members)
        except MessageError as error:
            self._count_and_warn("malformed", f"what is desired of {inspection}: {error}", now_ns)
            return
        if self._delivered.get(inspection) == desired or self._on_desired is None:
            return
        self._delivered[inspection] = desired
        self._counts["taken"] += 1
        self._on_desired(inspection, desired)

    def _on_delta(self, message: ShadowDocument, now_ns: int) -> None:
        """Read the document after a delta, unless the delta holds nothing new."""
        if message.version <= self._document.version:
            self._count_and_warn(
                "stale", f"a delta of version {message.version} after {self._document.version}", now_ns
            )
        elif all(self._document.contains(name, members) for name, members in message.desired.items()):
            self._counts["duplicate"] += 1  # our own report makes the service repeat what is still to be done
        else:
            self._document.claimed_version = max(self._document.claimed_version, message.version)
            self._get_request.wanted = True

    def _accepted(self, token: str | None) -> None:
        if token is not None and token == self._update_request.token:
            self._update_request.answered()
            self._reported.note_accepted()

    def _rejected(self, answer: str, refused: documents.ShadowRejection, now_ns: int) -> None:
        request = self._get_request if answer.startswith("get") else self._update_request
        if request.token is None or refused.token != request.token:
            self._count_and_warn("foreign", "a refusal of no request of this process", now_ns)
            return
        request.answered()
        if request is self._get_request and refused.code == _NOT_FOUND:  # no shadow yet: our report creates it
            self._document.clear()
            return
        self._count_and_warn("rejected", f"{answer}: {refused.code} {refused.text}", now_ns)
        if refused.code in _BUSY:
            request.failed(now_ns)

    def _send_get(self, now_ns: int) -> None:
        token = self._token()
        self._sent_get(token, now_ns)
        self._publish_now(self._topics["get"], [documents.encode_get(token)])

    def _sent_get(self, token: str, now_ns: int) -> None:
        self._reread_ns = now_ns + _REREAD_NS
        self._get_request.sent(token, now_ns, _GET_INTERVAL_NS)
        self._published_ns = now_ns

    def _report(self, now_ns: int) -> None:
        statuses = dict(self._reported.newest)
        if not statuses or now_ns < self._update_request.earliest_ns:
            return
        if not self._update_request.wanted and statuses == self._reported.sent:
            return
        if not self._update_request.wanted and not self._reported.is_news(statuses) and now_ns < self._progress_due_ns:
            return
        token = self._token()
        self._update_request.sent(token, now_ns, _UPDATE_INTERVAL_NS)
        self._reported.note_sent(statuses)
        payload = documents.encode_reported(statuses, gone=self._reported.removing, token=token)
        self._published_ns = now_ns
        self._publish_now(self._topics["update"], [payload])

    @property
    def _progress_due_ns(self) -> int:
        """When the progress alone may be reported again."""
        return self._update_request.earliest_ns - _UPDATE_INTERVAL_NS + _PROGRESS_INTERVAL_NS

    def _wait_s(self, now_ns: int) -> float:
        due = [now_ns + _IDLE_NS, self._reread_ns]
        due += [
            request.deadline_ns for request in (self._get_request, self._update_request) if request.token is not None
        ]
        due += [
            request.earliest_ns
            for request in (self._get_request, self._update_request)
            if request.wanted and request.token is None
        ]
        if (statuses := dict(self._reported.newest)) != self._reported.sent:
            due.append(self._update_request.earliest_ns if self._reported.is_news(statuses) else self._progress_due_ns)
        return max(0, min(due) - now_ns) / NS_PER_S

    def _token(self) -> str:
        """Return a new token; any thread."""
        return f"{self._name}-{next(self._tokens)}"

    def _count_and_warn(self, reason: str, text: str, now_ns: int) -> None:
        """Count `reason`, and log `text` at most once an hour."""
        self._counts[reason] += 1
        self._supervisor.losses.count(f"shadow_{reason}")
        self._conditions.report_event(f"shadow, {reason}", f"{text} ({self._counts[reason]} so far)")
