"""Reads the fields of a request; a missing or mistyped field is refused by name. Pure."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from simulator.nucleus.ipc.ipc_errors import InvalidArgumentsError

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_text(content: Mapping[str, Any], name: str) -> str:
    """Return the string `name`. Raises InvalidArgumentsError."""
    value = content.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidArgumentsError(f"{name} must be a string that is not empty, it is {value!r}")
    return value


def read_key_path(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Return `keyPath`, which may be left out. Raises InvalidArgumentsError."""
    path = content.get("keyPath") or []
    if not isinstance(path, list) or not all(isinstance(key, str) for key in path):
        raise InvalidArgumentsError(f"keyPath must be a list of strings, it is {path!r}")
    return tuple(path)


def read_blob(content: Mapping[str, Any], name: str) -> bytes:
    """Return the bytes of the base64 field `name`, which may be left out. Raises InvalidArgumentsError."""
    try:
        return base64.b64decode(content.get(name) or "", validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise InvalidArgumentsError(f"{name} is not base64: {error}") from error


def read_qos(content: Mapping[str, Any]) -> int:
    """Return `qos`, which comes as a string or a number, 0 where it is left out. Raises InvalidArgumentsError."""
    value = content.get("qos", "0")
    if value not in ("0", "1", "2", 0, 1, 2):
        raise InvalidArgumentsError(f"qos must be 0, 1 or 2, it is {value!r}")
    return int(value)
