"""Packs verdicts into rows: `ok` verdicts of one kind share an envelope, all others get a row each.

So does every verdict of an inspection in `at_once_inspections`, for a machine that waits for an `ok`.

An envelope on disk grows with every commit until it is full or old enough to be sent, so that `ok` verdicts are durable
soon and still share a message. Nothing is forgotten before `urgent_written` or `envelopes_written` reports that its row
is committed. Not thread-safe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from agent.errors import MessageError
from agent.outbox.outbox_records import PRIORITY_OF, Priority, Row, Stream, compress
from agent.records import Judgement, Outcome
from agent.timing.clock import NS_PER_S
from agent.wire import EnvelopeBuilder, EnvelopeKey, encode_verdict, envelope_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.outbox.outbox_records import RowIdSequence
    from agent.records import Origin, Verdict

_MAX_STREAMS: Final = 1_024  # origins remembered; far more than a device has cameras and models


@dataclass(slots=True)
class _OpenPack:
    pack: EnvelopeBuilder
    number: int  # id of its row
    stream: Stream
    since_ns: int
    is_sealed: bool = False
    row: Row | None = None  # as committed
    draft: Row | None = None  # as put in the running transaction


@dataclass(frozen=True, slots=True)
class RowWrite:
    """A row to put, and the committed row that it replaces."""

    row: Row
    replaced: Row | None


class VerdictPacker:
    """Collects verdicts and returns the rows that must be written."""

    def __init__(
        self, *, next_id: RowIdSequence, seal_s: float, on_unusable: Callable[[str], None] | None = None
    ) -> None:
        """`next_id` numbers the rows; an envelope is sent after `seal_s` seconds at the latest.

        `on_unusable` is called with the reason when a verdict cannot be encoded as it is.
        """
        self._on_unusable = on_unusable
        self._next_id = next_id
        self._seal_ns = int(seal_s * NS_PER_S)
        self._open: dict[EnvelopeKey, _OpenPack] = {}
        self._sealed: list[_OpenPack] = []
        self._urgent: list[tuple[Row, Verdict | None]] = []  # None: a report
        self._streams: dict[int, tuple[Origin, Stream]] = {}
        self.at_once_inspections: frozenset[str] = frozenset()  # inspections

    def add(self, verdict: Verdict, *, now_ns: int, utc_s: int) -> None:
        """Take one verdict; one that cannot be encoded becomes `unknown`, which is never `ok`."""
        try:
            self._add(verdict, now_ns, utc_s)
        except MessageError as error:
            if self._on_unusable is not None:
                self._on_unusable(str(error))
            self._add(_unusable(verdict), now_ns, utc_s)

    def _add(self, verdict: Verdict, now_ns: int, utc_s: int) -> None:
        key = None if verdict.origin.inspection in self.at_once_inspections else envelope_key(verdict)
        if key is None:
            stream = self._stream(verdict.origin)
            priority = PRIORITY_OF[verdict.judgement.outcome]
            body = encode_verdict(verdict)
            row = Row(self._next_id(), priority, stream, verdict.seq, verdict.seq, 1, utc_s, body)
            self._urgent.append((row, verdict))
            return
        entry = self._open.get(key)
        if entry is not None:
            if entry.pack.try_add(verdict):
                return
            self._seal(key, entry)
        pack = EnvelopeBuilder(verdict)
        if not pack.try_add(verdict):
            raise MessageError(f"Verdict {verdict.key} does not fit into an envelope.")
        self._open[key] = _OpenPack(pack, self._next_id(), self._stream(verdict.origin), now_ns)

    def add_report(self, stream: Stream, body: bytes, *, utc_s: int) -> None:
        """Take one report on a model: it is sent at once and never evicted."""
        self._urgent.append((Row(self._next_id(), Priority.GAP, stream, -1, -1, 0, utc_s, body), None))

    def _stream(self, origin: Origin) -> Stream:
        known = self._streams.get(id(origin))
        if known is None:
            if len(self._streams) >= _MAX_STREAMS:
                self._streams.clear()
            known = self._streams[id(origin)] = (origin, Stream.of(origin))  # keeping the Origin keeps its id in use
        return known[1]

    def _seal(self, key: EnvelopeKey, entry: _OpenPack) -> None:
        entry.is_sealed = True
        self._sealed.append(entry)
        del self._open[key]

    def seal(self, *, now_ns: int, everything: bool) -> None:
        """Close envelopes to further verdicts: those that are old enough, or all."""
        for key, entry in list(self._open.items()):
            if everything or now_ns - entry.since_ns >= self._seal_ns:
                self._seal(key, entry)

    @property
    def waiting(self) -> int:
        """How many verdicts and reports wait here for their commit."""
        packs = (*self._open.values(), *self._sealed)
        return len(self._urgent) + sum(entry.pack.count - (entry.row.verdicts if entry.row else 0) for entry in packs)

    def urgent_changes(self) -> list[RowWrite]:
        """Return the rows that must be committed at once, the least valuable first."""
        return [RowWrite(row, None) for row, _verdict in sorted(self._urgent, key=lambda item: item[0].priority)]

    def envelope_changes(self, *, utc_s: int) -> list[RowWrite]:
        """Return the envelopes that grew since their last commit."""
        changes: list[RowWrite] = []
        for entry in (*self._sealed, *self._open.values()):
            pack, row = entry.pack, entry.row
            if row is None or row.verdicts != pack.count:
                since = utc_s if row is None else row.utc_s
                body = compress(pack.encode())
                entry.draft = Row(
                    entry.number, Priority.OK, entry.stream, pack.first_seq, pack.last_seq, pack.count, since, body
                )
                changes.append(RowWrite(entry.draft, row))
        return changes

    def urgent_written(self) -> tuple[list[Row], list[Verdict]]:
        """Forget the rows of `urgent_changes`, which are committed; return them and their verdicts."""
        rows = [row for row, _ in self._urgent]
        verdicts = [verdict for _, verdict in self._urgent if verdict is not None]
        self._urgent.clear()
        return rows, verdicts

    def envelopes_written(self) -> list[Row]:
        """Note that `envelope_changes` are committed; return, and forget, those that may be sent now."""
        ready: list[Row] = []
        for entry in (*self._sealed, *self._open.values()):
            if entry.draft is not None:
                entry.row, entry.draft = entry.draft, None
            if entry.is_sealed and entry.row is not None:
                ready.append(entry.row)
        self._sealed.clear()
        return ready

    def open_rows(self) -> list[Row]:
        """Return the committed rows that must not be sent yet."""
        return [entry.row for entry in (*self._sealed, *self._open.values()) if entry.row is not None]

    def drop(self, number: int) -> None:
        """Forget the envelope with this row id: it was evicted."""
        for key, entry in list(self._open.items()):
            if entry.number == number:
                del self._open[key]
        self._sealed = [entry for entry in self._sealed if entry.number != number]


def _unusable(verdict: Verdict) -> Verdict:
    reason = "the judgement held a number that is out of range"
    judgement = Judgement(Outcome.UNKNOWN, None, 0.0, (), reason=reason)
    latency_us, captured_utc_ns = max(0, verdict.latency_us), max(0, verdict.captured_utc_ns)
    return replace(verdict, judgement=judgement, latency_us=latency_us, captured_utc_ns=captured_utc_ns)
