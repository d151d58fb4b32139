"""What the composed agent looks like at this moment: gathered from its parts, for heartbeat, metrics and status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agent.health.snapshot import AgentSnapshot, CameraSnapshot, InspectionSnapshot
from agent.release_records import distinct_name
from agent.wire import BrokerHealth, ConfigurationHealth, LogHealth, ThreadsHealth

if TYPE_CHECKING:
    from agent.app.agent import Agent
    from agent.app.camera_composition import ComposedCamera
    from agent.ports import Transport
    from agent.slot import ModelSlot


def build_snapshot(agent: Agent) -> AgentSnapshot:
    """Return everything at this moment; from any thread."""
    stats, faults = agent.outbox.stats(), agent.supervisor.faults()
    state: Literal["up", "down", "none"] = "none"
    if agent.transport is not None:
        state = "up" if stats.connected else "down"
    return AgentSnapshot(
        monotonic_ns=agent.clock.monotonic_ns(),
        utc_ns=agent.clock.utc_ns(),
        cameras=tuple(_camera(agent, name, view) for name, view in agent.cameras.items()),
        inspections=tuple(_inspection(agent, name, slot) for name, slot in agent.slots.items()),
        outbox=stats.to_health(),
        process=agent.process_meter.read(),
        transport=state,
        transport_reason=stats.reason if state == "down" else None,
        broker=_broker(agent.transport),
        inference_faults=agent.inference_faults,
        last_inference_fault=agent.last_inference_fault,
        collection=None if agent.collector is None else agent.collector.health(),
        threads=ThreadsHealth(faults=faults.by_kind, last=faults.last),
        log=LogHealth(
            warnings=agent.log_counter.warnings,
            errors=agent.log_counter.errors,
            repeats=agent.supervisor.suppressed_lines,
            active_conditions=len(agent.supervisor.conditions()),
        ),
        losses=agent.supervisor.losses.snapshot(),
        configuration=ConfigurationHealth(
            digest=agent.config.digest(),
            refused=agent.configuration_refused,
            needs_restart=agent.configuration_waiting,
        ),
    )


def _broker(transport: Transport | None) -> BrokerHealth | None:
    if transport is None:
        return None
    figures = transport.stats
    return BrokerHealth(dropped=figures.dropped, refused=figures.refused)


def _camera(agent: Agent, name: str, view: ComposedCamera) -> CameraSnapshot:
    pictures = agent.monitors[view.inspection].image_health(name)
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


def _inspection(agent: Agent, name: str, slot: ModelSlot) -> InspectionSnapshot:
    lease, monitor = slot.lease(), agent.monitors[name]
    status = None if agent.lifecycle_manager is None else agent.lifecycle_manager.lifecycles[name].status()
    return InspectionSnapshot(
        inspection=name,
        model=lease.model.identity if lease else None,
        preprocess_digest=lease.model.preprocess_digest if lease else None,
        pool_misses=agent.pools[name].misses,
        frames_not_recorded=agent.recorders[name].skipped,
        state=None if status is None else str(status.state),
        candidate=None if status is None else distinct_name(status.candidate, status.active),
        alarm=None if status is None else status.alarm,
        unhealthy=monitor.alarm(),
        rejects=monitor.reject_rate(),
        models=monitor.model_counts(),
    )
