"""Many `ok` verdicts as one message: shared fields once, a compact row each.

An `EnvelopeBuilder` grows verdict by verdict and knows its exact length, so that its message never exceeds the bound
and a full envelope is detected before it is encoded. With 64-character names everywhere, part ids of 64 characters and
a trial's challenger it still holds at least `MIN_ROWS`.

Rows are arrays whose members `columns` names. `seq` and `us` (capture time, microseconds) are differences from the row
before (the first row: from the envelope's own `seq` and `captured_utc_us`); scores are integers in ten-thousandths.
Scores of all classes are included while `MIN_ROWS` of the longest rows would fit beside them; else rows hold only the
score that was compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple

from pydantic import Field

from agent.errors import MessageError
from agent.records import Judgement, Origin, Outcome, Verdict
from agent.wire.codec import MAX_INT, MAX_UNMARKED_BYTES, Count, Digest, Name, bounded_json, quote
from agent.wire.verdict_message import PART_ID_LIMIT, SharedFields, origin_text

if TYPE_CHECKING:
    from collections.abc import Iterator

MIN_ROWS: Final = 32
_LONGEST_ROW: Final = 38  # [seq,us,latency_us,score], with 5, 10, 9 and 5 digits, a sign each before seq and us
_LONGEST_PART_ID: Final = 67
_LONGEST_CHALLENGER: Final = 10
_PER_SCORE: Final = 6
_BASE_COLUMNS: Final = ("seq", "us", "latency_us", "score")


class EnvelopeKey(NamedTuple):
    """Verdicts with equal keys may share an envelope."""

    origin: int  # id of the Origin, which the builder keeps alive
    class_name: str | None
    arm: str | None
    challenger_sha256: str | None
    has_part: bool
    has_challenger: bool
    scores: int


def envelope_key(verdict: Verdict) -> EnvelopeKey | None:
    """Return the key of verdicts that may share an envelope; None when it needs a message of its own."""
    judgement = verdict.judgement
    if judgement.outcome is not Outcome.OK or judgement.box or judgement.reason or verdict.image:
        return None
    return EnvelopeKey(
        id(verdict.origin),
        judgement.class_name,
        verdict.arm,
        verdict.challenger_sha256,
        verdict.part_id is not None,
        verdict.challenger_outcome is not None,
        len(judgement.scores),
    )


class EnvelopeBuilder:
    """Builds an envelope of verdicts with one `EnvelopeKey`. Not thread-safe."""

    __slots__ = (
        "_captured_us", "_has_part", "_has_scores", "_head", "_last_seq", "_length", "_rows", "count", "first_seq",
        "last_seq", "origin",
    )  # fmt: skip

    def __init__(self, first: Verdict) -> None:
        """Start with the shared fields of `first`, which must then be added like the others."""
        self.origin: Final = first.origin
        self.count = 0
        self.first_seq = first.seq  # smallest
        self.last_seq = first.seq  # largest
        self._last_seq = first.seq
        self._captured_us = first.captured_utc_ns // 1_000
        self._has_part = first.part_id is not None
        self._rows: list[str] = []
        self._head, self._has_scores = self._start(first)
        self._length = len(self._head) + 2

    def _start(self, first: Verdict) -> tuple[str, bool]:
        head = f'{{"v":1,"kind":"ok",{origin_text(self.origin)}'
        if first.judgement.class_name is not None:
            head += f',"class":{quote(first.judgement.class_name)}'
        if first.arm is not None:
            head += f',"arm":{quote(first.arm)}'
        if first.challenger_sha256 is not None:
            head += f',"challenger_sha256":{quote(first.challenger_sha256)}'
        head += f',"seq":{first.seq},"captured_utc_us":{self._captured_us}'
        columns = [*_BASE_COLUMNS]
        longest = _LONGEST_ROW
        if self._has_part:
            columns.append("part_id")
            longest += _LONGEST_PART_ID
        if first.challenger_outcome is not None:
            columns.append("challenger")
            longest += _LONGEST_CHALLENGER
        names = self.origin.classes[: len(first.judgement.scores)]
        classes = f',"classes":[{",".join(map(quote, names))}]'
        longest_scored = longest + _PER_SCORE * len(names)
        room = MAX_UNMARKED_BYTES - len(head) - 120
        has_scores = len(names) > 0 and len(classes) + MIN_ROWS * longest_scored <= room
        if has_scores:
            columns.extend(["scores"] * len(names))
            head += classes
        return f'{head},"columns":[{",".join(map(quote, columns))}],"rows":[', has_scores

    def try_add(self, verdict: Verdict) -> bool:
        """Add one verdict; False when it does not fit, which leaves the envelope as it was.

        Raises MessageError for a score outside [0, 1] or a negative number.
        """
        judgement = verdict.judgement
        captured_us = verdict.captured_utc_ns // 1_000
        if not (0.0 <= judgement.score <= 1.0 and verdict.seq >= 0 and verdict.latency_us >= 0 and captured_us >= 0):
            raise MessageError(f"Verdict {verdict.key} has a score outside 0 to 1 or a negative number.")
        row = (
            f"[{verdict.seq - self._last_seq},{captured_us - self._captured_us},{verdict.latency_us},"
            f"{int(judgement.score * 10_000.0 + 0.5)}"
        )
        if verdict.part_id is not None:
            row += "," + bounded_json(verdict.part_id, PART_ID_LIMIT)
        if verdict.challenger_outcome is not None:
            row += f',"{verdict.challenger_outcome}"'
        if self._has_scores:
            for score in judgement.scores:
                if not 0.0 <= score <= 1.0:
                    raise MessageError(f"Verdict {verdict.key} has the score {score}: a score must be in 0 to 1.")
                row += f",{int(score * 10_000.0 + 0.5)}"
        row += "]"
        length = self._length + len(row) + (self.count > 0)
        if length > MAX_UNMARKED_BYTES:
            return False
        self._length = length
        self._rows.append(row)
        self.count += 1
        seq = self._last_seq = verdict.seq
        self._captured_us = captured_us
        if seq > self.last_seq:
            self.last_seq = seq
        elif seq < self.first_seq:
            self.first_seq = seq
        return True

    def encode(self) -> bytes:
        """Return the message; more verdicts may be added afterwards."""
        return f"{self._head}{','.join(self._rows)}]}}".encode()


class Envelope(SharedFields):
    """An envelope on the wire."""

    kind: Literal["ok"]
    class_: Annotated[Name | None, Field(alias="class")] = None
    challenger_sha256: Digest | None = None
    seq: Count
    captured_utc_us: Count
    classes: tuple[Name, ...] = ()
    columns: Annotated[tuple[str, ...], Field(min_length=4, max_length=80)]
    rows: Annotated[tuple[tuple[int | str, ...], ...], Field(min_length=1)]

    def to_verdicts(self) -> Iterator[Verdict]:
        """Yield the verdicts of the envelope. Raises MessageError for rows that `columns` does not describe."""
        optional = tuple(name for name in ("part_id", "challenger") if name in self.columns)
        expected = (*_BASE_COLUMNS, *optional, *("scores" for _ in self.classes))
        if self.columns != expected:
            raise MessageError(f"An envelope was refused: its columns are {list(self.columns)}, not {list(expected)}.")
        origin = self.to_origin(self.classes)
        seq, captured_us = self.seq, self.captured_utc_us
        for row in self.rows:
            if len(row) != len(expected):
                raise MessageError(f"An envelope was refused: a row has {len(row)} members, not {len(expected)}.")
            numbers = [item for item in row if isinstance(item, int)]
            texts = dict(zip(optional, row[4:], strict=False))
            if len(numbers) != len(row) - len(optional) or not all(isinstance(text, str) for text in texts.values()):
                raise MessageError("An envelope was refused: a row has a text where a number belongs, or the reverse.")
            seq, captured_us = seq + numbers[0], captured_us + numbers[1]
            yield self._verdict(origin, seq, captured_us, numbers, {name: str(text) for name, text in texts.items()})

    def _verdict(
        self, origin: Origin, seq: int, captured_us: int, numbers: list[int], texts: dict[str, str]
    ) -> Verdict:
        score, *scores = (number / 10_000.0 for number in numbers[3:])
        in_range = all(0 <= number <= MAX_INT for number in (seq, captured_us, numbers[2]))
        if not in_range or not all(0.0 <= value <= 1.0 for value in (score, *scores)):
            raise MessageError("An envelope was refused: a row has a number out of range or a score above 1.")
        try:
            challenger = Outcome(texts["challenger"]) if "challenger" in texts else None
        except ValueError as error:
            raise MessageError(f"An envelope was refused: {error}.") from error
        return Verdict(
            origin=origin,
            seq=seq,
            captured_utc_ns=captured_us * 1_000,
            judgement=Judgement(Outcome.OK, self.class_, score, tuple(scores)),
            latency_us=numbers[2],
            part_id=texts.get("part_id"),
            arm=self.arm,
            challenger_outcome=challenger,
            challenger_sha256=self.challenger_sha256,
        )
