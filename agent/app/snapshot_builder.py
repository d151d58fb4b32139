"""Gathers the state of all components into one snapshot, for heartbeat, metrics and status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agent.health.snapshot import AgentSnapshot, CameraSnapshot, InspectionSnapshot
from agent.release_records import distinct_name
from agent.wire import BrokerHealth, LogHealth, ThreadsHealth

if TYPE_CHECKING:
    from agent.app.composition.camera_composition import ComposedCamera
    from agent.app.composition.components import AgentComponents
    from agent.ports import Transport
    from agent.slot import ModelSlot


def build_snapshot(components: AgentComponents) -> AgentSnapshot:
    """Return the state of all components at this moment; from any thread."""
    stats, faults = components.outbox.stats(), components.supervisor.faults()
    state: Literal["up", "down", "none"] = "none"
    if components.transport is not None:
        state = "up" if stats.connected else "down"
    return AgentSnapshot(
        monotonic_ns=components.clock.monotonic_ns(),
        utc_ns=components.clock.utc_ns(),
        cameras=tuple(_camera(components, name, view) for name, view in components.cameras.items()),
        inspections=tuple(_inspection(components, name, slot) for name, slot in components.slots.items()),
        outbox=stats.to_health(),
        process=components.process_meter.read(),
        transport=state,
        transport_reason=stats.reason if state == "down" else None,
        broker=_broker(components.transport),
        inference_faults=components.inference_faults.count,
        last_inference_fault=components.inference_faults.last,
        collection=None if components.collector is None else components.collector.health(),
        threads=ThreadsHealth(faults=faults.by_kind, last=faults.last),
        log=LogHealth(
            warnings=components.log_counter.warnings,
            errors=components.log_counter.errors,
            repeats=components.supervisor.suppressed_lines,
            active_conditions=len(components.supervisor.conditions()),
        ),
        losses=components.supervisor.losses.snapshot(),
        configuration=components.config.health(),
    )


def _broker(transport: Transport | None) -> BrokerHealth | None:
    if transport is None:
        return None
    figures = transport.stats
    return BrokerHealth(dropped=figures.dropped, refused=figures.refused)


def _camera(components: AgentComponents, name: str, view: ComposedCamera) -> CameraSnapshot:
    pictures = components.monitors[view.inspection].image_health(name)
    return CameraSnapshot(
        inspection=view.inspection,
        status=view.capture.status,
        accounting=view.counters.snapshot(),
        latency=tuple(view.counters.latency.buckets()),
        latency_total_us=view.counters.latency.total_us(),
        picture_faults=pictures.faults,
        picture_alarm=pictures.alarm,
        image_mismatch=pictures.mismatch,
    )


def _inspection(components: AgentComponents, name: str, slot: ModelSlot) -> InspectionSnapshot:
    lease, monitor = slot.lease(), components.monitors[name]
    status = None if components.lifecycle_manager is None else components.lifecycle_manager.lifecycles[name].status()
    return InspectionSnapshot(
        inspection=name,
        model=lease.model.identity if lease else None,
        preprocess_digest=lease.model.preprocess_digest if lease else None,
        pool_misses=components.pools[name].misses,
        frames_not_recorded=components.recorders[name].skipped,
        state=None if status is None else str(status.state),
        candidate=None if status is None else distinct_name(status.candidate, status.active),
        alarm=None if status is None else status.alarm,
        unhealthy=monitor.alarm(),
        rejects=monitor.reject_rate(),
        models=monitor.model_counts(),
    )
