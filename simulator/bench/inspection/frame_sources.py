"""Frame sources for benchmarks: rendered once, passed by reference, paced or as fast as taken."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from agent.records import Grab
from agent.timing.clock import NS_PER_S
from simulator.line import LineConfig, SimulatedLine

if TYPE_CHECKING:
    from agent.records import Pixels

POOL: Final = 24  # distinct 1080p frames, 150 MB: more than any cache holds, so that memory is paid for as on a line


def render_pool(*, frames: int = POOL, seed: int = 11) -> list[Pixels]:
    """Render good parts [1080, 1920, 3] BGR uint8; the same for the same seed."""
    line = SimulatedLine(LineConfig(seed=seed, defect_rate=0.0))
    return [line.render(index) for index in range(frames)]


def render_defect(*, seed: int = 12) -> Pixels:
    """Render one strongly defective part [1080, 1920, 3] BGR uint8; the same for the same seed."""
    line = SimulatedLine(LineConfig(seed=seed, defect_rate=1.0))
    return line.render(next(index for index in range(1_000) if line.truth(index).difficulty == "strong"))


class GatedSource:
    """A camera that delivers as fast as it is read, but only as many frames as `go` allows."""

    def __init__(self, frames: list[Pixels]) -> None:
        self._frames = frames
        self._left = 0
        self._next = 0
        self._opened = threading.Event()

    def allow(self, frames: int) -> None:
        """Allow so many more frames."""
        self._left = frames
        self._opened.set()

    def open(self) -> None:
        """See `FrameSource.open`."""

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        """See `FrameSource.read`."""
        if self._left == 0:
            self._opened.clear()
            if self._left == 0 and not self._opened.wait(timeout_s):
                return None
        self._left -= 1
        self._next = (self._next + 1) % len(self._frames)
        return Grab(self._frames[self._next], time.monotonic_ns())

    def close(self) -> None:
        """See `FrameSource.close`."""


class PacedSource:
    """A camera at `fps`; `phase` in [0, 1) shifts its grid, as cameras of a line are triggered one after the other."""

    def __init__(self, frames: list[Pixels], *, fps: float, phase: float = 0.0) -> None:
        self._frames = frames
        self._period_ns = round(NS_PER_S / fps)
        self._phase_ns = round(self._period_ns * phase)
        self._due_ns = 0
        self._next = round(len(frames) * phase)
        self._never = threading.Event()

    def open(self) -> None:
        """See `FrameSource.open`."""
        now = time.monotonic_ns()
        self._due_ns = now - now % self._period_ns + self._period_ns + self._phase_ns

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        """See `FrameSource.read`. A frame is never skipped: late reading shows as latency."""
        missing_s = (self._due_ns - time.monotonic_ns()) / NS_PER_S
        if missing_s > timeout_s:
            self._never.wait(timeout_s)
            return None
        if missing_s > 0:
            self._never.wait(missing_s)
        due_ns, self._due_ns = self._due_ns, self._due_ns + self._period_ns
        self._next = (self._next + 1) % len(self._frames)
        return Grab(self._frames[self._next], due_ns)

    def close(self) -> None:
        """See `FrameSource.close`."""
