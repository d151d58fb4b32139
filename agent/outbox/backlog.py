"""Which waiting rows of the log go to the sender next: the most valuable first, within a rank the oldest.

Rows of topics that are held back are passed over. When such a topic may be sent again, its rows are read from the
start, in a second lane: each page is half for it and half for all others, so that a long backlog of one topic keeps
nobody waiting. Used from the writer's thread only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.outbox.outbox_records import Priority

if TYPE_CHECKING:
    from collections.abc import Collection

    from agent.outbox.outbox_records import Row
    from agent.outbox.storage.store import OutboxStore


def _initial_cursors() -> dict[Priority, int]:
    return dict.fromkeys(Priority, 0)


@dataclass(slots=True)
class _Lane:
    """Rows of a rank up to its cursor are with the sender, done with, or held back."""

    cursors: dict[Priority, int] = field(default_factory=_initial_cursors)


class Backlog:
    """Where the reading of each lane stands."""

    def __init__(self) -> None:
        self._main_lane = _Lane()
        self._released_lane = _Lane()
        self._released_topics: frozenset[str] = frozenset()  # whose rows are in the second lane
        self._held_back: frozenset[str] = frozenset()
        self.is_exhausted = False  # nothing waits but what is held back, or with the sender already

    @property
    def held_back(self) -> frozenset[str]:
        """The topics whose rows are passed over."""
        return self._held_back

    def reset(self) -> None:
        """Read everything again: the log is another one."""
        self._main_lane, self._released_lane = _Lane(), _Lane()
        self.is_exhausted = False

    def hold_back(self, topics: frozenset[str]) -> None:
        """Pass over the rows of these topics, and only these, from now on."""
        freed = self._held_back - topics
        self._held_back = topics
        returned = (self._released_topics | freed) - topics
        if freed:
            self._released_lane = _Lane()
            self.is_exhausted = False
        self._released_topics = returned

    def note_new_rows(self) -> None:
        """Note that rows were committed which nobody offered to the sender."""
        self.is_exhausted = False

    def put_back(self, row: Row) -> None:
        """Note that `row` waits in the log and is not with the sender."""
        topic = row.stream.topic
        lane = self._released_lane if topic in self._released_topics else self._main_lane
        lane.cursors[row.priority] = min(lane.cursors[row.priority], row.id - 1)
        self.is_exhausted = False

    def next_page(self, log: OutboxStore, skip: Collection[int], size: int) -> tuple[list[Row], list[int]]:
        """Return up to `size` rows whose ids are not in `skip`, and the ids of rows that cannot be read."""
        passed = self._streams(log, self._held_back)
        if not self._released_topics:
            page, damaged = self._read(log, self._main_lane, skip, size, without=passed)
        else:
            returned = self._streams(log, self._released_topics)
            page, damaged = self._read(log, self._main_lane, skip, size - size // 2, without=passed | returned)
            room = size - len(page)
            second, unreadable = self._read(log, self._released_lane, skip, room, only=returned)
            page, damaged = [*page, *second], [*damaged, *unreadable]
            if len(second) < room:
                self._released_topics = frozenset()  # they have caught up
        self.is_exhausted = len(page) < size and not self._released_topics
        return page, damaged

    @staticmethod
    def _streams(log: OutboxStore, topics: frozenset[str]) -> frozenset[int]:
        if not topics:
            return frozenset()
        return frozenset(number for number, stream in log.streams.items() if stream.topic in topics)

    @staticmethod
    def _read(
        log: OutboxStore,
        lane: _Lane,
        skip: Collection[int],
        room: int,
        *,
        without: frozenset[int] = frozenset(),
        only: frozenset[int] | None = None,
    ) -> tuple[list[Row], list[int]]:
        page: list[Row] = []
        damaged: list[int] = []
        newest = log.newest_id()
        for rank in reversed(Priority):
            left = room - len(page)
            if left <= 0:
                break
            cursor = lane.cursors[rank]
            asked = left + sum(number > cursor for number in skip)  # the others are not read anyway
            rows, unreadable = log.rows_after(rank, cursor, asked, without=without, only=only)
            fresh = [row for row in rows if row.id not in skip][:left]
            page += fresh
            damaged += [number for number in unreadable if number not in skip]
            if len(rows) + len(unreadable) < asked and len(fresh) < left:
                # So that rows which are passed over are not read again; a row that comes back moves the cursor back.
                lane.cursors[rank] = max(lane.cursors[rank], newest)
            elif fresh:
                lane.cursors[rank] = fresh[-1].id
        return page, damaged
