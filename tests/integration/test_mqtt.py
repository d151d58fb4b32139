"""The MQTT transport against real brokers: protocol versions, mutual TLS, access by certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from agent.errors import TransportError
from simulator.doubles.network.mqtt_broker import AmqttBroker, MosquittoBroker
from tests.kits.mqtt import TOPIC, Authority, Listener, Sender, require_mosquitto, transport_to, wait_for

if TYPE_CHECKING:
    from pathlib import Path

PROTOCOLS: tuple[Literal["3.1.1", "5"], ...] = ("3.1.1", "5")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_message_reaches_a_subscriber_of_mosquitto(protocol: Literal["3.1.1", "5"]) -> None:
    require_mosquitto()
    with MosquittoBroker() as broker, Listener(broker.port) as listener:
        with Sender(transport_to(broker.port, protocol=protocol)) as sender:
            sender.send(range(500))
            listener.wait_for_all(range(500))
            wait_for(lambda: sender.idle, "the last acknowledgement")
        assert listener.received == list(range(500))


def test_every_message_reaches_a_subscriber_of_amqtt() -> None:
    with AmqttBroker() as broker, Listener(broker.port) as listener, Sender(transport_to(broker.port)) as sender:
        sender.send(range(100))
        listener.wait_for_all(range(100))
        wait_for(lambda: sender.idle, "the last acknowledgement")


def test_a_broker_without_mqtt_5_is_named_with_the_setting_to_change() -> None:
    with AmqttBroker() as broker, Sender(transport_to(broker.port, protocol="5")) as sender:
        wait_for(lambda: bool(sender.reasons), "the refusal")
        assert "transport.protocol" in sender.reasons[0]


def test_no_more_is_taken_than_may_be_in_flight() -> None:
    require_mosquitto()
    with MosquittoBroker() as broker:
        transport = transport_to(broker.port, max_in_flight=3)
        with Sender(transport) as sender:
            wait_for(lambda: sender.up, "the connection")
            broker.pause()
            for token in range(3):
                transport.publish(token, TOPIC, b"x")
            with pytest.raises(TransportError, match="3 messages are unacknowledged"):
                transport.publish(3, TOPIC, b"x")
            broker.resume()


def test_a_broker_of_mqtt_5_may_allow_less_in_flight_than_is_configured() -> None:
    require_mosquitto()
    with (
        MosquittoBroker(settings=["max_inflight_messages 2"]) as broker,
        Listener(broker.port) as listener,
        Sender(transport_to(broker.port, protocol="5", max_in_flight=32)) as sender,
    ):
        sender.send(range(200))
        listener.wait_for_all(range(200))
        wait_for(lambda: sender.idle, "the last acknowledgement")
        assert sender.ups == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mutual_tls_lets_the_device_publish_under_its_certificates_name_only(
    protocol: Literal["3.1.1", "5"], tmp_path: Path
) -> None:
    require_mosquitto()
    authority = Authority.found(tmp_path / "ca")
    server, device, stranger = (authority.issue(name) for name in ("localhost", "thing-1", "thing-2"))
    rules = tmp_path / "acl"
    rules.write_text("pattern write kensa/%u/#\nuser listener\ntopic read kensa/#\n")
    settings = [
        f"cafile {server.ca}", f"certfile {server.certificate}", f"keyfile {server.key}",
        "require_certificate true", "use_identity_as_username true", f"acl_file {rules}",
    ]  # fmt: skip
    with (
        MosquittoBroker(settings=settings, anonymous=False) as broker,
        Listener(broker.port, tls=authority.issue("listener")) as listener,
    ):
        with Sender(transport_to(broker.port, protocol=protocol, tls=device)) as sender:
            sender.send(range(50))
            listener.wait_for_all(range(50))
            wait_for(lambda: sender.idle, "the last acknowledgement")
        with Sender(transport_to(broker.port, protocol=protocol, tls=stranger, client_id="thing-2")) as other:
            other.send(range(50, 51))
            wait_for(lambda: other.idle or bool(other.rejections), "what the broker thinks of it")
            # MQTT 3.1.1 cannot refuse a publish: mosquitto acknowledges and discards it.
            assert protocol == "3.1.1" or "Not authorized" in other.rejections[0]
            assert other.ups == 1, "one refused message does not end the connection"
        assert listener.received == list(range(50))


def test_a_broker_that_is_not_trusted_is_not_spoken_to(tmp_path: Path) -> None:
    require_mosquitto()
    ours, theirs = Authority.found(tmp_path / "ours"), Authority.found(tmp_path / "theirs")
    server, device = theirs.issue("localhost"), ours.issue("thing-1")
    settings = [f"cafile {server.ca}", f"certfile {server.certificate}", f"keyfile {server.key}"]
    with MosquittoBroker(settings=settings) as broker, Sender(transport_to(broker.port, tls=device)) as sender:
        wait_for(lambda: bool(sender.reasons), "the refusal")
        assert "not trusted" in sender.reasons[0]
        assert "transport.tls.ca" in sender.reasons[0]
        assert sender.ups == 0


def test_a_client_without_its_certificate_is_refused_and_told_so(tmp_path: Path) -> None:
    require_mosquitto()
    authority = Authority.found(tmp_path / "ca")
    server = authority.issue("localhost")
    settings = [
        f"cafile {server.ca}", f"certfile {server.certificate}", f"keyfile {server.key}", "require_certificate true",
    ]  # fmt: skip
    with MosquittoBroker(settings=settings) as broker, Sender(transport_to(broker.port)) as sender:
        wait_for(lambda: bool(sender.reasons), "the refusal")
        assert "TLS" in sender.reasons[0]
        assert sender.ups == 0


def test_a_wrong_password_is_named_with_the_settings_to_check(tmp_path: Path) -> None:
    require_mosquitto()
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    with (
        MosquittoBroker(settings=[f"password_file {passwords}"], anonymous=False) as broker,
        Sender(transport_to(broker.port, protocol="5", username="kensa", password=tmp_path.name)) as sender,
    ):
        wait_for(lambda: bool(sender.reasons), "the refusal")
        assert "refused the connection: Not authorized" in sender.reasons[0]


def test_another_agent_with_the_same_client_id_is_named() -> None:
    require_mosquitto()
    with MosquittoBroker() as broker, Sender(transport_to(broker.port, protocol="5")) as first:
        wait_for(lambda: first.up, "the first agent")
        with Sender(transport_to(broker.port, protocol="5", backoff_s=(20.0, 20.0))) as second:
            wait_for(lambda: second.up and len(first.reasons) > 1, "the second agent")
            assert "client id" in first.reasons[1]


def test_closing_twice_and_closing_while_the_broker_is_away_are_quick() -> None:
    transport = transport_to(1, timeout_s=10.0)
    with Sender(transport) as sender:
        wait_for(lambda: bool(sender.reasons), "the first failure")
        transport.close(timeout_s=5.0)
    with pytest.raises(TransportError, match="not connected to MQTT broker"):
        transport.publish(1, TOPIC, b"x")
