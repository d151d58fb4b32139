"""`kensa resend` fills the gap of a subscriber, through a running agent and alone."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import cv2
import paho.mqtt.client as paho
import pytest
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from agent import app, cli, config
from agent.wire import DecodedVerdicts, decode
from simulator.doubles.network.mqtt_broker import open_broker
from tests.kits.releases import spot_images, write_release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from simulator.doubles.network.mqtt_broker import LocalBroker

PATIENCE_S = 120.0
PARTS = 16


class Consumer:
    """A subscriber that comes late: what was published before is missing to it."""

    def __init__(self, broker: LocalBroker) -> None:
        self.seen: dict[int, bool] = {}  # number -> whether it was marked as a replay
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="consumer")
        self._client.on_connect = lambda client, *_: client.subscribe("kensa/thing/verdicts/cam", qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._take
        self._client.connect(broker.host, broker.port)

    def __enter__(self) -> Self:
        self._client.loop_start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _take(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        found = decode(bytes(message.payload))
        if isinstance(found, DecodedVerdicts):
            self.seen.update((verdict.seq, found.replay) for verdict in found.verdicts)


@pytest.fixture
def broker() -> Iterator[LocalBroker]:
    with open_broker() as found:
        yield found


@pytest.fixture
def path(tmp_path: Path, broker: LocalBroker) -> Path:
    """A configuration whose camera shows sixteen pictures and ends."""
    write_release(tmp_path / "release")
    (tmp_path / "images").mkdir()
    for index, image in enumerate(spot_images(PARTS)[0]):
        cv2.imwrite(str(tmp_path / "images" / f"{index:02d}.png"), image)
    tree: dict[str, Any] = {
        "thing": "thing",
        "line": "line",
        "state_dir": "state",
        "inspections": {
            "spots": {
                "release": "release",
                "intake": {"policy": "wait"},
                "cameras": {"cam": {"kind": "folder", "path": "images"}},
            }
        },
        "transport": {"kind": "mqtt", "host": broker.host, "port": broker.port, "protocol": broker.protocol},
    }
    path = tmp_path / "kensa.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def wait_for(is_reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_running_agent_sends_again_what_a_consumer_missed(
    path: Path, broker: LocalBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    with app.build(config.load(path)) as agent:
        wait_for(lambda: agent.outbox.stats().delivered == PARTS)
        with Consumer(broker) as consumer:
            assert cli.main(["resend", "cam", "3-12", "--config", str(path), "--json"]) == 0
            wait_for(lambda: set(range(3, 13)) <= consumer.seen.keys())
        assert all(consumer.seen.values()), "marked as a replay"
        told = json.loads(capsys.readouterr().out)
        assert (told["sent"], told["not_kept"], told["missing"]) == (10, 0, [])
        assert told["boot_epoch"] == agent.boot_epoch
        assert agent.outbox.stats().resent == told["messages"]


def test_without_an_agent_the_command_sends_by_itself_and_says_what_is_not_kept(
    path: Path, broker: LocalBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    with app.build(config.load(path)) as agent:
        wait_for(lambda: agent.outbox.stats().delivered == PARTS)
    with Consumer(broker) as consumer:
        assert cli.main(["resend", "cam", f"10-{PARTS + 3}", "--config", str(path)]) == 0
        wait_for(lambda: set(range(10, PARTS)) <= consumer.seen.keys())
    out = capsys.readouterr().out
    assert f"{PARTS - 10} of {PARTS - 6} verdicts sent again" in out
    assert f"4 are not kept: {PARTS}-{PARTS + 3}" in out


def test_what_cannot_be_sent_ends_with_a_reason(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with app.build(config.load(path)) as agent:
        wait_for(lambda: agent.outbox.stats().delivered == PARTS)
        assert cli.main(["resend", "cam", "500-600", "--config", str(path)]) == 1
        assert "is kept" in capsys.readouterr().err
        assert cli.main(["resend", "cam", "6-5", "--config", str(path)]) == 64
        assert cli.main(["resend", "other", "1-2", "--config", str(path)]) != 0
        assert "cameras with verdicts: cam" in capsys.readouterr().err
