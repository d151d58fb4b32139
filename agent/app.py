"""Composition: the only file that picks concrete adapters, and the one that knows the order of start and stop.

Start: lock, epoch, models, outbox, keepers, workers, control, heartbeat, cameras; so nothing is captured before
everything behind it stands. Stop is the same backwards: cameras first, then the batches that wait, then the outbox, each
within its share of `drain_s`; what does not finish is counted as dropped (`shutdown`), what is undelivered stays on disk.
"""

from __future__ import annotations

import logging
import random
import threading
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, Self

import agent
from agent import config as configuration
from agent.adapters.onnx import OnnxModel
from agent.clock import NS_PER_S, SystemClock
from agent.control import ControlServer, StateDir
from agent.counters import CameraCounters
from agent.errors import ConfigError, KensaError, MissingExtraError
from agent.inspection.capture import CaptureThread
from agent.inspection.intake import IntakeHub
from agent.inspection.keeper import FrameKeeper
from agent.inspection.pool import FramePool
from agent.inspection.worker import InspectionContext, Station, Worker, start_worker
from agent.outbox import Outbox, OutboxLimits
from agent.outbox.epoch import next_boot_epoch
from agent.slot import Lease, ModelSlot

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.clock import Clock
    from agent.ports import FrameSource, Model, Transport

_log = logging.getLogger(__name__)
_CAPTURE_STOP_S: Final = 1.0  # a camera's driver gets this long to return
_INFINITE_KINDS: Final = (configuration.V4l2Camera, configuration.RtspCamera, configuration.MjpegCamera)


def open_transport(config: configuration.Config, clock: Clock) -> Transport | None:
    """The configured way to the broker; None for `kind: none`. Raises ConfigError for certificates that cannot work."""
    chosen = config.transport
    if isinstance(chosen, configuration.NoTransport):
        return None
    from agent.adapters.mqtt import MqttTransport, TlsFiles  # noqa: PLC0415 - paho only where it is used

    tls = chosen.tls
    return MqttTransport(
        host=chosen.host,
        port=chosen.port,
        client_id=chosen.client_id or config.thing,
        protocol=chosen.protocol,
        tls=None if tls is None else TlsFiles(ca=tls.ca, certificate=tls.certificate, key=tls.key, alpn=tls.alpn),
        username=chosen.username,
        password=None if chosen.password_file is None else _read_secret(chosen.password_file),
        keepalive_s=chosen.keepalive_s,
        max_in_flight=chosen.max_in_flight,
        clock=clock,
    )


def _read_secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"transport.password_file {path} cannot be read: {error}") from error


def open_source(camera: configuration.Camera, clock: Clock) -> FrameSource:
    """The adapter for a camera's kind. Raises MissingExtraError when a plugin is not installed."""
    match camera:
        case configuration.FolderCamera():
            from agent.adapters.folder import FolderSource  # noqa: PLC0415 - only what the line uses is loaded

            return FolderSource(path=camera.path, split=camera.split, fps=camera.fps, loop=camera.loop, clock=clock)
        case configuration.MjpegCamera():
            from agent.adapters.mjpeg import MjpegSource  # noqa: PLC0415

            return MjpegSource(url=camera.url, clock=clock)
        case configuration.PluginCamera():
            return _open_plugin(camera, clock)
        case _:
            return _open_stream(camera, clock)


def _open_stream(
    camera: configuration.VideoCamera | configuration.V4l2Camera | configuration.RtspCamera, clock: Clock
) -> FrameSource:
    from agent.adapters import stream  # noqa: PLC0415 - only what the line uses is loaded

    match camera:
        case configuration.VideoCamera():
            return stream.VideoSource(path=camera.path, fps=camera.fps, loop=camera.loop, clock=clock)
        case configuration.V4l2Camera():
            return stream.V4l2Source(
                device=camera.device,
                width=camera.width,
                height=camera.height,
                fps=camera.fps,
                fourcc=camera.fourcc,
                clock=clock,
            )
        case configuration.RtspCamera():
            return stream.RtspSource(url=camera.url, transport=camera.transport, clock=clock)


def _open_plugin(camera: configuration.PluginCamera, clock: Clock) -> FrameSource:
    found = [point for point in entry_points(group="kensa.sources") if point.name == camera.source]
    if not found:
        known = sorted(point.name for point in entry_points(group="kensa.sources"))
        raise ConfigError(f"camera source {camera.source!r} is not installed; installed: {', '.join(known) or 'none'}")
    try:
        factory = found[0].load()
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"camera source {camera.source!r} needs {error.name}: the simulator runs from a checkout, "
            "set up with scripts/demo or pip install -e '.[sim]'"
        ) from error
    source: FrameSource = factory(camera.options, clock=clock)
    return source


def site_lease(model: Model, inspection: configuration.Inspection, *, name: str) -> Lease:
    """Lay the site's thresholds over the model's own. Raises ConfigError for a class that the model does not have."""
    rule = model.rule
    if unknown := sorted(set(inspection.thresholds) - rule.defects):
        raise ConfigError(
            f"inspections.{name}.thresholds: {', '.join(unknown)} is no defect class of {model.identity.name} "
            f"{model.identity.version}; its defects are {', '.join(sorted(rule.defects))}"
        )
    thresholds = {**rule.thresholds, **inspection.thresholds}
    band = rule.unsure_band if inspection.unsure_band is None else inspection.unsure_band
    return Lease(model, replace(rule, thresholds=thresholds, unsure_band=band))


@dataclass(frozen=True, slots=True)
class CameraView:
    """What `Agent` shows of one camera."""

    inspection: str
    counters: CameraCounters
    capture: CaptureThread


class Agent:
    """A composed inspector. `start`, then `wait` or `stop`; as a context manager it stops on the way out."""

    def __init__(
        self,
        config: configuration.Config,
        *,
        transport: Transport | None,
        sources: Mapping[str, FrameSource],
        clock: Clock,
        on_commit: Callable[[Sequence[Verdict], int], None] | None,
    ) -> None:
        """Use `build`."""
        self.config = config
        self.clock = clock
        self.transport = transport
        self.slots: dict[str, ModelSlot] = {}
        self.cameras: dict[str, CameraView] = {}
        self.pools: dict[str, FramePool] = {}
        self.keepers: dict[str, FrameKeeper] = {}
        self.boot_epoch = 0
        self.started_ns = 0
        self.faults = 0  # batches that the runtime failed on
        self.last_fault: str | None = None
        self._sources = sources
        self._on_commit = on_commit
        self._stack = ExitStack()
        self._hub = IntakeHub(workers=config.worker_count(), max_batch=config.max_batch)
        self._drained = threading.Event()
        self._stop_asked = threading.Event()
        self._workers: list[threading.Thread] = []
        self._crash: BaseException | None = None
        self._stopped = False
        self._usage = ProcessMeter()
        self._heartbeat: HeartbeatThread
        self.outbox: Outbox

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything, in order. Raises a KensaError; what was started by then is stopped again."""
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise

    def _start(self) -> None:
        config = self.config
        self.started_ns = self.clock.monotonic_ns()
        state_dir = self._stack.enter_context(StateDir(config.state_dir)).path
        self.boot_epoch = next_boot_epoch(state_dir)
        self._load_models()
        self.outbox = Outbox(
            state_dir=state_dir,
            transport=self.transport,
            clock=self.clock,
            thing=config.thing,
            line=config.line,
            boot_epoch=self.boot_epoch,
            limits=OutboxLimits(
                max_bytes=config.outbox.max_bytes,
                commit_s=config.outbox.commit_ms / 1_000,
                history_s=config.outbox.history_days * 86_400.0,
                history_bytes=config.outbox.history_bytes,
            ),
        )
        self.outbox.start()
        self._stack.callback(self._close_outbox)
        self._start_keepers(state_dir)
        contexts = self._compose_cameras()
        self._start_workers(contexts)
        self._start_services()
        for view in self.cameras.values():
            view.capture.start()
        _log.info(
            "kensa %s inspects %s: %d camera(s), %d worker(s), boot epoch %d",
            agent.__version__,
            ", ".join(f"{n} with {s.lease().model.identity.name}" for n, s in self.slots.items() if s.lease()),  # type: ignore[union-attr]
            len(self.cameras),
            len(self._workers),
            self.boot_epoch,
        )

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until asked to stop, a worker died, or every (finite) camera has ended; False when time ran out.

        Raises the bug that ended a worker.
        """
        deadline = None if timeout_s is None else self.clock.monotonic_ns() + round(timeout_s * NS_PER_S)
        while not self._stop_asked.is_set():
            if self._crash is not None:
                raise self._crash
            if all(not view.capture.running for view in self.cameras.values()):
                return True
            if deadline is not None and self.clock.monotonic_ns() >= deadline:
                return False
            self._stop_asked.wait(0.1)
        return True

    def ask_stop(self) -> None:
        """Let `wait` return; safe in a signal handler."""
        self._stop_asked.set()

    def stop(self) -> bool:
        """Drain and stop within about `drain_s`; True when nothing had to be abandoned. Safe to call twice."""
        if self._stopped:
            return True
        self._stopped = True
        deadline = self.clock.monotonic_ns() + round(self.config.drain_s * NS_PER_S)
        for view in self.cameras.values():
            view.capture.ask_stop()
        for view in self.cameras.values():
            view.capture.stop(timeout_s=_CAPTURE_STOP_S)
        self._hub.close()
        self._drained.set()
        for worker in self._workers:
            worker.join(max(0.0, (deadline - self.clock.monotonic_ns()) / NS_PER_S))
        clean = not any(worker.is_alive() for worker in self._workers)
        self._hub.abandon()
        self._stack.close()
        return clean

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def snapshot(self) -> Snapshot:
        """Everything that heartbeat, metrics and status show, at this moment."""
        stats = self.outbox.health()
        if self.transport is None:
            state: Literal["up", "down", "none"] = "none"
            reason = None
        else:
            up, why = self.outbox.connection()
            state, reason = ("up", None) if up else ("down", why)
        inspections = []
        for name, slot in self.slots.items():
            lease = slot.lease()
            inspections.append(
                InspectionSnapshot(
                    inspection=name,
                    model=lease.model.identity if lease else None,
                    preprocess_digest=lease.model.preprocess_digest if lease else None,
                    pool_misses=self.pools[name].misses,
                    frames_not_kept=self.keepers[name].skipped,
                )
            )
        return Snapshot(
            monotonic_ns=self.clock.monotonic_ns(),
            utc_ns=self.clock.utc_ns(),
            cameras=tuple(
                CameraSnapshot(
                    inspection=view.inspection,
                    status=view.capture.status,
                    accounting=view.counters.snapshot(),
                    latency=tuple(view.counters.latency.buckets()),
                    latency_total_us=view.counters.latency.total_us(),
                )
                for view in self.cameras.values()
            ),
            inspections=tuple(inspections),
            outbox=stats,
            process=self._usage.read(),
            transport=state,
            transport_reason=reason,
            faults=self.faults,
            last_fault=self.last_fault,
        )

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _load_models(self) -> None:
        loaded: dict[Path, OnnxModel] = {}
        for name, inspection in self.config.inspections.items():
            path = inspection.release.resolve()
            if path not in loaded:
                loaded[path] = OnnxModel.load(path)  # an unsigned local path: verdicts and heartbeat say `untrusted`
            self.slots[name] = ModelSlot(site_lease(loaded[path], inspection, name=name))

    def _start_keepers(self, state_dir: Path) -> None:
        keep = self.config.keep
        for name in self.config.inspections:
            keeper = FrameKeeper(
                state_dir=state_dir,
                inspection=name,
                frames=keep.frames,
                max_bytes=keep.max_bytes,
                max_per_s=keep.max_per_s,
                jpeg_quality=keep.jpeg_quality,
                clock=self.clock,
            )
            keeper.start()
            self._stack.callback(keeper.close, self.config.drain_s)
            self.keepers[name] = keeper

    def _compose_cameras(self) -> list[InspectionContext]:
        config, contexts = self.config, []
        digest = config.digest()
        for index, (name, inspection) in enumerate(config.inspections.items()):
            # Frames that wait, frames in the workers' hands, and one that each camera is filling.
            per_camera = inspection.intake.capacity + 2
            in_work = config.worker_count() * config.max_batch
            pool = FramePool(buffers=per_camera * len(inspection.cameras) + in_work)
            self.pools[name] = pool
            stations = {}
            for camera, settings in inspection.cameras.items():
                counters = CameraCounters()
                intake = self._hub.add_camera(
                    inspection=index,
                    capacity=inspection.intake.capacity,
                    policy=inspection.intake.policy,
                    counters=counters,
                    pool=pool,
                )
                capture = CaptureThread(
                    camera=camera,
                    source=self._sources[camera],
                    intake=intake,
                    pool=pool,
                    counters=counters,
                    clock=self.clock,
                    random=random.Random(),  # noqa: S311 - spreads reconnects, guards nothing
                    stall_ms=settings.stall_ms if isinstance(settings, _INFINITE_KINDS) else None,
                    declared_px=(settings.width, settings.height),
                )
                self.cameras[camera] = CameraView(name, counters, capture)
                stations[camera] = Station(
                    config.thing, config.line, name, camera, self.boot_epoch, digest, counters, pool
                )
            contexts.append(InspectionContext(self.slots[name], inspection.roi, self.keepers[name], stations))
        return contexts

    def _start_workers(self, contexts: list[InspectionContext]) -> None:
        for index in range(self.config.worker_count()):
            worker = Worker(
                hub=self._hub,
                contexts=contexts,
                sink=self.outbox,
                clock=self.clock,
                max_batch=self.config.max_batch,
                on_fault=self._note_fault,
            )
            self._workers.append(
                start_worker(worker, index=index, drained=self._drained, on_crash=self._note_crash)
            )

    def _start_services(self) -> None:
        identity = AgentIdentity(
            self.config.thing, self.config.line, self.boot_epoch, agent.__version__, self.started_ns
        )
        self._heartbeat = HeartbeatThread(
            identity=identity,
            snapshot=self.snapshot,
            sink=self._send_heartbeat,
            clock=self.clock,
            period_s=self.config.heartbeat_s,
        )
        if self.config.metrics is not None:
            from agent.adapters.prometheus import MetricsServer  # noqa: PLC0415 - only where it is configured

            metrics = MetricsServer(identity=identity, snapshot=self.snapshot, port=self.config.metrics.port)
            _log.info("metrics on http://127.0.0.1:%d/metrics", metrics.start())
            self._stack.callback(metrics.close)
        control = ControlServer(
            state_dir=self.config.state_dir, handlers={"status": self._status, "explain": self._explain}
        )
        control.start()
        self._stack.callback(control.close)
        self._heartbeat.start()
        self._stack.callback(self._heartbeat.close)

    def _close_outbox(self) -> None:
        self.outbox.close(deadline_ns=self.clock.monotonic_ns() + round(self.config.drain_s * NS_PER_S))

    def _note_fault(self, text: str) -> None:
        self.faults += 1
        if text != self.last_fault:  # a model that fails on every batch must not fill the log
            _log.error("%s", text)
        self.last_fault = text

    def _note_crash(self, error: BaseException) -> None:
        self._crash = error
        self._stop_asked.set()

    # --- control socket -----------------------------------------------------------------------------------------------

    def _status(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"heartbeat": self._heartbeat.latest().model_dump(mode="json")}

    def _explain(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        key = request.get("key")
        if not isinstance(key, str):
            raise ControlError('explain needs a text "key"')
        found = self.outbox.find(key)
        return {"verdict": None if found is None else json.loads(encode_verdict(found))}


def build(
    config: configuration.Config,
    *,
    transport: Transport | None = None,
    sources: Mapping[str, FrameSource] | None = None,
    clock: Clock | None = None,
    on_commit: Callable[[Sequence[Verdict], int], None] | None = None,
) -> Agent:
    """Compose an agent; nothing runs and nothing is written yet.

    `on_commit` hears, on the writer's thread, of verdicts that are on disk and when (monotonic ns).
    `transport` goes before the configured one; `sources` (camera name -> source) go before the configured cameras.
    Raises ConfigError for what can be seen without starting.
    """
    clock = clock or SystemClock()
    given = dict(sources or {})
    cameras = {name: c for inspection in config.inspections.values() for name, c in inspection.cameras.items()}
    if unknown := sorted(set(given) - set(cameras)):
        raise ConfigError(f"sources are given for {', '.join(unknown)}, which no inspection names")
    for name, camera in cameras.items():
        if name not in given:
            given[name] = open_source(camera, clock)
    return Agent(config, transport=transport or open_transport(config, clock), sources=given, clock=clock, on_commit=on_commit)
