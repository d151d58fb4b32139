"""Verdicts for the tests of wire and outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.records import Judgement, ModelIdentity, Origin, Outcome, Verdict
from agent.wire import DecodedVerdicts, Gap, Heartbeat, decode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.records import Outgoing

SHA: Final = "0123456789abcdef" * 4
START_NS: Final = 1_790_000_000_000_000_000


def make_origin(*, camera: str = "cam1", boot_epoch: int = 1, classes: tuple[str, ...] = ("good", "scratch")) -> Origin:
    return Origin(
        thing="device-7",
        line="line1",
        inspection="top",
        camera=camera,
        boot_epoch=boot_epoch,
        config_digest="c" * 16,
        preprocess_digest="d" * 16,
        model=ModelIdentity("default", "1.2.3", SHA, 4, trusted=True),
        classes=classes,
    )


ORIGIN: Final = make_origin()


def make_verdict(
    seq: int, outcome: Outcome = Outcome.OK, *, origin: Origin = ORIGIN, part_id: str | None = None,
    reason: str | None = None,
) -> Verdict:  # fmt: skip
    name = {Outcome.OK: "good", Outcome.UNKNOWN: None}.get(outcome, "scratch")
    box = (10, 20, 30, 40) if outcome is Outcome.DEFECT else None
    return Verdict(
        origin=origin,
        seq=seq,
        captured_utc_ns=START_NS + seq * 33_333_000,
        judgement=Judgement(outcome, name, 0.25, (0.75, 0.25), box, reason),
        latency_us=2_100,
        part_id=part_id,
    )


def make_verdicts(first: int, count: int, outcome: Outcome = Outcome.OK) -> list[Verdict]:
    return [make_verdict(seq, outcome) for seq in range(first, first + count)]


def read(messages: Iterable[Outgoing]) -> tuple[list[tuple[Verdict, bool]], list[Gap]]:
    """Return what a subscriber got: verdicts, each with its replay mark, and gaps."""
    verdicts: list[tuple[Verdict, bool]] = []
    gaps: list[Gap] = []
    for message in messages:
        match decode(message.payload):
            case DecodedVerdicts(found, replay):
                verdicts.extend((verdict, replay) for verdict in found)
            case Gap() as gap:
                gaps.append(gap)
            case Heartbeat():
                pass
    return verdicts, gaps


def lost(gaps: Iterable[Gap]) -> set[int]:
    """Return every sequence number that the gaps name."""
    return {seq for gap in gaps for first, last in gap.ranges for seq in range(first, last + 1)}
