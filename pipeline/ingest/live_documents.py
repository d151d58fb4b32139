"""Documents of the live view, one for each message: Firehose writes one for each record.

An envelope of `ok` verdicts becomes one document for all of them: `parts` holds their number, and every chart sums
`parts`. Decisions rely on the tables, which count each key once; the live view shows the present.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from agent import wire
from agent.errors import MessageError
from agent.wire.codec import checked_name
from pipeline.ingest.table_rows import format_timestamp

if TYPE_CHECKING:
    from pipeline.ingest.table_rows import Value

FieldType = Literal["boolean", "date", "double", "keyword", "long"]


@dataclass(frozen=True, slots=True)
class LiveField:
    """A field of a document and its type in OpenSearch."""

    name: str
    type: FieldType


_NAMES: Final[dict[FieldType, str]] = {
    "keyword": "site line thing camera inspection key outcome class model arm challenger_outcome part_id reason image",
    "date": "captured_at",
    "long": "parts latency_us",
    "double": "score",
    "boolean": "replay",
}
FIELDS: Final = tuple(LiveField(name, kind) for kind, names in _NAMES.items() for name in names.split())


def live_document(message: bytes, *, site: str) -> bytes | None:
    """Return one JSON document, or None for a message that the live view does not show. Raises MessageError.

    An envelope gives the time and key of its last verdict, its longest latency and its highest score.
    """
    checked_name("site", site)
    found = wire.decode(message)
    if not isinstance(found, wire.DecodedVerdicts):
        return None
    last = max(found.verdicts, key=lambda verdict: verdict.captured_utc_ns)
    origin, judgement = last.origin, last.judgement
    try:
        captured_at = format_timestamp(last.captured_utc_ns // 1_000).replace(" ", "T") + "Z"
    except (OverflowError, ValueError) as error:
        raise MessageError(f"{last.key} has a time outside the calendar.") from error
    values: dict[str, Value] = {
        "site": site,
        "line": origin.line,
        "thing": origin.thing,
        "camera": origin.camera,
        "inspection": origin.inspection,
        "key": last.key,
        "outcome": str(judgement.outcome),
        "class": judgement.class_name,
        "model": None if origin.model is None else f"{origin.model.name}/{origin.model.version}",
        "arm": last.arm,
        "challenger_outcome": None if last.challenger_outcome is None else str(last.challenger_outcome),
        "part_id": last.part_id,
        "reason": judgement.reason,
        "image": last.image,
        "captured_at": captured_at,
        "parts": len(found.verdicts),
        "latency_us": max(verdict.latency_us for verdict in found.verdicts),
        "score": max(verdict.judgement.score for verdict in found.verdicts),
        "replay": found.replay,
    }
    return json.dumps({name: value for name, value in values.items() if value is not None}).encode()
