"""The inspecting process's side of the collecting child, `python -m agent.upload`.

Orders go in and replies come out as lines of JSON; nothing blocks. The child is in a process group of its own (the
terminal's Ctrl-C does not reach it) but in this session: with automatic process groups of the scheduler, a session of
its own would get half of the machine whatever its priority.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from agent.children.child_environment import make_environment
from agent.children.child_process import ChildProcess, LineBuffer, LineTooLongError
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

_END_S: Final = 2.0  # for a child whose input has ended


class CollectClient:
    """One run of `python -m agent.upload`. For one thread."""

    def __init__(self, begin: CollectSetup | TargetCheck, *, pass_fds: Sequence[int] = ()) -> None:
        """Start it. Raises UploadError."""
        try:
            self._process = ChildProcess("agent.upload", environment=make_environment(), pass_fds=pass_fds)
        except OSError as error:
            raise UploadError("crashed", f"the collecting child cannot be started: {error.strerror}") from error
        self._lines = LineBuffer(MAX_LINE_BYTES)
        self._send(CollectStart(body=begin))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def register(self, fd: int) -> None:
        """Let `poll` return when `fd` can be read, too."""
        self._process.register(fd)

    def send(self, body: CollectJob | SettingsUpdate) -> None:
        """Send an order; `poll` sends what the pipe does not take at once."""
        self._send(CollectOrder(body=body))

    def poll(self, timeout_s: float) -> list[JobDone | StatusUpdate | TargetCheckResult | CollectFailed]:
        """Wait for the child or a registered descriptor; return the child's replies. Raises UploadError."""
        data = self._process.poll(timeout_s)
        if not self._process.is_answering:
            raise UploadError("crashed", f"the collecting child {self._process.describe_exit(wait_s=_END_S)}")
        try:
            return [CollectReply.model_validate_json(line).body for line in self._lines.feed(data)]
        except LineTooLongError as error:
            raise UploadError("crashed", f"the collecting child sent {error}") from error
        except ValidationError as error:
            raise UploadError("crashed", "the collecting child sent a line that is no reply") from error

    def close(self) -> None:
        """Close its input, wait briefly for its end, then kill it."""
        self._process.close(grace_s=_END_S)

    def kill(self) -> None:
        """Kill it at once; from any thread."""
        self._process.kill()

    def _send(self, message: CollectStart | CollectOrder) -> None:
        self._process.send(message.model_dump_json().encode() + b"\n")


def check_target(settings: CollectionConfig, *, thing: str, timeout_s: float, clock: Clock) -> TargetCheckResult:
    """Let a child check whether the target can be used, without writing to a bucket. Raises UploadError."""
    child = CollectClient(TargetCheck(settings=settings, thing=thing))
    deadline_ns = clock.monotonic_ns() + round(timeout_s * NS_PER_S)
    try:
        while (left_ns := deadline_ns - clock.monotonic_ns()) > 0:
            for reply in child.poll(left_ns / NS_PER_S):
                if isinstance(reply, TargetCheckResult):
                    return reply
    finally:
        child.kill()
        child.close()
    raise UploadError("unreachable", f"{settings.target} did not answer within {timeout_s:.0f} s")
