"""A heartbeat stays below one metering unit, whatever happened, and loses no count of a frame."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.records import CameraState, DropReason, ImageFault, Outcome
from agent.wire import CameraHealth, Heartbeat, InspectionHealth, OutboxHealth, decode, encode_heartbeat
from agent.wire.codec import MAX_MESSAGE_BYTES
from agent.wire.heartbeat_message import (
    BrokerHealth,
    CollectionHealth,
    ConfigurationHealth,
    HeldTopicHealth,
    ThreadsHealth,
)

BIG = 10**15
TEXT = st.one_of(st.text("x", min_size=200, max_size=256), st.text('é\n漢😀"', min_size=200, max_size=256), st.just(""))
NAME = st.text("abcdefghijklmnop_-", min_size=1, max_size=64)
TABLE = st.dictionaries(NAME, st.integers(0, BIG), max_size=60)


def camera(number: int, text: str) -> CameraHealth:
    dropped = dict.fromkeys(DropReason, BIG)
    return CameraHealth(
        camera=f"{number:03d}" + "c" * 61,
        inspection="i" * 64,
        state=CameraState.RECONNECTING,
        fps=29.97,
        captured=BIG * (len(dropped) + 2),
        inspected=BIG,
        pending=BIG,
        dropped=dropped,
        error=text,
        outcomes=dict.fromkeys(Outcome, BIG),
        picture_faults=dict.fromkeys(ImageFault, BIG),
        picture_alarm=text,
        image_mismatch=text,
        skipped_files=text,
    )


@st.composite
def heartbeats(draw: st.DrawFn) -> Heartbeat:
    text = draw(TEXT)
    values: dict[str, Any] = {
        "thing": "t" * 64,
        "line": "l" * 64,
        "boot_epoch": BIG,
        "agent_version": text,
        "component_version": text,
        "configuration": ConfigurationHealth(
            digest="d" * 64, refused=text, needs_restart=(text,) * draw(st.integers(0, 9))
        ),
        "utc_us": BIG,
        "uptime_s": 1e9,
        "transport": "down",
        "transport_reason": text,
        "broker": BrokerHealth(dropped={"x" * 64: BIG}, refused=dict.fromkeys(draw(st.lists(NAME, max_size=6)), text)),
        "latency_p50_us": BIG,
        "latency_p99_us": BIG,
        "cpu": 1.0,
        "rss_bytes": BIG,
        "temperature_c": 71.5,
        "last_fault": text,
        "threads": ThreadsHealth(faults=draw(TABLE), last=text),
        "losses": draw(TABLE),
        "outbox": OutboxHealth(
            rows=BIG,
            verdicts=BIG,
            bytes=BIG,
            oldest_age_s=1e9,
            storage_error=text,
            held_back_topics=99,
            held_back=(HeldTopicHealth(topic=text, reason=text, for_s=1e9),) * draw(st.integers(0, 9)),
        ),
        "collection": CollectionHealth(skipped=draw(TABLE), error=text),
        "inspections": tuple(
            InspectionHealth(
                inspection="i" * 64,
                model="m" * 64,
                version=text,
                sha256="s" * 64,
                trusted=True,
                preprocess_digest="p" * 64,
                state=text,
                candidate=text,
                alarm=text,
                unhealthy=text,
            )
            for _ in range(draw(st.integers(0, 3)))
        ),
        "cameras": tuple(camera(number, text) for number in range(draw(st.integers(0, 5)))),
    }
    return Heartbeat(**values)


@settings(max_examples=60, deadline=None)
@given(heartbeats())
def test_every_chunk_fits_into_one_message_and_no_camera_loses_a_count(beat: Heartbeat) -> None:
    payloads = encode_heartbeat(beat)
    assert all(len(payload) < MAX_MESSAGE_BYTES for payload in payloads)
    chunks = [chunk for payload in payloads if isinstance(chunk := decode(payload), Heartbeat)]
    assert [chunk.chunk for chunk in chunks] == list(range(1, len(payloads) + 1))
    assert {chunk.chunks for chunk in chunks} == {len(payloads)}
    for field in ("thing", "line", "boot_epoch", "utc_us"):
        assert {getattr(chunk, field) for chunk in chunks} == {getattr(beat, field)}
    assert {chunk.outbox.verdicts for chunk in chunks} == {beat.outbox.verdicts}
    sent = [found for chunk in chunks for found in chunk.cameras]
    counts = [(c.camera, c.captured, c.inspected, c.pending, dict(c.dropped), dict(c.outcomes)) for c in beat.cameras]
    assert [(c.camera, c.captured, c.inspected, c.pending, dict(c.dropped), dict(c.outcomes)) for c in sent] == counts
    assert sum(len(chunk.inspections) for chunk in chunks) == len(beat.inspections)
