"""Selects the rows that the sender gets, just committed or from the backlog, and keeps those it has.

Invariant: a row in `with_sender` was offered to the sender and has not come back; it is neither evicted nor offered
twice. Used from the writer's thread only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.outbox.backlog import Backlog

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from agent.outbox.handoff import WriterSenderQueues
    from agent.outbox.outbox_records import Row
    from agent.outbox.storage.store import OutboxStore


class SenderFeed:
    """Feeds the sender through `WriterSenderQueues`."""

    def __init__(self, queues: WriterSenderQueues, *, page_rows: int) -> None:
        """A page of the backlog has at most `page_rows` rows."""
        self._queues = queues
        self._page_rows = page_rows
        self._backlog = Backlog()
        self.with_sender: dict[int, Row] = {}  # by row id

    @property
    def has_only_held_back(self) -> bool:
        """Whether nothing waits in the log but messages on topics that the broker refuses, as far as is known."""
        return bool(self._backlog.held_back) and self._backlog.is_exhausted and not self.with_sender

    def reset(self) -> None:
        """Read the whole backlog again: the store is another one."""
        self._backlog.reset()

    def note_new_rows(self) -> None:
        """Note that rows were committed that are not offered."""
        self._backlog.note_new_rows()

    def take_released(self) -> bool:
        """Take back the rows that the sender releases, and its held topics; return whether anything changed."""
        queues, backlog = self._queues, self._backlog
        held_back = queues.held_back
        is_changed = held_back != backlog.held_back
        if is_changed:
            backlog.hold_back(held_back)
        while queues.released:
            is_changed = True
            row = queues.released.popleft()
            self.with_sender.pop(row.id, None)
            backlog.put_back(row)
        return is_changed

    def take_acknowledged(self) -> list[Row]:
        """Return the rows that the broker has; they stay in `with_sender` until `forget`."""
        acked = self._queues.acked
        return [acked.popleft() for _ in range(len(acked))]

    def forget(self, rows: Sequence[Row]) -> None:
        """Forget rows that are deleted from the store."""
        for row in rows:
            self.with_sender.pop(row.id, None)

    def offer(self, rows: Sequence[Row]) -> None:
        """Offer rows that were just committed; those that are held back or do not fit belong to the backlog."""
        held_back = self._backlog.held_back
        live = [row for row in rows if row.stream.topic not in held_back] if held_back else rows
        taken = self._queues.offer_live(live)
        self.with_sender.update((row.id, row) for row in live[:taken])
        for row in live[taken:]:
            self._backlog.put_back(row)

    def count_backlog(self, store: OutboxStore, open_rows: int) -> None:
        """Set how many rows wait for the sender, which asks while there are any; `open_rows` must not travel yet."""
        queues = self._queues
        waiting = store.totals.rows - len(self.with_sender) - open_rows
        if self._backlog.held_back and self._backlog.is_exhausted:
            waiting = 0
        queues.backlog_rows = waiting
        if waiting > 0 and queues.is_connected and not queues.wants_backlog:
            queues.wake_sender.set()

    def next_page(self, store: OutboxStore, open_rows: Collection[Row]) -> tuple[list[Row], list[int]]:
        """Return the next rows of the backlog and the ids of rows that cannot be read; changes nothing for the sender.

        Most valuable first, within a priority the oldest first, without `open_rows`.
        """
        skip = self.with_sender.keys() | {row.id for row in open_rows}
        return self._backlog.next_page(store, skip, self._page_rows)

    def offer_page(self, page: Sequence[Row]) -> None:
        """Give the sender the page that it asked for."""
        queues = self._queues
        self.with_sender.update((row.id, row) for row in page)
        queues.backlog_rows = 0 if not page or self._backlog.is_exhausted else queues.backlog_rows - len(page)
        queues.offer_backlog(page)
