"""The composed inspector and its life.

Start: lock, epoch, models, outbox, keepers, workers, control, heartbeat, cameras; so nothing is captured before
everything behind it stands. Stop is the same backwards: cameras first, then the batches that wait, then the outbox, all
within `drain_s`; what does not finish is counted as dropped (`shutdown`), what is undelivered stays on disk. In between
`apply` takes another configuration, whole or not at all.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
from contextlib import ExitStack, suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self

import agent
from agent.adapters.onnx import OnnxModel
from agent.app import camera_composition, reconfigure
from agent.app.factories import make_lease, site_overrides
from agent.app.last_good_config import save_last_good
from agent.app.presence import announce_presence
from agent.app.services import AgentServices
from agent.app.snapshot_builder import build_snapshot
from agent.app.verdict_sinks import FirstVerdictLogger, ObservedSink
from agent.condition_log import LogCounter
from agent.control import StateDir
from agent.errors import ConfigError, ControlError, KensaError, OutboxError, RestartNeededError, StateDirError
from agent.health.process_usage import ProcessMeter
from agent.inspection.frame_recorder import FrameRecorder
from agent.inspection.intake import IntakeHub
from agent.inspection.worker import Worker, start_worker
from agent.outbox import Outbox, OutboxLimits, next_boot_epoch
from agent.records import CameraState
from agent.slot import ModelSlot
from agent.timing.clock import NS_PER_S
from agent.wire import ReportingAgent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from agent import config as configuration
    from agent.app.lifecycle_manager import LifecycleManager
    from agent.app.reconfigure import AppliedConfig
    from agent.collection import Collector
    from agent.health.heartbeat_publisher import HeartbeatPublisher
    from agent.health.snapshot import AgentSnapshot
    from agent.inspection.frame_pool import FramePool
    from agent.inspection.monitor import InspectionMonitor
    from agent.inspection.worker import InspectionContext
    from agent.ports import DesiredState, FrameSource, ReleaseFetcher, Transport
    from agent.records import DroppedFrames, Verdict
    from agent.supervision import SupervisedThread, ThreadSupervisor
    from agent.timing.clock import Clock

_log = logging.getLogger(__name__)
_SWITCH_S: Final = 0.0005
_RUNTIME: Final = "model runtime"
_LOGGERS: Final = ("agent", "greengrass", "kensa")  # whose warnings and errors the heartbeat counts
_CAPTURE_STOP_S: Final = 1.0  # the cameras' drivers get this long to return
_CLIENT_S: Final = 0.5  # and a client of the control socket, or a heartbeat that is being sent
_COMMIT_S: Final = 1.0  # of `drain_s` for what comes after the last batch, or a fifth of it where that is less
_CLOSE_RESERVE_S: Final = 0.8  # and for what the transport and the process take beyond their deadline


class StopReason(StrEnum):
    """Why a running agent is to stop."""

    FINISHED = "finished"  # every camera was finite and has ended
    STOPPED = "stopped"  # by request


class Agent:
    """A composed inspector. `start`, then `wait` or `stop`; as a context manager it stops on the way out."""

    def __init__(  # noqa: PLR0913 - `build` names every part
        self,
        config: configuration.Config,
        *,
        transport: Transport | None,
        sources: Mapping[str, FrameSource],
        lent: Collection[str],
        clock: Clock,
        on_commit: Callable[[Sequence[Verdict], int], None] | None,
        observe: Callable[[Sequence[Verdict]], None] | None,
        desired_state: DesiredState | None,
        fetcher: ReleaseFetcher | None,
        supervisor: ThreadSupervisor,
        on_drop: Callable[[DroppedFrames], None] | None,
        component_version: str | None,
    ) -> None:
        """Use `build`. `lent` are the cameras whose sources the caller brought."""
        self.config = config
        self.clock = clock
        self.transport = transport
        self.slots: dict[str, ModelSlot] = {}
        self.cameras: dict[str, camera_composition.ComposedCamera] = {}
        self.sources = sources
        self.external_cameras = frozenset(lent)
        self.component_version = component_version
        self.pools: dict[str, FramePool] = {}
        self.recorders: dict[str, FrameRecorder] = {}
        self.monitors: dict[str, InspectionMonitor] = {}
        self.boot_epoch = 0
        self.started_ns = 0
        self.inference_faults = 0  # batches that the runtime failed on
        self.last_inference_fault: str | None = None
        self.configuration_refused: str | None = None  # why the newest one is not in force
        self.configuration_waiting: tuple[str, ...] = ()  # keys of it that need a restart
        self._on_commit = on_commit
        self._observe = observe
        self.on_drop = on_drop
        self._desired_state = desired_state
        self._fetcher = fetcher
        self.lifecycle_manager: LifecycleManager | None = None  # None without `updates`
        self.collector: Collector | None = None  # None without `collect`
        self._stack = ExitStack()
        self._hub = IntakeHub(workers=config.worker_count(), max_batch=config.max_batch)
        self._drained = threading.Event()
        self._stop_requested = threading.Event()
        self._workers: list[SupervisedThread] = []
        self.supervisor = supervisor
        self._conditions = supervisor.condition_log(_log)
        supervisor.on_failure(self._stop_requested.set)
        self._reconfigure_lock = threading.Lock()  # one change at a time, and none once it stops
        self._is_running = False
        self._stop_deadline_ns: int | None = None  # of the stop
        self.process_meter = ProcessMeter()
        self.log_counter = LogCounter()
        self.heartbeat: HeartbeatPublisher
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
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(self.log_counter)
            self._stack.callback(logging.getLogger(name).removeHandler, self.log_counter)
        state_dir = self._stack.enter_context(StateDir(config.state_dir)).path
        self.boot_epoch = next_boot_epoch(state_dir, utc_s=self.clock.utc_ns() / NS_PER_S)
        self._read_models()
        self.outbox = Outbox(
            state_dir=state_dir,
            transport=self.transport,
            clock=self.clock,
            on_commit=self._on_commit,
            supervisor=self.supervisor,
            limits=OutboxLimits(
                max_bytes=config.outbox.max_bytes,
                commit_s=config.outbox.commit_ms / 1_000,
                history_s=config.outbox.history_days * 86_400.0,
                history_bytes=config.outbox.history_bytes,
            ),
        )
        self.outbox.set_at_once_inspections(config.at_once_inspections())
        announce_presence(
            self.transport, thing=config.thing, line=config.line, boot_epoch=self.boot_epoch, clock=self.clock
        )
        self._compose_collector(state_dir)
        self._compose_lifecycles()
        self.outbox.start()
        self._stack.callback(self._close_outbox)
        if self.lifecycle_manager is not None:
            self._stack.callback(self.lifecycle_manager.close, self._left_s)
            self.lifecycle_manager.start()
        self._start_recorders(state_dir)
        if self.collector is not None:
            self._stack.callback(lambda collector: collector.close(self._left_s()), self.collector)
            self.collector.start()
        self._start_workers(camera_composition.compose_cameras(self, self._hub))
        self._start_services()
        for view in self.cameras.values():
            view.capture.start()
        # A worker that comes back from the runtime must not wait the default 5 ms for the interpreter.
        sys.setswitchinterval(_SWITCH_S)
        self._is_running = True
        try:
            save_last_good(config)
        except StateDirError as error:  # a full disk does not keep the line from running
            _log.warning("%s", error)
        gc.freeze()  # what lives as long as the agent need not be looked at by every collection
        self._stack.callback(gc.unfreeze)  # nothing frozen is freed at the interpreter's end, and libraries tell
        _log.info(
            "kensa %s%s inspects with %d camera(s) and %d worker(s), boot epoch %d",
            agent.__version__,
            f", component {self.component_version}," if self.component_version else "",
            len(self.cameras),
            len(self._workers),
            self.boot_epoch,
        )

    def wait(self, timeout_s: float | None = None) -> StopReason | None:
        """Wait until it is to stop: because it was asked to, or every camera is finite and has ended.

        None when time ran out. Raises InternalError when a thread met a bug without which the agent cannot go on.
        """
        deadline = None if timeout_s is None else self.clock.monotonic_ns() + round(timeout_s * NS_PER_S)
        while not self._stop_requested.is_set():
            if all(view.capture.status.state is CameraState.ENDED for view in self.cameras.values()):
                return StopReason.FINISHED
            if deadline is not None and self.clock.monotonic_ns() >= deadline:
                return None
            self._stop_requested.wait(0.1)
        if self.supervisor.failure is not None:
            raise self.supervisor.failure
        return StopReason.STOPPED

    def request_stop(self) -> None:
        """Let `wait` return; safe in a signal handler."""
        self._stop_requested.set()

    def stop(self) -> bool:
        """Drain and stop within `drain_s`; True when nothing had to be abandoned. Safe to call twice."""
        with self._reconfigure_lock:
            if not self._is_running:
                return True
            self._is_running = False
        now_ns, drain_s = self.clock.monotonic_ns(), self.config.drain_s
        self._stop_deadline_ns = now_ns + round((drain_s - min(_CLOSE_RESERVE_S, drain_s / 5)) * NS_PER_S)
        for view in self.cameras.values():
            view.capture.request_stop()
        for view in self.cameras.values():
            captured_ns = now_ns + round(_CAPTURE_STOP_S * NS_PER_S)
            view.capture.stop(timeout_s=max(0.0, (captured_ns - self.clock.monotonic_ns()) / NS_PER_S))
        self._hub.close()
        self._drained.set()
        for worker in self._workers:
            worker.join(max(0.0, self._left_s() - min(_COMMIT_S, drain_s / 5)))
        clean = not any(worker.is_alive() for worker in self._workers)
        self._hub.discard_pending()
        with suppress(KensaError):  # the last word: pending is 0; without a broker nobody hears it
            self.heartbeat.publish()
        self._stack.close()
        return clean and self.supervisor.failure is None  # an outbox that could not commit ends here as well

    def _left_s(self) -> float:
        """What is left of the time to stop."""
        if self._stop_deadline_ns is None:  # a start that failed
            return self.config.drain_s
        return max(0.0, (self._stop_deadline_ns - self.clock.monotonic_ns()) / NS_PER_S)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def apply(self, config: configuration.Config, *, dry_run: bool = False) -> AppliedConfig:
        """Go on with `config` from the next batch on, or with `dry_run` say what that would do; from any thread.

        All or nothing. Raises ConfigError for what cannot work here, RestartNeededError for what only a restart can
        change, StateDirError when it cannot be kept on disk, ControlError when the agent does not run.
        """
        with self._reconfigure_lock:
            if not self._is_running:
                raise ControlError("the agent does not run, so its configuration cannot be changed")
            if dry_run:
                return reconfigure.apply(self, config, dry_run=True)
            try:
                applied = reconfigure.apply(self, config, dry_run=False)
            except RestartNeededError as error:
                self.note_configuration(needs_restart=error.paths)
                raise
            except ConfigError as error:
                self.note_configuration(refused=str(error))
                raise
            self.note_configuration()
            return applied

    def note_configuration(self, *, refused: str | None = None, needs_restart: Sequence[str] = ()) -> None:
        """Let heartbeat and status say what became of the newest configuration; without arguments it is in force."""
        self.configuration_refused, self.configuration_waiting = refused, tuple(needs_restart)

    def snapshot(self) -> AgentSnapshot:
        """Everything that heartbeat, metrics and status show, at this moment."""
        return build_snapshot(self)

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _read_models(self) -> None:
        """Fill the slots, or leave that to the model wing. Raises a ReleaseError."""
        digest = self.config.digest()
        sites = {
            name: site_overrides(inspection, digest=digest) for name, inspection in self.config.inspections.items()
        }
        if self.config.updates is not None:
            self.slots = {name: ModelSlot(site=site) for name, site in sites.items()}
            return
        loaded: dict[Path, OnnxModel] = {}
        for name, inspection in self.config.inspections.items():
            path = inspection.release.resolve()
            if path not in loaded:
                loaded[path] = OnnxModel.load(path)  # an unsigned local path: verdicts and heartbeat say `untrusted`
            self.slots[name] = ModelSlot(make_lease(loaded[path], sites[name], name=name))

    def _compose_lifecycles(self) -> None:
        """Before the transport starts: the shadow subscribes."""
        config, updates = self.config, self.config.updates
        if updates is None:
            return
        desired = [] if self._desired_state is None else [self._desired_state]
        if not desired and updates.shadow and self.transport is not None:
            from agent.adapters.device_shadow import ShadowDesiredState  # noqa: PLC0415 - only what the line uses is loaded

            desired.append(
                ShadowDesiredState(
                    thing=config.thing,
                    inspections=config.inspections,
                    transport=self.transport,
                    publish_now=self.outbox.publish_now,
                    watch_connection=self.outbox.add_connection_listener,
                    clock=self.clock,
                    supervisor=self.supervisor,
                )
            )
        from agent.app.lifecycle_manager import LifecycleManager  # noqa: PLC0415 - only with updates

        self.lifecycle_manager = LifecycleManager(
            config=config,
            updates=updates,
            slots=self.slots,
            reporter=ReportingAgent(config.thing, config.line, self.boot_epoch),
            outbox=self.outbox,
            desired=desired,
            clock=self.clock,
            fetcher=self._fetcher,
            differ=None if self.collector is None else self.collector.offer_disagreement,
            supervisor=self.supervisor,
            unhealthy=self._unhealthy_reason,
        )

    def _unhealthy_reason(self, inspection: str) -> str | None:
        """Why the verdicts of an inspection prove nothing now; None before its cameras are composed."""
        monitor = self.monitors.get(inspection)
        return None if monitor is None else monitor.alarm()

    def _compose_collector(self, state_dir: Path) -> None:
        if self.config.collect is not None:
            from agent.collection import Collector  # noqa: PLC0415 - only where frames are collected

            self.collector = Collector(
                state_dir=state_dir,
                settings=self.config.collect,
                boot_epoch=self.boot_epoch,
                clock=self.clock,
                supervisor=self.supervisor,
            )

    def _start_recorders(self, state_dir: Path) -> None:
        keep = self.config.keep
        for name in self.config.inspections:
            keeper = FrameRecorder(
                state_dir=state_dir,
                inspection=name,
                frames=keep.frames,
                max_bytes=keep.max_bytes,
                max_per_s=keep.max_per_s,
                jpeg_quality=keep.jpeg_quality,
                clock=self.clock,
                supervisor=self.supervisor,
            )
            keeper.start()
            self._stack.callback(self._close_recorder, keeper)
            self.recorders[name] = keeper

    def _start_workers(self, contexts: list[InspectionContext]) -> None:
        sink = FirstVerdictLogger(ObservedSink(self.outbox, self._observe) if self._observe else self.outbox)
        for index in range(self.config.worker_count()):
            worker = Worker(
                hub=self._hub,
                contexts=contexts,
                sink=sink,
                clock=self.clock,
                max_batch=self.config.max_batch,
                on_fault=self._record_inference_fault,
                on_well=lambda: self._conditions.clear_fault(_RUNTIME, "judges again"),
            )
            self._workers.append(start_worker(worker, index=index, drained=self._drained, supervisor=self.supervisor))

    def _start_services(self) -> None:
        services = AgentServices(self)
        self.heartbeat = services.heartbeat
        self._stack.callback(lambda: services.close(min(_CLIENT_S, self._left_s())))
        if self.lifecycle_manager is not None:
            self.lifecycle_manager.launch()
        services.start()

    def _close_recorder(self, keeper: FrameRecorder) -> None:
        keeper.close(self._left_s())

    def _close_outbox(self) -> None:
        try:
            self.outbox.close(self.clock.monotonic_ns() + round(self._left_s() * NS_PER_S))
        except OutboxError as error:
            _log.error("%s", error)
            self.supervisor.fail(error)

    def _record_inference_fault(self, text: str) -> None:
        self.inference_faults += 1
        self._conditions.report_fault(_RUNTIME, text, level=logging.ERROR)  # a model may fail on every batch
        self.last_inference_fault = text
