"""Reads collected frames: the image and sidecar of each, in a folder or a bucket.

Promise: each frame that `scan_frames` returns was written by an agent for its own key, names its image by digest, and
is the only one of its verdict. Other objects are left out and reported in `problems`: a hostile or damaged object must
neither stop the cycle nor enter a data set. Images are verified when they are read (`fetch_image`).
"""

from __future__ import annotations

import hashlib
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from agent.errors import FrameError, MessageError
from agent.images.decode import MAX_IMAGE_BYTES, validate_encoded
from agent.wire.collected_frame import ROOT, FrameSidecar, collected_stem, decode_collected
from pipeline.cloud.storage import ObjectMissingError, ObjectTooLargeError
from pipeline.dataset_reader import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from agent.records import Verdict
    from pipeline.cloud.storage import Storage

SIDECAR: Final = ".json"
MASKS: Final = "masks/v1"  # below it a verdict's key and `.png`: people marked the defect there, bright
MAX_SIDECAR_BYTES: Final = 16 * 1024
MAX_OBJECTS: Final = 1_000_000  # of one scan
_READERS: Final = 8  # threads; a bucket answers in tens of milliseconds
_CHUNK: Final = 1_024

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class CollectedFrame:
    """One collected frame."""

    image_path: str  # of the image, in its storage
    sidecar: FrameSidecar
    verdict: Verdict  # of the sidecar

    @property
    def key(self) -> str:
        """The key of the verdict: line/camera/boot_epoch/seq."""
        return self.verdict.key

    @property
    def view(self) -> str:
        """The camera's view: site/line/camera."""
        return f"{self.sidecar.site}/{self.verdict.origin.line}/{self.verdict.origin.camera}"

    @property
    def part_key(self) -> str | None:
        """site/line/part id, or None without a printable part id."""
        part = self.verdict.part_id
        if not part or not part.isprintable():
            return None
        return f"{self.sidecar.site}/{self.verdict.origin.line}/{part}"[:256]

    @property
    def stem(self) -> str:
        """The file name of an image without its suffix."""
        return self.image_path.rpartition("/")[2].rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class FrameScan:
    """All usable frames, in the order of their paths, and the reasons against the others."""

    frames: tuple[CollectedFrame, ...]
    problems: tuple[str, ...]


def scan_frames(
    storage: Storage, *, site: str | None = None, inspection: str | None = None, keys: Iterable[str] | None = None
) -> FrameScan:
    """Read all sidecars, of one site and inspection or of all; with `keys` those of these verdicts only.

    Raises StorageError; DatasetError for more than MAX_OBJECTS.
    """
    prefix = f"{ROOT}/" if site is None else f"{ROOT}/site={site}/"
    sidecars: list[str] = []
    pictures: set[str] = set()
    wanted = None if keys is None else frozenset(keys)
    names = None if wanted is None else frozenset("-".join(key.split("/")[1:]) for key in wanted)  # the line is inside
    for number, stored in enumerate(storage.list(prefix)):
        if number >= 2 * MAX_OBJECTS:
            raise DatasetError(
                f"{storage.uri}: more than {MAX_OBJECTS:,} collected frames; give one site, or remove some."
            )
        if inspection is not None and stored.key.split("/")[-2] != inspection:
            continue
        if names is not None and stored.key.rpartition("/")[2].rpartition(".")[0] not in names:
            continue
        if stored.key.endswith(SIDECAR):
            sidecars.append(stored.key)
        else:
            pictures.add(stored.key)
    frames: dict[str, CollectedFrame] = {}
    ambiguous: set[str] = set()
    problems: list[str] = []
    for found in map_concurrently(lambda key: _read_frame(storage, key, pictures), sidecars):
        if isinstance(found, str):
            problems.append(found)
            continue
        if wanted is not None and found.key not in wanted:
            continue
        other = frames.setdefault(found.key, found)
        if other.sidecar.image.sha256 != found.sidecar.image.sha256:
            ambiguous.add(found.key)
            problems.append(
                f"{found.image_path} and {other.image_path} are different images of the verdict {found.key}"
            )
    usable = sorted((k for k in frames.values() if k.key not in ambiguous), key=lambda k: k.image_path)
    return FrameScan(tuple(usable), tuple(sorted(problems)))


def _read_frame(storage: Storage, key: str, pictures: set[str]) -> CollectedFrame | str:
    """The frame of a sidecar, or what is wrong with it."""
    try:
        sidecar = decode_collected(storage.read(key, limit=MAX_SIDECAR_BYTES))
        verdict = sidecar.verdict.to_verdict()
        stem = collected_stem(sidecar.site, verdict)
    except (ObjectMissingError, ObjectTooLargeError, MessageError) as error:
        return f"{key}: {error}"
    path = f"{stem}.{sidecar.image.format}"
    if key != stem + SIDECAR:
        return f"{key} is the sidecar of another place, {stem}{SIDECAR}"
    if path not in pictures:
        return f"{key} has no image {path}"
    if sidecar.crop is not None and sidecar.crop[2:] != (sidecar.image.width, sidecar.image.height):
        return f"{key}: the crop {list(sidecar.crop)} does not have the size of the image"
    return CollectedFrame(path, sidecar, verdict)


def fetch_image(storage: Storage, frame: CollectedFrame) -> bytes:
    """Return the encoded image, checked against the sidecar. Raises DatasetError, StorageError."""
    image = frame.sidecar.image
    try:
        data = storage.read(frame.image_path, limit=min(image.bytes, MAX_IMAGE_BYTES))
    except ObjectTooLargeError as error:
        raise DatasetError(f"{frame.image_path} is longer than the {image.bytes:,} bytes of its sidecar.") from error
    if len(data) != image.bytes or hashlib.sha256(data).hexdigest() != image.sha256:
        raise DatasetError(f"{frame.image_path} is not the image that its sidecar names (length or sha256 differ).")
    try:
        header = validate_encoded(data)
    except FrameError as error:
        raise DatasetError(f"{frame.image_path}: {error.detail}.") from error
    kind = {"jpeg": "jpg"}.get(header.kind, header.kind)
    if (kind, header.width, header.height) != (image.format, image.width, image.height):
        raise DatasetError(
            f"{frame.image_path} is a {kind} of {header.width}x{header.height} px; its sidecar states "
            f"{image.format} of {image.width}x{image.height} px."
        )
    return data


def fetch_mask(storage: Storage, frame: CollectedFrame) -> bytes | None:
    """Return the mask that people drew on the frame; None where there is none. Raises DatasetError, StorageError."""
    path, image = f"{MASKS}/{frame.key}.png", frame.sidecar.image
    try:
        data = storage.read(path, limit=MAX_IMAGE_BYTES)
        header = validate_encoded(data)
    except ObjectMissingError:
        return None
    except (ObjectTooLargeError, FrameError) as error:
        raise DatasetError(f"{path} is not a mask: {error}.") from error
    if (header.kind, header.width, header.height) != ("png", image.width, image.height):
        raise DatasetError(f"{path} is not a PNG of the size of its image, {image.width}x{image.height} px.")
    return data


def map_concurrently(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `work(item)` in the order of `items`, several at a time: most of the time is spent waiting for a bucket."""
    source = iter(items)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="storage-reader") as pool:
        while chunk := list(itertools.islice(source, _CHUNK)):
            yield from pool.map(work, chunk)
