"""The behaviours of the faulty broker by name: one class each.

Each was seen at a real broker or can be provoked by a crash, a full queue or a policy of one. Where a behaviour cannot
be expressed in MQTT 3.1.1, its class says what it does there instead.
"""

from __future__ import annotations

from typing import Final

from simulator.faulty_broker import publish_behaviours as publish
from simulator.faulty_broker import session_behaviours as session
from simulator.faulty_broker.broker_session import BrokerSession

BROKER_BEHAVIOURS: Final[dict[str, type[BrokerSession]]] = {
    "honest": BrokerSession,
    "acks-then-closes": publish.AcksThenCloses,
    "acks-then-resets": publish.AcksThenResets,
    "closes-before-ack": publish.ClosesBeforeAck,
    "half-ack": publish.HalfAck,
    "duplicate-acks": publish.DuplicateAcks,
    "shuffled-acks": publish.ShuffledAcks,
    "late-acks": publish.LateAcks,
    "unknown-acks": publish.UnknownAcks,
    "stale-acks": publish.StaleAcks,
    "pubcomp": publish.PubcompForQos1,
    "pubrec": publish.PubrecForQos1,
    "never-acks": publish.NeverAcks,
    "refuses-every-fifth": publish.RefusesEveryFifth,
    "garbage": publish.SendsGarbage,
    "session-present": session.SessionPresent,
    "closes-on-dollar-subscribe": session.ClosesOnDollarSubscribe,
    "drops-behind-dollar": session.DropsBehindDollar,
    "never-answers-subscribe": session.NeverAnswersSubscribe,
    "refuses-subscribe": session.RefusesSubscribe,
    "small-receive-maximum": session.SmallReceiveMaximum,
    "taken-over": session.TakenOver,
    "refuses-will": session.RefusesWill,
    "retains-nothing": session.RetainsNothing,
    "never-welcomes": session.NeverSendsConnack,
}
