"""What was promised, and what the broker got: every verdict arrives once after de-duplication, or is told lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from agent.records import Outcome
from agent.wire import Delivery, Gap, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.records import Outgoing, Verdict

_OUTCOMES: Final = {outcome: number for number, outcome in enumerate(Outcome, 1)}
_SHOWN: Final = 5  # of verdicts that are missing


class _Fate(IntEnum):
    """Of one verdict."""

    NONE = 0  # an exposure that was dropped, or none
    WAITING = 1  # in memory
    PROMISED = 2  # on disk
    DEAD = 3  # was in memory when the process was killed: it may have reached the disk, or not
    ARRIVED = 4
    TOLD = 5  # in a gap


@dataclass(slots=True)
class _Stream:
    """One camera in one boot epoch, by sequence number."""

    fates: bytearray = field(default_factory=bytearray)
    outcomes: bytearray = field(default_factory=bytearray)

    def reach(self, seq: int) -> None:
        """Make room for `seq`."""
        if seq >= len(self.fates):
            more = bytes(seq + 1_024 - len(self.fates))
            self.fates += more
            self.outcomes += more


@dataclass(slots=True)
class Book:
    """All verdicts of a day."""

    streams: dict[tuple[int, str], _Stream] = field(default_factory=dict)
    fresh: list[tuple[_Stream, int]] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)  # by outcome
    models: dict[str, str] = field(default_factory=dict)  # sha256 of those that judged -> version
    doubles: int = 0
    problems: list[str] = field(default_factory=list)
    last_origin: object = None

    def appended(self, verdicts: Sequence[Verdict]) -> None:
        """Note what the outbox took."""
        for verdict in verdicts:
            origin = verdict.origin
            if origin is not self.last_origin:
                self.last_origin = origin
                if origin.model is not None:
                    self.models[origin.model.sha256] = origin.model.version
            stream = self._stream(origin.boot_epoch, origin.camera)
            stream.reach(verdict.seq)
            if stream.fates[verdict.seq] != _Fate.NONE:
                self.problems.append(f"two verdicts for {verdict.key}")
            stream.fates[verdict.seq] = _Fate.WAITING
            stream.outcomes[verdict.seq] = _OUTCOMES[verdict.judgement.outcome]
            self.verdicts[verdict.judgement.outcome] += 1
            self.fresh.append((stream, verdict.seq))

    def committed(self) -> None:
        """Note that all that was appended is on disk."""
        for stream, seq in self.fresh:
            if stream.fates[seq] == _Fate.WAITING:
                stream.fates[seq] = _Fate.PROMISED
        self.fresh.clear()

    def killed(self) -> None:
        """Note that what was not committed may be gone."""
        for stream, seq in self.fresh:
            if stream.fates[seq] == _Fate.WAITING:
                stream.fates[seq] = _Fate.DEAD
        self.fresh.clear()

    def received(self, messages: Sequence[Outgoing]) -> None:
        """Note what the broker got."""
        for message in messages:
            match decode(message.payload):
                case Delivery(verdicts, _):
                    for verdict in verdicts:
                        self._arrived(verdict)
                case Gap() as gap:
                    stream = self._stream(gap.boot_epoch, gap.camera)
                    for first, last in gap.ranges:
                        stream.reach(last)
                        for seq in range(first, last + 1):
                            if stream.fates[seq] not in {_Fate.NONE, _Fate.ARRIVED}:
                                stream.fates[seq] = _Fate.TOLD
                case _:
                    pass

    def _arrived(self, verdict: Verdict) -> None:
        origin = verdict.origin
        stream = self._stream(origin.boot_epoch, origin.camera)
        stream.reach(verdict.seq)
        if stream.outcomes[verdict.seq] != _OUTCOMES[verdict.judgement.outcome]:
            self.problems.append(f"{verdict.key} arrived as {verdict.judgement.outcome}, which nobody judged")
        self.doubles += stream.fates[verdict.seq] == _Fate.ARRIVED
        stream.fates[verdict.seq] = _Fate.ARRIVED

    def missing(self) -> int:
        """Count committed verdicts that neither arrived nor are told lost; `problems` names the first."""
        found = [
            f"{epoch}/{camera}/{seq}"
            for (epoch, camera), stream in self.streams.items()
            for seq, fate in enumerate(stream.fates)
            if fate in {_Fate.WAITING, _Fate.PROMISED}
        ]
        if found:
            self.problems.append(f"{len(found)} verdicts are missing: {', '.join(found[:_SHOWN])}")
        return len(found)

    def fates(self) -> dict[str, int]:
        """Count verdicts by what became of them."""
        counts = Counter[int]()
        for stream in self.streams.values():
            counts.update(stream.fates)
        return {fate.name.lower(): counts[fate] for fate in _Fate if fate is not _Fate.NONE}

    def _stream(self, epoch: int, camera: str) -> _Stream:
        found = self.streams.get((epoch, camera))
        if found is None:
            found = self.streams[epoch, camera] = _Stream()
        return found
