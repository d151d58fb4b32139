"""Snapshots of an agent for the tests of heartbeat, metrics and explain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.counters import CameraCounters
from agent.health.process_usage import ProcessUsage
from agent.health.snapshot import AgentIdentity, AgentSnapshot, CameraSnapshot, InspectionSnapshot
from agent.records import CameraState, CameraStatus, DropReason, ModelIdentity, Outcome
from agent.wire import OutboxHealth

if TYPE_CHECKING:
    from collections.abc import Mapping

IDENTITY = AgentIdentity(thing="thing-1", line="line-1", boot_epoch=3, version="9.8.7", started_ns=1_000_000_000)
MODEL = ModelIdentity(name="plates", version="1.2.3", sha256="ab" * 32, counter=4, trusted=True)
OUTBOX = OutboxHealth(rows=2, verdicts=40, bytes=9_000, oldest_age_s=1.5)


def counters(outcomes: Mapping[Outcome, int], *, latency_us: int = 2_000, waiting: int = 0) -> CameraCounters:
    result = CameraCounters()
    for outcome, count in outcomes.items():
        for _ in range(count):
            result.count_captured()
            result.count_inspected(outcome, latency_us)
    for _ in range(waiting):
        result.count_captured()
    return result


def overrun(camera: CameraCounters, count: int) -> None:
    for _ in range(count):
        camera.count_captured()
    camera.count_dropped(DropReason.OVERRUN, count)


def camera_snapshot(name: str, camera: CameraCounters, **status: Any) -> CameraSnapshot:
    fields = {"state": CameraState.RUNNING, "since_ns": 0, "fps": 30.0, **status}
    return CameraSnapshot(
        inspection="top",
        status=CameraStatus(camera=name, **fields),
        accounting=camera.snapshot(),
        latency=tuple(camera.latency.buckets()),
        latency_total_us=camera.latency.total_us(),
    )


def snapshot(*cameras: CameraSnapshot, at_s: float = 11.0, cpu_s: float = 5.0, **changes: Any) -> AgentSnapshot:
    fields: dict[str, Any] = {
        "inspections": (InspectionSnapshot("top", MODEL, "pp", pool_misses=1, frames_not_recorded=2),),
        "outbox": OUTBOX,
        "process": ProcessUsage(cpu_s=cpu_s, rss_bytes=90_000_000, temperature_c=61.5, memory_used=0.25),
        "transport": "up",
    }
    return AgentSnapshot(
        monotonic_ns=round(at_s * 1e9), utc_ns=1_700_000_000_123_456_789, cameras=cameras, **{**fields, **changes}
    )
