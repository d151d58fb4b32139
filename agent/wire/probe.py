"""The message by which `kensa doctor` tests whether the broker accepts a topic; consumers ignore it."""

from __future__ import annotations

from typing import Literal

from agent.wire.codec import Count, Name, Text, WireModel


class Probe(WireModel):
    """The whole message. It holds nothing about the line."""

    v: Literal[1] = 1
    kind: Literal["probe"] = "probe"
    thing: Name
    utc_us: Count
    text: Text = "a test of kensa doctor; pass over it"


def encode_probe(probe: Probe) -> bytes:
    """Return the message; it always fits."""
    return probe.model_dump_json().encode()
