"""`kensa run` as a process: SIGHUP changes it, SIGTERM drains it, and neither costs a frame."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from agent import app, wire
from agent.app.last_good_config import LAST_GOOD_NAME
from agent.control import SOCKET_NAME
from agent.outbox import Outbox
from agent.timing.clock import SystemClock
from simulator.doubles.cameras.simulated_cameras import StillCamera
from simulator.doubles.network.memory_transport import MemoryTransport
from tests.kits.reconfiguration import changed, parsed, write_line
from tests.kits.releases import spot_images
from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agent.records import Grab, Pixels, Verdict
    from tests.kits.reconfiguration import Tree

PATIENCE_S = 120.0
DRAIN_S = 5.0


def until(is_reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Running:
    """`kensa run` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "line.json"
        self.tree: Tree = write_line(folder)
        self.write(self.tree)
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import sys; from agent.cli import main; sys.exit(main())", "run", str(self.path)],
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, name="log of kensa run", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Nothing of it is left."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def write(self, tree: Tree) -> None:
        self.path.write_text(json.dumps(tree), encoding="utf-8")

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(iter(self.process.stderr.readline, ""))

    def says(self, text: str) -> bool:
        return any(text in line for line in self.log)

    def until(self, is_reached: Callable[[], bool]) -> None:
        until(is_reached, self.process)

    def end(self) -> float:
        """SIGTERM; return the seconds until it had ended."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE_S)
        return time.monotonic() - began

    def left(self) -> dict[str, list[Verdict]]:
        """What the outbox holds, by camera and sequence number."""
        transport = MemoryTransport()
        with Outbox(state_dir=self.folder / "state", transport=transport, clock=SystemClock()) as outbox:
            deadline = time.monotonic() + PATIENCE_S
            while outbox.stats().rows:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        found: dict[str, dict[int, Verdict]] = {}
        for message in transport.delivered:
            said = wire.decode(message.payload)
            assert isinstance(said, wire.DecodedVerdicts)
            for verdict in said.verdicts:
                found.setdefault(verdict.origin.camera, {})[verdict.seq] = verdict
        return {camera: [by_seq[seq] for seq in sorted(by_seq)] for camera, by_seq in found.items()}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    line = Running(tmp_path)
    yield line
    line.close()


def test_sigterm_ends_within_the_drain_s_with_every_captured_frame_in_the_outbox(running: Running) -> None:
    running.until(lambda: running.says("first verdict"))
    time.sleep(1.0)  # some traffic
    took_s = running.end()
    assert running.process.returncode == 0, running.log  # nothing was abandoned
    assert took_s < DRAIN_S
    for camera, verdicts in running.left().items():
        assert [v.seq for v in verdicts] == list(range(len(verdicts))), camera
        assert len(verdicts) > 10


def test_sighup_applies_the_changed_file_and_refuses_a_bad_one(running: Running) -> None:
    good = running.folder / "state" / LAST_GOOD_NAME
    running.until(lambda: running.says("first verdict"))
    running.write(changed(running.tree, "inspections.spots.threshold", {"spot": 1.0}))
    running.process.send_signal(signal.SIGHUP)
    running.until(lambda: running.says("is not applied"))
    assert running.says("inspections.spots.threshold: unknown key")
    first, new = good.read_bytes(), changed(running.tree, "inspections.spots.thresholds", {"spot": 1.0})
    running.write(new)
    running.process.send_signal(signal.SIGHUP)
    running.until(lambda: good.read_bytes() != first and running.says("the configuration was changed"))
    time.sleep(0.5)
    running.end()
    assert running.process.returncode == 0
    digests = {v.origin.config_digest: v.seq for v in running.left()["cam"]}
    assert list(digests) == [parsed(running.tree, running.folder).digest(), parsed(new, running.folder).digest()]


class HungCamera(StillCamera):
    """A driver that does not come back from its read, until `free` is set."""

    def __init__(self, free: threading.Event) -> None:
        super().__init__(pictures=list(spot_images(4)[0]), clock=SystemClock())
        self._free = free

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        self._free.wait(PATIENCE_S)
        return super().read(timeout_s=timeout_s, buffer=buffer)


def test_hung_drivers_and_a_silent_client_do_not_hold_up_the_drain(tmp_path: Path) -> None:
    free = threading.Event()
    tree = changed(write_line(tmp_path), "inspections.rims", None)
    cameras: Tree = {f"hung{n}": {"kind": "plugin", "source": "simulated"} for n in range(8)}
    tree = changed(tree, "inspections.spots.cameras", {**tree["inspections"]["spots"]["cameras"], **cameras})
    agent = app.build(parsed(tree, tmp_path), sources={name: HungCamera(free) for name in cameras})
    agent.start()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(tmp_path / "state" / SOCKET_NAME))
            while agent.cameras["cam"].counters.snapshot().inspected < 20:
                assert not agent.wait(0.02)
            began = time.monotonic()
            agent.stop()
            took_s = time.monotonic() - began
    finally:
        free.set()
    assert took_s < DRAIN_S  # eight drivers at a second each, and five seconds for the client, would be more
    account = agent.cameras["cam"].counters.snapshot()
    assert (account.pending, account.dropped) == (0, {})


def test_a_broker_that_acknowledges_nothing_costs_the_drain_s_and_no_verdict(tmp_path: Path) -> None:
    tree = changed(write_line(tmp_path), "drain_s", 1.0)
    agent = app.build(parsed(tree, tmp_path), transport=MemoryTransport(auto_ack=False))
    with agent:
        while agent.cameras["cam"].counters.snapshot().inspected < 20:
            assert not agent.wait(0.02)
        began = time.monotonic()
        assert agent.stop()
        took_s = time.monotonic() - began
    assert took_s < DRAIN_S
    stats = agent.outbox.stats()
    assert stats.committed == stats.appended == sum(v.counters.snapshot().captured for v in agent.cameras.values())
