"""Local publish and subscribe between the components of one device."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulator.doubles.network.topic_filter import topic_matches
from simulator.nucleus.ipc import access_control, request_fields
from simulator.nucleus.ipc.ipc_errors import InvalidArgumentsError, ServiceError
from simulator.nucleus.ipc.ipc_server import IpcOperation

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.nucleus.ipc.ipc_server import IpcRequest, IpcStream, JsonObject
    from simulator.nucleus.limits import Limits


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    component: str
    filter: str
    stream: IpcStream
    own: bool  # whether the component hears what it says itself


class LocalPubSub:
    """PublishToTopic and SubscribeToTopic."""

    def __init__(self, *, allow: Callable[[IpcRequest, str, str], None], limits: Limits) -> None:
        """`allow` raises when the request may not act on (service, resource)."""
        self._allow = allow
        self._limits = limits
        self._subscriptions: list[_Subscription] = []

    def operations(self) -> dict[str, IpcOperation]:
        """What this module answers."""
        return {
            "PublishToTopic": IpcOperation(self._publish),
            "SubscribeToTopic": IpcOperation(self._subscribe, streams=True),
        }

    def _subscribe(self, request: IpcRequest) -> JsonObject:
        topic = request_fields.read_text(request.content, "topic")
        self._allow(request, access_control.PUBSUB, topic)
        most = self._limits.local_subscriptions
        if most is not None and len(self._subscriptions) >= most:
            raise ServiceError(f"there are {most} subscriptions already")
        own = request.content.get("receiveMode") != "RECEIVE_MESSAGES_FROM_OTHERS"
        subscription = _Subscription(request.component, topic, request.stream, own)
        self._subscriptions.append(subscription)
        request.stream.add_close_callback(lambda: self._subscriptions.remove(subscription))
        return {}

    def _publish(self, request: IpcRequest) -> JsonObject:
        topic = request_fields.read_text(request.content, "topic")
        self._allow(request, access_control.PUBSUB, topic)
        self._deliver(topic, _decode_event(request.content.get("publishMessage"), topic), sender=request.component)
        return {}

    def send(self, topic: str, payload: bytes) -> None:
        """Publish as a part of the nucleus itself."""
        message = {"message": base64.b64encode(payload).decode(), "context": {"topic": topic}}
        self._deliver(topic, {"binaryMessage": message}, sender=None)

    def _deliver(self, topic: str, event: JsonObject, *, sender: str | None) -> None:
        for subscription in list(self._subscriptions):
            if not subscription.own and subscription.component == sender:
                continue
            if topic_matches(subscription.filter, topic):
                subscription.stream.send("SubscriptionResponseMessage", event)


def _decode_event(message: Any, topic: str) -> JsonObject:
    kinds = [kind for kind in ("jsonMessage", "binaryMessage") if isinstance(message, dict) and message.get(kind)]
    if len(kinds) != 1:
        raise InvalidArgumentsError("publishMessage must have either jsonMessage or binaryMessage")
    return {kinds[0]: {"message": message[kinds[0]].get("message"), "context": {"topic": topic}}}
