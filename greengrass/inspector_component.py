"""The agent composed as a Greengrass component, and what happens around it while it runs.

Start: connection, configuration, capabilities, agent; then what listens to the nucleus. A configuration that is
refused, or with which the agent does not start, is replaced by the last one that an agent ran with here. Stop is the
same backwards, the agent first, because its last verdicts need the connection.

Promise: nothing that the nucleus says or fails to say stops the line, but two things: SIGTERM, and a nucleus that has
answered for half an hour and known neither this component's token nor its name; then the process ends with 1 after a
drain, and the nucleus starts it with a new token. Lite allows three starts an hour, which that wait respects.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from awsiot.greengrasscoreipc import model

from agent import app
from agent.app.last_good_config import LAST_GOOD_NAME, load_last_good
from agent.errors import ConfigError, KensaError, OperatorError, RestartNeededError
from agent.health import memory_trim
from agent.lifecycle.state.transitions import LifecycleState
from agent.records import CameraState
from agent.timing.clock import NS_PER_S
from greengrass import capabilities
from greengrass.capabilities import Capability, ComponentStatus
from greengrass.deployment import component_config
from greengrass.deployment.component_config import ComponentConfig, GreengrassSettings
from greengrass.deployment.config_validation import ConfigurationValidator
from greengrass.deployment.config_watcher import ConfigurationWatcher, read_configuration
from greengrass.deployment.preflight import Preflight
from greengrass.deployment.update_deferral import UpdateDeferral
from greengrass.environment import INSPECTOR_NAME
from greengrass.ipc.connection import Connection
from greengrass.ipc.errors import IpcError
from greengrass.ipc.rate_limit import PublishRateLimiter
from greengrass.ipc.shadow_transport import IpcShadowTransport, MqttShadowTransport
from greengrass.ipc.transport import MAX_IN_FLIGHT, IpcTransport
from greengrass.release_sources.desired_state import CompositeDesiredState, DeploymentDesiredState
from greengrass.release_sources.factories import open_fetcher, open_shadow
from greengrass.release_sources.release_hints import HintReceiver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.app import Agent
    from agent.config import Config, UpdatesConfig
    from agent.ports import DesiredState
    from agent.records import Verdict
    from agent.release_records import DesiredRelease
    from agent.timing.clock import Clock
    from greengrass.environment import Environment
    from greengrass.release_sources.release_hints import FallbackFetcher

_CONNECT_S: Final = 20.0
_POLL_S: Final = 0.25
_IDLE_SERVING_S: Final = 20.0  # a line without parts serves when its models and cameras are ready for so long
_MAX_RUNNING_REPORTS: Final = 3  # tries to say RUNNING; lite without its health daemon never takes it
_REPORT_RETRY_S: Final = 5.0
_MAX_UNRECOGNISED_S: Final = 1_800.0  # the line goes on meanwhile, and its verdicts wait on disk
_MEMORY_TRIM_S: Final = (5.0, 600.0)  # first, and then every
_UNINTERRUPTIBLE: Final = frozenset({LifecycleState.SELFTEST, LifecycleState.SHADOW, LifecycleState.TRIAL})
# Open; a triggered one waits for its first part.
_READY: Final = frozenset({CameraState.CONNECTING, CameraState.RUNNING})
_log = logging.getLogger("kensa.greengrass")


class InspectorComponent:
    """One life of com.kensa.Inspector. `run` in the main thread, `ask_stop` from a signal handler."""

    def __init__(self, *, environment: Environment, clock: Clock, disowned_s: float = _MAX_UNRECOGNISED_S) -> None:
        """Prepare; nothing is connected yet.

        `unrecognised_s`: how long the nucleus may know nothing of this process.
        """
        self._environment = environment
        self._clock = clock
        self._max_unrecognised_s = disowned_s
        self._connection = Connection(
            socket_path=environment.socket_path, token=environment.token, component=INSPECTOR_NAME, clock=clock
        )
        self._rate_limiter = PublishRateLimiter(clock=clock)
        self._stop = threading.Event()
        self._first_verdict = threading.Event()  # the first verdict
        self._agent: Agent | None = None
        self._settings = GreengrassSettings()
        self._deployment_desired = DeploymentDesiredState({})
        self._fetcher: FallbackFetcher | None = None
        self._capabilities = capabilities.assume_minimal(environment.version)
        self._transport: IpcTransport | None = None
        self._status: ComponentStatus | None = None
        self._running_reports = 0
        self._next_report_ns = 0

    def request_stop(self) -> None:
        """Let `run` drain and return; safe in a signal handler."""
        self._stop.set()
        if self._agent is not None:
            self._agent.request_stop()

    # --- life ---------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Inspect until told to stop; 0 when all was judged or counted. Raises KensaError when it cannot start."""
        self._connection.start()
        try:
            self._wait_connected()
            if self._stop.is_set():
                return 0
            tree, given, refused = self._load_configuration()
            self._detect_capabilities(given)
            agent = self._start_agent(given, refused)
            if agent is None:
                return 0
            return self._run_until_stopped(agent, tree)
        finally:
            self._connection.close()

    def _wait_connected(self) -> None:
        """Until connected, told to stop, or out of patience."""
        deadline_ns = self._clock.monotonic_ns() + round(_CONNECT_S * NS_PER_S)
        while not self._stop.is_set() and self._clock.monotonic_ns() < deadline_ns:
            if self._connection.wait_connected(_POLL_S):
                return

    def _load_configuration(self) -> tuple[Any, ComponentConfig, str | None]:
        """The tree as it was read, what to run with, and why that is not what was read. Raises ConfigError."""
        tree: Any = None
        if self._connection.is_connected:
            try:
                tree = read_configuration(self._connection)
            except IpcError as error:
                _log.error("%s", error)
        problem = ConfigError("the nucleus did not tell the configuration")
        if tree is not None:
            try:
                return tree, self._read(tree), None
            except ConfigError as error:
                problem = error
        good = self._last_good(tree)
        if good is None:
            raise problem
        _log.error("%s\nThe agent goes on with the last configuration that it ran with", problem)
        return tree, good, str(problem)

    def _read(self, tree: object) -> ComponentConfig:
        environment = self._environment
        return component_config.read(tree, thing=environment.thing, work=environment.work, base=environment.base)

    def _last_good(self, tree: Any) -> ComponentConfig | None:
        folder = self._environment.work / "state"
        if isinstance(tree, dict) and isinstance(tree.get("state_dir"), str):
            folder = self._environment.base / tree["state_dir"]
        if not (folder / LAST_GOOD_NAME).is_file():
            return None
        good = load_last_good(folder)
        return None if good is None else ComponentConfig(good, GreengrassSettings(), {})

    def _detect_capabilities(self, given: ComponentConfig) -> None:
        if self._connection.is_connected:
            environment = self._environment
            self._capabilities = capabilities.detect(
                self._connection, thing=given.config.thing, version=environment.version
            )
        _log.info("%s", self._capabilities.describe())
        for name, instead in self._capabilities.fallbacks().items():
            _log.info("without %s: %s", name, instead)

    def _start_agent(self, given: ComponentConfig, refused: str | None) -> Agent | None:
        """Start with `given`, else with the last good configuration. Raises KensaError; None when told to stop."""
        try:
            agent = self._build_agent(given)
            agent.start()
        except KensaError as error:
            good = None if refused else self._last_good({"state_dir": str(given.config.state_dir)})
            if good is None or good.config == given.config:
                raise
            _log.error("%s\nThe agent goes on with the last configuration that it ran with", error)
            given, refused = good, str(error)
            agent = self._build_agent(given)
            agent.start()
        self._agent = agent
        if self._stop.is_set():
            agent.stop()
            return None
        self._record_status(agent, refused=refused)
        return agent

    def _run_until_stopped(self, agent: Agent, tree: Any) -> int:
        """Listen to the nucleus until the end; 1 when something was abandoned or the nucleus disowns us."""
        watch = ConfigurationWatcher(
            connection=self._connection, known=tree, on_change=self._on_configuration_change, clock=self._clock
        )
        watch.start()
        validator = self._validator(agent)
        if validator is not None:
            validator.start()
        if self._capabilities.has(Capability.DEFERRAL):
            UpdateDeferral(
                connection=self._connection,
                busy=self._busy_reason,
                defer_s=lambda: self._settings.defer_s,
                clock=self._clock,
            ).start()
        is_disowned = False
        try:
            is_disowned = self._wait_for_end(agent)
        finally:
            if validator is not None:
                validator.request_close()
            clean = agent.stop()
            watch.close()
            if validator is not None:
                validator.close()
        return 0 if clean and not is_disowned else 1

    def _wait_for_end(self, agent: Agent) -> bool:
        """Return when the agent is to stop; whether that is because the nucleus does not know us any more."""
        first_s, every_s = _MEMORY_TRIM_S
        began_ns = self._clock.monotonic_ns()
        footprint_ns = began_ns + round(first_s * NS_PER_S)
        while not agent.wait(_POLL_S):
            now_ns = self._clock.monotonic_ns()
            self._report_running(agent, now_ns, began_ns)
            self._refresh_status(agent)
            if self._connection.unrecognised_s > self._max_unrecognised_s:
                _log.error(
                    "the nucleus has known neither the token nor the name of this process for %.0f s: it ends, to be "
                    "started with a new token",
                    self._max_unrecognised_s,
                )
                return True
            if now_ns >= footprint_ns:
                memory_trim.trim_memory()
                footprint_ns = now_ns + round(every_s * NS_PER_S)
        return False

    # --- composition --------------------------------------------------------------------------------------------------

    def _build_agent(self, given: ComponentConfig) -> Agent:
        config = given.config
        self._settings = given.settings
        self._deployment_desired = DeploymentDesiredState(given.desired_releases)
        self._transport = IpcTransport(
            connection=self._connection,
            thing=config.thing,
            pace=self._rate_limiter,
            clock=self._clock,
            confirm=given.settings.confirm == "echo",
            max_in_flight=MAX_IN_FLIGHT[self._capabilities.mode],
        )
        updates = config.updates
        self._fetcher = None if updates is None else open_fetcher(config, updates, self._clock)
        return app.build(
            config,
            transport=self._transport,
            clock=self._clock,
            observe=self._observe,
            desired_state=None if updates is None else self._open_desired_state(config, updates),
            fetcher=self._fetcher,
            supervisor=self._connection.supervisor,
            component_version=self._environment.component_version,
        )

    def _open_desired_state(self, config: Config, updates: UpdatesConfig) -> CompositeDesiredState:
        sources: list[DesiredState] = [
            self._deployment_desired,
            HintReceiver(connection=self._connection, inspections=config.inspections, places=self._fetcher),
        ]
        if updates.shadow:
            way: IpcShadowTransport | MqttShadowTransport
            if self._capabilities.has(Capability.SHADOW):
                way = IpcShadowTransport(connection=self._connection, thing=config.thing)
            else:
                way = MqttShadowTransport(connection=self._connection, pace=self._rate_limiter, stop=self._stop)
            sources.append(open_shadow(config, way, self._clock, self._connection.supervisor))
        return CompositeDesiredState(sources)

    def _validator(self, agent: Agent) -> ConfigurationValidator | None:
        if not self._capabilities.has(Capability.VALIDATION):
            return None

        def rehearse(inspection: str, wish: DesiredRelease, stop: threading.Event) -> None:
            if self._deployment_desired.is_desired(inspection, wish):
                return  # another key changes, and this wish was judged when it was new
            if agent.lifecycle_manager is None or self._fetcher is None:
                raise OperatorError("this agent runs without `updates`; deploy them first, and restart it")
            Preflight(lambda: agent.config, agent.lifecycle_manager.lifecycles, self._fetcher, self._clock).check(
                inspection, wish, stop
            )

        return ConfigurationValidator(
            connection=self._connection,
            read=self._read,
            rehearse=rehearse,
            validate_s=lambda: self._settings.validate_s,
            clock=self._clock,
        )

    # --- while it runs ------------------------------------------------------------------------------------------------

    def _observe(self, _verdicts: Sequence[Verdict]) -> None:
        """Workers' threads."""
        if not self._first_verdict.is_set():
            self._first_verdict.set()

    def _on_configuration_change(self, tree: Any) -> None:
        """Thread `configuration`: take a new configuration in, whole or not at all."""
        agent = self._agent
        if agent is None:
            return
        try:
            given = self._read(tree)
            needs_restart = _apply_configuration(agent, given.config)
        except KensaError as error:
            _log.error("%s\nThe agent goes on as it is", error)
            self._record_status(agent, refused=str(error))
            return
        self._settings = given.settings
        self._deployment_desired.update(given.desired_releases)
        self._record_status(agent, needs_restart=needs_restart)

    def _record_status(self, agent: Agent, *, refused: str | None = None, needs_restart: tuple[str, ...] = ()) -> None:
        agent.note_configuration(refused=refused, needs_restart=needs_restart)
        self._status = ComponentStatus(
            capabilities=self._capabilities,
            is_confirmed_by_echo=self._transport is not None and self._transport.is_confirmed_by_echo,
            configuration=agent.config.digest(),
            refusal=refused,
            needs_restart=needs_restart,
        )
        self._status.write(agent.config.state_dir)

    def _refresh_status(self, agent: Agent) -> None:
        """Whether echoes are allowed shows only once the transport has subscribed."""
        transport, standing = self._transport, self._status
        if (
            transport is not None
            and standing is not None
            and standing.is_confirmed_by_echo != transport.is_confirmed_by_echo
        ):
            self._status = replace(standing, is_confirmed_by_echo=transport.is_confirmed_by_echo)
            self._status.write(agent.config.state_dir)

    def _busy_reason(self) -> str | None:
        """What an update would interrupt."""
        if self._settings.in_shift(datetime.now().astimezone().time()):
            return "a shift runs"
        agent = self._agent
        lifecycles = {} if agent is None or agent.lifecycle_manager is None else agent.lifecycle_manager.lifecycles
        for name, lifecycle in lifecycles.items():
            status = lifecycle.status()
            if status.state in _UNINTERRUPTIBLE:
                return f"{name} is in {status.state}"
        return None

    def _report_running(self, agent: Agent, now_ns: int, began_ns: int) -> None:
        """Say RUNNING once the line is served: a deployment waits for it."""
        if (
            self._running_reports >= _MAX_RUNNING_REPORTS
            or now_ns < self._next_report_ns
            or not self._is_serving(agent, now_ns - began_ns)
        ):
            return
        self._running_reports += 1
        self._environment.notify_ready()
        self._next_report_ns = now_ns + round(_REPORT_RETRY_S * NS_PER_S)
        try:
            self._connection.call("update_state", model.UpdateStateRequest(state=model.ReportedLifecycleState.RUNNING))
        except IpcError as error:
            _log.log(
                logging.WARNING if self._running_reports == _MAX_RUNNING_REPORTS else logging.DEBUG,
                "RUNNING is not heard: %s",
                error,
            )
            return
        self._running_reports = _MAX_RUNNING_REPORTS

    def _is_serving(self, agent: Agent, age_ns: int) -> bool:
        if self._first_verdict.is_set():
            return all(slot.lease() is not None for slot in agent.slots.values())
        return (
            age_ns >= _IDLE_SERVING_S * NS_PER_S
            and all(slot.lease() is not None for slot in agent.slots.values())
            and all(view.capture.status.state in _READY for view in agent.cameras.values())
        )


def _apply_configuration(agent: Agent, config: Config) -> tuple[str, ...]:
    """Let `agent` go on with `config`; return what only a restart can change. Raises KensaError."""
    try:
        applied = agent.apply(config)
    except RestartNeededError as error:
        _log.warning("the deployment's configuration is good and waits for a restart: %s", error)
        return error.paths
    if applied.changed:
        _log.info("the deployment's configuration is applied: %s", ", ".join(applied.changed))
    return ()
