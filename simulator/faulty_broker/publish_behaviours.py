"""Misbehaviour of a broker towards a PUBLISH: lost, late, wrong and missing acknowledgements."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, ClassVar, Final

from simulator.faulty_broker import mqtt_packets
from simulator.faulty_broker.broker_session import BrokerSession

if TYPE_CHECKING:
    from simulator.faulty_broker.broker_record import BrokerEvent
    from simulator.faulty_broker.mqtt_packets import Publish

_SEED: Final = 11


class AcksThenCloses(BrokerSession):
    """See `summary`."""

    summary = "acknowledges, and closes the connection after every 20th message"

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Acknowledge; close after every 20th."""
        self.acknowledge(message.packet_id)
        if self.published % self.EVERY == 0:
            self.close()


class AcksThenResets(BrokerSession):
    """See `summary`."""

    summary = "acknowledges, and resets the connection after every 20th message: the PUBACK may be lost"

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Acknowledge; reset after every 20th."""
        self.acknowledge(message.packet_id)
        if self.published % self.EVERY == 0:
            self.reset()


class ClosesBeforeAck(BrokerSession):
    """See `summary`."""

    summary = "takes every 20th message and closes the connection without acknowledging it"

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Close instead of every 20th acknowledgement."""
        if self.published % self.EVERY == 0:
            self.close()
        else:
            self.acknowledge(message.packet_id)


class HalfAck(BrokerSession):
    """See `summary`."""

    summary = "sends half of every 20th PUBACK and closes the connection"

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Send three of four bytes and close."""
        if self.published % self.EVERY:
            self.acknowledge(message.packet_id)
            return
        self.send(mqtt_packets.ack_packet(mqtt_packets.PUBACK, message.packet_id, level=self.level)[:3])
        self.close("half a PUBACK")


class DuplicateAcks(BrokerSession):
    """See `summary`."""

    summary = "sends every PUBACK twice"

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Acknowledge, twice."""
        self.acknowledge(message.packet_id)
        self.acknowledge(message.packet_id)


class ShuffledAcks(BrokerSession):
    """See `summary`."""

    summary = "holds PUBACKs back for 50 ms and sends them in disorder"

    def __init__(self, *arguments: object, **more: object) -> None:
        super().__init__(*arguments, **more)  # type: ignore[arg-type]
        self._held: list[int] = []
        self._random = random.Random(_SEED)

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Hold the acknowledgement back."""
        if not self._held:
            self.schedule(0.05, self._release_acks)
        self._held.append(message.packet_id)

    def _release_acks(self) -> None:
        held, self._held = self._held, []
        self._random.shuffle(held)
        for packet_id in held:
            self.acknowledge(packet_id)


class LateAcks(BrokerSession):
    """See `summary`."""

    summary = "sends every PUBACK 0.3 s late"

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Acknowledge in a while."""
        self.schedule(0.3, lambda: self.acknowledge(message.packet_id))


class UnknownAcks(BrokerSession):
    """See `summary`."""

    summary = "adds to each PUBACK one for a packet id that this connection has not used"

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Acknowledge, and something else too."""
        self.acknowledge((message.packet_id + 5_000) % 65_535 + 1)
        self.acknowledge(message.packet_id)


class StaleAcks(BrokerSession):
    """See `summary`."""

    summary = "closes on 5 messages of its first connection, and sends their PUBACKs on the second, for others"
    _HELD: ClassVar[int] = 5
    _HONEST_FROM: ClassVar[int] = 3

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Keep ids for the next connection, or let the stale PUBACKs out while messages are in flight."""
        if self.number >= self._HONEST_FROM or message.retain or message.topic.startswith("$"):
            self.acknowledge(message.packet_id)
            return
        ids = self.broker.memory.setdefault("stale", [])
        if self.number % 2:
            ids.append(message.packet_id)
        else:
            for packet_id in ids:
                self.record.add_event(self.number, "false_acknowledge", packet_id=packet_id, reason="stale")
                self.send(mqtt_packets.ack_packet(mqtt_packets.PUBACK, packet_id, level=self.level))
        if self.published >= self._HELD + 2:  # the opening's two come before
            self.close("without acknowledging")


class PubcompForQos1(BrokerSession):
    """See `summary`."""

    summary = "answers every third message of its first two connections with PUBCOMP, which belongs to QoS 2"

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Answer with the wrong packet."""
        if self.published % 3 or self.number > 2:  # noqa: PLR2004 - the summary's number
            self.acknowledge(message.packet_id)
            return
        self.record.add_answer(self.number, message.packet_id, good=False)
        self.send(mqtt_packets.ack_packet(mqtt_packets.PUBCOMP, message.packet_id, level=self.level))


class PubrecForQos1(BrokerSession):
    """See `summary`."""

    summary = "answers every third message of its first two connections with PUBREC and PUBCOMP (QoS 2)"

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Answer with the wrong packets."""
        if self.published % 3 or self.number > 2:  # noqa: PLR2004 - the summary's number
            self.acknowledge(message.packet_id)
            return
        self.record.add_answer(self.number, message.packet_id, good=False)
        self.send(mqtt_packets.ack_packet(mqtt_packets.PUBREC, message.packet_id, level=self.level))
        self.send(mqtt_packets.ack_packet(mqtt_packets.PUBCOMP, message.packet_id, level=self.level))


class NeverAcks(BrokerSession):
    """See `summary`."""

    summary = "acknowledges nothing on its first two connections"

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Swallow."""
        if self.number > 2:  # noqa: PLR2004 - the summary's number
            self.acknowledge(message.packet_id)


class RefusesEveryFifth(BrokerSession):
    """See `summary`."""

    summary = "refuses every fifth message as over quota (0x97); 3.1.1: hangs up on it"

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Refuse every fifth of the broker's messages, whatever the connection."""
        seen = self.broker.memory.setdefault("seen", [])
        seen.append(message.packet_id)
        if len(seen) % 5:
            self.acknowledge(message.packet_id)
        else:
            self.refuse(message.packet_id, mqtt_packets.QUOTA_EXCEEDED)


class SendsGarbage(BrokerSession):
    """See `summary`."""

    summary = "sends random bytes after every 20th message"

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Acknowledge; babble after every 20th."""
        self.acknowledge(message.packet_id)
        if self.published % self.EVERY == 0:
            self.send(random.Random(self.number).randbytes(64))
