"""`kensa bench mjpeg`: compares the agent's MJPEG reader with OpenCV's on known server behaviours."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from rich.table import Table

from agent.adapters.mjpeg import MjpegSource
from agent.errors import CameraError
from agent.timing.clock import SystemClock
from simulator.bench.bench_report import BenchReport
from simulator.doubles.cameras.mjpeg_servers import SERVER_BEHAVIOURS, ServerBehaviour, serve_behaviour

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

PICTURES: Final = 5  # that each server sends
_WAIT_MS: Final = 1_000  # for OpenCV, which waits for as long as it may where no answer can be read
_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class ReaderComparison:
    """One behaviour: how many of the images each reader delivered, the agent's byte by byte as they were sent."""

    name: str
    example: str  # of servers that behave so
    agent: int
    opencv: int
    error: str  # of the agent at the end

    @property
    def is_refused(self) -> bool:
        """Whether the agent takes no image of it, on purpose."""
        return SERVER_BEHAVIOURS[self.name].expected_error is not None


@dataclass(frozen=True, slots=True)
class MjpegResult:
    """All rows."""

    rows: tuple[ReaderComparison, ...]

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {"pictures": PICTURES, "rows": [asdict(row) for row in self.rows]}


def jpegs(count: int) -> list[bytes]:
    """Return small images of noise: their coded data holds every kind of byte."""
    rng = np.random.default_rng(1)
    return [cv2.imencode(".jpg", rng.integers(0, 256, (48, 64, 3), np.uint8))[1].tobytes() for _ in range(count)]


def read_with_agent(url: str) -> tuple[list[bytes], str]:
    """Read until the source gives up: the images as they came, and what it said. Raises TimeoutError."""
    source = MjpegSource(url=url, clock=SystemClock(), max_part_bytes=50_000)
    pictures: list[bytes] = []
    deadline = time.monotonic() + _TIMEOUT_S
    try:
        source.open()
        while time.monotonic() < deadline:
            if (picture := source.next_image(timeout_s=0.5)) is not None:
                pictures.append(bytes(picture.data))
    except CameraError as error:
        return pictures, str(error)
    finally:
        source.close()
    raise TimeoutError("the source neither delivered nor gave up")


def read_with_opencv(url: str, most: int) -> int:
    """Return how many images OpenCV's reader delivers, `most` at most."""
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _WAIT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _WAIT_MS]
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits)
    try:
        count = 0
        while capture.isOpened() and count < most and capture.read()[0]:
            count += 1
        return count
    finally:
        capture.release()


def measure(name: str, sent: Sequence[bytes]) -> ReaderComparison:
    """Let both readers read what a server of that behaviour sends."""
    behaviour: ServerBehaviour = SERVER_BEHAVIOURS[name]
    with serve_behaviour(behaviour, sent) as url:
        pictures, said = read_with_agent(url)
        opencv = read_with_opencv(url, len(sent))
    whole = [behaviour.transform(jpeg) for jpeg in sent]
    good = sum(picture == jpeg for picture, jpeg in zip(pictures, whole, strict=False))
    return ReaderComparison(name, behaviour.reported_by, good, opencv, said)


def run_mjpeg(*, report: Callable[[str], None]) -> MjpegResult:
    """Measure every row of the table."""
    report(f"{len(SERVER_BEHAVIOURS)} behaviours of servers, {PICTURES} pictures each")
    sent = jpegs(PICTURES)
    return MjpegResult(tuple(measure(name, sent) for name in SERVER_BEHAVIOURS))


def run_command(arguments: argparse.Namespace, *, report: Callable[[str], None]) -> BenchReport:  # noqa: ARG001 - no options
    """`kensa bench mjpeg`."""
    result = run_mjpeg(report=report)
    title = f"kensa bench mjpeg · images delivered of {PICTURES}"
    table = Table("a server that sends", "as do", "OpenCV", "Kensa", "or reports", title=title)
    for row in result.rows:
        error = row.error.partition(": ")[2] if row.is_refused else ""
        table.add_row(row.name, row.example, str(row.opencv), str(row.agent), error)
    return BenchReport(table, result.to_json())
