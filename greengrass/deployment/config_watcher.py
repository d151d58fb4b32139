"""Reads the component's configuration again whenever it may have changed.

The nucleus sends one event for each leaf that changed, after all of them were written, and none when keys are removed
(RESET on lite); on an update the new version's configuration reaches the old process. So an event is only a trigger:
after a moment without events the whole configuration is read, and every minute when there are none.

Promise: a configuration equal to the last one has no effect; one that cannot be read, or is refused, changes nothing.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from awsiot.greengrasscoreipc import model

from greengrass.ipc.errors import IpcError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.timing.clock import Clock
    from greengrass.ipc.connection import Connection

_DEBOUNCE_S: Final = 0.3
_POLL_S: Final = 60.0
_CLOSE_S: Final = 1.0
_log = logging.getLogger(__name__)


def read_configuration(connection: Connection) -> Any:
    """Return the whole configuration of this component as the nucleus has it. Raises IpcError."""
    return connection.call("get_configuration", model.GetConfigurationRequest(key_path=[])).value


class ConfigurationWatcher:
    """Calls `on_change(tree)` for each configuration that differs from the one before; thread `configuration`."""

    def __init__(self, *, connection: Connection, known: Any, on_change: Callable[[Any], None], clock: Clock) -> None:
        """`known` is the configuration that was read at the start."""
        self._connection = connection
        self._known = known
        self._on_change = on_change
        self._clock = clock
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = connection.supervisor.thread(
            self._run, kind="configuration", name="configuration", stop=self._stop, wake=self._wake
        )

    def start(self) -> None:
        """Subscribe to changes, and start the thread."""
        self._connection.subscribe(
            "subscribe_to_configuration_update",
            model.SubscribeToConfigurationUpdateRequest(key_path=[]),
            lambda _event: self._wake.set(),
            description="SubscribeToConfigurationUpdate",
        )
        self._connection.add_listener(lambda up, _reason: self._wake.set() if up else None)
        self._thread.start()

    def close(self) -> None:
        """Stop; safe to call before `start`."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._clock.wait(self._wake, _POLL_S):
                self._wake.clear()
                while not self._stop.is_set() and self._clock.wait(self._wake, _DEBOUNCE_S):
                    self._wake.clear()
            if self._stop.is_set():
                return
            self.poll()

    def poll(self) -> None:
        """Read the configuration once."""
        try:
            tree = read_configuration(self._connection)
        except IpcError as error:
            _log.warning("the configuration cannot be read now: %s", error)
            return
        if tree == self._known:
            return
        self._known = tree
        self._on_change(tree)
