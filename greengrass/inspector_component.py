"""Runs the agent as the component com.kensa.Inspector, from the first connection to the last drain.

Start: connection, configuration, capabilities, agent; then the subscriptions to deployments. A configuration that is
refused, or with which the agent does not start, is replaced by the last one that an agent ran with here. Stop is the
same backwards, the agent first, because its last verdicts need the connection.

Promise: nothing that the nucleus sends or fails to send stops the line, with two exceptions: SIGTERM, and a nucleus
that has answered for half an hour and recognised neither this component's token nor its name; then the process drains
and ends with 1, and the nucleus starts it with a new token. Lite allows three starts an hour, which that wait respects.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from agent.errors import KensaError, OperatorError, RestartNeededError
from agent.health import memory_trim
from agent.timing.clock import NS_PER_S
from greengrass import capabilities
from greengrass.agent_factory import AgentFactory
from greengrass.capabilities import Capability
from greengrass.component_status import StatusRecorder
from greengrass.deployment.component_config import GreengrassSettings
from greengrass.deployment.config_validation import ConfigurationValidator
from greengrass.deployment.config_watcher import ConfigurationWatcher
from greengrass.deployment.preflight import Preflight
from greengrass.deployment.startup_config import ConfigurationLoader
from greengrass.deployment.update_deferral import UpdateDeferral, busy_reason
from greengrass.environment import INSPECTOR_NAME
from greengrass.ipc.connection import Connection
from greengrass.readiness import ReadinessReporter

if TYPE_CHECKING:
    from agent.app import Agent
    from agent.config import Config
    from agent.release_records import DesiredRelease
    from agent.timing.clock import Clock
    from greengrass.agent_factory import ComposedAgent
    from greengrass.deployment.component_config import ComponentConfig
    from greengrass.deployment.startup_config import StartupConfig
    from greengrass.environment import Environment

_CONNECT_S: Final = 20.0
_POLL_S: Final = 0.25
_MAX_UNRECOGNISED_S: Final = 1_800.0  # the line goes on meanwhile, and its verdicts wait on disk
_MEMORY_TRIM_S: Final = (5.0, 600.0)  # first, and then every
_log = logging.getLogger("kensa.greengrass")


class InspectorComponent:
    """One life of com.kensa.Inspector. `run` in the main thread, `request_stop` from a signal handler."""

    def __init__(
        self, *, environment: Environment, clock: Clock, max_unrecognised_s: float = _MAX_UNRECOGNISED_S
    ) -> None:
        """Prepare; nothing is connected yet.

        `max_unrecognised_s`: how long the nucleus may answer without recognising this process.
        """
        self._environment = environment
        self._clock = clock
        self._max_unrecognised_s = max_unrecognised_s
        self._connection = Connection(
            socket_path=environment.socket_path, token=environment.token, component=INSPECTOR_NAME, clock=clock
        )
        self._loader = ConfigurationLoader(self._connection, environment)
        self._readiness = ReadinessReporter(connection=self._connection, environment=environment, clock=clock)
        self._stop = threading.Event()
        self._factory = AgentFactory(
            connection=self._connection,
            environment=environment,
            clock=clock,
            stop=self._stop,
            observe=self._readiness.observe,
        )
        self._capabilities = capabilities.assume_minimal(environment.version)
        self._settings = GreengrassSettings()
        self._agent: Agent | None = None

    def request_stop(self) -> None:
        """Let `run` drain and return; safe in a signal handler."""
        self._stop.set()
        if self._agent is not None:
            self._agent.request_stop()

    # --- life ---------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Inspect until asked to stop; 0 when every frame was inspected or counted. Raises KensaError at the start."""
        self._connection.start()
        try:
            self._wait_connected()
            if self._stop.is_set():
                return 0
            startup = self._loader.load()
            self._detect_capabilities(startup.config)
            composed, refused = self._start_agent(startup)
            if self._stop.is_set():
                composed.agent.stop()
                return 0
            status = StatusRecorder(composed.agent, capabilities=self._capabilities, transport=composed.transport)
            status.record(refused=refused)
            return self._run_until_stopped(composed, status, startup.tree)
        finally:
            self._connection.close()

    def _wait_connected(self) -> None:
        """Wait until connected, asked to stop, or out of time."""
        deadline_ns = self._clock.monotonic_ns() + round(_CONNECT_S * NS_PER_S)
        while not self._stop.is_set() and self._clock.monotonic_ns() < deadline_ns:
            if self._connection.wait_connected(_POLL_S):
                return

    def _detect_capabilities(self, given: ComponentConfig) -> None:
        if self._connection.is_connected:
            self._capabilities = capabilities.detect(
                self._connection, thing=given.config.thing, version=self._environment.version
            )
        _log.info("%s", self._capabilities.describe())
        for name, fallback in self._capabilities.fallbacks().items():
            _log.info("without %s: %s", name, fallback)

    def _start_agent(self, startup: StartupConfig) -> tuple[ComposedAgent, str | None]:
        """Start with the given configuration, else with the last good one; return why it is the latter.

        Raises KensaError.
        """
        given, refused = startup.config, startup.refused
        try:
            composed = self._build_and_start(given)
        except KensaError as error:
            good = None if refused else self._loader.last_good(given.config.state_dir)
            if good is None or good.config == given.config:
                raise
            _log.error("%s\nThe agent goes on with the last configuration that it ran with", error)
            given, refused = good, str(error)
            composed = self._build_and_start(given)
        self._settings = given.settings
        self._agent = composed.agent
        return composed, refused

    def _build_and_start(self, given: ComponentConfig) -> ComposedAgent:
        composed = self._factory.build(given, self._capabilities)
        composed.agent.start()
        return composed

    def _run_until_stopped(self, composed: ComposedAgent, status: StatusRecorder, tree: Any) -> int:
        """Serve deployments until the end; 1 when something was abandoned or the nucleus rejects this process."""
        watcher = ConfigurationWatcher(
            connection=self._connection,
            known=tree,
            on_change=lambda changed: self._apply_change(composed, status, changed),
            clock=self._clock,
        )
        watcher.start()
        validator = self._validator(composed)
        if validator is not None:
            validator.start()
        if self._capabilities.has(Capability.DEFERRAL):
            UpdateDeferral(
                connection=self._connection,
                busy_reason=lambda: busy_reason(self._settings, composed.lifecycles()),
                defer_s=lambda: self._settings.defer_s,
                clock=self._clock,
            ).start()
        is_unrecognised = False
        try:
            is_unrecognised = self._wait_for_end(composed.agent, status)
        finally:
            if validator is not None:
                validator.request_close()
            clean = composed.agent.stop()
            watcher.close()
            if validator is not None:
                validator.close()
        return 0 if clean and not is_unrecognised else 1

    def _wait_for_end(self, agent: Agent, status: StatusRecorder) -> bool:
        """Return when the agent is to stop; True when the nucleus no longer recognises this process."""
        first_s, every_s = _MEMORY_TRIM_S
        trim_at_ns = self._clock.monotonic_ns() + round(first_s * NS_PER_S)
        while not agent.wait(_POLL_S):
            self._readiness.poll(agent)
            status.refresh()
            if self._connection.unrecognised_s > self._max_unrecognised_s:
                _log.error(
                    "the nucleus has recognised neither the token nor the name of this process for %.0f s: it ends, to "
                    "be started with a new token",
                    self._max_unrecognised_s,
                )
                return True
            now_ns = self._clock.monotonic_ns()
            if now_ns >= trim_at_ns:
                memory_trim.trim_memory()
                trim_at_ns = now_ns + round(every_s * NS_PER_S)
        return False

    # --- deployments --------------------------------------------------------------------------------------------------

    def _validator(self, composed: ComposedAgent) -> ConfigurationValidator | None:
        if not self._capabilities.has(Capability.VALIDATION):
            return None
        agent = composed.agent

        def preflight(inspection: str, desired: DesiredRelease, stop: threading.Event) -> None:
            if composed.deployment_desired.is_desired(inspection, desired):
                return  # another key changes, and this release was checked when it was new
            lifecycles = composed.lifecycles()
            if not lifecycles or composed.fetcher is None:
                raise OperatorError("this agent runs without `updates`; deploy them first, and restart it")
            Preflight(lambda: agent.config, lifecycles, composed.fetcher, self._clock).check(inspection, desired, stop)

        return ConfigurationValidator(
            connection=self._connection,
            read=self._loader.read,
            preflight=preflight,
            validate_s=lambda: self._settings.validate_s,
            clock=self._clock,
        )

    def _apply_change(self, composed: ComposedAgent, status: StatusRecorder, tree: Any) -> None:
        """Thread `configuration`: apply a new configuration, whole or not at all."""
        try:
            given = self._loader.read(tree)
            needs_restart = _apply_configuration(composed.agent, given.config)
        except KensaError as error:
            _log.error("%s\nThe agent goes on as it is", error)
            status.record(refused=str(error))
            return
        self._settings = given.settings
        composed.deployment_desired.update(given.desired_releases)
        status.record(needs_restart=needs_restart)


def _apply_configuration(agent: Agent, config: Config) -> tuple[str, ...]:
    """Let `agent` go on with `config`; return the keys that need a restart. Raises KensaError."""
    try:
        applied = agent.apply(config)
    except RestartNeededError as error:
        _log.warning("the deployment's configuration is good and waits for a restart: %s", error)
        return error.paths
    if applied.changed:
        _log.info("the deployment's configuration is applied: %s", ", ".join(applied.changed))
    return ()
