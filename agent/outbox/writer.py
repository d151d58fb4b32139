"""The writer thread: the only one that touches the log.

Promise: a verdict that `append` took is committed, `ok` within `commit_s`, any other at once, and so is every verdict
of an inspection that publishes at once; what cannot be committed now stays in memory and is tried again, and the
hand-over then blocks rather than dropping. What must be given up, because the log is full or damaged, becomes a gap
message in the same transaction.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from agent.errors import KensaError, OutboxError, StateDirError
from agent.outbox.backlog import Backlog
from agent.outbox.gaps import GapTracker
from agent.outbox.outbox_records import Priority, Row, RowIdSequence
from agent.outbox.packing import RowWrite, VerdictPacker
from agent.outbox.storage.database import DamagedFileError, is_corrupt, is_full
from agent.outbox.storage.disk_reserve import DiskReserve
from agent.outbox.storage.history import HISTORY_NAME, History
from agent.outbox.storage.store import STORE_NAME, OutboxStore
from agent.outbox.storage.store_recovery import (
    RecoveryResult,
    finish_replacement,
    new_store_path,
    recover_rows,
    replace_damaged,
)
from agent.records import Outcome
from agent.supervision import ThreadSupervisor
from agent.wire import GapReason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from agent.outbox.handoff import WriterSenderQueues
    from agent.outbox.outbox_records import Loss, OutboxLimits, Stream
    from agent.records import Verdict
    from agent.timing.clock import Clock

RESERVE_NAME: Final = "outbox.reserve"
_NS_PER_S: Final = 1_000_000_000
_COMMIT_SHARE: Final = 0.8  # of commit_s: the rest is for the commit itself
_RETRY_NS: Final = _NS_PER_S
_RESERVE_RETRY_NS: Final = 30 * _NS_PER_S
_MAX_REPORTS: Final = 1_000  # rows that are never evicted, above which reports are refused: about 5 MB
_log = logging.getLogger(__name__)


class OutboxWriter:
    """`append` is called by the workers, `step` by one thread only."""

    def __init__(
        self,
        *,
        state_dir: Path,
        limits: OutboxLimits,
        clock: Clock,
        belt: WriterSenderQueues,
        on_commit: Callable[[Sequence[Verdict], int], None] | None = None,
        supervisor: ThreadSupervisor | None = None,
    ) -> None:
        """Open the files in `state_dir`; a damaged log is salvaged. Raises StateDirError when they cannot be used."""
        self._path = state_dir / STORE_NAME
        supervisor = supervisor or ThreadSupervisor(clock=clock)
        self._losses = supervisor.losses
        self._conditions = supervisor.condition_log(_log)
        self._condition = f"outbox {self._path}"
        self._limits = limits
        self._clock = clock
        self._queues = belt
        self._on_commit = on_commit
        self._incoming: deque[Verdict] = deque()
        self._reports: deque[tuple[Stream, bytes]] = deque()
        self._queue_capacity: Final = min(limits.queue_capacity, limits.max_bytes // 2_048)
        self._has_space = threading.Event()
        self._is_closing = False
        self._gaps = GapTracker()
        self._with_sender: dict[int, Row] = {}  # offered to the sender and not back yet
        self._delivered: list[Row] = []  # in the history, not deleted from the log yet
        self._backlog = Backlog()
        self._unknown_loss = False  # more was lost than is known: every stream that shows up is told
        self._streams_marked_lossy: set[tuple[str, str]] = set()
        self._must_recount = False
        self._accepted = self.committed = self.delivered = self.commits = self.evicted = self.damaged = self.gaps = 0
        self.storage_error: str | None = None
        self.oldest_utc_s: int | None = None
        self._reserve = DiskReserve(state_dir / RESERVE_NAME, limits.reserve_bytes)
        self._reserve_retry_ns = 0
        self._retry_ns = 0
        self._next_id = RowIdSequence()
        self._packer = VerdictPacker(next_id=self._next_id, seal_s=limits.seal_s, on_unusable=self._note_unusable)
        self._store = self._open()
        self._next_id.skip_to(self._store.newest_id() + 1)
        self._history = History(
            state_dir / HISTORY_NAME,
            max_bytes=limits.history_bytes,
            max_age_s=limits.history_s,
            conditions=self._conditions,
            losses=self._losses,
        )
        self._reserve.reserve()
        self._tick_ns = clock.monotonic_ns()
        self._utc_offset_ns: Final = clock.utc_ns() - self._tick_ns
        self._after_commit()

    def _open(self) -> OutboxStore:
        try:
            finish_replacement(self._path)
            return OutboxStore(self._path, max_bytes=self._limits.max_bytes)
        except UnicodeDecodeError as error:  # SQLite's own message holds bytes of a damaged schema
            return self._rebuild_store(error)
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise OutboxError(f"The outbox {self._path} cannot be opened: {error}. Free disk space.") from error
            return self._rebuild_store(error)
        except OSError as error:
            raise StateDirError(f"The outbox {self._path} cannot be opened: {error.strerror}.") from error

    def append(self, verdicts: Sequence[Verdict]) -> None:
        """Take ownership; blocks while the hand-over is full. Raises OutboxError after `begin_closing`."""
        while len(self._incoming) >= self._queue_capacity:
            self._has_space.clear()
            self._queues.wake_writer.set()
            if self._is_closing:
                break
            self._clock.wait(self._has_space, 0.05)
        if self._is_closing:
            raise OutboxError("The outbox is closed: no more verdicts are taken.")
        self._incoming.extend(verdicts)
        at_once = self._packer.at_once_inspections
        for verdict in verdicts:
            if verdict.judgement.outcome is not Outcome.OK or verdict.origin.inspection in at_once:
                self._queues.wake_writer.set()
                return
        if len(self._incoming) > self._queue_capacity // 2:
            self._queues.wake_writer.set()

    def set_at_once_inspections(self, inspections: frozenset[str]) -> None:
        """Send every verdict of these inspections alone and at once, `ok` too; from any thread, for what comes."""
        self._packer.at_once_inspections = inspections

    def append_report(self, stream: Stream, body: bytes) -> None:
        """Take one report on a model; never blocks."""
        self._reports.append((stream, body))
        self._queues.wake_writer.set()

    def begin_closing(self) -> None:
        """Refuse new verdicts, and commit all that is here at the next step."""
        self._is_closing = True
        self._queues.wake_writer.set()

    @property
    def appended(self) -> int:
        """Verdicts that `append` took."""
        return self._accepted + len(self._incoming)

    @property
    def waiting(self) -> int:
        """Verdicts and reports that were appended and are not committed."""
        return len(self._incoming) + len(self._reports) + self._packer.waiting

    @property
    def monotonic_utc_s(self) -> int:
        """The time since 1970 as the clock had it at the start, gone on without jumps: for ages of rows only."""
        return (self._clock.monotonic_ns() + self._utc_offset_ns) // _NS_PER_S

    @property
    def has_only_held_back(self) -> bool:
        """Whether nothing waits in the log but messages on topics that the broker refuses."""
        backlog = self._backlog
        nothing_else = backlog.is_exhausted and not (self._with_sender or self._delivered or self._packer.open_rows())
        return bool(backlog.held_back) and nothing_else

    @property
    def store(self) -> OutboxStore:
        """The log, for its totals."""
        return self._store

    def step(self) -> float:
        """Do what is due; return how many seconds may pass until the next step unless the belt wakes the writer."""
        now_ns = self._clock.monotonic_ns()
        is_tick = now_ns >= self._tick_ns or self._is_closing or len(self._incoming) > self._queue_capacity // 2
        self._take_released()
        self._take_reports()
        self._take_incoming(now_ns)
        if now_ns < self._retry_ns:
            return (self._retry_ns - now_ns) / _NS_PER_S
        try:
            urgent = self._packer.urgent_changes()
            # An envelope may be evicted only as a whole: where something must go, all that is in memory is put first.
            if is_tick or (urgent and not self._store.has_room(sum(change.row.size for change in urgent))):
                self._tick(now_ns)
            elif urgent:
                self._commit(urgent, with_envelopes=False)
            if self._queues.wants_backlog:
                self._serve_backlog()
        except sqlite3.Error as error:
            self._handle_storage_error(error)
        except UnicodeDecodeError as error:
            self._handle_storage_error(DamagedFileError(str(error)))
        next_ns = max(self._retry_ns, self._tick_ns)
        return max(0.0, (next_ns - self._clock.monotonic_ns()) / _NS_PER_S)

    def _take_incoming(self, now_ns: int) -> None:
        incoming, packer = self._incoming, self._packer
        room = min(len(incoming), self._queue_capacity - packer.waiting)
        if room <= 0:
            return
        utc_s = self.monotonic_utc_s
        self._accepted += room
        for _ in range(room):
            packer.add(incoming.popleft(), now_ns=now_ns, utc_s=utc_s)
        self._has_space.set()

    def _take_reports(self) -> None:
        utc_s = self.monotonic_utc_s
        while self._reports:
            stream, body = self._reports.popleft()
            if self._store.unevictable_rows() < _MAX_REPORTS:
                self._packer.add_report(stream, body, utc_s=utc_s)
            else:
                self._losses.count("outbox_reports")
                text = f"it is not kept, {_MAX_REPORTS} wait already"
                self._conditions.report_event(
                    f"a report on the model of {stream.inspection}", text, level=logging.ERROR
                )

    def _note_unusable(self, text: str) -> None:
        self._losses.count("verdicts_unusable")
        self._conditions.report_event("a verdict was replaced by unknown", text, level=logging.ERROR)

    def _take_released(self) -> None:
        belt, backlog = self._queues, self._backlog
        if belt.held_back != backlog.held_back:
            backlog.hold_back(belt.held_back)
            self._count_backlog()
        if not belt.released:
            return
        while belt.released:
            row = belt.released.popleft()
            self._with_sender.pop(row.id, None)
            backlog.put_back(row)
        self._count_backlog()

    def _tick(self, now_ns: int) -> None:
        """Commit everything: envelopes that grew, and the end of rows that were acknowledged."""
        self._packer.seal(now_ns=now_ns, everything=self._is_closing)
        utc_s = self.monotonic_utc_s
        acked = [self._queues.acked.popleft() for _ in range(len(self._queues.acked))]
        if acked:
            self._history.add(acked, now_ns=now_ns)  # first: a cut between the two leaves it twice, not nowhere
            self._delivered.extend(acked)
        changes = self._packer.envelope_changes(utc_s=utc_s) + self._packer.urgent_changes()
        self._commit(changes, with_envelopes=True)
        self._tick_ns = now_ns + int(self._limits.commit_s * _COMMIT_SHARE * _NS_PER_S)
        if not self._reserve.is_reserved and now_ns >= self._reserve_retry_ns:
            self._reserve_retry_ns = now_ns + _RESERVE_RETRY_NS
            if self._reserve.reserve():
                self._store.cap_bytes = self._store.full_cap

    def _commit(self, changes: list[RowWrite], *, with_envelopes: bool) -> None:
        delivered = self._delivered if with_envelopes else []
        gone: set[int] = set()
        gap_rows: list[tuple[Row, Row | None]] = []
        if changes or delivered:
            try:
                with self._store.transaction():
                    for row in delivered:
                        self._store.delete(row.id)
                    losses = self._put(changes)
                    gone.update(losses)
                    gap_rows = self._gaps.staged_rows(self._clock.utc_ns())
                    for row, replaced in gap_rows:
                        self._store.put(row, replaced=replaced)
            except BaseException:
                self._gaps.roll_back()
                raise
            self.commits += 1
            self.evicted += sum(loss.verdicts for loss in losses.values())
            self.gaps += self._gaps.commit(gap_rows)
            if gap_rows:
                self._backlog.note_new_rows()
        self._apply_commit(changes, gone, with_envelopes=with_envelopes)

    def _put(self, changes: list[RowWrite]) -> dict[int, Loss]:
        """Put the rows and evict what is too much; return the losses by row id."""
        losses: dict[int, Loss] = {}

        def note(number: int, loss: Loss) -> None:
            losses[number] = loss
            self._gaps.add(loss, GapReason.EVICTED, self._next_id)

        unsettled = self._with_sender.keys() | {change.row.id for change in changes}
        for change in changes:  # the least valuable first, so that nothing goes for the sake of what is worth less
            if self._unknown_loss:
                self._record_unknown_loss(change.row)
            self._store.put(change.row, replaced=change.replaced)
            # its envelope's former self may be the oldest: wait until all are put
            if change.row.priority is Priority.OK:
                self._store.evict(unsettled, note, below=Priority.UNKNOWN)
            else:
                self._store.evict(self._with_sender.keys(), note, below=Priority.GAP)
        self._store.evict(self._with_sender.keys(), note, below=Priority.GAP)
        return losses

    def _record_unknown_loss(self, row: Row) -> None:
        camera = (row.stream.line, row.stream.camera)
        if row.stream.has_verdicts and camera not in self._streams_marked_lossy:
            self._streams_marked_lossy.add(camera)
            self._gaps.add_unknown(row.stream, GapReason.DAMAGED, self._next_id)

    def _apply_commit(self, changes: list[RowWrite], gone: set[int], *, with_envelopes: bool) -> None:
        """After the commit: tell the packer, the sender and the hook."""
        self.committed += sum(
            change.row.verdicts - (change.replaced.verdicts if change.replaced else 0) for change in changes
        )
        ready, verdicts = self._packer.urgent_written()
        if with_envelopes:
            ready += self._packer.envelopes_written()
            for row in self._delivered:
                self._with_sender.pop(row.id, None)
            self.delivered += sum(row.verdicts for row in self._delivered)
            self._delivered.clear()
        for number in gone:
            self._packer.drop(number)
        held_back = self._backlog.held_back
        live = [row for row in ready if row.id not in gone and (not held_back or row.stream.topic not in held_back)]
        taken = self._queues.offer_live(live)
        self._with_sender.update((row.id, row) for row in live[:taken])
        for row in live[taken:]:
            self._backlog.put_back(row)
        self._after_commit()
        if verdicts and self._on_commit is not None:
            self._on_commit(verdicts, self._clock.monotonic_ns())

    def _after_commit(self) -> None:
        self._retry_ns = 0
        if self.storage_error is not None:
            self.storage_error = None
            self._conditions.clear_fault(self._condition, "commits again")
        if self._must_recount:
            self._store.totals = self._store.read_totals()
            self._must_recount = False
        self.oldest_utc_s = self._store.oldest_utc_s()
        self._count_backlog()

    def _count_backlog(self) -> None:
        """Tell the sender how many rows wait for it; it asks while there are any."""
        belt = self._queues
        waiting = self._store.totals.rows - len(self._with_sender) - len(self._packer.open_rows())
        if self._backlog.held_back and self._backlog.is_exhausted:
            waiting = 0
        belt.backlog_rows = waiting
        if waiting > 0 and belt.is_connected and not belt.wants_backlog:
            belt.wake_sender.set()

    def _serve_backlog(self) -> None:
        """Give the sender a page of what waits: most valuable first, oldest first within a rank."""
        skip = self._with_sender.keys() | {row.id for row in self._packer.open_rows()}
        page, damaged = self._backlog.next_page(self._store, skip, self._limits.page_rows)
        if damaged:
            self._drop_damaged(damaged)
        for row in page:
            self._with_sender[row.id] = row
            if row.priority is Priority.GAP:
                self._gaps.seal(row.id)
        self._queues.backlog_rows = (
            0 if not page or self._backlog.is_exhausted else self._queues.backlog_rows - len(page)
        )
        self._queues.offer_backlog(page)

    def _drop_damaged(self, numbers: Sequence[int]) -> None:
        """Turn rows whose CRC is wrong into gaps."""
        verdicts = 0
        try:
            with self._store.transaction():
                for number in numbers:
                    loss = self._store.loss(number)
                    if loss is not None:
                        verdicts += loss.verdicts
                        self._gaps.add(loss, GapReason.DAMAGED, self._next_id)
                    self._store.delete(number)
                gap_rows = self._gaps.staged_rows(self._clock.utc_ns())
                for row, replaced in gap_rows:
                    self._store.put(row, replaced=replaced)
        except BaseException:
            self._gaps.roll_back()
            raise
        self.damaged += verdicts
        self.gaps += self._gaps.commit(gap_rows)
        self._backlog.note_new_rows()

    def _handle_storage_error(self, error: sqlite3.Error) -> None:
        """Answer an error of SQLite; what is not committed stays where it is and is tried again."""
        if self.storage_error is None or not isinstance(error, sqlite3.ProgrammingError):  # which says: not reopened
            self.storage_error = f"The outbox {self._path} cannot commit: {error}."
        text = f"{self.storage_error} Verdicts are kept in memory; free disk space or replace the disk"
        self._conditions.report_fault(self._condition, text, level=logging.ERROR)
        now_ns = self._clock.monotonic_ns()
        try:
            if is_corrupt(error):
                self._store.close()
                self._store = self._rebuild_store(error)
                self._backlog.reset()
                return
            if is_full(error):
                had_reserve = self._reserve.is_reserved
                self._reserve.release()
                self._reserve_retry_ns = now_ns + _RESERVE_RETRY_NS
                self._store.handle_disk_full(self._limits.reserve_bytes // 4 if had_reserve else 0)
                if had_reserve:
                    return  # the next step tries at once
            else:
                self._store.close()
                self._store = self._open()
                self._must_recount = True
        except (sqlite3.Error, KensaError, OSError) as second:
            self.storage_error = f"The outbox {self._path} cannot commit: {second}."
            self._conditions.report_fault(self._condition, self.storage_error, level=logging.ERROR)
        self._retry_ns = now_ns + _RETRY_NS

    def _rebuild_store(self, error: Exception) -> OutboxStore:
        """Return a new log with all that can be saved, from the damaged file and from memory; the old one is set aside.

        The new one is complete, gaps included, before it takes the old one's place.
        """
        _log.error("The outbox %s is damaged (%s); it is salvaged and set aside.", self._path, error)
        fresh = OutboxStore(new_store_path(self._path), max_bytes=self._limits.max_bytes)
        try:
            saved = recover_rows(self._path, fresh)
            self._next_id.skip_to(fresh.newest_id() + 1)
            self._restore_rows(saved, fresh)
        finally:
            fresh.close()
        replace_damaged(self._path)
        return OutboxStore(self._path, max_bytes=self._limits.max_bytes)

    def _restore_rows(self, saved: RecoveryResult, log: OutboxStore) -> None:
        """Put what memory still holds, and gaps for what is lost, into the new log."""
        remembered = [*self._with_sender.values(), *self._packer.open_rows(), *self._gaps.rows()]
        missing = {row.id: row for row in remembered if row.id not in saved.recovered}
        lost = [loss for number, loss in saved.losses.items() if number not in missing]
        try:
            with log.transaction():
                for row in missing.values():
                    log.put(row, replaced=None)
                for loss in lost:
                    self._gaps.add(loss, GapReason.DAMAGED, self._next_id)
                self._unknown_loss |= not saved.is_complete
                for stream in () if saved.is_complete else filter(lambda stream: stream.has_verdicts, saved.streams):
                    self._streams_marked_lossy.add((stream.line, stream.camera))
                    self._gaps.add_unknown(stream, GapReason.DAMAGED, self._next_id)
                gap_rows = self._gaps.staged_rows(self._clock.utc_ns())
                for row, replaced in gap_rows:
                    log.put(row, replaced=replaced)
        except BaseException:
            self._gaps.roll_back()
            raise
        self.damaged += sum(loss.verdicts for loss in lost)
        self.gaps += self._gaps.commit(gap_rows)

    def close(self) -> None:
        """Close the files; the thread that steps has ended."""
        self._store.close()
        self._history.close()
