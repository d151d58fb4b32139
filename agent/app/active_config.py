"""The configuration in force, and what became of the newest one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.wire import ConfigurationHealth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.config import Config


class ActiveConfig:
    """Holds the configuration that an agent runs with; each change is one reference store."""

    def __init__(self, config: Config) -> None:
        """Begin with `config`, in force as a whole."""
        self._current = config
        self._refused: str | None = None
        self._needs_restart: tuple[str, ...] = ()

    @property
    def current(self) -> Config:
        """The configuration in force."""
        return self._current

    def replace(self, config: Config) -> None:
        """Put `config` in force; the caller has changed, or is about to change, everything that depends on it."""
        self._current = config

    def note(self, *, refused: str | None = None, needs_restart: Sequence[str] = ()) -> None:
        """Record why the newest configuration is not in force, or which of its keys are not; nothing: it is."""
        self._refused, self._needs_restart = refused, tuple(needs_restart)

    def health(self) -> ConfigurationHealth:
        """Return what heartbeat and status report of it."""
        return ConfigurationHealth(
            digest=self._current.digest(), refused=self._refused, needs_restart=self._needs_restart
        )
