"""Turns evicted and damaged rows into gap messages, in the transaction that removes the rows.

Invariant: a loss counts, and its gap is kept, only once the transaction in which it was noted is committed. Used from
the writer's thread only.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from agent.outbox.gaps import GapTracker
from agent.outbox.outbox_records import Priority
from agent.wire import GapReason

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from agent.outbox.outbox_records import Loss, Row, RowIdSequence
    from agent.outbox.packing import RowWrite
    from agent.outbox.storage.store import OutboxStore
    from agent.outbox.storage.store_recovery import RecoveryResult
    from agent.timing.clock import Clock


class LossRecorder:
    """The open gaps of the outbox, and the counts of what was lost since the start."""

    def __init__(self, *, next_id: RowIdSequence, clock: Clock) -> None:
        """`next_id` numbers the rows of gaps; `clock` gives the time of a loss."""
        self._next_id = next_id
        self._clock = clock
        self._gaps = GapTracker()
        self._has_unknown_loss = False  # more was lost than is known: every stream that appears gets a gap
        self._streams_marked_lossy: set[tuple[str, str]] = set()
        self.evicted = 0  # verdicts
        self.damaged = 0  # verdicts
        self.gaps = 0  # messages

    @contextmanager
    def transaction(self, store: OutboxStore) -> Iterator[list[Row]]:
        """A transaction of `store` that ends with the gaps noted in it; gives the list that gets their rows."""
        rows: list[Row] = []
        try:
            with store.transaction():
                yield rows
                staged = self._gaps.staged_rows(self._clock.utc_ns())
                for row, replaced in staged:
                    store.put(row, replaced=replaced)
        except BaseException:
            self._gaps.roll_back()
            raise
        rows += [row for row, _replaced in staged]
        self.gaps += self._gaps.commit(staged)

    def put(self, store: OutboxStore, changes: Sequence[RowWrite], *, with_sender: Collection[int]) -> dict[int, Loss]:
        """Put the rows, least valuable first, and evict what exceeds the cap; return the losses by row id.

        Inside `transaction`. Rows whose id is in `with_sender` are not evicted.
        """
        losses: dict[int, Loss] = {}

        def note(number: int, loss: Loss) -> None:
            losses[number] = loss
            self._gaps.add(loss, GapReason.EVICTED, self._next_id)

        unsettled = {*with_sender, *(change.row.id for change in changes)}
        for change in changes:
            if self._has_unknown_loss:
                self._mark_lossy(change.row)
            store.put(change.row, replaced=change.replaced)
            # An envelope's former self may be the oldest row: until all are put, envelopes of this commit stay.
            if change.row.priority is Priority.OK:
                store.evict(unsettled, note, below=Priority.UNKNOWN)
            else:
                store.evict(with_sender, note, below=Priority.GAP)
        store.evict(with_sender, note, below=Priority.GAP)
        return losses

    def _mark_lossy(self, row: Row) -> None:
        camera = (row.stream.line, row.stream.camera)
        if row.stream.has_verdicts and camera not in self._streams_marked_lossy:
            self._streams_marked_lossy.add(camera)
            self._gaps.add_unknown(row.stream, GapReason.DAMAGED, self._next_id)

    def count_evicted(self, losses: Collection[Loss]) -> None:
        """Count the losses that `put` returned: their transaction is committed."""
        self.evicted += sum(loss.verdicts for loss in losses)

    def drop_damaged(self, store: OutboxStore, numbers: Sequence[int]) -> None:
        """Turn the rows with these ids, whose CRC is wrong, into gaps."""
        verdicts = 0
        with self.transaction(store):
            for number in numbers:
                loss = store.loss(number)
                if loss is not None:
                    verdicts += loss.verdicts
                    self._gaps.add(loss, GapReason.DAMAGED, self._next_id)
                store.delete(number)
        self.damaged += verdicts

    def complete_recovery(self, recovery: RecoveryResult, store: OutboxStore, *, remembered: Sequence[Row]) -> None:
        """Put the rows that memory still holds, and gaps for what is lost, into the new `store`."""
        self._next_id.skip_to(store.newest_id() + 1)
        missing = {row.id: row for row in (*remembered, *self._gaps.rows()) if row.id not in recovery.recovered}
        lost = [loss for number, loss in recovery.losses.items() if number not in missing]
        with self.transaction(store):
            for row in missing.values():
                store.put(row, replaced=None)
            for loss in lost:
                self._gaps.add(loss, GapReason.DAMAGED, self._next_id)
            self._has_unknown_loss |= not recovery.is_complete
            for stream in () if recovery.is_complete else recovery.streams:
                if stream.has_verdicts:
                    self._streams_marked_lossy.add((stream.line, stream.camera))
                    self._gaps.add_unknown(stream, GapReason.DAMAGED, self._next_id)
        self.damaged += sum(loss.verdicts for loss in lost)

    def seal(self, number: int) -> None:
        """Let the gap with this row id grow no more: its message is on its way."""
        self._gaps.seal(number)
