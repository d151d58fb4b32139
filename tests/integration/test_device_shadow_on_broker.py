"""Outbox, MQTT transport, shadow adapter and the simulated shadow service on a real broker."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal

import pytest

from agent.adapters.device_shadow import ShadowDesiredState
from agent.outbox import Outbox
from agent.records import Outcome
from agent.release_records import DesiredRelease
from agent.timing.clock import SystemClock
from simulator.doubles.network.mqtt_broker import AmqttBroker, MosquittoBroker
from simulator.doubles.servers.shadow_service import ShadowService
from tests.kits import model_status
from tests.kits.mqtt import require_mosquitto, transport_to, wait_for
from tests.kits.outbox import make_verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

THING = "thing-1"
PROTOCOLS: tuple[Literal["3.1.1", "5"], ...] = ("3.1.1", "5")


class Device:
    """What stands between a lifecycle and the broker."""

    def __init__(self, port: int, state_dir: Path, *, protocol: Literal["3.1.1", "5"] = "5") -> None:
        clock = SystemClock()
        transport = transport_to(port, protocol=protocol, thing=THING)
        self.heard: list[DesiredRelease] = []
        self.outbox = Outbox(state_dir=state_dir, transport=transport, clock=clock)
        self.shadow = ShadowDesiredState(
            thing=THING,
            inspections=["surface"],
            transport=transport,
            publish_now=self.outbox.publish_now,
            add_connection_listener=self.outbox.add_connection_listener,
            clock=clock,
        )

    @contextlib.contextmanager
    def running(self) -> Iterator[Device]:
        with self.outbox:
            self.shadow.start(on_desired=lambda _inspection, desired: self.heard.append(desired))
            try:
                yield self
            finally:
                self.shadow.close()

    def wait_for_wish(self, release_id: str) -> None:
        wait_for(lambda: bool(self.heard) and self.heard[-1].release_id == release_id, f"the wish for {release_id}")


def wait_for_report(service: ShadowService, state: str) -> None:
    wait_for(lambda: service.reported(THING).get("surface", {}).get("state") == state, f"the report of {state}")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_wish_arrives_and_the_state_is_told(protocol: Literal["3.1.1", "5"], tmp_path: Path) -> None:
    require_mosquitto()
    with MosquittoBroker() as broker, ShadowService(host=broker.host, port=broker.port) as service:
        service.desire(THING, "surface", "parts/1.1.0")
        with Device(broker.port, tmp_path, protocol=protocol).running() as device:
            device.wait_for_wish("parts/1.1.0")
            device.shadow.report(model_status.status(state="trial"))
            wait_for_report(service, "trial")
            service.desire(THING, "surface", "parts/1.2.0", mode="ab", share=0.25)
            device.wait_for_wish("parts/1.2.0")
        assert device.heard == [
            DesiredRelease("parts/1.1.0", "release", 0.5, "shadow"),
            DesiredRelease("parts/1.2.0", "ab", 0.25, "shadow"),
        ]
        assert set(device.shadow.counters) <= {"taken", "duplicate"}


def test_a_broker_that_does_not_carry_shadows_still_gets_the_verdicts(tmp_path: Path) -> None:
    assert not AmqttBroker.carries_shadows
    with AmqttBroker() as broker, Device(broker.port, tmp_path, protocol="3.1.1").running() as device:
        device.shadow.report(model_status.status())
        wait_for(lambda: "refused_by_broker" in device.shadow.counters, "the adapter to notice")
        device.outbox.append([make_verdict(1, Outcome.DEFECT)])
        wait_for(lambda: device.outbox.stats().delivered == 1, "the verdict")
        assert device.heard == []


def test_wishes_and_reports_survive_brokers_that_die(tmp_path: Path) -> None:
    require_mosquitto()
    with (
        MosquittoBroker() as broker,
        ShadowService(host=broker.host, port=broker.port) as service,
        Device(broker.port, tmp_path).running() as device,
    ):
        for number in range(3):
            service.desire(THING, "surface", f"parts/1.{number}.0")
            device.wait_for_wish(f"parts/1.{number}.0")
            broker.kill()
            device.shadow.report(model_status.status(state=f"lost{number}"))
            device.shadow.report(model_status.status(state=f"kept{number}"))
            broker.start()
            service.wait_ready()
            wait_for_report(service, f"kept{number}")


def test_a_device_that_starts_before_its_broker_is_told_when_it_comes(tmp_path: Path) -> None:
    require_mosquitto()
    with MosquittoBroker() as broker, ShadowService(host=broker.host, port=broker.port) as service:
        broker.kill()
        with Device(broker.port, tmp_path).running() as device:
            device.shadow.report(model_status.status(state="waiting"))
            wait_for(lambda: "not started" not in device.outbox.stats().reason, "the first failure")
            assert device.heard == []
            broker.start()
            service.wait_ready()
            service.desire(THING, "surface", "parts/1.1.0")
            device.wait_for_wish("parts/1.1.0")
            wait_for_report(service, "waiting")


def test_a_plain_broker_without_a_shadow_service_harms_nothing(tmp_path: Path) -> None:
    require_mosquitto()
    with MosquittoBroker() as broker, Device(broker.port, tmp_path).running() as device:
        device.shadow.report(model_status.status())
        wait_for(lambda: device.outbox.stats().connected and device.outbox.is_drained, "the connection")
    assert device.heard == []
