"""The cameras of one agent, composed: intake, buffers, counters and capture thread of each."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent import config as configuration
from agent.app.factories import SHADOW_DEPLOYMENT_FRAMES, is_live
from agent.counters import CameraCounters
from agent.inspection.capture import CaptureSettings, CaptureThread
from agent.inspection.frame_pool import FramePool
from agent.inspection.monitor import InspectionMonitor
from agent.inspection.worker import CameraContext, InspectionContext

if TYPE_CHECKING:
    from agent.app.agent import Agent
    from agent.inspection.intake import IntakeHub
    from agent.ports import FrameSource

_INFINITE_KINDS: Final = (
    configuration.V4l2CameraConfig,
    configuration.RtspCameraConfig,
    configuration.MjpegCameraConfig,
)


@dataclass(slots=True)
class ComposedCamera:
    """What `Agent` shows of one camera."""

    inspection: str
    counters: CameraCounters
    capture: CaptureThread
    settings: CaptureSettings  # what it captures with, or is about to


def capture_settings(camera: configuration.CameraConfig, source: FrameSource) -> CaptureSettings:
    """Say how a camera is captured: silence is a stall only for those that never end by themselves."""
    live = isinstance(camera, _INFINITE_KINDS) or is_live(source)
    stall_ms = camera.stall_ms if live else None
    return CaptureSettings(source, stall_ms, (camera.width, camera.height), _frozen_after_s(camera, source))


def _frozen_after_s(camera: configuration.CameraConfig, source: FrameSource) -> float | None:
    """How long this camera may repeat a picture. Files may for ever, and so may a source with `may_repeat`."""
    if getattr(source, "may_repeat", False) is True:  # not in the port: plug-ins of before know nothing of it
        return None
    match camera:
        case configuration.FolderCameraConfig() | configuration.VideoCameraConfig():
            return None
        case _:
            return camera.frozen_after_s


def compose_cameras(agent: Agent, hub: IntakeHub) -> list[InspectionContext]:
    """Fill `agent.pools` and `agent.cameras`; return what the workers need. The keepers are there already."""
    config, contexts = agent.config, []
    for index, (name, inspection) in enumerate(config.inspections.items()):
        # Frames that wait, frames in the workers' hands, and one that each camera is filling.
        per_camera = inspection.intake.capacity + 2
        in_work = config.worker_count() * config.max_batch + (SHADOW_DEPLOYMENT_FRAMES if config.updates else 0)
        pool = agent.pools[name] = FramePool(buffers=per_camera * len(inspection.cameras) + in_work)
        stations = {}
        for camera, settings in inspection.cameras.items():
            counters = CameraCounters(camera=camera, on_drop=agent.on_drop)
            setup = capture_settings(settings, agent.sources[camera])
            intake = hub.add_camera(
                inspection=index,
                capacity=inspection.intake.capacity,
                policy=inspection.intake.policy,
                counters=counters,
                pool=pool,
            )
            capture = CaptureThread(
                camera=camera,
                source=setup.source,
                intake=intake,
                pool=pool,
                counters=counters,
                clock=agent.clock,
                random=random.Random(),  # noqa: S311 - spreads reconnects, guards nothing
                stall_ms=setup.stall_ms,
                declared_px=setup.declared_px,
                supervisor=agent.supervisor,
                frozen_after_s=setup.frozen_after_s,
            )
            agent.cameras[camera] = ComposedCamera(name, counters, capture, setup)
            stations[camera] = CameraContext(config.thing, config.line, name, camera, agent.boot_epoch, counters, pool)
        collect = None if agent.collector is None else agent.collector.offer
        monitor = agent.monitors[name] = InspectionMonitor(
            agent.clock, inspection=name, kept=config.state_dir / "charts" / f"{name}.json"
        )
        contexts.append(InspectionContext(agent.slots[name], agent.recorders[name], stations, collect, monitor))
    return contexts
