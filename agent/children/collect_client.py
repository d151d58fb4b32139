"""The child process `python -m agent.upload` as the inspecting process holds it: lines in, lines out, nothing blocks.

It is in a process group of its own (deaf to the terminal's Ctrl-C) but in this session: with automatic process groups
of the scheduler a session of its own would get half of the machine whatever its priority.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
from typing import IO, TYPE_CHECKING, Final

from pydantic import ValidationError

from agent.children.child_environment import make_environment
from agent.children.collect_protocol import (
    MAX_LINE_BYTES,
    CollectFailed,
    CollectOrder,
    CollectReply,
    CollectStart,
    JobDone,
    StatusUpdate,
    TargetCheck,
    TargetCheckResult,
)
from agent.errors import UploadError
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.children.collect_protocol import CollectJob, CollectSetup, SettingsUpdate
    from agent.config import CollectionConfig
    from agent.timing.clock import Clock

_READ_BYTES: Final = 64 * 1024
_END_S: Final = 2.0  # for a child whose input has ended


class CollectClient:
    """One run of `python -m agent.upload`. For one thread."""

    def __init__(self, begin: CollectSetup | TargetCheck, *, pass_fds: Sequence[int] = ()) -> None:
        """Start it. Raises UploadError."""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "agent.upload"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=make_environment(),
                cwd="/",
                process_group=0,
                pass_fds=pass_fds,
            )
        except OSError as error:
            raise UploadError("crashed", f"the collecting child cannot be started: {error.strerror}") from error
        self._unsent = bytearray()
        self._line = bytearray()
        self._selector = selectors.DefaultSelector()
        os.set_blocking(_pipe(self._process.stdin).fileno(), False)
        self._selector.register(_pipe(self._process.stdout), selectors.EVENT_READ)
        self._queue(CollectStart(body=begin).model_dump_json())

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def register(self, fd: int) -> None:
        """Let `listen` return when `fd` can be read."""
        self._selector.register(fd, selectors.EVENT_READ)

    def send(self, body: CollectJob | SettingsUpdate) -> None:
        """Say something; what the pipe does not take at once goes with the next `listen`."""
        self._queue(CollectOrder(body=body).model_dump_json())

    def poll(self, timeout_s: float) -> list[JobDone | StatusUpdate | TargetCheckResult | CollectFailed]:
        """Wait for the child or a watched descriptor; return what the child said. Raises UploadError when it ended."""
        self._write()
        said: list[JobDone | StatusUpdate | TargetCheckResult | CollectFailed] = []
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._process.stdout:
                said += self._read()
        return said

    def close(self) -> None:
        """End its input, give it a moment, then let no part of it live on."""
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self.kill()
        self._process.wait()
        self._selector.close()
        _pipe(self._process.stdout).close()

    def kill(self) -> None:
        """End it at once; from any thread."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _queue(self, line: str) -> None:
        self._unsent += line.encode() + b"\n"
        self._write()

    def _write(self) -> None:
        stdin = _pipe(self._process.stdin)
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # it died: reading says so
            while self._unsent:
                del self._unsent[: os.write(stdin.fileno(), self._unsent)]
        if self._unsent and stdin not in self._selector.get_map():
            self._selector.register(stdin, selectors.EVENT_WRITE)
        elif not self._unsent and stdin in self._selector.get_map():
            self._selector.unregister(stdin)

    def _read(self) -> list[JobDone | StatusUpdate | TargetCheckResult | CollectFailed]:
        data = os.read(_pipe(self._process.stdout).fileno(), _READ_BYTES)
        if not data:
            raise UploadError("crashed", f"the collecting child {self._describe_exit()}")
        self._line += data
        *lines, rest = bytes(self._line).split(b"\n")
        self._line = bytearray(rest)
        if len(rest) > MAX_LINE_BYTES:
            raise UploadError("crashed", f"the collecting child sent a line of more than {MAX_LINE_BYTES:,} bytes")
        try:
            return [CollectReply.model_validate_json(line).body for line in lines]
        except ValidationError as error:
            raise UploadError("crashed", "the collecting child sent something that nobody understands") from error

    def _describe_exit(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        code = self._process.returncode
        return f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"


def check_target(settings: CollectionConfig, *, thing: str, timeout_s: float, clock: Clock) -> TargetCheckResult:
    """Let a child look whether the target can be used, without writing to a bucket. Raises UploadError."""
    child = CollectClient(TargetCheck(settings=settings, thing=thing))
    deadline_ns = clock.monotonic_ns() + round(timeout_s * NS_PER_S)
    try:
        while (left_ns := deadline_ns - clock.monotonic_ns()) > 0:
            for said in child.poll(left_ns / NS_PER_S):
                if isinstance(said, TargetCheckResult):
                    return said
    finally:
        child.kill()
        child.close()
    raise UploadError("unreachable", f"{settings.target} did not answer within {timeout_s:.0f} s")


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("the child was started with both pipes")
    return pipe
