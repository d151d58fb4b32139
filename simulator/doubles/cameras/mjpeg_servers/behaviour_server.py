"""A server on loopback for one row of the table."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from simulator.doubles.cameras.mjpeg_servers.mjpeg_responses import USER, ServerBehaviour

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Sequence


@contextmanager
def serve_behaviour(
    behaviour: ServerBehaviour,
    pictures: Sequence[bytes],
    *,
    piece_bytes: int = 1 << 16,
    tls: ssl.SSLContext | None = None,
) -> Iterator[str]:
    """Serve `behaviour` on a free port of 127.0.0.1, in pieces of `piece_bytes`; give the address to open."""
    sent = [behaviour.transform(jpeg) for jpeg in pictures]
    listener = socket.create_server(("127.0.0.1", 0))

    def talk(connection: socket.socket) -> None:
        with suppress(OSError), connection:  # the client hung up
            request = b""
            while b"\r\n\r\n" not in request and (received := connection.recv(4_096)):
                request += received
            if not request:  # a client that did not like the certificate
                return
            answer = behaviour.answer(request, sent)
            for at in range(0, len(answer), piece_bytes):
                connection.sendall(answer[at : at + piece_bytes])
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4_096):  # closing at once could cut off what the client has not read
                pass

    def accept() -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                connection, _ = listener.accept()
                with suppress(OSError):  # a client that does not trust the certificate
                    secured = connection if tls is None else tls.wrap_socket(connection, server_side=True)
                    threading.Thread(target=talk, args=(secured,), name="client", daemon=True).start()

    server = threading.Thread(target=accept, name="MJPEG server", daemon=True)
    server.start()
    user = {"": "", USER: f"{USER}:s3cret%2Fwith%40signs@"}.get(behaviour.user, "op:wrong@")
    try:
        yield f"{'http' if tls is None else 'https'}://{user}127.0.0.1:{listener.getsockname()[1]}/stream?q=1"
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # which ends `accept`; closing alone does not
        listener.close()
        server.join(5.0)
