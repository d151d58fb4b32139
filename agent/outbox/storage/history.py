"""The bounded local history of delivered messages, for `kensa explain` and `kensa resend`.

It is a file of its own, in WAL with synchronous=NORMAL: a power cut may take its newest seconds, never the file. The
oldest rows are removed first, by age and by bytes, a few at a time. A damaged history is set aside and begun anew,
without delaying anything else.

Age is time that the agent has run: the column `utc_s` continues from the newest row by the monotonic clock. So a clock
that starts in 1970, or jumps to 2036 and back, erases nothing, and neither does a year on the shelf.
"""

from __future__ import annotations

import logging
import sqlite3
from typing import TYPE_CHECKING, Final

from agent.counters import LossCounters
from agent.errors import KensaError
from agent.outbox.storage.database import STREAM_TABLE, Streams, connect
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent.condition_log import ConditionLog
    from agent.outbox.outbox_records import Row

HISTORY_NAME: Final = "history.db"
_SCHEMA: Final = (
    STREAM_TABLE,
    """
CREATE TABLE IF NOT EXISTS delivered(
    id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL,
    utc_s INTEGER NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL -- utc_s: seconds of running time, see above
) STRICT
""",
    "CREATE INDEX IF NOT EXISTS delivered_by_seq ON delivered(stream, last_seq, first_seq)",
)
_PRUNE_ROWS: Final = 512  # at most, in one transaction
_PRUNE_EVERY_NS: Final = 10 * NS_PER_S
_log = logging.getLogger(__name__)


class History:
    """Used from one thread. No method raises for trouble with the file: the history is optional."""

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        max_age_s: float,
        conditions: ConditionLog | None = None,
        losses: LossCounters | None = None,
    ) -> None:
        """Open or create the file; a damaged one is replaced. `losses` counts messages that it could not store."""
        self._conditions = conditions
        self._losses = losses or LossCounters()
        self._path = path
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._pruned_ns: int | None = None
        self._open()

    def _open(self) -> None:
        try:
            self._try_open()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            _log.warning("The history %s is damaged (%s); it is set aside and a new one begun.", self._path, error)
            self._recreate()

    def _try_open(self) -> None:
        self._connection = connect(self._path, max_bytes=self._max_bytes * 2, synchronous="NORMAL")
        try:
            for statement in _SCHEMA:
                self._connection.execute(statement)
            self._streams = Streams(self._connection)
            newest = self._connection.execute("SELECT utc_s FROM delivered ORDER BY id DESC LIMIT 1").fetchone()
            self._anchor: tuple[int, int] | None = None  # running time in seconds at a monotonic time
            self._newest_s: int = newest[0] if newest else 0
            self._bytes: int = self._connection.execute("SELECT coalesce(sum(size), 0) FROM delivered").fetchone()[0]
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            self._connection.close()
            raise

    def _recreate(self) -> None:
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._path.replace(self._path.with_name(self._path.name + ".damaged"))
        self._try_open()

    def _running_s(self, now_ns: int) -> int:
        """Seconds of running time: that of the newest row, plus the monotonic time since the first call."""
        if self._anchor is None:
            self._anchor = (self._newest_s, now_ns)
        since_s, since_ns = self._anchor
        return since_s + (now_ns - since_ns) // NS_PER_S

    def add(self, rows: Sequence[Row], *, now_ns: int) -> None:
        """Store rows that were delivered by the monotonic time `now_ns`; gaps are not stored."""
        running_s = self._running_s(now_ns)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for row in rows:
                if row.verdicts:
                    self._insert(row, running_s)
            self._prune(running_s, now_ns)
            self._connection.execute("COMMIT")
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._losses.count("history_messages", len(rows))
            self._report_failure(f"it could not take {len(rows)} messages: {error}")
            self._recover()
        else:
            if self._conditions is not None:
                self._conditions.clear_fault(f"history {self._path}", "takes messages again")

    def _report_failure(self, text: str) -> None:
        if self._conditions is None:
            _log.warning("The history %s: %s", self._path, text)
        else:
            self._conditions.report_fault(f"history {self._path}", text)

    def _insert(self, row: Row, running_s: int) -> None:
        self._connection.execute(
            "INSERT INTO delivered(stream, first_seq, last_seq, utc_s, size, body) VALUES (?, ?, ?, ?, ?, ?)",
            (self._streams.id_of(row.stream), row.first_seq, row.last_seq, running_s, row.size, row.body),
        )
        self._bytes += row.size

    def _prune(self, running_s: int, now_ns: int) -> None:
        is_full = self._bytes > self._max_bytes
        if not is_full and self._pruned_ns is not None and now_ns - self._pruned_ns < _PRUNE_EVERY_NS:
            return
        self._pruned_ns = now_ns
        oldest = self._connection.execute("SELECT id, utc_s, size FROM delivered ORDER BY id LIMIT ?", (_PRUNE_ROWS,))
        last = None
        for number, delivered_s, size in oldest.fetchall():
            if self._bytes <= self._max_bytes and delivered_s > running_s - self._max_age_s:
                break
            self._bytes -= size
            last = number
        if last is not None:
            self._connection.execute("DELETE FROM delivered WHERE id <= ?", (last,))

    def _recover(self) -> None:
        self._connection.close()
        try:
            self._open()
        except (sqlite3.Error, OSError, KensaError) as error:
            self._report_failure(f"it cannot be used: {error}")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
