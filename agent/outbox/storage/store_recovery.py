"""Recovers a damaged store: copies every intact row into a new one and names the losses.

Rows are read by ranges of ids, narrowing around what cannot be read; each must pass its CRC. The covering index uses
other pages than the rows: an id that it has and that was not recovered is a loss with its stream, outcome and numbers.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agent.durable import sync_directory
from agent.errors import MessageError
from agent.outbox.outbox_records import OUTCOME_OF_PRIORITY, Loss, Priority, Row, Stream
from agent.outbox.storage.database import STREAM_QUERY, stream_crc
from agent.outbox.storage.store import COLUMNS, OutboxStore, read_row, row_crc
from agent.wire import DecodedVerdicts, Gap, ModelReport, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

DAMAGED_SUFFIX: Final = ".damaged"
_NEW_SUFFIX: Final = ".fresh"
_FILE_SUFFIXES: Final = ("", "-wal", "-shm")
_MAX_QUERIES: Final = 20_000
_ROWS_A_COMMIT: Final = 512


@dataclass(frozen=True, slots=True)
class RecoveryResult:
    """Result of the recovery of a damaged store."""

    recovered: frozenset[int]  # ids of the rows that are in the new store
    losses: Mapping[int, Loss]  # by the id of the lost row
    streams: tuple[Stream, ...]  # of the recovered rows and the losses
    is_complete: bool  # nothing is lost; otherwise `losses` may be too few, since the index may be damaged as well


def new_store_path(path: Path) -> Path:
    """Return the path at which the replacement of the damaged `path` is built, free of leftovers."""
    fresh = _beside(path, _NEW_SUFFIX)
    for suffix in _FILE_SUFFIXES:
        _beside(fresh, suffix).unlink(missing_ok=True)
    return fresh


def replace_damaged(path: Path) -> None:
    """Set the damaged file aside, over an earlier one, and put the new one in its place."""
    path.replace(_beside(path, DAMAGED_SUFFIX))
    finish_replacement(path)


def finish_replacement(path: Path) -> None:
    """Finish a `replace_damaged` that a power cut interrupted between its two renames; else do nothing.

    The new file is complete, because the damaged one is set aside only then.
    """
    fresh = _beside(path, _NEW_SUFFIX)
    if path.exists() or not fresh.exists():
        return
    for suffix in _FILE_SUFFIXES[1:]:
        source, target = _beside(path, suffix), _beside(_beside(path, DAMAGED_SUFFIX), suffix)
        target.unlink(missing_ok=True)
        if source.exists():
            source.rename(target)
    fresh.rename(path)
    sync_directory(path.parent)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def recover_rows(damaged: Path, store: OutboxStore) -> RecoveryResult:
    """Copy the intact rows of `damaged` into the new and empty `store`, under the same ids."""
    reader = _Reader(damaged)
    try:
        rows, is_complete = reader.read()
    finally:
        reader.close()
    for start in range(0, len(rows), _ROWS_A_COMMIT):
        with store.transaction():
            for row in rows[start : start + _ROWS_A_COMMIT]:
                store.put(row, replaced=None)
    saved = {row.id for row in rows}
    losses = {number: loss for number, loss in reader.indexed.items() if number not in saved and loss is not None}
    streams = dict.fromkeys([*(row.stream for row in rows), *(loss.stream for loss in losses.values())])
    return RecoveryResult(frozenset(saved), losses, tuple(streams), is_complete and saved == reader.indexed.keys())


class _Reader:
    """Reads the intact rows of one damaged file."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._queries = 0
        self._streams: dict[int, Stream] = {}
        self.indexed: dict[int, Loss | None] = {}  # id -> its loss; None for a gap

    def close(self) -> None:
        self._connection.close()

    def read(self) -> tuple[list[Row], bool]:
        """Return the intact rows in ascending order, and whether these seem to be all."""
        whole_streams = self._try(STREAM_QUERY, (), self._add_stream)
        found: dict[int, tuple[Any, ...]] = {}
        whole_rows = self._read_range(1, self._newest_id(), lambda row: found.__setitem__(row[0], row))
        self._streams_from_bodies(found)
        whole_index = all(self._read_index(rank) for rank in Priority)
        rows = [row for _, values in sorted(found.items()) if (row := self._whole(values)) is not None]
        return rows, whole_streams and whole_index and whole_rows and len(rows) == len(found)

    def _try(self, query: str, parameters: tuple[int, ...], take: Callable[[tuple[Any, ...]], object]) -> bool:
        """Call `take` with each row of the query until one cannot be read; True when all could."""
        self._queries += 1
        try:
            with closing(self._connection.execute(query, parameters)) as cursor:
                for row in cursor:
                    take(row)
        except (sqlite3.Error, ValueError, TypeError, OverflowError):  # a damaged page can hold anything
            return False
        return True

    def _add_stream(self, row: tuple[Any, ...]) -> None:
        if [type(value) for value in row] == [int, str, str, str, str, int, int]:
            stream = Stream(*row[1:6])
            if stream_crc(stream) == row[6]:
                self._streams[row[0]] = stream

    def _newest_id(self) -> int:
        found: list[int] = []
        self._try("SELECT max(id) FROM message", (), lambda row: found.append(row[0] or 0))
        for rank in Priority:
            self._try(
                "SELECT max(id) FROM message INDEXED BY message_by_value WHERE rank = ?",
                (int(rank),),
                lambda row: found.append(row[0] or 0),
            )
        return max(found, default=0) or 2**40

    def _read_range(self, first: int, last: int, take: Callable[[tuple[Any, ...]], object]) -> bool:
        """Read ids `first` to `last` from both ends, then halve what is between; True when all could be read."""
        if first > last or self._queries > _MAX_QUERIES:
            return first > last
        seen: list[int] = []

        def note(row: tuple[Any, ...]) -> None:
            seen.append(row[0])
            take(row)

        base = f"SELECT {COLUMNS} FROM message NOT INDEXED WHERE id BETWEEN ? AND ? ORDER BY id"  # noqa: S608  constant
        if self._try(base, (first, last), note):
            return True
        first = max([first, *(number + 1 for number in seen)])
        seen.clear()
        self._try(base + " DESC", (first, last), note)
        last = min([last, *(number - 1 for number in seen)])
        if first < last:
            middle = (first + last) // 2
            self._read_range(first, middle, take)
            self._read_range(middle + 1, last, take)
        return False

    def _read_index(self, rank: Priority) -> bool:
        return self._try(
            "SELECT id, stream, first_seq, last_seq, verdicts FROM message INDEXED BY message_by_value WHERE rank = ?",
            (int(rank),),
            lambda row: self._add_indexed(rank, *row),
        )

    def _add_indexed(self, rank: Priority, number: int, stream: int, first: int, last: int, verdicts: int) -> None:
        if rank is Priority.GAP:
            self.indexed[number] = None
        elif stream in self._streams:
            loss = Loss(self._streams[stream], OUTCOME_OF_PRIORITY[rank], verdicts, ((first, last),), first == last)
            self.indexed[number] = loss

    def _streams_from_bodies(self, found: dict[int, tuple[Any, ...]]) -> None:
        """Restore streams whose own row is damaged from intact messages."""
        for values in found.values():
            number, rank, stream, first, last, verdicts, utc_s, _size, crc, body = values
            if stream in self._streams or not isinstance(body, bytes):
                continue
            if row_crc(number, rank, stream, first, last, verdicts, body) != crc:
                continue
            row = Row(number, Priority(rank), Stream("", "", "", "", 0), first, last, verdicts, utc_s, body)
            try:
                message = decode(row.payload)
            except MessageError:
                continue
            if isinstance(message, DecodedVerdicts):
                self._streams[stream] = Stream.of(message.verdicts[0].origin)
            elif isinstance(message, Gap):
                self._streams[stream] = Stream(
                    message.thing, message.line, message.inspection, message.camera, message.boot_epoch
                )
            elif isinstance(message, ModelReport):
                self._streams[stream] = Stream.of_reports(
                    thing=message.thing,
                    line=message.line,
                    inspection=message.inspection,
                    boot_epoch=message.boot_epoch,
                )

    def _whole(self, values: tuple[Any, ...]) -> Row | None:
        if [type(value) for value in values] != [*[int] * 9, bytes]:
            return None
        return read_row(values, self._streams)
