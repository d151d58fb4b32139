"""Encodes a heartbeat as one message, or as chunks that repeat the shared fields.

Invariant: every message stays below `MAX_MESSAGE_BYTES`, whatever happened on the device. Where the shared fields alone
would be too long, their texts are shortened and their lists and tables cut, the longest first, in the steps of
`_REDUCTIONS`; the accounting of frames and verdicts is never cut.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agent.wire.codec import MAX_MESSAGE_BYTES, WireModel, quote

if TYPE_CHECKING:
    from agent.wire.heartbeat_message import Heartbeat

_MAX_SHARED_BYTES: Final = 2_900  # leaves room for the largest item below
_MAX_ITEM_BYTES: Final = 1_900  # of one inspection or camera
# Bytes of a text as JSON, entries of a list, entries of a table (those with the largest counts): first as they are.
_REDUCTIONS: Final = ((240, 8, 64), (160, 4, 24), (100, 3, 12), (60, 2, 8), (40, 1, 5), (24, 1, 3))
_IDENTITY: Final = frozenset({"thing", "line", "inspection", "camera", "kind", "state", "sha256", "digest"})
_TABLES: Final = frozenset({"losses", "faults", "kept", "skipped"})  # counts by name that may be cut

Model = TypeVar("Model", bound=WireModel)


def encode_heartbeat(heartbeat: Heartbeat) -> tuple[bytes, ...]:
    """Return the heartbeat as one message, or as several when it has too many inspections and cameras for one."""
    whole = _dump(heartbeat)
    if len(whole) < MAX_MESSAGE_BYTES:
        return (whole,)
    shared = heartbeat.model_copy(update={"inspections": (), "cameras": (), "chunk": 999, "chunks": 999})
    shared = _reduce(shared, _MAX_SHARED_BYTES)
    chunks: list[Heartbeat] = []
    chunk = shared
    for field in ("inspections", "cameras"):
        for item in getattr(heartbeat, field):
            small = _reduce(item, _MAX_ITEM_BYTES)
            grown = chunk.model_copy(update={field: (*getattr(chunk, field), small)})
            if len(_dump(grown)) >= MAX_MESSAGE_BYTES:
                chunks.append(chunk)
                grown = shared.model_copy(update={field: (small,)})
            chunk = grown
    chunks.append(chunk)
    return tuple(
        _dump(chunk.model_copy(update={"chunk": number, "chunks": len(chunks)}))
        for number, chunk in enumerate(chunks, 1)
    )


def _dump(model: WireModel) -> bytes:
    return model.model_dump_json(ensure_ascii=True).encode()


def _reduce(model: Model, most_bytes: int) -> Model:
    """Return `model` cut to `most_bytes` as JSON, or by all steps where it is larger still."""
    for text_bytes, items, entries in _REDUCTIONS:
        if len(_dump(model)) <= most_bytes:
            break
        tree = _truncate_values(json.loads(_dump(model)), text_bytes, items, entries)
        model = type(model).model_validate_json(json.dumps(tree))
    return model


def _truncate_values(value: Any, text_bytes: int, items: int, entries: int) -> Any:
    if isinstance(value, str):
        return truncate_to_json_bytes(value, text_bytes)
    if isinstance(value, list):
        return [_truncate_values(item, text_bytes, items, entries) for item in value[:items]]
    if not isinstance(value, dict):
        return value
    cut = {}
    for key, below in value.items():
        if key in _IDENTITY:
            cut[key] = below
        elif key in _TABLES and isinstance(below, dict):
            cut[key] = dict(sorted(below.items(), key=lambda entry: entry[1], reverse=True)[:entries])
        else:
            cut[key] = _truncate_values(below, text_bytes, items, entries)
    return cut


def truncate_to_json_bytes(text: str, most_bytes: int) -> str:
    """Return the beginning of `text` that takes at most `most_bytes` as JSON; at least one character."""
    while len(quote(text)) > most_bytes and len(text) > 1:  # a character outside ASCII takes 6 or 12 bytes
        text = text[: max(1, len(text) * most_bytes // len(quote(text)))]
    return text
