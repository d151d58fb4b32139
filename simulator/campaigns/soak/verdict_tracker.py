"""Compares committed verdicts with those that the broker received.

Every verdict arrives once after de-duplication, or is reported lost.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from agent.records import Outcome
from agent.wire import DecodedVerdicts, Gap, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.records import Outgoing, Verdict

_OUTCOMES: Final = {outcome: number for number, outcome in enumerate(Outcome, 1)}
_MAX_NAMED: Final = 5  # of verdicts that are missing


class _VerdictState(IntEnum):
    """Of one verdict."""

    NONE = 0  # an exposure that was dropped, or none
    IN_MEMORY = 1
    ON_DISK = 2
    UNCERTAIN = 3  # was in memory when the process was killed: it may have reached the disk, or not
    ARRIVED = 4
    REPORTED_LOST = 5  # in a gap


@dataclass(slots=True)
class _CameraVerdicts:
    """One camera in one boot epoch, by sequence number."""

    states: bytearray = field(default_factory=bytearray)
    outcomes: bytearray = field(default_factory=bytearray)

    def grow_to(self, seq: int) -> None:
        """Make room for `seq`."""
        if seq >= len(self.states):
            more = bytes(seq + 1_024 - len(self.states))
            self.states += more
            self.outcomes += more


@dataclass(slots=True)
class VerdictTracker:
    """All verdicts of a day."""

    streams_by_camera: dict[tuple[int, str], _CameraVerdicts] = field(default_factory=dict)
    uncommitted: list[tuple[_CameraVerdicts, int]] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)  # by outcome
    models: dict[str, str] = field(default_factory=dict)  # sha256 of those that inspected -> version
    duplicates: int = 0
    problems: list[str] = field(default_factory=list)
    last_origin: object = None

    def record_appended(self, verdicts: Sequence[Verdict]) -> None:
        """Note what the outbox took."""
        for verdict in verdicts:
            origin = verdict.origin
            if origin is not self.last_origin:
                self.last_origin = origin
                if origin.model is not None:
                    self.models[origin.model.sha256] = origin.model.version
            stream = self._stream(origin.boot_epoch, origin.camera)
            stream.grow_to(verdict.seq)
            if stream.states[verdict.seq] != _VerdictState.NONE:
                self.problems.append(f"two verdicts for {verdict.key}")
            stream.states[verdict.seq] = _VerdictState.IN_MEMORY
            stream.outcomes[verdict.seq] = _OUTCOMES[verdict.judgement.outcome]
            self.verdicts[verdict.judgement.outcome] += 1
            self.uncommitted.append((stream, verdict.seq))

    def record_committed(self) -> None:
        """Note that all that was appended is on disk."""
        for stream, seq in self.uncommitted:
            if stream.states[seq] == _VerdictState.IN_MEMORY:
                stream.states[seq] = _VerdictState.ON_DISK
        self.uncommitted.clear()

    def record_killed(self) -> None:
        """Note that what was not committed may be gone."""
        for stream, seq in self.uncommitted:
            if stream.states[seq] == _VerdictState.IN_MEMORY:
                stream.states[seq] = _VerdictState.UNCERTAIN
        self.uncommitted.clear()

    def record_delivered(self, messages: Sequence[Outgoing]) -> None:
        """Note what the broker got."""
        for message in messages:
            match decode(message.payload):
                case DecodedVerdicts(verdicts, _):
                    for verdict in verdicts:
                        self._record_arrival(verdict)
                case Gap() as gap:
                    stream = self._stream(gap.boot_epoch, gap.camera)
                    for first, last in gap.ranges:
                        stream.grow_to(last)
                        for seq in range(first, last + 1):
                            if stream.states[seq] not in {_VerdictState.NONE, _VerdictState.ARRIVED}:
                                stream.states[seq] = _VerdictState.REPORTED_LOST
                case _:
                    pass

    def _record_arrival(self, verdict: Verdict) -> None:
        origin = verdict.origin
        stream = self._stream(origin.boot_epoch, origin.camera)
        stream.grow_to(verdict.seq)
        if stream.outcomes[verdict.seq] != _OUTCOMES[verdict.judgement.outcome]:
            self.problems.append(f"{verdict.key} arrived as {verdict.judgement.outcome}, which the line did not decide")
        self.duplicates += stream.states[verdict.seq] == _VerdictState.ARRIVED
        stream.states[verdict.seq] = _VerdictState.ARRIVED

    def count_missing(self) -> int:
        """Count committed verdicts that neither arrived nor are told lost; `problems` names the first."""
        found = [
            f"{epoch}/{camera}/{seq}"
            for (epoch, camera), stream in self.streams_by_camera.items()
            for seq, state in enumerate(stream.states)
            if state in {_VerdictState.IN_MEMORY, _VerdictState.ON_DISK}
        ]
        if found:
            self.problems.append(f"{len(found)} verdicts are missing: {', '.join(found[:_MAX_NAMED])}")
        return len(found)

    def count_states(self) -> dict[str, int]:
        """Count verdicts by what became of them."""
        counts = Counter[int]()
        for stream in self.streams_by_camera.values():
            counts.update(stream.states)
        return {state.name.lower(): counts[state] for state in _VerdictState if state is not _VerdictState.NONE}

    def _stream(self, epoch: int, camera: str) -> _CameraVerdicts:
        found = self.streams_by_camera.get((epoch, camera))
        if found is None:
            found = self.streams_by_camera[epoch, camera] = _CameraVerdicts()
        return found
