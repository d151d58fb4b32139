"""Keeps the component's status file up to date, and reports the same to the agent's heartbeat."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agent.durable import replace_durably
from agent.wire.component_status import STATUS_FILE_NAME, ComponentStatus

if TYPE_CHECKING:
    from pathlib import Path

    from agent.app import Agent
    from greengrass.capabilities import Capabilities
    from greengrass.ipc.transport import IpcTransport

_log = logging.getLogger(__name__)


def write_status(state_dir: Path, status: ComponentStatus) -> None:
    """Replace the file in `state_dir`; a disk that refuses it costs a line in the log."""
    path = state_dir / STATUS_FILE_NAME
    try:
        replace_durably(path, status.model_dump_json(indent=1).encode())
    except OSError as error:
        _log.warning("%s cannot be written: %s", path, error.strerror)


class StatusRecorder:
    """Status of one component process. `record` from the main thread and `configuration`, `refresh` from the main."""

    def __init__(self, agent: Agent, *, capabilities: Capabilities, transport: IpcTransport) -> None:
        """Nothing is written yet."""
        self._agent = agent
        self._capabilities = capabilities
        self._transport = transport
        self._status: ComponentStatus | None = None

    def record(self, *, refused: str | None = None, needs_restart: tuple[str, ...] = ()) -> None:
        """Report what became of the newest configuration; without arguments it is in force."""
        self._agent.note_configuration(refused=refused, needs_restart=needs_restart)
        nucleus = self._capabilities
        self._write(
            ComponentStatus(
                mode=nucleus.mode,
                version=nucleus.version,
                present=tuple(sorted(nucleus.present)),
                unauthorized=tuple(sorted(nucleus.unauthorized)),
                fallbacks={str(name): text for name, text in nucleus.fallbacks().items()},
                confirmed_by_echo=self._transport.is_confirmed_by_echo,
                configuration=self._agent.config.digest(),
                refused=refused,
                needs_restart=needs_restart,
            )
        )

    def refresh(self) -> None:
        """Write the file again when echoes turn out to be forbidden, which only a subscription shows."""
        status, by_echo = self._status, self._transport.is_confirmed_by_echo
        if status is not None and status.confirmed_by_echo != by_echo:
            self._write(status.model_copy(update={"confirmed_by_echo": by_echo}))

    def _write(self, status: ComponentStatus) -> None:
        self._status = status
        write_status(self._agent.config.state_dir, status)
