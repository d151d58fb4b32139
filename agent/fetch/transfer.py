"""Reads bytes from a source, bounded in number and in time while they arrive.

Every `CHUNK_BYTES` must arrive within `stall_s` seconds, and opening takes no longer either: a server that drips bytes
or headers ends in `slow_retrieval`, whatever timeouts the library below has. The process's interval timer enforces the
bound, so this code runs in the main thread only. A failed connection is retried with growing delays as long as each
attempt brings at least one byte, and `attempts` times when none does.

On the way from fetch to slot, the next module is `agent.release.manifest`.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from agent.children.fetch_protocol import FetchLimits, FetchReason
from agent.durable import sha256_of
from agent.errors import FetchError
from agent.fetch.repository_sources import SourceDownError
from agent.timing.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

    from agent.fetch.repository_sources import RepositorySource

CHUNK_BYTES: Final = 16 * 1024
_FULL_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MAX_BACKOFF_S: Final = 5.0

T = TypeVar("T")


class _TimerError(BaseException):
    """Raised by the timer inside a library; an `except Exception` there does not catch it."""


def _on_timer(_number: int, _frame: FrameType | None) -> None:
    raise _TimerError


def call_within(seconds: float, call: Callable[[], T], *, what: str) -> T:
    """Return `call()`. Raises FetchError `slow_retrieval` when it takes longer than `seconds`."""
    before = signal.signal(signal.SIGALRM, _on_timer)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            return call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _TimerError:
        raise FetchError(
            FetchReason.SLOW_RETRIEVAL,
            f"{what} is too slow: no {CHUNK_BYTES // 1024} KiB within {seconds:g} s. Check the network; it "
            f"is tried again",
        ) from None
    finally:
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """One file of a release, as signed metadata describe it."""

    name: str
    path: str  # in the repository
    sha256: str
    length_bytes: int


class Transfer:
    """Reads from one source within the limits."""

    def __init__(self, source: RepositorySource, limits: FetchLimits) -> None:
        """Use `source` from the main thread."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a transfer needs the main thread, which the timer interrupts")
        self._source = source
        self._limits = limits

    def read_bytes(self, path: str, limit: int) -> bytes:
        """Return the whole file, of at most `limit` bytes. Raises SourceMissingError, FetchError."""
        data = bytearray()

        def take(chunk: bytes) -> None:
            data.extend(chunk)

        def attempt() -> int:
            data.clear()
            self._stream(path, 0, limit, take)
            return 0

        self._retry(attempt)
        return bytes(data)

    def resume_file(self, file: ReleaseFile, part: Path, progress: Callable[[int], None]) -> None:
        """Complete `part`, which may hold the beginning from an earlier try, and check it.

        Bytes that are there are not requested again. `progress(n)` receives the size so far. Raises SourceMissingError,
        FetchError; after `arbitrary_software` and `endless_data` the part is gone.
        """
        resumed = self._fill(file, part, progress)
        # damaged on this disk, or by an earlier attacker: once more, whole
        if resumed and sha256_of(part) != file.sha256:
            part.unlink()
            resumed = self._fill(file, part, progress)
        if sha256_of(part) != file.sha256:
            part.unlink()
            raise FetchError(
                FetchReason.ARBITRARY_SOFTWARE,
                f"{file.path} of the repository is not the {file.name} that was signed; somebody or something altered "
                "it. Nothing of it is used. Publish it again, and check who can write there",
            )

    def _fill(self, file: ReleaseFile, part: Path, progress: Callable[[int], None]) -> bool:
        """Read until `part` has its length; True when it began with bytes of an earlier run."""
        size = part.stat().st_size if part.exists() else 0
        if size > file.length_bytes:
            part.unlink()
            size = 0
        resumed = size > 0
        with part.open("ab") as out:

            def attempt() -> int:
                position = out.tell()

                def restart() -> None:
                    out.truncate(0)
                    out.seek(0)

                def take(chunk: bytes) -> None:
                    write_durably(out.write, chunk)
                    progress(out.tell())

                try:
                    self._stream(file.path, position, file.length_bytes, take, restart)
                    if out.tell() < file.length_bytes:
                        raise SourceDownError(f"{file.path} ended after {out.tell():,} of {file.length_bytes:,} bytes")
                except FetchError as error:
                    if error.reason == FetchReason.ENDLESS_DATA:
                        restart()
                    raise
                finally:
                    out.flush()
                return out.tell()

            progress(size)
            if size < file.length_bytes:
                self._retry(attempt, position=out.tell)
            os.fsync(out.fileno())
        return resumed

    def _stream(
        self,
        path: str,
        start: int,
        limit: int,
        take: Callable[[bytes], None],
        restart: Callable[[], None] | None = None,
    ) -> None:
        """Give the bytes of `path` from `start` on to `take`, never more than make `limit` bytes in all."""
        stall_s = self._limits.stall_s
        with call_within(stall_s, lambda: self._source.open(path, start=start), what=path) as opened:
            if opened.start < start and restart is not None:
                restart()
            total = opened.start
            while True:
                try:
                    chunk = call_within(stall_s, lambda: opened.read(CHUNK_BYTES), what=path)
                except self._source.errors as error:
                    raise SourceDownError(f"{path}: {error}") from error
                if not chunk:
                    return
                total += len(chunk)
                if total > limit:
                    raise FetchError(
                        FetchReason.ENDLESS_DATA,
                        f"{path} is longer than the {limit:,} bytes that it may have; reading stopped there",
                    )
                take(chunk)

    def _retry(self, attempt: Callable[[], int], position: Callable[[], int] = lambda: 0) -> None:
        """Retry after SourceDownError, within the limits."""
        left, failures = self._limits.attempts, 0
        backoff = Backoff(self._limits.backoff_s, _MAX_BACKOFF_S)
        while True:
            before = position()
            try:
                attempt()
            except SourceDownError as error:
                left = left - 1 if position() <= before else self._limits.attempts
                if left <= 0:
                    raise FetchError(FetchReason.UNREACHABLE, f"the repository cannot be read: {error}") from error
                failures += 1
                time.sleep(backoff.ceiling_s(failures))
            else:
                return


def write_durably(put: Callable[[bytes], int], data: bytes) -> None:
    """Write to the state directory. Raises FetchError `no_space` or `storage`."""
    try:
        put(data)
    except OSError as error:
        raise storage_error(error) from error


def storage_error(error: OSError) -> FetchError:
    """Return the FetchError for an error of the state directory's disk."""
    if error.errno in _FULL_DISK:
        return FetchError(FetchReason.NO_SPACE, f"the disk is full: {error}. Make room in the state directory")
    return FetchError(
        FetchReason.STORAGE, f"the state directory cannot be used: {error}. Check its owner, its rights and its disk"
    )
