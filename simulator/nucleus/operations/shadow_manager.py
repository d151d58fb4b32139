"""Classic's shadow manager: named shadows kept on the device and synchronised with the cloud.

A component's update counts at once, is told on the local bus under the shadow's own topics, and goes to the cloud when
there is a connection. What the cloud wants (`desired`) replaces what the device has of it; what the device reports
stays its own. Only the names in `synced` are kept in step, as in the configuration of aws.greengrass.ShadowManager.
"""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any, Final

from simulator.doubles.servers.shadow_service import ShadowStore
from simulator.nucleus.ipc import access_control, request_fields
from simulator.nucleus.ipc.ipc_errors import (
    ConflictError,
    InvalidArgumentsError,
    IpcError,
    ResourceNotFoundError,
    ServiceError,
)
from simulator.nucleus.ipc.ipc_server import IpcOperation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simulator.doubles.servers.shadow_service import ShadowMessage
    from simulator.nucleus.ipc.ipc_server import IpcRequest, JsonObject
    from simulator.nucleus.operations.iot_core_bridge import IotCoreBridge
    from simulator.nucleus.operations.local_pubsub import LocalPubSub

_ERRORS: Final[dict[int, type[IpcError]]] = {
    400: InvalidArgumentsError,
    404: ResourceNotFoundError,
    409: ConflictError,
    413: InvalidArgumentsError,
    415: InvalidArgumentsError,
}


class ShadowManager:
    """GetThingShadow, UpdateThingShadow, DeleteThingShadow and ListNamedShadowsForThing."""

    def __init__(
        self,
        *,
        thing: str,
        allow: Callable[[IpcRequest, str, str], None],
        bus: LocalPubSub,
        bridge: IotCoreBridge,
        synced: Sequence[str],
    ) -> None:
        """`synced` are the names of the thing's shadows that the cloud has, too."""
        self._thing, self._allow, self._bus, self._bridge = thing, allow, bus, bridge
        self._store = ShadowStore()
        self._names: set[str] = set()
        self._synced = tuple(synced)
        bridge.add_connect_callback(self._synchronise)
        for name in self._synced:
            bridge.add_subscription(f"{_topic(thing, name)}/get/accepted", self._on_cloud_get)
            bridge.add_subscription(f"{_topic(thing, name)}/update/documents", self._on_cloud_update)

    def operations(self) -> dict[str, IpcOperation]:
        """What this module answers."""
        return {
            "GetThingShadow": IpcOperation(lambda request: self._handle(request, "get")),
            "UpdateThingShadow": IpcOperation(lambda request: self._handle(request, "update")),
            "DeleteThingShadow": IpcOperation(lambda request: self._handle(request, "delete")),
            "ListNamedShadowsForThing": IpcOperation(self._list),
        }

    def _handle(self, request: IpcRequest, what: str) -> JsonObject:
        thing = request_fields.read_text(request.content, "thingName")
        name = str(request.content.get("shadowName") or "")
        self._allow(request, access_control.SHADOW, _topic(thing, name))
        payload = request_fields.read_blob(request.content, "payload")
        answers = self._store.handle(thing, name, what, payload)
        first = answers[0]
        if first.suffix.endswith("/rejected"):
            text = f"{first.content['code']} {first.content['message']}"
            self._publish_messages(thing, name, answers)
            raise _ERRORS.get(first.content["code"], ServiceError)(text)
        if what == "update":
            self._names.add(name)
        if what != "get":
            self._publish_messages(thing, name, answers)
        if what == "update" and name in self._synced and thing == self._thing and self._bridge.online:
            state = json.loads(payload)["state"]
            self._bridge.send(f"{_topic(thing, name)}/update", json.dumps({"state": state}).encode())
        return {"payload": base64.b64encode(json.dumps(first.content).encode()).decode()}

    def _list(self, request: IpcRequest) -> JsonObject:
        thing = request_fields.read_text(request.content, "thingName")
        self._allow(request, access_control.SHADOW, thing)
        return {"results": sorted(self._names - {""}), "timestamp": time.time()}

    def _publish_messages(self, thing: str, name: str, answers: Sequence[ShadowMessage]) -> None:
        for answer in answers:
            self._bus.send(f"{_topic(thing, name)}/{answer.suffix}", json.dumps(answer.content).encode())

    # --- the cloud ----------------------------------------------------------------------------------------------------

    def _synchronise(self) -> None:
        """After each connection: bring what was reported meanwhile, and ask what is wanted."""
        for name in self._synced:
            topic = _topic(self._thing, name)
            if reported := self._store.state(self._thing, name).get("reported"):
                self._bridge.send(f"{topic}/update", json.dumps({"state": {"reported": reported}}).encode())
            self._bridge.send(f"{topic}/get", b"{}")

    def _on_cloud_get(self, topic: str, payload: bytes) -> None:
        self._apply_desired(topic, json.loads(payload)["state"])

    def _on_cloud_update(self, topic: str, payload: bytes) -> None:
        self._apply_desired(topic, json.loads(payload)["current"]["state"])

    def _apply_desired(self, topic: str, state: Any) -> None:
        name = topic.split("/")[5]
        wanted, had = state.get("desired", {}), self._store.state(self._thing, name).get("desired", {})
        changes = _difference(had, wanted)
        if changes:
            self._names.add(name)
            request = json.dumps({"state": {"desired": changes}}).encode()
            self._publish_messages(self._thing, name, self._store.handle(self._thing, name, "update", request))


def _topic(thing: str, name: str) -> str:
    return f"$aws/things/{thing}/shadow" + (f"/name/{name}" if name else "")


def _difference(old: Any, new: Any) -> dict[str, Any]:
    """Return the update that makes `old` become `new`: null removes."""
    changes: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if below := _difference(before, value):
                changes[key] = below
        elif value != before:
            changes[key] = value
    return changes
