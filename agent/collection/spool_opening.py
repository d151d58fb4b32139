"""Opens the spool: its folder, lock and database; a damaged database is set aside."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Final

from agent.collection.spool import IMAGES_FOLDER, Spool
from agent.errors import StateDirError

if TYPE_CHECKING:
    from pathlib import Path

    from agent.timing.clock import Clock

_LOCK_WAIT_S: Final = 10.0  # for the child of an agent that was just killed
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS item(
    id INTEGER PRIMARY KEY AUTOINCREMENT, stem TEXT NOT NULL UNIQUE, file TEXT NOT NULL UNIQUE, reason TEXT NOT NULL,
    bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, sidecar BLOB NOT NULL, state TEXT NOT NULL DEFAULT 'waiting',
    upload_id TEXT) STRICT;
CREATE TABLE IF NOT EXISTS part(
    item INTEGER NOT NULL REFERENCES item(id) ON DELETE CASCADE, number INTEGER NOT NULL, etag TEXT NOT NULL,
    sha256 TEXT NOT NULL, PRIMARY KEY(item, number)) STRICT;
CREATE TABLE IF NOT EXISTS count(kind TEXT NOT NULL, name TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY(kind, name))
    STRICT;
CREATE TABLE IF NOT EXISTS day(
    day TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY(day, kind, name))
    STRICT;
CREATE TABLE IF NOT EXISTS target(one INTEGER PRIMARY KEY CHECK(one = 1), name TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS job(one INTEGER PRIMARY KEY CHECK(one = 1), boot_epoch INTEGER NOT NULL, number INTEGER NOT
    NULL) STRICT;
"""


def open_spool(folder: Path, *, clock: Clock) -> Spool:
    """Open, and where needed make, the spool in `folder`. Raises StateDirError with the remedy.

    A spool database that is damaged is renamed; the images that it listed are removed.
    """
    try:
        (folder / IMAGES_FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_fd = _lock_folder(folder)
    except OSError as error:
        raise StateDirError(
            f"The folder {folder} cannot be used for collected frames: {error.strerror}. Give this user the right to "
            "write there, or free disk space."
        ) from error
    path = folder / "spool.db"
    try:
        try:
            connection = _connect(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            path.replace(path.with_name(f"spool.damaged-{time.time_ns()}.db"))
            connection = _connect(path)
        return Spool(folder, connection=connection, lock_fd=lock_fd, clock=clock)
    except (OSError, sqlite3.Error) as error:
        os.close(lock_fd)
        raise StateDirError(
            f"{path} cannot be used: {error}. Free disk space, or give this user the right to write there."
        ) from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        connection.execute("PRAGMA journal_mode=wal")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.executescript(_SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _lock_folder(folder: Path) -> int:
    """Take the folder's lock; the child of a killed agent releases it within a moment. Raises OSError."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise
            time.sleep(0.02)
        else:
            return descriptor
