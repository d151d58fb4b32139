"""The retained message on `kensa/{thing}/status`: whether the device is online, and since when.

The broker keeps the newest one and sends it to each subscriber. The one with the reason `connection lost` is the last
will: the device left it with the broker when it connected, so it cannot contain the time when the connection broke; the
time of its arrival shows that.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from agent.wire.codec import Count, Name, Text, WireModel


class Presence(StrEnum):
    """The two values of a status."""

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
    since_us: Count | None  # begin of this status, microseconds since 1970 UTC; null in a last will
    connected_us: Count  # begin of the connection that this message belongs to
    reason: Text  # `connected`, `stopped` or `connection lost`


def encode_status(status: StatusMessage) -> bytes:
    """Return the message; it always fits."""
    return status.model_dump_json().encode()
