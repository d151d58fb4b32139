"""Encodes a frame from shared memory and adds it to the spool."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from agent.collection.shared_frames import view_shared_frame
from agent.collection.spool_items import CollectDropReason, NewSpoolItem
from agent.images.decode import encode_jpeg, encode_png
from agent.wire.collected_frame import CollectedImage, encode_collected

if TYPE_CHECKING:
    from agent.children.collect_protocol import CollectJob
    from agent.collection.spool import Spool
    from agent.config import CollectionConfig


def encode_and_store(job: CollectJob, *, spool: Spool, settings: CollectionConfig, fd: int, boot_epoch: int) -> None:
    """Encode and keep the frame, or drop and count it; a repeated job changes nothing."""
    number = (boot_epoch, job.number)
    if spool.is_known_job(*number):
        return
    if not spool.has_room(job.reason, job.class_name, settings):  # before the work
        spool.drop(CollectDropReason.BUDGET, job=number)
        return
    pixels = view_shared_frame(fd, job.shape)
    try:
        image = encode_png(pixels) if settings.format == "png" else encode_jpeg(pixels, settings.jpeg_quality)
    except ValueError:
        spool.drop(CollectDropReason.UNREADABLE, job=number)
        return
    sha256 = hashlib.sha256(image).hexdigest()
    sidecar = encode_collected(
        reason=job.reason,
        sample_rate=job.sample_rate,
        site=job.site,
        image=CollectedImage(
            sha256=sha256, bytes=len(image), format=settings.format, width=job.shape[1], height=job.shape[0]
        ),
        crop=job.crop,
        verdict=job.verdict,
    )
    item = NewSpoolItem(job.stem, settings.format, job.reason, job.class_name, image, sha256, sidecar)
    spool.add(item, settings=settings, job=number)
