"""One refused topic: its rows wait in the store, all others are sent, and nothing is lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from agent.outbox import Outbox, OutboxLimits
from agent.outbox.outbox_records import Priority
from agent.records import Outcome
from agent.wire import verdict_topic
from simulator.doubles.clocks.manual_clock import ManualClock
from simulator.doubles.network.memory_transport import MemoryTransport
from tests.kits.outbox import lost, make_origin, make_verdict, read

if TYPE_CHECKING:
    from pathlib import Path

CAMERAS = ("left", "right", "top")
ORIGINS = {camera: make_origin(camera=camera) for camera in CAMERAS}
BAD = verdict_topic("device-7", "left")
KINDS = ("rejects", "disconnect_topics")


@dataclass
class Line:
    """An outbox that is stepped by hand, and a broker that comes back half a second after it hung up."""

    folder: Path
    limits: OutboxLimits = field(default_factory=OutboxLimits)
    max_in_flight: int = 8

    def __post_init__(self) -> None:
        self.clock = ManualClock()
        self.transport = MemoryTransport(max_in_flight=self.max_in_flight)
        self.outbox = Outbox(state_dir=self.folder, transport=self.transport, clock=self.clock, limits=self.limits)
        assert self.outbox.sender is not None
        self.sender = self.outbox.sender
        self.sender.start()
        self.seq = 0
        self.ends = 0

    def forbid(self, kind: str) -> None:
        getattr(self.transport, kind).add(BAD)

    def append(self, count: int, *, cameras: tuple[str, ...] = CAMERAS, outcome: Outcome = Outcome.DEFECT) -> None:
        for _ in range(count):
            for camera in cameras:
                self.outbox.append(
                    [make_verdict(self.seq, outcome, origin=ORIGINS[camera], part_id=f"{self.seq * 7919:064}")]
                )
                self.seq += 1
            if self.outbox.writer.waiting > 48:
                self.outbox.writer.step()

    def run(self, seconds: float, *, produce: int = 0) -> None:
        for _ in range(round(seconds / 0.05)):
            self.append(produce)
            for _ in range(3):
                self.outbox.writer.step()
                self.sender.step()
            if not self.transport.is_connected:
                self.ends += 1
                self.clock.advance(0.5)
                self.transport.set_connected(True)
            self.clock.advance(0.05)

    def arrived(self) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {camera: set() for camera in CAMERAS}
        for verdict, _ in read(self.transport.delivered)[0]:
            found[verdict.origin.camera].add(verdict.seq)
        return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_topic_holds_back_its_own_rows_only(tmp_path: Path, kind: str) -> None:
    line = Line(tmp_path)
    line.forbid(kind)
    line.append(100)
    line.run(8.0, produce=1)
    line.run(2.0)
    stats = line.outbox.stats()
    assert {camera: len(seqs) for camera, seqs in line.arrived().items()} == {"left": 0, "right": 260, "top": 260}
    assert (stats.rows, stats.verdicts) == (260, 260)
    assert [held.topic for held in stats.held_back] == [BAD]
    assert line.ends <= (0 if kind == "rejects" else 6)
    assert line.outbox.is_drained, "a stop does not wait for what cannot go"
    assert stats.to_health().held_back_topics == 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_waited_follows_once_the_topic_is_allowed(tmp_path: Path, kind: str) -> None:
    line = Line(tmp_path)
    line.forbid(kind)
    line.append(150)
    line.run(20.0)
    getattr(line.transport, kind).clear()
    line.run(310.0)
    assert line.outbox.stats().rows == 0
    assert set.union(*line.arrived().values()) == set(range(line.seq))
    assert line.outbox.stats().held_back == ()


@pytest.mark.parametrize("kind", KINDS)
def test_what_waits_for_a_refused_topic_survives_a_restart(tmp_path: Path, kind: str) -> None:
    line = Line(tmp_path)
    line.forbid(kind)
    line.append(50)
    line.run(5.0)
    line.outbox.close(line.clock.monotonic_ns())
    again = Line(tmp_path)
    again.run(5.0)
    assert len(again.arrived()["left"]) == 50


def test_a_full_outbox_still_gives_up_good_parts_before_a_defect_that_is_held_back(tmp_path: Path) -> None:
    line = Line(tmp_path, OutboxLimits(max_bytes=192 * 1024, live_queue=16))
    line.forbid("rejects")
    line.append(40, cameras=("left",))
    line.run(3.0)
    line.transport.set_connected(False)
    for _ in range(60):  # good parts of all cameras, until something must go
        line.append(60, outcome=Outcome.OK)
        line.clock.advance(0.25)
        line.outbox.writer.step()
    assert line.outbox.stats().evicted > 0
    rows, _ = line.outbox.writer.store.rows_after(Priority.DEFECT, 0, 1_000)
    assert len(rows) == 40
    gaps, _ = line.outbox.writer.store.rows_after(Priority.GAP, 0, 1_000)
    assert gaps, "what was given up is told"


def test_a_long_backlog_of_one_topic_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    line = Line(tmp_path, max_in_flight=2)
    line.forbid("rejects")
    line.append(2_000, cameras=("left",))
    line.run(3.0)
    line.transport.set_connected(False)
    line.sender.step()
    line.append(100, cameras=("right",))  # behind 2,000 older rows of the same rank
    line.outbox.writer.step()
    line.transport.rejects.clear()
    line.transport.set_connected(True)
    while not line.arrived()["left"]:
        line.run(0.5)
    for _ in range(200):
        if len(line.arrived()["right"]) == 100:
            break
        line.run(0.05)
    arrived = line.arrived()
    assert len(arrived["right"]) == 100
    assert len(arrived["left"]) < 1_000
    line.run(60.0)
    assert len(line.arrived()["left"]) == 2_000


def test_a_heartbeat_that_is_refused_is_replaced_by_the_newest_and_nothing_waits_for_it(tmp_path: Path) -> None:
    line = Line(tmp_path)
    line.transport.rejects.add("kensa/device-7/heartbeat")
    for number in range(50):
        line.outbox.publish_now("kensa/device-7/heartbeat", [b"%d" % number])
        line.append(1)
        line.run(0.2)
    assert len(set.union(*line.arrived().values())) == 150
    line.transport.rejects.clear()
    line.run(60.0)
    beats = [message.payload for message in line.transport.delivered if message.topic.endswith("heartbeat")]
    assert beats in ([], [b"49"])


def test_no_gap_and_no_loss_whatever_is_refused(tmp_path: Path) -> None:
    line = Line(tmp_path)
    line.forbid("disconnect_topics")
    line.run(4.0, produce=2)
    line.transport.disconnect_topics.clear()
    line.run(70.0)
    assert lost(read(line.transport.delivered)[1]) == set()
    assert set.union(*line.arrived().values()) == set(range(line.seq))
