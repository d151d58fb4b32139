"""A USB camera that is not there: the agent's own capture process around a driver that is simulated.

Everything is real (process, shared memory, loop) but OpenCV's capture object, see
`simulator.doubles.cameras.v4l2_driver`. It needs no kernel module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.adapters.opencv_sources import V4l2Source
from agent.timing.clock import SystemClock
from simulator.doubles.cameras.v4l2_driver import HEIGHT, WIDTH

if TYPE_CHECKING:
    from agent.timing.clock import Clock

CHILD: Final = "simulator.doubles.cameras.v4l2_driver"
_NODE: Final = "/dev/null"  # a character device that everybody has


class SimulatedUsbCamera(V4l2Source):
    """A `V4l2Source` whose driver is simulated, `fps` exposures a second."""

    capture_module = CHILD

    def __init__(self, *, fps: float, clock: Clock | None = None) -> None:
        super().__init__(device=_NODE, clock=clock or SystemClock(), width=WIDTH, height=HEIGHT, fps=fps)
