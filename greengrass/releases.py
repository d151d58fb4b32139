"""Where a component's releases come from: the repository, a folder that a component brings, and the named shadow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.adapters.shadow import ShadowDesiredState
from agent.model.fetching import ChildFetcher
from greengrass.handover import HintedFetcher

if TYPE_CHECKING:
    from pathlib import Path

    from agent.clock import Clock
    from agent.config import Config, Updates
    from agent.supervision import Supervisor
    from greengrass.shadow import ShadowOperations, ShadowTopics


def open_fetcher(config: Config, updates: Updates, clock: Clock) -> HintedFetcher:
    """Return the fetcher of `updates.repository`, and of the folders that com.kensa.Model names."""

    def fetcher(repository: str) -> ChildFetcher:
        return ChildFetcher(
            repository=repository,
            root=updates.root,
            site=updates.site,
            trust_dir=config.state_dir / "trust",
            max_release_bytes=updates.max_release_bytes,
            timeout_s=updates.fetch_timeout_s,
            clock=clock,
        )

    def in_folder(folder: Path) -> ChildFetcher:
        return fetcher(str(folder))

    return HintedFetcher(configured=fetcher(updates.repository), in_folder=in_folder)


def open_shadow(
    config: Config, way: ShadowOperations | ShadowTopics, clock: Clock, supervisor: Supervisor
) -> ShadowDesiredState:
    """Return the named shadow `kensa`, reached by operations of the nucleus or by its MQTT topics."""
    return ShadowDesiredState(
        thing=config.thing,
        inspections=config.inspections,
        transport=way,
        publish_now=way.publish_now,
        watch_connection=way.watch_connection,
        clock=clock,
        supervisor=supervisor,
    )
