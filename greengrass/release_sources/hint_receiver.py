"""Receives release hints on this device, and publishes the inspection's status to their senders.

Thread `ipc-events`, except `start`, `report` and `close`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from agent.errors import MessageError
from agent.release_records import DesiredRelease
from greengrass.ipc.errors import IpcError
from greengrass.ipc.topics import publish_local, subscribe_local
from greengrass.release_sources.release_hints import ReleaseStatus, hint_topic, parse_hint, status_topic

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from agent.release_records import ModelStatus
    from greengrass.ipc.connection import Connection
    from greengrass.release_sources.fallback_fetcher import FallbackFetcher

SOURCE: Final = "component"  # of a release that a hint requests
_log = logging.getLogger(__name__)


class HintReceiver:
    """A `ports.DesiredState` of the hints that components on this device publish."""

    def __init__(
        self, *, connection: Connection, inspections: Collection[str], fetcher: FallbackFetcher | None
    ) -> None:
        """`fetcher` learns the folder of each release."""
        self._connection = connection
        self._inspections = tuple(inspections)
        self._fetcher = fetcher
        self._on_desired: Callable[[str, DesiredRelease], None] | None = None
        self._statuses: dict[str, ModelStatus] = {}
        self._waiting: set[str] = set()  # inspections whose status a component waits for

    def start(self, *, on_desired: Callable[[str, DesiredRelease], None]) -> None:
        """See `ports.DesiredState`."""
        self._on_desired = on_desired
        for inspection in self._inspections:
            subscribe_local(self._connection, hint_topic(inspection), self._hint_handler(inspection))

    def report(self, status: ModelStatus) -> None:
        """See `ports.DesiredState`."""
        self._statuses[status.inspection] = status
        if status.inspection in self._waiting:
            self._connection.call_soon(self._publish_status, status)

    def close(self) -> None:
        """See `ports.DesiredState`: the subscriptions end with the connection."""
        self._on_desired = None

    def _hint_handler(self, inspection: str) -> Callable[[bytes], None]:
        def on_hint(payload: bytes) -> None:
            """Thread ipc-events."""
            try:
                hint = parse_hint(payload)
            except MessageError as error:
                self._connection.supervisor.losses.count("hints")
                _log.warning("a release hint on %s is ignored: %s", hint_topic(inspection), error)
                return
            self._waiting.add(inspection)
            if self._fetcher is not None:
                self._fetcher.add_hint(hint)
            if self._on_desired is not None:
                self._on_desired(inspection, DesiredRelease(hint.release_id, source=SOURCE))
            if (status := self._statuses.get(inspection)) is not None:
                self._publish_status(status)

        return on_hint

    def _publish_status(self, status: ModelStatus) -> None:
        payload = ReleaseStatus.from_model_status(status).encode()
        try:
            publish_local(self._connection, status_topic(status.inspection), payload)
        except IpcError as error:
            _log.warning("the status cannot be sent to the model component: %s", error)
