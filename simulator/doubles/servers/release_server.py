"""A web server over a repository folder on the loopback, with the faults of networks and attackers.

    with ReleaseServer(folder) as server:
        fetch_from(server.url)                               # the folder is read anew for every request
        server.slow("*/files/*", bytes_per_s=500)            # patterns match the path, as in a shell
        server.endless("*timestamp.json")                    # the file, and then bytes for ever
        server.truncated("*/files/*", after=10_000, times=1) # the connection ends early, once
        server.failing("*timestamp.json", status=500, times=2)
        server.silent("*timestamp.json")                     # accepts the request and says nothing
        server.substitute("/metadata/timestamp.json", data)  # old, mixed or forged bytes
        server.ranges = False                                # ignores Range, as simple servers do
        server.mend()                                        # an honest server again
        server.requests                                      # what was asked for, and how much was sent

The first switch that matches a request counts. One thread per connection; the switches may be set from any thread.
"""

from __future__ import annotations

import contextlib
import re
import threading
from dataclasses import dataclass
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

HOST: Final = "127.0.0.1"
_CHUNK_BYTES: Final = 16 * 1024
_STEPS_PER_S: Final = 20  # of a slow answer
_MAX_ENDLESS_BYTES: Final = 1024**3  # nobody takes so much; a bound for a client that is broken
_WAIT_S: Final = 5.0
_POLL_S: Final = 0.05  # how soon it sees that it shall end


@dataclass(slots=True)
class ResponseFault:
    """One way to misbehave."""

    pattern: str
    kind: Literal["slow", "endless", "truncated", "failing", "silent", "unanswered"]
    amount: float = 0.0  # bytes/s, bytes or an HTTP status
    times: int | None = None  # None: until `clear_faults`
    skip: int = 0  # so many requests pass before


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """One answered request."""

    path: str
    start: int  # of the range that was asked for
    sent: int  # bytes of the body


class ReleaseServer:
    """See the module."""

    def __init__(self, folder: Path) -> None:
        """Serve `folder`, which may change at any time."""
        self.folder = folder
        self.ranges = True
        self.requests: list[ServedRequest] = []
        self._faults: list[ResponseFault] = []
        self._substitutes: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self._server = _Server((HOST, 0), self._handler(), bind_and_activate=False)
        self._server.owner = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="release-server", daemon=True
        )

    def _handler(self) -> type[ReleaseRequestHandler]:
        return ReleaseRequestHandler

    def __enter__(self) -> Self:
        """Listen on a free port."""
        self._server.server_bind()
        self._server.server_activate()
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End, and let slow answers go."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_WAIT_S)

    @property
    def url(self) -> str:
        """http://127.0.0.1:PORT."""
        return f"http://{HOST}:{self._server.server_address[1]}"

    def slow(self, pattern: str, *, bytes_per_s: float) -> None:
        """Send so slowly."""
        self.add_fault(ResponseFault(pattern, "slow", bytes_per_s))

    def endless(self, pattern: str) -> None:
        """Send more and more after the file's end."""
        self.add_fault(ResponseFault(pattern, "endless"))

    def truncated(self, pattern: str, *, after: int, times: int | None = None, skip: int = 0) -> None:
        """Close the connection after so many bytes, although more were announced; the first `skip` requests pass."""
        self.add_fault(ResponseFault(pattern, "truncated", after, times, skip))

    def failing(self, pattern: str, *, status: int, times: int | None = None) -> None:
        """Answer with an error."""
        self.add_fault(ResponseFault(pattern, "failing", status, times))

    def silent(self, pattern: str) -> None:
        """Take the request and never answer."""
        self.add_fault(ResponseFault(pattern, "silent"))

    def substitute(self, path: str, data: bytes) -> None:
        """Answer with these bytes, whatever the folder holds."""
        self._substitutes[path] = data

    def clear_faults(self) -> None:
        """Be honest and quick."""
        with self._lock:
            self._faults.clear()
        self._substitutes.clear()
        self.ranges = True

    def sent(self, pattern: str) -> int:
        """How many bytes of bodies went out for paths that match."""
        with self._lock:
            return sum(request.sent for request in self.requests if fnmatch(request.path, pattern))

    def add_fault(self, switch: ResponseFault) -> None:
        """Misbehave so; behind those that were added before."""
        with self._lock:
            self._faults.append(switch)

    def take_fault(self, path: str) -> ResponseFault | None:
        """What to do with this request; uses up one of its times."""
        with self._lock:
            for switch in self._faults:
                if fnmatch(path, switch.pattern) and switch.times != 0:
                    if switch.skip:
                        switch.skip -= 1
                        continue
                    if switch.times is not None:
                        switch.times -= 1
                    return switch
        return None

    def record_request(self, request: ServedRequest) -> None:
        """Remember an answer."""
        with self._lock:
            self.requests.append(request)

    def content(self, path: str) -> bytes | None:
        """The bytes of a path of the URL; None when there are none."""
        if path in self._substitutes:
            return self._substitutes[path]
        file = (self.folder / path.lstrip("/")).resolve()
        if not file.is_relative_to(self.folder.resolve()) or not file.is_file():
            return None
        return file.read_bytes()


class _Server(ThreadingHTTPServer):
    """Threads that end with the program, and no line for each connection that breaks."""

    daemon_threads = True
    block_on_close = False
    owner: ReleaseServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what this server is made for."""


class ReleaseRequestHandler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing; `ReleaseServer.requests` has it all."""

    def do_GET(self) -> None:
        """Answer with a file or a part of it."""
        path = unquote(urlsplit(self.path).path)
        content = self.server.owner.content(path)
        if content is None:
            self.refuse(404, "NoSuchKey", path)
        else:
            self.answer(path, content)

    def refuse(self, status: int, code: str, path: str) -> None:
        """Answer with an error; `code` is for servers whose errors have one."""
        self.server.owner.record_request(ServedRequest(path, 0, 0))
        self.send_error(status, code)
        self.close_connection = True

    def answer(self, path: str, content: bytes) -> None:
        """Send the file as the switches say."""
        owner, size = self.server.owner, len(content)
        switch = owner.take_fault(path)
        if switch is not None and switch.kind == "failing":
            self.refuse(int(switch.amount), "InternalError", path)
            return
        if switch is not None and switch.kind == "silent":
            owner.closing.wait()
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if owner.ranges else None
        start = int(found[1]) if found else 0
        if start and start >= size:
            self.refuse(416, "InvalidRange", path)
            return
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if switch is None or switch.kind != "endless":
            self.send_header("Content-Length", str(size - start))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        sent = 0
        try:
            for chunk in self._chunks(content[start:], switch):
                self.wfile.write(chunk)
                sent += len(chunk)
        finally:
            owner.record_request(ServedRequest(path, start, sent))
            with contextlib.suppress(OSError):
                self.wfile.flush()

    def _chunks(self, body: bytes, switch: ResponseFault | None) -> Iterator[bytes]:
        kind = None if switch is None else switch.kind
        amount = 0.0 if switch is None else switch.amount
        step = max(1, int(amount / _STEPS_PER_S)) if kind == "slow" else _CHUNK_BYTES
        end = min(len(body), int(amount)) if kind == "truncated" else len(body)
        for i in range(0, end, step):
            yield body[i : min(i + step, end)]
            if kind == "slow":
                self.wfile.flush()
                if self.server.owner.closing.wait(step / amount):
                    return
        extra = 0
        while kind == "endless" and extra < _MAX_ENDLESS_BYTES and not self.server.owner.closing.is_set():
            yield bytes(_CHUNK_BYTES)
            extra += _CHUNK_BYTES
