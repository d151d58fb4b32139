from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from pydantic import ValidationError

from agent import wire
from agent.errors import MessageError
from agent.records import CameraState, DropReason, ModelIdentity, Origin, Outcome, Verdict
from agent.wire.collected_frame import decode_collected
from tests.kits import model_status
from tests.kits.collection import sidecar
from tests.kits.outbox import ORIGIN, SHA, make_verdict
from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from agent.release_records import ModelStatus

SCHEMA_DIR = ROOT / "docs" / "schema"
LONGEST = "n" * 64


def longest_origin(classes: int) -> Origin:
    return Origin(
        LONGEST, LONGEST, LONGEST, LONGEST, 10**9, SHA, SHA,
        ModelIdentity(LONGEST, "9" * 53, SHA, 10**6), tuple(f"{number:02}" * 32 for number in range(classes)),
    )  # fmt: skip


def longest_verdict(seq: int, classes: int, outcome: Outcome) -> Verdict:
    origin = longest_origin(classes)
    verdict = make_verdict(seq, outcome, origin=origin, part_id="p" * 64)
    judgement = dataclasses.replace(
        verdict.judgement, class_name=origin.classes[0], scores=(1.0,) + (0.123456,) * (classes - 1)
    )
    return dataclasses.replace(
        verdict, judgement=judgement, arm="champion", challenger_outcome=Outcome.UNSURE, challenger_sha256=SHA,
        latency_us=99_999_999, captured_utc_ns=seq * 1_000_000_000_000,
    )  # fmt: skip


def heartbeat(cameras: int) -> wire.Heartbeat:
    camera = wire.CameraHealth(
        camera="x", inspection=LONGEST, state=CameraState.RUNNING, fps=29.97, captured=10**9, inspected=10**9 - 12,
        pending=2, dropped={DropReason.OVERRUN: 7, DropReason.SIZE: 3},
    )  # fmt: skip
    inspection = wire.InspectionHealth(
        inspection=LONGEST, model=LONGEST, version="1.0.0", sha256=SHA, trusted=True, preprocess_digest=SHA
    )
    return wire.Heartbeat(
        thing=LONGEST, line=LONGEST, boot_epoch=3, agent_version="1.0.0", utc_us=1, uptime_s=12.5, transport="up",
        latency_p50_us=1_900, latency_p99_us=4_100, cpu=0.11, rss_bytes=10**8, temperature_c=None,
        outbox=wire.OutboxHealth(rows=1, verdicts=30, bytes=900, oldest_age_s=0.1),
        inspections=(inspection,) * 4,
        cameras=tuple(camera.model_copy(update={"camera": f"{LONGEST[:60]}{number:04}"}) for number in range(cameras)),
    )  # fmt: skip


@pytest.mark.parametrize("kind", wire.SCHEMAS)
def test_the_published_schema_is_the_one_that_the_code_keeps(kind: str) -> None:
    path = SCHEMA_DIR / f"{kind}.schema.json"
    assert json.loads(path.read_text()) == json.loads(json.dumps(wire.schema(kind))), (
        f"write json.dumps(agent.wire.schema({kind!r}), indent=2, sort_keys=True) to {path}"
    )


def _messages() -> list[tuple[str, bytes]]:
    pack = wire.EnvelopeBuilder(make_verdict(0))
    assert pack.try_add(make_verdict(0))
    gap = wire.Gap(
        thing="t", line="l", inspection="i", camera="c", boot_epoch=1, reason=wire.GapReason.EVICTED, lost_utc_us=5,
        counts={Outcome.OK: 3}, ranges=((1, 2), (9, 9)),
    )  # fmt: skip
    return [
        ("verdict", wire.encode_verdict(make_verdict(1, Outcome.DEFECT, part_id="ä"))),
        ("verdict", wire.mark_replay(wire.encode_verdict(make_verdict(1, Outcome.UNKNOWN, reason="no model")))),
        ("verdict", wire.encode_verdict(longest_verdict(1, 64, Outcome.DEFECT))),
        ("verdict", wire.encode_verdict(dataclasses.replace(make_verdict(1), origin=_without_model()))),
        ("ok", wire.mark_replay(pack.encode())),
        ("gap", wire.encode_gap(gap)),
        *(("heartbeat", part) for part in wire.encode_heartbeat(heartbeat(3))),
        ("collected", sidecar(make_verdict(1, Outcome.DEFECT))),
        *(("model", _report(status)) for status in (model_status.IN_TRIAL, model_status.ROLLED_BACK)),
    ]


def _report(status: ModelStatus) -> bytes:
    return wire.encode_report(status, reporter=model_status.REPORTER, utc_ns=model_status.UTC_NS)


def _without_model() -> Origin:
    return dataclasses.replace(ORIGIN, model=None)


@pytest.mark.parametrize(("kind", "payload"), _messages())
def test_every_message_keeps_its_published_schema(kind: str, payload: bytes) -> None:
    schema: dict[str, Any] = json.loads(Path(SCHEMA_DIR / f"{kind}.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(payload))
    if kind == "collected":
        assert decode_collected(payload).model_dump_json(by_alias=True)
        with pytest.raises(MessageError, match="no message of a topic"):
            wire.decode(payload)
        return
    wire.decode(payload)


@pytest.mark.parametrize("classes", [1, 2, 8, 64])
def test_an_envelope_holds_32_rows_of_the_longest_names_below_the_bound(classes: int) -> None:
    pack = wire.EnvelopeBuilder(longest_verdict(0, classes, Outcome.OK))
    count = 0
    while pack.try_add(longest_verdict(7 * count, classes, Outcome.OK)):
        count += 1
    payload = wire.mark_replay(pack.encode())
    assert count >= wire.MIN_ROWS
    assert len(payload) < wire.MAX_MESSAGE_BYTES
    delivery = wire.decode(payload)
    assert isinstance(delivery, wire.DecodedVerdicts)
    assert [verdict.seq for verdict in delivery.verdicts] == [7 * number for number in range(count)]


@pytest.mark.parametrize("classes", [0, 2, 44, 45, 46, 47, 64])
def test_a_single_verdict_of_the_longest_names_stays_below_the_bound(classes: int) -> None:
    verdict = longest_verdict(0, max(1, classes), Outcome.DEFECT)
    judgement = dataclasses.replace(verdict.judgement, reason="r" * 5_000, scores=verdict.judgement.scores[:classes])
    verdict = dataclasses.replace(verdict, judgement=judgement, image="i" * 5_000, part_id="\N{SNOWMAN}" * 5_000)
    payload = wire.mark_replay(wire.encode_verdict(verdict))
    assert len(payload) < wire.MAX_MESSAGE_BYTES
    value = json.loads(payload)
    assert len(value.get("scores", {})) + value.get("scores_left_out", 0) == classes
    if classes:
        assert value["scores"][verdict.origin.classes[0]] == 1.0, "the highest scores are kept"


def test_typical_envelopes_hold_more_than_a_hundred_rows() -> None:
    pack = wire.EnvelopeBuilder(make_verdict(0))
    assert all(pack.try_add(make_verdict(seq)) for seq in range(100))


def test_different_long_part_ids_stay_different() -> None:
    payloads = {wire.encode_verdict(make_verdict(1, Outcome.DEFECT, part_id="p" * 500 + end)) for end in "ab"}
    assert len(payloads) == 2


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.1, 1.1])
@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.DEFECT])
def test_a_score_that_is_no_score_is_never_written(score: float, outcome: Outcome) -> None:
    verdict = make_verdict(1, outcome)
    verdict = dataclasses.replace(verdict, judgement=dataclasses.replace(verdict.judgement, score=score))
    write = wire.EnvelopeBuilder(verdict).try_add if outcome is Outcome.OK else wire.encode_verdict
    with pytest.raises(MessageError, match="score"):
        write(verdict)


VERDICT = wire.encode_verdict(make_verdict(1, Outcome.DEFECT)).decode()


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", "not the JSON"),
        (b"\xff\xfe", "not the JSON"),
        (b"[]", "must be a JSON object"),
        (b"[" * 10_000, "not the JSON"),
        (b"{" + b" " * 20_000 + b"}", "at most 16384"),
        (b'{"v":1}', "kind"),
        (b'{"kind":"x"}', "kind 'x'"),
        (b'{"kind":"verdict","kind":"ok"}', "same key twice"),
        (VERDICT.replace('"score":0.25', '"score":NaN').encode(), "NaN"),
        (VERDICT.replace('"score":0.25', '"score":1e999').encode(), "score"),
        (VERDICT.replace('"score":0.25', '"score":"0.25"').encode(), "score"),
        (VERDICT.replace('"seq":1', '"seq":-1').encode(), "seq"),
        (VERDICT.replace('"seq":1', '"seq":true').encode(), "seq"),
        (VERDICT.replace('"seq":1', '"seq":' + "9" * 5_000).encode(), "not the JSON"),
        (VERDICT.replace('"seq":1', '"seq":1,"more":2').encode(), "more"),
        (VERDICT.replace('"v":1', '"v":2').encode(), "v:"),
        (VERDICT.replace('"line1"', '"a/b"').encode(), "line"),
        (b'{"kind":["verdict"]}', "kind"),
    ],
)
def test_hostile_messages_are_refused_with_the_reason(payload: bytes, text: str) -> None:
    with pytest.raises(MessageError, match=text):
        wire.decode(payload)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"rows":[[0,', '"rows":[["0",'),
        ('"rows":[[0,', '"rows":[[-1,'),
        ('"rows":[[0,', '"rows":[[0,0,'),
        ('"rows":[[0,', '"rows":[[0.5,'),
        ('"columns":["seq","us"', '"columns":["us","seq"'),
        (",7500,", ",17500,"),
        ('"classes":["good","scratch"]', '"classes":["good"]'),
    ],
)
def test_an_envelope_with_crooked_rows_is_refused(old: str, new: str) -> None:
    pack = wire.EnvelopeBuilder(make_verdict(0))
    assert pack.try_add(make_verdict(0))
    text = pack.encode().decode()
    assert old in text
    with pytest.raises(MessageError):
        wire.decode(text.replace(old, new).encode())


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "n" * 65, "ä", "a\n"])
def test_a_name_that_does_not_fit_into_a_topic_is_refused(name: str) -> None:
    with pytest.raises(MessageError, match="does not fit into a topic"):
        wire.verdict_topic(name, "cam")
    with pytest.raises(MessageError, match="does not fit into a topic"):
        wire.verdict_topic("thing", name)
    with pytest.raises(MessageError, match="does not fit into a topic"):
        wire.heartbeat_topic(name)


def test_a_heartbeat_of_many_cameras_travels_in_chunks_below_the_bound() -> None:
    chunks = wire.encode_heartbeat(heartbeat(40))
    beats = [wire.decode(chunk) for chunk in chunks]
    assert len(chunks) > 1
    assert all(len(chunk) < wire.MAX_MESSAGE_BYTES for chunk in chunks)
    assert all(isinstance(beat, wire.Heartbeat) for beat in beats)
    assert [(beat.chunk, beat.chunks) for beat in beats if isinstance(beat, wire.Heartbeat)] == [
        (number, len(chunks)) for number in range(1, len(chunks) + 1)
    ]
    cameras = [camera.camera for beat in beats if isinstance(beat, wire.Heartbeat) for camera in beat.cameras]
    assert cameras == [camera.camera for camera in heartbeat(40).cameras]


def test_a_heartbeat_whose_counts_do_not_add_up_cannot_be_built() -> None:
    with pytest.raises(ValidationError, match="captured is not inspected"):
        wire.CameraHealth(
            camera="c", inspection="i", state=CameraState.RUNNING, fps=1.0, captured=5, inspected=3, pending=1
        )


def test_a_gap_of_the_longest_names_and_most_ranges_stays_below_the_bound() -> None:
    big = 2**53 - 1_000
    gap = wire.Gap(
        thing=LONGEST, line=LONGEST, inspection=LONGEST, camera=LONGEST, boot_epoch=2**53 - 1,
        reason=wire.GapReason.DAMAGED, lost_utc_us=2**53 - 1, counts=dict.fromkeys(Outcome, 2**53 - 1),
        ranges=tuple((big + 3 * number, big + 3 * number + 1) for number in range(wire.MAX_RANGES)), exact=False,
    )  # fmt: skip
    payload = wire.encode_gap(gap)
    assert len(payload) < wire.MAX_MESSAGE_BYTES
    assert wire.decode(payload) == gap
