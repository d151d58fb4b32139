"""The IPC server: one unix socket, a token for each component, requests and streams of events.

Promise: a connection without the right token is closed without a word, as the nuclei do; what cannot be read ends the
connection, what is refused is answered with the error's class; the answer to a request comes before its first event.
Everything runs on one event loop, where handlers are called; a handler may be a coroutine.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from simulator.doubles.network.asyncio_servers import stop_listening
from simulator.nucleus.ipc.event_stream import (
    MESSAGE_FLAGS,
    MESSAGE_TYPE,
    OPERATION,
    STREAM_ID,
    EventStreamDecoder,
    EventStreamError,
    EventStreamMessage,
    MessageFlags,
    encode_message,
)
from simulator.nucleus.ipc.event_stream import MessageType as Kind
from simulator.nucleus.ipc.ipc_errors import CloseConnectionError, IpcError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from pathlib import Path

    from simulator.nucleus.limits import Limits

NAMESPACE: Final = "aws.greengrass#"
_CHUNK_BYTES: Final = 65_536
_UNREAD_BYTES: Final = 16 * 1024**2  # that a client may leave in its socket before it is cut off
_log = logging.getLogger(__name__)

JsonObject = dict[str, Any]


class IpcStream:
    """The nucleus's end of one request; it stays open for events where the operation has any."""

    def __init__(self, connection: IpcConnection, number: int) -> None:
        """`number` is the client's `:stream-id`."""
        self._connection = connection
        self._number = number
        self._at_close: list[Callable[[], None]] = []
        self.open = True

    def send(self, model: str, content: JsonObject, *, last: bool = False) -> None:
        """Send the answer or an event; nothing happens when the stream is closed."""
        if not self.open:
            return
        flags = MessageFlags.TERMINATE_STREAM if last else MessageFlags.NONE
        self._connection.write(
            EventStreamMessage.of(
                Kind.APPLICATION, stream=self._number, flags=flags, model=NAMESPACE + model, content=content
            )
        )
        if last:
            self.close()

    def send_error(self, refusal: IpcError, *, lite: bool) -> None:
        """Send an error, which ends the stream."""
        if self.open:
            self._connection.write(
                EventStreamMessage.of(
                    Kind.APPLICATION_ERROR,
                    stream=self._number,
                    flags=MessageFlags.TERMINATE_STREAM,
                    model=NAMESPACE + refusal.kind,
                    content=refusal.to_payload(lite=lite),
                )
            )
        self.close()

    def add_close_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the stream ends, whoever ends it."""
        self._at_close.append(callback)

    def close(self) -> None:
        """Forget the stream; safe to call twice."""
        self.open = False
        self._connection.forget_stream(self._number)
        callbacks, self._at_close = self._at_close, []
        for callback in callbacks:
            callback()


@dataclass(frozen=True, slots=True)
class IpcRequest:
    """One request: the component that asks, what it asks, and the stream on which events may follow."""

    component: str
    operation: str  # without the namespace
    content: JsonObject
    stream: IpcStream


@dataclass(frozen=True, slots=True)
class IpcOperation:
    """One operation: what answers it, and whether events follow on its stream."""

    handler: Callable[[IpcRequest], JsonObject | Awaitable[JsonObject]]
    streams: bool = False


class IpcConnection:
    """One client; `component` is None before its token was seen."""

    def __init__(self, server: IpcServer, writer: asyncio.StreamWriter) -> None:
        """Take over the socket of `writer`."""
        self._server = server
        self._writer = writer
        self._streams: dict[int, IpcStream] = {}
        self.component: str | None = None

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Read until the client goes or must go."""
        decoder = EventStreamDecoder(max_frame_bytes=self._server.limits.message_bytes)
        try:
            while data := await reader.read(_CHUNK_BYTES):
                for frame in decoder.feed(data):
                    self._receive(frame)
        except (EventStreamError, CloseConnectionError) as reason:
            self._server.refused_connections += self.component is not None
            _log.info("the connection of %s is closed: %s", self.component or "a stranger", reason)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.close()

    def write(self, frame: EventStreamMessage) -> None:
        """Send a frame, without waiting; a client that does not read is cut off."""
        if self._writer.is_closing():
            return
        self._writer.write(encode_message(frame))
        if self._writer.transport.get_write_buffer_size() > _UNREAD_BYTES:
            self.abort()

    def forget_stream(self, number: int) -> None:
        """Drop stream `number`, which is closed."""
        self._streams.pop(number, None)

    def close(self) -> None:
        """Close every stream and the socket; safe to call twice."""
        for stream in list(self._streams.values()):
            stream.close()
        self._server.forget_connection(self)
        self._writer.close()

    def abort(self) -> None:
        """Close without waiting until the client has read what was sent."""
        self.close()
        self._writer.transport.abort()

    def _receive(self, frame: EventStreamMessage) -> None:
        kind, number = frame.number(MESSAGE_TYPE), frame.number(STREAM_ID)
        if self.component is None:
            self._connect(frame, kind)
        elif kind == Kind.PING:
            self.write(EventStreamMessage({**frame.headers, MESSAGE_TYPE: int(Kind.PING_RESPONSE)}, frame.payload))
        elif kind != Kind.APPLICATION or number == 0:
            raise EventStreamError(f"a message of type {kind} on stream {number} is not expected")
        elif frame.number(MESSAGE_FLAGS) & MessageFlags.TERMINATE_STREAM:
            if stream := self._streams.get(number):
                stream.close()
        else:
            self._request(self.component, number, frame)

    def _connect(self, frame: EventStreamMessage, kind: int) -> None:
        if kind != Kind.CONNECT:
            raise EventStreamError("the first message is no connect")
        asks = frame.json()
        token = asks.get("authToken")
        if token is None and self._server.lite:
            token = self._server.token_by_process(str(asks.get("componentName")), self._peer())
        component = self._server.tokens.get(str(token))
        if component is None:
            raise EventStreamError("the token is not known")
        self.component = component
        ack = EventStreamMessage.of(Kind.CONNECT_ACK, stream=0, flags=MessageFlags.CONNECTION_ACCEPTED)
        self.write(EventStreamMessage({**ack.headers, "svcuid": str(token)}))

    def _peer(self) -> int:
        """Process id of the client."""
        credentials = self._writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid: int = struct.unpack("iII", credentials)[0]
        return pid

    def _request(self, component: str, number: int, frame: EventStreamMessage) -> None:
        if number in self._streams:
            raise EventStreamError(f"stream {number} is open already")
        name = frame.text(OPERATION).removeprefix(NAMESPACE)
        stream = self._streams[number] = IpcStream(self, number)
        self._server.answer(IpcRequest(component, name, frame.json(), stream), close=self.close)


class IpcServer:
    """Serves operations on a unix socket; every method but the constructor belongs to the event loop."""

    def __init__(self, *, path: Path, operations: Mapping[str, IpcOperation], limits: Limits, lite: bool) -> None:
        """`operations` by name without the namespace; all others are refused as the nucleus does."""
        self.path = path
        self.limits = limits
        self.tokens: dict[str, str] = {}  # component by token (SVCUID)
        # Lite also takes a component's name instead of a token, from a process of that component (ipc_server.c).
        self.token_by_process: Callable[[str, int], str | None] = lambda _name, _pid: None
        self.lite = lite
        self.connections: set[IpcConnection] = set()
        self.refused_connections = 0  # connections that ended because of what a component sent
        self._operations = operations
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; a socket that was left behind is replaced."""
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, path=self.path)

    async def stop(self) -> None:
        """Close every connection and the socket."""
        if self._server is not None:
            await stop_listening(self._server)
            self._server = None
        for connection in list(self.connections):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.path.unlink(missing_ok=True)

    def forget_connection(self, connection: IpcConnection) -> None:
        """Drop a closed connection."""
        self.connections.discard(connection)

    def answer(self, request: IpcRequest, *, close: Callable[[], None]) -> None:
        """Answer one request, now or as soon as its handler knows; `close` ends the client's connection."""
        operation = self._operations.get(request.operation)
        try:
            if operation is None:
                raise ServiceError(f"the operation {request.operation} is not implemented")
            result = operation.handler(request)
        except IpcError as refusal:
            request.stream.send_error(refusal, lite=self.lite)
            return
        if inspect.isawaitable(result):
            self._begin(self._answer_later(request, operation, result, close))
        else:
            self._reply(request, operation, result)

    async def _answer_later(
        self, request: IpcRequest, operation: IpcOperation, result: Awaitable[JsonObject], close: Callable[[], None]
    ) -> None:
        try:
            self._reply(request, operation, await result)
        except IpcError as refusal:
            request.stream.send_error(refusal, lite=self.lite)
        except CloseConnectionError:
            self.refused_connections += 1
            close()

    def _reply(self, request: IpcRequest, operation: IpcOperation, content: JsonObject) -> None:
        # Lite never says that a stream is over, classic does so with the only answer there is.
        last = not operation.streams and not self.lite
        request.stream.send(f"{request.operation}Response", content, last=last)
        if not operation.streams:
            request.stream.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = IpcConnection(self, writer)
        if self.limits.clients is not None and len(self.connections) >= self.limits.clients:
            writer.close()
            return
        self.connections.add(connection)  # here, not in the task: one that is cancelled early never runs
        self._begin(self._serve(connection, reader, writer))

    async def _serve(
        self, connection: IpcConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await connection.serve(reader)
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
