"""A supervised child process: `python -m MODULE` of this Kensa, with pipes and bounded waits.

Promises: nothing here blocks longer than asked; the child is in a process group of its own, and `close` leaves no
process of that group alive. Its standard input stays open until `close_input` or `close`, and ends when this process
dies in any way: a child that reads it ends then, too. What the child sends is untrusted; `LineBuffer` bounds its lines.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_READ_BYTES: Final = 64 * 1024


class LineTooLongError(ValueError):
    """The child sent a longer line than allowed."""


class LineBuffer:
    """Splits a stream of bytes into lines of bounded length."""

    def __init__(self, max_line_bytes: int) -> None:
        """Start empty."""
        self._max_line_bytes = max_line_bytes
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes; return the lines that are complete now, without their ends. Raises LineTooLongError."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > self._max_line_bytes:
            raise LineTooLongError(f"a line of more than {self._max_line_bytes:,} bytes")
        return lines


class ChildProcess:
    """One run of `python -m MODULE`. For one thread, except `kill`."""

    def __init__(
        self,
        module: str,
        *,
        environment: Mapping[str, str],
        pass_fds: Sequence[int] = (),
        stderr_tail_bytes: int = 0,
        has_own_session: bool = False,
    ) -> None:
        """Start it. Raises OSError.

        Args:
            module: what `python -m` runs.
            environment: all of its environment variables.
            pass_fds: descriptors that it inherits besides the pipes.
            stderr_tail_bytes: how much of the end of its standard error is kept; 0: it writes to ours.
            has_own_session: start it in a session of its own, not only in a process group of its own.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if stderr_tail_bytes else None,
            bufsize=0,
            cwd="/",
            env=environment,
            pass_fds=pass_fds,
            start_new_session=has_own_session,
            process_group=None if has_own_session else 0,
        )
        self._stdin, self._stdout = _pipe(self._process.stdin), _pipe(self._process.stdout)
        self._stderr_tail_bytes = stderr_tail_bytes
        self._unsent = bytearray()
        self._is_input_ending = False
        self._outputs: list[IO[bytes]] = [self._stdout]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        if self._process.stderr is not None:
            self._outputs.append(self._process.stderr)
            self._selector.register(self._process.stderr, selectors.EVENT_READ)
        os.set_blocking(self._stdin.fileno(), False)
        self.stderr_tail = b""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def returncode(self) -> int:
        """Its exit code after `close`; negative: the signal that killed it."""
        return self._process.wait()

    @property
    def is_answering(self) -> bool:
        """Whether its standard output is still open."""
        return self._stdout in self._outputs

    @property
    def has_output(self) -> bool:
        """Whether one of its outputs is still open."""
        return bool(self._outputs)

    def has_exited(self) -> bool:
        """Whether it has ended and closed its outputs. It is not reaped: until `close` its number belongs to it."""
        if self._outputs:
            return False
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def register(self, fd: int) -> None:
        """Let `poll` return when `fd` can be read, too."""
        self._selector.register(fd, selectors.EVENT_READ)

    def send(self, data: bytes) -> None:
        """Send `data`; `poll` sends what the pipe does not take at once."""
        self._unsent += data
        self._write()

    def close_input(self) -> None:
        """Close its standard input once everything is sent."""
        self._is_input_ending = True
        self._write()

    def poll(self, timeout_s: float) -> bytes:
        """Wait for output or a registered descriptor; return what has arrived on standard output."""
        self._write()
        answer = b""
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj in self._outputs:
                data = os.read(key.fd, _READ_BYTES)
                if not data:
                    self._selector.unregister(key.fileobj)
                    self._outputs = [output for output in self._outputs if output is not key.fileobj]
                elif key.fileobj is self._stdout:
                    answer = data
                else:
                    self.stderr_tail = (self.stderr_tail + data)[-self._stderr_tail_bytes :]
        return answer

    def _write(self) -> None:
        if self._stdin.closed:
            return
        try:
            while self._unsent:
                del self._unsent[: os.write(self._stdin.fileno(), self._unsent)]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # it died, or reads nothing more: its output shows which
            self._unsent.clear()
        is_registered = self._stdin in self._selector.get_map()
        if self._unsent and not is_registered:
            self._selector.register(self._stdin, selectors.EVENT_WRITE)
        elif not self._unsent and is_registered:
            self._selector.unregister(self._stdin)
        if self._is_input_ending and not self._unsent:
            self._stdin.close()

    def describe_exit(self, *, wait_s: float) -> str:
        """Return how it ended, for a person; waits for that at most `wait_s`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(wait_s)
        code = self._process.returncode
        return f"was killed by {signal_name(code)}" if code is not None and code < 0 else f"ended with {code}"

    def kill(self) -> None:
        """Kill its process group at once; from any thread."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self, *, grace_s: float = 0.0) -> None:
        """Close its input, wait up to `grace_s` for its end, then kill what is left of its group and reap it."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        if grace_s > 0.0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        self.kill()
        self._process.wait()
        self._selector.close()
        self._stdout.close()
        if self._process.stderr is not None:
            self._process.stderr.close()


def signal_name(code: int) -> str:
    """Return the name of the signal in the exit code `code` < 0."""
    return signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("the child was started with pipes")
    return pipe
