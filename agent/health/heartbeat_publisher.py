"""Builds and publishes the heartbeat, the agent's report on itself every `heartbeat_s`.

Promise: `build_heartbeat` is pure, so a heartbeat can be replayed from two snapshots; the thread never touches the hot
path, keeps absolute deadlines, skips missed heartbeats instead of sending them late, and survives a sink that fails.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import TYPE_CHECKING, Final

from agent.counters import quantile_us
from agent.errors import KensaError
from agent.records import DropReason, ImageFault, Outcome
from agent.supervision import ThreadSupervisor
from agent.timing.clock import NS_PER_S
from agent.wire import (
    BrokerHealth,
    CameraHealth,
    CollectionHealth,
    ConfigurationHealth,
    Heartbeat,
    InspectionHealth,
    LogHealth,
    OutboxHealth,
    RejectHealth,
    ThreadsHealth,
)
from agent.wire.heartbeat_chunks import truncate_to_json_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.evidence.reject_chart import RejectRate
    from agent.health.snapshot import AgentIdentity, AgentSnapshot, CameraSnapshot, InspectionSnapshot
    from agent.timing.clock import Clock

_FIRST_S: Final = 1.0  # the first heartbeat waits until cameras and transport had time to connect
_KEYS: Final = 4  # of a configuration that needs a restart
_TEXT_BYTES: Final = 240  # of an error as JSON, so that the three of them leave room for everything else
_CLASSES: Final = 8
_log = logging.getLogger(__name__)


def build_heartbeat(identity: AgentIdentity, *, previous: AgentSnapshot | None, current: AgentSnapshot) -> Heartbeat:
    """Return the heartbeat of `current`. Latency and CPU are those since `previous`, or since the agent's start."""
    latency = _interval_latency(previous, current)
    return Heartbeat(
        thing=identity.thing,
        line=identity.line,
        boot_epoch=identity.boot_epoch,
        agent_version=identity.version,
        component_version=identity.component_version,
        configuration=_configuration(current.configuration),
        utc_us=max(0, current.utc_ns // 1_000),
        uptime_s=_seconds(current.monotonic_ns - identity.started_ns),
        transport=current.transport,
        transport_reason=_text(current.transport_reason),
        broker=_broker(current.broker),
        latency_p50_us=quantile_us(latency, 0.5),
        latency_p99_us=quantile_us(latency, 0.99),
        cpu=_cores(identity, previous, current),
        rss_bytes=current.process.rss_bytes,
        temperature_c=current.process.temperature_c,
        memory_used=current.process.memory_used,
        faults=current.inference_faults,
        last_fault=_text(current.last_inference_fault),
        frames_not_recorded=sum(inspection.frames_not_recorded for inspection in current.inspections),
        threads=_threads(current.threads),
        log=current.log or LogHealth(),
        losses=current.losses,
        outbox=_outbox(current.outbox),
        collection=_collection(current.collection),
        inspections=tuple(_inspection(inspection) for inspection in current.inspections),
        cameras=tuple(_camera(camera) for camera in current.cameras),
    )


def _broker(broker: BrokerHealth | None) -> BrokerHealth | None:
    if broker is None:
        return None
    refused = {name: _text(reason) or "" for name, reason in broker.refused.items()}
    return BrokerHealth(dropped=dict(broker.dropped), refused=refused)


def _outbox(outbox: OutboxHealth) -> OutboxHealth:
    held = tuple(topic.model_copy(update={"reason": _text(topic.reason)}) for topic in outbox.held_back)
    return outbox.model_copy(update={"held_back": held, "storage_error": _text(outbox.storage_error)})


def _configuration(configuration: ConfigurationHealth | None) -> ConfigurationHealth | None:
    """Truncate the reason of a refusal, and name only a few of the keys that need a restart."""
    if configuration is None:
        return None
    waiting = [_text(path) or "" for path in configuration.needs_restart[:_KEYS]]
    if more := len(configuration.needs_restart) - _KEYS:
        waiting += [f"and {more} more"] if more > 0 else []
    return configuration.model_copy(update={"refused": _text(configuration.refused), "needs_restart": tuple(waiting)})


def _collection(collection: CollectionHealth | None) -> CollectionHealth | None:
    return None if collection is None else collection.model_copy(update={"error": _text(collection.error)})


def _threads(threads: ThreadsHealth | None) -> ThreadsHealth:
    return ThreadsHealth() if threads is None else threads.model_copy(update={"last": _text(threads.last)})


def _inspection(inspection: InspectionSnapshot) -> InspectionHealth:
    model = inspection.model
    counts = next((m for m in inspection.models if model is not None and m.identity.sha256 == model.sha256), None)
    return InspectionHealth(
        inspection=inspection.inspection,
        model=None if model is None else model.name,
        version=None if model is None else model.version,
        sha256=None if model is None else model.sha256,
        trusted=model is not None and model.trusted,
        preprocess_digest=inspection.preprocess_digest,
        state=inspection.state,
        candidate=_text(inspection.candidate),
        alarm=_text(inspection.alarm),
        unhealthy=_text(inspection.unhealthy),
        rejects=None if inspection.rejects is None else _rejects(inspection.rejects),
        outcomes={} if counts is None else {Outcome(name): count for name, count in counts.outcomes.items()},
        classes={} if counts is None else _most_frequent(counts.classes),
    )


def _rejects(rate: RejectRate) -> RejectHealth:
    baseline = None if rate.baseline is None else round(rate.baseline, 6)
    return RejectHealth.model_validate(
        {"state": rate.state, "parts": rate.parts, "rejects": rate.rejects, "baseline": baseline}
    )


def _most_frequent(classes: Mapping[str, int]) -> dict[str, int]:
    """Return as many classes as a message has room for beside everything else."""
    return dict(Counter(classes).most_common(_CLASSES))


def _camera(camera: CameraSnapshot) -> CameraHealth:
    status, accounting = camera.status, camera.accounting
    return CameraHealth(
        camera=status.camera,
        inspection=camera.inspection,
        state=status.state,
        fps=round(status.fps, 2),
        captured=accounting.captured,
        inspected=accounting.inspected,
        pending=accounting.pending,
        dropped={DropReason(reason): count for reason, count in accounting.dropped.items()},
        error=_text(status.last_error),
        outcomes={Outcome(outcome): count for outcome, count in accounting.outcomes.items()},
        picture_faults={ImageFault(fault): count for fault, count in camera.picture_faults.items()},
        picture_alarm=_text(camera.picture_alarm),
        image_mismatch=_text(camera.image_mismatch),
        skipped_files=_text(status.skipped_files),
    )


def _interval_latency(previous: AgentSnapshot | None, current: AgentSnapshot) -> list[tuple[int, int]]:
    """Return the buckets of all cameras together, counted since `previous`."""
    counts = Counter[int]()
    for camera in current.cameras:
        counts.update(dict(camera.latency))
    for camera in previous.cameras if previous else ():
        counts.subtract(dict(camera.latency))
    return sorted((upper, count) for upper, count in counts.items() if count > 0)


def _cores(identity: AgentIdentity, previous: AgentSnapshot | None, current: AgentSnapshot) -> float:
    began_ns = identity.started_ns if previous is None else previous.monotonic_ns
    used_s = current.process.cpu_s - (0.0 if previous is None else previous.process.cpu_s)
    wall_s = _seconds(current.monotonic_ns - began_ns)
    return round(max(0.0, used_s) / wall_s, 4) if wall_s > 0.0 else 0.0


def _seconds(duration_ns: int) -> float:
    return max(0.0, duration_ns / NS_PER_S)


def _text(text: str | None) -> str | None:
    return None if text is None else truncate_to_json_bytes(text, _TEXT_BYTES)


class HeartbeatPublisher:
    """Builds a heartbeat every `period_s` from `snapshot()` and passes it to `sink`."""

    def __init__(
        self,
        *,
        identity: AgentIdentity,
        snapshot: Callable[[], AgentSnapshot],
        sink: Callable[[Heartbeat], None],
        clock: Clock,
        period_s: float,
        supervisor: ThreadSupervisor | None = None,
    ) -> None:
        """`snapshot` and `sink` are called from the heartbeat's thread, and from the callers of `publish`."""
        self._identity = identity
        self._snapshot = snapshot
        self._sink = sink
        self._clock = clock
        self._period_ns = round(period_s * NS_PER_S)
        self._wake = threading.Event()  # to stop, or to apply a new period
        self._previous: AgentSnapshot | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        supervisor = supervisor or ThreadSupervisor(clock=clock)
        self._losses = supervisor.losses
        self._conditions = supervisor.condition_log(_log)
        self._thread = supervisor.thread(self._run, kind="heartbeat", stop=self._stop, wake=self._wake)

    def start(self) -> None:
        """Start; the first heartbeat follows after a second, or after the period where that is shorter."""
        self._thread.start()

    def publish(self) -> None:
        """Send one now, as after a drain. Raises whatever the sink raises."""
        with self._lock:
            current = self._snapshot()
            heartbeat = build_heartbeat(self._identity, previous=self._previous, current=current)
            self._previous = current
        self._sink(heartbeat)

    def preview(self) -> Heartbeat:
        """Build one for `status` without sending it; its interval begins at the last heartbeat."""
        with self._lock:
            return build_heartbeat(self._identity, previous=self._previous, current=self._snapshot())

    def set_period(self, *, period_s: float) -> None:
        """Publish every `period_s` from now on; from any thread."""
        self._period_ns = round(period_s * NS_PER_S)
        self._wake.set()

    def close(self, *, timeout_s: float = 1.0) -> None:
        """Stop within `timeout_s` seconds; safe to call twice and before `start`."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        due_ns = self._clock.monotonic_ns() + min(round(_FIRST_S * NS_PER_S), self._period_ns)
        while not self._stop.is_set():
            if self._clock.wait(self._wake, max(0, due_ns - self._clock.monotonic_ns()) / NS_PER_S):
                self._wake.clear()
                due_ns = self._clock.monotonic_ns() + self._period_ns
                continue
            try:
                self.publish()
            except KensaError as error:
                self._losses.count("heartbeats")
                self._conditions.report_fault("heartbeat", f"it was not sent: {error}")
            else:
                self._conditions.clear_fault("heartbeat", "is sent again")
            period_ns = self._period_ns
            missed = max(0, self._clock.monotonic_ns() - due_ns) // period_ns
            due_ns += (1 + missed) * period_ns
