"""The capture thread of a camera: reads exposures and hands numbered frames to the intake.

Promise: the thread survives every failure of a camera. A lost or silent camera is closed and opened again after the
state machine's delay; an exposure that cannot be used is counted and dropped under a reason; each exposure, usable or
not, takes the next `seq`, so the consumer sees every gap. It hands over or releases every buffer that it acquires.
`stop` returns within its time-out, even when a driver hangs: the thread is a daemon and closes its camera once the
driver returns. `reconfigure` replaces the source; the numbers continue, because the same thread assigns them.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.errors import CameraError, FrameError, SourceEndedError
from agent.inspection.camera_health import CAMERA_BACKOFF, CameraStateMachine
from agent.inspection.freeze_detector import FreezeDetector
from agent.inspection.intake import NO_PIXELS
from agent.records import DropReason, Frame
from agent.supervision import ErrorBoundary, ThreadSupervisor, remedy
from agent.timing.rate import RateLimit

if TYPE_CHECKING:
    from random import Random

    from agent.counters import CameraCounters
    from agent.inspection.frame_pool import FramePool
    from agent.inspection.intake import CameraIntake
    from agent.ports import FrameSource
    from agent.records import CameraStatus, Grab, Pixels
    from agent.supervision import Fault, SupervisedThread
    from agent.timing.backoff import Backoff
    from agent.timing.clock import Clock

_log = logging.getLogger(__name__)

_READ_S: Final = 0.2  # how long one read may wait, and so how late `stop` may be
_NAMED_PER_S: Final = 20 / 3_600  # named images (files) that are logged one by one, beyond the burst
_NAMED_BURST: Final = 200
_MAX_NAMES: Final = 1_000
_FIRST_EXPOSURE_S: Final = 10.0  # RTSP and USB cameras need some seconds from opening to the first frame


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """How one camera is captured.

    With `stall_ms` None silence is normal: triggered cameras, folders, video files. A frame of another size than
    `declared_px` (width, height) is dropped. `frozen_after_s` is how long a source may repeat one image, see
    `FreezeDetector`; None: for ever.
    """

    source: FrameSource
    stall_ms: int | None
    declared_px: tuple[int | None, int | None]
    frozen_after_s: float | None = None

    @property
    def stall_s(self) -> float | None:
        """The limit in seconds."""
        return None if self.stall_ms is None else self.stall_ms / 1_000


class CaptureThread:
    """Runs one camera; see `CaptureSettings`. `random` spreads the reconnects of many cameras."""

    def __init__(  # noqa: PLR0913 - the composition root names every part
        self,
        *,
        camera: str,
        source: FrameSource,
        intake: CameraIntake,
        pool: FramePool,
        counters: CameraCounters,
        clock: Clock,
        random: Random,
        stall_ms: int | None = 2_000,
        declared_px: tuple[int | None, int | None] = (None, None),
        frozen_after_s: float | None = None,
        backoff: Backoff = CAMERA_BACKOFF,
        supervisor: ThreadSupervisor | None = None,
    ) -> None:
        self._supervisor = supervisor or ThreadSupervisor(clock=clock)
        # Whatever a driver or a plug-in raises is a fault of the camera, which is then closed and opened again.
        self._error_boundary = ErrorBoundary(self._supervisor, kind="camera", what=f"camera {camera}", make=CameraError)
        self._camera = camera
        self._settings = CaptureSettings(source, stall_ms, declared_px, frozen_after_s)
        self._freeze = FreezeDetector(frozen_after_s)
        self._intake = intake
        self._pool = pool
        self._counters = counters
        self._clock = clock
        self._state_machine = CameraStateMachine(
            camera=camera,
            stall_s=self._settings.stall_s,
            first_exposure_s=_FIRST_EXPOSURE_S,
            backoff=backoff,
            random=random,
            now_ns=clock.monotonic_ns(),
        )
        self._lock = threading.Lock()  # of the four that follow
        self._stop = threading.Event()
        self._interrupt = threading.Event()  # stop, or new settings
        self._next_settings: CaptureSettings | None = None
        self._has_ended = False  # the thread will not read `_next_settings` any more
        self._thread = self._new_thread()
        self._seq = 0
        self._conditions = self._supervisor.condition_log(_log)
        self._label = f"camera {camera}"
        self._is_lost = False  # no exposure has arrived since it was lost
        self._is_delivering_bad_images = False  # the last exposure could not be inspected
        self._logged_names: set[str] = set()  # of images that could not be inspected and are in the log
        self._name_log_limit = RateLimit(per_s=_NAMED_PER_S, burst=_NAMED_BURST)
        self._shape: tuple[int, ...] | None = None  # of the last good frame: what the next buffer must hold
        self._buffer = -1  # acquired and not handed over yet

    @property
    def status(self) -> CameraStatus:
        """The camera's status; from any thread."""
        return self._state_machine.status

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of the last good frame, [H, W] or [H, W, 3]; None before the first; from any thread."""
        return self._shape

    @property
    def is_running(self) -> bool:
        """Whether frames may still arrive."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to capture."""
        self._thread.start()

    def request_stop(self) -> None:
        """Request the end without waiting for it, so that many cameras end in parallel."""
        with self._lock:
            self._stop.set()
            self._interrupt.set()

    def reconfigure(self, settings: CaptureSettings) -> None:
        """Close the camera soon and continue with `settings`, also where the source had ended; from any thread.

        Counters and numbers continue. Raises ThreadLimitError where an ended camera needs a thread and there is none;
        it may be called again. A driver that hangs delays the change until it returns.
        """
        with self._lock:
            self._next_settings = settings
            self._interrupt.set()
            if self._has_ended and not self._stop.is_set():
                self._thread = self._new_thread()
                self._thread.start()  # may fail: the number of threads is limited
                self._has_ended = False

    def stop(self, *, timeout_s: float = 1.0) -> bool:
        """End capturing; True when the thread has ended within `timeout_s` seconds. Safe to call twice."""
        self.request_stop()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.warning("camera %s: its driver does not return; it is abandoned", self._camera)
            return False
        return True

    def _new_thread(self) -> SupervisedThread:
        return self._supervisor.thread(
            self._run, kind="capture", name=f"capture {self._camera}", stop=self._stop, on_fault=self._on_fault
        )

    def _run(self) -> None:
        while True:
            self._capture()
            self._release_camera()
            self._state_machine.on_stopped(self._clock.monotonic_ns())
            with self._lock:
                if self._next_settings is None or self._stop.is_set():
                    self._has_ended = True
                    return

    def _on_fault(self, fault: Fault) -> None:
        """Release the camera after a bug in this thread; capture starts again, other cameras are not affected."""
        self._release_camera()
        self._state_machine.on_lost(self._clock.monotonic_ns(), f"internal error: {fault.text}")

    def _release_camera(self) -> None:
        """Close the camera and release its buffer."""
        self._close()
        self._pool.release(self._buffer)
        self._buffer = -1

    def _close(self) -> None:
        """Close the camera; a failure to close is reported, and the camera is opened again all the same."""
        try:
            with self._error_boundary:
                self._settings.source.close()
        except CameraError as error:
            self._supervisor.losses.count("camera_close_failures")
            self._state_machine.record_error(f"closing failed: {error}")

    def _apply_next_settings(self) -> None:
        """Apply new settings, if there are any."""
        with self._lock:
            settings, self._next_settings = self._next_settings, None
            if not self._stop.is_set():
                self._interrupt.clear()
        if settings is not None:
            self._release_camera()
            self._settings, self._shape = settings, None
            self._is_lost = self._is_delivering_bad_images = False
            for what in (self._label, f"pictures of camera {self._camera}"):
                self._conditions.forget(what)
            self._freeze = FreezeDetector(settings.frozen_after_s)
            self._state_machine.on_reconfigured(self._clock.monotonic_ns(), stall_s=settings.stall_s)

    def _capture(self) -> None:
        while not self._stop.is_set():
            self._apply_next_settings()
            try:
                self._state_machine.on_opening(self._clock.monotonic_ns())
                with self._error_boundary:
                    self._settings.source.open()
                self._log_skipped_files(getattr(self._settings.source, "skipped_files", None))
                self._read_frames()
            except SourceEndedError as end:
                _log.info("camera %s: %s", self._camera, end)
                self._state_machine.on_ended(self._clock.monotonic_ns())
                return
            except CameraError as error:
                todo = remedy(error)
                reason = str(error) if todo is None else f"{error} ({todo})"
                delay_s = self._state_machine.on_lost(self._clock.monotonic_ns(), reason)
                self._is_lost = True
                self._conditions.report_fault(self._label, f"{reason}; it is tried again until it delivers")
                self._close()
                self._clock.wait(self._interrupt, delay_s)

    def _log_skipped_files(self, text: str | None) -> None:
        """Log once which files the source skips; status and heartbeat report it from now on."""
        if self._state_machine.set_skipped_files(text):
            _log.warning("camera %s: %s", self._camera, text)

    def _read_frames(self) -> None:
        """Read until the thread is stopped or reconfigured. Raises CameraError when the camera is lost or silent."""
        while not self._interrupt.is_set():
            skipped, grab = 0, None
            try:
                timeout_s = self._state_machine.read_timeout_s(self._clock.monotonic_ns(), _READ_S)
                buffer = self._free_buffer()
                with self._error_boundary:
                    grab = self._settings.source.read(timeout_s=timeout_s, buffer=buffer)
                if grab is None:
                    if stall := self._state_machine.check_stall(self._clock.monotonic_ns()):
                        raise CameraError(stall)
                    continue
                skipped = grab.skipped
                self._count_skipped(skipped)
                self._check_grab(grab)
            except FrameError as error:
                self._state_machine.on_exposure(self._clock.monotonic_ns(), error=str(error), skipped=skipped)
                self._clear_lost()
                self._refuse(error, grab)
                continue
            self._state_machine.on_exposure(self._clock.monotonic_ns(), skipped=skipped)
            if self._is_lost or self._is_delivering_bad_images:
                self._clear_lost()
                self._is_delivering_bad_images = False
                self._conditions.clear_fault(f"pictures of camera {self._camera}")
            self._offer_frame(grab)

    def _free_buffer(self) -> Pixels | None:
        """Return the buffer for the next exposure; None before the first one, and when the pool has none free."""
        if self._buffer < 0 and self._shape is not None:
            self._buffer = self._pool.acquire(self._shape)
        return None if self._buffer < 0 else self._pool.buffer(self._buffer)

    def _check_grab(self, grab: Grab) -> None:
        """Raise FrameError for an exposure that no worker could inspect."""
        pixels = grab.pixels
        if grab.incomplete:
            raise FrameError(DropReason.INCOMPLETE, "the transport lost data of the image")
        mono_or_bgr = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)  # noqa: PLR2004
        if not mono_or_bgr or pixels.dtype != np.uint8:
            raise FrameError(
                DropReason.CHANNELS, f"{pixels.dtype} of shape {pixels.shape}; uint8 [H, W] or [H, W, 3] is expected"
            )
        height, width = pixels.shape[:2]
        declared_w, declared_h = self._settings.declared_px
        if min(height, width) == 0 or (declared_w or width, declared_h or height) != (width, height):
            raise FrameError(
                DropReason.SIZE, f"{width}x{height} px; declared are {declared_w or 'any'}x{declared_h or 'any'}"
            )

    def _clear_lost(self) -> None:
        if self._is_lost:
            self._is_lost = False
            self._conditions.clear_fault(self._label, "delivers again")

    def _refuse(self, error: FrameError, grab: Grab | None) -> None:
        """Account for an unusable exposure: its part gets `unknown`; without a part it is dropped."""
        part_id = error.part_id if grab is None else grab.part_id
        seq, now_ns = self._next_seq(), self._clock.monotonic_ns()
        verdict = "dropped" if part_id is None else "unknown"
        name = error.name or part_id
        if name is None:
            self._is_delivering_bad_images = True
            self._conditions.report_fault(f"pictures of camera {self._camera}", f"{verdict}: {error}")
        elif name in self._logged_names:  # a folder that loops: already logged
            pass
        elif self._name_log_limit.try_take(now_ns):
            if len(self._logged_names) < _MAX_NAMES:
                self._logged_names.add(name)
            _log.warning("camera %s: %s is %s: %s: %s", self._camera, name, verdict, error.reason, error.detail)
        else:
            self._supervisor.losses.count("picture_names_not_logged")
        if part_id is None:
            self._counters.count_dropped(DropReason(error.reason), seq=seq, detail=error.detail, name=error.name)
            return
        frame = Frame(
            camera=self._camera,
            seq=seq,
            due_ns=now_ns if grab is None else grab.due_ns,
            captured_utc_ns=self._clock.utc_ns(),
            pixels=NO_PIXELS,
            part_id=part_id,
            hardware_ns=None if grab is None else grab.hardware_ns,
            refused=str(error),
        )
        if not self._intake.offer_refused(frame, self._stop):
            self._counters.count_dropped(DropReason.SHUTDOWN, seq=seq, detail=str(error), name=name)

    def _count_skipped(self, count: int) -> None:
        """Account for exposures that the source skipped for a newer one; they take numbers, too."""
        if count:
            self._counters.count_captured(count)
            self._counters.count_dropped(DropReason.OVERRUN, count)
            self._seq += count

    def _next_seq(self) -> int:
        self._counters.count_captured()
        self._seq += 1
        return self._seq - 1

    def _offer_frame(self, grab: Grab) -> None:
        buffer = -1
        if self._buffer >= 0 and grab.pixels is self._pool.buffer(self._buffer):
            buffer, self._buffer = self._buffer, -1
        elif self._buffer >= 0 and grab.pixels.shape != self._shape:  # the size changed: this buffer no longer fits
            self._pool.release(self._buffer)
            self._buffer = -1
        self._shape = grab.pixels.shape
        frame = Frame(
            camera=self._camera,
            seq=self._next_seq(),
            due_ns=grab.due_ns,
            captured_utc_ns=self._clock.utc_ns(),
            pixels=grab.pixels,
            part_id=grab.part_id,
            hardware_ns=grab.hardware_ns,
            buffer=buffer,
            is_frozen=self._freeze.is_frozen(grab.pixels, self._clock.monotonic_ns()),
        )
        if not self._intake.offer(frame, self._stop):
            self._counters.count_dropped(DropReason.SHUTDOWN, seq=frame.seq, name=grab.part_id)
            self._pool.release(buffer)
        self._state_machine.on_waiting(self._clock.monotonic_ns())
