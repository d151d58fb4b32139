"""MQTT through paho behind the `Transport` port: mosquitto, AWS IoT Core, or any broker of MQTT 3.1.1 or 5.

Promise: `publish` takes at most `max_in_flight` unacknowledged QoS 1 messages and keeps nothing else; a message is
acknowledged only by the broker's own PUBACK with a good reason; whatever was in flight when a connection ends is
forgotten here, because the outbox still has it. Sessions are always clean: a session kept by the broker could only
repeat what the outbox sends again anyway.

Subscriptions (QoS 1) are made anew on every connection, before it is called up. What arrives meanwhile is lost, so
whoever subscribes reads the state again once the connection is up. A broker that refuses a subscription is named in the
log and verdicts go on. What arrives is bounded: a payload over its topic's limit is dropped and counted.

Between connections the thread `mqtt` waits with jittered exponential back-off (paho's own reconnect has no jitter, and
resends by itself). A publish that the broker refuses is told to `on_reject` with the reason, and the connection stays
(MQTT 5 only: 3.1.1 has no way to say so, and AWS IoT Core ends the connection by itself). There is no last will: a
missing heartbeat says the same, and a will cannot tell a dead agent from a dead network.
"""

from __future__ import annotations

import random
import re
import threading
from typing import TYPE_CHECKING, Final, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.adapters.mqtt.link import Link
from agent.adapters.mqtt.tls import TlsFiles, tls_context
from agent.clock import Clock, SystemClock
from agent.errors import ConfigError, TransportError
from agent.supervision import Boundary, Supervisor
from agent.wire import shadow_topic

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.supervision import SupervisedThread

__all__ = ["MqttTransport", "TlsFiles", "check_message"]

# Limits of AWS IoT Core (https://docs.aws.amazon.com/general/latest/gr/iot-core.html), kept towards every broker, so
# that what runs against mosquitto runs against IoT Core.
MAX_TOPIC_BYTES: Final = 256
MAX_TOPIC_SLASHES: Final = 7
MAX_PAYLOAD_BYTES: Final = 128 * 1024
MAX_SHADOW_BYTES: Final = 8 * 1024  # of a shadow's state
# A shadow's document comes back with a timestamp beside every value, which the 8 KB do not count.
MAX_SHADOW_ANSWER_BYTES: Final = 4 * MAX_SHADOW_BYTES
_SHADOW_REQUESTS: Final = ("get", "update")
_CLIENT_ID = re.compile(r"[A-Za-z0-9_:-]{1,128}")
_MAX_DOUBLINGS: Final = 16


def check_message(topic: str, payload: bytes, *, thing: str | None = None) -> None:
    """Raise TransportError naming the limit when AWS IoT Core would not take this message.

    Of the topics that start with `$` only the requests to the shadow `kensa` of `thing` are allowed.
    """
    size = len(topic.encode("utf-8", "replace"))
    is_shadow = (
        thing is not None and topic.startswith("$") and topic in [shadow_topic(thing, r) for r in _SHADOW_REQUESTS]
    )
    limit = MAX_SHADOW_BYTES if is_shadow else MAX_PAYLOAD_BYTES
    if not topic or size > MAX_TOPIC_BYTES:
        msg = (
            f"topic {topic[:80]!r} has {size} bytes, allowed are 1 to {MAX_TOPIC_BYTES}. Shorten thing and camera names"
        )
    elif (topic.startswith("$") and not is_shadow) or any(c in topic for c in "\0+#"):
        msg = f"topic {topic!r} starts with '$' or holds '+', '#' or NUL, which publishers may not use"
    elif topic.count("/") > MAX_TOPIC_SLASHES:
        msg = f"topic {topic!r} has {topic.count('/')} slashes, allowed are {MAX_TOPIC_SLASHES}"
    elif len(payload) > limit:
        msg = f"message on {topic} has {len(payload)} bytes, allowed are {limit}"
    else:
        return
    raise TransportError(msg)


def largest_arrival(topic: str) -> int:
    """How many bytes a message that arrives on `topic` may have."""
    return MAX_SHADOW_ANSWER_BYTES if topic.startswith("$aws/") else MAX_PAYLOAD_BYTES


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
        keepalive_s: int = 30,
        max_in_flight: int = 32,
        timeout_s: float = 10.0,
        backoff_s: tuple[float, float] = (0.5, 30.0),
        clock: Clock | None = None,
        rng: random.Random | None = None,
        supervisor: Supervisor | None = None,
    ) -> None:
        """Check everything that can be checked without a broker; nothing is connected yet.

        `thing` is the one whose shadow may be spoken to; None allows no topic that starts with `$`. `timeout_s` bounds
        connecting and the wait for an acknowledgement; `backoff_s` is the first and the longest wait between two
        attempts. Raises ConfigError for a client id or a certificate that cannot work.
        """
        if not _CLIENT_ID.fullmatch(client_id):
            msg = f"transport.client_id: given {client_id!r}, allowed are 1 to 128 letters, digits, '_', ':' and '-'"
            raise ConfigError(msg)
        self._host, self._port, self._client_id = host, port, client_id
        self._thing = thing
        self._version = MQTTProtocolVersion.MQTTv5 if protocol == "5" else MQTTProtocolVersion.MQTTv311
        self._tls = tls_context(tls, port=port) if tls is not None else None
        self._username, self._password = username, password
        self._keepalive_s = keepalive_s
        self._max_in_flight = max_in_flight
        self._timeout_s = timeout_s
        self._backoff_s = backoff_s
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 - spreads reconnects, guards nothing
        self._broker = f"MQTT broker {host}:{port}"
        self._stop = threading.Event()
        self._link: Link | None = None
        self._reason = "not started"
        self._supervisor = supervisor or Supervisor(clock=self._clock)
        # Whatever nonsense on the wire makes paho raise ends the connection, and is no bug of this agent.
        self._serving = Boundary(None, kind="mqtt", what=self._broker, make=TransportError)
        self._thread: SupervisedThread | None = None
        self._subscriptions: dict[str, Callable[[str, bytes], None]] = {}
        self.dropped = 0  # messages that arrived and were too large, or on a topic that nobody subscribed to

    @property
    def max_in_flight(self) -> int:
        """How many unacknowledged publishes it accepts at once; a broker of MQTT 5 may allow fewer."""
        return self._max_in_flight

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

    def _arrived(self, topic: str, payload: bytes) -> None:
        """Thread `mqtt`: hand one message on; never blocks."""
        on_message = self._subscriptions.get(topic)
        if on_message is None or len(payload) > largest_arrival(topic):
            self.dropped += 1
            self._supervisor.losses.count("mqtt_arrivals_refused")
            return
        on_message(topic, payload)

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
        self._stop.set()
        if (link := self._link) is not None:
            link.hang_up()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _client(self) -> paho.Client:
        five = self._version is MQTTProtocolVersion.MQTTv5
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if five else True,  # in MQTT 5 paho starts clean on a client's first connection
            protocol=self._version,
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(0)  # the link keeps the bound, without a queue behind it
        client.connect_timeout = self._timeout_s
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if self._username is not None:
            client.username_pw_set(self._username, self._password)
        return client

    def _run(
        self,
        on_ack: Callable[[int], None],
        on_reject: Callable[[int, str], None],
        on_connection: Callable[[bool, str], None],
    ) -> None:
        """Thread `mqtt`: connect, serve, report, wait, again."""
        failures = 0
        first_s, longest_s = self._backoff_s
        while not self._stop.is_set():
            link = self._link = Link(
                client=self._client(),
                broker=self._broker,
                limit=self._max_in_flight,
                clock=self._clock,
                timeout_s=self._timeout_s,
                on_ack=on_ack,
                on_reject=on_reject,
                on_up=lambda text: on_connection(True, text),  # noqa: FBT003 - the port's signature
                topics=tuple(self._subscriptions),
                on_message=self._arrived,
            )
            try:
                with self._serving:
                    reason = link.serve(
                        host=self._host, port=self._port, keepalive_s=self._keepalive_s, stop=self._stop
                    )
            except TransportError as error:
                reason = f"the broker sent what cannot be read ({error})"
            self._reason = "closed" if self._stop.is_set() else reason
            self._link = None
            on_connection(False, f"{self._broker}: {self._reason}")  # noqa: FBT003 - the port's signature
            failures = 0 if link.acked else min(failures + 1, _MAX_DOUBLINGS)
            ceiling_s = min(longest_s, first_s * 2**failures)
            self._clock.wait(self._stop, self._rng.uniform(ceiling_s / 2, ceiling_s))
