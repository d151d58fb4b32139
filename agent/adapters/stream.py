"""Cameras through OpenCV: RTSP, V4L2/USB, and video files.

Promise: `open` and `read` of a live camera return in time although OpenCV's calls block for as long as the driver or
the network likes: one helper thread per opening connects and grabs, the capture thread only waits for it, with a
time-out, and retrieves the pixels into the pool's buffer. The two alternate strictly, so the capture object is never
used by both, and a helper that hangs holds no buffer: `close` leaves it behind, and it lets go of the camera when its
call returns (bounded by FFmpeg's and the driver's own time-outs). FFmpeg hides damaged video behind the last good
picture; a camera whose pictures must prove themselves speaks MJPEG or GenICam.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import cv2

from agent.clock import NS_PER_S
from agent.errors import CameraError, FrameError, SourceEndedError
from agent.inspection.camera_url import redact
from agent.inspection.pacing import Pacer
from agent.records import DropReason, Grab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.clock import Clock
    from agent.records import Pixels

_OPEN_WAIT_S: Final = 0.7  # then `read` goes on waiting, in slices, so that stopping takes less than a second
_CLOSE_WAIT_S: Final = 0.2
_FFMPEG_TIMEOUT_MS: Final = 3_000  # for opening, and for a read that the stall watch has given up


class _Grabber(threading.Thread):
    """Connects, then grabs one frame for each `request`; ends after `leave`, whenever its current call returns."""

    def __init__(self, *, name: str, connect: Callable[[], cv2.VideoCapture], clock: Clock) -> None:
        # No daemon: the interpreter's exit would cut a daemon out of OpenCV's call, and C++ answers that with abort().
        # The exit waits for FFmpeg's or the driver's time-out instead.
        super().__init__(name=f"grab {name}", daemon=False)
        self._camera = name
        self._connect = connect
        self._clock = clock
        self._changed = threading.Condition()
        self._leaving = False
        self._wanted = False
        self._grabbed_ns: int | None = None  # when the requested frame came
        self._error: CameraError | None = None
        self.capture: cv2.VideoCapture | None = None  # for `retrieve`, between a granted request and the next one

    def run(self) -> None:
        """Own the camera from opening to release."""
        try:
            capture = self._connect()
        except CameraError as error:
            self._fail(error)
            return
        except cv2.error as error:
            self._fail(CameraError(f"{self._camera} cannot be opened ({error.err})"))
            return
        try:
            self._grab_on_request(capture)
        except cv2.error as error:
            self._fail(CameraError(f"{self._camera} failed ({error.err}): check cable, power and network"))
        finally:
            capture.release()

    def connected(self, timeout_s: float) -> bool:
        """Wait for the connection; False when it takes longer. Raises CameraError when it failed."""
        with self._changed:
            self._changed.wait_for(lambda: self.capture is not None or self._error is not None, timeout_s)
            if self._error is not None:
                raise self._error
            return self.capture is not None

    def request(self, timeout_s: float) -> int | None:
        """Ask for a frame, or go on waiting for the one asked for; return when it came (monotonic ns), or None."""
        with self._changed:
            if self._error is None and self._grabbed_ns is None:
                self._wanted = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._grabbed_ns is not None or self._error is not None, timeout_s)
            if self._error is not None:
                raise self._error
            grabbed_ns, self._grabbed_ns = self._grabbed_ns, None
            return grabbed_ns

    def leave(self) -> None:
        """Ask the thread to let go of the camera; returns at once when it hangs in a call."""
        with self._changed:
            self._leaving = True
            self._changed.notify_all()
        self.join(_CLOSE_WAIT_S)

    def _grab_on_request(self, capture: cv2.VideoCapture) -> None:
        with self._changed:
            self.capture = capture
            self._changed.notify_all()
        while self._next_request():
            if not capture.grab():
                self._fail(CameraError(f"{self._camera} delivers no more frames: check cable, power and network"))
                return
            with self._changed:
                self._grabbed_ns, self._wanted = self._clock.monotonic_ns(), False
                self._changed.notify_all()

    def _next_request(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or self._leaving)
            return not self._leaving

    def _fail(self, error: CameraError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()


class _TransportGate:
    """OpenCV takes RTSP's transport from the environment, at each opening, for the whole process.

    So openings with the same transport go in parallel, and one with the other waits until they are through. The
    variable exists from the start (agent/__init__.py): a new value moves nothing that another thread may be reading.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._transport = "tcp"
        self._openings = 0

    @contextmanager
    def opened(self, transport: str) -> Iterator[None]:
        """Hold the environment at `transport` meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._openings == 0 or self._transport == transport)
            if self._transport != transport:
                self._transport = transport
                os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = f"rtsp_transport;{transport}"
            self._openings += 1
        try:
            yield
        finally:
            with self._changed:
                self._openings -= 1
                self._changed.notify_all()


_transport_gate: Final = _TransportGate()


class _LiveSource(ABC):
    """What RTSP and V4L2 have in common; see the module."""

    def __init__(self, *, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._grabber: _Grabber | None = None

    @abstractmethod
    def _connect(self) -> cv2.VideoCapture:
        """Open the camera; called in the helper thread, may block. Raises CameraError."""

    def open(self) -> None:
        """See `FrameSource.open`; a camera that takes long goes on connecting, and `read` tells."""
        self.close()
        self._grabber = _Grabber(name=self._name, connect=self._connect, clock=self._clock)
        self._grabber.start()
        self._grabber.connected(_OPEN_WAIT_S)

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        """See `FrameSource.read`."""
        if self._grabber is None:
            raise CameraError(f"{self._name} is not open")
        deadline_ns = self._clock.monotonic_ns() + round(timeout_s * NS_PER_S)
        if not self._grabber.connected(timeout_s) or self._grabber.capture is None:
            return None
        left_s = max(0, deadline_ns - self._clock.monotonic_ns()) / NS_PER_S
        grabbed_ns = self._grabber.request(left_s)
        if grabbed_ns is None:
            return None
        return Grab(pixels=_retrieve(self._grabber.capture, buffer), due_ns=grabbed_ns)

    def close(self) -> None:
        """See `FrameSource.close`."""
        if self._grabber is not None:
            self._grabber.leave()
            self._grabber = None


class RtspSource(_LiveSource):
    """The RTSP stream at `url` (user and password in it are sent as the server asks), decoded by FFmpeg."""

    def __init__(self, *, url: str, clock: Clock, transport: Literal["tcp", "udp"] = "tcp") -> None:
        super().__init__(name=redact(url), clock=clock)
        self._url = url
        self._transport = transport

    def _connect(self) -> cv2.VideoCapture:
        options = {
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: _FFMPEG_TIMEOUT_MS,
            cv2.CAP_PROP_READ_TIMEOUT_MSEC: _FFMPEG_TIMEOUT_MS,
            cv2.CAP_PROP_N_THREADS: 1,  # frame threads would hold back a frame each
        }
        with _transport_gate.opened(self._transport):
            capture = cv2.VideoCapture(
                self._url, cv2.CAP_FFMPEG, [number for pair in options.items() for number in pair]
            )
        if not capture.isOpened():
            raise CameraError(
                f"{self._name} cannot be opened: check address, user, password, network, "
                f"and that it offers RTSP over {self._transport}"
            )
        return capture


class V4l2Source(_LiveSource):
    """A USB or built-in camera: `device` is an index or a path such as /dev/video0.

    `width`, `height`, `fps` and `fourcc` (four letters: MJPG, YUYV ...) are asked of the driver; a driver that grants
    another size is refused, because every frame would be.
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
        self._path = Path(f"/dev/video{device}" if isinstance(device, int) or device.isdecimal() else device)
        super().__init__(name=str(self._path), clock=clock)
        self._width = width
        self._height = height
        self._fps = fps
        self._fourcc = fourcc

    def _connect(self) -> cv2.VideoCapture:
        self._check_device()
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_V4L2)
        if not capture.isOpened():
            raise CameraError(f"{self._name} cannot be opened: it is in use by another program, or it is not a camera")
        if self._fourcc is not None:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*self._fourcc))
        if self._width is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._width)
        if self._height is not None:
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._height)
        if self._fps is not None:
            capture.set(cv2.CAP_PROP_FPS, self._fps)
        width, height = round(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if (self._width or width, self._height or height) != (width, height):
            capture.release()
            raise CameraError(
                f"{self._name} grants {width}x{height} px where {self._width}x{self._height} is configured: "
                f"choose a size that `v4l2-ctl --list-formats-ext -d {self._path}` lists"
            )
        return capture

    def _check_device(self) -> None:
        if self._path.is_char_device():
            return
        there = ", ".join(str(path) for path in sorted(Path("/dev").glob("video*"))) or "none"
        raise CameraError(f"{self._name} is not a camera device (there: {there}): check `device` and the USB cable")


class VideoSource:
    """A video file as a camera, at `fps` or its own rate; `loop` starts over at the end, else the source is done."""

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
                raise CameraError(f"{self._path} does not say its frame rate: configure `fps`")
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
