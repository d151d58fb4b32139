"""The running agent: starts its components in order, waits, and stops them in reverse.

Start: lock, boot epoch, composition, outbox, lifecycles, recorders, collector, workers, control, heartbeat, cameras; so
no frame is captured before everything that handles it runs. Stop: cameras first, then the waiting batches, then the
outbox, all within `drain_s`; frames that are not finished by then are counted as dropped (`shutdown`), undelivered
verdicts stay on disk. In between `apply` changes the configuration, whole or not at all.
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
from agent.app.active_config import ActiveConfig
from agent.app.composition.composer import Composer
from agent.app.last_good_config import save_last_good
from agent.app.presence import announce_presence
from agent.app.services import AgentServices
from agent.app.snapshot_builder import build_snapshot
from agent.condition_log import LogCounter
from agent.control import StateDir
from agent.errors import ControlError, KensaError, OutboxError, StateDirError
from agent.health.snapshot import AgentIdentity
from agent.inspection.worker import start_worker
from agent.outbox import next_boot_epoch
from agent.records import CameraState
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent import config as configuration
    from agent.app.composition.agent_dependencies import AgentDependencies
    from agent.app.composition.camera_composition import ComposedCamera
    from agent.app.composition.components import AgentComponents
    from agent.app.lifecycle_manager import LifecycleManager
    from agent.app.reconfigure import AppliedConfig
    from agent.health.heartbeat_publisher import HeartbeatPublisher
    from agent.health.snapshot import AgentSnapshot
    from agent.outbox import Outbox
    from agent.slot import ModelSlot
    from agent.supervision import SupervisedThread, ThreadSupervisor
    from agent.timing.clock import Clock

_log = logging.getLogger(__name__)
_SWITCH_S: Final = 0.0005
_LOGGERS: Final = ("agent", "greengrass", "kensa")  # whose warnings and errors the heartbeat counts
_CAPTURE_STOP_S: Final = 1.0  # the cameras' drivers get this long to return
_CLIENT_S: Final = 0.5  # and a client of the control socket, or a heartbeat that is being sent
_COMMIT_S: Final = 1.0  # of `drain_s` for the steps after the last batch, or a fifth of it where that is less
_CLOSE_RESERVE_S: Final = 0.8  # and for the time that transport and process take beyond their deadline


class StopReason(StrEnum):
    """Why a running agent is to stop."""

    FINISHED = "finished"  # every camera was finite and has ended
    STOPPED = "stopped"  # by request


class Agent:
    """A composed inspector. `start`, then `wait` or `stop`; as a context manager it stops on the way out."""

    def __init__(self, config: configuration.Config, dependencies: AgentDependencies) -> None:
        """Use `build`."""
        self._config = ActiveConfig(config)
        self._dependencies = dependencies
        self._clock = dependencies.clock
        self._components: AgentComponents | None = None  # before the start
        self._services: AgentServices | None = None
        self._workers: list[SupervisedThread] = []
        self._stack = ExitStack()
        self._drained = threading.Event()
        self._stop_requested = threading.Event()
        self._stop_deadline_ns: int | None = None
        dependencies.supervisor.on_failure(self._stop_requested.set)

    # --- state -------------------------------------------------------------------------------------------------------

    @property
    def config(self) -> configuration.Config:
        """The configuration in force."""
        return self._config.current

    @property
    def clock(self) -> Clock:
        """The clock that every component uses."""
        return self._clock

    @property
    def supervisor(self) -> ThreadSupervisor:
        """The supervisor of every thread."""
        return self._dependencies.supervisor

    @property
    def components(self) -> AgentComponents:
        """What the agent is made of. Raises ControlError before the start."""
        if self._components is None:
            raise ControlError("the agent was not started")
        return self._components

    @property
    def boot_epoch(self) -> int:
        """The number of this start."""
        return self.components.identity.boot_epoch

    @property
    def cameras(self) -> Mapping[str, ComposedCamera]:
        """The cameras by name; none before the start."""
        return {} if self._components is None else self._components.cameras

    @property
    def slots(self) -> Mapping[str, ModelSlot]:
        """The model slots by inspection; none before the start."""
        return {} if self._components is None else self._components.slots

    @property
    def outbox(self) -> Outbox:
        """The store of verdicts. Raises ControlError before the start."""
        return self.components.outbox

    @property
    def lifecycle_manager(self) -> LifecycleManager | None:
        """The lifecycles; None without `updates`, and before the start."""
        return None if self._components is None else self._components.lifecycle_manager

    @property
    def heartbeat(self) -> HeartbeatPublisher:
        """The publisher of heartbeats. Raises ControlError before the start."""
        if self._services is None:
            raise ControlError("the agent was not started")
        return self._services.heartbeat

    def snapshot(self) -> AgentSnapshot:
        """Return everything that heartbeat, metrics and status show, at this moment."""
        return build_snapshot(self.components)

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything, in order. Raises a KensaError; components started by then are stopped again."""
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise

    def _start(self) -> None:
        config = self.config
        components = self._components = self._compose()
        announce_presence(
            components.transport,
            thing=config.thing,
            line=config.line,
            boot_epoch=components.identity.boot_epoch,
            clock=self._clock,
        )
        self._start_storage(components)
        for index, worker in enumerate(components.workers):
            thread = start_worker(worker, index=index, drained=self._drained, supervisor=components.supervisor)
            self._workers.append(thread)
        services = self._services = self._start_services(components)
        for camera in components.cameras.values():
            camera.capture.start()
        # A worker that comes back from the runtime must not wait the default 5 ms for the interpreter.
        sys.setswitchinterval(_SWITCH_S)
        services.reconfigurator.open()
        try:
            save_last_good(config)
        except StateDirError as error:  # a full disk does not keep the line from running
            _log.warning("%s", error)
        gc.freeze()  # the collector need not visit objects that live as long as the agent
        self._stack.callback(gc.unfreeze)  # frozen objects are not finalised at exit, and libraries then warn
        version = components.identity.component_version
        _log.info(
            "kensa %s%s inspects with %d camera(s) and %d worker(s), boot epoch %d",
            agent.__version__,
            f", component {version}," if version else "",
            len(components.cameras),
            len(self._workers),
            components.identity.boot_epoch,
        )

    def wait(self, timeout_s: float | None = None) -> StopReason | None:
        """Wait until it is to stop: because it was asked to, or every camera is finite and has ended.

        None when time ran out. Raises InternalError when a thread met a bug without which the agent cannot go on.
        """
        deadline = None if timeout_s is None else self._clock.monotonic_ns() + round(timeout_s * NS_PER_S)
        while not self._stop_requested.is_set():
            if all(camera.capture.status.state is CameraState.ENDED for camera in self.cameras.values()):
                return StopReason.FINISHED
            if deadline is not None and self._clock.monotonic_ns() >= deadline:
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
        services = self._services
        if services is None or not services.reconfigurator.close():
            return True
        now_ns, drain_s = self._clock.monotonic_ns(), self.config.drain_s
        self._stop_deadline_ns = now_ns + round((drain_s - min(_CLOSE_RESERVE_S, drain_s / 5)) * NS_PER_S)
        for camera in self.cameras.values():
            camera.capture.request_stop()
        for camera in self.cameras.values():
            captured_ns = now_ns + round(_CAPTURE_STOP_S * NS_PER_S)
            camera.capture.stop(timeout_s=max(0.0, (captured_ns - self._clock.monotonic_ns()) / NS_PER_S))
        self.components.intake.close()
        self._drained.set()
        for worker in self._workers:
            worker.join(max(0.0, self._left_s() - min(_COMMIT_S, drain_s / 5)))
        clean = not any(worker.is_alive() for worker in self._workers)
        self.components.intake.discard_pending()
        with suppress(KensaError):  # the last heartbeat reports that nothing is pending; without a broker it is lost
            services.heartbeat.publish()
        self._stack.close()
        return clean and self.supervisor.failure is None  # an outbox that could not commit ends here as well

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    # --- configuration ------------------------------------------------------------------------------------------------

    def apply(self, config: configuration.Config, *, dry_run: bool = False) -> AppliedConfig:
        """Go on with `config` from the next batch on, or with `dry_run` report what that would do; from any thread.

        All or nothing. Raises ConfigError for what cannot work here, RestartNeededError for what only a restart can
        change, StateDirError when it cannot be saved to disk, ControlError when the agent does not run.
        """
        if self._services is None:
            raise ControlError("the agent does not run, so its configuration cannot be changed")
        return self._services.reconfigurator.apply(config, dry_run=dry_run)

    def note_configuration(self, *, refused: str | None = None, needs_restart: Sequence[str] = ()) -> None:
        """Let heartbeat and status report the newest configuration; without arguments it is in force."""
        self._config.note(refused=refused, needs_restart=needs_restart)

    # --- starting and stopping of components --------------------------------------------------------------------------

    def _compose(self) -> AgentComponents:
        """Lock the state directory, count the start, and compose. Raises a KensaError."""
        started_ns, config = self._clock.monotonic_ns(), self.config
        log_counter = LogCounter()
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(log_counter)
            self._stack.callback(logging.getLogger(name).removeHandler, log_counter)
        state_dir = self._stack.enter_context(StateDir(config.state_dir)).path
        identity = AgentIdentity(
            config.thing,
            config.line,
            next_boot_epoch(state_dir, utc_s=self._clock.utc_ns() / NS_PER_S),
            agent.__version__,
            started_ns,
            self._dependencies.component_version,
        )
        return Composer(self._config, self._dependencies, identity=identity).compose(log_counter=log_counter)

    def _start_storage(self, components: AgentComponents) -> None:
        """Start the outbox and what fills and empties the slots and the disk; each is stopped after the services."""
        components.outbox.start()
        self._stack.callback(self._close_outbox, components.outbox)
        if (manager := components.lifecycle_manager) is not None:
            self._stack.callback(manager.close, self._left_s)
            manager.start()
        for recorder in components.recorders.values():
            recorder.start()
            self._stack.callback(lambda recorder: recorder.close(self._left_s()), recorder)
        if (collector := components.collector) is not None:
            self._stack.callback(lambda: collector.close(self._left_s()))
            collector.start()

    def _start_services(self, components: AgentComponents) -> AgentServices:
        services = AgentServices(components)
        self._stack.callback(lambda: services.close(min(_CLIENT_S, self._left_s())))
        if components.lifecycle_manager is not None:
            components.lifecycle_manager.launch()
        services.start()
        return services

    def _close_outbox(self, outbox: Outbox) -> None:
        try:
            outbox.close(self._clock.monotonic_ns() + round(self._left_s() * NS_PER_S))
        except OutboxError as error:
            _log.error("%s", error)
            self.supervisor.fail(error)

    def _left_s(self) -> float:
        """Return what is left of the time to stop."""
        if self._stop_deadline_ns is None:  # a start that failed
            return self.config.drain_s
        return max(0.0, (self._stop_deadline_ns - self._clock.monotonic_ns()) / NS_PER_S)
