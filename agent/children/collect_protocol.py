"""What the inspecting process and the child that keeps and uploads say to each other: JSON, one line each.

The pixels travel in shared memory: `slots` are the file descriptors, inherited by the child, of anonymous files. A slot
belongs to the child from the `Job` that names it until the `JobDone` that gives it back. A child that died is followed
by another one, which gets all jobs without an answer again, in their order; the numbers tell it which it has done.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from agent.config import CollectionConfig
from agent.strict import Strict
from agent.wire.collected_frame import CollectReason

MAX_LINE_BYTES: Final = 64 * 1024
MAX_REQUEST_BYTES: Final = 256 * 1024  # the first line: the configuration's dictionaries are in it


# --- to the child -----------------------------------------------------------------------------------------------------


class CollectSetup(Strict):
    """The first line: keep the spool in `folder` until standard input ends."""

    kind: Literal["setup"] = "setup"
    folder: Path
    settings: CollectionConfig
    slots: tuple[int, ...] = Field(max_length=64)
    boot_epoch: int = Field(ge=0)


class TargetCheck(Strict):
    """The only line: can the target be used? Answered by `TargetCheckResult`."""

    kind: Literal["check"] = "check"
    settings: CollectionConfig
    thing: str


class CollectStart(Strict):
    """The first line as a whole."""

    body: Annotated[CollectSetup | TargetCheck, Field(discriminator="kind")]


class CollectJob(Strict):
    """A frame in a slot, to be encoded and kept."""

    kind: Literal["job"] = "job"
    number: int = Field(ge=1)  # counts up within a boot epoch
    slot: int = Field(ge=0)
    shape: tuple[int, ...] = Field(min_length=2, max_length=3)  # uint8, [H, W] or [H, W, 3] BGR
    stem: str = Field(max_length=1024)
    site: str
    reason: CollectReason
    sample_rate: float | None
    crop: tuple[int, int, int, int] | None
    class_name: str | None
    verdict: dict[str, Any]  # as `encode_verdict` writes it


class SettingsUpdate(Strict):
    """Go on with these settings."""

    kind: Literal["change"] = "change"
    settings: CollectionConfig


class CollectOrder(Strict):
    """Every line after a `CollectSetup`."""

    body: Annotated[CollectJob | SettingsUpdate, Field(discriminator="kind")]


# --- from the child ---------------------------------------------------------------------------------------------------


class SpoolStatus(Strict):
    """Where the spool stands; counts since the spool was made."""

    kept: dict[CollectReason, int] = Field(default_factory=dict)  # CollectReason -> frames
    dropped: dict[str, int] = Field(default_factory=dict)  # Dropped -> frames that were chosen and are lost
    uploaded: int = 0
    waiting: int = 0  # frames on this disk
    waiting_bytes: int = 0
    set_aside: int = 0  # of those waiting: the target holds something else under their key, or refused them
    day_bytes: int = 0  # kept on this UTC day
    error: str | None = None  # why nothing is uploaded or kept at the moment


class JobDone(Strict):
    """The job is done, for good: kept, or dropped and counted. Its slot is free."""

    kind: Literal["taken"] = "taken"
    number: int
    figures: SpoolStatus


class StatusUpdate(Strict):
    """Figures that changed by themselves: uploads, errors. Also the answer to `CollectSetup`."""

    kind: Literal["moved"] = "moved"
    figures: SpoolStatus


class TargetCheckResult(Strict):
    """What a `Check` saw."""

    kind: Literal["checked"] = "checked"
    usable: bool
    certain: bool = True  # False: the target answers, but whether it takes frames shows with the first one
    text: str


class CollectFailed(Strict):
    """The child cannot work at all, and ends."""

    kind: Literal["unable"] = "unable"
    text: str


class CollectReply(Strict):
    """One line of the child's standard output."""

    body: Annotated[JobDone | StatusUpdate | TargetCheckResult | CollectFailed, Field(discriminator="kind")]
