"""The documents of the device's named shadow `kensa`: desired releases in, reported states out.

    {"state": {"desired":  {"inspections": {"surface": {"release": "parts/1.1.0", "mode": "release"}}},
               "reported": {"inspections": {"surface": {"release": "parts/1.0.0", "state": "trial", ...}}}}}

`desired` of an inspection: `release` (`name/version`), `mode` (`release` or `ab`), `share` (above 0 to 1, for `ab`).
`reported`: `release`, `mode` and `share` are the current values of what can be desired, so that the shadow's delta is
the remaining change; the other members are for people and rules. A null member removes it from the shadow. Progress is
one text, because a shadow would merge the figures of different states.

Promise: arriving bytes are untrusted; an update stays under `MAX_REPORTED_BYTES`, with room for the desired section in
the 8 KB that a shadow may have. `state`, `release` and the gate of a refusal are dropped last.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agent.errors import MessageError
from agent.release_records import DesiredRelease, distinct_name
from agent.wire.codec import MAX_INT, is_name, parse_strict_json, truncate
from agent.wire.model_report import finite_figures, is_release_id

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from agent.release_records import ModelStatus, ReleaseRef

MAX_DELTA_BYTES: Final = 8 * 1024  # of a delta
MAX_DOCUMENT_BYTES: Final = 32 * 1024  # of a whole document: its metadata does not count for the 8 KB
MAX_REPORTED_BYTES: Final = 6_000
_MAX_INSPECTIONS: Final = 256
_KEYS: Final = frozenset({"release", "mode", "share"})
_FIGURES: Final = 6
# (bytes of a text, with progress, with the candidates and the refusal), from the preferred to the least
_SHORTENING_STEPS: Final = ((240, True, True), (80, False, True), (40, False, False))
Entries = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ShadowDocument:
    """A message of the shadow. `desired` is complete, or in a delta only the difference."""

    version: int
    token: str | None
    desired: Mapping[str, Mapping[str, Any]]  # inspection -> members, not validated yet
    reported: frozenset[str] = frozenset()  # inspections that the shadow has reported


@dataclass(frozen=True, slots=True)
class ShadowRejection:
    """Why the shadow service refused a request."""

    code: int
    text: str
    token: str | None


def parse_document(payload: bytes) -> ShadowDocument:
    """Read the answer to a `get`. Raises MessageError."""
    value = parse_strict_json(payload, limit=MAX_DOCUMENT_BYTES)
    state = _member(value, "state")
    return ShadowDocument(
        _version(value),
        _token(value),
        _inspections(_member(state, "desired")),
        frozenset(filter(is_name, _inspections(_member(state, "reported")))),
    )


def parse_delta(payload: bytes) -> ShadowDocument:
    """Read an `update/delta`. Raises MessageError."""
    value = parse_strict_json(payload, limit=MAX_DELTA_BYTES)
    return ShadowDocument(_version(value), _token(value), _inspections(_member(value, "state")))


def parse_token(payload: bytes) -> str | None:
    """Return the token of the request that an `update/accepted` answers. Raises MessageError."""
    return _token(parse_strict_json(payload, limit=MAX_DOCUMENT_BYTES))


def parse_rejected(payload: bytes) -> ShadowRejection:
    """Read a `get/rejected` or `update/rejected`. Raises MessageError."""
    value = parse_strict_json(payload, limit=MAX_DELTA_BYTES)
    code = value.get("code")
    if type(code) is not int or not 0 <= code <= MAX_INT:
        raise MessageError("A refusal of the shadow service has no code.")
    return ShadowRejection(code, truncate(str(value.get("message", "")), 200), _token(value))


def parse_desired(members: Mapping[str, Any]) -> DesiredRelease:
    """Validate the desired members of one inspection. Raises MessageError."""
    if unknown := sorted(set(members) - _KEYS):
        raise MessageError(f"{truncate(unknown[0], 40)!r} is unknown; allowed are {', '.join(sorted(_KEYS))}.")
    release, mode, share = members.get("release"), members.get("mode", "release"), members.get("share", 0.5)
    if not isinstance(release, str) or not is_release_id(release):
        raise MessageError(f"release is {truncate(repr(release), 80)}, expected name/version such as parts/1.1.0.")
    if mode != "release" and mode != "ab":  # noqa: PLR1714 - mypy narrows this form only
        raise MessageError(f"mode is {truncate(repr(mode), 40)}, allowed are 'release' and 'ab'.")
    if type(share) not in {int, float} or not 0.0 < share <= 1.0:
        raise MessageError(f"share is {truncate(repr(share), 40)}, expected a number above 0, at most 1.")
    return DesiredRelease(release, mode, float(share), "shadow")


def encode_get(token: str) -> bytes:
    """Return the request for the whole document."""
    return json.dumps({"clientToken": token}).encode()


def encode_reported(statuses: Mapping[str, ModelStatus], *, gone: Collection[str], token: str) -> bytes:
    """Return the `update` that reports every inspection and removes those that are `gone`."""
    forgotten: dict[str, None] = dict.fromkeys(sorted(gone))
    entries: Entries = {}
    for text_bytes, with_progress, with_details in _SHORTENING_STEPS:
        entries = {
            name: _entry(status, text_bytes, with_progress=with_progress, with_details=with_details)
            for name, status in statuses.items()
        }
        payload = _update(entries, forgotten, left_out=0, token=token)
        if len(payload) <= MAX_REPORTED_BYTES:
            return payload
    return _fit_reported(statuses, entries, token)


def _fit_reported(statuses: Mapping[str, ModelStatus], entries: Entries, token: str) -> bytes:
    """Omit inspections, those first that have nothing in progress."""
    order = sorted(entries, key=lambda name: (statuses[name].alarm is None, statuses[name].candidate is None, name))
    kept: Entries = {}
    payload = _update(kept, {}, left_out=len(order), token=token)
    for name in order:
        grown = _update({**kept, name: entries[name]}, {}, left_out=len(order) - len(kept) - 1, token=token)
        if len(grown) > MAX_REPORTED_BYTES:
            break
        kept[name], payload = entries[name], grown
    return payload


def _update(entries: Entries, forgotten: Mapping[str, None], *, left_out: int, token: str) -> bytes:
    reported = {"inspections": {**entries, **forgotten}, "left_out": left_out or None}
    return json.dumps({"state": {"reported": reported}, "clientToken": token}, separators=(",", ":")).encode()


def _entry(status: ModelStatus, text_bytes: int, *, with_progress: bool, with_details: bool) -> dict[str, Any]:
    compares = status.state == "ab"
    refusal, refused = status.refusal, status.refused
    entry: dict[str, Any] = {
        "release": _id(status.candidate if compares else status.active),
        "mode": "ab" if compares else "release",
        "share": round(status.share, 4) if compares else None,
        "state": status.state,
        "since_utc_s": round(status.since_utc_s),
        "active": distinct_name(status.active, status.candidate, status.previous),
        "previous": None,
        "candidate": None,
        "reason": None if refusal is None else truncate(refusal.reason, 64),
        "progress": None,
        "refusal": None,
        "alarm": None if status.alarm is None else truncate(status.alarm, text_bytes),
    }
    if with_progress and status.progress:
        shown = list(finite_figures(status.progress).items())[:_FIGURES]
        entry["progress"] = ", ".join(f"{name} {value:.4g}" for name, value in shown)
    if with_details:
        entry["previous"] = distinct_name(status.previous, status.active, status.candidate)
        entry["candidate"] = distinct_name(status.candidate, status.active, status.previous)
        if refusal is not None:
            text = truncate(refusal.text, text_bytes)
            entry["refusal"] = {
                "gate": str(refusal.gate),
                "release": distinct_name(refused, status.active, status.candidate),
                "text": text,
            }
    return entry


def _id(ref: ReleaseRef | None) -> str | None:
    return None if ref is None else ref.release_id


def _member(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise MessageError(f"{name} of a shadow message is {type(found).__name__}, expected an object.")
    return found


def _inspections(part: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the inspections; one that is no object becomes an empty one, which is always refused."""
    found = _member(part, "inspections")
    if len(found) > _MAX_INSPECTIONS:
        raise MessageError(f"A shadow message names {len(found)} inspections, at most {_MAX_INSPECTIONS} are read.")
    return {name: members if isinstance(members, dict) else {} for name, members in found.items()}


def _version(value: Mapping[str, Any]) -> int:
    version = value.get("version")
    if type(version) is not int or not 0 <= version <= MAX_INT:
        raise MessageError("A shadow message has no version.")
    return version


def _token(value: Mapping[str, Any]) -> str | None:
    token = value.get("clientToken")
    return token if isinstance(token, str) else None
