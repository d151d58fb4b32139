"""Rules that all messages share: bounded JSON, and names that fit into topics.

Invariants: a message is plain UTF-8 JSON of fewer than `MAX_MESSAGE_BYTES` bytes (one metering unit of IoT Core is
5 KB; nucleus lite takes at most 4,980 B in and about 6.9 kB out); it never holds NaN or infinity; arriving bytes are
refused with a MessageError before anything of them is used.
"""

from __future__ import annotations

import hashlib
import json
import re
from json.encoder import encode_basestring_ascii
from typing import Annotated, Any, Final, NoReturn

from pydantic import ConfigDict, Field, StringConstraints

from agent.errors import MessageError
from agent.strict import Strict

MAX_MESSAGE_BYTES: Final = 4_900  # exclusive
MAX_DECODE_BYTES: Final = 16 * 1024  # anything longer is refused unread
SHADOW_NAME: Final = "kensa"
REPLAY_MARK: Final = b',"replay":true}'
MAX_UNMARKED_BYTES: Final = MAX_MESSAGE_BYTES - len(REPLAY_MARK)  # longest message that may still be marked, inclusive

quote: Final = encode_basestring_ascii  # text -> JSON string, in C

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_INT: Final = 2**53 - 1  # beyond, JSON readers that use doubles lose digits

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Text = Annotated[str, StringConstraints(max_length=256)]
Digest = Annotated[str, StringConstraints(max_length=80)]
Count = Annotated[int, Field(ge=0, le=MAX_INT)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class WireModel(Strict):
    """Base of all messages: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(strict=True)


def verdict_topic(thing: str, camera: str) -> str:
    """`kensa/{thing}/verdicts/{camera}`; raises MessageError for a name that does not fit into a topic."""
    return f"kensa/{checked_name('thing', thing)}/verdicts/{checked_name('camera', camera)}"


def heartbeat_topic(thing: str) -> str:
    """`kensa/{thing}/heartbeat`; raises MessageError for a name that does not fit into a topic."""
    return f"kensa/{checked_name('thing', thing)}/heartbeat"


def status_topic(thing: str) -> str:
    """`kensa/{thing}/status`; raises MessageError for a name that does not fit into a topic."""
    return f"kensa/{checked_name('thing', thing)}/status"


def model_topic(thing: str) -> str:
    """`kensa/{thing}/model`; raises MessageError for a name that does not fit into a topic."""
    return f"kensa/{checked_name('thing', thing)}/model"


def shadow_topic(thing: str, request: str) -> str:
    """Topic of AWS IoT for the named shadow `kensa`; `request` is such as `get`, `get/accepted` or `update/delta`."""
    return f"$aws/things/{checked_name('thing', thing)}/shadow/name/{SHADOW_NAME}/{request}"


def is_name(text: str) -> bool:
    """Whether `text` is 1 to 64 of A-Z, a-z, 0-9, `_` and `-`."""
    return _NAME.fullmatch(text) is not None


def checked_name(what: str, name: str) -> str:
    """Return `name`; raises MessageError unless it is 1 to 64 of A-Z, a-z, 0-9, `_` and `-`."""
    if not is_name(name):
        raise MessageError(f"{what} {name[:80]!r} does not fit into a topic: use 1 to 64 of A-Z, a-z, 0-9, _ and -.")
    return name


def bounded_json(text: str, limit: int) -> str:
    """Return `text` as a JSON string of at most `limit` + 2 bytes.

    A longer one is cut and ends in `~` and 16 hex digits of its SHA-256, so that different texts stay different.
    """
    result = quote(text)
    if len(result) <= limit + 2 and text.isascii():
        return result
    valid = text.encode("utf-8", "replace")
    text = valid.decode()
    result = quote(text)
    if len(result) <= limit + 2:
        return result
    mark = "~" + hashlib.sha256(valid).hexdigest()[:16]
    kept = text[: limit - len(mark)]
    while len(quote(kept)) - 2 + len(mark) > limit:
        kept = kept[:-1]
    return quote(kept + mark)


def truncate(text: str, limit: int) -> str:
    """Return `text`, shortened as `bounded_json` does where its JSON would be longer than `limit` bytes."""
    shortened: str = json.loads(bounded_json(text, limit))
    return shortened


def mark_replay(payload: bytes) -> bytes:
    """Return the verdict message `payload` marked as one that waited in the backlog."""
    return payload[:-1] + REPLAY_MARK


def parse_strict_json(payload: bytes, *, limit: int = MAX_DECODE_BYTES) -> dict[str, Any]:
    """Parse one untrusted message: `limit` bytes at most, UTF-8, one object, no key twice, no NaN.

    Raises MessageError.
    """
    if len(payload) > limit:
        raise MessageError(f"A message of {len(payload)} bytes was refused: at most {limit} are read.")
    try:
        value = json.loads(payload.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"A message is not the JSON that Kensa writes: {error}.") from error
    if not isinstance(value, dict):
        raise MessageError(f"A message must be a JSON object, not {type(value).__name__}.")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise MessageError("A message was refused: an object in it has the same key twice.")
    return result


def _no_constant(name: str) -> NoReturn:
    raise MessageError(f"A message was refused: it holds {name}, which is not JSON.")
