"""Misbehaviour of a broker towards CONNECT and SUBSCRIBE, its limits, and what it retains."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from simulator.faulty_broker import mqtt_packets
from simulator.faulty_broker.broker_session import BrokerSession

if TYPE_CHECKING:
    from simulator.faulty_broker.broker_record import BrokerEvent
    from simulator.faulty_broker.mqtt_packets import Publish


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
