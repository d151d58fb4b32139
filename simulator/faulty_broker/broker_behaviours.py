"""What a nasty broker may do: one class for each, found by its name in `BEHAVIOURS`.

Each was seen at a real broker or can be provoked by a crash, a full queue or a policy of one. Where a behaviour cannot
be expressed in MQTT 3.1.1, its class says what it does there instead.
"""

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


class SessionPresent(BrokerSession):
    """See `summary`."""

    summary = "says that it has kept a session although a clean one was asked for"

    def on_connect(self) -> None:
        """Welcome with a lie; close now and then so that there is something to resume."""
        self.send_connack(session_present=True)

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Acknowledge; close after every 20th."""
        self.acknowledge(message.packet_id)
        if self.published % self.EVERY == 0:
            self.close()


class ClosesOnDollarSubscribe(BrokerSession):
    """See `summary`."""

    summary = "takes a PUBLISH to $aws, but ends the connection on a SUBSCRIBE to it, as rumqttd does"

    def on_subscribe(self, packet_id: int, filters: tuple[str, ...]) -> None:
        """Close on a filter that begins with `$`."""
        if any(pattern.startswith("$") for pattern in filters):
            self.close("a filter begins with $")
        else:
            super().on_subscribe(packet_id, filters)


class DropsBehindDollar(BrokerSession):
    """See `summary`."""

    summary = "acknowledges and drops what follows a PUBLISH to $aws within 50 ms, then closes, as amqtt does"
    SERVES_SHADOWS: ClassVar[bool] = False

    def __init__(self, *arguments: object, **more: object) -> None:
        super().__init__(*arguments, **more)  # type: ignore[arg-type]
        self._is_dropping = False

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Acknowledge whatever becomes of it."""
        if message.topic.startswith("$") and not self._is_dropping:
            self._is_dropping = True
            self.schedule(0.05, lambda: self.close("it left its loop"))
        if self._is_dropping:
            self.record.add_dropped(event)
        self.acknowledge(message.packet_id)


class NeverAnswersSubscribe(BrokerSession):
    """See `summary`."""

    summary = "answers no SUBSCRIBE"

    def on_subscribe(self, packet_id: int, filters: tuple[str, ...]) -> None:
        """Say nothing."""


class RefusesSubscribe(BrokerSession):
    """See `summary`."""

    summary = "refuses every subscription with 0x80, as a policy may"

    def on_subscribe(self, packet_id: int, filters: tuple[str, ...]) -> None:
        """Refuse each filter."""
        self.send(
            mqtt_packets.suback(packet_id, bytes([mqtt_packets.SUBSCRIPTION_FAILED] * len(filters)), level=self.level)
        )


class SmallReceiveMaximum(BrokerSession):
    """See `summary`."""

    summary = "allows 3 unacknowledged messages (Receive Maximum) and closes on a fourth; 3.1.1: has no such bound"
    _ALLOWED: ClassVar[int] = 3

    def __init__(self, *arguments: object, **more: object) -> None:
        super().__init__(*arguments, **more)  # type: ignore[arg-type]
        self._waiting = 0

    def on_connect(self) -> None:
        """Say how many it takes."""
        self.send(mqtt_packets.connack(level=self.level, receive_maximum=self._ALLOWED))

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """Acknowledge 5 ms later; end the connection on one too many."""
        self._waiting += 1
        if self.is_five and self._waiting > self._ALLOWED:
            self.send(mqtt_packets.disconnect(mqtt_packets.RECEIVE_MAXIMUM_EXCEEDED))
            self.close("receive maximum exceeded")
            return
        self.schedule(0.005, lambda: self._answer(message.packet_id))

    def _answer(self, packet_id: int) -> None:
        self._waiting -= 1
        self.acknowledge(packet_id)


class TakenOver(BrokerSession):
    """See `summary`."""

    summary = "gives the first 6 connections to another device after 0.3 s (0x8E; 3.1.1: just closes)"

    def on_connect(self) -> None:
        """Welcome, and let somebody else in soon."""
        self.send_connack()
        if self.number <= 6:  # noqa: PLR2004 - the summary's number
            self.schedule(0.3, self._take_over)

    def _take_over(self) -> None:
        if self.is_five:
            self.send(mqtt_packets.disconnect(mqtt_packets.SESSION_TAKEN_OVER))
        self.close("taken over")


class RefusesWill(BrokerSession):
    """See `summary`."""

    summary = "closes a connection that comes with a last will before it answers, as a policy may"

    def on_connect(self) -> None:
        """Close on a will."""
        if self.client is not None and self.client.will is not None:
            self.close("no will is allowed")
        else:
            self.send_connack()


class RetainsNothing(BrokerSession):
    """See `summary`."""

    summary = "keeps no retained messages: refuses a retained will (0x9A) and ends the connection on a retained message"

    def on_connect(self) -> None:
        """Refuse a retained will, else welcome."""
        if self.client is not None and self.client.will is not None and self.client.will.retain:
            reason = 0x9A if self.is_five else 0x05
            self.send(mqtt_packets.connack(level=self.level, reason=reason))
            self.close("a retained will")
            return
        self.send(mqtt_packets.connack(level=self.level, retains=False))

    def on_publish(self, message: Publish, event: BrokerEvent) -> None:
        """End the connection on what is to be retained."""
        if message.retain:
            self.close("a retained message")
        else:
            self.acknowledge(message.packet_id)


class NeverSendsConnack(BrokerSession):
    """See `summary`."""

    summary = "does not answer the first two CONNECTs"

    def on_connect(self) -> None:
        """Say nothing at first."""
        if self.number > 2:  # noqa: PLR2004 - the summary's number
            self.send_connack()


BROKER_BEHAVIOURS: Final[dict[str, type[BrokerSession]]] = {
    "honest": BrokerSession,
    "acks-then-closes": AcksThenCloses,
    "acks-then-resets": AcksThenResets,
    "closes-before-ack": ClosesBeforeAck,
    "half-ack": HalfAck,
    "duplicate-acks": DuplicateAcks,
    "shuffled-acks": ShuffledAcks,
    "late-acks": LateAcks,
    "unknown-acks": UnknownAcks,
    "stale-acks": StaleAcks,
    "pubcomp": PubcompForQos1,
    "pubrec": PubrecForQos1,
    "never-acks": NeverAcks,
    "refuses-every-fifth": RefusesEveryFifth,
    "garbage": SendsGarbage,
    "session-present": SessionPresent,
    "closes-on-dollar-subscribe": ClosesOnDollarSubscribe,
    "drops-behind-dollar": DropsBehindDollar,
    "never-answers-subscribe": NeverAnswersSubscribe,
    "refuses-subscribe": RefusesSubscribe,
    "small-receive-maximum": SmallReceiveMaximum,
    "taken-over": TakenOver,
    "refuses-will": RefusesWill,
    "retains-nothing": RetainsNothing,
    "never-welcomes": NeverSendsConnack,
}
