"""The newest exposure of a live camera: nothing ages, nothing is lost without a count, nothing hangs."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.errors import CameraError, FrameError, SourceEndedError
from agent.inspection.latest_frames import Exposure, LatestFrameSource, latest_frames_of
from agent.records import DropReason, Grab
from agent.timing.clock import SystemClock
from simulator.doubles.cameras.simulated_cameras import FaultyCamera, FrameFault, StillCamera

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.records import Pixels

CLOCK = SystemClock()
LONG_S = 20.0  # a safety bound, never an expectation


class Stream:
    """A camera by hand: `send` makes an exposure whose level is its number."""

    def __init__(self) -> None:
        self.sent: list[Exposure | Exception] = []
        self.received = 0
        self.decoded: list[int] = []
        self.closed = threading.Event()
        self.hang = threading.Event()
        self.hang.set()
        self._changed = threading.Condition()

    def open(self) -> None:
        pass

    def receive(self, *, timeout_s: float) -> Exposure | None:
        self.hang.wait()
        with self._changed:
            if not self._changed.wait_for(lambda: self.received < len(self.sent), timeout_s):
                return None
            exposure = self.sent[self.received]
            self.received += 1
            self._changed.notify_all()
        if isinstance(exposure, Exception):
            raise exposure
        return exposure

    def close(self) -> None:
        self.closed.set()

    def send(self, number: int, *, part_id: str | None = None) -> None:
        def decode(_buffer: Pixels | None) -> Pixels:
            self.decoded.append(number)
            return np.full((2, 2), number, np.uint8)

        self.put(Exposure(arrived_ns=number, decode=decode, part_id=part_id))

    def put(self, exposure: Exposure | Exception) -> None:
        with self._changed:
            self.sent.append(exposure)
            self._changed.notify_all()

    def wait_until_read(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.received == len(self.sent), LONG_S)
        time.sleep(0.05)  # the reading thread keeps what it received


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def source(stream: Stream) -> LatestFrameSource:
    source = LatestFrameSource(name="top", connect=lambda: stream)
    source.open()
    return source


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_slow_consumer_gets_the_newest_and_learns_how_many_it_missed(
    stream: Stream, source: LatestFrameSource
) -> None:
    for number in range(7):
        stream.send(number)
    stream.wait_until_read()

    grab = source.read(timeout_s=LONG_S, buffer=None)

    assert grab is not None
    assert (int(grab.pixels[0, 0]), grab.due_ns, grab.skipped) == (6, 6, 6)
    assert stream.decoded == [6], "what is left out costs no decoding"
    assert source.read(timeout_s=0.01, buffer=None) is None
    source.close()


def test_what_arrives_during_the_decoding_is_not_counted_before_its_turn(
    stream: Stream, source: LatestFrameSource
) -> None:
    def decode(_buffer: Pixels | None) -> Pixels:
        for number in range(1, 4):
            stream.send(number)
        stream.wait_until_read()
        return np.zeros((2, 2), np.uint8)

    stream.put(Exposure(arrived_ns=0, decode=decode))
    grabs = [source.read(timeout_s=LONG_S, buffer=None) for _ in range(2)]
    assert [(grab.due_ns, grab.skipped) for grab in grabs if grab is not None] == [(0, 0), (3, 2)]
    source.close()


def test_a_consumer_that_keeps_up_gets_every_exposure(stream: Stream, source: LatestFrameSource) -> None:
    for number in range(20):
        stream.send(number)
        grab = source.read(timeout_s=LONG_S, buffer=None)
        assert grab is not None
        assert (grab.due_ns, grab.skipped) == (number, 0)
    source.close()


def test_an_unusable_exposure_is_a_drop_and_the_count_of_skipped_ones_survives_it(
    stream: Stream, source: LatestFrameSource
) -> None:
    stream.send(0)
    stream.wait_until_read()
    stream.put(FrameError(DropReason.CORRUPT, "damaged"))
    stream.wait_until_read()
    with pytest.raises(FrameError):
        source.read(timeout_s=LONG_S, buffer=None)
    stream.send(2)
    grab = source.read(timeout_s=LONG_S, buffer=None)
    assert grab is not None
    assert grab.skipped == 1
    source.close()


def test_a_part_waits_for_its_verdict_and_is_never_skipped(stream: Stream, source: LatestFrameSource) -> None:
    for number in range(3):
        stream.send(number, part_id=f"p-{number}")
    taken: list[tuple[str | None, int]] = []
    while len(taken) < 3:
        grab = source.read(timeout_s=LONG_S, buffer=None)
        assert grab is not None
        taken.append((grab.part_id, grab.skipped))
    assert taken == [("p-0", 0), ("p-1", 0), ("p-2", 0)]
    source.close()


@pytest.mark.parametrize("error", [CameraError("gone"), SourceEndedError("done"), ZeroDivisionError("bug")])
def test_what_ends_the_stream_is_raised_after_the_last_exposure_and_the_stream_is_closed(
    stream: Stream, source: LatestFrameSource, error: Exception
) -> None:
    stream.send(0)
    stream.wait_until_read()
    stream.put(error)
    stream.wait_until_read()
    assert source.read(timeout_s=LONG_S, buffer=None) is not None
    with pytest.raises(type(error)):
        source.read(timeout_s=LONG_S, buffer=None)
    assert stream.closed.wait(LONG_S)
    source.close()


def test_a_stream_that_hangs_holds_up_neither_reading_nor_closing(stream: Stream) -> None:
    stream.hang.clear()
    source = LatestFrameSource(name="top", connect=lambda: stream)
    source.open()
    assert source.read(timeout_s=0.01, buffer=None) is None
    source.close()
    assert not stream.closed.is_set()
    stream.hang.set()
    assert stream.closed.wait(LONG_S), "it is closed by whom it held"


def test_every_opening_has_a_stream_of_its_own() -> None:
    made: list[Stream] = []

    def connect() -> Stream:
        made.append(Stream())
        return made[-1]

    source = LatestFrameSource(name="top", connect=connect)
    source.open()
    source.open()
    source.close()
    assert len(made) == 2
    wait_for(lambda: all(stream.closed.is_set() for stream in made))
    with pytest.raises(CameraError, match="not open"):
        source.read(timeout_s=0.01, buffer=None)


def test_any_live_source_can_be_read_all_the_time() -> None:
    pictures = [np.full((4, 4), level, np.uint8) for level in range(5)]

    class Paced(StillCamera):
        def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
            time.sleep(0.002)
            return super().read(timeout_s=timeout_s, buffer=buffer)

    made: list[FaultyCamera] = []

    def make() -> FaultyCamera:
        faults = iter([None, FrameFault.CORRUPT])
        made.append(FaultyCamera(camera=Paced(pictures=pictures, clock=CLOCK, count=60), faults=faults, clock=CLOCK))
        return made[-1]

    source = latest_frames_of(make, name="plugin")
    source.open()
    seen = 0
    try:
        while True:
            time.sleep(0.02)
            seen += exposures(source)
    except SourceEndedError:
        assert seen == 60
    source.close()


def exposures(source: LatestFrameSource) -> int:
    """Read once; return for how many exposures that stands."""
    try:
        grab = source.read(timeout_s=LONG_S, buffer=None)
    except FrameError:
        return 1
    assert grab is not None
    assert time.monotonic_ns() - grab.due_ns < LONG_S * 1e9
    return 1 + grab.skipped


def test_a_machine_without_threads_left_is_a_fault_that_closes_the_stream(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = LatestFrameSource(name="top", connect=lambda: stream)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            source.open()
    assert stream.closed.is_set()
    source.close()
    source.open()
    stream.send(1)
    assert source.read(timeout_s=LONG_S, buffer=None) is not None
    source.close()
