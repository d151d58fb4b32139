"""The doctor checks cameras and broker, or asks the agent that runs."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from agent import app, config, control
from agent.commands.doctor import command
from agent.commands.doctor.check_result import CheckStatus
from agent.commands.doctor.checks.line import running_agent
from simulator.doubles.network.mqtt_broker import open_broker
from tests.kits.doctor_site import findings, healthy_site, written

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path) -> dict[str, Any]:
    return healthy_site(tmp_path)


@pytest.mark.parametrize(
    ("camera", "says"),
    [
        ({"width": 640, "height": 480}, "64x64 px mono, first frame after"),
        ({"path": "/nowhere"}, "/nowhere"),
        ({"split": "val"}, "val"),
    ],
)
def test_a_camera_that_would_deliver_nothing_usable_is_a_failure(
    tmp_path: Path, site: dict[str, Any], camera: dict[str, Any], says: str
) -> None:
    site["inspections"]["top"]["cameras"]["cam"].update(camera)

    finding = findings(tmp_path, site)["camera cam"]

    assert finding.status is CheckStatus.FAIL
    assert says in finding.seen
    assert finding.remedy


def test_a_roi_outside_the_cameras_picture_is_a_failure(tmp_path: Path, site: dict[str, Any]) -> None:
    site["inspections"]["top"]["roi"] = [0, 0, 500, 500]

    finding = findings(tmp_path, site)["camera cam"]

    assert finding.status is CheckStatus.FAIL
    assert "does not lie in a frame of 64x64 px" in finding.seen


def test_pictures_of_kinds_that_are_not_read_are_a_warning(tmp_path: Path, site: dict[str, Any]) -> None:
    (tmp_path / "images" / "1.tif").write_bytes(b"II*")
    found = findings(tmp_path, site)["camera cam"]
    assert found.status is CheckStatus.WARN
    assert "1 picture of other kinds passed over: 1 .tif (1.tif)" in found.seen
    assert "save these pictures as PNG" in str(found.remedy)


def test_a_damaged_picture_is_told_as_such(tmp_path: Path, site: dict[str, Any]) -> None:
    (tmp_path / "images" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")

    finding = findings(tmp_path, site)["camera cam"]

    assert finding.status is CheckStatus.FAIL
    assert "its first frame cannot be used" in finding.seen


def test_a_broker_that_answers_is_found(tmp_path: Path, site: dict[str, Any]) -> None:
    with open_broker() as broker:
        site["transport"] = {"kind": "mqtt", "host": broker.host, "port": broker.port, "protocol": "3.1.1"}

        finding = findings(tmp_path, site)["broker"]

    assert finding.status is CheckStatus.OK, finding
    assert "MQTT 3.1.1, connected as thing-1" in finding.seen


def test_brokers_that_cannot_be_reached_are_told_apart(tmp_path: Path, site: dict[str, Any]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    site["transport"] = {"kind": "mqtt", "host": "127.0.0.1", "port": free}
    refused = findings(tmp_path, site)["broker"]
    site["transport"] = {"kind": "mqtt", "host": "no-such-host.invalid", "port": free}
    unknown = findings(tmp_path, site)["broker"]

    assert (refused.status, unknown.status) == (CheckStatus.FAIL, CheckStatus.FAIL)
    assert "refused" in refused.seen
    assert "has no address" in unknown.seen


def test_a_running_agent_is_asked_instead_of_its_cameras(tmp_path: Path, site: dict[str, Any]) -> None:
    path = written(tmp_path, site)
    with app.build(config.load(path)):
        found = {finding.check: finding for finding in command.run_checks(path)}

    assert found["agent"].seen == f"runs on this state directory as process {os.getpid()}"
    assert "says the running agent" in found["camera cam"].seen
    assert found["broker"].status is CheckStatus.WARN
    assert control.running_agent(tmp_path / "state") is None


def test_what_the_agent_says_of_cameras_and_broker_is_passed_on() -> None:
    beat = {
        "cameras": [{"camera": "c", "state": "reconnecting", "fps": 0.0, "error": "no route"}],
        "transport": "down",
        "transport_reason": "not authorised",
    }

    camera, broker = running_agent.results_from_agent({"heartbeat": beat})

    assert (camera.status, broker.status) == (CheckStatus.FAIL, CheckStatus.FAIL)
    assert "no route" in camera.seen
    assert "not authorised" in broker.seen


def test_a_topic_that_the_broker_refuses_is_a_failure_with_its_reason() -> None:
    held = {"topic": "kensa/t/verdicts/c", "reason": "Not authorized", "for_s": 90.0}
    beat = {"cameras": [], "transport": "up", "outbox": {"held_back": [held]}}

    topic, broker = running_agent.results_from_agent({"heartbeat": beat})

    assert (topic.status, broker.status) == (CheckStatus.FAIL, CheckStatus.OK)
    assert topic.check == "topic kensa/t/verdicts/c"
    assert "refused for 90 s, its messages wait: Not authorized" in topic.seen
