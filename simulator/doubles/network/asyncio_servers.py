"""Closes servers of asyncio streams without leaving a socket behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_ROUNDS: Final = 10  # of the loop from accept(2) to the callback: 3 in _accept_connection2, and some to spare


async def stop_listening(server: asyncio.Server) -> None:
    """Accept no more connections, let those that were accepted reach the callback, and close `server`.

    `Server.close` alone loses what was accepted and has not reached the callback: nobody closes its socket.
    """
    loop = asyncio.get_running_loop()
    for listening in server.sockets:
        loop.remove_reader(listening.fileno())
    for _ in range(_ROUNDS):
        await asyncio.sleep(0)
    server.close()


async def abort_connections(writers: Iterable[asyncio.StreamWriter]) -> None:
    """End the connections of `writers` at once, with what was not sent yet: close would wait for a silent peer."""
    for writer in tuple(writers):
        writer.transport.abort()
    await asyncio.sleep(0)  # the transports close their sockets in the loop's next round
