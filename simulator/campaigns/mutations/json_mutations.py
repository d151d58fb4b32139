"""Seeded damage to JSON files: flipped bytes, and values chosen to hurt a parser."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

_DEEP: Final = 3_000  # levels: more than Python's recursion limit
_LONG: Final = 20_000  # characters
_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**400,
    0.5,
    1e308,
    "",
    "../../../etc/passwd",
    "\x00",
    "\ud800",
    "x" * _LONG,
    [],
    {},
    [[]],
    {"": {}},
    {"_type": "root"},
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00Z",
)


def mutate_json(data: bytes, others: list[bytes], source: random.Random) -> bytes:
    """`data` changed in one to three ways; `others` are files to take parts from. Never returns `data` itself."""
    changed = data
    for _ in range(source.randint(1, 3)):
        kinds = (_flip, _cut, _remove, _repeat, _splice) if source.random() < 0.4 else (_edit_tree,)  # noqa: PLR2004
        changed = source.choice(kinds)(changed, others, source)
    return changed if changed != data else data + b" x"


def _flip(data: bytes, _others: list[bytes], source: random.Random) -> bytes:
    if not data:
        return b"\xff"
    position = source.randrange(len(data))
    return data[:position] + bytes([data[position] ^ 1 << source.randrange(8)]) + data[position + 1 :]


def _cut(data: bytes, _others: list[bytes], source: random.Random) -> bytes:
    return data[: source.randrange(len(data) + 1)]


def _remove(data: bytes, _others: list[bytes], source: random.Random) -> bytes:
    start = source.randrange(len(data) + 1)
    return data[:start] + data[start + source.randint(1, 64) :]


def _repeat(data: bytes, _others: list[bytes], source: random.Random) -> bytes:
    start = source.randrange(len(data) + 1)
    return data[:start] + data[start : start + 64] * source.randint(1, 200) + data[start:]


def _splice(data: bytes, others: list[bytes], source: random.Random) -> bytes:
    other = source.choice(others)
    return data[: source.randrange(len(data) + 1)] + other[source.randrange(len(other) + 1) :]


def _edit_tree(data: bytes, others: list[bytes], source: random.Random) -> bytes:
    """Change a value of the JSON tree; bytes that are none any more get damaged otherwise."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return _flip(data, others, source)
    places = _paths(tree)
    if not places:
        return b"[" * _DEEP
    parent, key = source.choice(places)
    source.choice(_EDITS)(parent, key, source)
    try:
        return json.dumps(tree).encode()
    except (ValueError, RecursionError):
        return b'{"signed":' * _DEEP


def _paths(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below `tree`."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            waiting.append(node[key])
    return found


def _set_value(parent: Any, key: Any, source: random.Random) -> None:
    parent[key] = source.choice(_VALUES)


def _set_deep(parent: Any, key: Any, _source: random.Random) -> None:
    node: Any = 0
    for _ in range(900):  # below json's own limit, so that it reaches the reader
        node = [node]
    parent[key] = node


def _delete(parent: Any, key: Any, _source: random.Random) -> None:
    del parent[key]


def _rename(parent: Any, key: Any, source: random.Random) -> None:
    if isinstance(parent, dict):
        parent[source.choice(("signed", "meta", "keyid", "version", "x" * 100, "../x"))] = parent.pop(key)


def _double(parent: Any, key: Any, _source: random.Random) -> None:
    if isinstance(parent, list):
        parent.append(parent[key])
    elif isinstance(parent[key], int):
        parent[key] += 1


_EDITS: Final[tuple[Callable[[Any, Any, random.Random], None], ...]] = (
    _set_value,
    _set_value,
    _set_deep,
    _delete,
    _rename,
    _double,
)
