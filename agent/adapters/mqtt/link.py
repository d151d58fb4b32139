"""One MQTT connection, from connecting to its end, on a paho client of its own.

Invariants: paho's publish() is called with no lock held that its callbacks take; packets are written by the serving
thread only; a token is answered once, acknowledged by a PUBACK whose reason is good or refused by one whose is not; a
link is up only after the broker has answered every subscription; one that ended is never used again.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

from agent.clock import NS_PER_S, Clock
from agent.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

_TOPICS_A_REQUEST: Final = 8  # AWS IoT Core takes no more in one SUBSCRIBE
_log = logging.getLogger(__name__)
_LOOP_S: Final = 0.5  # longest sleep of the serving thread; deadlines are checked this often
_REMEDIES: Final = {
    "Not authorized": "Allow it in the broker's access rules (AWS IoT Core: the policy of the certificate)",
    "Bad user name or password": "Check transport.username and transport.password_file",
    "Client identifier not valid": "Choose another transport.client_id",
    "Session taken over": "Another client uses this client id: every agent needs its own",
    "Unsupported protocol version": "Set transport.protocol to '3.1.1'",
    "Quota exceeded": "The broker's limit is reached; the message is sent again later",
    "Packet too large": "Raise the broker's limit (mosquitto: max_packet_size)",
}


class Link:
    """One connection; `up` while messages are taken, `acked` once the broker has acknowledged anything."""

    def __init__(
        self,
        *,
        client: paho.Client,
        broker: str,
        limit: int,
        clock: Clock,
        timeout_s: float,
        on_ack: Callable[[int], None],
        on_reject: Callable[[int, str], None],
        on_up: Callable[[str], None],
        topics: Sequence[str],
        on_message: Callable[[str, bytes], None],
    ) -> None:
        """`broker` names it in texts; `limit` bounds the unacknowledged publishes; `timeout_s` every answer."""
        self.up = False
        self.acked = False
        self._client = client
        self._broker = broker
        self._limit = limit
        self._clock = clock
        self._timeout_ns = int(timeout_s * NS_PER_S)
        self._on_ack = on_ack
        self._on_reject = on_reject
        self._on_up = on_up
        self._topics = tuple(topics)
        self._on_message = on_message
        self._subscribing: dict[int, tuple[str, ...]] = {}  # paho's message id -> topics that the broker must answer
        self._end: str | None = None  # why it ended or must end
        # Never held around paho's publish(): paho calls _acknowledged while it holds the lock that publish() takes.
        self._lock = threading.Lock()
        self._outstanding = 0
        self._tokens: dict[int, tuple[int, int]] = {}  # paho's message id -> (token, when handed over), oldest first
        self._early: dict[int, str | None] = {}  # answered before publish() told us the id; why refused, or None

    # --- the sender's thread ---

    def publish(self, token: int, topic: str, payload: bytes) -> None:
        """See `Transport.publish`."""
        with self._lock:
            if self._outstanding >= self._limit:
                msg = f"{self._broker}: {self._limit} messages are unacknowledged, no more are taken now"
                raise TransportError(msg)
            self._outstanding += 1
        info = self._client.publish(topic, payload, qos=1)
        with self._lock:
            if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._outstanding -= 1
                msg = f"{self._broker}: {paho.error_string(info.rc)}"
                raise TransportError(msg)
            early = info.mid in self._early
            refusal: str | None = None
            if early:
                refusal = self._early.pop(info.mid)
                self._outstanding -= 1
            else:
                self._tokens[info.mid] = (token, self._clock.monotonic_ns())
        if early:
            self._answer(token, refusal)

    def hang_up(self) -> None:
        """Wake the serving thread, which sees that it must stop."""
        self._client.disconnect()

    # --- the serving thread ---

    def serve(self, *, host: str, port: int, keepalive_s: int, stop: threading.Event) -> str:
        """Connect and work until the connection ends or `stop` is set; return why it ended, for a person."""
        client = self._client
        client.on_socket_open = _no_delay
        client.on_socket_register_write = _leave_to_the_loop
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_publish = self._acknowledged
        client.on_subscribe = self._subscribed
        client.on_message = self._received
        try:
            client.connect(host, port, keepalive_s)
            self._loop(stop)
        except OSError as error:
            return _why(error)
        finally:
            self.up = False
            self._take_down()
        return (
            self._end or "the broker closed the connection unanswered. Does it speak this MQTT version, and TLS or not?"
        )

    def _loop(self, stop: threading.Event) -> None:
        started_ns = self._clock.monotonic_ns()
        status = MQTTErrorCode.MQTT_ERR_SUCCESS
        while status is MQTTErrorCode.MQTT_ERR_SUCCESS and self._end is None and not stop.is_set():
            status = self._client.loop(timeout=_LOOP_S)
            if self._end is None:
                self._end = self._overdue(started_ns)

    def _take_down(self) -> None:
        """Say goodbye as far as the socket takes it, close it, and untie client and link so that both are freed now."""
        client = self._client
        if client.socket() is not None:
            client.disconnect()
            client.loop(timeout=0.0)
        if (sock := client.socket()) is not None:
            sock.close()
        client.on_connect = client.on_disconnect = client.on_publish = None
        client.on_subscribe = client.on_message = None

    def _overdue(self, started_ns: int) -> str | None:
        """A half-open connection swallows what is sent; keep-alive alone would notice it much later."""
        now = self._clock.monotonic_ns()
        seconds = self._timeout_ns / NS_PER_S
        if not self.up:
            late = now - started_ns > self._timeout_ns
            return f"the broker did not answer within {seconds:g} s" if late else None
        with self._lock:
            oldest = next(iter(self._tokens.values()), None)
        if oldest is not None and now - oldest[1] > self._timeout_ns:
            return f"the broker acknowledged nothing for {seconds:g} s"
        return None

    def _connected(
        self, client: paho.Client, _userdata: object, flags: object, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._end = f"the broker refused the connection: {_explain(reason)}"
            return
        # A broker of MQTT 5 closes the connection on a client that sends more than this; paho does not look at it.
        self._limit = min(self._limit, getattr(properties, "ReceiveMaximum", self._limit))
        for first in range(0, len(self._topics), _TOPICS_A_REQUEST):
            topics = self._topics[first : first + _TOPICS_A_REQUEST]
            status, number = client.subscribe([(topic, 1) for topic in topics])
            if status is not MQTTErrorCode.MQTT_ERR_SUCCESS or number is None:
                self._end = f"subscribing failed: {paho.error_string(status)}"
                return
            self._subscribing[number] = topics
        self._look_whether_up()

    def _subscribed(
        self, client: paho.Client, _userdata: object, mid: int, reasons: Sequence[ReasonCode], properties: object
    ) -> None:
        for topic, reason in zip(self._subscribing.pop(mid, ()), reasons, strict=False):
            if reason.is_failure:  # verdicts matter more than hints: the connection is used all the same
                _log.warning("%s refuses the subscription to %s: %s", self._broker, topic, _explain(reason))
        self._look_whether_up()

    def _look_whether_up(self) -> None:
        if not self.up and not self._subscribing:
            self.up = True
            self._on_up(f"connected to {self._broker}")

    def _received(self, client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        self._on_message(topic, bytes(message.payload))

    def _disconnected(
        self,
        client: paho.Client,
        _userdata: object,
        flags: paho.DisconnectFlags,
        reason: ReasonCode,
        properties: object,
    ) -> None:
        if self._end is None and flags.is_disconnect_packet_from_server:
            self._end = f"the broker ended the connection: {_explain(reason)}"
        elif self._end is None and self.up:
            self._end = "the connection was lost: the network, the broker, or another client with the same client id"
        self.up = False

    def _acknowledged(
        self, client: paho.Client, _userdata: object, mid: int, reason: ReasonCode, properties: object
    ) -> None:
        refusal = _explain(reason) if reason.is_failure else None
        self.acked = True  # a refusal answers too: the connection works
        with self._lock:
            entry = self._tokens.pop(mid, None)
            if entry is None:
                self._early[mid] = refusal
                return
            self._outstanding -= 1
        self._answer(entry[0], refusal)

    def _answer(self, token: int, refusal: str | None) -> None:
        """Any thread: the broker acknowledged the publish `token`, or refused it with a reason."""
        if refusal is None:
            self._on_ack(token)
        else:
            self._on_reject(token, f"{self._broker} refused a message: {refusal}")


def _no_delay(_client: paho.Client, _userdata: object, sock: Any) -> None:
    """Nagle's algorithm would hold a defect back until the previous message is acknowledged."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _leave_to_the_loop(_client: paho.Client, _userdata: object, _sock: object) -> None:
    """Its presence keeps paho from writing in the publisher's thread, where packets could mix with the loop's."""


def _explain(reason: ReasonCode) -> str:
    name = str(reason)
    remedy = _REMEDIES.get(name)
    return f"{name}. {remedy}" if remedy else name


def _why(error: OSError) -> str:
    """Turn what connecting raised into a sentence."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not trusted ({error.verify_message}). Check transport.tls.ca and host"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or error}). Is this the TLS port, and is the client certificate active?"
    if isinstance(error, socket.gaierror):
        return "the host name is unknown. Check transport.host and the network"
    if isinstance(error, TimeoutError):
        return "no answer. Check transport.host, transport.port and the firewall"
    return str(error.strerror or error)
