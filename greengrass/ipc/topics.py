"""Publish/subscribe through the nucleus: topics of this device, and topics of AWS IoT Core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from awsiot.greengrasscoreipc import model

if TYPE_CHECKING:
    from collections.abc import Callable

    from greengrass.ipc.connection import Connection
    from greengrass.ipc.subscriptions import Subscription

SUBSCRIBE_IOT_CORE: Final = "subscribe_to_iot_core"


def publish_local(connection: Connection, topic: str, payload: bytes) -> None:
    """Publish on this device. Raises IpcError."""
    message = model.PublishMessage(binary_message=model.BinaryMessage(message=payload))
    connection.call("publish_to_topic", model.PublishToTopicRequest(topic=topic, publish_message=message))


def subscribe_local(connection: Connection, topic: str, on_payload: Callable[[bytes], None]) -> Subscription:
    """Deliver what is published on `topic` of this device, as bytes; an empty payload for any other kind of message."""

    def on_event(event: Any) -> None:
        message = event.binary_message
        on_payload((None if message is None else message.message) or b"")

    request = model.SubscribeToTopicRequest(topic=topic)
    return connection.subscribe("subscribe_to_topic", request, on_event, description=f"SubscribeToTopic on {topic}")


def subscribe_iot_core(connection: Connection, topic: str, on_message: Callable[[str, bytes], None]) -> Subscription:
    """Deliver (topic, payload) of what arrives from AWS IoT Core on `topic`."""

    def on_event(event: Any) -> None:
        message = event.message
        if message is not None and message.topic_name is not None:
            on_message(message.topic_name, message.payload or b"")

    request = model.SubscribeToIoTCoreRequest(topic_name=topic, qos=model.QOS.AT_LEAST_ONCE)
    description = f"SubscribeToIoTCore on {topic}"
    return connection.subscribe(SUBSCRIBE_IOT_CORE, request, on_event, description=description)
