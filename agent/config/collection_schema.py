"""The configuration of frame collection: which frames are kept for training, how much, and where."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints

from agent.config.config_section import ConfigSection, Fraction, Name, redacted

_BUCKET: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()=-]+)*")
_MIB: Final = 1024**2
_GIB: Final = 1024**3

Bytes = Annotated[int, Field(ge=0, le=1024**5)]


def _target(target: str) -> str:
    if not target.startswith("/") and _BUCKET.fullmatch(target) is None:
        msg = f"given {redacted(target)}; write an absolute folder such as /media/disk/kensa, or s3://bucket/prefix"
        raise ValueError(msg)
    return target.rstrip("/") or "/"


class CollectionConfig(ConfigSection):
    """Frames for training. Without this section nothing is collected."""

    site: Name  # part of every key
    target: Annotated[str, StringConstraints(min_length=1, max_length=1024), AfterValidator(_target)] | None = (
        None  # s3://bucket/prefix or an existing absolute folder; None: they stay on this device
    )
    defects: bool = True
    unsure: bool = True
    disagreement: bool = True  # of champion and challenger, during a shadow deployment or a trial
    ok_share: Fraction = 0.0  # of `ok` parts, drawn by the hash of the verdict's key
    format: Literal["jpg", "png"] = "jpg"  # png is lossless, ten times the work and six times the bytes
    jpeg_quality: int = Field(default=95, ge=50, le=100)
    roi_only: bool = False  # keep the inspected region instead of the whole frame
    max_per_s: float = Field(default=12.0, gt=0.0, le=1_000.0, allow_inf_nan=False)  # copies, sustained; bursts of 8
    max_bytes_per_day: Bytes = 2 * _GIB  # UTC days
    max_bytes_per_day_of_reason: dict[Literal["defect", "unsure", "disagreement", "sample"], Bytes] = Field(
        default_factory=dict
    )
    max_bytes_per_day_of_class: dict[Name, Bytes] = Field(
        default_factory=dict
    )  # of the verdict: a defect class, or the good one
    max_disk_bytes: int = Field(default=4 * _GIB, ge=_MIB, le=1024**5)  # waiting for the target
    min_free_disk_bytes: int = Field(default=256 * _MIB, ge=0, le=1024**5)  # left free for the outbox
    max_upload_bytes_per_s: int | None = Field(default=None, ge=1_000, le=10**12)  # None: unlimited
