"""Compares two configurations: which keys differ, and which of them a running agent can change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator

KeyPath = tuple[str, ...]


def differences(old: object, new: object, at: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the keys in which two sections of a configuration differ."""
    if old == new:
        return
    if isinstance(old, BaseModel) and isinstance(new, BaseModel):
        if type(old) is not type(new):
            yield (*at, "kind")
            return
        for name in type(old).model_fields:
            yield from differences(getattr(old, name), getattr(new, name), (*at, name))
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from differences(old.get(key), new.get(key), (*at, key))
    else:
        yield at


def is_live(path: KeyPath, external_cameras: frozenset[str]) -> bool:
    """Return whether a running agent can change this key; the sources of `external_cameras` are not its own."""
    match path:
        case ("inspections", _, "cameras", camera, _, *_):  # of a camera that both configurations have
            return camera not in external_cameras
        case ("inspections", _, "roi" | "thresholds" | "unsure_band" | "check_pictures" | "publish", *_):
            return True
        case ("updates", "limits", _) | ("keep", _) | ("collect", _, *_) | ("heartbeat_s",) | ("drain_s",):
            return True
        case _:
            return False
