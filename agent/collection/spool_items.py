"""Records of collected frames in the spool and during upload."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from agent.wire.collected_frame import CollectReason


class CollectDropReason(StrEnum):
    """Why a selected frame was lost."""

    BUDGET = "budget"  # of the day: all, of its reason or of its class
    DISK_CAP = "disk_cap"  # kept, and gone again before it was uploaded
    DISK_FULL = "disk_full"  # or another refusal of the disk
    UNREADABLE = "unreadable"  # no format holds such pixels
    REPEATED = "repeated"  # a frame of that name waits already
    MISSING = "missing"  # its image was removed or changed by another program


class UploadState(StrEnum):
    """How far an upload is."""

    WAITING = "waiting"
    SIDECAR = "sidecar"  # the image is uploaded and acknowledged, its sidecar is not
    ASIDE = "aside"  # the target holds something else under this key, or refused it: a person must decide


@dataclass(frozen=True, slots=True)
class NewSpoolItem:
    """An encoded frame to be kept."""

    stem: str
    suffix: str  # "jpg" or "png"
    reason: CollectReason
    class_name: str | None
    image: bytes
    sha256: str  # hex, of the image
    sidecar: bytes


@dataclass(frozen=True, slots=True)
class UploadedChunk:
    """An acknowledged chunk of a multipart upload."""

    number: int  # from 1
    etag: str
    sha256: str  # base64, of the part


@dataclass(frozen=True, slots=True)
class SpoolItem:
    """A kept frame that waits for its upload."""

    id: int
    stem: str
    path: Path  # of the image
    size: int  # of the image, bytes
    sha256: str  # hex, of the image
    sidecar: bytes
    state: UploadState
    upload_id: str | None = None
    chunks: tuple[UploadedChunk, ...] = ()

    @property
    def key(self) -> str:
        """Key of the image at the target."""
        return self.stem + self.path.suffix
