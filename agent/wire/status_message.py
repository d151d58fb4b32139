"""The retained message on `kensa/{thing}/status`: whether the device is there, and since when.

The broker keeps the newest one and shows it to whoever subscribes. The one with the reason `connection lost` is the
last will: the device left it with the broker when it connected, so it cannot say when the connection broke; the time of
its arrival does.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from agent.wire.codec import Count, Name, Text, WireModel


class Presence(StrEnum):
    """What a status says."""

    ONLINE = "online"
    OFFLINE = "offline"


class StatusMessage(WireModel):
    """The whole message."""

    v: Literal[1] = 1
    kind: Literal["status"] = "status"
    thing: Name
    line: Name
    boot_epoch: Count
    agent_version: Text
    state: Presence
    since_us: Count | None  # since when it is so, microseconds since 1970 UTC; null in a last will
    connected_us: Count  # when the connection began that this message was made for
    reason: Text  # `connected`, `stopped` or `connection lost`


def encode_status(status: StatusMessage) -> bytes:
    """Return the message; it always fits."""
    return status.model_dump_json().encode()
