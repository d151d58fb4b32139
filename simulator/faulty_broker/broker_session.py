"""One connection of a broker that keeps every promise of MQTT at QoS 0 and 1.

Each behaviour overrides parts of it.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import select
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

from simulator.doubles.network.topic_filter import topic_matches
from simulator.faulty_broker import mqtt_packets

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.faulty_broker.broker_record import BrokerEvent, BrokerRecord
    from simulator.faulty_broker.mqtt_packets import Connect, Packet, Publish

_POLL_S: Final = 0.02
_HALF_OPEN_S: Final = 10.0  # the rest of a packet must follow its first byte within this
_RST_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s


@dataclass(slots=True)
class BrokerState:
    """What all connections of one broker share."""

    forbidden: tuple[str, ...]  # topic filters that nobody may publish to
    receive_maximum: int | None  # announced to clients of MQTT 5
    record: BrokerRecord
    memory: dict[str, list[int]] = field(default_factory=dict)  # what a behaviour keeps between connections
    is_closing: bool = False


class BrokerSession:
    """Serves one client honestly; the thread that calls `run` does everything. Behaviours override the hooks.

    `summary` is the sentence for `--list`; `EVERY` is how many messages pass between two misdeeds.
    """

    summary: ClassVar[str] = "keeps every promise"
    EVERY: ClassVar[int] = 20
    SERVES_SHADOWS: ClassVar[bool] = True  # a request for an AWS shadow is answered with 404

    def __init__(self, connection: socket.socket, *, number: int, broker: BrokerState) -> None:
        """`number` is 1 for the broker's first connection."""
        self.number = number
        self.broker = broker
        self.record = broker.record
        self.client: Connect | None = None
        self.published = 0  # messages on this connection
        self.subscribed: list[str] = []
        self._connection = connection
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._is_open = True

    # --- what a behaviour may override ---

    def on_connect(self) -> None:
        """Answer the CONNECT."""
        self.send_connack()

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Answer a PUBLISH of QoS 1 that the access rules allow."""
        self.acknowledge(message.packet_id)

    def on_subscribe(self, packet_id: int, filters: tuple[str, ...]) -> None:
        """Answer a SUBSCRIBE."""
        self.subscribed += filters
        self.send(mqtt_packets.suback(packet_id, bytes([1] * len(filters)), level=self.level))

    # --- what a behaviour may do ---

    @property
    def level(self) -> int:
        """4 for MQTT 3.1.1, 5 for 5."""
        return 4 if self.client is None else self.client.level

    @property
    def is_five(self) -> bool:
        """Whether the client speaks MQTT 5."""
        return self.level == mqtt_packets.MQTT_5

    def send_connack(self, *, session_present: bool = False) -> None:
        """Send the CONNACK."""
        self.send(
            mqtt_packets.connack(
                level=self.level, session_present=session_present, receive_maximum=self.broker.receive_maximum
            )
        )

    def send(self, data: bytes) -> None:
        """Write now."""
        if self._is_open:
            with contextlib.suppress(OSError):
                self._connection.sendall(data)

    def acknowledge(self, packet_id: int) -> None:
        """Send a PUBACK."""
        self.record.add_answer(self.number, packet_id)
        self.send(mqtt_packets.ack_packet(mqtt_packets.PUBACK, packet_id, level=self.level))

    def refuse(self, packet_id: int, reason: int) -> None:
        """Say no to one message: a PUBACK with `reason` in MQTT 5, the end of the connection in 3.1.1."""
        if not self.is_five:
            self.close(f"hung up on a message (0x{reason:02x} in MQTT 5)")
            return
        self.record.add_answer(self.number, packet_id, reason=f"0x{reason:02x}", good=False)
        self.send(mqtt_packets.ack_packet(mqtt_packets.PUBACK, packet_id, level=self.level, reason=reason))

    def schedule(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do `action` in this thread `delay_s` seconds from now, when the connection still stands."""
        heapq.heappush(self._later, (time.monotonic() + delay_s, next(self._order), action))

    def close(self, reason: str = "closed") -> None:
        """End the connection with FIN."""
        self._end(reason)

    def reset(self, reason: str = "reset") -> None:
        """End the connection with RST: what was not read yet is lost."""
        with contextlib.suppress(OSError):
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        self._end(reason)

    # --- the connection's thread ---

    def run(self) -> None:
        """Serve until either side ends it."""
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while not self.broker.is_closing and self._run_due_actions():
                if select.select([self._connection], [], [], self._wait_s())[0]:
                    self._connection.settimeout(_HALF_OPEN_S)
                    self._read()
        except (OSError, ValueError):
            self._end("lost")
        except mqtt_packets.ProtocolError as error:
            self._end(f"protocol error: {error}")
        self._end("closed by the broker's end")

    def _read(self) -> None:
        packet = mqtt_packets.read_packet(self._connection)
        if packet is None:
            self._end("closed by the client")
        elif self.client is None:
            self.client = mqtt_packets.parse_connect(packet)
            self.record.add_event(self.number, "connect", topic=self.client.client_id)
            self.on_connect()
        else:
            self._take(packet)

    def _take(self, packet: Packet) -> None:
        match packet.type:
            case mqtt_packets.PUBLISH:
                self._publish(mqtt_packets.parse_publish(packet, level=self.level))
            case mqtt_packets.SUBSCRIBE:
                packet_id, filters = mqtt_packets.parse_subscribe(packet, level=self.level)
                self.record.add_event(self.number, "subscribe", packet_id=packet_id, topic=" ".join(filters))
                self.on_subscribe(packet_id, filters)
            case mqtt_packets.PINGREQ:
                self.send(mqtt_packets.pingresp())
            case mqtt_packets.DISCONNECT:
                self._end("goodbye")
            case _:  # an answer of the client, such as PUBREL
                pass

    def _publish(self, message: Publish) -> None:
        event = self.record.add_event(
            self.number,
            "publish",
            packet_id=message.packet_id,
            topic=message.topic,
            payload=message.payload,
            retain=message.retain,
        )
        if message.qos == 0:
            return
        self.published += 1
        if any(topic_matches(pattern, message.topic) for pattern in self.broker.forbidden):
            self.refuse(message.packet_id, mqtt_packets.NOT_AUTHORISED)
            return
        self.on_publish(message, event)
        if self.SERVES_SHADOWS and message.topic.startswith("$aws/") and message.topic.endswith("/get"):
            self._report_missing_shadow(message)

    def _report_missing_shadow(self, message: Publish) -> None:
        """Answer as AWS IoT does for a thing without a shadow, where the client listens."""
        topic = f"{message.topic}/rejected"
        if topic in self.subscribed:
            with contextlib.suppress(ValueError, AttributeError):
                token = json.loads(message.payload).get("clientToken")
                refused = {"code": 404, "message": "No shadow exists", "clientToken": token}
                self.send(mqtt_packets.publish_packet(topic, json.dumps(refused).encode(), level=self.level))

    def _run_due_actions(self) -> bool:
        """Whether the connection still stands after it."""
        while self._is_open and self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()
        return self._is_open

    def _wait_s(self) -> float:
        return min(_POLL_S, max(0.0, self._later[0][0] - time.monotonic())) if self._later else _POLL_S

    def _end(self, reason: str) -> None:
        if self._is_open:
            self._is_open = False
            self.record.add_event(self.number, "end", reason=reason)
            self._connection.close()
