"""Base of all configuration sections: strict keys, names, and redaction of refused values."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import ConfigDict, Field, StringConstraints

from agent.strict import Strict

if TYPE_CHECKING:
    from collections.abc import Iterator

REDACTED: Final = "(not shown)"  # replaces a value that may hold a secret
_SECRET_KEY: Final = re.compile(r"url|uri|address|user|pass|pwd|secret|token|login|credential|auth", re.IGNORECASE)
_SECRET_TEXT: Final = re.compile(r"[@=?]")  # as in user:password@host, password=..., ?token
_SHOWN_CHARACTERS: Final = 80  # of a refused value

# Names end up in MQTT topics and file names, so that they are the same on every transport and disk.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Region = tuple[
    Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]
]
PositiveFps = Annotated[float, Field(gt=0.0, le=10_000.0, allow_inf_nan=False)]


class ConfigSection(Strict):
    """A section: frozen, every key known; exceptions never contain the given values, because they may be logged."""

    model_config = ConfigDict(hide_input_in_errors=True)


def is_secret_key(key: object) -> bool:
    """Whether the value of this key may be or hold a secret: an address, a user, a password."""
    return isinstance(key, str) and _SECRET_KEY.search(key) is not None


def redacted(value: Any, *, key: object = None) -> str:
    """Return at most one terminal line of JSON without possible secrets; the rest is not even read."""
    text = ""
    for piece in _json_fragments(value, key):
        text += piece
        if len(text) > _SHOWN_CHARACTERS:
            return text[: _SHOWN_CHARACTERS - 3] + "..."
    return text


def redacted_key(key: object) -> str:
    """Return a key for people, redacted where it may be an address or a password put there by mistake."""
    return REDACTED if _SECRET_TEXT.search(str(key)) else str(key)


def _json_fragments(value: Any, key: object) -> Iterator[str]:
    """Yield the JSON of `value`, the value of `key`, in small pieces."""
    if isinstance(value, dict):
        for number, (name, item) in enumerate(value.items()):
            yield "{" if number == 0 else ", "
            yield f"{json.dumps(redacted_key(name))}: "
            yield from _json_fragments(item, name)
        yield "}" if value else "{}"
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield "[" if number == 0 else ", "
            yield from _json_fragments(item, key)
        yield "]" if value else "[]"
    elif is_secret_key(key) or (isinstance(value, str) and _SECRET_TEXT.search(value)):
        yield REDACTED
    else:
        yield json.dumps(value, default=str)
