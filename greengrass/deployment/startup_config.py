"""Chooses the configuration of a start: the nucleus's, else the last one that an agent ran with."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.app.last_good_config import LAST_GOOD_NAME, load_last_good
from agent.errors import ConfigError
from greengrass.deployment import component_config
from greengrass.deployment.component_config import ComponentConfig, GreengrassSettings
from greengrass.deployment.config_watcher import read_configuration
from greengrass.ipc.errors import IpcError

if TYPE_CHECKING:
    from pathlib import Path

    from greengrass.environment import Environment
    from greengrass.ipc.connection import Connection

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StartupConfig:
    """A configuration to start with."""

    tree: Any  # as the nucleus returned it; None when it did not
    config: ComponentConfig
    refused: str | None  # why `config` is not what the nucleus returned


@dataclass(frozen=True, slots=True)
class ConfigurationLoader:
    """Reads configurations as this component's environment requires."""

    connection: Connection
    environment: Environment

    def read(self, tree: object) -> ComponentConfig:
        """Parse what GetConfiguration returned. Raises ConfigError."""
        environment = self.environment
        return component_config.read(tree, thing=environment.thing, work=environment.work, base=environment.base)

    def load(self) -> StartupConfig:
        """Ask the nucleus; use the last good configuration when there is no answer or it is refused.

        Raises ConfigError when there is none.
        """
        tree: Any = None
        if self.connection.is_connected:
            try:
                tree = read_configuration(self.connection)
            except IpcError as error:
                _log.error("%s", error)
        problem = ConfigError("the nucleus did not return the configuration")
        if tree is not None:
            try:
                return StartupConfig(tree, self.read(tree), None)
            except ConfigError as error:
                problem = error
        folder = self.environment.work / "state"
        if isinstance(tree, dict) and isinstance(tree.get("state_dir"), str):
            folder = self.environment.base / tree["state_dir"]
        good = self.last_good(folder)
        if good is None:
            raise problem
        _log.error("%s\nThe agent goes on with the last configuration that it ran with", problem)
        return StartupConfig(tree, good, str(problem))

    def last_good(self, state_dir: Path) -> ComponentConfig | None:
        """Return the last configuration that an agent ran with on `state_dir`."""
        if not (state_dir / LAST_GOOD_NAME).is_file():
            return None
        good = load_last_good(state_dir)
        return None if good is None else ComponentConfig(good, GreengrassSettings(), {})
