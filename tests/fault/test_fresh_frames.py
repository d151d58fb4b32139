"""A line slower than its camera inspects fresh frames and accounts for all others."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.adapters.mjpeg import live_mjpeg_source
from agent.adapters.opencv_sources import RtspSource
from agent.inspection.latest_frames import latest_frames_of
from agent.records import CameraState, Grab
from agent.timing.clock import SystemClock
from simulator.doubles.cameras import frame_stamp
from simulator.doubles.cameras.frame_stamp import FrameStamp, stamped_jpegs
from simulator.doubles.cameras.rtsp_server import RtspServer
from simulator.doubles.cameras.simulated_cameras import MjpegServer
from simulator.doubles.cameras.v4l2_camera import SimulatedUsbCamera
from simulator.probes.slow_consumer import SlowConsumer

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.ports import FrameSource
    from agent.records import Pixels

CLOCK = SystemClock()
LONG_S = 60.0  # a safety bound, never an expectation
FPS = 60.0
RUN_S = 3.0
AGED_MS = 1_000.0  # read on request, a picture would be twice as old at the end


class QueueingPlugin:
    """A camera of another package: a driver that keeps every exposure until it is asked for."""

    live = True

    def __init__(self) -> None:
        self._began_s = 0.0
        self._number = 0

    def open(self) -> None:
        self._began_s = time.monotonic()

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        due_s = self._began_s + self._number / FPS
        time.sleep(max(0.0, due_s - time.monotonic()))
        pixels = np.zeros((64, 256), np.uint8)
        frame_stamp.draw_stamp(pixels, number=self._number)
        self._number += 1
        return Grab(pixels=pixels, due_ns=round(due_s * 1e9))

    def close(self) -> None:
        pass


KINDS = ("rtsp", "mjpeg", "v4l2", "plugin")


def source_of(kind: str, stack: ExitStack) -> FrameSource:
    picture = stamped_jpegs(width=256, height=64)
    match kind:
        case "rtsp":
            return RtspSource(url=stack.enter_context(RtspServer(picture=picture, fps=FPS)).url, clock=CLOCK)
        case "mjpeg":
            return live_mjpeg_source(url=stack.enter_context(MjpegServer(picture=picture, fps=FPS)).url, clock=CLOCK)
        case "v4l2":
            return SimulatedUsbCamera(fps=FPS)
        case _:
            return latest_frames_of(QueueingPlugin, name="plugin")


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_stay_fresh_and_every_exposure_is_accounted_for(kind: str) -> None:
    with ExitStack() as stack:
        line = SlowConsumer(source_of(kind, stack), inspection_s=3 / FPS)
        inspected = line.run(RUN_S)
    counted = line.accounting
    assert line.status.state is CameraState.STOPPED
    assert line.status.reopenings == 0
    assert counted.captured == len(inspected) + counted.dropped_total
    assert counted.dropped["overrun"] > len(inspected) / 2
    assert max(each.age_ms for each in inspected[len(inspected) // 2 :]) < AGED_MS, (
        "in the second half: it would have aged"
    )
    assert -5 < np.median([each.arrival_ms for each in inspected]) < AGED_MS / 2, "stamped when it came"
    first, *rest = inspected
    for each in rest:  # a driver of V4L2 may lose exposures before anybody sees them
        missing = (each.number - first.number) - (each.seq - first.seq)
        assert missing == 0 or (kind == "v4l2" and missing > 0), each


def test_a_held_picture_of_each_kind_is_not_overwritten() -> None:
    held: list[tuple[Pixels, FrameStamp]] = []

    def hold(source: FrameSource, enough: Callable[[], bool]) -> None:
        source.open()
        deadline = time.monotonic() + LONG_S
        while not enough():
            assert time.monotonic() < deadline
            if (grab := source.read(timeout_s=0.2, buffer=None)) is not None:
                held.append((grab.pixels, frame_stamp.read_stamp(grab.pixels)))
        source.close()

    with ExitStack() as stack:
        for index, kind in enumerate(KINDS, 1):
            hold(source_of(kind, stack), lambda goal=8 * index: len(held) >= goal)  # type: ignore[misc]
        assert all(frame_stamp.read_stamp(pixels) == stamp for pixels, stamp in held)
