"""`python -m agent.fetch`: one request line on standard input, event lines on standard output, then exit.

The child puts limits on itself before it looks at anything that came from outside, and ends as soon as its standard
input does: an agent that is killed leaves no child behind. Exit code 0 whenever an answer was given.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from agent.model.fetch_protocol import Event, Failed, LookRequest, Reason, Request
from agent.supervision import Supervisor

if TYPE_CHECKING:
    from agent.model.fetch_protocol import Done, FetchLimits, Progress, Seen

_MAX_REQUEST_BYTES: Final = 64 * 1024
_NICE: Final = 10
_ORPHANED: Final = 3  # exit code
_SLACK_BYTES: Final = 16 * 1024**2  # over the release's size: metadata


def _limit(limits: FetchLimits, max_release_bytes: int) -> None:
    os.nice(_NICE)
    for what, value in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_FSIZE, max_release_bytes + _SLACK_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (allowed, allowed))


def _end_with_the_parent() -> None:
    """Its end of the pipe stays open for as long as it lives; nothing more is ever sent."""
    os.read(sys.stdin.fileno(), 1)  # not through sys.stdin, whose lock would disturb the exit
    os._exit(_ORPHANED)


def _say(body: Progress | Done | Seen | Failed) -> None:
    sys.stdout.write(Event(body=body).model_dump_json() + "\n")
    sys.stdout.flush()


def main() -> int:
    """Answer one request."""
    try:
        request = Request.model_validate_json(sys.stdin.buffer.readline(_MAX_REQUEST_BYTES)).body
    except ValidationError as error:
        _say(Failed(reason=Reason.REQUEST, text=f"the request cannot be read: {error.error_count()} errors"))
        return 0
    _limit(request.limits, request.max_release_bytes)
    Supervisor().thread(_end_with_the_parent, kind="parent-watch").start()
    try:
        from agent.fetch.job import look, run  # noqa: PLC0415 - under the limits, and where a missing tuf is an answer
    except ModuleNotFoundError as error:
        text = f"the package {error.name!r} is missing: install Kensa again, with its requirements"
        _say(Failed(reason=Reason.MISSING_PACKAGE, text=text))
        return 0
    try:
        _say(look(request) if isinstance(request, LookRequest) else run(request, _say))
    except MemoryError:
        text = f"the fetch child needs more than {request.limits.memory_bytes:,} bytes of memory"
        _say(Failed(reason=Reason.CRASHED, text=text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
