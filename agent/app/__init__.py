"""Composition: the only place that picks concrete adapters, and the one that knows the order of start and stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.app.agent import Agent, StopReason
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


def build(  # noqa: PLR0913 - what a caller may bring, each by its name
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

    `observe` sees every verdict, on the workers' threads, and `on_drop` every frame without one; `on_commit` hears on
    the writer's thread of verdicts other than `ok` that are on disk, and when (monotonic ns). `transport` goes before
    the configured one; `sources` (camera name -> source) go before the configured cameras; `desired_state` before the
    named shadow over MQTT, and `fetcher` before the repository of `updates`. `supervisor` is given where threads beside
    the agent's share it, and `component_version` where it runs as a component of Greengrass. Raises ConfigError for
    what can be seen without starting.
    """
    clock = clock or SystemClock()
    supervisor = supervisor or ThreadSupervisor(clock=clock)
    given = dict(sources or {})
    cameras = {
        name: (f"inspections.{inspection_name}.cameras.{name}", camera)
        for inspection_name, inspection in config.inspections.items()
        for name, camera in inspection.cameras.items()
    }
    if unknown := sorted(set(given) - set(cameras)):
        raise ConfigError(f"sources are given for {', '.join(unknown)}, which no inspection names")
    for name, (path, camera) in cameras.items():
        if name not in given:
            if problem := address_problem(camera):
                raise ConfigError(f"{path}.{problem}")
            given[name] = make_source(camera, clock)
    return Agent(
        config,
        transport=transport or make_transport(config, clock, supervisor),
        sources=given,
        lent=sources or {},
        clock=clock,
        on_commit=on_commit,
        observe=observe,
        desired_state=desired_state,
        fetcher=fetcher,
        supervisor=supervisor,
        on_drop=on_drop,
        component_version=component_version,
    )
