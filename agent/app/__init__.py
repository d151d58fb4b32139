"""The running agent: `build` composes it from a configuration, and `Agent` starts and stops it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.app.agent import Agent, StopReason
from agent.app.composition.agent_dependencies import AgentDependencies
from agent.app.factories import address_problem, make_site_lease, make_source, make_transport
from agent.errors import ConfigError
from agent.supervision import ThreadSupervisor
from agent.timing.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agent.config import Config
    from agent.ports import DesiredState, FrameSource, ReleaseFetcher, Transport
    from agent.records import DroppedFrames, Verdict
    from agent.timing.clock import Clock

__all__ = ["Agent", "StopReason", "build", "make_site_lease", "make_source", "make_transport"]


def build(  # noqa: PLR0913 - what a caller may supply, each by its name
    config: Config,
    *,
    transport: Transport | None = None,
    sources: Mapping[str, FrameSource] | None = None,
    clock: Clock | None = None,
    on_commit: Callable[[Sequence[Verdict], int], None] | None = None,
    observe: Callable[[Sequence[Verdict]], None] | None = None,
    desired_state: DesiredState | None = None,
    fetcher: ReleaseFetcher | None = None,
    supervisor: ThreadSupervisor | None = None,
    on_drop: Callable[[DroppedFrames], None] | None = None,
    component_version: str | None = None,
) -> Agent:
    """Compose an agent; nothing runs and nothing is written yet.

    Raises ConfigError for what can be checked without starting.

    Args:
        config: What to inspect, and how.
        transport: Used instead of the configured one.
        sources: Sources by camera; used instead of the configured cameras.
        clock: The clock of all components.
        on_commit: Called on the writer's thread with committed verdicts other than `ok`, and when (monotonic ns).
        observe: Called on the workers' threads with every verdict.
        desired_state: Used instead of the named shadow over MQTT.
        fetcher: Used instead of the repository of `updates`.
        supervisor: Supervises the agent's threads; pass one to share it with other threads.
        on_drop: Called with every frame that gets no verdict.
        component_version: Set where the agent runs as a component of Greengrass.
    """
    clock = clock or SystemClock()
    supervisor = supervisor or ThreadSupervisor(clock=clock)
    dependencies = AgentDependencies(
        transport=transport or make_transport(config, clock, supervisor),
        sources=_make_sources(config, sources or {}, clock),
        external_cameras=frozenset(sources or {}),
        clock=clock,
        supervisor=supervisor,
        on_commit=on_commit,
        observe=observe,
        on_drop=on_drop,
        desired_state=desired_state,
        fetcher=fetcher,
        component_version=component_version,
    )
    return Agent(config, dependencies)


def _make_sources(config: Config, given: Mapping[str, FrameSource], clock: Clock) -> dict[str, FrameSource]:
    """Return the source of each camera: the one in `given`, else as configured. Raises ConfigError."""
    sources = dict(given)
    cameras = {
        name: (f"inspections.{inspection_name}.cameras.{name}", camera)
        for inspection_name, inspection in config.inspections.items()
        for name, camera in inspection.cameras.items()
    }
    if unknown := sorted(set(given) - set(cameras)):
        raise ConfigError(f"sources are given for {', '.join(unknown)}, which no inspection names")
    for name, (path, camera) in cameras.items():
        if name not in sources:
            if problem := address_problem(camera):
                raise ConfigError(f"{path}.{problem}")
            sources[name] = make_source(camera, clock)
    return sources
