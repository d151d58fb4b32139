"""Arrivals over the MQTT transport: subscriptions that outlive brokers, bounds, refusals."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from typing import TYPE_CHECKING, Literal

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from simulator.doubles.network.mqtt_broker import AmqttBroker, MosquittoBroker
from tests.kits.mqtt import Sender, require_mosquitto, transport_to, wait_for

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from agent.adapters.mqtt import MqttTransport

TOPIC = "kensa/thing-1/hints"
SHADOW = "$aws/things/thing-1/shadow/name/kensa/get/accepted"
PROTOCOLS: tuple[Literal["3.1.1", "5"], ...] = ("3.1.1", "5")


@contextlib.contextmanager
def publisher(port: int) -> Iterator[paho.Client]:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="publisher")
    client.connect("127.0.0.1", port)
    client.loop_start()
    yield client
    client.disconnect()
    client.loop_stop()


def publish(client: paho.Client, topic: str, payload: bytes) -> None:
    client.publish(topic, payload, qos=1).wait_for_publish(30.0)


def heard_by(transport: MqttTransport, *topics: str) -> list[tuple[str, bytes]]:
    heard: list[tuple[str, bytes]] = []
    for topic in topics:
        transport.subscribe(topic, lambda where, payload: heard.append((where, payload)))
    return heard


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_subscribed_to_arrives_from_the_moment_that_the_connection_is_up(
    protocol: Literal["3.1.1", "5"],
) -> None:
    require_mosquitto()
    topics = [f"kensa/thing-1/hints/{number}" for number in range(11)]  # more than one SUBSCRIBE may hold
    with MosquittoBroker() as broker, publisher(broker.port) as client:
        transport = transport_to(broker.port, protocol=protocol)
        heard = heard_by(transport, *topics)
        with Sender(transport) as sender:
            wait_for(lambda: sender.up, "the connection")
            for topic in topics:
                publish(client, topic, topic.encode())
            wait_for(lambda: len(heard) == len(topics), "every message")
    assert heard == [(topic, topic.encode()) for topic in topics]
    assert transport.stats.dropped == {}


def test_a_small_broker_in_the_same_process_does_as_well() -> None:
    with AmqttBroker() as broker, publisher(broker.port) as client:
        transport = transport_to(broker.port)
        heard = heard_by(transport, TOPIC)
        with Sender(transport) as sender:
            wait_for(lambda: sender.up, "the connection")
            publish(client, TOPIC, b"1")
            wait_for(lambda: heard == [(TOPIC, b"1")], "the message")


def test_subscriptions_are_made_again_after_the_broker_died() -> None:
    require_mosquitto()
    with MosquittoBroker() as broker:
        transport = transport_to(broker.port)
        heard = heard_by(transport, TOPIC)
        with Sender(transport) as sender:
            for number in range(3):
                wait_for(lambda: sender.up, "the connection")
                with publisher(broker.port) as client:
                    publish(client, TOPIC, b"%d" % number)
                    wait_for(lambda: (TOPIC, b"%d" % number) in heard, "the message")  # noqa: B023 - called in the loop
                broker.kill()
                wait_for(lambda: not sender.up, "the loss")
                broker.start()


def test_a_message_over_its_topics_limit_is_dropped_and_counted() -> None:
    require_mosquitto()
    with MosquittoBroker() as broker, publisher(broker.port) as client:
        transport = transport_to(broker.port)
        heard = heard_by(transport, TOPIC, SHADOW)
        with Sender(transport) as sender:
            wait_for(lambda: sender.up, "the connection")
            for topic, size in ((TOPIC, 131_073), (SHADOW, 32_769), (TOPIC, 131_072), (SHADOW, 32_768)):
                publish(client, topic, b"x" * size)
            wait_for(lambda: len(heard) == 2, "the two that fit")
    assert [(topic, len(payload)) for topic, payload in heard] == [(TOPIC, 131_072), (SHADOW, 32_768)]
    assert transport.stats.dropped == {"oversized": 2}


class Grudging(socketserver.BaseRequestHandler):
    """A broker of MQTT 3.1.1 that lets everybody in and refuses every subscription, as IoT Core does by policy."""

    def handle(self) -> None:
        connection: socket.socket = self.request
        with contextlib.suppress(OSError):
            connection.recv(1_024)
            connection.sendall(b"\x20\x02\x00\x00")  # CONNACK
            subscribe = connection.recv(1_024)
            connection.sendall(b"\x90\x03" + subscribe[2:4] + b"\x80")  # SUBACK: failure
            while connection.recv(1_024):
                pass


def test_a_refused_subscription_is_named_and_the_connection_used_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Grudging) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, name="grudging")
        thread.start()
        transport = transport_to(server.server_address[1])
        heard_by(transport, TOPIC)
        with Sender(transport) as sender:
            wait_for(lambda: sender.up, "the connection")
        server.shutdown()
        thread.join()
    assert f"refuses the subscription to {TOPIC}" in caplog.text
