"""Publishes verdicts through the nucleus (PublishToIoTCore), confirmed by their echo from the broker.

The nucleus's reply is no acknowledgement: on lite it comes before the broker's PUBACK, and what is in flight when the
connection to the cloud ends is lost; on classic it means "in a spooler in memory", which drops the oldest. So the
component subscribes to the topics of its own verdicts and reports, and a message is acknowledged to the outbox when the
broker has sent it back: then the broker has it, with either nucleus. Messages of which only the newest matters
(heartbeats) are acknowledged by the reply. With `confirm="call"`, or where accessControl does not allow the
subscription, all messages are, and a lost connection may lose up to `max_in_flight` of them.

A ping that must come back shows in the same way whether the cloud can be reached. The transport is up from then on
until a message does not come back in time, the nucleus refuses one while none is in flight (lite without a broker), or
the IPC connection ends; then the outbox sends everything unconfirmed again later, and pings go out with a growing
pause.

Promise: at most `max_in_flight` messages of `MAX_UNCONFIRMED_BYTES` together are unconfirmed, at most 40 leave in a
second, and none is larger than `MAX_PAYLOAD_BYTES`: nucleus lite closes the whole connection over one of about 6.9 kB.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from awsiot.greengrasscoreipc import model

from agent.errors import TransportError
from agent.records import TransportStats
from agent.timing.backoff import Backoff, FailureCounter
from agent.timing.clock import NS_PER_S
from agent.wire import model_topic, verdict_topic
from greengrass.ipc.errors import IpcError, IpcErrorKind
from greengrass.ipc.rate_limit import PACKET_BYTES
from greengrass.ipc.topics import SUBSCRIBE_IOT_CORE, subscribe_iot_core

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.supervision import SupervisedThread
    from agent.timing.clock import Clock
    from greengrass.ipc.connection import Connection
    from greengrass.ipc.rate_limit import PublishRateLimiter
    from greengrass.ipc.subscriptions import Subscription

MAX_PAYLOAD_BYTES: Final = 6_500
MAX_UNCONFIRMED_BYTES: Final = 13_000  # lite has room for 15,000
MAX_ARRIVAL_BYTES: Final = 128 * 1024  # of classic; lite delivers 4,980 at most by itself
MAX_TOPIC_BYTES: Final = 256
MAX_TOPIC_SLASHES: Final = 7
MAX_IN_FLIGHT: Final = {"lite": 8, "classic": 5}  # lite allows 10: two are left for heartbeats and the shadow
_ECHO_TIMEOUT_NS: Final = 5 * NS_PER_S  # after that a message counts as lost with its connection
_PING_TIMEOUT_NS: Final = 2 * NS_PER_S  # after that a ping counts as lost
_PING_BACKOFF: Final = Backoff(first_s=0.25, longest_s=5.0)  # between two pings
_CHECK_INTERVAL_NS: Final = NS_PER_S // 2
# Pings that the nucleus accepted and that did not come back: the subscriptions are renewed, with a line in the log.
# Fewer are enough where echoes arrived before: then no policy forbids them, and on lite iotcored has restarted
# (measured: its streams stay open and deliver nothing).
_RESUBSCRIBE_AFTER_PINGS: Final = 5
_RESUBSCRIBE_AFTER_PINGS_ONCE_UP: Final = 2
_SLOT_TIMEOUT_S: Final = 0.25  # longest wait for room
_REPLY_TIMEOUT_S: Final = 2.0
_CLOUD: Final = "AWS IoT Core through the nucleus"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A message that the nucleus has accepted and the broker has not sent back."""

    token: int
    topic: str
    payload: bytes
    sent_ns: int


def echo_topic(thing: str) -> str:
    """Return the topic of the pings, `kensa-echo/{thing}`: outside of `kensa/#`, which consumers subscribe to."""
    return f"kensa-echo/{thing}"


def check_message(topic: str, payload: bytes) -> None:
    """Raise TransportError naming the limit of the nucleus or of AWS IoT Core that this message breaks."""
    size = len(topic.encode("utf-8", "replace"))
    if not topic or size > MAX_TOPIC_BYTES or topic.count("/") > MAX_TOPIC_SLASHES:
        slashes = topic.count("/")
        msg = f"topic {topic[:80]!r}: {size} bytes and {slashes} slashes, allowed are {MAX_TOPIC_BYTES} and 7"
    elif topic.startswith("$") or any(c in topic for c in "\0+#"):
        # Lite accepts a publish to a topic with a wildcard, and the broker then ends the device's connection.
        msg = f"topic {topic!r} starts with '$' or holds '+', '#' or NUL, which publishers may not use"
    elif len(payload) > MAX_PAYLOAD_BYTES:
        msg = f"message on {topic} has {len(payload)} bytes, allowed are {MAX_PAYLOAD_BYTES}"
    else:
        return
    raise TransportError(msg)


class IpcTransport:
    """A `ports.Transport` over the nucleus."""

    def __init__(
        self,
        *,
        connection: Connection,
        thing: str,
        rate_limiter: PublishRateLimiter,
        clock: Clock,
        confirm: bool = True,
        max_in_flight: int = MAX_IN_FLIGHT["lite"],
    ) -> None:
        """Prepare; nothing is subscribed yet.

        Args:
            connection: To the nucleus.
            thing: Name of the core device, part of every topic.
            rate_limiter: Shared by all publishers of the component.
            clock: Source of monotonic time and waits.
            confirm: Whether to wait for the echo of verdicts and reports.
            max_in_flight: Most unconfirmed messages.
        """
        self._connection = connection
        self._conditions = connection.supervisor.condition_log(_log)
        self._thing = thing
        self._rate_limiter = rate_limiter
        self._clock = clock
        self._confirm = confirm
        self._max_in_flight = max_in_flight
        self._random = random.Random()  # noqa: S311 - spreads pings, guards nothing
        self._confirmed_topics = {model_topic(thing)}
        self._verdict_prefix = verdict_topic(thing, "x").removesuffix("x")
        self._ping_topic = echo_topic(thing)
        self._echo_subscriptions: list[Subscription] = []
        self._on_ack: Callable[[int], None] = lambda _token: None
        self._on_reject: Callable[[int, str], None] = lambda _token, _reason: None
        self._on_connection: Callable[[bool, str], None] = lambda _up, _reason: None
        self._lock = threading.Condition()  # notified when there may be room
        self._in_flight: dict[int, _InFlight] = {}  # by token, oldest first
        self._is_up = False
        self._reason = "not started"
        self._ping_payload = b""  # the newest one; others are ignored when they come back
        self._ping_returned = threading.Event()
        self._pings_since_up = 0
        self._was_up = False  # at any time since the start, so that echoes are allowed
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: SupervisedThread | None = None
        self.sent = 0  # QoS 1 publishes that the nucleus accepted
        self.dropped = 0  # received messages that were too large

    @property
    def max_in_flight(self) -> int:
        """How many unconfirmed messages it accepts at once."""
        return self._max_in_flight

    @property
    def stats(self) -> TransportStats:
        """See `Transport.stats`."""
        return TransportStats({"oversized": self.dropped} if self.dropped else {}, {})

    @property
    def is_confirmed_by_echo(self) -> bool:
        """Whether messages are acknowledged by their echo."""
        return self._confirm

    # --- the port -----------------------------------------------------------------------------------------------------

    def start(
        self,
        *,
        on_ack: Callable[[int], None],
        on_reject: Callable[[int, str], None],
        on_connection: Callable[[bool, str], None],
    ) -> None:
        """See `Transport.start`; `on_ack` and `on_reject` may come from within `publish`."""
        self._on_ack, self._on_reject, self._on_connection = on_ack, on_reject, on_connection
        if self._confirm:
            topics = [self._verdict_prefix + "+", *sorted(self._confirmed_topics), self._ping_topic]
            self._echo_subscriptions = [self._subscribe(topic, self._on_echo) for topic in topics]
        self._thread = self._connection.supervisor.thread(
            self._run, kind="ipc-transport", name="ipc-transport", stop=self._stop
        )
        self._thread.start()

    def subscribe(self, topic: str, on_message: Callable[[str, bytes], None]) -> None:
        """See `Transport.subscribe`. Raises TransportError for a wildcard."""
        if not topic or any(c in topic for c in "\0+#"):
            raise TransportError(f"topic {topic!r} is empty or holds '+', '#' or NUL: subscribe to plain topics")
        self._subscribe(topic, on_message)

    def publish(self, token: int, topic: str, payload: bytes) -> None:
        """See `Transport.publish`; waits for room (0.25 s at most), the rate limiter and the nucleus's reply."""
        check_message(topic, payload)
        with self._lock:
            self._lock.wait_for(lambda: not self._is_up or self._has_room(payload), _SLOT_TIMEOUT_S)
            if not self._is_up:
                raise TransportError(f"AWS IoT Core cannot be reached through the nucleus: {self._reason}")
            if not self._has_room(payload):
                raise TransportError(f"{len(self._in_flight)} messages are unconfirmed, no more are accepted now")
            # Before the call: the echo may arrive before the reply.
            flight = self._in_flight[token] = _InFlight(token, topic, payload, self._clock.monotonic_ns())
        self._rate_limiter.wait(len(payload), self._stop)
        try:
            self._send(topic, payload, model.QOS.AT_LEAST_ONCE)
        except IpcError as error:
            with self._lock:
                self._in_flight.pop(token, None)
                is_alone = not self._in_flight
                self._lock.notify_all()
            if error.kind is IpcErrorKind.UNAUTHORIZED:  # accessControl does not allow this topic; others may be sent
                self._on_reject(token, f"{error}. Allow {topic} in accessControl of the component's recipe")
                return
            if error.kind is IpcErrorKind.SERVICE and is_alone:
                self._mark_down("the nucleus accepts no message; it is not connected")
            raise
        self.sent += 1
        if not (self._confirm and self._needs_echo(topic)):
            self._acknowledge(flight)

    def close(self, *, timeout_s: float) -> None:
        """See `Transport.close`. The connection to the nucleus stays open: its owner closes it."""
        self._stop.set()
        self._wake.set()
        self._ping_returned.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _has_room(self, payload: bytes) -> bool:
        waiting = sum(len(flight.payload) + PACKET_BYTES for flight in self._in_flight.values())
        fits = waiting + len(payload) + PACKET_BYTES <= MAX_UNCONFIRMED_BYTES
        return not self._in_flight or (fits and len(self._in_flight) < self._max_in_flight)

    # --- received messages: the thread ipc-events ---------------------------------------------------------------------

    def _subscribe(self, topic: str, on_message: Callable[[str, bytes], None]) -> Subscription:
        def deliver(topic_name: str, payload: bytes) -> None:
            if len(payload) > MAX_ARRIVAL_BYTES:
                self.dropped += 1
                self._connection.supervisor.losses.count("ipc_arrivals_oversized")
                return
            on_message(topic_name, payload)

        return subscribe_iot_core(self._connection, topic, deliver)

    def _on_echo(self, topic: str, payload: bytes) -> None:
        """Acknowledge a message of this device that came back: the broker has it."""
        if topic == self._ping_topic:
            if payload == self._ping_payload:
                self._ping_returned.set()
                self._wake.set()
            return
        with self._lock:
            found = next((f for f in self._in_flight.values() if f.payload == payload and f.topic == topic), None)
        if found is not None:
            self._acknowledge(found)

    def _acknowledge(self, flight: _InFlight) -> None:
        with self._lock:
            known = self._in_flight.pop(flight.token, None)
            self._lock.notify_all()
        if known is not None:
            self._on_ack(flight.token)

    def _needs_echo(self, topic: str) -> bool:
        return topic in self._confirmed_topics or topic.startswith(self._verdict_prefix)

    # --- whether the cloud can be reached: the thread ipc-transport ---------------------------------------------------

    def _run(self) -> None:
        failures = FailureCounter(_PING_BACKOFF, self._random)
        while not self._stop.is_set():
            self._wake.clear()
            if self._is_up:
                self._check_in_flight()
                self._clock.wait(self._wake, _CHECK_INTERVAL_NS / NS_PER_S)
                failures.reset()
            elif self._probe_cloud():
                self._mark_up()
            else:
                self._clock.wait(self._stop, failures.next_delay_s())

    def _probe_cloud(self) -> bool:
        """Ping once; return whether the cloud can be reached."""
        if not self._connection.is_connected:
            self._reason = "no connection to the nucleus"
            return False
        if self._confirm and any(echo.error_kind is IpcErrorKind.UNAUTHORIZED for echo in self._echo_subscriptions):
            self._confirm = False
            _log.error(
                "verdicts cannot be confirmed by their echo: a lost connection may lose some. See accessControl above"
            )
        if self._confirm and not all(echo.is_active for echo in self._echo_subscriptions):
            self._reason = "the nucleus does not subscribe; it is not connected"
            return False
        return self._ping_cloud()

    def _ping_cloud(self) -> bool:
        self._ping_payload, self._pings_since_up = secrets.token_hex(8).encode(), self._pings_since_up + 1
        self._ping_returned.clear()
        try:
            self._send(self._ping_topic, self._ping_payload, model.QOS.AT_MOST_ONCE)
        except IpcError as error:
            self._reason = str(error)
            return False
        if not self._confirm or self._clock.wait(self._ping_returned, _PING_TIMEOUT_NS / NS_PER_S):
            return not self._stop.is_set()
        self._reason = f"no message comes back on {self._ping_topic}"
        if self._pings_since_up % (_RESUBSCRIBE_AFTER_PINGS_ONCE_UP if self._was_up else _RESUBSCRIBE_AFTER_PINGS) == 0:
            self._resubscribe()
        return False

    def _resubscribe(self) -> None:
        """Renew all subscriptions, those of the shadow too, and log the reason."""
        if self._was_up:
            _log.warning(
                "%d pings on %s were accepted and did not come back, which they did before: the nucleus's MQTT daemon "
                "has restarted or the return path is cut. All subscriptions are renewed",
                self._pings_since_up,
                self._ping_topic,
            )
        else:
            _log.warning(
                "%d pings on %s were accepted and none ever came back. If the device is online, allow iot:Subscribe "
                "and iot:Receive on kensa/ and kensa-echo/ in its policy, or set greengrass.confirm to call",
                self._pings_since_up,
                self._ping_topic,
            )
        self._connection.resubscribe(SUBSCRIBE_IOT_CORE)

    def _mark_up(self) -> None:
        self._conditions.clear_fault(_CLOUD, "can be reached again")
        with self._lock:
            self._is_up, self._pings_since_up = True, 0
        self._was_up = True
        self._on_connection(True, "AWS IoT Core through the nucleus")  # noqa: FBT003 - the port's signature

    def _check_in_flight(self) -> None:
        if not self._connection.is_connected:
            self._mark_down("no connection to the nucleus")
            return
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            oldest_ns = min((flight.sent_ns for flight in self._in_flight.values()), default=now_ns)
        if now_ns - oldest_ns > _ECHO_TIMEOUT_NS:
            self._mark_down(f"a message did not come back within {_ECHO_TIMEOUT_NS // NS_PER_S} s")

    def _mark_down(self, reason: str) -> None:
        """Any thread: return what is unconfirmed to the outbox, which sends it again."""
        with self._lock:
            if not self._is_up:
                return
            self._is_up, self._reason = False, reason
            self._in_flight.clear()
            self._lock.notify_all()
        self._conditions.report_fault(_CLOUD, f"{reason}; verdicts wait on disk")
        self._on_connection(False, reason)  # noqa: FBT003 - the port's signature
        self._wake.set()

    def _send(self, topic: str, payload: bytes, qos: str) -> None:
        request = model.PublishToIoTCoreRequest(topic_name=topic, qos=qos, payload=payload)
        self._connection.call("publish_to_iot_core", request, timeout_s=_REPLY_TIMEOUT_S)
