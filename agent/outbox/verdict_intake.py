"""Takes verdicts and reports from any thread and holds them in memory until they are packed.

Promise: `append` blocks while the queue is full and never drops a verdict. `append` and its siblings are called by the
workers, `pack_waiting` by the writer's thread only.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from agent.errors import OutboxError
from agent.outbox.packing import VerdictPacker
from agent.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.condition_log import ConditionLog
    from agent.counters import LossCounters
    from agent.outbox.handoff import WriterSenderQueues
    from agent.outbox.outbox_records import OutboxLimits, RowIdSequence, Stream
    from agent.records import Verdict
    from agent.timing.clock import Clock

_MAX_REPORTS: Final = 1_000  # rows that are never evicted, above which reports are refused: about 5 MB
_FULL_WAIT_S: Final = 0.05  # between two checks whether a full hand-over has space again


class VerdictIntake:
    """Takes verdicts and reports, and packs them into rows when the writer asks."""

    def __init__(
        self,
        *,
        limits: OutboxLimits,
        clock: Clock,
        queues: WriterSenderQueues,
        next_id: RowIdSequence,
        conditions: ConditionLog,
        losses: LossCounters,
    ) -> None:
        """Take nothing yet.

        Args:
            limits: bounds the hand-over and sets the age at which an envelope is sent.
            clock: for blocked callers of `append`.
            queues: its `wake_writer` is set when something must be committed at once.
            next_id: numbers the rows.
            conditions: reports what was refused or replaced.
            losses: counts the same.
        """
        self._clock = clock
        self._queues = queues
        self._conditions = conditions
        self._losses = losses
        self._incoming: deque[Verdict] = deque()
        self._reports: deque[tuple[Stream, bytes]] = deque()
        self._capacity: Final = min(limits.queue_capacity, limits.max_bytes // 2_048)
        self._has_space = threading.Event()
        self.is_closing = False
        self._packed = 0
        self.packer = VerdictPacker(next_id=next_id, seal_s=limits.seal_s, on_unusable=self._report_unusable)

    def append(self, verdicts: Sequence[Verdict]) -> None:
        """Take ownership; blocks while the hand-over is full. Raises OutboxError after `begin_closing`."""
        while len(self._incoming) >= self._capacity:
            self._has_space.clear()
            self._queues.wake_writer.set()
            if self.is_closing:
                break
            self._clock.wait(self._has_space, _FULL_WAIT_S)
        if self.is_closing:
            raise OutboxError("The outbox is closed: no more verdicts are taken.")
        self._incoming.extend(verdicts)
        at_once = self.packer.at_once_inspections
        for verdict in verdicts:
            if verdict.judgement.outcome is not Outcome.OK or verdict.origin.inspection in at_once:
                self._queues.wake_writer.set()
                return
        if self.is_half_full:
            self._queues.wake_writer.set()

    def set_at_once_inspections(self, inspections: frozenset[str]) -> None:
        """Send every later verdict of these inspections alone and at once, `ok` too; from any thread."""
        self.packer.at_once_inspections = inspections

    def append_report(self, stream: Stream, body: bytes) -> None:
        """Take one report on a model; never blocks."""
        self._reports.append((stream, body))
        self._queues.wake_writer.set()

    def begin_closing(self) -> None:
        """Refuse new verdicts and have the writer's next step commit all that was taken."""
        self.is_closing = True
        self._queues.wake_writer.set()

    @property
    def appended(self) -> int:
        """Verdicts that `append` took."""
        return self._packed + len(self._incoming)

    @property
    def unpacked(self) -> int:
        """Verdicts that were appended and are not packed yet."""
        return len(self._incoming)

    @property
    def waiting(self) -> int:
        """Verdicts and reports that were appended and are not committed."""
        return len(self._incoming) + len(self._reports) + self.packer.waiting

    @property
    def is_half_full(self) -> bool:
        """Whether more than half of the hand-over is taken, so that the writer must not wait for its tick."""
        return len(self._incoming) > self._capacity // 2

    def pack_waiting(self, *, now_ns: int, utc_s: int, unevictable_rows: Callable[[], int]) -> None:
        """Pack what was appended into rows, as much as the hand-over bounds; `utc_s` is the age of new rows.

        A report is refused while `unevictable_rows()` of the log is at its bound.
        """
        self._pack_reports(utc_s, unevictable_rows)
        incoming, packer = self._incoming, self.packer
        room = min(len(incoming), self._capacity - packer.waiting)
        if room <= 0:
            return
        self._packed += room
        for _ in range(room):
            packer.add(incoming.popleft(), now_ns=now_ns, utc_s=utc_s)
        self._has_space.set()

    def _pack_reports(self, utc_s: int, unevictable_rows: Callable[[], int]) -> None:
        while self._reports:
            stream, body = self._reports.popleft()
            if unevictable_rows() < _MAX_REPORTS:
                self.packer.add_report(stream, body, utc_s=utc_s)
            else:
                self._losses.count("outbox_reports")
                text = f"it is not kept, {_MAX_REPORTS} wait already"
                self._conditions.report_event(
                    f"a report on the model of {stream.inspection}", text, level=logging.ERROR
                )

    def _report_unusable(self, text: str) -> None:
        self._losses.count("verdicts_unusable")
        self._conditions.report_event("a verdict was replaced by unknown", text, level=logging.ERROR)
