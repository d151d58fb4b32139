"""Composes a component's agent: transport, release sources and fetcher over the IPC connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent import app
from greengrass.capabilities import Capability
from greengrass.ipc.rate_limit import PublishRateLimiter
from greengrass.ipc.shadow_transport import IpcShadowTransport, MqttShadowTransport
from greengrass.ipc.transport import MAX_IN_FLIGHT, IpcTransport
from greengrass.release_sources.desired_state import CompositeDesiredState, DeploymentDesiredState
from greengrass.release_sources.factories import open_fetcher, open_shadow
from greengrass.release_sources.hint_receiver import HintReceiver

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from agent.app import Agent
    from agent.config import Config, UpdatesConfig
    from agent.lifecycle.lifecycle import Lifecycle
    from agent.ports import DesiredState
    from agent.records import Verdict
    from agent.timing.clock import Clock
    from greengrass.capabilities import Capabilities
    from greengrass.deployment.component_config import ComponentConfig
    from greengrass.environment import Environment
    from greengrass.ipc.connection import Connection
    from greengrass.release_sources.fallback_fetcher import FallbackFetcher


@dataclass(frozen=True, slots=True)
class ComposedAgent:
    """An agent, and the objects that the component keeps using."""

    agent: Agent
    transport: IpcTransport
    deployment_desired: DeploymentDesiredState
    fetcher: FallbackFetcher | None  # None without `updates`

    def lifecycles(self) -> Mapping[str, Lifecycle]:
        """Return the lifecycle of each inspection; empty without `updates`."""
        manager = self.agent.lifecycle_manager
        return {} if manager is None else manager.lifecycles


class AgentFactory:
    """Builds agents that share one connection to the nucleus and one rate limiter."""

    def __init__(
        self,
        *,
        connection: Connection,
        environment: Environment,
        clock: Clock,
        stop: threading.Event,
        observe: Callable[[Sequence[Verdict]], None],
    ) -> None:
        """`stop` ends the shadow's waiting; `observe` receives every verdict, on the workers' threads."""
        self._connection = connection
        self._environment = environment
        self._clock = clock
        self._stop = stop
        self._observe = observe
        self._rate_limiter = PublishRateLimiter(clock=clock)

    def build(self, given: ComponentConfig, capabilities: Capabilities) -> ComposedAgent:
        """Compose an agent with the configuration `given`; nothing runs yet. Raises ConfigError."""
        config = given.config
        updates = config.updates
        desired = DeploymentDesiredState(given.desired_releases)
        fetcher = None if updates is None else open_fetcher(config, updates, self._clock)
        transport = IpcTransport(
            connection=self._connection,
            thing=config.thing,
            rate_limiter=self._rate_limiter,
            clock=self._clock,
            confirm=given.settings.confirm == "echo",
            max_in_flight=MAX_IN_FLIGHT[capabilities.mode],
        )
        sources: list[DesiredState] = []
        if updates is not None:
            hints = HintReceiver(connection=self._connection, inspections=config.inspections, fetcher=fetcher)
            sources = [desired, hints, *self._shadow(config, updates, capabilities)]
        agent = app.build(
            config,
            transport=transport,
            clock=self._clock,
            observe=self._observe,
            desired_state=CompositeDesiredState(sources) if sources else None,
            fetcher=fetcher,
            supervisor=self._connection.supervisor,
            component_version=self._environment.component_version,
        )
        return ComposedAgent(agent, transport, desired, fetcher)

    def _shadow(self, config: Config, updates: UpdatesConfig, capabilities: Capabilities) -> list[DesiredState]:
        if not updates.shadow:
            return []
        shadow_transport: IpcShadowTransport | MqttShadowTransport
        if capabilities.has(Capability.SHADOW):
            shadow_transport = IpcShadowTransport(connection=self._connection, thing=config.thing)
        else:
            shadow_transport = MqttShadowTransport(
                connection=self._connection, rate_limiter=self._rate_limiter, stop=self._stop
            )
        return [open_shadow(config, shadow_transport, self._clock, self._connection.supervisor)]
