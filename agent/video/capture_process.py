"""The inspecting process's side of a capture process, and the memory for its images.

Promise: every call returns in time, whatever camera, driver and FFmpeg do; `close` leaves no process behind. An image
is used where it was decoded, without a copy; its memory is reused once no view of it exists.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.children.child_environment import make_environment
from agent.errors import CameraError, FrameError
from agent.images.decode import MAX_IMAGE_PX
from agent.records import DropReason
from agent.video.capture_protocol import (
    CameraFailed,
    CameraOpened,
    CaptureProtocolError,
    DecodeFailed,
    FrameReady,
    FrameRequest,
    FrameSlot,
    SlotTooSmall,
    receive,
    send,
)

if TYPE_CHECKING:
    from agent.records import Pixels
    from agent.video.capture_protocol import CaptureMessage, OpenDevice, OpenRtsp

CHILD_MODULE: Final = "agent.video"  # the module that a capture process runs
_CLOSE_S: Final = 0.25  # to release the camera; then the process is killed
_MAX_SLOTS: Final = 256  # images in use; the intake's bounds are far below
_MAX_BYTES: Final = 3 * MAX_IMAGE_PX
_PROTOCOL_ERROR: Final = "its capture process says what nobody understands"


class _Memory:
    """An anonymous file for one image."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.descriptor = os.memfd_create("kensa-picture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, size)
            # A file that shrinks under a mapping kills the process that reads it.
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
            self._map = mmap.mmap(self.descriptor, size, prot=mmap.PROT_READ)
        except BaseException:
            os.close(self.descriptor)
            raise
        self.address: int = np.frombuffer(self._map, np.uint8).ctypes.data

    def close_descriptor(self) -> None:
        """Close the descriptor: the child has its own, and the mapping needs none."""
        os.close(self.descriptor)


class _View:
    """The array interface over `memory`; lives as long as any view of the array."""

    def __init__(self, memory: _Memory, shape: tuple[int, ...]) -> None:
        self._memory = memory  # keeps the mapping alive
        self.__array_interface__: dict[str, Any] = {
            "shape": shape,
            "typestr": "|u1",
            "data": (memory.address, True),  # read-only
            "version": 3,
        }


class CaptureProcess:
    """One opening of one camera. For one thread."""

    def __init__(self, request: OpenRtsp | OpenDevice, *, module: str = CHILD_MODULE) -> None:
        """Start it; `module` is another one only where the driver is simulated. Raises CameraError."""
        self._slots: dict[int, _Memory] = {}
        self._free: deque[int] = deque()  # appended when a view is freed, by any thread
        self._requested_slot: int | None = None  # the slot that the child fills
        self._is_open = False
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    env=_environment(),
                    cwd="/",
                    process_group=0,  # not reached by the terminal's Ctrl-C
                    pass_fds=[theirs.fileno()],
                )
        except OSError as error:
            self._connection.close()
            raise CameraError(f"its capture process cannot be started ({error.strerror}): check memory") from error
        with contextlib.suppress(OSError):  # it died: reading reports it
            send(self._connection, request)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_open(self, timeout_s: float) -> bool:
        """Wait for the camera to be open; False when it takes longer. Raises CameraError when it cannot be opened."""
        if not self._is_open:
            self._is_open = isinstance(self._receive(timeout_s), CameraOpened)
        return self._is_open

    def wait_frame(self, timeout_s: float) -> tuple[Pixels, FrameReady] | None:
        """Return the newest image, read-only, once it arrives; None after `timeout_s` seconds.

        Raises CameraError when the camera is lost, FrameError for an exposure that cannot be decoded.
        """
        if self._requested_slot is None:
            self._request_frame(self._free_slot())
        said = self._receive(timeout_s)
        if isinstance(said, SlotTooSmall):
            self._request_frame(self._new_slot(said.bytes))
            said = self._receive(timeout_s)
        if said is None:
            return None
        if isinstance(said, DecodeFailed) and self._requested_slot is not None:
            self._free.append(self._requested_slot)
            self._requested_slot = None
            raise FrameError(DropReason.CORRUPT, "the frame cannot be decoded")
        if not isinstance(said, FrameReady) or said.slot != self._requested_slot:
            raise CameraError(_PROTOCOL_ERROR)
        return self._view(said), said

    def close(self) -> None:
        """Have the process release the camera and end; kill it when that takes long."""
        self._connection.close()
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            try:
                self._process.wait(_CLOSE_S)
            except subprocess.TimeoutExpired:  # inside a driver that cannot be interrupted: it dies when that returns
                threading.Thread(target=self._process.wait, name="capture process's end", daemon=True).start()

    # --- messages -----------------------------------------------------------------------------------------------------

    def _receive(self, timeout_s: float) -> CaptureMessage | None:
        """Return the child's next message; None when none comes in time. Raises CameraError when it has ended."""
        self._connection.settimeout(max(timeout_s, 0.000_1))
        try:
            received = receive(self._connection)
        except TimeoutError:
            return None
        except CaptureProtocolError as error:
            raise CameraError(_PROTOCOL_ERROR) from error
        for descriptor in () if received is None else received[1]:  # none are expected
            os.close(descriptor)
        if received is None:
            raise CameraError(f"its capture process {self._exit_reason()}: it is started again")
        if isinstance(received[0], CameraFailed):
            raise CameraError(received[0].text)
        return received[0]

    def _exit_reason(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_S)
        code = self._process.returncode
        return f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"

    # --- memory -------------------------------------------------------------------------------------------------------

    def _request_frame(self, slot: int) -> None:
        self._requested_slot = slot
        with contextlib.suppress(OSError):  # it died: reading reports it
            send(self._connection, FrameRequest(slot))

    def _free_slot(self) -> int:
        return self._free.pop() if self._free else self._new_slot(self._largest())

    def _largest(self) -> int:
        return max((memory.size for memory in self._slots.values()), default=mmap.PAGESIZE)

    def _new_slot(self, size: int) -> int:
        if not 0 < size <= _MAX_BYTES:
            raise CameraError(f"it sends pictures of {size:,} bytes; at most {_MAX_BYTES:,} are accepted")
        if len(self._slots) >= _MAX_SLOTS:
            raise CameraError(f"{_MAX_SLOTS} of its images are in use at once: the line does not release them")
        number = len(self._slots)
        try:
            memory = self._slots[number] = _Memory(size)
        except OSError as error:
            raise CameraError(f"there is no memory for its images ({error.strerror})") from error
        with contextlib.suppress(OSError):  # it died: reading reports it
            send(self._connection, FrameSlot(number, size), descriptors=(memory.descriptor,))
        memory.close_descriptor()
        return number

    def _view(self, said: FrameReady) -> Pixels:
        memory = self._slots[said.slot]
        self._requested_slot = None
        is_picture = len(said.shape) in {2, 3} and all(side > 0 for side in said.shape)
        if not is_picture or int(np.prod(said.shape, dtype=np.int64)) > memory.size:
            raise CameraError(_PROTOCOL_ERROR)
        view = _View(memory, said.shape)
        weakref.finalize(view, self._free.append, said.slot).atexit = False
        return np.asarray(view)


def _environment() -> dict[str, str]:
    """Return the child's environment, without credentials: the child decodes untrusted data."""
    kept = {name: value for name, value in make_environment().items() if not name.startswith("AWS_")}
    return kept | {name: value for name, value in os.environ.items() if name.startswith("OPENCV_")}
