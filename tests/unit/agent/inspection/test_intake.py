"""The intake: bounded, oldest first, never mixing inspections, and every frame accounted for."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest

from agent.counters import CameraCounters
from agent.inspection.frame_pool import FramePool
from agent.inspection.intake import Batch, IntakeHub
from agent.records import Frame

if TYPE_CHECKING:
    from agent.inspection.intake import CameraIntake

PIXELS = np.zeros((4, 4), np.uint8)
SHAPE = (4, 4)


class Line:
    """A hub with cameras, and a way to offer numbered frames."""

    def __init__(self, *, workers: int = 1, max_batch: int = 8) -> None:
        self.hub = IntakeHub(workers=workers, max_batch=max_batch)
        self.pool = FramePool(buffers=64)
        self.stop = threading.Event()
        self.counters: dict[str, CameraCounters] = {}
        self._intakes: dict[str, CameraIntake] = {}
        self._clock = 0

    def camera(
        self, name: str, *, inspection: int = 0, capacity: int = 4, policy: Literal["newest", "wait"] = "newest"
    ) -> None:
        self.counters[name] = CameraCounters()
        self._intakes[name] = self.hub.add_camera(
            inspection=inspection, capacity=capacity, policy=policy, counters=self.counters[name], pool=self.pool
        )

    def offer(self, name: str, seq: int, *, part_id: str | None = None, due_ns: int | None = None) -> bool:
        self._clock += 1
        self.counters[name].count_captured()
        frame = Frame(
            camera=name,
            seq=seq,
            due_ns=self._clock if due_ns is None else due_ns,
            captured_utc_ns=0,
            pixels=PIXELS,
            part_id=part_id,
            buffer=self.pool.acquire(SHAPE),
        )
        return self._intakes[name].offer(frame, self.stop)

    def take(self) -> list[int]:
        batch = self.hub.take(0.0)
        return [] if batch is None else [f.seq for f in batch.frames]


def take(line: Line) -> Batch:
    batch = line.hub.take(0.0)
    assert batch is not None
    return batch


def test_nothing_waits_for_a_batch_to_fill() -> None:
    line = Line()
    line.camera("a")
    line.offer("a", 0)

    assert line.take() == [0]


def test_an_empty_intake_answers_none_after_the_timeout() -> None:
    line = Line()
    line.camera("a")

    assert line.hub.take(0.01) is None


def test_a_batch_is_bounded() -> None:
    line = Line(max_batch=3)
    line.camera("a", capacity=10)
    for seq in range(7):
        line.offer("a", seq)

    assert [line.take(), line.take(), line.take(), line.take()] == [[0, 1, 2], [3, 4, 5], [6], []]


def test_a_burst_is_shared_out_among_the_workers() -> None:
    line = Line(workers=2, max_batch=8)
    line.camera("a", capacity=10)
    for seq in range(6):
        line.offer("a", seq)

    assert line.take() == [0, 1, 2]
    assert line.take() == [3, 4]


def test_the_oldest_frame_of_all_cameras_goes_first() -> None:
    line = Line(max_batch=3)
    line.camera("a")
    line.camera("b")
    line.offer("a", 1, due_ns=30)
    line.offer("b", 2, due_ns=10)
    line.offer("a", 3, due_ns=40)
    line.offer("b", 4, due_ns=20)

    assert line.take() == [2, 4, 1]
    assert line.take() == [3]


def test_a_batch_never_mixes_inspections() -> None:
    line = Line()
    line.camera("a", inspection=0)
    line.camera("b", inspection=1)
    for seq in range(4):
        line.offer("a" if seq % 2 else "b", seq)

    first, second = take(line), take(line)

    assert (first.inspection, [f.seq for f in first.frames]) == (1, [0, 2])
    assert (second.inspection, [f.seq for f in second.frames]) == (0, [1, 3])


def test_newest_wins_drops_the_oldest_counts_it_and_frees_its_buffer() -> None:
    line = Line()
    line.camera("a", capacity=2)
    for seq in range(5):
        assert line.offer("a", seq)

    assert line.take() == [3, 4]
    assert line.counters["a"].snapshot().dropped == {"overrun": 3}
    assert line.pool.held == 2  # the two frames that a worker now holds


def test_one_cameras_overrun_costs_no_other_camera_a_frame() -> None:
    line = Line(max_batch=100)
    line.camera("slow", capacity=2)
    line.camera("fast", capacity=2)
    line.offer("slow", 100)
    for seq in range(50):
        line.offer("fast", seq)

    assert line.take() == [100, 48, 49]
    assert line.counters["slow"].snapshot().dropped == {}


def test_a_displaced_part_still_gets_a_verdict() -> None:
    line = Line()
    line.camera("a", capacity=1)
    line.offer("a", 0, part_id="p-0")
    line.offer("a", 1, part_id="p-1")
    line.offer("a", 2)

    late = take(line)

    assert late.frames == ()
    assert [f.part_id for f in late.late] == ["p-0", "p-1"]
    assert all(f.buffer == -1 and f.pixels.size == 0 for f in late.late)
    assert line.take() == [2]
    assert line.counters["a"].snapshot().dropped == {}
    assert line.pool.held == 1


def test_wait_holds_the_camera_back_until_there_is_room() -> None:
    line = Line(max_batch=1)
    line.camera("a", capacity=1, policy="wait")
    line.offer("a", 0)
    done = threading.Event()

    def offer_second() -> None:
        line.offer("a", 1)
        done.set()

    thread = threading.Thread(target=offer_second, daemon=True)
    thread.start()
    assert not done.wait(0.2)

    assert line.take() == [0]
    assert done.wait(60.0)
    assert line.take() == [1]
    assert line.counters["a"].snapshot().dropped == {}
    thread.join(60.0)


@pytest.mark.parametrize("how", ["stop", "close"])
def test_a_held_back_camera_is_released_by_stop_and_by_close(how: str) -> None:
    line = Line()
    line.camera("a", capacity=1, policy="wait")
    line.offer("a", 0)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(line.offer("a", 1)), daemon=True)
    thread.start()
    time.sleep(0.05)

    if how == "stop":
        line.stop.set()
    else:
        line.hub.close()

    thread.join(60.0)
    assert answers == [False]


def test_a_closed_intake_refuses_frames_and_still_gives_out_those_that_wait() -> None:
    line = Line()
    line.camera("a")
    line.offer("a", 0)
    line.hub.close()

    assert not line.offer("a", 1)
    assert line.take() == [0]


def test_abandoned_frames_are_counted_as_shutdown_and_free_their_buffers() -> None:
    line = Line()
    line.camera("a")
    for seq in range(3):
        line.offer("a", seq)

    line.hub.close()
    line.hub.discard_pending()

    assert line.hub.pending == 0
    assert line.take() == []
    assert line.counters["a"].snapshot().dropped == {"shutdown": 3}
    assert line.counters["a"].snapshot().pending == 0
    assert line.pool.held == 0


def test_a_part_that_was_displaced_is_accounted_for_when_the_drain_is_abandoned() -> None:
    line = Line()
    line.camera("a", capacity=1)
    line.offer("a", 0, part_id="p-0")
    line.offer("a", 1, part_id="p-1")

    line.hub.close()
    line.hub.discard_pending()

    assert line.hub.take(0.0) is None
    assert line.counters["a"].snapshot().pending == 0


def test_workers_that_wait_are_woken_by_a_frame() -> None:
    line = Line()
    line.camera("a")
    taken: list[Batch | None] = []
    thread = threading.Thread(target=lambda: taken.append(line.hub.take(10.0)), daemon=True)
    thread.start()
    time.sleep(0.05)
    line.offer("a", 7)

    thread.join(60.0)

    assert taken[0] is not None
    assert [f.seq for f in taken[0].frames] == [7]


def take_all(line: Line, seen: list[tuple[str, int]], finished: threading.Event) -> None:
    while not (finished.is_set() and line.hub.pending == 0):
        batch = line.hub.take(0.05)
        for frame in batch.frames if batch else ():
            line.pool.release(frame.buffer)
            seen.append((frame.camera, frame.seq))


def offer_all(line: Line, name: str) -> None:
    for seq in range(200):
        line.offer(name, seq)


def test_many_cameras_and_workers_lose_nothing_and_double_nothing() -> None:
    line = Line(workers=3, max_batch=4)
    names = [f"c{i}" for i in range(6)]
    for i, name in enumerate(names):
        line.camera(name, inspection=i % 2, capacity=3, policy="wait")
    seen: list[tuple[str, int]] = []
    finished = threading.Event()
    workers = [threading.Thread(target=take_all, args=(line, seen, finished), daemon=True) for _ in range(3)]
    cameras = [threading.Thread(target=offer_all, args=(line, name), daemon=True) for name in names]

    for thread in [*workers, *cameras]:
        thread.start()
    for thread in cameras:
        thread.join(60.0)
    finished.set()
    for thread in workers:
        thread.join(60.0)

    assert sorted(seen) == sorted((name, seq) for name in names for seq in range(200))
    assert line.pool.held == 0


PERIOD_NS = 33_333_333


def judge_slowly(line: Line, frames: int, *, every: int, part: bool = False) -> list[int]:
    """Offer `frames` at 30/s, take a batch for every `every` of them; return the ages in periods when taken."""
    ages = []
    for seq in range(frames):
        line.offer("a", seq, due_ns=seq * PERIOD_NS, part_id=f"p-{seq}" if part else None)
        if seq % every == every - 1:
            ages += [seq - taken for taken in line.take()]
    return ages


def test_a_line_that_stays_slower_than_the_camera_judges_only_fresh_frames() -> None:
    line = Line(max_batch=1)
    line.camera("a", capacity=8)

    ages = judge_slowly(line, 1_800, every=3)

    assert max(ages) <= 2, "never older than two periods"
    assert max(ages[10:]) == 0, "and fresh from the first second on"
    counted = line.counters["a"].snapshot()
    assert counted.captured == 1_800 == len(ages) + counted.dropped["overrun"] + line.hub.pending


def test_a_short_pause_costs_no_frame_that_fits_the_capacity() -> None:
    line = Line(max_batch=8)
    line.camera("a", capacity=8)

    for pause in range(5):
        for seq in range(8):
            line.offer("a", seq, due_ns=(pause * 20 + seq) * PERIOD_NS)
        assert line.take() == list(range(8))
    assert line.counters["a"].snapshot().dropped == {}


def test_a_worker_that_pauses_now_and_then_costs_no_frame() -> None:
    line = Line(max_batch=2)
    line.camera("a", capacity=8)
    inspected = []
    for seq in range(600):
        line.offer("a", seq, due_ns=seq * PERIOD_NS)
        if seq % 20 > 5:  # six periods without a taking, then two frames in each period
            inspected += line.take()
    while rest := line.take():
        inspected += rest
    assert inspected == list(range(600))


def test_after_the_overload_the_whole_capacity_is_there_again() -> None:
    line = Line(max_batch=1)
    line.camera("a", capacity=4)
    judge_slowly(line, 90, every=3)
    for seq in range(90, 130):  # a second and more in which the line keeps up
        line.offer("a", seq, due_ns=seq * PERIOD_NS)
        line.take()
    dropped = line.counters["a"].snapshot().dropped["overrun"]

    for seq in range(130, 134):
        line.offer("a", seq, due_ns=seq * PERIOD_NS)

    assert [line.take() for _ in range(4)] == [[130], [131], [132], [133]]
    assert line.counters["a"].snapshot().dropped["overrun"] == dropped


def test_triggered_parts_are_never_shed_for_freshness() -> None:
    line = Line(max_batch=1)
    line.camera("a", capacity=4)
    judge_slowly(line, 90, every=3, part=True)
    assert line.counters["a"].snapshot().dropped == {}
    assert line.hub.pending == 4
