"""Frozen records of the outbox: limits, rows, losses and statistics."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from agent.records import Origin, Outcome
from agent.wire import MAX_DECODE_BYTES, HeldTopicHealth, OutboxHealth, model_topic, verdict_topic

DAY_S: Final = 86_400.0
_SHOWN_TOPICS: Final = 2  # in a heartbeat
ROW_OVERHEAD: Final = 128  # bytes of a row beside its body: its columns, its entry in the index, the page's share


class Priority(IntEnum):
    """The order of eviction when room is needed: the lowest first, within a priority the oldest.

    An `unknown` part was not inspected: a person can act on its camera, not on the part. `unsure` waits for a person's
    decision on a part, `defect` stops one. A gap is the only trace of the rows lost before it, and a model report of
    why a release was refused: neither is ever evicted.
    """

    OK = 0
    UNKNOWN = 1
    UNSURE = 2
    DEFECT = 3
    GAP = 4


PRIORITY_OF: Final = {
    Outcome.OK: Priority.OK,
    Outcome.UNKNOWN: Priority.UNKNOWN,
    Outcome.UNSURE: Priority.UNSURE,
    Outcome.DEFECT: Priority.DEFECT,
}
OUTCOME_OF_PRIORITY: Final = {priority: outcome for outcome, priority in PRIORITY_OF.items()}


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """Every bound of the outbox; `agent.config.OutboxConfig` sets those that a site may want to change."""

    max_bytes: int = 512 * 1024 * 1024  # of the store's file, without its write-ahead log (4 MiB at most)
    commit_s: float = 0.25  # longest wait of an ok verdict before it is on disk
    seal_s: float = 2.0  # longest wait of an ok verdict for others in its envelope
    queue_capacity: int = 4_096  # verdicts between the workers and the writer; `append` blocks beyond
    in_flight: int = 64  # unacknowledged messages; the transport's own bound may be lower
    live_queue: int = 256  # committed messages that wait in memory for the transport
    ack_timeout_s: float = 20.0  # then the message is published again
    retry_s: float = 0.2  # first wait after the transport refused; doubles, with jitter
    retry_max_s: float = 30.0
    history_s: float = 7 * DAY_S
    history_bytes: int = 256 * 1024 * 1024

    @property
    def page_rows(self) -> int:
        """Rows of the backlog that are read at once: at 5,000 rows/s enough for 50 ms, while the writer commits."""
        return max(64, min(256, self.max_bytes // (64 * 1024)))

    @property
    def reserve_bytes(self) -> int:
        """Disk space that is reserved, to be released when the disk is full."""
        return min(1024 * 1024, self.max_bytes // 8)


@dataclass(frozen=True, slots=True)
class Stream:
    """One series of sequence numbers: a camera in a boot epoch. Without a camera: the reports of an inspection."""

    thing: str
    line: str
    inspection: str
    camera: str
    boot_epoch: int

    @classmethod
    def of(cls, origin: Origin) -> Stream:
        """Return the stream of the verdicts with this origin."""
        return cls(origin.thing, origin.line, origin.inspection, origin.camera, origin.boot_epoch)

    @classmethod
    def of_reports(cls, *, thing: str, line: str, inspection: str, boot_epoch: int) -> Stream:
        """Return the stream of the reports on this inspection's model."""
        return cls(thing, line, inspection, "", boot_epoch)

    @property
    def has_verdicts(self) -> bool:
        """Whether its rows are verdicts and gaps, not reports."""
        return self.camera != ""

    @property
    def topic(self) -> str:
        """The topic of its verdicts and gaps, or of its reports."""
        return verdict_topic(self.thing, self.camera) if self.has_verdicts else model_topic(self.thing)


@dataclass(frozen=True, slots=True)
class Row:
    """One message of the store. `body` is the final payload; that of an envelope is zlib-compressed."""

    id: int  # never used twice while the agent runs
    priority: Priority
    stream: Stream
    first_seq: int  # smallest
    last_seq: int  # largest; -1 for a gap or a report
    verdicts: int  # 0 for a gap or a report
    utc_s: int
    body: bytes

    @property
    def size(self) -> int:
        """Approximate size of the row on disk, in bytes."""
        return len(self.body) + ROW_OVERHEAD

    @property
    def payload(self) -> bytes:
        """The message as it is published. Raises zlib.error for a damaged one."""
        return decompress(self.body)


class RowIdSequence:
    """Numbers for rows, ascending and never the same twice; used from one thread."""

    def __init__(self) -> None:
        self._next = 1

    def __call__(self) -> int:
        """Return the next number."""
        number = self._next
        self._next += 1
        return number

    def skip_to(self, number: int) -> None:
        """Continue at `number`, or later where that is already past."""
        self._next = max(self._next, number)


def compress(payload: bytes) -> bytes:
    """Return the compressed body of an envelope."""
    return zlib.compress(payload, 1)


def decompress(body: bytes) -> bytes:
    """Return the message in `body`, bounded. Raises zlib.error for a damaged one."""
    if body.startswith(b"{"):
        return body
    return zlib.decompressobj().decompress(body, MAX_DECODE_BYTES)


@dataclass(frozen=True, slots=True)
class Loss:
    """Lost verdicts of one stream and outcome. With `exact`, each number in `ranges` is one of them."""

    stream: Stream
    outcome: Outcome
    verdicts: int
    ranges: tuple[tuple[int, int], ...]  # [first, last] pairs, inclusive
    exact: bool


@dataclass(frozen=True, slots=True)
class OutboxStats:
    """State of the outbox; counts are since the start."""

    rows: int  # messages in the store
    verdicts: int  # verdicts in them
    bytes: int
    oldest_age_s: float  # how long the oldest of them waits; 0 when there is none
    uncommitted: int  # verdicts that are not committed yet
    in_flight: int
    appended: int
    committed: int
    delivered: int  # verdicts acknowledged and moved to the history
    commits: int  # transactions
    evicted: int  # verdicts removed because the outbox was full
    damaged: int  # verdicts known to be lost with a damaged file
    gaps: int  # gap messages written
    connected: bool
    reason: str  # of the transport's last change
    storage_error: str | None  # why nothing can be committed now
    held_back: tuple[HeldTopicHealth, ...] = ()  # the longest refused first
    rejected: int = 0  # messages that the broker refused by an answer
    resent: int = 0  # messages of the history that were sent again on request

    def to_health(self) -> OutboxHealth:
        """Return the outbox's section of the heartbeat."""
        return OutboxHealth(
            rows=self.rows,
            verdicts=self.verdicts + self.uncommitted,
            bytes=self.bytes,
            oldest_age_s=self.oldest_age_s,
            evicted=self.evicted,
            damaged=self.damaged,
            gaps=self.gaps,
            storage_error=self.storage_error and self.storage_error[:256],
            held_back_topics=len(self.held_back),
            held_back=self.held_back[:_SHOWN_TOPICS],
            rejected=self.rejected,
            resent=self.resent,
        )
