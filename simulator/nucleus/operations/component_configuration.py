"""The IPC operations on configuration, each nucleus with its quirks.

GetConfiguration, UpdateConfiguration and SubscribeToConfigurationUpdate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simulator.nucleus.ipc import request_fields
from simulator.nucleus.ipc.ipc_errors import FailedUpdateConditionCheckError, InvalidArgumentsError
from simulator.nucleus.ipc.ipc_server import IpcOperation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.nucleus.config_store import ConfigChange, ConfigStore
    from simulator.nucleus.ipc.ipc_server import IpcRequest, IpcStream, JsonObject

ACCESS: Final = "accessControl"


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    component: str
    path: tuple[str, ...]
    stream: IpcStream


class ConfigurationService:
    """What components may do with configuration, their own and that of others (reading only)."""

    def __init__(self, *, settings: ConfigStore, lite: bool) -> None:
        """Serve `settings`."""
        self._store = settings
        self._lite = lite
        self._subscriptions: list[_Subscription] = []

    def operations(self) -> dict[str, IpcOperation]:
        """What this module answers."""
        return {
            "GetConfiguration": IpcOperation(self._get),
            "UpdateConfiguration": IpcOperation(self._update),
            "SubscribeToConfigurationUpdate": IpcOperation(self._subscribe, streams=True),
        }

    def notify(self, changes: Sequence[ConfigChange]) -> None:
        """Send one event for each changed leaf to those who subscribed to it or to something above it."""
        for change in changes:
            event = {"configurationUpdateEvent": {"componentName": change.component, "keyPath": list(change.path)}}
            for subscription in list(self._subscriptions):
                above = change.path[: len(subscription.path)] == subscription.path
                if above and subscription.component == change.component:
                    subscription.stream.send("ConfigurationUpdateEvents", event)

    def _get(self, request: IpcRequest) -> JsonObject:
        component = request.content.get("componentName") or request.component
        path = request_fields.read_key_path(request.content)
        value = self._store.get(component, path)
        if not isinstance(value, dict):  # only a path leads to something else than a map
            value = {path[-1]: value}
        return {"componentName": component, "value": value}

    def _subscribe(self, request: IpcRequest) -> JsonObject:
        component = request.content.get("componentName") or request.component
        path = request_fields.read_key_path(request.content)
        subscription = _Subscription(component, path, request.stream)
        self._subscriptions.append(subscription)
        request.stream.add_close_callback(lambda: self._subscriptions.remove(subscription))
        return {}

    def _update(self, request: IpcRequest) -> JsonObject:
        path = request_fields.read_key_path(request.content)
        value, seconds = request.content.get("valueToMerge"), request.content.get("timestamp")
        if value is None or not isinstance(seconds, float):
            raise InvalidArgumentsError("valueToMerge and timestamp are needed, the latter in seconds")
        if path[:1] == (ACCESS,) or (not path and isinstance(value, dict) and ACCESS in value):
            raise InvalidArgumentsError(f"Config update is not allowed for following field [{ACCESS}]")
        at_ms = int(seconds * 1000)
        if not self._lite:
            if not isinstance(value, dict):
                raise InvalidArgumentsError("valueToMerge must be a map")
            if at_ms < self._store.newest_ms(request.component, path):
                raise FailedUpdateConditionCheckError(
                    "Proposed timestamp is older than the config's latest modified timestamp"
                )
        self._store.check(value, depth=len(path))
        self.notify(self._store.merge(request.component, path, value, at_ms=at_ms))
        return {}
