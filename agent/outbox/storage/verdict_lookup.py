"""Finds one verdict in the outbox or in the history, beside a running agent or without one.

Reads through its own short-lived connections: the writer's is never shared.
"""

from __future__ import annotations

import sqlite3
import zlib
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.errors import MessageError, OutboxError
from agent.outbox.outbox_records import decompress
from agent.outbox.storage.history import HISTORY_NAME
from agent.outbox.storage.store import STORE_NAME
from agent.wire import DecodedVerdicts, decode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.records import Verdict

_TABLES: Final = {STORE_NAME: "message", HISTORY_NAME: "delivered"}


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """A verdict and the message that holds it."""

    verdict: Verdict
    payload: bytes
    delivered: bool  # False while it waits in the outbox


def find_verdict(state_dir: Path, key: str) -> StoredVerdict | None:
    """Return the committed verdict with the key `line/camera/boot_epoch/seq`, or None when it is not stored.

    Raises MessageError for a malformed key, OutboxError when a file cannot be read.
    """
    parts = key.split("/")
    if len(parts) != 4 or not (parts[2].isdecimal() and parts[3].isdecimal()):  # noqa: PLR2004  the key's parts
        raise MessageError(
            f"{key[:200]!r} is not a verdict key: use line/camera/boot_epoch/seq, such as l1/cam/3/1042."
        )
    line, camera, epoch, seq = parts[0], parts[1], int(parts[2]), int(parts[3])
    wanted = f"{line}/{camera}/{epoch}/{seq}"
    for name in _TABLES:
        for body in _bodies(state_dir / name, line, camera, epoch, seq):
            for verdict, payload in _verdicts(body):
                if verdict.key == wanted:
                    return StoredVerdict(verdict, payload, delivered=name == HISTORY_NAME)
    return None


def _bodies(path: Path, line: str, camera: str, epoch: int, seq: int) -> list[bytes]:
    if not path.exists():
        return []
    table = _TABLES[path.name]
    query = (
        f"SELECT body FROM {table} WHERE first_seq <= ? AND last_seq >= ? AND stream IN "  # noqa: S608  constant
        "(SELECT id FROM stream WHERE line = ? AND camera = ? AND boot_epoch = ?) LIMIT 64"
    )
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as connection:
            return [body for (body,) in connection.execute(query, (seq, seq, line, camera, epoch))]
    except sqlite3.Error as error:
        raise OutboxError(f"The file {path} cannot be read: {error}.") from error


def _verdicts(body: bytes) -> Iterator[tuple[Verdict, bytes]]:
    try:
        payload = decompress(body)
        message = decode(payload)
    except (zlib.error, MessageError):
        return  # a damaged row is not the one that was requested
    if isinstance(message, DecodedVerdicts):
        for verdict in message.verdicts:
            yield verdict, payload


@dataclass(frozen=True, slots=True)
class KnownRange:
    """First and last key of stored verdicts of one camera and boot epoch; some in between may be gone."""

    line: str
    camera: str
    boot_epoch: int
    first_seq: int
    last_seq: int


def known_ranges(state_dir: Path) -> tuple[KnownRange, ...]:
    """Return the ranges of stored verdicts, newest epoch first. Raises OutboxError when a file cannot be read."""
    spans: dict[tuple[str, str, int], tuple[int, int]] = {}
    for name, table in _TABLES.items():
        path = state_dir / name
        if not path.exists():
            continue
        query = (
            f"SELECT line, camera, boot_epoch, MIN(first_seq), MAX(last_seq) FROM {table} "  # noqa: S608  constant
            f"JOIN stream ON stream.id = {table}.stream WHERE first_seq >= 0 GROUP BY line, camera, boot_epoch"
        )
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as connection:
                for line, camera, epoch, first, last in connection.execute(query):
                    span = spans.get((line, camera, epoch), (first, last))
                    spans[line, camera, epoch] = (min(first, span[0]), max(last, span[1]))
        except sqlite3.Error as error:
            raise OutboxError(f"The file {path} cannot be read: {error}.") from error
    found = [KnownRange(*key, *span) for key, span in spans.items()]
    return tuple(sorted(found, key=lambda r: (-r.boot_epoch, r.line, r.camera)))


def newest_epoch(state_dir: Path) -> int:
    """Return the greatest boot epoch in outbox and history; 0 when there is none or they cannot be read."""
    newest = 0
    for name in _TABLES:
        path = state_dir / name
        if not path.exists():
            continue
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as connection:
                newest = max(newest, *(epoch for (epoch,) in connection.execute("SELECT boot_epoch FROM stream")), 0)
        except sqlite3.Error:
            continue  # the other file may have one
    return newest
