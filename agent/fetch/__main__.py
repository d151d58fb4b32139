"""Entry point of the fetch child: one request line in, event lines out, then exit.

The child sets its own limits before it reads anything from outside, and exits as soon as its standard input ends: an
agent that is killed leaves no child behind. Exit code 0 whenever an answer was given.
"""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from agent.children.child_limits import exit_with_input, limit_process
from agent.children.fetch_protocol import FetchEventLine, FetchFailed, FetchReason, FetchRequestLine, RefreshRequest
from agent.supervision import ThreadSupervisor

if TYPE_CHECKING:
    from agent.children.fetch_protocol import FetchDone, FetchProgress, RefreshDone

_MAX_REQUEST_BYTES: Final = 64 * 1024
_NICE: Final = 10
_SLACK_BYTES: Final = 16 * 1024**2  # over the release's size: metadata


def _write_event(body: FetchProgress | FetchDone | RefreshDone | FetchFailed) -> None:
    sys.stdout.write(FetchEventLine(body=body).model_dump_json() + "\n")
    sys.stdout.flush()


def main() -> int:
    """Answer one request."""
    try:
        request = FetchRequestLine.model_validate_json(sys.stdin.buffer.readline(_MAX_REQUEST_BYTES)).body
    except ValidationError as error:
        _write_event(
            FetchFailed(reason=FetchReason.REQUEST, text=f"the request cannot be read: {error.error_count()} errors")
        )
        return 0
    limit_process(
        nice=_NICE,
        limits={
            resource.RLIMIT_AS: request.limits.memory_bytes,
            resource.RLIMIT_CPU: request.limits.cpu_s,
            resource.RLIMIT_FSIZE: request.max_release_bytes + _SLACK_BYTES,
        },
    )
    ThreadSupervisor().thread(exit_with_input, kind="parent-watch").start()
    try:
        from agent.fetch.download import fetch_release, refresh  # noqa: PLC0415 - under the limits, and where a missing tuf is an answer
    except ModuleNotFoundError as error:
        text = f"the package {error.name!r} is missing: install Kensa again, with its requirements"
        _write_event(FetchFailed(reason=FetchReason.MISSING_PACKAGE, text=text))
        return 0
    try:
        _write_event(refresh(request) if isinstance(request, RefreshRequest) else fetch_release(request, _write_event))
    except MemoryError:
        text = f"the fetch child needs more than {request.limits.memory_bytes:,} bytes of memory"
        _write_event(FetchFailed(reason=FetchReason.CRASHED, text=text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
