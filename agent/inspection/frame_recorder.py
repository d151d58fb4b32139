"""Records the newest frames of defect and unsure parts for `kensa explain`; never blocks the loop.

The loop copies a frame into a free copy buffer; when none is free (encoding cannot keep up) the frame is not recorded,
its verdict has no image, and `skipped` counts it. Encoding a 1080p frame costs about 15
ms of a core, so the sustained rate is bounded too: a burst of defects must not slow the line down. Files:
`frames/<inspection>/<camera>-<epoch>-<seq>.jpg` and, with evidence, `.npz` beside it (evidence uint8 [tiles, h, w],
tiles int32 [tiles, 2], scale, ROI, input size). Number and bytes are bounded; the oldest are removed first.
"""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.images.decode import encode_jpeg
from agent.supervision import ThreadSupervisor
from agent.timing.rate import RateLimit

if TYPE_CHECKING:
    from pathlib import Path

    from agent.preprocess import InputPlan
    from agent.records import Floats, Frame, Origin, Pixels
    from agent.supervision import Fault
    from agent.timing.clock import Clock

FRAMES_FOLDER: Final = "frames"
BURST: Final = 10
_COPIES: Final = 4  # frames that may wait for the encoder: bounds memory
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _RecordJob:
    name: str
    buffer: Pixels
    plan: InputPlan
    evidence: Floats | None


class _PruneJob:
    """A job: the limits have changed."""


class FrameRecorder:
    """A bounded folder of recorded frames and the thread that writes it."""

    def __init__(
        self,
        *,
        state_dir: Path,
        inspection: str,
        frames: int,
        max_bytes: int,
        max_per_s: float,
        jpeg_quality: int,
        clock: Clock,
        supervisor: ThreadSupervisor | None = None,
    ) -> None:
        """Record to `state_dir/frames/<inspection>`.

        Args:
            state_dir: The agent's state directory.
            inspection: The inspection whose frames these are.
            frames: The most images to keep; 0 records none.
            max_bytes: The most bytes to keep.
            max_per_s: The sustained rate; a burst of `BURST` is taken at once.
            jpeg_quality: 1 to 100.
            clock: The clock of the rate limit.
            supervisor: Supervises the writing thread.
        """
        self._clock = clock
        self._jobs: queue.SimpleQueue[_RecordJob | _PruneJob | None] = queue.SimpleQueue()
        self._rate = RateLimit(per_s=max_per_s, burst=BURST)
        self.set_limits(frames=frames, max_bytes=max_bytes, max_per_s=max_per_s, jpeg_quality=jpeg_quality)
        self._reference = f"{FRAMES_FOLDER}/{inspection}"
        self._folder = state_dir / self._reference
        self._free: list[Pixels | None] = [None] * _COPIES
        self._lock = threading.Lock()
        self._recorded: list[tuple[str, int]] = []  # (stem, bytes), oldest first
        self._bytes = 0
        self._stop = threading.Event()
        supervisor = supervisor or ThreadSupervisor(clock=clock)
        self._losses = supervisor.losses
        self._conditions = supervisor.condition_log(_log)
        self._label = f"kept frames of {inspection}"
        self._thread = supervisor.thread(self._run, kind="keeper", stop=self._stop, on_fault=self._on_fault)
        self._current_job: _RecordJob | None = None  # being written
        self.skipped = 0  # frames that were not recorded: too many at once, or a disk error

    def start(self) -> None:
        """Read what is there and start writing. Raises OSError when the folder cannot be created."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = sorted(self._folder.glob("*.jpg"), key=_age_order)
        self._recorded = [(p.stem, self._size(p.stem)) for p in files]
        self._bytes = sum(size for _, size in self._recorded)
        self._thread.start()

    def set_limits(self, *, frames: int, max_bytes: int, max_per_s: float, jpeg_quality: int) -> None:
        """Set new limits, from any thread; the recorder's thread soon removes what exceeds them."""
        self._frames = frames
        self._max_bytes = max_bytes
        self._rate.set_limit(per_s=max_per_s, burst=BURST)
        self._quality = jpeg_quality
        self._jobs.put(_PruneJob())

    def offer(self, frame: Frame, *, origin: Origin, plan: InputPlan, evidence: Floats | None) -> str | None:
        """Copy the frame to be recorded; return its reference below the state directory, None when it is not taken."""
        if self._frames == 0:
            return None
        now = self._clock.monotonic_ns()
        with self._lock:
            if not self._free or not self._rate.try_take(now):
                self.skipped += 1
                return None
            buffer = self._free.pop()
        if buffer is None or buffer.shape != frame.pixels.shape:
            buffer = np.empty_like(frame.pixels)
        np.copyto(buffer, frame.pixels)
        name = f"{origin.camera}-{origin.boot_epoch}-{frame.seq}"
        self._jobs.put(_RecordJob(name, buffer, plan, None if evidence is None else evidence.copy()))
        return f"{self._reference}/{name}.jpg"

    def close(self, timeout_s: float) -> None:
        """Write what was taken and stop within `timeout_s` seconds."""
        self._stop.set()
        self._jobs.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, _PruneJob):
                try:
                    self._prune()
                except OSError as error:  # the next written frame tries again
                    self._losses.count("kept_frames_not_removed")
                    self._conditions.report_event(self._label, f"old ones cannot be removed: {error}")
                continue
            self._current_job = job
            try:
                self._write(job)
            except (OSError, ValueError) as error:
                self.skipped += 1
                self._conditions.report_fault(self._label, f"{job.name} is not kept: {error}")
            else:
                self._conditions.clear_fault(self._label, "are written again")
            self._finish_job(job)

    def _finish_job(self, job: _RecordJob) -> None:
        self._current_job = None
        with self._lock:
            self._free.append(job.buffer)

    def _on_fault(self, _fault: Fault) -> None:
        """Release the buffer of the frame that was being written when the thread met a bug; it is not recorded."""
        if self._current_job is not None:
            self.skipped += 1
            self._finish_job(self._current_job)

    def _write(self, job: _RecordJob) -> None:
        data = encode_jpeg(job.buffer, self._quality)
        if job.evidence is not None:
            plan = job.plan
            np.savez_compressed(
                self._folder / f"{job.name}.npz",
                evidence=np.round(np.clip(job.evidence, 0, 1) * 255).astype(np.uint8),
                tiles=np.array([(t.x, t.y) for t in plan.tiles], np.int32),
                scale=np.array([plan.scale_x, plan.scale_y]),
                roi=np.array(plan.roi, np.int32),
                input_hw=np.array(plan.input_hw, np.int32),
            )
        partial = self._folder / f"{job.name}.part"
        partial.write_bytes(data)
        partial.replace(self._folder / f"{job.name}.jpg")  # a reader never sees half an image
        size = self._size(job.name)
        self._recorded.append((job.name, size))
        self._bytes += size
        self._prune()

    def _prune(self) -> None:
        while self._recorded and (len(self._recorded) > self._frames or self._bytes > self._max_bytes):
            stem, size = self._recorded.pop(0)
            self._bytes -= size
            for suffix in (".jpg", ".npz"):
                (self._folder / f"{stem}{suffix}").unlink(missing_ok=True)

    def _size(self, stem: str) -> int:
        paths = (self._folder / f"{stem}.jpg", self._folder / f"{stem}.npz")
        return sum(p.stat().st_size for p in paths if p.exists())


def _age_order(path: Path) -> tuple[int, int]:
    """Sort key, oldest first: by the boot epoch in the name, so that a wrong clock affects one run at most."""
    epoch = path.stem.rsplit("-", 2)[-2:][0]
    return int(epoch) if epoch.isdecimal() else 0, path.stat().st_mtime_ns
