"""Selects the waiting rows that go to the sender next: by priority, then the oldest first.

Rows of topics that are held back are skipped. When such a topic may be sent again, its rows are read from the start,
in a second lane: each page is half for it and half for all others, so that a long backlog of one topic delays nobody.
Used from the writer's thread only.
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
    """Rows of a priority up to its cursor are with the sender, delivered, or held back."""

    cursors: dict[Priority, int] = field(default_factory=_initial_cursors)


class Backlog:
    """The read position of each lane."""

    def __init__(self) -> None:
        self._main_lane = _Lane()
        self._released_lane = _Lane()
        self._released_topics: frozenset[str] = frozenset()  # whose rows are in the second lane
        self._held_back: frozenset[str] = frozenset()
        self.is_exhausted = False  # only rows that are held back or with the sender are left

    @property
    def held_back(self) -> frozenset[str]:
        """The topics whose rows are skipped."""
        return self._held_back

    def reset(self) -> None:
        """Read everything again, after the store was replaced."""
        self._main_lane, self._released_lane = _Lane(), _Lane()
        self.is_exhausted = False

    def hold_back(self, topics: frozenset[str]) -> None:
        """Skip the rows of these topics, and only these, from now on."""
        freed = self._held_back - topics
        self._held_back = topics
        returned = (self._released_topics | freed) - topics
        if freed:
            self._released_lane = _Lane()
            self.is_exhausted = False
        self._released_topics = returned

    def note_new_rows(self) -> None:
        """Note that rows were committed that were not offered to the sender."""
        self.is_exhausted = False

    def put_back(self, row: Row) -> None:
        """Note that `row` waits in the store and is not with the sender."""
        topic = row.stream.topic
        lane = self._released_lane if topic in self._released_topics else self._main_lane
        lane.cursors[row.priority] = min(lane.cursors[row.priority], row.id - 1)
        self.is_exhausted = False

    def next_page(self, store: OutboxStore, skip: Collection[int], size: int) -> tuple[list[Row], list[int]]:
        """Return up to `size` rows whose ids are not in `skip`, and the ids of rows that cannot be read."""
        passed = self._streams(store, self._held_back)
        if not self._released_topics:
            page, damaged = self._read(store, self._main_lane, skip, size, without=passed)
        else:
            returned = self._streams(store, self._released_topics)
            page, damaged = self._read(store, self._main_lane, skip, size - size // 2, without=passed | returned)
            room = size - len(page)
            second, unreadable = self._read(store, self._released_lane, skip, room, only=returned)
            page, damaged = [*page, *second], [*damaged, *unreadable]
            if len(second) < room:
                self._released_topics = frozenset()  # they have caught up
        self.is_exhausted = len(page) < size and not self._released_topics
        return page, damaged

    @staticmethod
    def _streams(store: OutboxStore, topics: frozenset[str]) -> frozenset[int]:
        if not topics:
            return frozenset()
        return frozenset(number for number, stream in store.streams.items() if stream.topic in topics)

    @staticmethod
    def _read(
        store: OutboxStore,
        lane: _Lane,
        skip: Collection[int],
        room: int,
        *,
        without: frozenset[int] = frozenset(),
        only: frozenset[int] | None = None,
    ) -> tuple[list[Row], list[int]]:
        page: list[Row] = []
        damaged: list[int] = []
        newest = store.newest_id()
        for priority in reversed(Priority):
            left = room - len(page)
            if left <= 0:
                break
            cursor = lane.cursors[priority]
            asked = left + sum(number > cursor for number in skip)  # the others are not read anyway
            rows, unreadable = store.rows_after(priority, cursor, asked, without=without, only=only)
            fresh = [row for row in rows if row.id not in skip][:left]
            page += fresh
            damaged += [number for number in unreadable if number not in skip]
            if len(rows) + len(unreadable) < asked and len(fresh) < left:
                # So that skipped rows are not read again; a row that comes back moves the cursor back.
                lane.cursors[priority] = max(lane.cursors[priority], newest)
            elif fresh:
                lane.cursors[priority] = fresh[-1].id
        return page, damaged
