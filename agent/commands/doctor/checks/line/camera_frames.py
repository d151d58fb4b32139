"""Checks that every camera delivers a frame that its model can process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np

from agent import preprocess
from agent.adapters.onnx import read_image_limits
from agent.app.factories import make_source
from agent.commands.doctor.check_result import CheckResult, CheckStatus, fail, ok, warn
from agent.errors import CameraError, FrameError, KensaError, SourceEndedError
from agent.images import plausibility
from agent.release import manifest as manifests
from agent.supervision import ErrorBoundary, ThreadSupervisor
from agent.timing.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.commands.doctor.check_context import CheckContext
    from agent.config import CameraConfig, InspectionConfig
    from agent.ports import FrameSource
    from agent.records import Geometry, Grab, Pixels

CONVERT: Final = "save these pictures as PNG, JPEG or BMP, or move them out of the folder"
_FRAME_S: Final = 10.0  # RTSP and USB cameras need some seconds from opening to the first frame
_CAMERA_TIMEOUT_S: Final = 20.0  # a driver that does not return is abandoned after this


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Open each camera and take one frame, where no agent runs."""
    if context.agent_pid is not None:
        return
    for inspection in context.config.inspections.values():
        geometry = _geometry(inspection)
        for name, camera in inspection.cameras.items():
            yield _camera(f"camera {name}", camera, inspection, geometry)


def _geometry(inspection: InspectionConfig) -> Geometry | None:
    try:
        return manifests.read_manifest(inspection.release).geometry.to_record()
    except KensaError:  # reported by the check of releases
        return None


def _camera(check: str, camera: CameraConfig, inspection: InspectionConfig, geometry: Geometry | None) -> CheckResult:
    remedy = "correct the camera or its keys in the configuration; the agent itself would keep trying"
    outcome: list[CheckResult] = []

    def open_and_read() -> None:
        try:
            with foreign:
                source = make_source(camera, SystemClock())
                try:
                    found = _first_frame(check, source, camera, inspection, geometry)
                    skipped_files = getattr(source, "skipped_files", None)
                    if skipped_files is not None and found.status is CheckStatus.OK:
                        found = warn(check, f"{found.seen}; {skipped_files}", CONVERT)
                    outcome.append(found)
                finally:
                    source.close()
        except KensaError as error:
            outcome.append(fail(check, str(error), remedy))

    supervisor = ThreadSupervisor()
    foreign = ErrorBoundary(supervisor, kind="camera", what=check, make=CameraError)  # a plug-in may raise anything
    thread = supervisor.thread(open_and_read, kind="doctor", name=f"doctor {check}")
    thread.start()
    thread.join(_CAMERA_TIMEOUT_S)
    return (
        outcome[0] if outcome else fail(check, f"its driver does not return within {_CAMERA_TIMEOUT_S:.0f} s", remedy)
    )


def _first_frame(
    check: str, source: FrameSource, camera: CameraConfig, inspection: InspectionConfig, geometry: Geometry | None
) -> CheckResult:
    """Raises CameraError."""
    began = time.monotonic()
    source.open()
    try:
        grab = _read(source, began + _FRAME_S)
    except FrameError as error:
        return fail(check, f"its first frame cannot be used: {error}", "check format and size that the camera sends")
    except SourceEndedError as error:
        return fail(check, f"it ended before its first frame: {error}", "check path and split of the camera")
    if grab is None:
        return fail(check, f"open, but no frame within {_FRAME_S:.0f} s", "check trigger, exposure and stream settings")
    height, width = grab.pixels.shape[:2]
    mono = grab.pixels.ndim == 2  # noqa: PLR2004
    seen = f"{width}x{height} px {'mono' if mono else 'colour'}, first frame after {time.monotonic() - began:.1f} s"
    if (camera.width or width, camera.height or height) != (width, height):
        declared = f"declared are {camera.width}x{camera.height}"
        return fail(check, f"{seen}, but {declared}: every frame would be dropped", "correct width and height")
    return (
        ok(check, seen)
        if geometry is None
        else _compare_with_golden_set(check, seen, grab.pixels, inspection, geometry)
    )


def _compare_with_golden_set(
    check: str, seen: str, pixels: Pixels, inspection: InspectionConfig, geometry: Geometry
) -> CheckResult:
    """Compare a frame with those that the model was trained on: aspect, size, brightness, contrast."""
    placed = preprocess.Preprocessor(geometry, roi=inspection.roi)
    try:
        plan = placed.plan_for(pixels)
    except FrameError as error:
        return fail(check, f"{seen}, but {error.detail}", "correct the inspection's roi, or the camera's size")
    inputs = np.empty((len(plan.tiles), geometry.height, geometry.width, geometry.channels), np.uint8)
    placed.write_to(pixels, inputs)
    limits = read_image_limits(inspection.release, manifests.read_manifest(inspection.release))
    found = plausibility.measure(inputs)
    if limits is not None and inspection.check_pictures and (fault := plausibility.find_fault(found, limits)):
        remedy = "every part would be `unknown`: correct lamp, lens or exposure, then run this again"
        return fail(check, f"{seen}, but {plausibility.describe_fault(fault, found, limits)}", remedy)
    has_roi = (inspection.roi or geometry.roi) is not None
    squeezed = plausibility.describe_shape_mismatch(geometry, region=(plan.roi[2], plan.roi[3]), has_roi=has_roi)
    light = None if limits is None else plausibility.describe_mismatch(found, limits)
    if problems := [text for text in (squeezed, light) if text]:
        remedy = "the model may reject or pass every part: make the pictures like those that it was trained on"
        return warn(check, f"{seen}; {'; '.join(problems)}", remedy)
    return ok(check, seen)


def _read(source: FrameSource, deadline: float) -> Grab | None:
    while time.monotonic() < deadline:
        grab = source.read(timeout_s=0.5, buffer=None)
        if grab is not None:
            return grab
    return None
