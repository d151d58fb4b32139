"""An MQTT 3.1.1 and 5 broker that misbehaves in one chosen way and records what happened.

    python -m simulator.faulty_broker --list
    python -m simulator.faulty_broker --behaviour half-ack --port 1883 --record record.jsonl

    with FaultyBroker("stale-acks", forbidden=["kensa/+/verdicts/cam-2"]) as broker:
        connect_to(broker.host, broker.port)
        ...
    broker.record.acknowledged()  # topic and payload of each message whose own PUBACK went out

It serves publishers: a SUBSCRIBE is answered, but nothing is passed on, except that a request for an AWS shadow is
answered with 404. It listens on the loopback only and knows no
users and no TLS. Point any client at it, not only Kensa: whoever keeps messages until they are acknowledged must end
with every message either still kept or in `record.acknowledged()`.
"""

from simulator.faulty_broker.broker_behaviours import BROKER_BEHAVIOURS
from simulator.faulty_broker.broker_record import BrokerEvent, BrokerRecord
from simulator.faulty_broker.broker_server import FaultyBroker

__all__ = ["BROKER_BEHAVIOURS", "BrokerEvent", "BrokerRecord", "FaultyBroker"]
