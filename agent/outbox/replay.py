"""Reads stored messages in a range of sequence numbers, from history and backlog, to send them again.

Uses its own short-lived connections, reads a page at a time, and changes nothing in either file. A message that is sent
again carries the replay mark. An envelope is sent whole, so verdicts outside the range may come along: consumers drop
duplicates by the key.
"""

from __future__ import annotations

import re
import sqlite3
import zlib
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.errors import OutboxError, UsageError
from agent.outbox.outbox_records import decompress
from agent.outbox.storage import verdict_lookup
from agent.outbox.storage.history import HISTORY_NAME
from agent.outbox.storage.store import STORE_NAME
from agent.wire import mark_replay, sequence_numbers, verdict_topic

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MAX_VERDICTS: Final = 100_000  # of one command: an hour of a fast line
PAGE: Final = 64  # messages
_FILES: Final = ((HISTORY_NAME, "delivered"), (STORE_NAME, "message"))
_RANGE: Final = re.compile(
    r"(?:(?:[A-Za-z0-9_-]+/(?P<camera>[A-Za-z0-9_-]+)/)?(?P<epoch>\d{1,16})/)?"
    r"(?P<first>\d{1,16})(?:-(?P<last>\d{1,16}))?"
)


@dataclass(frozen=True, slots=True)
class ReplayRange:
    """Verdicts of one camera in one boot epoch, both numbers included."""

    camera: str
    boot_epoch: int
    first: int
    last: int

    @property
    def verdicts(self) -> int:
        """Number of verdicts in the range."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class ReplayCursor:
    """Read position: a file of `_FILES`, and the id of its row that was read last."""

    file: int = 0
    row: int = 0


@dataclass(frozen=True, slots=True)
class ReplayPage:
    """Some messages, oldest first, and the next read position; None at the end."""

    messages: tuple[tuple[str, bytes], ...]  # topic, payload with the replay mark
    numbers: frozenset[int]  # sequence numbers of the range that are in them
    next: ReplayCursor | None


def parse_range(state_dir: Path, camera: str, text: str) -> ReplayRange:
    """Return what `text` means: FROM-TO or one number of the camera's newest start, EPOCH/FROM-TO, or a key with -TO.

    Raises UsageError for anything else and for more than `MAX_VERDICTS`, OutboxError when nothing of the camera is
    kept.
    """
    match = _RANGE.fullmatch(text)
    if match is None or match["camera"] not in {None, camera}:
        raise UsageError(
            f"{text[:100]!r} is no range of verdicts of camera {camera!r}: use FROM-TO (100-250), EPOCH/FROM-TO, or a "
            "key with -TO (line-1/cam/695784715526231/100-250)"
        )
    first = int(match["first"])
    last = first if match["last"] is None else int(match["last"])
    if last < first or last - first >= MAX_VERDICTS:
        raise UsageError(
            f"{text[:100]!r}: from 1 to {MAX_VERDICTS} verdicts can be sent at once, the lower number first"
        )
    epoch = newest_epoch_of_camera(state_dir, camera) if match["epoch"] is None else int(match["epoch"])
    return ReplayRange(camera, epoch, first, last)


def newest_epoch_of_camera(state_dir: Path, camera: str) -> int:
    """Return the camera's newest boot epoch with stored verdicts. Raises OutboxError when there is none."""
    known = verdict_lookup.known_ranges(state_dir)
    for found in known:
        if found.camera == camera:
            return found.boot_epoch
    cameras = ", ".join(sorted({found.camera for found in known})) or "none"
    raise OutboxError(f"No verdict of camera {camera!r} is kept in {state_dir}; cameras with verdicts: {cameras}.")


def read_page(state_dir: Path, wanted: ReplayRange, place: ReplayCursor) -> ReplayPage:
    """Return up to `PAGE` messages that hold verdicts of the range. Raises OutboxError when a file cannot be read."""
    name, table = _FILES[place.file]
    path = state_dir / name
    rows = _rows(path, table, wanted, place.row) if path.exists() else []
    messages: list[tuple[str, bytes]] = []
    numbers: set[int] = set()
    for _, thing, body in rows:
        try:
            payload = decompress(body)
            found = {seq for seq in sequence_numbers(payload) if wanted.first <= seq <= wanted.last}
        except (zlib.error, ValueError, LookupError, TypeError):
            continue  # a damaged row: its verdicts count as not kept
        if found:
            numbers |= found
            messages.append((verdict_topic(thing, wanted.camera), mark_replay(payload)))
    following = ReplayCursor(place.file, rows[-1][0]) if len(rows) == PAGE else ReplayCursor(place.file + 1)
    return ReplayPage(tuple(messages), frozenset(numbers), following if following.file < len(_FILES) else None)


def _rows(path: Path, table: str, wanted: ReplayRange, after: int) -> list[tuple[int, str, bytes]]:
    query = (
        f"SELECT {table}.id, thing, body FROM {table} JOIN stream ON stream.id = {table}.stream "  # noqa: S608  constant
        f"WHERE {table}.id > ? AND camera = ? AND boot_epoch = ? "
        f"AND first_seq BETWEEN 0 AND ? AND last_seq >= ? ORDER BY {table}.id LIMIT ?"
    )
    values = (after, wanted.camera, wanted.boot_epoch, wanted.last, wanted.first, PAGE)
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as connection:
            return connection.execute(query, values).fetchall()
    except sqlite3.Error as error:
        raise OutboxError(f"The file {path} cannot be read: {error}.") from error


def ranges_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the numbers as [first, last] pairs, ascending, both included."""
    pairs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if pairs and pairs[-1][1] + 1 == number:
            pairs[-1] = (pairs[-1][0], number)
        else:
            pairs.append((number, number))
    return pairs
