"""The durable message store of the outbox: one SQLite file, one connection, used from one thread.

Promise: a committed `transaction` survives a power cut. Each row carries a CRC, and an index covers all columns but the
bodies, so that the rows of a damaged page can still be named. The byte cap stays below SQLite's page cap, because at
the page cap even evicting fails.
"""

from __future__ import annotations

import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agent.durable import sync_directory
from agent.outbox.outbox_records import OUTCOME_OF_PRIORITY, Loss, Priority, Row
from agent.outbox.storage.database import PAGE_BYTES, STREAM_TABLE, DamagedFileError, Streams, connect
from agent.wire import sequence_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from agent.outbox.outbox_records import Stream

STORE_NAME: Final = "outbox.db"
_SCHEMA: Final = (
    STREAM_TABLE,
    """
CREATE TABLE IF NOT EXISTS message(
    id INTEGER PRIMARY KEY, rank INTEGER NOT NULL, stream INTEGER NOT NULL, first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL, verdicts INTEGER NOT NULL, utc_s INTEGER NOT NULL, size INTEGER NOT NULL,
    crc INTEGER NOT NULL, body BLOB NOT NULL
) STRICT
""",
    """
CREATE INDEX IF NOT EXISTS message_by_value
    ON message(rank, id, stream, first_seq, last_seq, verdicts, size)
""",
)
COLUMNS: Final = "id, rank, stream, first_seq, last_seq, verdicts, utc_s, size, crc, body"
_CHECKED_BYTES: Final = 32 * 1024 * 1024  # files up to this are checked as a whole when they are opened (about 0.1 s)


@dataclass(frozen=True, slots=True)
class StoreTotals:
    """Sums over the rows of the store."""

    rows: int = 0
    verdicts: int = 0
    bytes: int = 0

    def plus(self, rows: int, verdicts: int, size: int) -> StoreTotals:
        """Return the sum."""
        return StoreTotals(self.rows + rows, self.verdicts + verdicts, self.bytes + size)


def row_crc(number: int, rank: int, stream: int, first: int, last: int, verdicts: int, body: bytes) -> int:
    """CRC-32 over all fields that are needed to deliver the row."""
    return zlib.crc32(body, zlib.crc32(f"{number},{rank},{stream},{first},{last},{verdicts}".encode()))


class OutboxStore:
    """Puts, reads and evicts rows within the cap. Errors of SQLite pass through: `RecoverableStore` handles them."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        """Open or create the file. Raises sqlite3.DatabaseError when it is damaged, StateDirError when not usable."""
        is_new = not path.exists()
        self._connection = connect(path, max_bytes=max_bytes, synchronous="FULL")
        try:
            for statement in _SCHEMA:
                self._connection.execute(statement)
            if is_new:
                sync_directory(path.parent)
            self._check(path)
            self.streams = Streams(self._connection)
            self.totals = self.read_totals()
        except BaseException:
            self._connection.close()
            raise
        self._page_cap = max_bytes // PAGE_BYTES * 9 // 10
        self.full_cap: Final = max_bytes * 8 // 10
        self.cap_bytes = self.full_cap  # lowered while the disk is full

    def _check(self, path: Path) -> None:
        if path.stat().st_size > _CHECKED_BYTES:
            return  # damage is found when the rows are read: by SQLite, or by their CRC
        result = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        counts = self._connection.execute(
            "SELECT (SELECT count(*) FROM message NOT INDEXED), "
            "(SELECT count(*) FROM message INDEXED BY message_by_value WHERE rank >= 0)"
        ).fetchone()
        if result != "ok" or counts[0] != counts[1]:
            raise DamagedFileError(f"{path}: {result}; {counts[0]} rows, {counts[1]} in the index")

    def read_totals(self) -> StoreTotals:
        """Return the sums over the file, read from its index."""
        rows, verdicts, size = self._connection.execute(
            "SELECT count(*), coalesce(sum(verdicts), 0), coalesce(sum(size), 0) "
            "FROM message INDEXED BY message_by_value WHERE rank >= 0"
        ).fetchone()
        return StoreTotals(rows, verdicts, size)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit the changes of the block durably; any error rolls all of them back."""
        before = self.totals
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self.totals = before
            if self._connection.in_transaction:  # SQLite may have rolled back by itself
                self._connection.execute("ROLLBACK")
            self.streams.reload()
            raise

    def put(self, row: Row, *, replaced: Row | None) -> None:
        """Insert the row, or write it over its committed version `replaced`. Inside a transaction."""
        stream = self.streams.id_of(row.stream)
        crc = row_crc(row.id, row.priority, stream, row.first_seq, row.last_seq, row.verdicts, row.body)
        self._connection.execute(
            f"INSERT OR REPLACE INTO message({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  constant
            (
                row.id,
                int(row.priority),
                stream,
                row.first_seq,
                row.last_seq,
                row.verdicts,
                row.utc_s,
                row.size,
                crc,
                row.body,
            ),
        )
        if replaced is None:
            self.totals = self.totals.plus(1, row.verdicts, row.size)
        else:
            self.totals = self.totals.plus(0, row.verdicts - replaced.verdicts, row.size - replaced.size)

    def delete(self, number: int) -> None:
        """Remove the row with this id, if it is there. Inside a transaction."""
        gone = self._connection.execute(
            "DELETE FROM message WHERE id = ? RETURNING verdicts, size", (number,)
        ).fetchall()
        for verdicts, size in gone:
            self.totals = self.totals.plus(-1, -verdicts, -size)

    def is_over_cap(self) -> bool:
        """Whether something must be evicted before the transaction may end."""
        return self.totals.bytes > self.cap_bytes or self.pages_used() > self._page_cap

    def has_room(self, size: int) -> bool:
        """Whether rows of `size` bytes fit without evicting, whichever pages they use."""
        pages = self.pages_used() + 2 * (size // PAGE_BYTES) + 8
        return self.totals.bytes + size <= self.cap_bytes and pages <= self._page_cap

    def pages_used(self) -> int:
        """Pages in use, including the transaction's own."""
        pages: int = self._connection.execute("PRAGMA page_count").fetchone()[0]
        free: int = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
        return pages - free

    def evict(self, protected: Collection[int], note: Callable[[int, Loss], None], *, below: Priority) -> None:
        """Remove the rows of lowest priority, oldest first, until the store is within its caps; inside a transaction.

        Rows whose id is in `protected` and those of priority `below` or higher stay. `note` is called with the id and
        the loss of each.
        """
        while self.is_over_cap():
            victims = self._connection.execute(
                "SELECT id, rank, stream, first_seq, last_seq, verdicts FROM message INDEXED BY message_by_value "
                "WHERE rank < ? ORDER BY rank, id LIMIT ?",
                (int(below), len(protected) + 8),
            ).fetchall()
            victims = [victim for victim in victims if victim[0] not in protected]
            if not victims:
                return
            for number, rank, stream, first, last, verdicts in victims:
                row = self._row(number)
                outcome = OUTCOME_OF_PRIORITY[Priority(rank)]
                unread = Loss(self.streams[stream], outcome, verdicts, ((first, last),), first == last)
                note(number, unread if row is None else loss_of(row))
                self.delete(number)
                if not self.is_over_cap():
                    return

    def rows_after(
        self,
        rank: Priority,
        number: int,
        limit: int,
        *,
        without: Collection[int] = (),
        only: Collection[int] | None = None,
    ) -> tuple[list[Row], list[int]]:
        """Return up to `limit` rows of `rank` with ids above `number`, ascending, and the ids of unreadable ones.

        `without` skips the rows of the streams with these ids; `only` skips all others.
        """
        where, streams = "", tuple(without)
        if only is not None:
            where, streams = f"AND stream IN ({_marks(only)}) ", tuple(only)
        elif streams:
            where = f"AND stream NOT IN ({_marks(streams)}) "
        found = self._connection.execute(
            "SELECT id FROM message INDEXED BY message_by_value "  # noqa: S608  question marks only
            f"WHERE rank = ? AND id > ? {where}ORDER BY id LIMIT ?",
            (int(rank), number, *streams, limit),
        ).fetchall()
        rows: list[Row] = []
        damaged: list[int] = []
        for (row_number,) in found:
            row = self._row(row_number)
            if row is None:
                damaged.append(row_number)
            else:
                rows.append(row)
        return rows, damaged

    def unevictable_rows(self) -> int:
        """Return how many rows are never evicted: gaps and reports."""
        query = "SELECT count(*) FROM message INDEXED BY message_by_value WHERE rank = ?"
        return int(self._connection.execute(query, (int(Priority.GAP),)).fetchone()[0])

    def loss(self, number: int) -> Loss | None:
        """Return the loss of an unreadable row, from the index; None for a gap or an unknown id."""
        found = self._connection.execute(
            "SELECT rank, stream, first_seq, last_seq, verdicts FROM message INDEXED BY message_by_value "
            "WHERE rank IN (0, 1, 2, 3) AND id = ?",
            (number,),
        ).fetchone()
        if found is None:
            return None
        rank, stream, first, last, verdicts = found
        return Loss(
            self.streams[stream], OUTCOME_OF_PRIORITY[Priority(rank)], verdicts, ((first, last),), first == last
        )

    def oldest_utc_s(self) -> int | None:
        """Return when the oldest row was committed; None when the store is empty."""
        found = self._connection.execute("SELECT utc_s FROM message ORDER BY id LIMIT 1").fetchone()
        return found and int(found[0])

    def newest_id(self) -> int:
        """Return the greatest id; 0 when the store is empty."""
        return int(self._connection.execute("SELECT coalesce(max(id), 0) FROM message").fetchone()[0])

    def _row(self, number: int) -> Row | None:
        found = self._connection.execute(f"SELECT {COLUMNS} FROM message WHERE id = ?", (number,)).fetchone()  # noqa: S608
        return None if found is None else read_row(found, self.streams)

    def handle_disk_full(self, growth: int) -> None:
        """Respond to a full disk: grow by at most `growth` bytes, or shrink if that is 0; reuse the write-ahead log."""
        bound = self.totals.bytes + growth if growth else self.totals.bytes * 9 // 10
        self.cap_bytes = min(self.cap_bytes, bound)
        self._connection.execute("PRAGMA wal_checkpoint(RESTART)")

    def close(self) -> None:
        """Merge the write-ahead log and close the file."""
        self._connection.close()


def _marks(values: Collection[int]) -> str:
    return ",".join("?" * len(values))


def read_row(found: tuple[Any, ...], streams: Streams | Mapping[int, Stream]) -> Row | None:
    """Return the row of `SELECT COLUMNS`, or None when its CRC is wrong or its stream is unknown."""
    number, rank, stream, first, last, verdicts, utc_s, _size, crc, body = found
    if row_crc(number, rank, stream, first, last, verdicts, body) != crc:
        return None
    try:
        return Row(number, Priority(rank), streams[stream], first, last, verdicts, utc_s, body)
    except KeyError:
        return None


def loss_of(row: Row) -> Loss:
    """Return the loss of a readable row, with exact numbers."""
    ranges: list[tuple[int, int]] = []
    for seq in sorted(sequence_numbers(row.payload)):
        if ranges and ranges[-1][1] + 1 == seq:
            ranges[-1] = (ranges[-1][0], seq)
        else:
            ranges.append((seq, seq))
    return Loss(row.stream, OUTCOME_OF_PRIORITY[row.priority], row.verdicts, tuple(ranges), exact=True)
