"""Every message to bytes and back: the one place that knows verdicts, gaps, heartbeats and so on (docs/schema).

Promise: what is encoded is plain UTF-8 JSON under `MAX_MESSAGE_BYTES`, and decoding it gives the same record back but
for the rounding that `verdict` and `envelope` state. What arrives is judged as hostile: MessageError or a valid record.
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
    marked_replay,
    model_topic,
    shadow_topic,
    status_topic,
    strict_json,
    verdict_topic,
)
from agent.wire.collected import Collected
from agent.wire.envelope import MIN_ROWS, Envelope, Pack, PackKey, pack_key
from agent.wire.gap import MAX_RANGES, Gap, GapReason, encode_gap
from agent.wire.heartbeat import (
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
from agent.wire.heartbeat_parts import encode_heartbeat
from agent.wire.probe import Probe
from agent.wire.report import ModelReport, Reporter, encode_report, is_release_id
from agent.wire.status import Presence, Status, encode_status
from agent.wire.verdict import VerdictMessage, encode_verdict

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
    "Delivery",
    "Gap",
    "GapReason",
    "Heartbeat",
    "HeldTopicHealth",
    "InspectionHealth",
    "LogHealth",
    "ModelReport",
    "OutboxHealth",
    "Pack",
    "PackKey",
    "Presence",
    "Probe",
    "RejectHealth",
    "Reporter",
    "Status",
    "ThreadsHealth",
    "decode",
    "encode_gap",
    "encode_heartbeat",
    "encode_report",
    "encode_status",
    "encode_verdict",
    "heartbeat_topic",
    "is_release_id",
    "marked_replay",
    "model_topic",
    "pack_key",
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
    "status": Status,
    "probe": Probe,
    "collected": Collected,  # beside a picture, never on the broker: `collected.decode_collected` reads it
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """The verdicts of one message; `replay` says that it waited in the device's backlog."""

    verdicts: tuple[Verdict, ...]
    replay: bool


def decode(payload: bytes) -> Delivery | Gap | Heartbeat | ModelReport | Probe | Status:
    """Return what a message says. Raises MessageError for anything that Kensa would not have written."""
    value = strict_json(payload)
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
            return Delivery((message.verdict(),), message.replay)
        case Envelope():
            return Delivery(tuple(message.verdicts()), message.replay)
        case Gap() | Heartbeat() | ModelReport() | Probe() | Status():
            return message
        case _:
            raise MessageError(f"A {value['kind']} is no message of a topic.")


def sequence_numbers(payload: bytes) -> list[int]:
    """Return the sequence numbers in a verdict message or envelope of our own, without judging it."""
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
