"""The queues between writer and sender, bounded by the transport's limit and the live queue's.

Each deque has one thread that puts and one that takes; deque operations are atomic. A row that was offered is with the
sender: it is not evicted until it comes back as acknowledged or released.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from agent.outbox.outbox_records import Priority

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.outbox.outbox_records import Row


class WriterSenderQueues:
    """Committed rows to the sender; delivered and released rows back to the writer."""

    def __init__(self, *, live_rows: int) -> None:
        """`live_rows` bounds the rows that wait in memory for the transport."""
        self._live_rows = live_rows
        # Just committed. A paced transport may need a second for the envelopes of many cameras, and nobody waits for
        # a good part: all other rows overtake them.
        self.live: deque[Row] = deque()
        self.live_ok: deque[Row] = deque()
        self.backlog: deque[Row] = deque()  # read from the store
        self.acked: deque[Row] = deque()  # may be deleted
        self.released: deque[Row] = deque()  # not delivered: returns to the backlog
        self.wake_writer = threading.Event()
        self.wake_sender = threading.Event()
        self.is_connected = False  # set by the sender
        self.backlog_rows = 0  # set by the writer: rows of the store that were not offered yet
        self.held_back: frozenset[str] = frozenset()  # set by the sender: topics whose rows must stay in the store
        self.wants_backlog = False  # set by the sender, cleared by the writer's answer

    def offer_live(self, rows: Sequence[Row]) -> int:
        """Take the first rows, as many as may be sent now, and return their number."""
        room = self._live_rows - len(self.live) - len(self.live_ok) if self.is_connected else 0
        taken = rows[: max(0, room)]
        if taken:
            self.live.extend(row for row in taken if row.priority is not Priority.OK)
            self.live_ok.extend(row for row in taken if row.priority is Priority.OK)
            self.wake_sender.set()
        return len(taken)

    def offer_backlog(self, rows: Sequence[Row]) -> None:
        """Answer `wants_backlog`."""
        self.backlog.extend(rows)
        self.wants_backlog = False
        self.wake_sender.set()

    def ask_for_backlog(self) -> None:
        """Request rows of the backlog from the writer."""
        self.wants_backlog = True
        self.wake_writer.set()
