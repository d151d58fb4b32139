"""Carries collected frames on a disk from an air-gapped site into the data sets' storage.

    DISK/collected/v1/...           images and sidecars under the same keys as everywhere
    DISK/kensa-collected.json       every file with length and SHA-256; written last

Promise: only complete frames leave a site; each file is verified against the index before it enters the storage, the
sidecar after its image; existing files are not copied again, however often disks go back and forth. An interrupted copy
resumes. The index detects accidents, not forgery: whoever can change the disk can change the index too. Other checks
guard the use of the frames (labels, `pipeline.datasets.label_quality`).
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field, StringConstraints, ValidationError, field_validator

from agent.errors import UsageError
from agent.images.decode import MAX_IMAGE_BYTES
from agent.wire.codec import WireModel
from agent.wire.collected_frame import ROOT
from pipeline.cloud.storage import FolderStorage, ObjectMissingError, ObjectTooLargeError, validate_key
from pipeline.dataset_reader import DatasetError
from pipeline.datasets.collected_frames import (
    MAX_OBJECTS,
    MAX_SIDECAR_BYTES,
    SIDECAR,
    fetch_image,
    map_concurrently,
    scan_frames,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.cloud.storage import Storage
    from pipeline.datasets.collected_frames import CollectedFrame
    from pipeline.progress import Progress

INDEX: Final = "kensa-collected.json"
RESERVE_BYTES: Final = 64 * 1024**2  # of the disk that stay free
_MAX_INDEX_BYTES: Final = 1024**3
_KEY: Final = rf"^{ROOT}/site=[A-Za-z0-9_-]{{1,64}}/[A-Za-z0-9_.=/+-]{{1,700}}\.(png|jpg|json)$"


class _File(WireModel):
    key: Annotated[str, StringConstraints(pattern=_KEY)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    length_bytes: Annotated[int, Field(ge=1, le=MAX_IMAGE_BYTES)]

    @field_validator("key")
    @classmethod
    def _stays_inside(cls, key: str) -> str:
        try:
            return validate_key(key)
        except UsageError as error:
            raise ValueError(str(error)) from error


class _Index(WireModel):
    kind: Literal["kensa-collected"] = "kensa-collected"
    files: Annotated[tuple[_File, ...], Field(max_length=2 * MAX_OBJECTS)]


@dataclass(frozen=True, slots=True)
class TransferResult:
    """The result of a transfer."""

    frames: int  # on the disk, or named by it
    new: int  # of these, copied now
    problems: tuple[str, ...]  # why frames were not copied


def export_frames(storage: Storage, disk: Path, *, site: str | None, progress: Progress) -> TransferResult:
    """Copy all complete frames, of one site or of all, to the folder `disk`. Raises StorageError, DatasetError."""
    found = scan_frames(storage, site=site)
    target = FolderStorage(disk)
    disk.mkdir(parents=True, exist_ok=True)
    target.delete(INDEX)  # an incomplete export must not look complete
    there = {stored.key: stored.length_bytes for stored in target.list(ROOT)}
    _check_space(disk, [k for k in found.frames if there.get(k.image_path) != k.sidecar.image.bytes])
    files: list[_File] = []
    problems = list(found.problems)
    new = 0
    done = map_concurrently(lambda frame: _export_frame(storage, target, frame, there), found.frames)
    for number, one in enumerate(done, start=1):
        if isinstance(one, str):
            problems.append(one)
        else:
            files.extend(one.files)
            new += one.is_new
        progress("frames", number, len(found.frames))
    ordered = tuple(sorted(files, key=lambda f: f.key))
    target.write(INDEX, _Index(files=ordered).model_dump_json().encode())
    return TransferResult(len(ordered) // 2, new, tuple(problems))


@dataclass(frozen=True, slots=True)
class _FramePair:
    files: tuple[_File, _File]
    is_new: bool


def _export_frame(
    storage: Storage, target: FolderStorage, frame: CollectedFrame, there: dict[str, int]
) -> _FramePair | str:
    side = frame.image_path.rpartition(".")[0] + SIDECAR
    image = frame.sidecar.image
    try:
        sidecar = storage.read(side, limit=MAX_SIDECAR_BYTES)
        is_new = not (
            there.get(frame.image_path) == image.bytes
            and _digest(target.read(frame.image_path, limit=image.bytes)) == image.sha256
            and there.get(side) == len(sidecar)
            and target.read(side, limit=MAX_SIDECAR_BYTES) == sidecar
        )
        if is_new:
            target.write(frame.image_path, fetch_image(storage, frame))
            target.write(side, sidecar)
    except (DatasetError, ObjectMissingError, ObjectTooLargeError) as error:
        return str(error)
    files = (
        _File(key=frame.image_path, sha256=image.sha256, length_bytes=image.bytes),
        _File(key=side, sha256=_digest(sidecar), length_bytes=len(sidecar)),
    )
    return _FramePair(files, is_new)


def _check_space(disk: Path, missing: Sequence[CollectedFrame]) -> None:
    needed = sum(frame.sidecar.image.bytes + MAX_SIDECAR_BYTES for frame in missing)
    free = shutil.disk_usage(disk).free
    if free < needed + RESERVE_BYTES:
        raise DatasetError(
            f"{disk} has {free:,} bytes free; {len(missing):,} frames need {needed:,}, and {RESERVE_BYTES:,} stay free."
            " Take a larger disk, or one site at a time (--site)."
        )


def import_frames(disk: Path, storage: Storage, *, progress: Progress) -> TransferResult:
    """Copy the frames that the disk's index names into the storage. Raises StorageError, DatasetError.

    A frame whose files differ from the index, or that the storage holds with other content, is not copied and is
    reported.
    """
    source = FolderStorage(disk)
    index = _read_index(source, disk)
    files = {file.key: file for file in index.files}
    frames = []
    problems = []
    for key, file in files.items():
        if not key.endswith(SIDECAR):
            continue
        stem = key.removesuffix(SIDECAR)
        image = files.get(f"{stem}.png") or files.get(f"{stem}.jpg")
        if image is None:
            problems.append(f"{key} has no image in {INDEX}")
        else:
            frames.append((image, file))
    new = 0
    done = map_concurrently(lambda pair: _import_frame(source, storage, *pair), frames)
    for number, one in enumerate(done, start=1):
        if isinstance(one, str):
            problems.append(one)
        else:
            new += one
        progress("frames", number, len(frames))
    return TransferResult(len(frames), new, tuple(problems))


def _read_index(source: FolderStorage, disk: Path) -> _Index:
    try:
        return _Index.model_validate_json(source.read(INDEX, limit=_MAX_INDEX_BYTES), strict=True)
    except ObjectMissingError as error:
        raise DatasetError(
            f"{disk} has no {INDEX}: it holds no collected frames, or the export was interrupted. Run `kensa cloud "
            "collected export` again; it goes on where it stopped."
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DatasetError(f"{disk}/{INDEX} is damaged: {where}: {first['msg']}. Export again.") from error


def _import_frame(source: FolderStorage, storage: Storage, image: _File, sidecar: _File) -> bool | str:
    """True when it was copied, False when it existed; otherwise the reason against it."""
    try:
        data = _read_verified(source, sidecar)
        if isinstance(data, str):
            return data
        if storage.exists(sidecar.key):
            if storage.read(sidecar.key, limit=MAX_SIDECAR_BYTES) == data:
                return False
            return f"{sidecar.key} is in {storage.uri} with other content: two devices use one name"
        pixels = _read_verified(source, image)
        if isinstance(pixels, str):
            return pixels
    except (ObjectMissingError, ObjectTooLargeError) as error:
        return f"{error} The disk's index names it: export again."
    storage.write(image.key, pixels)
    storage.write(sidecar.key, data)
    return True


def _read_verified(source: FolderStorage, file: _File) -> bytes | str:
    data = source.read(file.key, limit=file.length_bytes)
    if len(data) == file.length_bytes and _digest(data) == file.sha256:
        return data
    return f"{source.uri}/{file.key} differs from the export (length or sha256): the disk is damaged"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
