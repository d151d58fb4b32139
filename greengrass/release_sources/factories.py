"""Opens a component's release sources: repository, folders of com.kensa.Model, and the named shadow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.adapters.device_shadow import ShadowDesiredState
from agent.children.fetch_client import FetchClient
from greengrass.release_sources.fallback_fetcher import FallbackFetcher

if TYPE_CHECKING:
    from pathlib import Path

    from agent.config import Config, UpdatesConfig
    from agent.supervision import ThreadSupervisor
    from agent.timing.clock import Clock
    from greengrass.ipc.shadow_transport import IpcShadowTransport, MqttShadowTransport


def open_fetcher(config: Config, updates: UpdatesConfig, clock: Clock) -> FallbackFetcher:
    """Return the fetcher of `updates.repository`, and of the folders that com.kensa.Model names."""

    def fetcher(repository: str) -> FetchClient:
        return FetchClient(
            repository=repository,
            root=updates.root,
            site=updates.site,
            trust_dir=config.state_dir / "trust",
            max_release_bytes=updates.max_release_bytes,
            timeout_s=updates.fetch_timeout_s,
            clock=clock,
        )

    def in_folder(folder: Path) -> FetchClient:
        return fetcher(str(folder))

    return FallbackFetcher(configured=fetcher(updates.repository), in_folder=in_folder)


def open_shadow(
    config: Config,
    shadow_transport: IpcShadowTransport | MqttShadowTransport,
    clock: Clock,
    supervisor: ThreadSupervisor,
) -> ShadowDesiredState:
    """Return the named shadow `kensa`, reached by operations of the nucleus or by its MQTT topics."""
    return ShadowDesiredState(
        thing=config.thing,
        inspections=config.inspections,
        transport=shadow_transport,
        publish_now=shadow_transport.publish_now,
        add_connection_listener=shadow_transport.add_connection_listener,
        clock=clock,
        supervisor=supervisor,
    )
