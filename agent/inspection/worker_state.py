"""Per-worker state for one inspection: batch buffers, preprocessors, cached verdict origins.

Buffers belong to a geometry and a ROI, not to a model or a lease: they survive a shadow deployment, a trial, and a swap
to a model of the same geometry, so that a swap allocates and touches no new memory in the hot path. The buffers of the
previous geometry are kept for a rollback. A worker state keeps no model alive, and belongs to one thread.
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

_FROZEN: Final = "frozen: the camera repeats one image, the same in every byte; restart it, then check its connection"
_GEOMETRIES: Final = 3  # the champion's, the challenger's, and the previous one


@dataclass(frozen=True, slots=True)
class CameraContext:
    """What the loop needs to know of one camera; composed by `app`, shared by all workers."""

    thing: str
    line: str
    inspection: str
    camera: str
    boot_epoch: int
    counters: CameraCounters
    pool: FramePool


# Offers an inspected frame for collection, with its verdict and the inspected region; must return at once.
CollectFrame: TypeAlias = "Callable[[Frame, Verdict, Box], None]"


@dataclass(frozen=True, slots=True)
class InspectionContext:
    """One inspection as the loop sees it: slot, recorder, cameras, collector and monitor."""

    slot: ModelSlot
    recorder: FrameRecorder | None
    cameras: dict[str, CameraContext]
    collect: CollectFrame | None = None
    monitor: InspectionMonitor | None = None  # None: no image is checked


class BatchSlice(NamedTuple):
    """A frame whose inputs lie at [start, stop) of the batch buffer; a tuple, because one is made for each frame."""

    frame: Frame
    plan: InputPlan
    start: int
    stop: int


class BatchBuffer:
    """Batch buffer and preprocessors for one geometry."""

    def __init__(self, geometry: Geometry, *, roi: Box | None, max_batch: int) -> None:
        """Allocate nothing yet: the first frames show what is needed."""
        self.geometry: Final = geometry
        self._roi = roi
        self._max_batch = max_batch
        self._preprocessors: dict[str, Preprocessor] = {}  # by camera: its frames have one shape, so one plan
        self._inputs: Pixels = self._buffer(0)
        self._gathered: Pixels = self._inputs

    def write(self, frames: Sequence[Frame], refuse: Callable[[Frame, FrameError], None]) -> list[BatchSlice]:
        """Write all frames' inputs side by side; `refuse` is called with frames that cannot be used."""
        slices: list[BatchSlice] = []
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
            slices.append(BatchSlice(frame, plan, start, stop))
            start = stop
        return slices

    def filled(self, used: int) -> Pixels:
        """Return the first `used` inputs of the batch buffer [used, H, W, C]; valid until the next `write`."""
        return self._inputs[:used]

    def gather(self, slices: Sequence[BatchSlice]) -> tuple[Pixels, list[BatchSlice]]:
        """Return the inputs of `slices`, some of the batch's frames in order, side by side, and their new slices.

        Inputs are copied only where they are not adjacent already.
        """
        own: list[BatchSlice] = []
        used = 0
        for slice_ in slices:
            stop = used + slice_.stop - slice_.start
            own.append(slice_._replace(start=used, stop=stop))
            used = stop
        first, last = slices[0].start, slices[-1].stop
        if last - first == used:
            return self._inputs[first:last], own
        if used > len(self._gathered):
            self._gathered = self._buffer(max(used, self._max_batch))
        for source, target in zip(slices, own, strict=True):
            self._gathered[target.start : target.stop] = self._inputs[source.start : source.stop]
        return self._gathered[:used], own

    def _grow(self, inputs: int) -> Pixels:
        """Grow the buffer; happens once, and again only when a batch has more tiles than any before."""
        grown = self._buffer(max(inputs, self._max_batch))
        grown[: len(self._inputs)] = self._inputs  # inputs of this batch that are already written
        self._inputs = grown
        return grown

    def _buffer(self, inputs: int) -> Pixels:
        geometry = self.geometry
        return np.empty((inputs, geometry.height, geometry.width, geometry.channels), np.uint8)


class WorkerState:
    """One worker's own state for one inspection."""

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
        self._cameras_to_compare: set[str] = set()  # cameras whose images are not compared with the golden set yet
        self._by_geometry: dict[tuple[Geometry, Box | None], BatchBuffer] = {}  # and ROI; the last used at the end

    def lease(self) -> Lease | None:
        """Take the lease for one batch; adopt its model and site where they differ from the last batch's."""
        lease = self._slot.lease()
        if lease is None:
            identity, site = None, self._slot.site
        else:
            identity, site = lease.model.identity, lease.site
        if identity is not self._identity or site is not self.site:
            self.site = site
            self._switch_model(lease)
        return lease

    def check_images(self, slices: list[BatchSlice]) -> tuple[list[BatchSlice], list[tuple[Frame, str]]]:
        """Divide a batch into usable frames and, each with its reason, those that prove nothing about their part."""
        monitor, limits, inputs = self.monitor, self._image_limits, self.batch_buffer
        if monitor is None or inputs is None:
            return slices, []
        usable: list[BatchSlice] = []
        unusable: list[tuple[Frame, str]] = []
        slots = inputs.filled(slices[-1].stop)
        for slice_ in slices:
            frame = slice_.frame
            seen = None if limits is None else plausibility.measure(slots[slice_.start : slice_.stop])
            fault = None if seen is None or limits is None else plausibility.find_fault(seen, limits)
            if fault is None and not frame.is_frozen:
                monitor.count_usable(frame.camera)
                if seen is not None and limits is not None and frame.camera in self._cameras_to_compare:
                    self._compare_with_golden(monitor, slice_, seen, limits)
                usable.append(slice_)
                continue
            if fault is None or seen is None or limits is None:  # a black image is equal to the previous one, too
                fault, reason = ImageFault.FROZEN, _FROZEN
            else:
                reason = plausibility.describe_fault(fault, seen, limits)
            monitor.count_unusable(frame.camera, fault, reason)
            unusable.append((frame, reason))
        return usable, unusable

    def _compare_with_golden(
        self, monitor: InspectionMonitor, slice_: BatchSlice, seen: ImageStatistics, limits: ImageLimits
    ) -> None:
        assert self.batch_buffer is not None  # noqa: S101 - the frame's inputs are in it
        geometry, roi = self.batch_buffer.geometry, self.site.roi
        squeezed = plausibility.describe_shape_mismatch(
            geometry, region=(slice_.plan.roi[2], slice_.plan.roi[3]), has_roi=(roi or geometry.roi) is not None
        )
        key = (None if self._identity is None else self._identity.sha256, slice_.plan.roi)
        if not monitor.compare_with_golden(slice_.frame.camera, key, seen, limits, squeezed=squeezed):
            self._cameras_to_compare.discard(slice_.frame.camera)

    def buffer_for(self, geometry: Geometry) -> BatchBuffer:
        """Return the buffer for `geometry` and the batch's ROI; the same object for equal ones."""
        key = (geometry, self.site.roi)
        found = self._by_geometry.pop(key, None)
        if found is None:
            found = BatchBuffer(geometry, roi=self.site.roi, max_batch=self._max_batch)
            if len(self._by_geometry) >= _GEOMETRIES:
                del self._by_geometry[next(iter(self._by_geometry))]
        self._by_geometry[key] = found
        return found

    def origin(self, camera: str) -> Origin:
        """Return the origin of this camera's verdicts by this model; the same object for all of them."""
        found = self._origins.get(camera)
        if found is None:
            camera_context = self.cameras[camera]
            found = Origin(
                thing=camera_context.thing,
                line=camera_context.line,
                inspection=camera_context.inspection,
                camera=camera,
                boot_epoch=camera_context.boot_epoch,
                config_digest=self.site.config_digest,
                preprocess_digest=self._preprocess_digest,
                model=self._identity,
                classes=self._classes,
            )
            self._origins[camera] = found
        return found

    def verdict_key(self, frame: Frame) -> str:
        """Return the key of this frame's verdict."""
        camera_context = self.cameras[frame.camera]
        return f"{camera_context.line}/{frame.camera}/{camera_context.boot_epoch}/{frame.seq}"

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
