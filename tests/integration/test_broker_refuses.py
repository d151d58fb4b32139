"""Brokers that lack features: verdicts flow, and the missing features are reported."""

from __future__ import annotations

import json
import logging
import queue
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Literal, Self

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from agent import config, wire
from agent.adapters.mqtt import FEATURES_FILE, TlsFiles
from agent.commands.doctor.check_result import CheckStatus
from agent.commands.doctor.checks.line import broker_topics
from agent.outbox import OutboxLimits
from simulator.campaigns.connectivity.messaging_stack import THING, MessagingStack
from simulator.doubles.network.mqtt_broker import MosquittoBroker
from simulator.doubles.network.tcp_proxy import TcpProxy
from simulator.faulty_broker import FaultyBroker
from tests.kits import model_status
from tests.kits.mqtt import PATIENCE_S, Authority, Sender, require_mosquitto, transport_to, wait_for
from tests.kits.releases import write_release
from tests.kits.requirements import require

if TYPE_CHECKING:
    from pathlib import Path

PROTOCOLS: tuple[Literal["3.1.1", "5"], ...] = ("3.1.1", "5")


def agent_parts(port: int, state_dir: Path, protocol: Literal["3.1.1", "5"] = "5", **more: Any) -> MessagingStack:
    settings: dict[str, Any] = {"timeout_s": 5.0, "backoff_s": (0.05, 0.2), **more}
    return MessagingStack(
        port=port,
        state_dir=state_dir,
        protocol=protocol,
        status=model_status.status(),
        limits=OutboxLimits(commit_s=0.01, seal_s=0.01),
        **settings,
    )


# --- the shadow -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_broker_that_ends_the_connection_on_the_shadow_gets_the_verdicts_and_the_reason_is_named(
    protocol: Literal["3.1.1", "5"], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultyBroker("closes-on-dollar-subscribe") as broker, agent_parts(broker.port, tmp_path, protocol) as parts:
        parts.append_defect(1)
        assert parts.wait_drained(PATIENCE_S)
        wait_for(lambda: "shadow" in parts.transport.stats.refused, "the reason")
        assert "during the setup step shadow" in parts.transport.stats.refused["shadow"]
    assert "verdicts go on without shadow" in caplog.text
    assert [event.connection for event in broker.record.events if event.what == "acknowledge"][-1] == 3


def test_what_the_broker_does_not_carry_is_remembered_over_restarts(tmp_path: Path) -> None:
    connections = []
    for _ in range(3):
        with FaultyBroker("closes-on-dollar-subscribe") as broker:
            content = (tmp_path / FEATURES_FILE).read_text() if (tmp_path / FEATURES_FILE).exists() else ""
            if content:  # the same broker, on another free port of this test
                known = json.loads(content)
                known["broker"] = f"MQTT broker 127.0.0.1:{broker.port} as {THING}"
                (tmp_path / FEATURES_FILE).write_text(json.dumps(known))
            with agent_parts(broker.port, tmp_path) as parts:
                parts.append_defect(1)
                assert parts.wait_drained(PATIENCE_S)
                wait_for(lambda: "shadow" in parts.transport.stats.refused, "the reason")
            connections.append(len([event for event in broker.record.events if event.what == "connect"]))
    assert connections == [3, 2, 1]


def test_a_verdict_waits_until_the_shadow_has_answered_so_that_none_is_behind_it(tmp_path: Path) -> None:
    with FaultyBroker() as broker, agent_parts(broker.port, tmp_path) as parts:
        for number in range(20):
            parts.append_defect(number)
        assert parts.wait_drained(PATIENCE_S)
    said = [event.topic for event in broker.record.events if event.what == "publish"]
    assert said[:2] == [f"kensa/{THING}/status", wire.shadow_topic(THING, "get")]
    assert said.count(wire.shadow_topic(THING, "get")) == 1, "the answer counts: it is not asked again"


# --- the status -------------------------------------------------------------------------------------------------------


class StatusReader:
    """A consumer of `kensa/{thing}/status` on a connection of its own."""

    def __init__(self, port: int) -> None:
        self.heard: queue.SimpleQueue[wire.StatusMessage] = queue.SimpleQueue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="reader")
        self._client.on_connect = lambda client, *_: client.subscribe(wire.status_topic(THING), qos=1)
        self._client.on_message = self._received
        self._client.connect("127.0.0.1", port)

    def _received(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        found = wire.decode(bytes(message.payload))
        assert isinstance(found, wire.StatusMessage)
        self.heard.put(found)

    def __enter__(self) -> Self:
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def next(self) -> wire.StatusMessage:
        return self.heard.get(timeout=PATIENCE_S)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_dead_device_is_seen_at_once_and_a_stopped_one_says_so(
    protocol: Literal["3.1.1", "5"], tmp_path: Path
) -> None:
    require_mosquitto()
    with MosquittoBroker() as broker, TcpProxy(port=broker.port) as proxy, StatusReader(broker.port) as reader:
        with agent_parts(proxy.port, tmp_path, protocol):
            there = reader.next()
            assert (there.state, there.reason, there.boot_epoch) == (wire.Presence.ONLINE, "connected", 1)
            proxy.cut()
            gone = reader.next()
            assert (gone.state, gone.reason, gone.since_us) == (wire.Presence.OFFLINE, "connection lost", None)
            assert gone.connected_us <= (there.since_us or 0)
            proxy.restore()
            again = reader.next()
            assert again.state is wire.Presence.ONLINE
            assert (again.since_us or 0) > (there.since_us or 0)
        stopped = reader.next()
        assert (stopped.state, stopped.reason) == (wire.Presence.OFFLINE, "stopped")
        with StatusReader(broker.port) as late:
            assert late.next() == stopped, "the broker keeps the newest"


def test_a_device_whose_last_message_is_not_acknowledged_is_shown_as_offline_all_the_same(tmp_path: Path) -> None:
    require_mosquitto()
    with MosquittoBroker() as broker, StatusReader(broker.port) as reader:
        with agent_parts(broker.port, tmp_path):
            assert reader.next().state is wire.Presence.ONLINE
            broker.pause()
        broker.resume()
        assert reader.next().state is wire.Presence.OFFLINE
        with StatusReader(broker.port) as late:
            assert late.next().state is wire.Presence.OFFLINE


@pytest.mark.parametrize("behaviour", ["refuses-will", "retains-nothing"])
def test_a_broker_that_takes_no_will_or_keeps_nothing_gets_the_verdicts(behaviour: str, tmp_path: Path) -> None:
    with FaultyBroker(behaviour) as broker, agent_parts(broker.port, tmp_path, "3.1.1") as parts:
        parts.append_defect(1)
        assert parts.wait_drained(PATIENCE_S)
        wait_for(lambda: "will" in parts.transport.stats.refused, "the reason")


# --- who takes the session --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_another_device_with_this_client_id_is_named(protocol: Literal["3.1.1", "5"], tmp_path: Path) -> None:
    with FaultyBroker("taken-over") as broker, agent_parts(broker.port, tmp_path, protocol) as parts:
        named = f"another device uses this client id, '{THING}'"
        wait_for(lambda: named in parts.outbox.stats().reason, "the name")
        parts.append_defect(1)
        assert parts.wait_drained(PATIENCE_S)


# --- files that change ------------------------------------------------------------------------------------------------


def copied(files: TlsFiles, to: TlsFiles) -> None:
    for source, target in ((files.ca, to.ca), (files.certificate, to.certificate), (files.key, to.key)):
        assert source is not None
        assert target is not None
        shutil.copy(source, target)


def test_rotated_certificates_are_used_by_the_next_connection_and_a_bad_one_is_named(tmp_path: Path) -> None:
    require_mosquitto()
    ours, theirs = Authority.found(tmp_path / "ours"), Authority.found(tmp_path / "theirs")
    server, good, bad = ours.issue("localhost"), ours.issue("thing-1"), theirs.issue("thing-1")
    device = TlsFiles(ca=tmp_path / "ca.pem", certificate=tmp_path / "device.pem", key=tmp_path / "device.key")
    copied(TlsFiles(ca=good.ca, certificate=bad.certificate, key=bad.key), device)
    settings = [
        f"cafile {server.ca}", f"certfile {server.certificate}", f"keyfile {server.key}", "require_certificate true",
    ]  # fmt: skip
    with MosquittoBroker(settings=settings) as broker, Sender(transport_to(broker.port, tls=device)) as sender:
        wait_for(lambda: bool(sender.reasons), "the refusal")
        assert device.certificate is not None
        device.certificate.write_text("half a certificate")
        wait_for(lambda: any("not PEM" in reason for reason in sender.reasons), "the name of the bad file")
        assert sender.ups == 0
        copied(good, device)
        wait_for(lambda: sender.up, "the connection with the new certificate")


def test_a_password_file_is_read_again_and_tls_needs_no_certificate_of_the_device(tmp_path: Path) -> None:
    require_mosquitto()
    program = shutil.which("mosquitto_passwd") or ""
    require(program, "mosquitto_passwd", "apt install mosquitto")
    server = Authority.found(tmp_path / "ca").issue("localhost")
    passwords, secret = tmp_path / "passwords", tmp_path / "secret"
    subprocess.run([program, "-b", "-c", str(passwords), "kensa", "right"], check=True, capture_output=True)
    passwords.chmod(0o644)
    secret.write_text("wrong\n")
    settings = [
        f"cafile {server.ca}", f"certfile {server.certificate}", f"keyfile {server.key}", f"password_file {passwords}",
    ]  # fmt: skip
    more: dict[str, Any] = {"tls": TlsFiles(ca=server.ca), "username": "kensa", "password_file": secret}
    with (
        MosquittoBroker(settings=settings, anonymous=False) as broker,
        Sender(transport_to(broker.port, protocol="5", **more)) as sender,
    ):
        wait_for(lambda: any("Not authorized" in reason for reason in sender.reasons), "the refusal")
        secret.unlink()
        wait_for(lambda: any("cannot be read" in reason for reason in sender.reasons), "the name of the file")
        secret.write_text("right\n")
        wait_for(lambda: sender.up, "the connection with the new password")


# --- kensa doctor -----------------------------------------------------------------------------------------------------


def line_config(tmp_path: Path, port: int, protocol: str) -> config.Config:
    write_release(tmp_path / "release")
    camera = {"kind": "folder", "path": str(tmp_path)}
    return config.parse(
        {
            "thing": THING,
            "line": "line-1",
            "state_dir": str(tmp_path / "state"),
            "inspections": {
                "top": {"release": str(tmp_path / "release"), "cameras": {"cam-1": camera, "cam-2": camera}}
            },
            "transport": {"kind": "mqtt", "host": "127.0.0.1", "port": port, "protocol": protocol},
        },
        source="test",
        base=tmp_path,
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_doctor_says_topic_by_topic_what_is_allowed(protocol: str, tmp_path: Path) -> None:
    with FaultyBroker(forbidden=[f"kensa/{THING}/verdicts/cam-2"]) as broker:
        found = {
            f.check: f for f in broker_topics.check_topics(line_config(tmp_path, broker.port, protocol), running=True)
        }
    assert found[f"topic kensa/{THING}/verdicts/cam-2"].status is CheckStatus.FAIL
    allowed = CheckStatus.OK if protocol == "5" else CheckStatus.WARN  # 3.1.1: an acknowledged message may be dropped
    assert found[f"topic kensa/{THING}/verdicts/cam-1"].status is allowed
    assert set(found) >= {f"topic kensa/{THING}/heartbeat", f"topic kensa/{THING}/status"}
    payloads = [event.payload for event in broker.record.events if event.what == "publish"]
    assert all(isinstance(wire.decode(payload), wire.Probe) for payload in payloads)
    clients = {event.topic for event in broker.record.events if event.what == "connect"}
    assert clients == {f"{THING}-doctor"}, "a running agent keeps its connection"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_doctor_sees_its_messages_come_back(protocol: str, tmp_path: Path) -> None:
    require_mosquitto()
    with MosquittoBroker() as broker:
        found = list(broker_topics.check_topics(line_config(tmp_path, broker.port, protocol), running=False))
    assert [finding.status for finding in found] == [CheckStatus.OK] * 4
    assert all("came back" in finding.seen for finding in found)


# --- the log ----------------------------------------------------------------------------------------------------------


def test_an_outage_is_told_once_for_each_reason_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    require_mosquitto()
    caplog.set_level(logging.INFO, "agent.adapters.mqtt")
    with (
        MosquittoBroker() as broker,
        TcpProxy(port=broker.port) as proxy,
        Sender(transport_to(proxy.port)) as sender,
    ):
        wait_for(lambda: sender.up, "the connection")
        caplog.clear()
        proxy.cut()
        wait_for(lambda: len(sender.reasons) > 6, "several vain attempts")
        proxy.restore()
        wait_for(lambda: sender.ups == 2, "the connection again")
        lines = [record.message for record in caplog.records if record.name == "agent.adapters.mqtt"]
    kinds = {line.partition(": ")[2] for line in lines[:-1]}
    assert len(lines) - 1 == len(kinds), "each reason once"
    assert "is connected again" in lines[-1]
