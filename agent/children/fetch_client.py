"""`ports.ReleaseFetcher` by a child process, which alone loads tuf, boto3 and bytes from outside.

Promise: `fetch` returns, or raises one of the two errors of its port, within the site's wall time and soon after
`stop`; the child is then gone, and so it is soon after this process dies in any way (its standard input ends). Its
output is untrusted: bounded lines of a strict format. See `agent.children.fetch_protocol` for the reasons.

On the way from fetch to slot, the next module is `agent.fetch.download`, the child process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from agent.children.child_environment import make_environment
from agent.children.child_process import ChildProcess, LineBuffer, LineTooLongError
from agent.children.fetch_protocol import (
    MAX_EVENT_BYTES,
    FetchDone,
    FetchEventLine,
    FetchFailed,
    FetchLimits,
    FetchProgress,
    FetchReason,
    FetchRequest,
    FetchRequestLine,
    RefreshDone,
    RefreshRequest,
)
from agent.errors import FetchError, ReleaseRefusedError
from agent.release_records import FetchedRelease, ReleaseRef, RepositoryStatus
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from agent.ports import FetchJob
    from agent.timing.clock import Clock

_POLL_S: Final = 0.1  # how soon `stop` and the deadline are seen
_REFRESH_S: Final = 60.0  # for metadata alone
_END_S: Final = 5.0  # for a child that has given its answer
_TAIL_BYTES: Final = 2_000  # of a crashing child's standard error


class FetchClient:
    """Fetches releases of one repository for one site; used by one thread at a time."""

    def __init__(
        self,
        *,
        repository: str,
        root: Path,
        site: str,
        trust_dir: Path,
        max_release_bytes: int,
        timeout_s: float,
        clock: Clock,
        limits: FetchLimits | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            repository: folder, http(s):// or s3:// address.
            root: 1.root.json, the trust anchor.
            site: name of the site in the repository.
            trust_dir: keeps the accepted metadata; created when missing.
            max_release_bytes: larger releases are refused.
            timeout_s: wall time of one fetch.
            clock: for deadlines and expiry.
            limits: further limits of a fetch.
        """
        self._repository = repository
        self._root = root
        self._site = site
        self._trust_dir = trust_dir
        self._max_release_bytes = max_release_bytes
        self._timeout_s = timeout_s
        self._clock = clock
        self._limits = limits or FetchLimits()

    def fetch(self, job: FetchJob) -> FetchedRelease:
        """See `ports.ReleaseFetcher.fetch`."""
        try:
            common = self._common_fields(job.trusted_utc_s)
            request = FetchRequest(release_id=job.release_id, into=job.into.absolute(), **common)
        except ValidationError as error:
            raise FetchError(
                FetchReason.REQUEST,
                f"{job.release_id[:80]!r} is no release: write it as name/version, such as surface/1.2.0",
            ) from error
        answer = self._run_child(request, timeout_s=self._timeout_s, on_progress=job.on_progress, stop=job.stop)
        if not isinstance(answer, FetchDone):
            raise _unexpected_answer(answer)
        ref = ReleaseRef(answer.name, answer.version, answer.counter, answer.digest, answer.model_sha256)
        return FetchedRelease(ref, job.into, answer.signed_utc_s, frozenset(answer.revoked))

    def refresh(self, *, trusted_utc_s: float, stop: threading.Event) -> RepositoryStatus:
        """See `ports.ReleaseFetcher.refresh`."""
        try:
            request = RefreshRequest(**self._common_fields(trusted_utc_s))
        except ValidationError as error:
            raise FetchError(
                FetchReason.REQUEST, f"the repository metadata cannot be refreshed: {_invalid_fields(error)}"
            ) from None
        timeout_s = min(self._timeout_s, _REFRESH_S)
        answer = self._run_child(request, timeout_s=timeout_s, on_progress=lambda _done, _total: None, stop=stop)
        if not isinstance(answer, RefreshDone):
            raise _unexpected_answer(answer)
        return RepositoryStatus(answer.signed_utc_s, frozenset(answer.revoked), answer.root_expires_utc_s)

    def _common_fields(self, trusted_utc_s: float) -> dict[str, Any]:
        """Return the fields that every request has."""
        return {
            "repository": self._repository,
            "root": self._root.absolute(),
            "site": self._site,
            "trust_dir": self._trust_dir.absolute(),
            "reference_utc_s": max(self._clock.utc_ns() / NS_PER_S, trusted_utc_s),
            "max_release_bytes": self._max_release_bytes,
            "limits": self._limits,
        }

    def _run_child(
        self,
        request: FetchRequest | RefreshRequest,
        *,
        timeout_s: float,
        on_progress: Callable[[int, int], None],
        stop: threading.Event,
    ) -> FetchDone | RefreshDone:
        """Run a child for one request. Raises ReleaseRefusedError and FetchError."""
        child = _FetchProcess(request)
        try:
            answer = child.answer(
                deadline_ns=self._clock.monotonic_ns() + int(timeout_s * NS_PER_S),
                clock=self._clock,
                on_progress=on_progress,
                stop=stop,
            )
        finally:
            child.close()
        if isinstance(answer, FetchFailed):
            raise _error_from(answer)
        return answer


def _unexpected_answer(answer: FetchDone | RefreshDone) -> FetchError:
    return FetchError(FetchReason.CRASHED, f"the fetch child answered {answer.event!r}, which was not requested")


def _invalid_fields(error: ValidationError) -> str:
    """Name the wrong fields without their values: an address may hold a password."""
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False))


def _error_from(failed: FetchFailed) -> FetchError | ReleaseRefusedError:
    if failed.gate is None:
        return FetchError(failed.reason, failed.text)
    return ReleaseRefusedError(
        failed.gate,
        failed.reason,
        failed.text,
        figures=failed.figures,
        limits=failed.limits,
        digest=failed.digest,
    )


class _FetchProcess:
    """One run of `python -m agent.fetch`."""

    def __init__(self, request: FetchRequest | RefreshRequest) -> None:
        try:
            self._process = ChildProcess(
                "agent.fetch", environment=make_environment(), stderr_tail_bytes=_TAIL_BYTES, has_own_session=True
            )
        except OSError as error:
            raise FetchError(FetchReason.CRASHED, f"the fetch child cannot be started: {error}") from error
        self._lines = LineBuffer(MAX_EVENT_BYTES)
        self._process.send(FetchRequestLine(body=request).model_dump_json().encode() + b"\n")

    def answer(
        self, *, deadline_ns: int, clock: Clock, on_progress: Callable[[int, int], None], stop: threading.Event
    ) -> FetchDone | RefreshDone | FetchFailed:
        """Read events until the last one. Raises FetchError `stopped`, `timeout` or `fetcher_crashed`."""
        while not stop.is_set():
            if clock.monotonic_ns() >= deadline_ns:
                text = "it took longer than allowed (a fetch: updates.fetch_timeout_s)"
                raise FetchError(FetchReason.TIMEOUT, f"{text}; what has arrived is kept for the next one")
            for event in self._events(self._process.poll(_POLL_S)):
                if not isinstance(event, FetchProgress):
                    return event
                on_progress(event.done, event.total)
            if not self._process.is_answering:
                raise self._crashed()
        raise FetchError(FetchReason.STOPPED, "the fetch was stopped; what has arrived is kept for the next one")

    def _events(self, data: bytes) -> list[FetchProgress | FetchDone | RefreshDone | FetchFailed]:
        try:
            return [FetchEventLine.model_validate_json(line).body for line in self._lines.feed(data)]
        except LineTooLongError as error:
            raise FetchError(FetchReason.CRASHED, f"the fetch child sent {error}") from error
        except ValidationError as error:
            raise FetchError(FetchReason.CRASHED, "the fetch child sent something that is no event") from error

    def _crashed(self) -> FetchError:
        how = self._process.describe_exit(wait_s=_END_S)
        tail = self._process.stderr_tail.decode(errors="replace").strip()
        return FetchError(
            FetchReason.CRASHED, f"the fetch child {how} without an answer" + (f": {tail}" if tail else "")
        )

    def close(self) -> None:
        """Kill it and everything that it started."""
        self._process.close()
