"""A TCP proxy on the loopback with a factory network's faults.

Connections are late, cut, silent, reset, or slow to close.

    with Proxy(port=broker.port) as proxy:
        connect_to(proxy.host, proxy.port)
        proxy.latency_s = 0.1      # what is read arrives so much later, in both directions
        proxy.silence()            # black hole: connections stay open and nothing passes, on new ones neither
        proxy.restore()            # a good network again
        proxy.cut()                # every connection is closed, new ones at once, until restore()
        proxy.reset()              # every connection ends with RST, what was on the way is lost; new ones work
        proxy.slow_close(1.0)      # nothing passes, and every connection is closed so many seconds later

One thread runs all connections on an event loop; the methods may be called from any other thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Final, Self

from simulator.doubles.network.asyncio_servers import abort_connections, stop_listening

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

HOST: Final = "127.0.0.1"
_CHUNK_BYTES: Final = 65_536
_WAIT_S: Final = 10.0
_RST_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s


class TcpProxy:
    """Forwards to `port` on the loopback; see the module for what it can do to the traffic."""

    host: Final = HOST

    def __init__(self, *, port: int) -> None:
        """Prepare; `port` is the target's."""
        self.port = 0
        self.latency_s = 0.0
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()
        self._refusing = False

    def __enter__(self) -> Self:
        """Listen on a free port."""
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        """Close every connection and end the thread."""
        self._run(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_WAIT_S)
        self._loop.close()

    def silence(self) -> None:
        """Let nothing pass from now on, and close nothing."""
        self._now(self._passing.clear)

    def cut(self) -> None:
        """Close every connection, and every new one at once."""
        self._refusing = True
        self._now(self._close_all)

    def reset(self) -> None:
        """End every connection with RST; what was on the way is lost."""
        self._now(self._reset_all)

    def slow_close(self, delay_s: float) -> None:
        """Let nothing pass, and close every connection `delay_s` seconds later; then pass again."""
        self.silence()
        self._now(lambda: self._loop.call_later(delay_s, self._close_and_pass))

    def restore(self) -> None:
        """Behave like a good network again, for old connections and new ones."""
        self._refusing = False
        self._now(self._passing.set)

    # --- on the loop's thread ---

    def _run(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_WAIT_S)

    def _now(self, action: Callable[[], object]) -> None:
        async def run() -> None:
            """Carry `action` to the loop's thread."""
            action()

        self._run(run())

    async def _listen(self) -> None:
        self._passing.set()
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        self._refusing = True
        if self._server is not None:
            await stop_listening(self._server)
        writers = set(self._writers)  # a pump forgets its own when it ends
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await abort_connections(writers | self._writers)

    def _close_all(self) -> None:
        for writer in self._writers:
            writer.close()

    def _reset_all(self) -> None:
        for writer in self._writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            writer.transport.abort()

    def _close_and_pass(self) -> None:
        self._close_all()
        self._passing.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.close()
            return
        self._writers.add(writer)  # here, not in the task: one that is cancelled early never runs
        self._begin(self._connect(reader, writer))

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            target_reader, target_writer = await asyncio.open_connection(HOST, self._target)
        except OSError:
            self._writers.discard(writer)
            writer.close()
            return
        self._writers.add(target_writer)
        self._begin(self._pump(reader, target_writer))
        self._begin(self._pump(target_reader, writer))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one direction until its end, then end the other side of it."""
        try:
            with contextlib.suppress(OSError):
                while chunk := await reader.read(_CHUNK_BYTES):
                    await asyncio.sleep(self.latency_s)
                    await self._passing.wait()
                    writer.write(chunk)
                    await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.close()
