"""The nucleus's bridge to IoT Core: one MQTT connection for the device.

It reproduces what each nucleus does when the connection is lost.

Lite hands a publish straight to the connection and forgets it: 10 unanswered at most, nothing is kept while the broker
is away, and what was on the way when the connection broke is lost although its publisher was told that all is well (its
sessions are clean and new ones, iotcored/src/mqtt.c). Classic keeps a spool in memory, and success means "spooled".

Everything here runs on the event loop; paho's threads only call into it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from simulator.doubles.network.topic_filter import topic_matches
from simulator.nucleus.ipc import access_control, request_fields
from simulator.nucleus.ipc.ipc_errors import CloseConnectionError, ServiceError
from simulator.nucleus.ipc.ipc_server import IpcOperation

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.nucleus.ipc.ipc_server import IpcRequest, JsonObject
    from simulator.nucleus.limits import Limits

_KEEPALIVE_S: Final = 30
_ANSWER_S: Final = 10.0
_PACKET_BYTES: Final = 9  # of a PUBLISH beside topic and payload: type, length, the topic's length, number
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Message:
    topic: str
    payload: bytes
    qos: int

    @property
    def packet_bytes(self) -> int:
        return _PACKET_BYTES + len(self.topic.encode()) + len(self.payload)


@dataclass(slots=True)
class _InFlight:
    message: _Message
    sent_s: float
    answered: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    filter: str
    qos: int
    deliver: Callable[[str, bytes], None]


class IotCoreBridge:
    """PublishToIoTCore and SubscribeToIoTCore over one connection, which is made again whenever it breaks."""

    def __init__(
        self,
        *,
        broker: tuple[str, int],
        thing: str,
        allow: Callable[[IpcRequest, str, str], None],
        limits: Limits,
        lite: bool,
        reconnect_s: tuple[float, float],
    ) -> None:
        """Not connected yet.

        Args:
            broker: Host and port.
            thing: Client id of the connection.
            allow: Raises for a request that the component's accessControl does not permit.
            limits: Of the nucleus.
            lite: Whether the nucleus is lite, not classic.
            reconnect_s: First and longest wait between attempts.

        """
        self._broker, self._thing, self._allow, self._limits = broker, thing, allow, limits
        self._lite = lite
        self._reconnect_s = reconnect_s
        self._random = random.Random()  # of its own: other threads may replay the module's
        self._client: paho.Client | None = None  # while the connection stands
        self._disconnected = asyncio.Event()
        self._in_flight: dict[int, _InFlight] = {}
        self._spool: deque[_Message] = deque()
        self._spooled_bytes = 0
        self._subscriptions: list[_Subscription] = []
        self._answers: dict[int, asyncio.Future[None]] = {}  # SUBACKs that somebody waits for
        self._at_connection: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None
        self.lost = 0  # publishes that were answered with success and never reached the broker, as far as is known
        self.published = 0  # that the broker acknowledged

    def operations(self) -> dict[str, IpcOperation]:
        """What this module answers."""
        return {
            "PublishToIoTCore": IpcOperation(self._publish_operation),
            "SubscribeToIoTCore": IpcOperation(self._subscribe_operation, streams=True),
        }

    @property
    def online(self) -> bool:
        """Whether the connection stands."""
        return self._client is not None

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.get_running_loop().create_task(self._stay_connected(), name="iot-core")

    async def stop(self) -> None:
        """Leave the broker; what was not published is lost."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def forget_subscriptions(self) -> None:
        """Deliver nothing more to whoever subscribed so far; its stream stays open: lite's iotcored has restarted."""
        self._subscriptions.clear()

    # --- for the nucleus's own parts (classic) ------------------------------------------------------------------------

    def add_subscription(self, topics: str, deliver: Callable[[str, bytes], None]) -> None:
        """Subscribe with every connection from the next one on."""
        self._subscriptions.append(_Subscription(topics, 1, deliver))

    def add_connect_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each connection, subscriptions made."""
        self._at_connection.append(callback)

    def send(self, topic: str, payload: bytes) -> None:
        """Publish with QoS 1, through the spool."""
        self._store(_Message(topic, payload, 1))

    # --- operations ---------------------------------------------------------------------------------------------------

    def _publish_operation(self, request: IpcRequest) -> JsonObject:
        topic = request_fields.read_text(request.content, "topicName")
        message = _Message(
            topic, request_fields.read_blob(request.content, "payload"), request_fields.read_qos(request.content)
        )
        self._allow(request, access_control.MQTT, topic)
        if len(message.payload) > self._limits.outgoing_bytes:
            text = f"a payload of {len(message.payload)} bytes is more than {self._limits.outgoing_bytes}"
            raise CloseConnectionError(text) if self._lite else ServiceError(text)
        if self._lite:
            self._publish_now(message)
        else:
            self._store(message)
        return {}

    async def _subscribe_operation(self, request: IpcRequest) -> JsonObject:
        topic = request_fields.read_text(request.content, "topicName")
        self._allow(request, access_control.MQTT, topic)

        def deliver(name: str, payload: bytes) -> None:
            event = {"topicName": name, "payload": base64.b64encode(payload).decode()}
            request.stream.send("IoTCoreMessage", {"message": event})

        subscription = _Subscription(topic, request_fields.read_qos(request.content), deliver)
        if self._client is not None:
            await self._subscribe(self._client, subscription)
        elif self._lite:
            raise ServiceError("there is no connection to IoT Core")
        if request.stream.open:  # else its client went while the broker was asked
            self._subscriptions.append(subscription)
            request.stream.add_close_callback(lambda: self._unsubscribe(subscription))
        return {}

    async def _subscribe(self, client: paho.Client, subscription: _Subscription) -> None:
        code, number = client.subscribe(subscription.filter, subscription.qos)
        if code != paho.MQTT_ERR_SUCCESS or number is None:
            raise ServiceError(f"subscribing to {subscription.filter} failed: {paho.error_string(code)}")
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_ANSWER_S):  # not wait_for, which may forget that it was cancelled (Python 3.11)
                await answer
        except TimeoutError as error:
            raise ServiceError(f"the broker does not answer a subscription to {subscription.filter}") from error
        finally:
            self._answers.pop(number, None)

    def _unsubscribe(self, subscription: _Subscription) -> None:
        if subscription not in self._subscriptions:
            return  # see `forget_subscriptions`
        self._subscriptions.remove(subscription)
        if self._client is not None and all(other.filter != subscription.filter for other in self._subscriptions):
            self._client.unsubscribe(subscription.filter)

    # --- publishing ---------------------------------------------------------------------------------------------------

    def _publish_now(self, message: _Message) -> None:
        if self._client is None:
            raise ServiceError("there is no connection to IoT Core")
        if message.qos > 0 and not self._has_room(message):
            raise ServiceError("too many publishes wait for the broker's answer")
        self._send(self._client, message)

    def _has_room(self, message: _Message) -> bool:
        if len(self._in_flight) >= self._limits.in_flight:
            return False
        most = self._limits.in_flight_bytes
        waiting = sum(flight.message.packet_bytes for flight in self._in_flight.values())
        return most is None or waiting + message.packet_bytes <= most

    def _send(self, client: paho.Client, message: _Message) -> None:
        if "+" in message.topic or "#" in message.topic:
            _log.info("the broker ends the connection: %r is no topic to publish to", message.topic)
            self._disconnected.set()
            return
        number = client.publish(message.topic, message.payload, message.qos).mid
        if message.qos > 0:
            self._in_flight[number] = _InFlight(message, asyncio.get_running_loop().time())

    def _on_puback(self, number: int) -> None:
        flight = self._in_flight.get(number)
        if flight is None or flight.answered:
            return
        flight.answered = True
        self.published += 1
        loop = asyncio.get_running_loop()
        wait_s = flight.sent_s + self._limits.min_in_flight_s - loop.time()
        if wait_s > 0:
            loop.call_later(wait_s, self._free, number, flight)
        else:
            self._free(number, flight)

    def _free(self, number: int, flight: _InFlight) -> None:
        if self._in_flight.get(number) is flight:
            del self._in_flight[number]
            self._pump()

    def _store(self, message: _Message) -> None:
        if message.qos == 0 and self._client is None:
            raise ServiceError("Device is offline. Dropping QoS 0 message.")
        self._spool.append(message)
        self._spooled_bytes += len(message.payload)
        while self._spooled_bytes > self._limits.spool_bytes:
            self._spooled_bytes -= len(self._spool.popleft().payload)
            self.lost += 1
        self._pump()

    def _pump(self) -> None:
        while self._spool and self._client is not None and len(self._in_flight) < self._limits.in_flight:
            message = self._spool.popleft()
            self._spooled_bytes -= len(message.payload)
            self._send(self._client, message)

    # --- the connection -----------------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        wait_s, longest_s = self._reconnect_s
        while True:
            if await self._connected_once():
                wait_s = self._reconnect_s[0]
            await asyncio.sleep(wait_s * self._random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, longest_s)

    async def _connected_once(self) -> bool:
        """Connect and stay until the connection breaks; return whether there was one."""
        loop = asyncio.get_running_loop()
        self._disconnected.clear()
        up = asyncio.Event()
        client = self._new_client(loop, up)
        connecting = loop.create_task(asyncio.to_thread(client.connect, *self._broker, _KEEPALIVE_S))
        try:
            try:
                await asyncio.shield(connecting)
            except OSError:
                return False
            client.loop_start()
            waits = {loop.create_task(up.wait()), loop.create_task(self._disconnected.wait())}
            await asyncio.wait(waits, timeout=_ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if not up.is_set() or self._disconnected.is_set():
                return False
            await self._serve(client)
            return True
        finally:
            self._client = None
            self._drop_in_flight()
            await asyncio.wait((connecting,))  # its thread cannot be stopped: what it opens late is closed here
            client.disconnect()
            client.loop_stop()

    async def _serve(self, client: paho.Client) -> None:
        for subscription in list(self._subscriptions):
            with contextlib.suppress(ServiceError):
                await self._subscribe(client, subscription)
        self._client = client
        self._pump()
        for callback in self._at_connection:
            callback()
        await self._disconnected.wait()

    def _new_client(self, loop: asyncio.AbstractEventLoop, up: asyncio.Event) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=self._thing, reconnect_on_failure=False)
        client.connect_timeout = _ANSWER_S

        def call(function: Callable[..., None], *arguments: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the nucleus stopped meanwhile
                loop.call_soon_threadsafe(function, *arguments)

        client.on_connect = lambda _c, _u, _f, reason, _p: None if reason.is_failure else call(up.set)
        client.on_disconnect = lambda *_: call(self._disconnected.set)
        client.on_publish = lambda _c, _u, number, _r, _p: call(self._on_puback, number)
        client.on_subscribe = lambda _c, _u, number, _r, _p: call(self._subscribed, number)
        client.on_message = lambda _c, _u, message: call(self._received, message.topic, bytes(message.payload))
        return client

    def _drop_in_flight(self) -> None:
        waiting = [flight.message for flight in self._in_flight.values() if not flight.answered]
        self._in_flight.clear()
        if self._lite:
            self.lost += len(waiting)
        else:
            self._spool.extendleft(reversed(waiting))
            self._spooled_bytes += sum(len(message.payload) for message in waiting)

    def _subscribed(self, number: int) -> None:
        answer = self._answers.get(number)
        if answer is not None and not answer.done():
            answer.set_result(None)

    def _received(self, topic: str, payload: bytes) -> None:
        limits = self._limits
        packet = _Message(topic, payload, 1).packet_bytes
        if limits.incoming_packet_bytes is not None and packet > limits.incoming_packet_bytes:
            return
        if limits.incoming_bytes is not None and len(payload) > limits.incoming_bytes:
            return
        for subscription in list(self._subscriptions):
            if topic_matches(subscription.filter, topic):
                subscription.deliver(topic, payload)
