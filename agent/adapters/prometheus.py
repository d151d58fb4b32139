"""Prometheus metrics on 127.0.0.1: one snapshot of the agent for each scrape.

Promise: nothing runs on the hot path; the default registry of the client library is not used; only this machine can
connect; a scrape costs one snapshot and its text. Names follow https://prometheus.io/docs/practices/naming/: base
units, `_total` on counters.
"""

from __future__ import annotations

import sys
import threading
import time
from itertools import accumulate
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    StateSetMetricFamily,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from agent.errors import ConfigError
from agent.evidence.reject_chart import ChartState
from agent.records import CameraState
from agent.supervision import ThreadSupervisor

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client.metrics_core import Metric

    from agent.health.snapshot import AgentIdentity, AgentSnapshot, CameraSnapshot, InspectionSnapshot
    from agent.supervision import SupervisedThread
    from agent.wire import BrokerHealth, CollectionHealth

_ACCEPT_PAUSE_S: Final = 0.2
HOST: Final = "127.0.0.1"
# Upper edges of the latency histogram, us: from 256 us to 16.8 s in octaves, where the counters' own buckets end, too.
_EDGES_US: Final = tuple(1 << exponent for exponent in range(8, 25))

_CAMERA = ("inspection", "camera")
_CAMERA_COUNTERS: Final[tuple[tuple[str, str, Callable[[CameraSnapshot], float]], ...]] = (
    ("kensa_frames_captured", "Exposures, usable or not.", lambda c: c.accounting.captured),
    ("kensa_camera_stalls", "Times an open camera went silent.", lambda c: c.status.stalls),
    ("kensa_camera_reopenings", "Times a camera was lost or stalled.", lambda c: c.status.reopenings),
)
_CHART_STATES: Final = tuple(map(str, ChartState))
_CAMERA_GAUGES: Final[tuple[tuple[str, str, Callable[[CameraSnapshot], float]], ...]] = (
    ("kensa_frames_pending", "Captured, and neither inspected nor dropped yet.", lambda c: c.accounting.pending),
    ("kensa_camera_picture_alarm", "1 while its images are not inspected.", lambda c: c.picture_alarm is not None),
    (
        "kensa_camera_image_mismatch",
        "1 while they are unlike the golden set.",
        lambda c: c.image_mismatch is not None,
    ),
    ("kensa_camera_frames_per_second", "Exposures a second, smoothed.", lambda c: c.status.fps),
)
_INSPECTION_COUNTERS: Final[tuple[tuple[str, str, Callable[[InspectionSnapshot], float]], ...]] = (
    ("kensa_frame_pool_misses", "Frames for which no buffer was free.", lambda i: i.pool_misses),
    ("kensa_frames_not_recorded", "Defect and unsure frames that could not be kept.", lambda i: i.frames_not_recorded),
)
_INSPECTION_GAUGES: Final[tuple[tuple[str, str, Callable[[InspectionSnapshot], float]], ...]] = (
    (
        "kensa_inspection_healthy",
        "0 while its verdicts cannot be relied on: images, reject rate.",
        lambda i: i.unhealthy is None,
    ),
)
_GAUGES: Final[tuple[tuple[str, str, Callable[[AgentSnapshot], float]], ...]] = (
    ("kensa_outbox_messages", "Messages that wait for the broker.", lambda s: s.outbox.rows),
    ("kensa_outbox_verdicts", "Verdicts in them.", lambda s: s.outbox.verdicts),
    ("kensa_outbox_bytes", "Bytes of them.", lambda s: s.outbox.bytes),
    ("kensa_outbox_oldest_age_seconds", "How long the oldest of them has waited.", lambda s: s.outbox.oldest_age_s),
    (
        "kensa_outbox_refused_topics",
        "Topics that the broker refuses; their messages wait.",
        lambda s: s.outbox.held_back_topics,
    ),
    ("kensa_outbox_storage_ok", "1 while verdicts can be committed.", lambda s: s.outbox.storage_error is None),
)
_COUNTERS: Final[tuple[tuple[str, str, Callable[[AgentSnapshot], float]], ...]] = (
    ("kensa_outbox_evicted_verdicts", "Verdicts given up because the outbox was full.", lambda s: s.outbox.evicted),
    ("kensa_outbox_damaged_verdicts", "Verdicts lost with a damaged file.", lambda s: s.outbox.damaged),
    ("kensa_outbox_gaps", "Gap messages written.", lambda s: s.outbox.gaps),
    ("kensa_outbox_resent_messages", "Messages of the history that were sent again.", lambda s: s.outbox.resent),
    ("kensa_outbox_rejected_messages", "Messages that the broker refused by an answer.", lambda s: s.outbox.rejected),
    ("kensa_inference_faults", "Batches that the model's runtime failed on.", lambda s: s.inference_faults),
)


class AgentCollector(Collector):
    """Turns snapshots into metric families."""

    def __init__(self, *, identity: AgentIdentity, snapshot: Callable[[], AgentSnapshot]) -> None:
        """`snapshot` is called once for each scrape, from the server's thread."""
        self._identity = identity
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Yield all families of one moment."""
        snapshot, identity = self._snapshot(), self._identity
        about = {"version": identity.version, "thing": identity.thing, "line": identity.line}
        yield InfoMetricFamily("kensa_build", "The agent.", value=about)
        yield GaugeMetricFamily(
            "kensa_boot_epoch", "Number of this start of the agent; grows with each.", value=identity.boot_epoch
        )
        uptime_s = max(0.0, (snapshot.monotonic_ns - identity.started_ns) / 1e9)
        yield GaugeMetricFamily("kensa_uptime_seconds", "Since the agent's start.", value=uptime_s)
        for name, text, value in _GAUGES:
            yield GaugeMetricFamily(name, text, value=float(value(snapshot)))
        for name, text, value in _COUNTERS:
            yield CounterMetricFamily(name, text, value=value(snapshot))
        if snapshot.transport != "none":
            up = float(snapshot.transport == "up")
            yield GaugeMetricFamily("kensa_transport_up", "1 while the broker is connected.", value=up)
        if snapshot.broker is not None:
            yield from _broker(snapshot.broker)
        if snapshot.process.temperature_c is not None:
            yield GaugeMetricFamily("kensa_temperature_celsius", "Processor.", value=snapshot.process.temperature_c)
        yield from _faults_and_losses(snapshot)
        yield from _cameras(snapshot.cameras)
        yield from _inspections(snapshot.inspections)
        if snapshot.collection is not None:
            yield from _collection(snapshot.collection)


def _faults_and_losses(snapshot: AgentSnapshot) -> Iterator[Metric]:
    """Yield faults of threads, lines of the log, and losses besides frames and verdicts."""
    faults = CounterMetricFamily("kensa_thread_faults", "Bugs and exhaustion that threads met.", labels=("thread",))
    for thread, count in ({} if snapshot.threads is None else snapshot.threads.faults).items():
        faults.add_metric([thread], count)
    losses = CounterMetricFamily("kensa_losses", "Dropped or refused beside frames and verdicts.", labels=("what",))
    for what, count in snapshot.losses.items():
        losses.add_metric([what], count)
    lines = CounterMetricFamily("kensa_log_records", "Lines of the log.", labels=("level",))
    if (log := snapshot.log) is not None:
        for level, count in (("warning", log.warnings), ("error", log.errors), ("repeat", log.repeats)):
            lines.add_metric([level], count)
        yield GaugeMetricFamily(
            "kensa_active_conditions", "Conditions that are active now.", value=log.active_conditions
        )
    yield from (faults, losses, lines)


def _cameras(cameras: Sequence[CameraSnapshot]) -> Iterator[Metric]:
    for name, text, value in _CAMERA_COUNTERS:
        yield _each(CounterMetricFamily(name, text, labels=_CAMERA), cameras, value)
    for name, text, value in _CAMERA_GAUGES:
        yield _each(GaugeMetricFamily(name, text, labels=_CAMERA), cameras, value)
    verdicts = CounterMetricFamily("kensa_verdicts", "Inspected frames.", labels=(*_CAMERA, "outcome"))
    dropped = CounterMetricFamily("kensa_frames_dropped", "Frames without a verdict.", labels=(*_CAMERA, "reason"))
    pictures = CounterMetricFamily(
        "kensa_unusable_pictures", "Verdicts `unknown` because of the image.", labels=(*_CAMERA, "fault")
    )
    states = StateSetMetricFamily("kensa_camera_state", "Where the camera stands.", labels=_CAMERA)
    latency = HistogramMetricFamily("kensa_verdict_latency_seconds", "From due time to decision.", labels=_CAMERA)
    for camera in cameras:
        labels = [camera.inspection, camera.camera]
        for outcome, count in camera.accounting.outcomes.items():
            verdicts.add_metric([*labels, outcome], count)
        for fault, count in camera.picture_faults.items():
            pictures.add_metric([*labels, fault], count)
        for reason, count in camera.accounting.dropped.items():
            dropped.add_metric([*labels, reason], count)
        states.add_metric(labels, {str(state): state == camera.status.state for state in CameraState})
        latency.add_metric(labels, buckets(camera.latency), camera.latency_total_us / 1e6)
    yield from (verdicts, pictures, dropped, states, latency)


def _inspections(inspections: Sequence[InspectionSnapshot]) -> Iterator[Metric]:
    for name, text, value in _INSPECTION_COUNTERS:
        family = CounterMetricFamily(name, text, labels=("inspection",))
        for inspection in inspections:
            family.add_metric([inspection.inspection], value(inspection))
        yield family
    for name, text, value in _INSPECTION_GAUGES:
        gauge = GaugeMetricFamily(name, text, labels=("inspection",))
        for inspection in inspections:
            gauge.add_metric([inspection.inspection], float(value(inspection)))
        yield gauge
    yield from _outcomes(inspections)
    models = InfoMetricFamily("kensa_model", "The active model.", labels=("inspection",))
    for inspection in inspections:
        if (model := inspection.model) is not None:
            trusted = "true" if model.trusted else "false"
            about = {"model": model.name, "version": model.version, "sha256": model.sha256, "trusted": trusted}
            models.add_metric([inspection.inspection], about)
    yield models
    alarms = GaugeMetricFamily("kensa_model_alarm", "1 while a person must look at the model.", labels=("inspection",))
    states = InfoMetricFamily("kensa_model_lifecycle", "Where the next release stands.", labels=("inspection",))
    for inspection in inspections:
        if inspection.state is not None:
            alarms.add_metric([inspection.inspection], float(inspection.alarm is not None))
            about = {"state": inspection.state, "candidate": inspection.candidate or ""}
            states.add_metric([inspection.inspection], about)
    yield from (alarms, states)


def _broker(health: BrokerHealth) -> Iterator[Metric]:
    dropped = CounterMetricFamily("kensa_broker_dropped", "What the broker sent and was of no use.", labels=("cause",))
    for cause, count in health.dropped.items():
        dropped.add_metric([cause], count)
    refused = GaugeMetricFamily("kensa_broker_refused", "1 for what the broker does not carry.", labels=("feature",))
    for feature in health.refused:
        refused.add_metric([feature], 1.0)
    yield from (dropped, refused)


def _outcomes(inspections: Sequence[InspectionSnapshot]) -> Iterator[Metric]:
    """Yield raw results by model. Bounded: the last four models of an inspection, each with at most 64 classes."""
    labels = ("inspection", "model", "version", "sha256")
    outcomes = CounterMetricFamily("kensa_model_outcomes", "Parts that a model inspected.", labels=(*labels, "outcome"))
    classes = CounterMetricFamily("kensa_model_rejects", "Its defect and unsure parts.", labels=(*labels, "class"))
    charts = StateSetMetricFamily("kensa_reject_chart", "Control chart of the reject rate.", labels=("inspection",))
    recent = GaugeMetricFamily(
        "kensa_reject_rate", "Share rejected of the last 500 to 1,000 parts.", labels=("inspection",)
    )
    baseline = GaugeMetricFamily(
        "kensa_reject_rate_baseline", "Share of parts that begin a run of rejects.", labels=("inspection",)
    )
    for inspection in inspections:
        name = inspection.inspection
        for counts in inspection.models:
            model = counts.identity
            of = [name, model.name, model.version, model.sha256]
            for outcome, count in counts.outcomes.items():
                outcomes.add_metric([*of, outcome], count)
            for class_name, count in counts.classes.items():
                classes.add_metric([*of, class_name], count)
        if (rejects := inspection.rejects) is not None:
            charts.add_metric([name], {state: state == rejects.state for state in _CHART_STATES})
            recent.add_metric([name], rejects.rejects / rejects.parts if rejects.parts else 0.0)
            if rejects.baseline is not None:
                baseline.add_metric([name], rejects.baseline)
    yield from (outcomes, classes, charts, recent, baseline)


def _collection(health: CollectionHealth) -> Iterator[Metric]:
    kept = CounterMetricFamily("kensa_collected_frames", "Frames kept for training.", labels=("reason",))
    for reason, count in health.kept.items():
        kept.add_metric([reason], count)
    lost = CounterMetricFamily("kensa_collected_frames_lost", "Frames chosen and not kept.", labels=("cause",))
    for cause, count in {**health.dropped, **health.skipped}.items():
        lost.add_metric([cause], count)
    yield from (kept, lost)
    yield CounterMetricFamily("kensa_collected_frames_uploaded", "Frames at their target.", value=health.uploaded)
    yield GaugeMetricFamily("kensa_collected_frames_waiting", "Frames that wait.", value=health.waiting)
    yield GaugeMetricFamily("kensa_collected_waiting_bytes", "And their bytes.", value=health.waiting_bytes)
    yield GaugeMetricFamily("kensa_collected_day_bytes", "Bytes kept on this UTC day.", value=health.day_bytes)
    is_stuck = float(health.error is not None)
    yield GaugeMetricFamily("kensa_collection_stuck", "1 while nothing is kept or uploaded.", value=is_stuck)


def _each(
    family: CounterMetricFamily | GaugeMetricFamily,
    cameras: Sequence[CameraSnapshot],
    value: Callable[[CameraSnapshot], float],
) -> Metric:
    for camera in cameras:
        family.add_metric([camera.inspection, camera.camera], value(camera))
    return family


def buckets(latency: Sequence[tuple[int, int]]) -> list[tuple[str, float]]:
    """Return LatencyHistogram.buckets() as cumulative (`le` in seconds, count), the form of Prometheus."""
    counts = [0] * (len(_EDGES_US) + 1)
    for upper_us, count in latency:
        # The counters' edges are exclusive and one above the octave's end.
        index = next((i for i, edge in enumerate(_EDGES_US) if upper_us <= edge + 1), len(_EDGES_US))
        counts[index] += count
    names = [*(repr(edge / 1e6) for edge in _EDGES_US), "+Inf"]
    return list(zip(names, accumulate(map(float, counts)), strict=True))


class _Server(ThreadingMixIn, WSGIServer):
    """One thread for each scrape; when descriptors or threads are exhausted it pauses before the next accept."""

    daemon_threads = True
    note: Callable[[Exception], None] = staticmethod(lambda _error: None)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept. Raises OSError, after a pause: the connection still waits, and the server tries again at once."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_ACCEPT_PAUSE_S)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the error of a scrape, except when the client went away."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, ConnectionError):
            self.note(error)


class _QuietHandler(WSGIRequestHandler):
    """Writes no line for each scrape."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing."""


class MetricsServer:
    """The endpoint `http://127.0.0.1:PORT/metrics`."""

    def __init__(
        self,
        *,
        identity: AgentIdentity,
        snapshot: Callable[[], AgentSnapshot],
        port: int,
        supervisor: ThreadSupervisor | None = None,
    ) -> None:
        """Serve on `port` from `start` on; 0 takes any free one."""
        self._supervisor = supervisor or ThreadSupervisor()
        self._stop = threading.Event()
        self._registry = CollectorRegistry()
        self._registry.register(AgentCollector(identity=identity, snapshot=snapshot))
        ProcessCollector(registry=self._registry)
        self._asked = port
        self._server: Any = None  # a _Server
        self._thread: SupervisedThread | None = None

    def start(self) -> int:
        """Serve in a thread; returns the port. Raises ConfigError when it is taken."""
        try:
            server = make_server(HOST, self._asked, make_wsgi_app(self._registry), _Server, _QuietHandler)
        except OSError as error:
            raise ConfigError(
                f"metrics.port: {HOST}:{self._asked} cannot be served: {error.strerror}. "
                "Choose another port, or 0 for any"
            ) from error
        server.note = lambda error: self._supervisor.record_fault("metrics", "a scrape", error)
        self._server = server
        self._thread = self._supervisor.thread(server.serve_forever, kind="metrics", stop=self._stop)
        self._thread.start()
        return server.server_port

    def close(self) -> None:
        """Stop serving; safe to call twice, and before `start`."""
        self._stop.set()
        if self._server is not None:
            if self._thread is not None and self._thread.is_alive():
                self._server.shutdown()
                self._thread.join(1.0)
            self._server.server_close()
            self._server = None
