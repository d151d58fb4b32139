"""Encodes and decodes every message: verdicts, gaps, heartbeats, reports and so on (docs/schema).

Promise: an encoded message is plain UTF-8 JSON under `MAX_MESSAGE_BYTES`. Decoding gives the same record back, except
for the rounding that `verdict_message` and `envelope` state. Arriving bytes are untrusted: the result is a valid record
or a MessageError.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from pydantic_core import to_json

from agent.errors import MessageError
from agent.wire.codec import (
    MAX_DECODE_BYTES,
    MAX_MESSAGE_BYTES,
    WireModel,
    heartbeat_topic,
    mark_replay,
    model_topic,
    parse_strict_json,
    shadow_topic,
    status_topic,
    verdict_topic,
)
from agent.wire.collected_frame import FrameSidecar
from agent.wire.envelope import MIN_ROWS, Envelope, EnvelopeBuilder, EnvelopeKey, envelope_key
from agent.wire.gap import MAX_RANGES, Gap, GapReason, encode_gap
from agent.wire.heartbeat_chunks import encode_heartbeat
from agent.wire.heartbeat_message import (
    BrokerHealth,
    CameraHealth,
    CollectionHealth,
    ConfigurationHealth,
    Heartbeat,
    HeldTopicHealth,
    InspectionHealth,
    LogHealth,
    OutboxHealth,
    RejectHealth,
    ThreadsHealth,
)
from agent.wire.model_report import ModelReport, ReportingAgent, encode_report, is_release_id
from agent.wire.probe import Probe
from agent.wire.status_message import Presence, StatusMessage, encode_status
from agent.wire.verdict_message import VerdictMessage, encode_verdict

if TYPE_CHECKING:
    from agent.records import Verdict

__all__ = [
    "MAX_DECODE_BYTES",
    "MAX_MESSAGE_BYTES",
    "MAX_RANGES",
    "MIN_ROWS",
    "SCHEMAS",
    "BrokerHealth",
    "CameraHealth",
    "CollectionHealth",
    "ConfigurationHealth",
    "DecodedVerdicts",
    "EnvelopeBuilder",
    "EnvelopeKey",
    "Gap",
    "GapReason",
    "Heartbeat",
    "HeldTopicHealth",
    "InspectionHealth",
    "LogHealth",
    "ModelReport",
    "OutboxHealth",
    "Presence",
    "Probe",
    "RejectHealth",
    "ReportingAgent",
    "StatusMessage",
    "ThreadsHealth",
    "decode",
    "encode_gap",
    "encode_heartbeat",
    "encode_report",
    "encode_status",
    "encode_verdict",
    "envelope_key",
    "heartbeat_topic",
    "is_release_id",
    "mark_replay",
    "model_topic",
    "schema",
    "sequence_numbers",
    "shadow_topic",
    "status_topic",
    "verdict_topic",
]

SCHEMAS: Final[dict[str, type[WireModel]]] = {  # the message's `kind` -> its model; docs/schema holds one file for each
    "verdict": VerdictMessage,
    "ok": Envelope,
    "gap": Gap,
    "heartbeat": Heartbeat,
    "model": ModelReport,
    "status": StatusMessage,
    "probe": Probe,
    "collected": FrameSidecar,  # beside an image, never on the broker: `decode_collected` reads it
}


@dataclass(frozen=True, slots=True)
class DecodedVerdicts:
    """The verdicts of one message; `replay`: it waited in the device's backlog."""

    verdicts: tuple[Verdict, ...]
    replay: bool


def decode(payload: bytes) -> DecodedVerdicts | Gap | Heartbeat | ModelReport | Probe | StatusMessage:
    """Return the content of a message. Raises MessageError for anything that Kensa would not have written."""
    value = parse_strict_json(payload)
    model = SCHEMAS.get(str(value.get("kind")))
    if model is None:
        raise MessageError(f"A message has the kind {str(value.get('kind'))[:40]!r}; known are {', '.join(SCHEMAS)}.")
    try:
        message = model.model_validate_json(to_json(value), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the message"
        raise MessageError(f"A message of kind {value['kind']} was refused: {where}: {first['msg']}.") from error
    match message:
        case VerdictMessage():
            return DecodedVerdicts((message.to_verdict(),), message.replay)
        case Envelope():
            return DecodedVerdicts(tuple(message.to_verdicts()), message.replay)
        case Gap() | Heartbeat() | ModelReport() | Probe() | StatusMessage():
            return message
        case _:
            raise MessageError(f"A {value['kind']} is no message of a topic.")


def sequence_numbers(payload: bytes) -> list[int]:
    """Return the sequence numbers in a verdict message or envelope of our own, without validating it."""
    value = json.loads(payload)
    seq: int = value["seq"]
    if value["kind"] != "ok":
        return [seq]
    return list(itertools.accumulate((row[0] for row in value["rows"][1:]), initial=seq))


def schema(kind: str) -> dict[str, Any]:
    """Return the published JSON Schema (draft 2020-12) of the messages of `kind`, a key of `SCHEMAS`."""
    result = SCHEMAS[kind].model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **result,
        "title": f"Kensa {kind} message, version 1",
    }
