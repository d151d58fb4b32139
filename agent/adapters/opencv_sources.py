"""Cameras through OpenCV: RTSP, V4L2/USB, and video files.

Promise: `open`, `read` and `close` of a live camera return in time although OpenCV's calls block for as long as driver
or network do: each live camera is opened and read by a process of its own (`agent.video`), which is killed when it
hangs. It reads continuously and gives the newest image. FFmpeg conceals damaged video with the last good image; a
camera whose images must be verifiably intact uses MJPEG or GenICam.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal

import cv2

from agent.cameras.camera_url import CameraAddress
from agent.errors import CameraError, FrameError, SourceEndedError
from agent.inspection.pacing import Pacer
from agent.records import DropReason, Grab
from agent.timing.clock import NS_PER_S
from agent.video.capture_process import CHILD_MODULE, CaptureProcess
from agent.video.capture_protocol import OpenDevice, OpenRtsp

if TYPE_CHECKING:
    from agent.records import Pixels
    from agent.timing.clock import Clock

_OPEN_WAIT_S: Final = 0.5  # then `read` continues the wait, in slices, so that stopping takes less than a second


class _LiveOpenCvSource(ABC):
    """Base of RTSP and V4L2 sources; see the module."""

    capture_module: ClassVar[str] = CHILD_MODULE

    def __init__(self, *, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._process: CaptureProcess | None = None

    @abstractmethod
    def _open_request(self) -> OpenRtsp | OpenDevice:
        """Return the request to open the camera. Raises CameraError without the camera's name."""

    def open(self) -> None:
        """See `FrameSource.open`; a slow camera continues to connect, and `read` reports the result."""
        self.close()
        try:
            self._process = CaptureProcess(self._open_request(), module=self.capture_module)
            self._process.wait_open(_OPEN_WAIT_S)
        except CameraError as error:
            raise self._named(error) from None

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        """See `FrameSource.read`; the pixels are the source's own, read-only, and valid while a view exists."""
        if self._process is None:
            raise CameraError(f"{self._name} is not open")
        deadline_ns = self._clock.monotonic_ns() + round(timeout_s * NS_PER_S)
        try:
            if not self._process.wait_open(timeout_s):
                return None
            left_s = max(0, deadline_ns - self._clock.monotonic_ns()) / NS_PER_S
            taken = self._process.wait_frame(left_s)
        except CameraError as error:
            raise self._named(error) from None
        if taken is None:
            return None
        pixels, picture = taken
        return Grab(pixels=pixels, due_ns=picture.arrived_ns, skipped=picture.skipped)

    def close(self) -> None:
        """See `FrameSource.close`."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _named(self, error: CameraError) -> CameraError:
        joint = " " if str(error).startswith("cannot be opened") else ": "
        return CameraError(f"{self._name}{joint}{error}")


class RtspSource(_LiveOpenCvSource):
    """The RTSP stream at `url`, decoded by FFmpeg; user and password are sent as the server asks.

    `username` and `password_file` take the place of those in the address; the file is read at each opening.
    """

    def __init__(
        self,
        *,
        url: str,
        clock: Clock,
        transport: Literal["tcp", "udp"] = "tcp",
        username: str | None = None,
        password_file: Path | None = None,
    ) -> None:
        self._address = CameraAddress(url=url, username=username, password_file=password_file)
        super().__init__(name=self._address.redacted, clock=clock)
        self._transport = transport

    def _open_request(self) -> OpenRtsp:
        target = self._address.resolve()
        if target.scheme not in {"rtsp", "rtsps"}:
            raise CameraError("its address is malformed: one like rtsp://camera/stream is needed")
        return OpenRtsp(
            scheme=target.scheme,
            host=target.host,
            port=target.port,
            path=target.path,
            user=None if target.credentials is None else target.credentials.username,
            password=None if target.credentials is None else target.credentials.password,
            transport=self._transport,
        )


class V4l2Source(_LiveOpenCvSource):
    """A USB or built-in camera; a driver that grants another size is refused, because every frame would be.

    Args:
        device: index, or a path such as /dev/video0.
        clock: monotonic time.
        width: requested from the driver, px; its own where None.
        height: likewise.
        fps: likewise.
        fourcc: likewise; four letters: MJPG, YUYV ...
    """

    def __init__(
        self,
        *,
        device: int | str,
        clock: Clock,
        width: int | None = None,
        height: int | None = None,
        fps: float | None = None,
        fourcc: str | None = None,
    ) -> None:
        path = str(Path(f"/dev/video{device}" if isinstance(device, int) or device.isdecimal() else device))
        super().__init__(name=path, clock=clock)
        self._device = OpenDevice(path=path, width=width, height=height, fps=fps, fourcc=fourcc)

    def _open_request(self) -> OpenDevice:
        return self._device


class VideoFileSource:
    """A video file as a camera, at `fps` or its own rate; `loop` restarts it at the end, else the source ends."""

    def __init__(self, *, path: str | Path, clock: Clock, fps: float | None = None, loop: bool = False) -> None:
        self._path = Path(path)
        self._clock = clock
        self._fps = fps
        self._loop = loop
        self._capture: cv2.VideoCapture | None = None
        self._pacer = Pacer(fps=fps, clock=clock)
        self._frames = 0  # since the last start of the file

    def open(self) -> None:
        """See `FrameSource.open`."""
        self._rewind()
        if self._capture is not None:
            recorded = self._capture.get(cv2.CAP_PROP_FPS)
            fps = self._fps or (recorded if 0 < recorded < 1_000 else None)  # noqa: PLR2004  # frames/s; else not known
            if fps is None:
                raise CameraError(f"{self._path} has no frame rate: configure `fps`")
            self._pacer = Pacer(fps=fps, clock=self._clock)

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        """See `FrameSource.read`."""
        if self._capture is None:
            raise CameraError(f"{self._path} is not open")
        due_ns = self._pacer.wait(timeout_s)
        if due_ns is None:
            return None
        if not self._capture.grab():
            if self._frames == 0:
                raise CameraError(f"{self._path} holds no frame that can be decoded")
            if not self._loop:
                raise SourceEndedError(f"all {self._frames} frames of {self._path} were read")
            self._rewind()
            self._capture.grab()
        self._frames += 1
        return Grab(pixels=_retrieve(self._capture, buffer), due_ns=due_ns)

    def close(self) -> None:
        """See `FrameSource.close`."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _rewind(self) -> None:
        self.close()
        if not self._path.is_file():
            raise CameraError(f"{self._path} does not exist or is no file: check `path`")
        self._capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        if not self._capture.isOpened():
            self.close()
            raise CameraError(f"{self._path} cannot be opened as a video: check with `ffprobe` what it holds")
        self._frames = 0


def _retrieve(capture: cv2.VideoCapture, buffer: Pixels | None) -> Pixels:
    """Convert the grabbed frame to BGR, into `buffer` where its size fits. Raises FrameError."""
    try:
        done, pixels = capture.retrieve(buffer)
    except cv2.error as error:
        raise FrameError(DropReason.CORRUPT, f"the frame cannot be decoded ({error.err})") from error
    if not done:
        raise FrameError(DropReason.CORRUPT, "the frame cannot be decoded")
    return pixels  # type: ignore[return-value]  # the stubs do not know that frames are uint8
