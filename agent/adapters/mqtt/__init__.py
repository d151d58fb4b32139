"""MQTT through paho behind the `Transport` port: mosquitto, AWS IoT Core, or any broker of MQTT 3.1.1 or 5.

Promise: `publish` takes at most `max_in_flight` unacknowledged QoS 1 messages and keeps nothing else; a message is
acknowledged only by the broker's own PUBACK with a good reason, and message ids go on counting over connections, so
that a late PUBACK of an older connection means nothing; whatever was in flight when a connection ends is forgotten
here, because the outbox still has it. Sessions are always clean: a session kept by the broker could only repeat what
the outbox sends again anyway.

A connection counts as up after its opening, which takes 2 s at most: the retained status `online`, the subscriptions
(QoS 1) and the shadow's first request, each alone. When a broker ends the connection on one of them, the third
connection goes without it (`features.py`), and verdicts flow. What arrives between connections is lost, so whoever
subscribes reads the state again once the connection is up. What arrives is bounded: a payload over its topic's limit is
dropped and counted.

Between connections the thread `mqtt` waits with jittered exponential back-off (paho's own reconnect has no jitter, and
resends by itself), much longer when another client uses the same client id (`restarts.py`). Certificates, keys and the
password file are read again for each connection. A publish that the broker refuses is told to `on_reject` with the
reason, and the connection stays (MQTT 5 only: 3.1.1 has no way to say so, and AWS IoT Core ends the connection by
itself). The log has one line when the connection breaks and one when it is back; the same reason is repeated at most
once an hour.
"""

from __future__ import annotations

import logging
import random
import re
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.adapters.mqtt.broker_features import FEATURES_FILE, BrokerFeatures, Feature
from agent.adapters.mqtt.broker_tls import TlsFiles, read_password, tls_context
from agent.adapters.mqtt.connection_setup import ConnectionSetup, SetupPlan
from agent.adapters.mqtt.iot_core_limits import check_message, max_inbound_bytes
from agent.adapters.mqtt.mqtt_connection import ConnectionCallbacks, MqttConnection
from agent.adapters.mqtt.paho_client import StrictAckClient, message_ids
from agent.adapters.mqtt.reconnect_policy import ConnectionEnd, ReconnectPolicy
from agent.errors import ConfigError, TransportError
from agent.records import TransportStats
from agent.supervision import ErrorBoundary, ThreadSupervisor
from agent.timing.clock import Clock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.supervision import SupervisedThread

__all__ = ["FEATURES_FILE", "MqttTransport", "TlsFiles", "check_message"]

_CLIENT_ID = re.compile(r"[A-Za-z0-9_:-]{1,128}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetainedStatus:
    """Retained messages (QoS 1) on `topic` that say whether the device is there; each is made when it is needed."""

    topic: str
    online: Callable[[], bytes]  # at the beginning of a connection
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

        `thing` is the one whose shadow may be spoken to; None allows no topic that starts with `$`. `password_file`
        goes before `password`. `state_dir` is where it is remembered what the broker does not carry; None forgets it
        with the process. `timeout_s` bounds connecting and the wait for an acknowledgement; `backoff_s` is the first
        and the longest wait between two attempts. Raises ConfigError for a client id, a certificate or a password file
        that cannot work.
        """
        if not _CLIENT_ID.fullmatch(client_id):
            msg = f"transport.client_id: given {client_id!r}, allowed are 1 to 128 letters, digits, '_', ':' and '-'"
            raise ConfigError(msg)
        self._host, self._port, self._client_id = host, port, client_id
        self._thing = thing
        self._version = MQTTProtocolVersion.MQTTv5 if protocol == "5" else MQTTProtocolVersion.MQTTv311
        self._tls = tls
        self._username, self._password, self._password_file = username, password, password_file
        self._retained_status: RetainedStatus | None = None
        self._keepalive_s = keepalive_s
        self._max_in_flight = max_in_flight
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()
        rng = rng or random.Random()  # noqa: S311 - spreads reconnects and ids, guards nothing
        self._reconnect_policy = ReconnectPolicy(client_id=client_id, backoff_s=backoff_s, rng=rng)
        self._ids = message_ids(rng)
        self._broker = f"MQTT broker {host}:{port}"
        self._features = BrokerFeatures(
            broker=f"{self._broker} as {client_id}" + (f" ({username})" if username else ""),
            path=None if state_dir is None else state_dir / FEATURES_FILE,
            clock=self._clock,
        )
        self._stop = threading.Event()
        self._link: MqttConnection | None = None
        self._reason = "not started"
        self._supervisor = supervisor or ThreadSupervisor(clock=self._clock)
        self._conditions = self._supervisor.condition_log(_log)
        # Whatever nonsense on the wire makes paho raise ends the connection, and is no bug of this agent.
        self._serving = ErrorBoundary(None, kind="mqtt", what=self._broker, make=TransportError)
        self._thread: SupervisedThread | None = None
        self._subscriptions: dict[str, Callable[[str, bytes], None]] = {}
        self._ask: Callable[[], tuple[str, bytes]] | None = None
        self._on_refused: Callable[[str], None] = _ignore_refusal
        self._counts: Counter[str] = Counter()
        self._client()  # what cannot work is refused now

    # --- any thread ---------------------------------------------------------------------------------------------------

    @property
    def max_in_flight(self) -> int:
        """How many unacknowledged publishes it accepts at once.

        A broker of MQTT 5 that allows fewer (Receive Maximum) gets fewer: the others wait in the client.
        """
        return self._max_in_flight

    @property
    def stats(self) -> TransportStats:
        """See `Transport.figures`."""
        return TransportStats(dropped=dict(self._counts), refused=self._features.disabled())

    def start(
        self,
        *,
        on_ack: Callable[[int], None],
        on_reject: Callable[[int, str], None],
        on_connection: Callable[[bool, str], None],
    ) -> None:
        """See `Transport.start`; a broker that answers faster than paho returns is heard from within `publish`."""
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
        """Keep a retained message on `topic` that says whether the device is there. Call before `start`.

        `online()` is sent at the beginning of each connection and `stopped()` before a clean end; `will()` is left with
        the broker as the last will, which it sends when the connection breaks. Called in the transport's thread, but
        for `stopped`, in the one that closes.
        """
        self._retained_status = RetainedStatus(topic=topic, online=online, will=will, stopped=stopped)

    def publish_on_connect(self, ask: Callable[[], tuple[str, bytes]], on_refused: Callable[[str], None]) -> None:
        """Send the message that `ask()` returns at the beginning of each connection, alone, before it counts as up.

        It goes out once the subscriptions under `$aws/` are made, and is answered by what arrives on one of those.
        Where the broker does not carry such topics, `on_refused(reason)` is called for the connection instead; nothing
        may then be published to them. Both are called in the transport's thread. Call before `start`.
        """
        self._ask, self._on_refused = ask, on_refused

    def disable_shadow(self, reason: str) -> None:
        """Go without topics under `$aws/` for a day: the broker ends connections on messages to them."""
        self._features.disable(Feature.SHADOW, reason)

    def publish(self, token: int, topic: str, payload: bytes) -> None:
        """Hand over one QoS 1 message without waiting. Raises TransportError when it cannot be taken now."""
        check_message(topic, payload, thing=self._thing)
        link = self._link
        if link is None or not link.up:
            msg = f"not connected to {self._broker}: {self._reason}"
            raise TransportError(msg)
        link.publish(token, topic, payload)

    def close(self, *, timeout_s: float) -> None:
        """Say goodbye to the broker and end the thread within `timeout_s` seconds; safe to call twice."""
        if (link := self._link) is not None and not self._stop.is_set():
            presence = self._retained_status
            link.disconnect(None if presence is None else (presence.topic, presence.stopped()))
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    # --- the thread `mqtt` --------------------------------------------------------------------------------------------

    def _arrived(self, topic: str, payload: bytes) -> None:
        """Hand one message on; never blocks."""
        on_message = self._subscriptions.get(topic)
        if on_message is not None and len(payload) <= max_inbound_bytes(topic):
            on_message(topic, payload)
            return
        self._counts["foreign_topic" if on_message is None else "oversized"] += 1
        self._supervisor.losses.count("mqtt_arrivals_refused")

    def _client(self, tried: frozenset[Feature] = frozenset()) -> StrictAckClient:
        """A client for one connection. Raises ConfigError naming the file that cannot be used."""
        five = self._version is MQTTProtocolVersion.MQTTv5
        client = StrictAckClient(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if five else True,  # in MQTT 5 paho starts clean on a client's first connection
            protocol=self._version,
            reconnect_on_failure=False,
            ids=self._ids,
            stray=self._counts,
        )
        client.max_inflight_messages_set(self._max_in_flight)  # on the wire; the link bounds what waits for it
        client.connect_timeout = self._timeout_s
        if self._tls is not None:
            client.tls_set_context(tls_context(self._tls, port=self._port))
        if self._username is not None:
            password = self._password if self._password_file is None else read_password(self._password_file)
            client.username_pw_set(self._username, password)
        if self._retained_status is not None and Feature.WILL in tried:
            client.will_set(self._retained_status.topic, self._retained_status.will(), qos=1, retain=True)
        return client

    def _plan(self, tried: frozenset[Feature]) -> SetupPlan:
        plain = tuple(topic for topic in self._subscriptions if not topic.startswith("$"))
        shadow = tuple(topic for topic in self._subscriptions if topic.startswith("$"))
        presence = self._retained_status
        if shadow and Feature.SHADOW not in tried:
            self._on_refused(self._features.reason(Feature.SHADOW))
        return SetupPlan(
            status=(presence.topic, presence.online) if presence is not None and Feature.STATUS in tried else None,
            topics=plain if Feature.SUBSCRIPTIONS in tried else (),
            shadow_topics=shadow if Feature.SHADOW in tried else (),
            ask=self._ask,
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

            heard = ConnectionCallbacks(
                on_ack=on_ack,
                on_reject=on_reject,
                on_up=on_up,
                on_proven=lambda tried=tried: self._features.record_working_connection(tried),  # type: ignore[misc]
                on_message=self._arrived,
            )
            ended = self._serve(tried, heard)
            reason, wait_s = self._reconnect_policy.record_end(ended)
            self._reason = "closed" if self._stop.is_set() else reason
            if not self._stop.is_set():
                self._conditions.report_fault(self._broker, f"{reason} (verdicts wait on disk)")
            on_connection(False, f"{self._broker}: {self._reason}")  # noqa: FBT003 - the port's signature
            self._clock.wait(self._stop, wait_s)

    def _serve(self, tried: frozenset[Feature], heard: ConnectionCallbacks) -> ConnectionEnd:
        """One connection from its beginning to its end."""
        try:
            client = self._client(tried)
            opening = ConnectionSetup(
                plan=self._plan(tried), client=client, broker=self._broker, features=self._features
            )
        except ConfigError as error:  # a certificate that is being rotated, perhaps: the next attempt reads it again
            return ConnectionEnd(reason=str(error), up_s=None, acked=False, idle=True, taken_over=False)
        link = self._link = MqttConnection(
            client=client,
            broker=self._broker,
            limit=self._max_in_flight,
            clock=self._clock,
            timeout_s=self._timeout_s,
            opening=opening,
            heard=heard,
        )
        try:
            with self._serving:
                reason = link.serve(host=self._host, port=self._port, keepalive_s=self._keepalive_s, stop=self._stop)
        except TransportError as error:
            reason = f"the broker sent what cannot be read ({error})"
        self._link = None
        if not self._stop.is_set():
            self._update_features(link, tried, reason)
        return ConnectionEnd(
            reason=reason, up_s=link.up_s, acked=link.has_ack, idle=link.was_idle, taken_over=link.taken_over
        )

    def _update_features(self, link: MqttConnection, tried: frozenset[Feature], reason: str) -> None:
        """What the end of a connection says about what the broker carries."""
        if link.is_accepted and link.setup.step is not None and not link.taken_over:
            self._features.record_failure(link.setup.step, reason)
        elif link.connected and not link.is_accepted and self._retained_status is not None and Feature.WILL in tried:
            self._features.record_failure(Feature.WILL, reason)
        elif not link.proven:
            self._features.record_unexplained_end(tried)
        if link.is_accepted and self._retained_status is not None and Feature.WILL in tried:
            self._features.record_success(Feature.WILL)


def _ignore_refusal(_reason: str) -> None:
    """Nobody asks anything."""
