"""Messages between the agent and the collecting child, one line of JSON each.

The pixels travel in shared memory: `slots` are the file descriptors, inherited by the child, of anonymous files. A slot
belongs to the child from the `CollectJob` that names it until its `JobDone`. After a child has died the next one
gets all unanswered jobs again, in their order; the numbers show which are done already.
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
    """The first line: run the spool in `folder` until standard input ends."""

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
    """The envelope of the first line."""

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
    """Use these settings from now on."""

    kind: Literal["change"] = "change"
    settings: CollectionConfig


class CollectOrder(Strict):
    """Every line after a `CollectSetup`."""

    body: Annotated[CollectJob | SettingsUpdate, Field(discriminator="kind")]


# --- from the child ---------------------------------------------------------------------------------------------------


class SpoolStatus(Strict):
    """State of the spool; counts since it was created."""

    kept: dict[CollectReason, int] = Field(default_factory=dict)  # CollectReason -> frames
    dropped: dict[str, int] = Field(default_factory=dict)  # CollectDropReason -> frames that were selected and are lost
    uploaded: int = 0
    waiting: int = 0  # frames on this disk
    waiting_bytes: int = 0
    set_aside: int = 0  # of those waiting: the target holds something else under their key, or refused them
    day_bytes: int = 0  # kept on this UTC day
    error: str | None = None  # why nothing is uploaded or kept at the moment


class JobDone(Strict):
    """The job is finished: the frame is kept, or dropped and counted. Its slot is free."""

    kind: Literal["taken"] = "taken"
    number: int
    figures: SpoolStatus


class StatusUpdate(Strict):
    """The status changed without a job: uploads, errors. Also the answer to `CollectSetup`."""

    kind: Literal["moved"] = "moved"
    figures: SpoolStatus


class TargetCheckResult(Strict):
    """The result of a `TargetCheck`."""

    kind: Literal["checked"] = "checked"
    usable: bool
    certain: bool = True  # False: the target answers, but whether it takes frames shows with the first one
    text: str


class CollectFailed(Strict):
    """The child cannot work, and exits."""

    kind: Literal["unable"] = "unable"
    text: str


class CollectReply(Strict):
    """One line of the child's standard output."""

    body: Annotated[JobDone | StatusUpdate | TargetCheckResult | CollectFailed, Field(discriminator="kind")]
