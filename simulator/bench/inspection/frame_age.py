"""`kensa bench cameras`, section `frame_age`: age of frames on a line slower than its camera.

Each live kind of camera runs at 30 frames/s before a line that needs three periods for a frame. Each image carries a
time stamp, so its age at the verdict is known, and so is whether each exposure is accounted for. The USB camera's
driver is simulated (`simulator.doubles.cameras.v4l2_camera`); everything else is real.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.adapters.mjpeg import live_mjpeg_source
from agent.adapters.opencv_sources import RtspSource
from agent.timing.clock import SystemClock
from simulator.doubles.cameras.frame_stamp import stamped_jpegs
from simulator.doubles.cameras.rtsp_server import RtspServer
from simulator.doubles.cameras.simulated_cameras import MjpegServer
from simulator.doubles.cameras.v4l2_camera import SimulatedUsbCamera
from simulator.probes.slow_consumer import SlowConsumer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.ports import FrameSource
    from simulator.probes.slow_consumer import InspectedFrame

KINDS: Final = ("rtsp", "mjpeg", "v4l2")
FRAME_AGE_FPS: Final = 30.0
SLOWDOWN: Final = 3  # times


@dataclass(frozen=True, slots=True)
class FrameAgeResult:
    """One kind of camera."""

    kind: str
    inspected: int
    captured: int
    dropped: Mapping[str, int]
    unaccounted: int  # exposures between the first and the last inspected frame that have no number
    age_p50_ms: float
    age_p99_ms: float
    age_max_ms: float
    late: int  # frames that were older than the limit
    late_after_1_s: int  # of those, what came after the first second, in which the overload is found out
    limit_ms: float

    @property
    def is_exact(self) -> bool:
        """Captured = inspected + dropped, and every exposure has its number."""
        return self.captured == self.inspected + sum(self.dropped.values()) and self.unaccounted == 0


def run_frame_age(*, seconds: float, report: Callable[[str], None]) -> list[FrameAgeResult]:
    """Run each kind for `seconds`. Raises KensaError."""
    results = []
    for kind in KINDS:
        report(f"{kind}: {FRAME_AGE_FPS:.0f} frames/s, {FRAME_AGE_FPS / SLOWDOWN:.0f} inspected, {seconds:.0f} s")
        with ExitStack() as stack:
            line = SlowConsumer(_source(kind, stack), inspection_s=SLOWDOWN / FRAME_AGE_FPS)
            inspected = line.run(seconds)
            results.append(_frame_age_result(kind, line, inspected))
    return results


def _source(kind: str, stack: ExitStack) -> FrameSource:
    clock, picture = SystemClock(), stamped_jpegs()
    match kind:
        case "rtsp":
            return RtspSource(url=stack.enter_context(RtspServer(picture=picture, fps=FRAME_AGE_FPS)).url, clock=clock)
        case "mjpeg":
            return live_mjpeg_source(
                url=stack.enter_context(MjpegServer(picture=picture, fps=FRAME_AGE_FPS)).url, clock=clock
            )
        case _:
            return SimulatedUsbCamera(fps=FRAME_AGE_FPS)


def _frame_age_result(kind: str, line: SlowConsumer, inspected: list[InspectedFrame]) -> FrameAgeResult:
    accounting = line.accounting
    limit_ms = 2_000 / FRAME_AGE_FPS + 1_000 * SLOWDOWN / FRAME_AGE_FPS
    ages = np.array([each.age_ms for each in inspected])
    late = ages > limit_ms
    begun = inspected[0].seq + FRAME_AGE_FPS
    return FrameAgeResult(
        kind=kind,
        inspected=len(inspected),
        captured=accounting.captured,
        dropped=accounting.dropped,
        unaccounted=(inspected[-1].number - inspected[0].number) - (inspected[-1].seq - inspected[0].seq),
        age_p50_ms=float(np.percentile(ages, 50)),
        age_p99_ms=float(np.percentile(ages, 99)),
        age_max_ms=float(ages.max()),
        late=int(late.sum()),
        late_after_1_s=int(late[[each.seq >= begun for each in inspected]].sum()),
        limit_ms=limit_ms,
    )
