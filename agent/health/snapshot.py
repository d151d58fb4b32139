"""The state of the agent at one moment, as heartbeat, metrics and `status` read it.

`app` fills it from counters, cameras, slots and the outbox on request; the hot path does not know it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.counters import Accounting
    from agent.evidence.reject_chart import ModelCounts, RejectRate
    from agent.health.process_usage import ProcessUsage
    from agent.records import CameraStatus, ModelIdentity
    from agent.wire import BrokerHealth, CollectionHealth, ConfigurationHealth, LogHealth, OutboxHealth, ThreadsHealth


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """The identity of a running agent; it never changes."""

    thing: str
    line: str
    boot_epoch: int
    version: str  # of Kensa
    started_ns: int  # monotonic
    component_version: str | None = None  # of the Greengrass component that the agent runs as


@dataclass(frozen=True, slots=True)
class CameraSnapshot:
    """One camera; counts since the agent's start."""

    inspection: str
    status: CameraStatus
    accounting: Accounting
    latency: tuple[tuple[int, int], ...]  # LatencyHistogram.buckets(): (upper edge in us, count)
    latency_total_us: int
    picture_faults: Mapping[str, int] = field(default_factory=dict)  # ImageFault value -> images that prove nothing
    picture_alarm: str | None = None  # why its images are not inspected now
    image_mismatch: str | None = None  # how they differ from those that the model was trained on

    @property
    def camera(self) -> str:
        """Its name."""
        return self.status.camera


@dataclass(frozen=True, slots=True)
class InspectionSnapshot:
    """One inspection; `model` is None while there is no usable one."""

    inspection: str
    model: ModelIdentity | None
    preprocess_digest: str | None
    pool_misses: int = 0  # frames for which no buffer was free
    frames_not_recorded: int = 0  # of defect and unsure parts, because writing could not keep up
    state: str | None = None  # of the model's lifecycle; None without updates
    candidate: str | None = None  # `name/version` of the release that is being rolled out
    alarm: str | None = None  # why a person must check the model
    unhealthy: str | None = None  # why its verdicts cannot be relied on now: images, reject rate
    rejects: RejectRate | None = None  # of the active model; None before its first part
    models: tuple[ModelCounts, ...] = ()  # counts of the last models


@dataclass(frozen=True, slots=True)
class AgentSnapshot:
    """The state of an agent at one moment."""

    monotonic_ns: int
    utc_ns: int
    cameras: tuple[CameraSnapshot, ...]
    inspections: tuple[InspectionSnapshot, ...]
    outbox: OutboxHealth
    process: ProcessUsage
    transport: Literal["up", "down", "none"] = "none"
    transport_reason: str | None = None  # why it is down
    broker: BrokerHealth | None = None
    inference_faults: int = 0  # batches that the model's runtime failed on
    last_inference_fault: str | None = None
    collection: CollectionHealth | None = None
    threads: ThreadsHealth | None = None
    log: LogHealth | None = None
    losses: Mapping[str, int] = field(
        default_factory=dict
    )  # items other than frames and verdicts that were dropped or refused
    configuration: ConfigurationHealth | None = None
