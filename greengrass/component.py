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
from agent.app import footprint
from agent.app.good import GOOD_NAME, last_good
from agent.clock import NS_PER_S
from agent.errors import ConfigError, KensaError, OperatorError, RestartNeededError
from agent.model.transitions import State
from agent.records import CameraState
from greengrass import capabilities, configuration
from greengrass.capabilities import Capability, Standing
from greengrass.configuration import ComponentConfig, Settings
from greengrass.connection import Connection
from greengrass.desired import AllOf, DeploymentWishes
from greengrass.environment import INSPECTOR
from greengrass.faults import IpcError
from greengrass.handover import Counter
from greengrass.pacing import Pace
from greengrass.rehearsal import Rehearsal
from greengrass.releases import open_fetcher, open_shadow
from greengrass.shadow import ShadowOperations, ShadowTopics
from greengrass.transport import MAX_IN_FLIGHT, IpcTransport
from greengrass.updates import UpdateGuard
from greengrass.validation import Validator
from greengrass.watching import ConfigurationWatch, read_configuration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.app import Agent
    from agent.clock import Clock
    from agent.config import Config, Updates
    from agent.ports import DesiredState
    from agent.records import Desired, Verdict
    from greengrass.environment import Environment
    from greengrass.handover import HintedFetcher

_CONNECT_S: Final = 20.0
_LOOK_S: Final = 0.25
_IDLE_SERVES_S: Final = 20.0  # a line without parts serves when its models and cameras are ready for so long
_REPORTS: Final = 3  # tries to say RUNNING; lite without its health daemon never takes it
_REPORT_AGAIN_S: Final = 5.0
_DISOWNED_S: Final = 1_800.0  # the line goes on meanwhile, and its verdicts wait on disk
_FOOTPRINT_S: Final = (5.0, 600.0)  # first, and then every
_UNINTERRUPTED: Final = frozenset({State.SELFTEST, State.SHADOW, State.TRIAL})
# Open; a triggered one waits for its first part.
_READY: Final = frozenset({CameraState.CONNECTING, CameraState.RUNNING})
_log = logging.getLogger("kensa.greengrass")


class Component:
    """One life of com.kensa.Inspector. `run` in the main thread, `ask_stop` from a signal handler."""

    def __init__(self, *, environment: Environment, clock: Clock, disowned_s: float = _DISOWNED_S) -> None:
        """Prepare; nothing is connected yet. `disowned_s`: how long the nucleus may know nothing of this process."""
        self._environment = environment
        self._clock = clock
        self._disowned_s = disowned_s
        self._connection = Connection(
            socket_path=environment.socket_path, token=environment.token, component=INSPECTOR, clock=clock
        )
        self._pace = Pace(clock=clock)
        self._stop = threading.Event()
        self._seen = threading.Event()  # the first verdict
        self._agent: Agent | None = None
        self._settings = Settings()
        self._wishes = DeploymentWishes({})
        self._fetcher: HintedFetcher | None = None
        self._capabilities = capabilities.lacking(environment.version)
        self._transport: IpcTransport | None = None
        self._standing: Standing | None = None
        self._reports = 0
        self._report_ns = 0

    def ask_stop(self) -> None:
        """Let `run` drain and return; safe in a signal handler."""
        self._stop.set()
        if self._agent is not None:
            self._agent.ask_stop()

    # --- life ---------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Inspect until told to stop; 0 when all was judged or counted. Raises KensaError when it cannot start."""
        self._connection.start()
        try:
            self._wait_connected()
            if self._stop.is_set():
                return 0
            tree, given, refused = self._configured()
            self._find_out(given)
            agent = self._start_agent(given, refused)
            if agent is None:
                return 0
            return self._attend(agent, tree)
        finally:
            self._connection.close()

    def _wait_connected(self) -> None:
        """Until connected, told to stop, or out of patience."""
        deadline_ns = self._clock.monotonic_ns() + round(_CONNECT_S * NS_PER_S)
        while not self._stop.is_set() and self._clock.monotonic_ns() < deadline_ns:
            if self._connection.wait_up(_LOOK_S):
                return

    def _configured(self) -> tuple[Any, ComponentConfig, str | None]:
        """The tree as it was read, what to run with, and why that is not what was read. Raises ConfigError."""
        tree: Any = None
        if self._connection.is_up:
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
        return configuration.read(tree, thing=environment.thing, work=environment.work, base=environment.base)

    def _last_good(self, tree: Any) -> ComponentConfig | None:
        folder = self._environment.work / "state"
        if isinstance(tree, dict) and isinstance(tree.get("state_dir"), str):
            folder = self._environment.base / tree["state_dir"]
        if not (folder / GOOD_NAME).is_file():
            return None
        good = last_good(folder)
        return None if good is None else ComponentConfig(good, Settings(), {})

    def _find_out(self, given: ComponentConfig) -> None:
        if self._connection.is_up:
            environment = self._environment
            self._capabilities = capabilities.find_out(
                self._connection, thing=given.config.thing, version=environment.version
            )
        _log.info("%s", self._capabilities.describe())
        for name, instead in self._capabilities.instead().items():
            _log.info("without %s: %s", name, instead)

    def _start_agent(self, given: ComponentConfig, refused: str | None) -> Agent | None:
        """Start with `given`, else with the last good configuration. Raises KensaError; None when told to stop."""
        try:
            agent = self._compose(given)
            agent.start()
        except KensaError as error:
            good = None if refused else self._last_good({"state_dir": str(given.config.state_dir)})
            if good is None or good.config == given.config:
                raise
            _log.error("%s\nThe agent goes on with the last configuration that it ran with", error)
            given, refused = good, str(error)
            agent = self._compose(given)
            agent.start()
        self._agent = agent
        if self._stop.is_set():
            agent.stop()
            return None
        self._stand(agent, refused=refused)
        return agent

    def _attend(self, agent: Agent, tree: Any) -> int:
        """Listen to the nucleus until the end; 1 when something was abandoned or the nucleus disowns us."""
        watch = ConfigurationWatch(connection=self._connection, known=tree, on_change=self._changed, clock=self._clock)
        watch.start()
        validator = self._validator(agent)
        if validator is not None:
            validator.start()
        if self._capabilities.has(Capability.DEFERRAL):
            UpdateGuard(
                connection=self._connection,
                busy=self._busy,
                defer_s=lambda: self._settings.defer_s,
                clock=self._clock,
            ).start()
        is_disowned = False
        try:
            is_disowned = self._wait(agent)
        finally:
            if validator is not None:
                validator.ask_close()
            clean = agent.stop()
            watch.close()
            if validator is not None:
                validator.close()
        return 0 if clean and not is_disowned else 1

    def _wait(self, agent: Agent) -> bool:
        """Return when the agent is to stop; whether that is because the nucleus does not know us any more."""
        first_s, every_s = _FOOTPRINT_S
        began_ns = self._clock.monotonic_ns()
        footprint_ns = began_ns + round(first_s * NS_PER_S)
        while not agent.wait(_LOOK_S):
            now_ns = self._clock.monotonic_ns()
            self._report_running(agent, now_ns, began_ns)
            self._correct_standing(agent)
            if self._connection.disowned_s > self._disowned_s:
                _log.error(
                    "the nucleus has known neither the token nor the name of this process for %.0f s: it ends, to be "
                    "started with a new token",
                    self._disowned_s,
                )
                return True
            if now_ns >= footprint_ns:
                footprint.give_back()
                footprint_ns = now_ns + round(every_s * NS_PER_S)
        return False

    # --- composition --------------------------------------------------------------------------------------------------

    def _compose(self, given: ComponentConfig) -> Agent:
        config = given.config
        self._settings = given.settings
        self._wishes = DeploymentWishes(given.wishes)
        self._transport = IpcTransport(
            connection=self._connection,
            thing=config.thing,
            pace=self._pace,
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
            desired_state=None if updates is None else self._open_desired(config, updates),
            fetcher=self._fetcher,
            supervisor=self._connection.supervisor,
            component_version=self._environment.component_version,
        )

    def _open_desired(self, config: Config, updates: Updates) -> AllOf:
        sources: list[DesiredState] = [
            self._wishes,
            Counter(connection=self._connection, inspections=config.inspections, places=self._fetcher),
        ]
        if updates.shadow:
            way: ShadowOperations | ShadowTopics
            if self._capabilities.has(Capability.SHADOW):
                way = ShadowOperations(connection=self._connection, thing=config.thing)
            else:
                way = ShadowTopics(connection=self._connection, pace=self._pace, stop=self._stop)
            sources.append(open_shadow(config, way, self._clock, self._connection.supervisor))
        return AllOf(sources)

    def _validator(self, agent: Agent) -> Validator | None:
        if not self._capabilities.has(Capability.VALIDATION):
            return None

        def rehearse(inspection: str, wish: Desired, stop: threading.Event) -> None:
            if self._wishes.holds(inspection, wish):
                return  # another key changes, and this wish was judged when it was new
            if agent.models is None or self._fetcher is None:
                raise OperatorError("this agent runs without `updates`; deploy them first, and restart it")
            Rehearsal(lambda: agent.config, agent.models.lifecycles, self._fetcher, self._clock).rehearse(
                inspection, wish, stop
            )

        return Validator(
            connection=self._connection,
            read=self._read,
            rehearse=rehearse,
            validate_s=lambda: self._settings.validate_s,
            clock=self._clock,
        )

    # --- while it runs ------------------------------------------------------------------------------------------------

    def _observe(self, _verdicts: Sequence[Verdict]) -> None:
        """Workers' threads."""
        if not self._seen.is_set():
            self._seen.set()

    def _changed(self, tree: Any) -> None:
        """Thread `configuration`: take a new configuration in, whole or not at all."""
        agent = self._agent
        if agent is None:
            return
        try:
            given = self._read(tree)
            needs_restart = _apply(agent, given.config)
        except KensaError as error:
            _log.error("%s\nThe agent goes on as it is", error)
            self._stand(agent, refused=str(error))
            return
        self._settings = given.settings
        self._wishes.update(given.wishes)
        self._stand(agent, needs_restart=needs_restart)

    def _stand(self, agent: Agent, *, refused: str | None = None, needs_restart: tuple[str, ...] = ()) -> None:
        agent.note_configuration(refused=refused, needs_restart=needs_restart)
        self._standing = Standing(
            capabilities=self._capabilities,
            confirms=self._transport is not None and self._transport.confirms,
            configuration=agent.config.digest(),
            refused=refused,
            needs_restart=needs_restart,
        )
        self._standing.write(agent.config.state_dir)

    def _correct_standing(self, agent: Agent) -> None:
        """Whether echoes are allowed shows only once the transport has subscribed."""
        transport, standing = self._transport, self._standing
        if transport is not None and standing is not None and standing.confirms != transport.confirms:
            self._standing = replace(standing, confirms=transport.confirms)
            self._standing.write(agent.config.state_dir)

    def _busy(self) -> str | None:
        """What an update would interrupt."""
        if self._settings.in_shift(datetime.now().astimezone().time()):
            return "a shift runs"
        agent = self._agent
        lifecycles = {} if agent is None or agent.models is None else agent.models.lifecycles
        for name, lifecycle in lifecycles.items():
            status = lifecycle.status()
            if status.state in _UNINTERRUPTED:
                return f"{name} is in {status.state}"
        return None

    def _report_running(self, agent: Agent, now_ns: int, began_ns: int) -> None:
        """Say RUNNING once the line is served: a deployment waits for it."""
        if self._reports >= _REPORTS or now_ns < self._report_ns or not self._serves(agent, now_ns - began_ns):
            return
        self._reports += 1
        self._environment.tell_ready()
        self._report_ns = now_ns + round(_REPORT_AGAIN_S * NS_PER_S)
        try:
            self._connection.call("update_state", model.UpdateStateRequest(state=model.ReportedLifecycleState.RUNNING))
        except IpcError as error:
            _log.log(logging.WARNING if self._reports == _REPORTS else logging.DEBUG, "RUNNING is not heard: %s", error)
            return
        self._reports = _REPORTS

    def _serves(self, agent: Agent, age_ns: int) -> bool:
        if self._seen.is_set():
            return all(slot.lease() is not None for slot in agent.slots.values())
        return (
            age_ns >= _IDLE_SERVES_S * NS_PER_S
            and all(slot.lease() is not None for slot in agent.slots.values())
            and all(view.capture.status.state in _READY for view in agent.cameras.values())
        )


def _apply(agent: Agent, config: Config) -> tuple[str, ...]:
    """Let `agent` go on with `config`; return what only a restart can change. Raises KensaError."""
    try:
        applied = agent.apply(config)
    except RestartNeededError as error:
        _log.warning("the deployment's configuration is good and waits for a restart: %s", error)
        return error.paths
    if applied.changed:
        _log.info("the deployment's configuration is applied: %s", ", ".join(applied.changed))
    return ()
