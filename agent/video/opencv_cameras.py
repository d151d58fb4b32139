"""The cameras of a capture process: `grab` waits for an exposure, `retrieve` decodes it.

OpenCV is imported only when a camera has answered: an address without an answer costs no more than an interpreter.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from agent.errors import CameraError
from agent.video import rtsp_session
from agent.video.capture_protocol import OpenRtsp
from agent.video.rtsp_relay import RtspRelay

if TYPE_CHECKING:
    import cv2

    from agent.records import Pixels
    from agent.video.capture_protocol import OpenDevice

_OPEN_MS: Final = 8_000  # up to the first key frame, which some cameras send every few seconds
_READ_MS: Final = 600_000  # the inspecting process detects stalls, and ends this one
_RELAY_END_S: Final = 1.0
_DRIVER_LAG_NS: Final = 10_000_000_000  # an older time stamp of a driver is from another clock


@dataclass(frozen=True, slots=True)
class Grabbed:
    """An exposure that waits to be retrieved."""

    arrived_ns: int  # monotonic
    skipped: int  # exposures that came before it and were not decoded


class LiveCamera(Protocol):
    """An open camera. Used by one thread."""

    def grab(self) -> Grabbed:
        """Wait for the next exposure. Raises CameraError when there are no more."""

    def retrieve(self, into: Pixels | None) -> Pixels | None:
        """Decode the exposure, into `into` where it fits; None when it cannot be decoded."""

    def release(self) -> None:
        """Release the camera."""


def open_camera(request: OpenRtsp | OpenDevice) -> LiveCamera:
    """Open what `request` names; may block for long. Raises CameraError without the camera's name."""
    return OpenCvRtspCamera(request) if isinstance(request, OpenRtsp) else OpenCvDeviceCamera(request)


class _BusyTime:
    """Measures how long the calling thread has not slept: on a CPU or waiting for one.

    The last part of a grab in which it did not sleep began when the exposure arrived.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None
        with suppress(OSError):  # a kernel without scheduler statistics
            self._descriptor = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def read_ns(self) -> int:
        """Return nanoseconds since the thread began."""
        if self._descriptor is None:
            return time.thread_time_ns()
        on_cpu, waiting, _ = os.pread(self._descriptor, 100, 0).split()
        return int(on_cpu) + int(waiting)


class _OpenCvCamera:
    """Base of both kinds."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        import cv2  # noqa: PLC0415 - see the module

        self._errors = cv2.error
        self._capture = capture
        self._busy = _BusyTime()

    def _grab(self) -> int:
        """Grab; return when the exposure arrived, as far as the thread's sleep shows it."""
        began_ns, busy_ns = time.monotonic_ns(), self._busy.read_ns()
        try:
            done = self._capture.grab()
        except self._errors as error:
            raise CameraError(f"it failed ({error.err}): check cable, power and network") from error
        ended_ns = time.monotonic_ns()
        if not done:
            raise CameraError("it delivers no more frames: check cable, power and network")
        return max(began_ns, ended_ns - (self._busy.read_ns() - busy_ns))

    def retrieve(self, into: Pixels | None) -> Pixels | None:
        """See `LiveCamera.retrieve`."""
        try:
            done, pixels = self._capture.retrieve(into)
        except self._errors:
            return None
        return pixels if done else None  # type: ignore[return-value]  # the stubs do not know that frames are uint8

    def release(self) -> None:
        """See `LiveCamera.release`."""
        self._capture.release()


class OpenCvRtspCamera(_OpenCvCamera):
    """An RTSP stream: our own session setup, a relay, and FFmpeg behind it."""

    def __init__(self, request: OpenRtsp) -> None:
        begun = rtsp_session.open_session(request)
        self._relay = RtspRelay(begun, transport=request.transport, path=request.path)
        self._relay.start()
        self._is_seen = request.transport == "tcp"  # whether the packets go through the relay
        try:
            super().__init__(self._open(request.transport))
        except BaseException:
            self._relay.close()
            raise
        self._relay.note_opened()

    def _open(self, transport: str) -> cv2.VideoCapture:
        # OpenCV takes RTSP's options from the environment only. Without fpsprobesize=0 FFmpeg counts some 20 pictures
        # to find the frame rate, which is not used: 2 s of a camera with 10 fps.
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "|".join(
            (f"rtsp_transport;{transport}", "allowed_media_types;video", "fpsprobesize;0")
        )
        import cv2  # noqa: PLC0415 - see the module

        options = {
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: _OPEN_MS,
            cv2.CAP_PROP_READ_TIMEOUT_MSEC: _READ_MS,
            cv2.CAP_PROP_N_THREADS: 1,  # frame threads would hold back a frame each
        }
        numbers = [number for pair in options.items() for number in pair]
        capture = cv2.VideoCapture(self._relay.url, cv2.CAP_FFMPEG, numbers)
        if capture.isOpened() and (transport == "udp" or self._relay.has_seen_frame):
            return capture
        why = self._relay.explain_silence()
        capture.release()
        raise CameraError(why)

    def grab(self) -> Grabbed:
        """See `LiveCamera.grab`."""
        total = 0
        while True:
            self._relay.note_grab_started()
            try:
                slept_ns = self._grab()
            except CameraError as error:
                self._relay.join(_RELAY_END_S)
                raise CameraError(f"it delivers no more frames: {self._relay.error or error}") from error
            arrived_ns, skipped, is_fresh = self._relay.take_grab_result()
            total += skipped
            if is_fresh or not self._is_seen:
                return Grabbed(arrived_ns if self._is_seen else slept_ns, total)
            total += 1

    def release(self) -> None:
        """See `LiveCamera.release`; the camera gets its TEARDOWN before the relay ends."""
        super().release()
        self._relay.close()
        self._relay.join(_RELAY_END_S)


class OpenCvDeviceCamera(_OpenCvCamera):
    """A V4L2 device; a size that the driver does not grant is refused, because every frame would be."""

    def __init__(self, request: OpenDevice) -> None:
        path = Path(request.path)
        if not path.is_char_device():
            there = ", ".join(str(path) for path in sorted(Path("/dev").glob("video*"))) or "none"
            raise CameraError(f"it is not a camera device (there: {there}): check `device` and the USB cable")
        import cv2  # noqa: PLC0415 - see the module

        capture = cv2.VideoCapture(str(path), cv2.CAP_V4L2)
        if not capture.isOpened():
            raise CameraError("it is in use by another program, or it is not a camera")
        super().__init__(capture)
        try:
            self._configure(request)
        except BaseException:
            capture.release()
            raise

    def _configure(self, request: OpenDevice) -> None:
        import cv2  # noqa: PLC0415 - see the module

        wanted = {
            cv2.CAP_PROP_FOURCC: None if request.fourcc is None else cv2.VideoWriter.fourcc(*request.fourcc),
            cv2.CAP_PROP_FRAME_WIDTH: request.width,
            cv2.CAP_PROP_FRAME_HEIGHT: request.height,
            cv2.CAP_PROP_FPS: request.fps,
        }
        for option, value in wanted.items():
            if value is not None:
                self._capture.set(option, value)
        granted = [round(self._capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
        if [request.width or granted[0], request.height or granted[1]] != granted:
            raise CameraError(
                f"it grants {granted[0]}x{granted[1]} px where {request.width}x{request.height} is configured: "
                f"choose a size that `v4l2-ctl --list-formats-ext -d {request.path}` lists"
            )
        self._stamp: int = cv2.CAP_PROP_POS_MSEC

    def grab(self) -> Grabbed:
        """See `LiveCamera.grab`; the driver's time stamp where it has one of the monotonic clock."""
        slept_ns = self._grab()
        with suppress(self._errors):
            driver_ns = round(self._capture.get(self._stamp) * 1e6)
            if slept_ns - _DRIVER_LAG_NS < driver_ns <= time.monotonic_ns():
                return Grabbed(driver_ns, 0)
        return Grabbed(slept_ns, 0)
