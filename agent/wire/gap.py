"""The gap message: which verdicts of a camera the device lost, so that no loss is silent.

It is sent on the camera's verdict topic and is stored and acknowledged like a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  pydantic reads the annotations
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from agent.records import Outcome  # noqa: TC001  pydantic reads the annotations
from agent.wire.codec import Count, Name, WireModel

MAX_RANGES: Final = 64


class GapReason(StrEnum):
    """Why verdicts were lost."""

    EVICTED = "evicted"  # the outbox was full: lowest priority first, then the oldest
    DAMAGED = "damaged"  # the outbox's file was damaged


class Gap(WireModel):
    """Verdicts of one camera and boot epoch that will not arrive.

    `ranges` holds [first, last] pairs of sequence numbers, inclusive and ascending. With `exact` the numbers in
    them are the lost verdicts, all and only; without it they are what is known, and others may be lost or arrive too
    (a damaged file; more holes than `MAX_RANGES`).
    """

    v: Literal[1] = 1
    kind: Literal["gap"] = "gap"
    thing: Name
    line: Name
    inspection: Name
    camera: Name
    boot_epoch: Count
    reason: GapReason
    lost_utc_us: Count  # when the loss was noticed
    counts: Mapping[Outcome, Count] = {}
    ranges: Annotated[tuple[tuple[Count, Count], ...], Field(max_length=MAX_RANGES)] = ()
    exact: bool = True

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        edges = [edge for pair in self.ranges for edge in pair]
        if edges != sorted(edges):
            msg = "ranges must be ascending and must not overlap"
            raise ValueError(msg)
        return self


def encode_gap(gap: Gap) -> bytes:
    """Return the message: with 64-character names and `MAX_RANGES` ranges about 2,900 bytes at most."""
    return gap.model_dump_json(ensure_ascii=True).encode()
