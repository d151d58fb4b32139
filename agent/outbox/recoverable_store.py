"""The outbox's file with an answer to each storage error: retry, use the reserve, reopen or rebuild.

Promise: what is not committed stays in memory and is tried again after a second; a damaged file is set aside and a
new one, complete with gaps for the losses, takes its place. Used from the writer's thread only.
"""

from __future__ import annotations

import logging
import sqlite3
from typing import TYPE_CHECKING, Final

from agent.errors import KensaError, OutboxError, StateDirError
from agent.outbox.storage.database import is_corrupt, is_full
from agent.outbox.storage.disk_reserve import DiskReserve
from agent.outbox.storage.store import STORE_NAME, OutboxStore
from agent.outbox.storage.store_recovery import finish_replacement, new_store_path, recover_rows, replace_damaged
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.condition_log import ConditionLog
    from agent.outbox.storage.store_recovery import RecoveryResult
    from agent.timing.clock import Clock

RESERVE_NAME: Final = "outbox.reserve"
_RETRY_NS: Final = NS_PER_S
_RESERVE_RETRY_NS: Final = 30 * NS_PER_S
_log = logging.getLogger(__name__)


class RecoverableStore:
    """The store of the moment, `current`; another object after a file was reopened or rebuilt."""

    def __init__(
        self,
        *,
        state_dir: Path,
        max_bytes: int,
        reserve_bytes: int,
        clock: Clock,
        conditions: ConditionLog,
        complete_recovery: Callable[[RecoveryResult, OutboxStore], None],
    ) -> None:
        """Open the file in `state_dir`; a damaged one is rebuilt. Raises StateDirError or OutboxError.

        Args:
            state_dir: folder of the file and of the disk reserve.
            max_bytes: bound of the file.
            reserve_bytes: disk space to set aside for a full disk.
            clock: paces the retries.
            conditions: reports that nothing can be committed, and the end of that.
            complete_recovery: puts into a rebuilt store what memory holds, and gaps for what is lost.
        """
        self._path = state_dir / STORE_NAME
        self._max_bytes = max_bytes
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self._conditions = conditions
        self._condition = f"outbox {self._path}"
        self._complete_recovery = complete_recovery
        self._reserve = DiskReserve(state_dir / RESERVE_NAME, reserve_bytes)
        self._reserve_retry_ns = 0
        self._must_recount = False
        self.retry_ns = 0  # monotonic; before, no commit is tried
        self.error: str | None = None  # why nothing can be committed now
        self.current = self._open()

    def _open(self) -> OutboxStore:
        try:
            finish_replacement(self._path)
            return OutboxStore(self._path, max_bytes=self._max_bytes)
        except UnicodeDecodeError as error:  # SQLite's own message holds bytes of a damaged schema
            return self._rebuild(error)
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise OutboxError(f"The outbox {self._path} cannot be opened: {error}. Free disk space.") from error
            return self._rebuild(error)
        except OSError as error:
            raise StateDirError(f"The outbox {self._path} cannot be opened: {error.strerror}.") from error

    def _rebuild(self, error: Exception) -> OutboxStore:
        """Return a new store with all that can be recovered from the damaged file and from memory.

        The new one is complete, gaps included, before it takes the old one's place; the old one is set aside.
        """
        _log.error("The outbox %s is damaged (%s); it is salvaged and set aside.", self._path, error)
        rebuilt = OutboxStore(new_store_path(self._path), max_bytes=self._max_bytes)
        try:
            self._complete_recovery(recover_rows(self._path, rebuilt), rebuilt)
        finally:
            rebuilt.close()
        replace_damaged(self._path)
        return OutboxStore(self._path, max_bytes=self._max_bytes)

    def handle_error(self, error: sqlite3.Error) -> bool:
        """Answer an error of SQLite; return whether `current` is a rebuilt store, whose rows must be read anew."""
        if self.error is None or not isinstance(error, sqlite3.ProgrammingError):  # which says: not reopened
            self.error = f"The outbox {self._path} cannot commit: {error}."
        text = f"{self.error} Verdicts are kept in memory; free disk space or replace the disk"
        self._conditions.report_fault(self._condition, text, level=logging.ERROR)
        now_ns = self._clock.monotonic_ns()
        try:
            if is_corrupt(error):
                self.current.close()
                self.current = self._rebuild(error)
                return True
            if is_full(error):
                if self._release_reserve(now_ns):
                    return False  # the next step tries at once
            else:
                self.current.close()
                self.current = self._open()
                self._must_recount = True
        except (sqlite3.Error, KensaError, OSError) as second:
            self.error = f"The outbox {self._path} cannot commit: {second}."
            self._conditions.report_fault(self._condition, self.error, level=logging.ERROR)
        self.retry_ns = now_ns + _RETRY_NS
        return False

    def _release_reserve(self, now_ns: int) -> bool:
        """Answer a full disk; return whether there was a reserve to release."""
        had_reserve = self._reserve.is_reserved
        self._reserve.release()
        self._reserve_retry_ns = now_ns + _RESERVE_RETRY_NS
        self.current.handle_disk_full(self._reserve_bytes // 4 if had_reserve else 0)
        return had_reserve

    def set_reserve_aside(self) -> None:
        """Take the disk space of the reserve, where the disk has it; once, when all files are open."""
        self._reserve.reserve()

    def restore_reserve(self, now_ns: int) -> None:
        """Set the reserve aside again where it was released and the disk has space; tried every 30 s."""
        if not self._reserve.is_reserved and now_ns >= self._reserve_retry_ns:
            self._reserve_retry_ns = now_ns + _RESERVE_RETRY_NS
            if self._reserve.reserve():
                self.current.cap_bytes = self.current.full_cap

    def note_commit(self) -> None:
        """Note that a commit succeeded: the error, where there was one, is over."""
        self.retry_ns = 0
        if self.error is not None:
            self.error = None
            self._conditions.clear_fault(self._condition, "commits again")
        if self._must_recount:
            self.current.totals = self.current.read_totals()
            self._must_recount = False

    def close(self) -> None:
        """Close the file."""
        self.current.close()
