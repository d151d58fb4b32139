"""Per-worker state for one inspection: batch buffers, preprocessors, cached verdict origins.

Buffers belong to a geometry and a ROI, not to a model or a lease: they survive a shadow, a trial, and a swap to a model
that sees frames the same way, so that a swap makes and touches no new memory in the hot path. The buffers of the
geometry before the present one are kept for the way back. A desk keeps no model alive, and belongs to one thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from agent.errors import FrameError
from agent.images import plausibility
from agent.inspection.outcome_statistics import chart_key
from agent.preprocess import Preprocessor
from agent.records import ImageFault, Origin
from agent.slot import NO_OVERRIDES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.counters import CameraCounters
    from agent.images.plausibility import ImageLimits, ImageStatistics
    from agent.inspection.frame_pool import FramePool
    from agent.inspection.frame_recorder import FrameRecorder
    from agent.inspection.monitor import InspectionMonitor
    from agent.preprocess import InputPlan
    from agent.records import Box, Frame, Geometry, ModelIdentity, Pixels, Verdict
    from agent.slot import Lease, ModelSlot, SiteOverrides

_FROZEN: Final = "frozen: the camera repeats one picture, the same in every byte; restart it, then check its connection"
_GEOMETRIES: Final = 3  # the champion's, the challenger's, and the one before


@dataclass(frozen=True, slots=True)
class CameraContext:
    """What the loop needs to know of one camera; made by `app`, shared by all workers."""

    thing: str
    line: str
    inspection: str
    camera: str
    boot_epoch: int
    counters: CameraCounters
    pool: FramePool


# Takes a judged frame for training, or leaves it, in no time: the verdict, and the region of the frame that was judged.
CollectFrame: TypeAlias = "Callable[[Frame, Verdict, Box], None]"


@dataclass(frozen=True, slots=True)
class InspectionContext:
    """One inspection as the loop sees it: its slot, where frames are kept, its cameras, and who collects frames."""

    slot: ModelSlot
    recorder: FrameRecorder | None
    cameras: dict[str, CameraContext]
    collect: CollectFrame | None = None
    monitor: InspectionMonitor | None = None  # None: no picture is checked


class BatchSlice(NamedTuple):
    """A frame whose inputs lie at [start, stop) of the batch buffer. A tuple, because one is made for each frame."""

    frame: Frame
    plan: InputPlan
    start: int
    stop: int


class BatchBuffer:
    """Batch buffer and preprocessors for one geometry."""

    def __init__(self, geometry: Geometry, *, roi: Box | None, max_batch: int) -> None:
        """Make nothing yet: frames say what is needed."""
        self.geometry: Final = geometry
        self._roi = roi
        self._max_batch = max_batch
        self._preprocessors: dict[str, Preprocessor] = {}  # by camera: its frames have one shape, so one plan
        self._inputs: Pixels = self._buffer(0)
        self._gathered: Pixels = self._inputs

    def write(self, frames: Sequence[Frame], refuse: Callable[[Frame, FrameError], None]) -> list[BatchSlice]:
        """Write all frames' inputs side by side; `refuse` hears of those that cannot be used."""
        placed: list[BatchSlice] = []
        start = 0
        slots = self._inputs
        for frame in frames:
            preprocessor = self._preprocessors.get(frame.camera)
            if preprocessor is None:
                preprocessor = self._preprocessors[frame.camera] = Preprocessor(self.geometry, roi=self._roi)
            try:
                plan = preprocessor.plan_for(frame.pixels)
                stop = start + len(plan.tiles)
                if stop > len(slots):
                    slots = self._grow(stop)
                preprocessor.write_to(frame.pixels, slots[start:stop])
            except FrameError as error:
                refuse(frame, error)
                continue
            placed.append(BatchSlice(frame, plan, start, stop))
            start = stop
        return placed

    def filled(self, used: int) -> Pixels:
        """The first `used` inputs of the batch buffer [used, H, W, C]; valid until the next `place`."""
        return self._inputs[:used]

    def gather(self, placed: Sequence[BatchSlice]) -> tuple[Pixels, list[BatchSlice]]:
        """The inputs of `placed`, some of the batch's frames in order, side by side, and where each one's lie there.

        Copied only where they do not lie side by side already.
        """
        own: list[BatchSlice] = []
        used = 0
        for p in placed:
            stop = used + p.stop - p.start
            own.append(p._replace(start=used, stop=stop))
            used = stop
        first, last = placed[0].start, placed[-1].stop
        if last - first == used:
            return self._inputs[first:last], own
        if used > len(self._gathered):
            self._gathered = self._buffer(max(used, self._max_batch))
        for source, target in zip(placed, own, strict=True):
            self._gathered[target.start : target.stop] = self._inputs[source.start : source.stop]
        return self._gathered[:used], own

    def _grow(self, inputs: int) -> Pixels:
        """Make room; happens once, and again only when a batch of more tiles than ever arrives."""
        grown = self._buffer(max(inputs, self._max_batch))
        grown[: len(self._inputs)] = self._inputs  # inputs of this batch that are already written
        self._inputs = grown
        return grown

    def _buffer(self, inputs: int) -> Pixels:
        geometry = self.geometry
        return np.empty((inputs, geometry.height, geometry.width, geometry.channels), np.uint8)


class WorkerState:
    """One worker's own things for one inspection."""

    def __init__(self, *, context: InspectionContext, max_batch: int) -> None:
        """Serve `context` with batches of at most `max_batch` frames."""
        self.recorder: Final = context.recorder
        self.collect: Final = context.collect
        self.cameras: Final = context.cameras
        self.monitor: Final = context.monitor
        self.batch_buffer: BatchBuffer | None = None  # for the champion's geometry; None in NO_MODEL
        self.site: SiteOverrides = NO_OVERRIDES  # of the batch
        self._slot = context.slot
        self._max_batch = max_batch
        self._identity: ModelIdentity | None = None
        self._preprocess_digest = ""
        self._classes: tuple[str, ...] = ()
        self._origins: dict[str, Origin] = {}
        self.chart_key = ""  # of the champion under its settings
        self._image_limits: ImageLimits | None = None
        self._cameras_to_compare: set[str] = set()  # cameras whose pictures are not compared with the golden set yet
        self._by_geometry: dict[tuple[Geometry, Box | None], BatchBuffer] = {}  # and ROI; the last used at the end

    def lease(self) -> Lease | None:
        """Take the lease for one batch and turn to its model and site, where they are others than the last batch's."""
        lease = self._slot.lease()
        if lease is None:
            identity, site = None, self._slot.site
        else:
            identity, site = lease.model.identity, lease.site
        if identity is not self._identity or site is not self.site:
            self.site = site
            self._switch_model(lease)
        return lease

    def check_images(self, placed: list[BatchSlice]) -> tuple[list[BatchSlice], list[tuple[Frame, str]]]:
        """Divide a batch into what can be judged and, each with its reason, what proves nothing about its part."""
        monitor, limits, inputs = self.monitor, self._image_limits, self.batch_buffer
        if monitor is None or inputs is None:
            return placed, []
        fit: list[BatchSlice] = []
        unfit: list[tuple[Frame, str]] = []
        slots = inputs.filled(placed[-1].stop)
        for p in placed:
            frame = p.frame
            seen = None if limits is None else plausibility.measure(slots[p.start : p.stop])
            fault = None if seen is None or limits is None else plausibility.find_fault(seen, limits)
            if fault is None and not frame.is_frozen:
                monitor.count_usable(frame.camera)
                if seen is not None and limits is not None and frame.camera in self._cameras_to_compare:
                    self._compare_with_golden(monitor, p, seen, limits)
                fit.append(p)
                continue
            if fault is None or seen is None or limits is None:  # a black picture is equal to the last one, too
                fault, reason = ImageFault.FROZEN, _FROZEN
            else:
                reason = plausibility.describe_fault(fault, seen, limits)
            monitor.count_unusable(frame.camera, fault, reason)
            unfit.append((frame, reason))
        return fit, unfit

    def _compare_with_golden(
        self, monitor: InspectionMonitor, p: BatchSlice, seen: ImageStatistics, limits: ImageLimits
    ) -> None:
        assert self.batch_buffer is not None  # noqa: S101 - the frame is placed in them
        geometry, roi = self.batch_buffer.geometry, self.site.roi
        squeezed = plausibility.describe_shape_mismatch(
            geometry, region=(p.plan.roi[2], p.plan.roi[3]), has_roi=(roi or geometry.roi) is not None
        )
        key = (None if self._identity is None else self._identity.sha256, p.plan.roi)
        if not monitor.compare_with_golden(p.frame.camera, key, seen, limits, squeezed=squeezed):
            self._cameras_to_compare.discard(p.frame.camera)

    def buffer_for(self, geometry: Geometry) -> BatchBuffer:
        """Buffers for `geometry` and the batch's ROI; the same object for equal ones."""
        key = (geometry, self.site.roi)
        found = self._by_geometry.pop(key, None)
        if found is None:
            found = BatchBuffer(geometry, roi=self.site.roi, max_batch=self._max_batch)
            if len(self._by_geometry) >= _GEOMETRIES:
                del self._by_geometry[next(iter(self._by_geometry))]
        self._by_geometry[key] = found
        return found

    def origin(self, camera: str) -> Origin:
        """The shared part of this camera's verdicts by this model; the same object for all of them."""
        found = self._origins.get(camera)
        if found is None:
            station = self.cameras[camera]
            found = Origin(
                thing=station.thing,
                line=station.line,
                inspection=station.inspection,
                camera=camera,
                boot_epoch=station.boot_epoch,
                config_digest=self.site.config_digest,
                preprocess_digest=self._preprocess_digest,
                model=self._identity,
                classes=self._classes,
            )
            self._origins[camera] = found
        return found

    def verdict_key(self, frame: Frame) -> str:
        """The key of this frame's verdict."""
        station = self.cameras[frame.camera]
        return f"{station.line}/{frame.camera}/{station.boot_epoch}/{frame.seq}"

    def _switch_model(self, lease: Lease | None) -> None:
        self._origins = {}
        self._image_limits = None
        self._cameras_to_compare = set(self.cameras)
        if lease is None:
            self._identity, self._preprocess_digest, self._classes, self.batch_buffer = None, "", (), None
            return
        model = lease.model
        self._identity = model.identity
        self._preprocess_digest = model.preprocess_digest
        self._classes = model.rule.classes
        self.chart_key = chart_key(model.identity, lease.rule, lease.site.roi)
        self._image_limits = model.image_limits if lease.site.check_pictures else None
        self.batch_buffer = self.buffer_for(model.geometry)
