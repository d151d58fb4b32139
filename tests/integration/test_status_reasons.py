"""`kensa status` says why each thing is not well: a running agent is asked in good and in bad states."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING, Any

import cv2
import pytest

from agent import app, config
from agent.cli import main
from agent.commands.status import _text
from simulator.doubles.network.memory_transport import MemoryTransport
from tests.kits.releases import spot_images, write_release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_S = 60.0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[app.Agent, Path]]:
    """A line with a folder that loops."""
    write_release(tmp_path / "release")
    (tmp_path / "images").mkdir()
    for index, image in enumerate(spot_images(4)[0]):
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), image)
    camera = {"kind": "folder", "path": "images", "fps": 30.0, "loop": True}
    tree = {
        "thing": "thing", "line": "line", "state_dir": "state", "transport": {"kind": "none"},
        "inspections": {"spots": {"release": "release", "cameras": {"cam": camera}}},
    }  # fmt: skip
    (tmp_path / "line.yaml").write_text(json.dumps(tree))
    agent = app.build(config.load(tmp_path / "line.yaml"), transport=MemoryTransport())
    with agent:
        until(lambda: agent.cameras["cam"].counters.snapshot().inspected > 3)
        yield agent, tmp_path


def until(is_reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def status(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    """The answer for people, and the one for machines."""
    capsys.readouterr()
    assert main(["status", str(folder / "line.yaml")]) == 0
    text = capsys.readouterr().out
    assert main(["status", str(folder / "line.yaml"), "--json"]) == 0
    return text, json.loads(capsys.readouterr().out)


def test_a_line_that_is_well_names_no_trouble(
    running: tuple[app.Agent, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    text, values = status(running[1], capsys)
    assert values["active_conditions"] == []
    for word in ("FAULT", "NOT COMMITTED", "faults", "lost", "refused"):
        assert word not in text


def test_a_camera_that_is_gone_is_named_with_its_reason_until_it_delivers_again(
    running: tuple[app.Agent, Path], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    agent, folder = running
    shutil.move(folder / "images", folder / "away")
    view = agent.cameras["cam"]
    view.capture.reconfigure(view.settings)  # opened again
    until(lambda: bool(agent.supervisor.conditions()))
    text, values = status(folder, capsys)
    (found,) = [one for one in values["active_conditions"] if one["what"] == "camera cam"]
    assert "does not exist" in found["reason"]
    assert "FAULT for" in text
    assert "  why: " in text
    shutil.move(folder / "away", folder / "images")
    until(lambda: "camera cam delivers again" in caplog.text)
    assert "FAULT" not in status(folder, capsys)[0]


def test_a_bug_in_a_thread_is_counted_and_named(
    running: tuple[app.Agent, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    agent, folder = running
    agent.supervisor.record_fault("keeper", "thread kensa-keeper", ZeroDivisionError("x"))
    agent.supervisor.losses.count("heartbeats", 3)
    text, values = status(folder, capsys)
    assert values["threads"]["faults"] == {"keeper": 1}
    assert "faults of threads: 1 keeper; the last: thread kensa-keeper: ZeroDivisionError: x" in text
    assert "dropped or refused beside frames: 3 heartbeats" in text
    assert "FAULT for" in text


def test_a_disk_that_refuses_the_outbox_and_what_was_lost_with_it_are_named(
    running: tuple[app.Agent, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, values = status(running[1], capsys)
    reason = "The outbox cannot commit: database or disk is full."
    values["outbox"].update(storage_error=reason, evicted=7, damaged=2)
    text = _text(values, [])
    assert f"NOT COMMITTED: {reason}" in text
    assert "7 verdicts lost: given up because the outbox was full" in text
    assert "2 verdicts lost: damaged on disk" in text
