"""The MQTT transport: one broker connection, kept up by a thread, behind the `Transport` port.

Promise: `publish` takes at most `max_in_flight` unacknowledged QoS 1 messages and stores nothing else. A message is
acknowledged only by the broker's own PUBACK with a good reason; message ids go on counting over connections, so that a
late PUBACK of an older connection means nothing. Whatever was in flight when a connection ends is forgotten here,
because the outbox still has it. Sessions are always clean: a session kept by the broker could only repeat what the
outbox sends again anyway.

A connection counts as up after its setup, which takes 2 s at most: the retained status `online`, the subscriptions
(QoS 1) and the shadow's first request, each alone. When a broker ends the connection on one of them twice, the third
connection goes without it (`broker_features`), and verdicts flow. Messages that arrive between connections are lost, so
each subscriber reads the state again once the connection is up. Arrivals are bounded: a payload over its topic's limit
is dropped and counted.

Between connections the thread waits with jittered exponential back-off (paho's own reconnect has no jitter, and resends
by itself), much longer when another client uses the same client id (`reconnect_policy`). A publish that the broker
refuses is reported to `on_reject` with the reason, and the connection stays (MQTT 5 only: 3.1.1 cannot express a
refusal, and AWS IoT Core ends the connection by itself). The log has one line when the connection breaks and one when
it is back; the same reason is repeated at most once an hour.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agent.adapters.mqtt.broker_features import FEATURES_FILE, BrokerFeatures, Feature
from agent.adapters.mqtt.client_factory import ClientFactory, ClientSettings
from agent.adapters.mqtt.connection_setup import ConnectionSetup, SetupPlan
from agent.adapters.mqtt.iot_core_limits import check_message, max_inbound_bytes
from agent.adapters.mqtt.mqtt_connection import ConnectionCallbacks, MqttConnection
from agent.adapters.mqtt.reconnect_policy import ConnectionEnd, ReconnectPolicy
from agent.errors import ConfigError, TransportError
from agent.records import TransportStats
from agent.supervision import ErrorBoundary, ThreadSupervisor
from agent.timing.clock import Clock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.adapters.mqtt.broker_tls import TlsFiles
    from agent.supervision import SupervisedThread

_log = logging.getLogger("agent.adapters.mqtt")  # the package's name: `kensa doctor` and the docs refer to it


@dataclass(frozen=True, slots=True, kw_only=True)
class RetainedStatus:
    """Retained messages (QoS 1) on `topic` that show whether the device is online; each is made when it is needed."""

    topic: str
    online: Callable[[], bytes]  # sent when a connection begins
    will: Callable[[], bytes]  # left with the broker, which sends it when the connection breaks
    stopped: Callable[[], bytes]  # before a clean end


class MqttTransport:
    """Publishes over one MQTT connection, and reconnects for as long as it is open."""

    def __init__(  # noqa: PLR0913 - what connecting takes, each by its name
        self,
        *,
        host: str,
        port: int,
        client_id: str,
        thing: str | None = None,
        protocol: Literal["3.1.1", "5"] = "5",
        tls: TlsFiles | None = None,
        username: str | None = None,
        password: str | None = None,
        password_file: Path | None = None,
        state_dir: Path | None = None,
        keepalive_s: int = 30,
        max_in_flight: int = 32,
        timeout_s: float = 10.0,
        backoff_s: tuple[float, float] = (0.5, 30.0),
        clock: Clock | None = None,
        rng: random.Random | None = None,
        supervisor: ThreadSupervisor | None = None,
    ) -> None:
        """Check everything that can be checked without a broker; nothing is connected yet.

        Raises ConfigError for a client id, a certificate or a password file that cannot work.

        Args:
            host: name or address of the broker.
            port: its TCP port.
            client_id: names this connection at the broker; 1 to 128 letters, digits, `_`, `:` and `-`.
            thing: the one whose shadow may be used; None allows no topic that starts with `$`.
            protocol: version of MQTT.
            tls: certificate files; None connects without TLS.
            username: for the broker's password authentication.
            password: the same.
            password_file: read for each connection, instead of `password`.
            state_dir: where the features that the broker lacks are remembered; None forgets them with the process.
            keepalive_s: longest silence on the connection before a PINGREQ.
            max_in_flight: bound of unacknowledged publishes.
            timeout_s: bound of connecting and of the wait for an acknowledgement.
            backoff_s: first and longest wait between two attempts.
            clock: monotonic and UTC time; the system's where None.
            rng: spreads reconnects and message ids.
            supervisor: runs the thread, counts losses, reports conditions; one of its own where None.
        """
        self._host, self._port, self._thing = host, port, thing
        self._keepalive_s, self._max_in_flight, self._timeout_s = keepalive_s, max_in_flight, timeout_s
        self._clock = clock or SystemClock()
        self._supervisor = supervisor or ThreadSupervisor(clock=self._clock)
        self._conditions = self._supervisor.condition_log(_log)
        self._broker = f"MQTT broker {host}:{port}"
        self._counts: Counter[str] = Counter()
        rng = rng or random.Random()  # noqa: S311 - spreads reconnects and ids, guards nothing
        self._reconnect_policy = ReconnectPolicy(client_id=client_id, backoff_s=backoff_s, rng=rng)
        settings = ClientSettings(
            client_id=client_id, protocol=protocol, port=port, tls=tls, username=username, password=password,
            password_file=password_file, max_in_flight=max_in_flight, timeout_s=timeout_s,
        )  # fmt: skip
        self._clients = ClientFactory(settings, rng=rng, stray=self._counts)
        self._features = BrokerFeatures(
            broker=f"{self._broker} as {client_id}" + (f" ({username})" if username else ""),
            path=None if state_dir is None else state_dir / FEATURES_FILE,
            clock=self._clock,
        )
        # Whatever malformed input makes paho raise ends the connection, and is no bug of this agent.
        self._serving = ErrorBoundary(None, kind="mqtt", what=self._broker, make=TransportError)
        self._stop = threading.Event()
        self._thread: SupervisedThread | None = None
        self._link: MqttConnection | None = None
        self._reason = "not started"
        self._retained_status: RetainedStatus | None = None
        self._subscriptions: dict[str, Callable[[str, bytes], None]] = {}
        self._first_message: Callable[[], tuple[str, bytes]] | None = None
        self._on_refused: Callable[[str], None] = _ignore_refusal

    # --- any thread ---------------------------------------------------------------------------------------------------

    @property
    def max_in_flight(self) -> int:
        """How many unacknowledged publishes it accepts at once.

        A broker of MQTT 5 that allows fewer (Receive Maximum) gets fewer: the others wait in the client.
        """
        return self._max_in_flight

    @property
    def stats(self) -> TransportStats:
        """See `Transport.stats`."""
        return TransportStats(dropped=dict(self._counts), refused=self._features.disabled())

    def start(
        self,
        *,
        on_ack: Callable[[int], None],
        on_reject: Callable[[int, str], None],
        on_connection: Callable[[bool, str], None],
    ) -> None:
        """See `Transport.start`; callbacks may run inside `publish` when the broker is faster than paho."""
        self._thread = self._supervisor.thread(
            lambda: self._run(on_ack, on_reject, on_connection), kind="mqtt", name="mqtt", stop=self._stop
        )
        self._thread.start()

    def subscribe(self, topic: str, on_message: Callable[[str, bytes], None]) -> None:
        """See `Transport.subscribe`. Raises TransportError for a wildcard, or once started."""
        if self._thread is not None:
            raise TransportError(f"the subscription to {topic!r} comes too late: subscribe before the transport starts")
        if not topic or any(c in topic for c in "\0+#"):
            raise TransportError(f"topic {topic!r} is empty or holds '+', '#' or NUL: subscribe to plain topics")
        self._subscriptions[topic] = on_message

    def announce(
        self, *, topic: str, online: Callable[[], bytes], will: Callable[[], bytes], stopped: Callable[[], bytes]
    ) -> None:
        """Keep a retained message on `topic` that shows whether the device is online. Call before `start`.

        `online()` is sent when a connection begins and `stopped()` before a clean end; `will()` is the last will, which
        the broker sends when the connection breaks. All are called in the transport's thread, except `stopped`, which
        is called in the closing one.
        """
        self._retained_status = RetainedStatus(topic=topic, online=online, will=will, stopped=stopped)

    def publish_on_connect(
        self, first_message: Callable[[], tuple[str, bytes]], on_refused: Callable[[str], None]
    ) -> None:
        """Send the message that `first_message()` returns on each connection, before it counts as up.

        It is sent once the subscriptions under `$aws/` are made; an arrival on one of those answers it. Where the
        broker does not support such topics, `on_refused(reason)` is called for the connection instead, and nothing may
        be published to them. Both are called in the transport's thread. Call before `start`.
        """
        self._first_message, self._on_refused = first_message, on_refused

    def disable_shadow(self, reason: str) -> None:
        """Stop using topics under `$aws/` for a day: the broker ends connections on messages to them."""
        self._features.disable(Feature.SHADOW, reason)

    def publish(self, token: int, topic: str, payload: bytes) -> None:
        """Send one QoS 1 message without waiting. Raises TransportError when it cannot be taken now."""
        check_message(topic, payload, thing=self._thing)
        link = self._link
        if link is None or not link.up:
            msg = f"not connected to {self._broker}: {self._reason}"
            raise TransportError(msg)
        link.publish(token, topic, payload)

    def close(self, *, timeout_s: float) -> None:
        """Disconnect and end the thread within `timeout_s` seconds; safe to call twice."""
        if (link := self._link) is not None and not self._stop.is_set():
            status = self._retained_status
            link.disconnect(None if status is None else (status.topic, status.stopped()))
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    # --- the thread `mqtt` --------------------------------------------------------------------------------------------

    def _arrived(self, topic: str, payload: bytes) -> None:
        """Pass one message to its subscriber; never blocks."""
        on_message = self._subscriptions.get(topic)
        if on_message is not None and len(payload) <= max_inbound_bytes(topic):
            on_message(topic, payload)
            return
        self._counts["foreign_topic" if on_message is None else "oversized"] += 1
        self._supervisor.losses.count("mqtt_arrivals_refused")

    def _plan(self, tried: frozenset[Feature]) -> SetupPlan:
        plain = tuple(topic for topic in self._subscriptions if not topic.startswith("$"))
        shadow = tuple(topic for topic in self._subscriptions if topic.startswith("$"))
        status = self._retained_status
        if shadow and Feature.SHADOW not in tried:
            self._on_refused(self._features.reason(Feature.SHADOW))
        return SetupPlan(
            status=(status.topic, status.online) if status is not None and Feature.STATUS in tried else None,
            topics=plain if Feature.SUBSCRIPTIONS in tried else (),
            shadow_topics=shadow if Feature.SHADOW in tried else (),
            first_message=self._first_message,
            on_refused=self._on_refused,
        )

    def _run(
        self,
        on_ack: Callable[[int], None],
        on_reject: Callable[[int, str], None],
        on_connection: Callable[[bool, str], None],
    ) -> None:
        """Connect, serve, report, wait, again."""
        self._features.load()
        while not self._stop.is_set():
            tried = self._features.features_to_try()

            def on_up(text: str) -> None:
                self._conditions.clear_fault(self._broker, "is connected again")
                on_connection(True, text)  # noqa: FBT003 - the port's signature

            callbacks = ConnectionCallbacks(
                on_ack=on_ack,
                on_reject=on_reject,
                on_up=on_up,
                on_proven=lambda tried=tried: self._features.record_working_connection(tried),  # type: ignore[misc]
                on_message=self._arrived,
            )
            ended = self._serve(tried, callbacks)
            reason, wait_s = self._reconnect_policy.record_end(ended)
            self._reason = "closed" if self._stop.is_set() else reason
            if not self._stop.is_set():
                self._conditions.report_fault(self._broker, f"{reason} (verdicts wait on disk)")
            on_connection(False, f"{self._broker}: {self._reason}")  # noqa: FBT003 - the port's signature
            self._clock.wait(self._stop, wait_s)

    def _serve(self, tried: frozenset[Feature], callbacks: ConnectionCallbacks) -> ConnectionEnd:
        """Run one connection from its beginning to its end."""
        try:
            status = self._retained_status if Feature.WILL in tried else None
            client = self._clients.make(will=None if status is None else (status.topic, status.will()))
            setup = ConnectionSetup(plan=self._plan(tried), client=client, broker=self._broker, features=self._features)
        except ConfigError as error:  # perhaps a certificate that is being rotated: the next attempt reads it again
            return ConnectionEnd(reason=str(error), up_s=None, acked=False, idle=True, taken_over=False)
        link = self._link = MqttConnection(
            client=client,
            broker=self._broker,
            limit=self._max_in_flight,
            clock=self._clock,
            timeout_s=self._timeout_s,
            setup=setup,
            callbacks=callbacks,
        )
        try:
            with self._serving:
                reason = link.serve(host=self._host, port=self._port, keepalive_s=self._keepalive_s, stop=self._stop)
        except TransportError as error:
            reason = f"the broker sent something that cannot be read ({error})"
        self._link = None
        if not self._stop.is_set():
            self._update_features(link, tried, reason)
        return ConnectionEnd(
            reason=reason, up_s=link.up_s, acked=link.has_ack, idle=link.was_idle, taken_over=link.taken_over
        )

    def _update_features(self, link: MqttConnection, tried: frozenset[Feature], reason: str) -> None:
        """Update what is known of the broker's features from the way a connection ended."""
        if link.is_accepted and link.setup.step is not None and not link.taken_over:
            self._features.record_failure(link.setup.step, reason)
        elif link.connected and not link.is_accepted and self._retained_status is not None and Feature.WILL in tried:
            self._features.record_failure(Feature.WILL, reason)
        elif not link.proven:
            self._features.record_unexplained_end(tried)
        if link.is_accepted and self._retained_status is not None and Feature.WILL in tried:
            self._features.record_success(Feature.WILL)


def _ignore_refusal(_reason: str) -> None:
    """Default of `on_refused`: no shadow is used."""
