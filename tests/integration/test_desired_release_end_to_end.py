"""Desired releases from the device shadow and from a person, through a real broker."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import cv2
import yaml

from agent import app, cli, config
from simulator.doubles.lifecycle.fake_repository import FakeReleaseFetcher, FakeRepository
from simulator.doubles.network.mqtt_broker import MosquittoBroker
from simulator.doubles.servers.shadow_service import ShadowService
from tests.kits.mqtt import require_mosquitto
from tests.kits.releases import line_images, write_release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

THING = "thing-1"
PATIENCE_S = 90.0
POLICY = {
    "shadow_parts": 60,
    "trial": [{"share": 0.5, "parts": 40}, {"share": 1.0, "parts": 80}],
    "latency_ratio": 50.0,
}
LIMITS = {
    "min_shadow_parts": 60,
    "min_trial_parts": 100,
    "shadow_max_fps": 500.0,
    "deadline_ms": 30_000.0,  # a busy machine is not what is tested
    "max_latency_ratio": 50.0,
    "probation_s": 0.0,
}


def write_config(folder: Path, port: int) -> Path:
    """A line that shows sixteen pictures over and over."""
    images = folder / "images"
    images.mkdir()
    for index, image in enumerate(line_images()):
        cv2.imwrite(str(images / f"{index:02d}.png"), image)
    root = folder / "1.root.json"
    root.write_text("{}")  # the simulated cloud signs nothing
    camera = {"kind": "folder", "path": "images", "fps": 200, "loop": True}
    tree = {
        "thing": THING,
        "line": "line-1",
        "state_dir": "state",
        "inspections": {
            "spots": {
                "release": str(write_release(folder / "factory")),
                "intake": {"policy": "wait"},
                "cameras": {"cam": camera},
            }
        },
        "transport": {"kind": "mqtt", "host": "127.0.0.1", "port": port},
        "updates": {"repository": str(folder), "root": str(root), "site": "hall-1", "limits": LIMITS},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def until(condition: Callable[[], bool], seen: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, seen()
        time.sleep(0.02)


def test_the_newest_wish_wins_whoever_had_it_and_both_sides_see_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_mosquitto()
    cloud = FakeRepository()
    for counter, version in enumerate(("1.1.0", "1.2.0"), 1):
        cloud.publish(write_release(tmp_path / version, version=version, counter=counter, rollout=POLICY))

    def show() -> dict[str, Any]:
        assert cli.main(["model", "show", str(path), "--json"]) == 0
        values: dict[str, Any] = json.loads(capsys.readouterr().out)["inspections"]["spots"]
        return values

    with MosquittoBroker() as broker, ShadowService(host=broker.host, port=broker.port) as service:
        path = write_config(tmp_path, broker.port)

        def reports(release_id: str) -> bool:
            reported = service.reported(THING).get("spots", {})
            return (reported.get("release"), reported.get("state")) == (release_id, "idle")

        service.desire(THING, "spots", "spots/1.1.0")
        with app.build(config.load(path), fetcher=FakeReleaseFetcher(cloud)):
            until(lambda: reports("spots/1.1.0"), show)
            assert show()["desired"]["source"] == "shadow"
            assert cli.main(["model", "desire", str(path), "spots/1.2.0"]) == 0
            capsys.readouterr()
            until(lambda: reports("spots/1.2.0"), show)
        requests = service.requests
        with app.build(config.load(path), fetcher=FakeReleaseFetcher(cloud)):
            until(lambda: service.requests >= requests + 2, show)  # the shadow is read and told again
            until(lambda: reports("spots/1.2.0"), show)
            values = show()
            assert values["active"]["release"] == "spots/1.2.0"
            assert (values["desired"]["release_id"], values["desired"]["source"]) == ("spots/1.2.0", "control")
            assert cli.main(["status", str(path)]) == 0
            assert "model spots: idle, spots/1.2.0" in capsys.readouterr().out
