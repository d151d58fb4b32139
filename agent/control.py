"""The lock on the state directory, and the control socket through which commands reach the agent.

One agent at a time uses a state directory. `control.sock` (mode 0600: only the owner may connect) carries one
bounded JSON object a line: `{"cmd": "status"}` -> `{"ok": true, ...}` or `{"ok": false, "error": "..."}`. Handlers
run on the control thread, one request at a time; a slow or silent client is disconnected.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Self

from agent.errors import ControlError, KensaError, StateDirError
from agent.supervision import ErrorBoundary, ThreadSupervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

SOCKET_NAME: Final = "control.sock"
LOCK_NAME: Final = "lock"
MAX_REQUEST_BYTES: Final = 1024 * 1024  # a whole configuration
MAX_RESPONSE_BYTES: Final = 4 * 1024 * 1024
CLIENT_TIMEOUT_S: Final = 5.0


class StateDir:
    """The locked state directory. Use as a context manager; the kernel releases the lock when the process dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def __enter__(self) -> Self:
        """Create the directory (0700) and take the lock. Raises StateDirError with the remedy."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateDirError(
                f"state_dir {self.path} cannot be used: {error.strerror}. Give the user who runs Kensa "
                "write access to it, or set another state_dir"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            self._fd = -1
            raise StateDirError(
                f"state_dir {self.path} is in use by another agent (process {holder}). "
                "Stop that one first, or give this one its own state_dir"
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def running_agent(state_dir: Path) -> int | None:
    """Return the process id of the agent that locks `state_dir`; 0 when it cannot be read, None without one."""
    try:
        fd = os.open(state_dir / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).strip()
        return int(holder) if holder.isdigit() else 0
    except OSError:
        return None
    finally:
        os.close(fd)
    return None


@contextmanager
def _short_path(directory: Path) -> Iterator[str]:
    """Yield a path to the socket that fits into the 108 bytes of `sockaddr_un`, however long `directory` is."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET_NAME}"
    finally:
        os.close(fd)


class ControlServer:
    """Serves the control socket of one locked state directory."""

    def __init__(
        self,
        *,
        state_dir: Path,
        handlers: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]],
        supervisor: ThreadSupervisor | None = None,
    ) -> None:
        """Answer each `cmd` with its handler, which gets the whole request and may raise KensaError."""
        self._dir = state_dir
        self._handlers = dict(handlers)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._closing = threading.Event()
        supervisor = supervisor or ThreadSupervisor()
        self._thread = supervisor.thread(self._run, kind="control", stop=self._closing)
        self._handling = ErrorBoundary(
            supervisor, kind="control", what="a request on the control socket", make=_internal_error
        )
        self._losses = supervisor.losses

    def start(self) -> None:
        """Bind and serve. Raises StateDirError when the socket cannot be created."""
        (self._dir / SOCKET_NAME).unlink(missing_ok=True)  # left by an agent that was killed: we hold its lock
        before = os.umask(0o177)  # the socket must never exist with wider rights
        try:
            with _short_path(self._dir) as path:
                self._socket.bind(path)
        except OSError as error:
            raise StateDirError(
                f"{self._dir / SOCKET_NAME} cannot be made: {error.strerror}. "
                "The file system of state_dir must allow sockets"
            ) from error
        finally:
            os.umask(before)
        self._socket.listen(8)
        self._thread.start()

    def close(self, *, timeout_s: float = CLIENT_TIMEOUT_S + 1.0) -> None:
        """Stop serving within `timeout_s` seconds and remove the socket; safe to call twice, and before `start`."""
        self._closing.set()
        if self._thread.is_alive():
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # ends `accept` at once; closing alone does not
            self._thread.join(timeout_s)
            (self._dir / SOCKET_NAME).unlink(missing_ok=True)
        self._socket.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._socket.accept()
            except OSError:
                if self._closing.is_set():
                    return
                raise  # out of descriptors, for example: the supervisor restarts this
            with client:
                try:
                    client.settimeout(CLIENT_TIMEOUT_S)
                    client.sendall(self._respond(_read_line(client, MAX_REQUEST_BYTES)))
                except OSError:  # the client disconnected
                    self._losses.count("control_clients")

    def _handle(self, request: object) -> Mapping[str, Any]:
        """Answer one parsed request. Raises KensaError."""
        if not isinstance(request, dict) or not isinstance(request.get("cmd"), str):
            raise ControlError('expected one JSON object with a text "cmd"')
        handler = self._handlers.get(request["cmd"])
        if handler is None:
            known = ", ".join(sorted(self._handlers))
            raise ControlError(f"unknown command {request['cmd'][:64]!r}; known: {known}")
        return handler(request)

    def _respond(self, line: bytes) -> bytes:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            answer = {"ok": False, "error": "the request is not one line of JSON"}
        else:
            try:
                with self._handling:
                    answer = {"ok": True, **self._handle(request)}
            except KensaError as error:
                answer = {"ok": False, "error": str(error)}
        return json.dumps(answer).encode() + b"\n"


def _internal_error(text: str) -> KensaError:
    return ControlError(f"internal error: {text}; the agent's log has its trace")


def _read_line(connection: socket.socket, limit: int) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n"):
        chunk = connection.recv(min(65_536, limit + 1 - len(data)))
        if not chunk:
            break
        data += chunk
        if len(data) > limit:
            return b""
    return bytes(data)


def request(state_dir: Path, command: str, **arguments: object) -> dict[str, Any]:
    """Send a request to the agent on `state_dir`. Raises ControlError when none runs, or when it refuses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CLIENT_TIMEOUT_S)
        try:
            with _short_path(state_dir) as path:
                connection.connect(path)
            connection.sendall(json.dumps({"cmd": command, **arguments}).encode() + b"\n")
            line = _read_line(connection, MAX_RESPONSE_BYTES)
        except OSError as error:
            raise ControlError(
                f"no agent answers on {state_dir / SOCKET_NAME} ({error.strerror or error}). Is `kensa run` running "
                "with this state_dir, and may you read it?"
            ) from error
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise ControlError(f"the agent on {state_dir} gave no readable answer") from error
    if not isinstance(answer, dict) or not answer.get("ok"):
        raise ControlError(str(answer.get("error", "refused")) if isinstance(answer, dict) else "refused")
    return answer
