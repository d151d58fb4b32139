"""A whole capture thread against network cameras that die, hang, send damage or change."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from agent.adapters.mjpeg import MjpegSource
from agent.adapters.opencv_sources import RtspSource
from agent.counters import CameraCounters
from agent.inspection.capture import CaptureThread
from agent.inspection.frame_pool import FramePool
from agent.inspection.intake import IntakeHub
from agent.records import CameraState
from agent.timing.backoff import Backoff
from agent.timing.clock import SystemClock
from simulator.doubles.cameras.rtsp_server import RtspServer
from simulator.doubles.cameras.simulated_cameras import CameraServer, JpegDamage, MjpegServer, damage_jpeg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.ports import FrameSource

CLOCK = SystemClock()
LONG_S = 30.0  # a safety bound, never an expectation
NOISE = np.random.default_rng(11).integers(0, 255, (96, 128, 3), np.uint8)


def jpeg(pixels: np.ndarray) -> bytes:
    done, data = cv2.imencode(".jpg", pixels)
    assert done
    return data.tobytes()


GOOD = jpeg(NOISE)


class Line:
    """One running camera whose frames are taken and released by `judge`."""

    def __init__(self, source: FrameSource, *, stall_ms: int = 2_000) -> None:
        self.hub = IntakeHub(workers=1, max_batch=8)
        self.counters = CameraCounters()
        self.pool = FramePool(buffers=24)
        intake = self.hub.add_camera(inspection=0, capacity=8, policy="newest", counters=self.counters, pool=self.pool)
        self.capture = CaptureThread(
            camera="top",
            source=source,
            intake=intake,
            pool=self.pool,
            counters=self.counters,
            clock=CLOCK,
            random=random.Random(1),
            stall_ms=stall_ms,
            declared_px=(128, 96),
            backoff=Backoff(first_s=0.05, longest_s=0.2),
        )
        self.inspected = 0
        self.capture.start()

    def judge(self, until: Callable[[], bool]) -> None:
        """Take frames until `until` holds."""
        deadline = time.monotonic() + LONG_S
        while not until():
            assert time.monotonic() < deadline, (self.capture.status, self.counters.snapshot())
            batch = self.hub.take(0.01)
            for frame in () if batch is None else batch.frames:
                assert frame.pixels.shape == (96, 128, 3)
                self.inspected += 1
                self.pool.release(frame.buffer)

    def judge_more(self, count: int) -> None:
        goal = self.inspected + count
        self.judge(lambda: self.inspected >= goal)


@pytest.fixture
def lines() -> Iterator[list[Line]]:
    made: list[Line] = []
    yield made
    for line in made:
        line.hub.close()
        assert line.capture.stop(timeout_s=LONG_S)
        line.hub.discard_pending()
        counted = line.counters.snapshot()
        assert counted.captured == line.inspected + counted.dropped_total, "no exposure is unaccounted for"
        assert line.pool.held == 0, "no buffer is lost"


SOURCES: dict[str, tuple[type[CameraServer], type[MjpegSource | RtspSource]]] = {
    "mjpeg": (MjpegServer, MjpegSource),
    "rtsp": (RtspServer, RtspSource),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_camera_that_is_killed_and_comes_back_delivers_again(kind: str, lines: list[Line]) -> None:
    make_server, make_source = SOURCES[kind]
    with make_server(picture=lambda _: GOOD, fps=50) as server:
        line = Line(make_source(url=server.url, clock=CLOCK))
        lines.append(line)
        line.judge_more(5)
        server.kill()
        line.judge(lambda: line.capture.status.state is CameraState.RECONNECTING)
        line.judge(lambda: line.capture.status.reopenings >= 3)
        server.start()
        line.judge(lambda: line.capture.status.state is CameraState.RUNNING)
        line.judge_more(5)
    assert line.counters.snapshot().dropped.get("corrupt", 0) == 0


@pytest.mark.parametrize("kind", SOURCES)
def test_a_camera_that_hangs_with_its_connection_open_is_seen_within_its_limit(kind: str, lines: list[Line]) -> None:
    make_server, make_source = SOURCES[kind]
    with make_server(picture=lambda _: GOOD, fps=50) as server:
        line = Line(make_source(url=server.url, clock=CLOCK))
        lines.append(line)
        line.judge_more(5)
        server.pause()
        line.judge(lambda: line.capture.status.stalls == 1)
        assert "although it is connected (limit 2 s)" in str(line.capture.status.last_error)
        line.judge(lambda: line.capture.status.state is CameraState.RECONNECTING)
        server.resume()
        line.judge(lambda: line.capture.status.state is CameraState.RUNNING)
        line.judge_more(5)


@pytest.mark.parametrize("announce_length", [True, False])
def test_damaged_pictures_are_counted_and_the_stream_goes_on(lines: list[Line], *, announce_length: bool) -> None:
    kinds = [kind for kind in JpegDamage if announce_length or kind is not JpegDamage.NOTHING]
    rng = random.Random(4)
    sent = [damage_jpeg(GOOD, kind, rng) for kind in kinds]

    def picture(number: int) -> bytes:
        at, is_good = divmod(number, 2)
        return sent[at] if not is_good and at < len(sent) else GOOD

    with MjpegServer(picture=picture, fps=50, announce_length=announce_length) as server:
        line = Line(MjpegSource(url=server.url, clock=CLOCK))
        lines.append(line)
        line.judge(lambda: line.counters.snapshot().captured >= 2 * len(sent) + 5)
        counted = line.counters.snapshot()
        assert counted.dropped.get("corrupt", 0) + counted.dropped.get("size", 0) == len(sent)
        assert counted.dropped["size"] == 1, "the bomb"
        assert line.capture.status.reopenings == 0


def test_pictures_of_another_size_are_counted_and_not_judged(lines: list[Line]) -> None:
    small = jpeg(NOISE[:48])

    with MjpegServer(picture=lambda n: small if 10 <= n < 15 else GOOD, fps=50) as server:
        line = Line(MjpegSource(url=server.url, clock=CLOCK))
        lines.append(line)
        line.judge(lambda: line.counters.snapshot().captured >= 25)
        assert line.counters.snapshot().dropped.get("size") == 5
        assert "128x48 px; declared are 128x96" in str(line.capture.status.last_error)


def test_a_camera_that_is_not_there_yet_is_awaited_and_stopping_does_not_wait_for_it(lines: list[Line]) -> None:
    server = MjpegServer(picture=lambda _: GOOD, fps=50)
    server.start()
    server.kill()
    line = Line(MjpegSource(url=server.url, clock=CLOCK))
    lines.append(line)
    line.judge(lambda: line.capture.status.reopenings >= 2)
    with server:
        line.judge_more(3)


def test_a_server_that_accepts_and_says_nothing_does_not_hold_up_stopping(lines: list[Line]) -> None:
    for make_server, make_source in SOURCES.values():
        with make_server(picture=lambda _: GOOD) as server:
            server.pause()
            line = Line(make_source(url=server.url, clock=CLOCK))
            lines.append(line)
            line.judge(lambda: server.accepted > 0)
            assert line.capture.stop(timeout_s=LONG_S)
            assert line.capture.status.state is CameraState.STOPPED
