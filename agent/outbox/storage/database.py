"""Opens SQLite files so that committed data stays, and reads every pragma back.

WAL with synchronous=FULL lost nothing in 40 power cuts, NORMAL lost data in two thirds of them. `max_page_count` is a
setting of the connection.
"""

from __future__ import annotations

import sqlite3
import zlib
from dataclasses import astuple
from typing import TYPE_CHECKING, Final, Literal

from agent.errors import OutboxError, StateDirError
from agent.outbox.outbox_records import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PAGE_BYTES: Final = 4_096
# A damaged schema or row also shows as an error of the statement, of a type or of a size.
_CORRUPT: Final = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_RANGE,
    }
)
_SYNCHRONOUS: Final = {"NORMAL": 1, "FULL": 2}

STREAM_TABLE: Final = """
CREATE TABLE IF NOT EXISTS stream(
    id INTEGER PRIMARY KEY, thing TEXT NOT NULL, line TEXT NOT NULL, inspection TEXT NOT NULL, camera TEXT NOT NULL,
    boot_epoch INTEGER NOT NULL, crc INTEGER NOT NULL, UNIQUE(line, camera, boot_epoch, thing, inspection)
) STRICT
"""


STREAM_QUERY: Final = "SELECT id, thing, line, inspection, camera, boot_epoch, crc FROM stream"


class DamagedFileError(sqlite3.DatabaseError):
    """Damage found by Kensa's own check rather than by SQLite."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether the file is damaged, as opposed to full, locked or unreadable."""
    return primary_code(error) in _CORRUPT or "decode" in str(error)  # a text that is not UTF-8 comes without a code


def is_full(error: sqlite3.Error) -> bool:
    """Whether the disk or the page cap is full."""
    return primary_code(error) == sqlite3.SQLITE_FULL


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; 0 when Python raised the error itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def connect(path: Path, *, max_bytes: int, synchronous: Literal["NORMAL", "FULL"]) -> sqlite3.Connection:
    """Open `path` for writing, with at most `max_bytes` on disk; its write-ahead log stays within 4 MiB.

    Raises sqlite3.DatabaseError for a damaged file, StateDirError for one that cannot be opened, and OutboxError when
    SQLite does not keep a setting.
    """
    max_pages = max_bytes // PAGE_BYTES
    wal_pages = max(32, min(1_000, max_pages // 8))
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    except sqlite3.OperationalError as error:
        raise _unusable(path, error) from error
    try:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        _set(connection, path, "journal_mode", "wal")
        _set(connection, path, "synchronous", _SYNCHRONOUS[synchronous])
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        _set(connection, path, "max_page_count", max(max_pages, pages))  # the file may be larger already
        _set(connection, path, "wal_autocheckpoint", wal_pages)
        _set(connection, path, "journal_size_limit", wal_pages * PAGE_BYTES)
    except sqlite3.DatabaseError as error:
        connection.close()
        if is_corrupt(error):
            raise
        raise _unusable(path, error) from error
    except (OutboxError, UnicodeDecodeError):
        connection.close()
        raise
    return connection


def _set(connection: sqlite3.Connection, path: Path, name: str, value: int | str) -> None:
    connection.execute(f"PRAGMA {name}={value}")
    kept = connection.execute(f"PRAGMA {name}").fetchone()[0]
    if kept != value:
        raise OutboxError(f"SQLite keeps {name} of {path} at {kept} where {value} was requested.")


def _unusable(path: Path, error: sqlite3.Error) -> StateDirError:
    return StateDirError(
        f"The file {path} cannot be opened for writing: {error}. Give this user the right to write there, free disk "
        "space, or set another state directory."
    )


def stream_crc(stream: Stream) -> int:
    """CRC-32 over all fields that address the stream's messages."""
    return zlib.crc32(repr(stream).encode("utf-8", "replace"))


class Streams:
    """The table of streams of one file, cached in both directions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Read the table of an open file."""
        self._connection = connection
        self._by_id: dict[int, Stream] = {}
        self._ids: dict[Stream, int] = {}
        self.reload()

    def __getitem__(self, number: int) -> Stream:
        """The stream with this id."""
        return self._by_id[number]

    def items(self) -> Iterable[tuple[int, Stream]]:
        """Id and stream of each."""
        return self._by_id.items()

    def id_of(self, stream: Stream) -> int:
        """Return the id; a new stream is inserted, inside the caller's transaction."""
        number = self._ids.get(stream)
        if number is None:
            number = max(self._by_id, default=0) + 1
            self._connection.execute(
                "INSERT INTO stream VALUES (?, ?, ?, ?, ?, ?, ?)",
                (number, *astuple(stream), stream_crc(stream)),
            )
            self._remember(number, stream)
        return number

    def reload(self) -> None:
        """Read the table, again after a rollback."""
        self._by_id.clear()
        self._ids.clear()
        rows = self._connection.execute(STREAM_QUERY)
        for number, *fields, crc in rows:
            stream = Stream(*fields)
            if stream_crc(stream) != crc:
                raise DamagedFileError(f"the stream {number} has a wrong checksum")
            self._remember(number, stream)

    def _remember(self, number: int, stream: Stream) -> None:
        self._by_id[number] = stream
        self._ids[stream] = number
