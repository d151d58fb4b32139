"""One MQTT connection, from connecting to its end, on a paho client of its own.

Invariants: paho's publish() is called with no lock held that its callbacks take; packets are written by the serving
thread only; a token is answered once, acknowledged by a PUBACK with a good reason or refused by one with another; a
connection is up only after its setup (`connection_setup`); one that ended is never used again.
"""

from __future__ import annotations

import socket
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

from agent.errors import TransportError
from agent.timing.clock import NS_PER_S, Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from agent.adapters.mqtt.connection_setup import ConnectionSetup
    from agent.adapters.mqtt.paho_client import StrictAckClient

_FINAL_MESSAGE_S: Final = 0.4  # the last status must be acknowledged within this; a dead broker shall not delay a stop
_CONFIRMED_S: Final = 5.0
_LOOP_S: Final = 0.5  # longest sleep of the serving thread; deadlines are checked this often
_TAKEN_OVER: Final = "Session taken over"
_REMEDIES: Final = {
    "Not authorized": "Allow it in the broker's access rules (AWS IoT Core: the policy of the certificate)",
    "Bad user name or password": "Check transport.username and transport.password_file",
    "Client identifier not valid": "Choose another transport.client_id",
    _TAKEN_OVER: "Another client uses this client id: every agent needs its own",
    "Unsupported protocol version": "Set transport.protocol to '3.1.1'",
    "Quota exceeded": "The broker's limit is reached; the message is sent again later",
    "Packet too large": "Raise the broker's limit (mosquitto: max_packet_size)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionCallbacks:
    """Callbacks of a connection, from its serving thread; `on_ack` and `on_reject` also from within `publish`."""

    on_ack: Callable[[int], None]
    on_reject: Callable[[int, str], None]
    on_up: Callable[[str], None]
    on_proven: Callable[[], None]  # it works: something was acknowledged, or it was up for a while
    on_message: Callable[[str, bytes], None]


class MqttConnection:
    """One connection; `up` while it takes messages."""

    def __init__(
        self,
        *,
        client: StrictAckClient,
        broker: str,
        limit: int,
        clock: Clock,
        timeout_s: float,
        setup: ConnectionSetup,
        callbacks: ConnectionCallbacks,
    ) -> None:
        """Connect nothing yet.

        Args:
            client: the paho client, used for this connection only.
            broker: names the broker in texts.
            limit: bound of unacknowledged publishes.
            clock: monotonic time.
            timeout_s: bound of the wait for each answer.
            setup: runs before the connection is up.
            callbacks: where acknowledgements, arrivals and changes go.
        """
        self.up = False
        self.connected = False  # the TCP connection stands, TLS included
        self.is_accepted = False  # the broker has accepted the CONNECT
        self.has_ack = False  # the broker has answered a message of the sender
        self.taken_over = False  # the broker reported another client with this client id
        self.was_idle = False  # nothing was in flight when it ended
        self.proven = False  # it was up and used, or for a while
        self.setup = setup
        self._client = client
        self._broker = broker
        self._limit = limit
        self._clock = clock
        self._timeout_ns = int(timeout_s * NS_PER_S)
        # A message may wait for as many answers as the bound allows before its own can come.
        self._patience_ns = self._timeout_ns
        self._last_ack_ns = 0
        self._callbacks = callbacks
        self._end: str | None = None  # why it ended or must end
        self._up_ns: int | None = None
        self._up_s: float | None = None
        # Never held around paho's publish(): paho calls _acknowledged while it holds the lock that publish() takes.
        self._lock = threading.Lock()
        self._outstanding = 0
        self._tokens: dict[int, tuple[int, int]] = {}  # paho's message id -> (token, when handed over), oldest first
        self._early: dict[int, str | None] = {}  # answered before publish() returned the id; the refusal, or None
        self._final_message: paho.MQTTMessageInfo | None = None

    @property
    def up_s(self) -> float | None:
        """Seconds that it was up, once it has ended; None when it never was."""
        return self._up_s

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

    def disconnect(self, farewell: tuple[str, bytes] | None) -> None:
        """Have the serving thread disconnect; `farewell` is a retained message that is sent first."""
        if farewell is not None and self.setup.has_sent_status:
            info = self._client.publish(*farewell, qos=1, retain=True)
            if info.rc is MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._final_message = info
                return
        self._client.disconnect()

    # --- the serving thread ---

    def serve(self, *, host: str, port: int, keepalive_s: int, stop: threading.Event) -> str:
        """Connect and serve until the connection ends or `stop` is set; return why it ended, for a person."""
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
            self.connected = True
            self._loop(stop)
        except OSError as error:
            return _describe_error(error)
        finally:
            if self._up_ns is not None:
                self._up_s = (self._clock.monotonic_ns() - self._up_ns) / NS_PER_S
            with self._lock:
                self.was_idle = not self._outstanding
            self.up = False
            self._take_down(says_goodbye=stop.is_set() and self._is_final_message_done())
        if self._end is not None:
            return self._end
        if self.is_accepted:
            step = "" if self.setup.step is None else f" during the setup step {self.setup.step}"
            return f"the broker ended the connection{step}"
        return "the broker closed the connection unanswered. Does it speak this MQTT version, and TLS or not?"

    def _loop(self, stop: threading.Event) -> None:
        started_ns = self._clock.monotonic_ns()
        status = MQTTErrorCode.MQTT_ERR_SUCCESS
        while status is MQTTErrorCode.MQTT_ERR_SUCCESS and self._end is None and not stop.is_set():
            status = self._client.loop(timeout=_LOOP_S)
            if status is not MQTTErrorCode.MQTT_ERR_SUCCESS or self._end is not None:
                return
            now_ns = self._clock.monotonic_ns()
            self._end = self._overdue(started_ns)
            if self.is_accepted and not self.up and self.setup.advance(now_ns):
                self.up, self._up_ns = True, now_ns
                self._callbacks.on_up(f"connected to {self._broker}")
            if self._up_ns is not None and not self.proven:
                self.proven = self.has_ack or now_ns - self._up_ns > _CONFIRMED_S * NS_PER_S
                if self.proven:
                    self._callbacks.on_proven()
        deadline_ns = self._clock.monotonic_ns() + int(_FINAL_MESSAGE_S * NS_PER_S)
        farewell = self._final_message
        while farewell is not None and not farewell.is_published() and self._clock.monotonic_ns() < deadline_ns:
            if self._client.loop(timeout=_FINAL_MESSAGE_S / 4) is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                return

    def _is_final_message_done(self) -> bool:
        """Whether the retained status is right once the connection has ended with a DISCONNECT."""
        if self._final_message is not None:
            return self._final_message.is_published()
        return not self.setup.has_sent_status

    def _take_down(self, *, says_goodbye: bool) -> None:
        """Close the socket, and clear the callbacks so that client and connection are freed now.

        A DISCONNECT goes first, as far as the socket takes it, where that leaves nothing wrong: it makes the broker
        forget the last will, so after any other end the will shall be sent.
        """
        client = self._client
        if client.socket() is not None and says_goodbye:
            client.disconnect()
            client.loop(timeout=0.0)
        if (sock := client.socket()) is not None:
            sock.close()
        client.on_connect = client.on_disconnect = client.on_publish = None
        client.on_subscribe = client.on_message = None

    def _overdue(self, started_ns: int) -> str | None:
        """Return why an answer is overdue: on a half-open connection keep-alive alone would notice much later."""
        now = self._clock.monotonic_ns()
        seconds = self._timeout_ns / NS_PER_S
        if not self.is_accepted:
            late = now - started_ns > self._timeout_ns
            return f"the broker did not answer within {seconds:g} s" if late else None
        with self._lock:
            oldest = next(iter(self._tokens.values()), None)
        if oldest is None:
            return None
        if now - max(oldest[1], self._last_ack_ns) > self._timeout_ns:
            return f"the broker acknowledged nothing for {seconds:g} s"
        if now - oldest[1] > self._patience_ns:
            return f"the broker did not acknowledge a message within {self._patience_ns / NS_PER_S:g} s"
        return None

    def _connected(
        self, client: paho.Client, _userdata: object, flags: object, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._end = f"the broker refused the connection: {_explain(reason)}"
            return
        self.is_accepted = True
        # A broker of MQTT 5 closes the connection on a client that exceeds this; paho ignores it.
        receive_maximum = getattr(properties, "ReceiveMaximum", self._limit)
        self._client.limit_in_flight(receive_maximum)
        self._patience_ns *= -(-self._limit // receive_maximum)
        self.setup.begin(self._clock.monotonic_ns(), retains=bool(getattr(properties, "RetainAvailable", 1)))

    def _subscribed(
        self, client: paho.Client, _userdata: object, mid: int, reasons: Sequence[ReasonCode], properties: object
    ) -> None:
        self.setup.on_suback(mid, [_explain(reason) if reason.is_failure else None for reason in reasons])

    def _received(self, client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        self.setup.on_arrival(topic)
        self._callbacks.on_message(topic, bytes(message.payload))

    def _disconnected(
        self,
        client: paho.Client,
        _userdata: object,
        flags: paho.DisconnectFlags,
        reason: ReasonCode,
        properties: object,
    ) -> None:
        if self._end is None and flags.is_disconnect_packet_from_server:
            self.taken_over = str(reason) == _TAKEN_OVER
            self._end = f"the broker ended the connection: {_explain(reason)}"
        elif self._end is None and self.up:
            self._end = "the connection was lost: the network, the broker, or another client with the same client id"
        self.up = False

    def _acknowledged(
        self, client: paho.Client, _userdata: object, mid: int, reason: ReasonCode, properties: object
    ) -> None:
        refusal = _explain(reason) if reason.is_failure else None
        if self.setup.is_own(mid):
            self.setup.on_puback(mid, refusal)
            return
        if self._final_message is not None and self._final_message.mid == mid:
            return
        self.has_ack = True  # a refusal is an answer too: the connection works
        self._last_ack_ns = self._clock.monotonic_ns()
        with self._lock:
            entry = self._tokens.pop(mid, None)
            if entry is None:
                self._early[mid] = refusal
                return
            self._outstanding -= 1
        self._answer(entry[0], refusal)

    def _answer(self, token: int, refusal: str | None) -> None:
        """Report that the broker acknowledged the publish `token`, or refused it; any thread."""
        if refusal is None:
            self._callbacks.on_ack(token)
        else:
            self._callbacks.on_reject(token, f"{self._broker} refused a message: {refusal}")


def _no_delay(_client: paho.Client, _userdata: object, sock: Any) -> None:
    """Disable Nagle's algorithm, which would delay a defect until the previous message is acknowledged."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _leave_to_the_loop(_client: paho.Client, _userdata: object, _sock: object) -> None:
    """Do nothing: with this callback set paho does not write in the publisher's thread, beside the loop."""


def _explain(reason: ReasonCode) -> str:
    name = str(reason)
    remedy = _REMEDIES.get(name)
    return f"{name}. {remedy}" if remedy else name


def _describe_error(error: OSError) -> str:
    """Describe an error of connecting in a sentence."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not trusted ({error.verify_message}). Check transport.tls.ca and host"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or error}). Is this the TLS port, and is the client certificate active?"
    if isinstance(error, socket.gaierror):
        return "the host name is unknown. Check transport.host and the network"
    if isinstance(error, TimeoutError):
        return "no answer. Check transport.host, transport.port and the firewall"
    return str(error.strerror or error)
