"""The frozen record of everything that one start of an agent is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.app.active_config import ActiveConfig
    from agent.app.composition.camera_composition import ComposedCamera
    from agent.app.lifecycle_manager import LifecycleManager
    from agent.collection import Collector
    from agent.condition_log import LogCounter
    from agent.health.inference_faults import InferenceFaults
    from agent.health.process_usage import ProcessMeter
    from agent.health.snapshot import AgentIdentity
    from agent.inspection.frame_pool import FramePool
    from agent.inspection.frame_recorder import FrameRecorder
    from agent.inspection.intake import IntakeHub
    from agent.inspection.monitor import InspectionMonitor
    from agent.inspection.worker import Worker
    from agent.outbox import Outbox
    from agent.ports import Transport
    from agent.slot import ModelSlot
    from agent.supervision import ThreadSupervisor
    from agent.timing.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentComponents:
    """Everything that one start of an agent is made of. The record never changes; its components may, by themselves."""

    identity: AgentIdentity
    config: ActiveConfig
    clock: Clock
    supervisor: ThreadSupervisor
    transport: Transport | None
    outbox: Outbox
    collector: Collector | None  # None without `collect`
    lifecycle_manager: LifecycleManager | None  # None without `updates`
    slots: Mapping[str, ModelSlot]  # by inspection, as the next three
    monitors: Mapping[str, InspectionMonitor]
    recorders: Mapping[str, FrameRecorder]
    pools: Mapping[str, FramePool]
    cameras: Mapping[str, ComposedCamera]
    external_cameras: frozenset[str]
    intake: IntakeHub
    workers: Sequence[Worker]
    inference_faults: InferenceFaults
    process_meter: ProcessMeter
    log_counter: LogCounter
