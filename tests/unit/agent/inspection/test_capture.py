"""The capture thread with the real intake, counters and buffers; the cameras are the simulator's."""

from __future__ import annotations

import errno
import random
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import pytest

from agent.adapters.image_folder import ImageFolderSource
from agent.counters import CameraCounters
from agent.errors import CameraError
from agent.inspection.capture import CaptureThread
from agent.inspection.frame_pool import FramePool
from agent.inspection.intake import IntakeHub
from agent.records import CameraState, Frame
from agent.timing.backoff import Backoff
from agent.timing.clock import SystemClock
from simulator.doubles.cameras.simulated_cameras import FaultyCamera, FrameFault, StillCamera

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agent.ports import FrameSource
    from agent.records import Grab, Pixels

CLOCK = SystemClock()
PICTURES = [np.full((24, 32, 3), level, np.uint8) for level in range(10)]
LONG_S = 20.0  # a safety bound, never an expectation
QUICK = Backoff(first_s=0.01, longest_s=0.05)


class Line:
    """One camera with its intake; `take` stands where the worker stands."""

    def __init__(
        self,
        source: FrameSource,
        *,
        policy: Literal["newest", "wait"] = "wait",
        stall_ms: int | None = None,
        declared_px: tuple[int | None, int | None] = (None, None),
        buffers: int = 8,
    ) -> None:
        self.hub = IntakeHub(workers=1, max_batch=4)
        self.counters = CameraCounters()
        self.pool = FramePool(buffers=buffers)
        self.capture = CaptureThread(
            camera="top",
            source=source,
            intake=self.hub.add_camera(inspection=0, capacity=4, policy=policy, counters=self.counters, pool=self.pool),
            pool=self.pool,
            counters=self.counters,
            clock=CLOCK,
            random=random.Random(5),
            stall_ms=stall_ms,
            declared_px=declared_px,
            backoff=QUICK,
        )

    def take(self, *, until: Callable[[list[Frame]], bool] = lambda _: False) -> list[Frame]:
        """Take and release frames until `until` holds or the source has ended and all is taken."""
        frames: list[Frame] = []
        deadline = time.monotonic() + LONG_S
        while not until(frames):
            assert time.monotonic() < deadline, self.capture.status
            running = self.capture.is_running
            batch = self.hub.take(0.01)
            for frame in () if batch is None else batch.frames:
                frames.append(frame)
                self.pool.release(frame.buffer)
            if batch is None and not running:
                break
        return frames


@pytest.fixture
def run() -> Iterator[Callable[[Line], Line]]:
    started: list[Line] = []

    def start(line: Line) -> Line:
        line.capture.start()
        started.append(line)
        return line

    yield start
    for line in started:
        line.hub.close()
        assert line.capture.stop(timeout_s=LONG_S)


def faulty(faults: list[FrameFault | None], count: int = 20) -> FaultyCamera:
    camera = StillCamera(pictures=PICTURES, clock=CLOCK, count=count)
    return FaultyCamera(camera=camera, faults=iter(faults), clock=CLOCK)


def test_every_exposure_of_a_finite_source_arrives_once_in_order_and_the_camera_ends(
    run: Callable[[Line], Line],
) -> None:
    line = run(Line(StillCamera(pictures=PICTURES, clock=CLOCK, count=50)))
    frames = line.take()
    assert [frame.seq for frame in frames] == list(range(50))
    assert line.capture.status.state is CameraState.ENDED
    assert line.capture.status.frames == 50
    assert line.counters.snapshot().captured == 50
    assert line.pool.held == 0


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (FrameFault.CORRUPT, "corrupt"),
        (FrameFault.INCOMPLETE, "incomplete"),
        (FrameFault.CROPPED, "size"),
        (FrameFault.EMPTY, "size"),
        (FrameFault.FOUR_CHANNELS, "channels"),
        (FrameFault.DEEP, "channels"),
    ],
)
def test_an_exposure_that_cannot_be_used_is_a_counted_drop_and_leaves_a_gap(
    run: Callable[[Line], Line], fault: FrameFault, reason: str
) -> None:
    line = run(Line(faulty([None, None, fault, None, fault]), declared_px=(32, 24)))
    frames = line.take()
    assert [frame.seq for frame in frames] == [seq for seq in range(20) if seq not in {2, 4}]
    counted = line.counters.snapshot()
    assert (counted.captured, counted.dropped) == (20, {reason: 2})
    assert reason in str(line.capture.status.last_error)
    assert line.pool.held == 0


def test_without_a_declared_size_a_camera_may_change_it(run: Callable[[Line], Line]) -> None:
    sizes: list[Pixels] = [np.zeros((8, 8, 3), np.uint8), np.zeros((6, 9), np.uint8)]
    line = run(Line(StillCamera(pictures=sizes, clock=CLOCK, count=30)))
    assert {frame.pixels.shape for frame in line.take()} == {(8, 8, 3), (6, 9)}
    assert line.counters.snapshot().dropped == {}
    assert line.pool.held == 0


def test_in_steady_state_all_frames_live_in_the_pools_buffers(run: Callable[[Line], Line]) -> None:
    line = run(Line(StillCamera(pictures=PICTURES, clock=CLOCK, count=300), buffers=4 + 4 + 1))
    frames = line.take()
    assert all(frame.buffer >= 0 for frame in frames[1:]), "only the first frame tells the size"
    assert len({frame.buffer for frame in frames[1:]}) <= 9
    assert line.pool.misses == 0


def test_a_pool_that_is_too_small_costs_allocations_but_no_frame(run: Callable[[Line], Line]) -> None:
    line = run(Line(StillCamera(pictures=PICTURES, clock=CLOCK, count=40), buffers=1))
    assert len(line.take()) == 40
    assert line.counters.snapshot().dropped == {}


def test_a_lost_camera_is_opened_again_and_the_numbers_go_on(run: Callable[[Line], Line]) -> None:
    camera = faulty([None, None, FrameFault.LOST, None, FrameFault.LOST], count=12)
    line = run(Line(camera))
    frames = line.take()
    assert camera.open_count == 3
    assert [frame.seq for frame in frames] == list(range(10))
    assert line.capture.status.reopenings == 2
    assert "unplugged" in str(line.capture.status.last_error)


def test_a_silent_camera_is_a_stall_and_opened_again(run: Callable[[Line], Line]) -> None:
    camera = faulty([None, None, FrameFault.SILENT])
    line = run(Line(camera, stall_ms=100))
    frames = line.take()
    assert len(frames) == 20
    assert camera.open_count == 2
    assert line.capture.status.stalls == 1
    assert "no frame for" in str(line.capture.status.last_error)


def test_a_slow_consumer_does_not_look_like_a_stall(run: Callable[[Line], Line]) -> None:
    line = run(Line(StillCamera(pictures=PICTURES, clock=CLOCK, count=20), stall_ms=100))
    line.take(until=lambda frames: len(frames) >= 4)
    time.sleep(0.4)
    line.take()
    assert line.capture.status.stalls == 0
    assert line.counters.snapshot().captured == 20


def test_newest_wins_drops_are_counted_and_their_buffers_come_back(run: Callable[[Line], Line]) -> None:
    line = run(Line(StillCamera(pictures=PICTURES, clock=CLOCK, count=500), policy="newest"))
    deadline = time.monotonic() + LONG_S
    while line.capture.is_running and time.monotonic() < deadline:
        time.sleep(0.01)
    frames = line.take()
    counted = line.counters.snapshot()
    assert counted.dropped == {"overrun": 500 - len(frames)}
    assert frames[-1].seq == 499
    assert line.pool.held == 0


@pytest.mark.parametrize("faults", [[], [None, FrameFault.SILENT], [FrameFault.LOST] * 1_000])
def test_it_stops_within_a_second_whatever_the_camera_does(
    run: Callable[[Line], Line], faults: list[FrameFault | None]
) -> None:
    line = run(Line(faulty(faults, count=10**9)))
    if FrameFault.LOST not in faults:
        line.take(until=lambda frames: len(frames) >= 1)
    assert line.capture.stop(timeout_s=LONG_S)
    assert line.capture.status.state is CameraState.STOPPED


def test_stopping_while_the_intake_is_full_counts_the_frame_and_releases_its_buffer(
    run: Callable[[Line], Line],
) -> None:
    line = run(Line(StillCamera(pictures=PICTURES, clock=CLOCK)))
    deadline = time.monotonic() + LONG_S
    while line.counters.snapshot().captured < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert line.capture.stop(timeout_s=LONG_S)
    frames = line.take()
    counted = line.counters.snapshot()
    assert counted.captured == len(frames) + counted.dropped["shutdown"]
    assert line.pool.held == 0


def test_a_driver_that_never_returns_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    class Hanging(StillCamera):
        entered, leave = threading.Event(), threading.Event()

        def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
            self.entered.set()
            self.leave.wait(LONG_S)
            return super().read(timeout_s=timeout_s, buffer=buffer)

    source = Hanging(pictures=PICTURES, clock=CLOCK)
    line = Line(source)
    line.capture.start()
    assert source.entered.wait(LONG_S)
    assert not line.capture.stop(timeout_s=0.05)
    assert "does not return" in caplog.text
    source.leave.set()
    assert line.capture.stop(timeout_s=LONG_S)


class Buggy(StillCamera):
    """A driver or plug-in that raises `error` from `where`, `times` times, and then works."""

    def __init__(self, where: str, error: Exception, *, times: int = 3) -> None:
        super().__init__(pictures=PICTURES, clock=CLOCK)
        self._where, self._error, self._left = where, error, times
        self.raised = 0

    def _maybe(self, where: str) -> None:
        if where == self._where and self._left:
            self._left -= 1
            self.raised += 1
            raise self._error

    def open(self) -> None:
        self._maybe("open")
        super().open()

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        if self._where == "close" and self._left:
            raise CameraError("lost, so that it is closed")
        self._maybe("read")
        return super().read(timeout_s=timeout_s, buffer=buffer)

    def close(self) -> None:
        super().close()
        self._maybe("close")


@pytest.mark.parametrize("where", ["open", "read", "close"])
@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("of the plug-in"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("without a number"),
        MemoryError(),
        RuntimeError("can't start new thread"),
        KeyError("frame"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
    ],
    ids=lambda error: type(error).__name__ + (f"-{error.errno}" if isinstance(error, OSError) else ""),
)
def test_whatever_a_camera_raises_is_a_fault_of_the_camera_and_it_is_opened_again(where: str, error: Exception) -> None:
    source = Buggy(where, error)
    line = Line(source)
    line.capture.start()
    frames = line.take(until=lambda found: len(found) >= 3)
    assert frames[0].seq == 0
    assert source.raised == 3
    assert type(error).__name__ in str(line.capture.status.last_error)
    line.take(until=lambda found: len(found) >= 3)
    line.capture.request_stop()
    line.take()
    assert line.capture.stop(timeout_s=LONG_S)


def test_a_camera_whose_closing_fails_at_its_end_has_ended_all_the_same() -> None:
    class Last(StillCamera):
        def close(self) -> None:
            raise OSError("the handle is gone")

    line = Line(Last(pictures=PICTURES, clock=CLOCK, count=len(PICTURES)))
    line.capture.start()
    assert len(line.take()) == len(PICTURES)
    assert line.capture.status.state is CameraState.ENDED
    assert "closing failed" in str(line.capture.status.last_error)


def test_exposures_that_the_source_left_out_are_counted_and_take_their_numbers(run: Callable[[Line], Line]) -> None:
    class Skipping(StillCamera):
        def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
            grab = super().read(timeout_s=timeout_s, buffer=buffer)
            return None if grab is None else replace(grab, skipped=2)

    line = run(Line(Skipping(pictures=PICTURES, clock=CLOCK, count=10)))
    frames = line.take()
    assert [frame.seq for frame in frames] == list(range(2, 30, 3))
    counted = line.counters.snapshot()
    assert (counted.captured, counted.dropped) == (30, {"overrun": 20})
    assert line.capture.status.frames == 30


def test_what_a_source_passes_over_is_said_once_and_stays_in_its_status(
    run: Callable[[Line], Line], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), PICTURES[0])
    (tmp_path / "b.tif").write_bytes(b"II*")
    line = run(Line(ImageFolderSource(path=tmp_path, clock=CLOCK, fps=100.0, loop=True)))
    line.take(until=lambda frames: len(frames) >= 5)
    assert "1 picture of other kinds passed over: 1 .tif (b.tif)" in str(line.capture.status.skipped_files)
    assert caplog.text.count("b.tif") == 1
