"""Adds losses up to one gap message for each stream and reason until that message is on its way.

Adding is tentative: `commit` adopts it and `roll_back` forgets it, in step with the store's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agent.outbox.outbox_records import Priority, Row, Stream
from agent.wire import MAX_RANGES, Gap, GapReason, encode_gap

if TYPE_CHECKING:
    from agent.outbox.outbox_records import Loss, RowIdSequence
    from agent.records import Outcome

_US_PER_S: Final = 1_000_000


@dataclass(slots=True)
class OpenGap:
    """A gap that still grows; `row` is its row in the store."""

    number: int
    counts: dict[Outcome, int] = field(default_factory=dict)
    ranges: list[tuple[int, int]] = field(default_factory=list)
    exact: bool = True
    row: Row | None = None

    def copy(self) -> OpenGap:
        """Return a copy that can grow without changing this one."""
        return OpenGap(self.number, dict(self.counts), list(self.ranges), self.exact, self.row)

    def add(self, loss: Loss) -> None:
        """Add one loss."""
        self.counts[loss.outcome] = self.counts.get(loss.outcome, 0) + loss.verdicts
        self.exact &= loss.exact
        merged: list[tuple[int, int]] = []
        for first, last in sorted([*self.ranges, *loss.ranges]):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        while len(merged) > MAX_RANGES:  # close the smallest hole: the range then covers more than was lost
            at = min(range(1, len(merged)), key=lambda index: merged[index][0] - merged[index - 1][1])
            merged[at - 1 : at + 1] = [(merged[at - 1][0], merged[at][1])]
            self.exact = False
        self.ranges = merged


class GapTracker:
    """The open gaps, and those staged in the running transaction. Not thread-safe."""

    def __init__(self) -> None:
        self._open: dict[tuple[Stream, GapReason], OpenGap] = {}
        self._staged: dict[tuple[Stream, GapReason], OpenGap] = {}

    def add(self, loss: Loss, reason: GapReason, next_id: RowIdSequence) -> None:
        """Stage a loss in the running transaction."""
        self._stage(loss.stream, reason, next_id).add(loss)

    def add_unknown(self, stream: Stream, reason: GapReason, next_id: RowIdSequence) -> None:
        """Stage a loss of unknown extent in the stream."""
        self._stage(stream, reason, next_id).exact = False

    def _stage(self, stream: Stream, reason: GapReason, next_id: RowIdSequence) -> OpenGap:
        key = (stream, reason)
        if key not in self._staged:
            known = self._open.get(key)
            self._staged[key] = OpenGap(next_id()) if known is None else known.copy()
        return self._staged[key]

    def staged_rows(self, utc_ns: int) -> list[tuple[Row, Row | None]]:
        """Return the rows to put, each with the one it replaces."""
        return [(self._row(key, gap, utc_ns), gap.row) for key, gap in self._staged.items()]

    def commit(self, rows: list[tuple[Row, Row | None]]) -> int:
        """Adopt the staged gaps; `rows` are those of `staged_rows`. Returns how many gaps are new."""
        new = 0
        for (key, gap), (row, replaced) in zip(self._staged.items(), rows, strict=True):
            gap.row = row
            self._open[key] = gap
            new += replaced is None
        self._staged.clear()
        return new

    def roll_back(self) -> None:
        """Forget the staged gaps."""
        self._staged.clear()

    def seal(self, number: int) -> None:
        """Let the gap with this row id grow no more: its message is on its way."""
        for key, gap in list(self._open.items()):
            if gap.number == number:
                del self._open[key]

    def rows(self) -> list[Row]:
        """Return the rows of the open gaps that the store should hold."""
        return [gap.row for gap in self._open.values() if gap.row is not None]

    @staticmethod
    def _row(key: tuple[Stream, GapReason], gap: OpenGap, utc_ns: int) -> Row:
        stream, reason = key
        message = Gap(
            thing=stream.thing,
            line=stream.line,
            inspection=stream.inspection,
            camera=stream.camera,
            boot_epoch=stream.boot_epoch,
            reason=reason,
            lost_utc_us=utc_ns // 1_000,
            counts=gap.counts,
            ranges=tuple(gap.ranges),
            exact=gap.exact,
        )
        body = encode_gap(message)
        return Row(gap.number, Priority.GAP, stream, -1, -1, 0, utc_ns // (1_000 * _US_PER_S), body)
