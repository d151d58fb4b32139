"""Messages as devices write them, for the tests of what becomes of them."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agent import wire
from agent.records import CameraState, DropReason, Judgement, ModelIdentity, Origin, Outcome, Verdict
from agent.release_records import DesiredRelease, Gate, ModelStatus, Refusal, ReleaseRef
from agent.wire.model_report import ReportingAgent, encode_report

if TYPE_CHECKING:
    from collections.abc import Sequence

SITE = "kyoto"
NOON_US = int(datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp()) * 1_000_000
MODEL = ModelIdentity("surface", "1.2.0", "ab" * 32, 7, trusted=True)
ORIGIN = Origin("press-1-a", "press-1", "surface", "top", 3, "c0ffee", "d1ce", MODEL, ("good", "scratch"))


def ok(seq: int, *, at_us: int = NOON_US, part_id: str | None = None) -> Verdict:
    return Verdict(
        ORIGIN, seq, at_us * 1_000, Judgement(Outcome.OK, "good", 0.0125, (0.9875, 0.0125)), 2_000 + seq, part_id
    )


def defect(seq: int, *, at_us: int = NOON_US) -> Verdict:
    return Verdict(
        ORIGIN,
        seq,
        at_us * 1_000,
        Judgement(Outcome.DEFECT, "scratch", 0.9, (0.1, 0.9), (10, 20, 30, 40)),
        2_500,
        "part-9",
        "frames/9.jpg",
        "challenger",
        Outcome.OK,
        "cd" * 32,
    )


def envelope(verdicts: Sequence[Verdict]) -> bytes:
    pack = wire.EnvelopeBuilder(verdicts[0])
    assert all(pack.try_add(verdict) for verdict in verdicts)
    return pack.encode()


def full_envelope(first_seq: int = 0) -> tuple[bytes, int]:
    """An envelope with as many verdicts as fit, and how many those are."""
    pack = wire.EnvelopeBuilder(ok(first_seq))
    seq = first_seq
    while pack.try_add(ok(seq, at_us=NOON_US + seq * 33_000)):
        seq += 1
    return pack.encode(), seq - first_seq


def gap() -> bytes:
    return wire.encode_gap(
        wire.Gap(
            thing="press-1-a", line="press-1", inspection="surface", camera="top", boot_epoch=3,
            reason=wire.GapReason.EVICTED, lost_utc_us=NOON_US, counts={Outcome.OK: 9, Outcome.DEFECT: 1},
            ranges=((5, 9), (20, 24)), exact=True,
        )
    )  # fmt: skip


def heartbeat() -> bytes:
    def camera(name: str, dropped: int) -> wire.CameraHealth:
        return wire.CameraHealth(
            camera=name, inspection="surface", state=CameraState.RUNNING, fps=29.5, captured=100 + dropped,
            inspected=99,
            pending=1, dropped={DropReason.OVERRUN: dropped},
        )  # fmt: skip

    health = wire.InspectionHealth(
        inspection="surface", model="surface", version="1.2.0", sha256="ab" * 32, trusted=True,
        preprocess_digest="d1ce", state="idle",
    )  # fmt: skip
    (payload,) = wire.encode_heartbeat(
        wire.Heartbeat(
            thing="press-1-a", line="press-1", boot_epoch=3, agent_version="0.5.0", utc_us=NOON_US, uptime_s=60.0,
            transport="up", latency_p50_us=2_000, latency_p99_us=4_000, cpu=0.2, rss_bytes=100, temperature_c=None,
            outbox=wire.OutboxHealth(rows=1, verdicts=2, bytes=3, oldest_age_s=4.0), inspections=(health,),
            cameras=(camera("top", 0), camera("left", 4)),
        )
    )  # fmt: skip
    return payload


def report(state: str = "rolling_back") -> bytes:
    def release(version: str, counter: int) -> ReleaseRef:
        return ReleaseRef("surface", version, counter, f"{counter:064x}", f"{counter + 100:064x}")

    status = ModelStatus(
        inspection="surface", state=state, since_utc_s=NOON_US / 1e6 - 5, active=release("1.2.0", 7), previous=None,
        candidate=release("1.3.0", 8), desired=DesiredRelease("surface/1.3.0", "release", 0.0, "shadow"), share=0.25,
        progress={"parts": 400.0}, refusal=Refusal(Gate.VERDICTS, "rejects_more", "It rejects more.", {}, {}),
        refused=release("1.3.0", 8), alarm=None, counter_floor=7,
    )  # fmt: skip
    return encode_report(status, reporter=ReportingAgent("press-1-a", "press-1", 3), utc_ns=NOON_US * 1_000)


def firehose_event(payloads: Sequence[bytes], table: str = "verdicts") -> dict[str, Any]:
    """What Firehose hands to the transformation function of one table's stream."""
    return {
        "invocationId": "1",
        "deliveryStreamArn": f"arn:aws:firehose:eu-central-1:123456789012:deliverystream/kensa-{table}",
        "records": [
            {"recordId": f"r{i}", "data": base64.b64encode(payload).decode()} for i, payload in enumerate(payloads)
        ],
    }
