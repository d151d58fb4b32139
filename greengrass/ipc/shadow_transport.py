"""Transports of the named shadow through the nucleus, for `agent.adapters.device_shadow`.

That adapter uses the shadow's MQTT topics and needs a transport that subscribes, publishes and reports the state of the
connection. There are two. `MqttShadowTransport` sends to the topics of IoT Core through the nucleus (lite, and classic
without the shadow manager). `IpcShadowTransport` converts `get` and `update` into GetThingShadow and UpdateThingShadow,
which work without the cloud, and their responses into messages on the topics; deltas arrive by local
publish/subscribe, where the shadow manager publishes them.

Lite delivers documents of 4,980 B at most and drops larger ones: the adapter then gets no answer and asks again with a
growing pause. About four inspections fit.

Promise: `publish_now` is called from the shadow's own thread and waits for the nucleus's reply, seconds at most; a
message that the nucleus does not accept is lost, and the adapter asks again.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

from awsiot.greengrasscoreipc import model

from agent.errors import MessageError, TransportError
from agent.wire import shadow_topic
from agent.wire.codec import SHADOW_NAME, parse_strict_json
from agent.wire.shadow_documents import MAX_DOCUMENT_BYTES
from greengrass.ipc.errors import IpcError, IpcErrorKind
from greengrass.ipc.topics import subscribe_iot_core

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from greengrass.ipc.connection import Connection
    from greengrass.ipc.rate_limit import PublishRateLimiter

_REPLY_TIMEOUT_S: Final = 5.0
_REJECTED_CODES: Final = {
    IpcErrorKind.NOT_FOUND: 404,
    IpcErrorKind.CONFLICT: 409,
    IpcErrorKind.INVALID: 400,
    IpcErrorKind.UNAUTHORIZED: 403,
}
_OTHER_ERROR_CODE: Final = 500
_log = logging.getLogger(__name__)


class MqttShadowTransport:
    """The shadow's MQTT topics through PublishToIoTCore and SubscribeToIoTCore."""

    def __init__(self, *, connection: Connection, rate_limiter: PublishRateLimiter, stop: Any) -> None:
        """`stop` is an event that ends the wait for the rate limiter."""
        self._connection = connection
        self._rate_limiter = rate_limiter
        self._stop = stop

    def subscribe(self, topic: str, on_message: Callable[[str, bytes], None]) -> None:
        """Deliver what arrives on `topic`."""
        subscribe_iot_core(self._connection, topic, on_message)

    def publish_now(self, topic: str, payloads: Sequence[bytes]) -> None:
        """Publish; a message that the nucleus does not accept is lost."""
        for payload in payloads:
            self._rate_limiter.wait(len(payload), self._stop)
            request = model.PublishToIoTCoreRequest(topic_name=topic, qos=model.QOS.AT_LEAST_ONCE, payload=payload)
            try:
                self._connection.call("publish_to_iot_core", request, timeout_s=_REPLY_TIMEOUT_S)
            except TransportError as error:
                _log.debug("the shadow cannot be reached now: %s", error)

    def add_connection_listener(self, listener: Callable[[bool], None]) -> None:
        """Call `listener(up)` when the connection to the nucleus comes and goes; only answers prove the cloud."""
        self._connection.add_listener(lambda up, _reason: listener(up))


class IpcShadowTransport:
    """The shadow through GetThingShadow and UpdateThingShadow of the shadow manager."""

    def __init__(self, *, connection: Connection, thing: str) -> None:
        """For the shadow `kensa` of `thing`."""
        self._connection = connection
        self._thing = thing
        self._handlers: dict[str, Callable[[str, bytes], None]] = {}
        self._delta = shadow_topic(thing, "update/delta")

    def subscribe(self, topic: str, on_message: Callable[[str, bytes], None]) -> None:
        """Deliver what arrives on `topic`: the delta is pushed, the others answer operations."""
        self._handlers[topic] = on_message
        if topic != self._delta:
            return

        def on_event(event: Any) -> None:
            if event.binary_message is not None:
                on_message(topic, event.binary_message.message or b"")
            elif event.json_message is not None:
                on_message(topic, json.dumps(event.json_message.message).encode())

        request = model.SubscribeToTopicRequest(topic=topic)
        self._connection.subscribe("subscribe_to_topic", request, on_event, description=f"SubscribeToTopic on {topic}")

    def publish_now(self, topic: str, payloads: Sequence[bytes]) -> None:
        """Call the operation of `topic`, and deliver the responses."""
        for payload in payloads:
            self._request(topic, payload)

    def add_connection_listener(self, listener: Callable[[bool], None]) -> None:
        """Call `listener(up)` when the connection to the nucleus comes and goes."""
        self._connection.add_listener(lambda up, _reason: listener(up))

    def _request(self, topic: str, payload: bytes) -> None:
        token = parse_strict_json(payload, limit=MAX_DOCUMENT_BYTES).get("clientToken")
        try:
            answer = self._call(topic, payload)
        except IpcError as error:
            if error.kind in {IpcErrorKind.CLOSED, IpcErrorKind.TIMEOUT}:
                return  # no answer, as when the broker is unreachable
            refused = {
                "code": _REJECTED_CODES.get(error.kind, _OTHER_ERROR_CODE),
                "message": str(error),
                "clientToken": token,
            }
            self._deliver(f"{topic}/rejected", json.dumps(refused).encode())
            return
        try:
            document = parse_strict_json(answer, limit=MAX_DOCUMENT_BYTES)
        except MessageError as error:
            _log.warning("the shadow manager's answer cannot be read: %s", error)
            return
        self._deliver(f"{topic}/accepted", json.dumps({**document, "clientToken": token}).encode())

    def _call(self, topic: str, payload: bytes) -> bytes:
        """Raises IpcError."""
        if topic == shadow_topic(self._thing, "get"):
            request = model.GetThingShadowRequest(thing_name=self._thing, shadow_name=SHADOW_NAME)
            response = self._connection.call("get_thing_shadow", request, timeout_s=_REPLY_TIMEOUT_S)
        else:
            request = model.UpdateThingShadowRequest(thing_name=self._thing, shadow_name=SHADOW_NAME, payload=payload)
            response = self._connection.call("update_thing_shadow", request, timeout_s=_REPLY_TIMEOUT_S)
        found: bytes = response.payload or b""
        return found

    def _deliver(self, topic: str, payload: bytes) -> None:
        if (handler := self._handlers.get(topic)) is not None:
            handler(topic, payload)
