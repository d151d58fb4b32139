"""The writer thread: the only one that uses the outbox's files.

Promise: a verdict that the intake took is committed, `ok` within `commit_s`, any other at once, and so is every
verdict of an inspection that publishes at once; what cannot be committed now stays in memory and is tried again, and
the intake then blocks rather than dropping. What must be given up, because the store is full or damaged, becomes a gap
message in the same transaction.

One step: take back what the sender released, pack what came in (`VerdictIntake`), commit it with its evictions and
gaps (`LossRecorder`) to the file (`RecoverableStore`), and offer it to the sender (`SenderFeed`).
"""

from __future__ import annotations

import logging
import sqlite3
from typing import TYPE_CHECKING, Final

from agent.outbox.loss_recorder import LossRecorder
from agent.outbox.outbox_records import Priority, RowIdSequence
from agent.outbox.recoverable_store import RecoverableStore
from agent.outbox.sender_feed import SenderFeed
from agent.outbox.storage.database import DamagedFileError
from agent.outbox.storage.history import HISTORY_NAME, History
from agent.outbox.verdict_intake import VerdictIntake
from agent.supervision import ThreadSupervisor
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from agent.outbox.handoff import WriterSenderQueues
    from agent.outbox.outbox_records import Loss, OutboxLimits, Row
    from agent.outbox.packing import RowWrite
    from agent.outbox.storage.store import OutboxStore
    from agent.outbox.storage.store_recovery import RecoveryResult
    from agent.records import Verdict
    from agent.timing.clock import Clock

_COMMIT_SHARE: Final = 0.8  # of commit_s: the rest is for the commit itself
_log = logging.getLogger(__name__)


class OutboxWriter:
    """`step` is called by one thread only; `intake` is where the others come in."""

    def __init__(
        self,
        *,
        state_dir: Path,
        limits: OutboxLimits,
        clock: Clock,
        queues: WriterSenderQueues,
        on_commit: Callable[[Sequence[Verdict], int], None] | None = None,
        supervisor: ThreadSupervisor | None = None,
    ) -> None:
        """Open the files in `state_dir`; a damaged store is rebuilt. Raises StateDirError when they cannot be used.

        Args:
            state_dir: folder of the files.
            limits: bounds and times of the outbox.
            clock: monotonic and UTC time.
            queues: the hand-over to the sender.
            on_commit: called after each commit with the urgent verdicts in it and the monotonic time in ns.
            supervisor: counts the losses and reports the conditions; one of its own where None.
        """
        supervisor = supervisor or ThreadSupervisor(clock=clock)
        conditions = supervisor.condition_log(_log)
        self._limits = limits
        self._clock = clock
        self._queues = queues
        self._on_commit = on_commit
        self._delivered_rows: list[Row] = []  # in the history, not deleted from the store yet
        self.committed = self.delivered = self.commits = 0
        self.oldest_utc_s: int | None = None
        next_id = RowIdSequence()
        self.losses = LossRecorder(next_id=next_id, clock=clock)
        self.intake = VerdictIntake(
            limits=limits,
            clock=clock,
            queues=queues,
            next_id=next_id,
            conditions=conditions,
            losses=supervisor.losses,
        )
        self.feed = SenderFeed(queues, page_rows=limits.page_rows)
        self._stores = RecoverableStore(
            state_dir=state_dir,
            max_bytes=limits.max_bytes,
            reserve_bytes=limits.reserve_bytes,
            clock=clock,
            conditions=conditions,
            complete_recovery=self._complete_recovery,
        )
        next_id.skip_to(self.store.newest_id() + 1)
        self._history = History(
            state_dir / HISTORY_NAME,
            max_bytes=limits.history_bytes,
            max_age_s=limits.history_s,
            conditions=conditions,
            losses=supervisor.losses,
        )
        self._stores.set_reserve_aside()
        self._tick_ns = clock.monotonic_ns()
        self._utc_offset_ns: Final = clock.utc_ns() - self._tick_ns
        self._after_commit()

    @property
    def store(self) -> OutboxStore:
        """The store of the moment, for its totals."""
        return self._stores.current

    @property
    def storage_error(self) -> str | None:
        """Why nothing can be committed now."""
        return self._stores.error

    @property
    def waiting(self) -> int:
        """Verdicts and reports that were appended and are not committed."""
        return self.intake.waiting

    @property
    def monotonic_utc_s(self) -> int:
        """Seconds since 1970 as the clock had them at the start, continued without jumps: for ages of rows only."""
        return (self._clock.monotonic_ns() + self._utc_offset_ns) // NS_PER_S

    @property
    def has_only_held_back(self) -> bool:
        """Whether nothing waits in the store but messages on topics that the broker refuses."""
        return self.feed.has_only_held_back and not (self._delivered_rows or self.intake.packer.open_rows())

    def step(self) -> float:
        """Do what is due; return how many seconds may pass until the next step unless the queues wake the writer."""
        now_ns = self._clock.monotonic_ns()
        is_tick = now_ns >= self._tick_ns or self.intake.is_closing or self.intake.is_half_full
        if self.feed.take_released():
            self._count_backlog()
        self.intake.pack_waiting(
            now_ns=now_ns, utc_s=self.monotonic_utc_s, unevictable_rows=self.store.unevictable_rows
        )
        if now_ns < self._stores.retry_ns:
            return (self._stores.retry_ns - now_ns) / NS_PER_S
        try:
            self._commit_due(now_ns, is_tick=is_tick)
        except sqlite3.Error as error:
            self._handle_storage_error(error)
        except UnicodeDecodeError as error:
            self._handle_storage_error(DamagedFileError(str(error)))
        next_ns = max(self._stores.retry_ns, self._tick_ns)
        return max(0.0, (next_ns - self._clock.monotonic_ns()) / NS_PER_S)

    def _commit_due(self, now_ns: int, *, is_tick: bool) -> None:
        urgent = self.intake.packer.urgent_changes()
        # An envelope may be evicted only as a whole: where something must go, all that is in memory is put first.
        if is_tick or (urgent and not self.store.has_room(sum(change.row.size for change in urgent))):
            self._tick(now_ns)
        elif urgent:
            self._commit(urgent, with_envelopes=False)
        if self._queues.wants_backlog:
            self._serve_backlog()

    def _tick(self, now_ns: int) -> None:
        """Commit everything: envelopes that grew, and the deletion of rows that were acknowledged."""
        packer = self.intake.packer
        packer.seal(now_ns=now_ns, everything=self.intake.is_closing)
        utc_s = self.monotonic_utc_s
        acked = self.feed.take_acknowledged()
        if acked:
            self._history.add(acked, now_ns=now_ns)  # first: a cut between the two leaves it twice, not nowhere
            self._delivered_rows.extend(acked)
        changes = packer.envelope_changes(utc_s=utc_s) + packer.urgent_changes()
        self._commit(changes, with_envelopes=True)
        self._tick_ns = now_ns + int(self._limits.commit_s * _COMMIT_SHARE * NS_PER_S)
        self._stores.restore_reserve(now_ns)

    def _commit(self, changes: list[RowWrite], *, with_envelopes: bool) -> None:
        delivered = self._delivered_rows if with_envelopes else []
        losses: dict[int, Loss] = {}
        if changes or delivered:
            store = self.store
            with self.losses.transaction(store) as gap_rows:
                for row in delivered:
                    store.delete(row.id)
                losses = self.losses.put(store, changes, with_sender=self.feed.with_sender.keys())
            self.commits += 1
            self.losses.count_evicted(losses.values())
            if gap_rows:
                self.feed.note_new_rows()
        self._apply_commit(changes, losses.keys(), with_envelopes=with_envelopes)

    def _apply_commit(self, changes: list[RowWrite], gone: Collection[int], *, with_envelopes: bool) -> None:
        """Report a commit to the packer, the sender and the hook; the rows in `gone` were evicted."""
        self.committed += sum(
            change.row.verdicts - (change.replaced.verdicts if change.replaced else 0) for change in changes
        )
        packer = self.intake.packer
        ready, verdicts = packer.urgent_written()
        if with_envelopes:
            ready += packer.envelopes_written()
            self.feed.forget(self._delivered_rows)
            self.delivered += sum(row.verdicts for row in self._delivered_rows)
            self._delivered_rows.clear()
        for number in gone:
            packer.drop(number)
        self.feed.offer([row for row in ready if row.id not in gone])
        self._after_commit()
        if verdicts and self._on_commit is not None:
            self._on_commit(verdicts, self._clock.monotonic_ns())

    def _after_commit(self) -> None:
        self._stores.note_commit()
        self.oldest_utc_s = self.store.oldest_utc_s()
        self._count_backlog()

    def _count_backlog(self) -> None:
        self.feed.count_backlog(self.store, len(self.intake.packer.open_rows()))

    def _serve_backlog(self) -> None:
        """Give the sender a page of what waits."""
        page, damaged = self.feed.next_page(self.store, self.intake.packer.open_rows())
        if damaged:
            self.losses.drop_damaged(self.store, damaged)
            self.feed.note_new_rows()
        for row in page:
            if row.priority is Priority.GAP:
                self.losses.seal(row.id)
        self.feed.offer_page(page)

    def _handle_storage_error(self, error: sqlite3.Error) -> None:
        if self._stores.handle_error(error):
            self.feed.reset()

    def _complete_recovery(self, recovery: RecoveryResult, store: OutboxStore) -> None:
        remembered = [*self.feed.with_sender.values(), *self.intake.packer.open_rows()]
        self.losses.complete_recovery(recovery, store, remembered=remembered)

    def close(self) -> None:
        """Close the files; the thread that steps has ended."""
        self._stores.close()
        self._history.close()
