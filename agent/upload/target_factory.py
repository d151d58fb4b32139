"""Chooses the upload target by the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.upload.s3_target import S3Target
from agent.upload.throttle import Throttle
from agent.upload.upload_targets import FolderTarget

if TYPE_CHECKING:
    from agent.config import CollectionConfig
    from agent.upload.upload_targets import UploadTarget


def open_target(settings: CollectionConfig) -> UploadTarget | None:
    """Return the configured target; None where frames stay on the device. Raises UploadError."""
    target = settings.target
    if target is None:
        return None
    throttle = Throttle(settings.max_upload_bytes_per_s)
    if target.startswith("s3://"):
        bucket, _, prefix = target.removeprefix("s3://").partition("/")
        return S3Target(bucket, prefix, throttle=throttle)
    return FolderTarget(Path(target), throttle=throttle)
