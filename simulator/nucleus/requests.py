"""Reading the fields of a request: what is missing or of another type is refused by name. Pure."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from simulator.nucleus.refusals import InvalidArgumentsRefusal

if TYPE_CHECKING:
    from collections.abc import Mapping


def text(content: Mapping[str, Any], name: str) -> str:
    """Return the string `name`. Raises InvalidArgumentsRefusal."""
    value = content.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidArgumentsRefusal(f"{name} must be a string that is not empty, it is {value!r}")
    return value


def key_path(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Return `keyPath`, which may be left out. Raises InvalidArgumentsRefusal."""
    path = content.get("keyPath") or []
    if not isinstance(path, list) or not all(isinstance(key, str) for key in path):
        raise InvalidArgumentsRefusal(f"keyPath must be a list of strings, it is {path!r}")
    return tuple(path)


def blob(content: Mapping[str, Any], name: str) -> bytes:
    """Return the bytes of the base64 field `name`, which may be left out. Raises InvalidArgumentsRefusal."""
    try:
        return base64.b64decode(content.get(name) or "", validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise InvalidArgumentsRefusal(f"{name} is not base64: {error}") from error


def quality(content: Mapping[str, Any]) -> int:
    """Return `qos`, which comes as a string or a number, 0 where it is left out. Raises InvalidArgumentsRefusal."""
    value = content.get("qos", "0")
    if value not in ("0", "1", "2", 0, 1, 2):
        raise InvalidArgumentsRefusal(f"qos must be 0, 1 or 2, it is {value!r}")
    return int(value)
