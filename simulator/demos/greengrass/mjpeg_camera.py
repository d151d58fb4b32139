"""The simulated line as a network camera: MJPEG over HTTP on the loopback, each part in its turn.

The component takes its images as from any camera in a plant; nothing of the simulator is in its process. Because the
stream loses nothing on the way, the n-th image of the one connection is the frame with number n, and the camera's own
count of images is what captured, inspected and dropped frames are compared with.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

import cv2

from simulator.doubles.cameras.simulated_cameras import MjpegServer
from simulator.line import LineConfig, SimulatedLine, part_sequence

if TYPE_CHECKING:
    from agent.records import Box

_POOL: Final = 64  # images that are rendered before the start
_DEFECT_RATE: Final = 0.04  # a bad day, as in the other demo
_QUALITY: Final = 95


class MjpegLineCamera:
    """Use as a context manager."""

    def __init__(self, *, seed: int, fps: float) -> None:
        """Render and encode the images of the line, which takes a second or two."""
        self.line = SimulatedLine(LineConfig(seed=seed, defect_rate=_DEFECT_RATE, pool=_POOL))
        with ThreadPoolExecutor(2, thread_name_prefix="simulated-line") as threads:
            self._pictures = list(threads.map(self._encoded, range(_POOL)))
        self._server = MjpegServer(picture=self._next, fps=fps)
        self.sent = 0  # images, over all connections

    def __enter__(self) -> Self:
        """Begin to serve."""
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Vanish."""
        self._server.kill()

    @property
    def url(self) -> str:
        """Where the stream is."""
        return self._server.url

    @property
    def roi(self) -> Box:
        """The square that holds the part."""
        return self.line.roi

    @property
    def connections(self) -> int:
        """How often somebody connected; more than one and numbers do not name parts any more."""
        return self._server.accepted

    def pause(self) -> None:
        """Let no more parts come."""
        self._server.pause()

    def _encoded(self, number: int) -> bytes:
        done, jpeg = cv2.imencode(".jpg", self.line.render_picture(number), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if not done:
            raise RuntimeError("OpenCV cannot encode a JPEG")
        return jpeg.tobytes()

    def _next(self, number: int) -> bytes:
        """Thread of the one client."""
        self.sent += 1
        return self._pictures[part_sequence.picture_of(self.line.config, number)]
