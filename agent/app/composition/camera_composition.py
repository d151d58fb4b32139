"""Composes the cameras of an agent: intake, buffers, counters and capture thread of each."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from agent import config as configuration
from agent.app.factories import is_live
from agent.counters import CameraCounters
from agent.inspection.capture import CaptureSettings, CaptureThread

if TYPE_CHECKING:
    from agent.app.composition.agent_dependencies import AgentDependencies
    from agent.inspection.frame_pool import FramePool
    from agent.inspection.intake import IntakeHub
    from agent.ports import FrameSource

_INFINITE_KINDS: Final = (
    configuration.V4l2CameraConfig,
    configuration.RtspCameraConfig,
    configuration.MjpegCameraConfig,
)


class ComposedCamera:
    """One camera of a running agent: its counters and its capture thread."""

    def __init__(
        self, *, inspection: str, counters: CameraCounters, capture: CaptureThread, settings: CaptureSettings
    ) -> None:
        """Show `capture`, which captures with `settings`."""
        self.inspection: Final = inspection
        self.counters: Final = counters
        self.capture: Final = capture
        self._settings = settings

    @property
    def settings(self) -> CaptureSettings:
        """What it captures with, or is about to."""
        return self._settings

    def reconfigure(self, settings: CaptureSettings) -> None:
        """Close the camera and open it again with `settings`; see `CaptureThread.reconfigure`."""
        self._settings = settings
        self.capture.reconfigure(settings)


def capture_settings(camera: configuration.CameraConfig, source: FrameSource) -> CaptureSettings:
    """Return how a camera is captured: silence is a stall only for a camera that never ends by itself."""
    live = isinstance(camera, _INFINITE_KINDS) or is_live(source)
    stall_ms = camera.stall_ms if live else None
    return CaptureSettings(source, stall_ms, (camera.width, camera.height), _frozen_after_s(camera, source))


def _frozen_after_s(camera: configuration.CameraConfig, source: FrameSource) -> float | None:
    """How long this camera may repeat an image; None (no limit) for files and for a source with `may_repeat`."""
    if getattr(source, "may_repeat", False) is True:  # not in the port: older plug-ins do not have it
        return None
    match camera:
        case configuration.FolderCameraConfig() | configuration.VideoCameraConfig():
            return None
        case _:
            return camera.frozen_after_s


def compose_cameras(
    inspection: configuration.InspectionConfig,
    *,
    name: str,
    index: int,
    hub: IntakeHub,
    pool: FramePool,
    dependencies: AgentDependencies,
) -> dict[str, ComposedCamera]:
    """Return the cameras of the inspection `name`, which has the number `index` in `hub`; none is opened yet."""
    composed = {}
    for camera, camera_config in inspection.cameras.items():
        counters = CameraCounters(camera=camera, on_drop=dependencies.on_drop)
        settings = capture_settings(camera_config, dependencies.sources[camera])
        intake = hub.add_camera(
            inspection=index,
            capacity=inspection.intake.capacity,
            policy=inspection.intake.policy,
            counters=counters,
            pool=pool,
        )
        capture = CaptureThread(
            camera=camera,
            source=settings.source,
            intake=intake,
            pool=pool,
            counters=counters,
            clock=dependencies.clock,
            random=random.Random(),  # noqa: S311 - spreads reconnects, guards nothing
            stall_ms=settings.stall_ms,
            declared_px=settings.declared_px,
            supervisor=dependencies.supervisor,
            frozen_after_s=settings.frozen_after_s,
        )
        composed[camera] = ComposedCamera(inspection=name, counters=counters, capture=capture, settings=settings)
    return composed
