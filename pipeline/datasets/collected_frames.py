"""What the line collected, read back: picture and sidecar of each kept frame, in a folder or a bucket.

Promise: what comes out of `scan` was written by an agent for the place where it lies, names its picture by digest, and
is there once for each verdict. What is not is left out and told in `problems`: a hostile or damaged object must not
stop the cycle, and must not get into a data set either. Pictures are checked when they are read (`picture`).
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
MASKS: Final = "masks/v1"  # below it a verdict's key and `.png`: where people marked the defect, bright
MAX_SIDECAR_BYTES: Final = 16 * 1024
MAX_OBJECTS: Final = 1_000_000  # of one scan
_READERS: Final = 8  # threads; a bucket answers in tens of milliseconds
_CHUNK: Final = 1_024

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class CollectedFrame:
    """One kept frame."""

    image_path: str  # of the picture, in its storage
    sidecar: FrameSidecar
    verdict: Verdict  # what the sidecar holds

    @property
    def key(self) -> str:
        """The verdict's: line/camera/boot_epoch/seq."""
        return self.verdict.key

    @property
    def stem(self) -> str:
        """What a picture's file is called without its suffix."""
        return self.image_path.rpartition("/")[2].rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class FrameScan:
    """Everything usable, in the order of the paths, and why the rest is not."""

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
            raise DatasetError(f"{storage.uri}: more than {MAX_OBJECTS:,} collected frames; give one site, or tidy up.")
        if inspection is not None and stored.key.split("/")[-2] != inspection:
            continue
        if names is not None and stored.key.rpartition("/")[2].rpartition(".")[0] not in names:
            continue
        if stored.key.endswith(SIDECAR):
            sidecars.append(stored.key)
        else:
            pictures.add(stored.key)
    kept: dict[str, CollectedFrame] = {}
    ambiguous: set[str] = set()
    problems: list[str] = []
    for found in map_concurrently(lambda key: _read_frame(storage, key, pictures), sidecars):
        if isinstance(found, str):
            problems.append(found)
            continue
        if wanted is not None and found.key not in wanted:
            continue
        other = kept.setdefault(found.key, found)
        if other.sidecar.image.sha256 != found.sidecar.image.sha256:
            ambiguous.add(found.key)
            problems.append(
                f"{found.image_path} and {other.image_path} are different pictures of the verdict {found.key}"
            )
    usable = sorted((k for k in kept.values() if k.key not in ambiguous), key=lambda k: k.image_path)
    return FrameScan(tuple(usable), tuple(sorted(problems)))


def _read_frame(storage: Storage, key: str, pictures: set[str]) -> CollectedFrame | str:
    """What a sidecar says, or what is wrong with it."""
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
        return f"{key} has no picture {path}"
    if sidecar.crop is not None and sidecar.crop[2:] != (sidecar.image.width, sidecar.image.height):
        return f"{key}: the crop {list(sidecar.crop)} has not the size of the picture"
    return CollectedFrame(path, sidecar, verdict)


def fetch_image(storage: Storage, kept: CollectedFrame) -> bytes:
    """Return the encoded picture, checked against the sidecar. Raises DatasetError, StorageError."""
    image = kept.sidecar.image
    try:
        data = storage.read(kept.image_path, limit=min(image.bytes, MAX_IMAGE_BYTES))
    except ObjectTooLargeError as error:
        raise DatasetError(f"{kept.image_path} is longer than the {image.bytes:,} bytes of its sidecar.") from error
    if len(data) != image.bytes or hashlib.sha256(data).hexdigest() != image.sha256:
        raise DatasetError(f"{kept.image_path} is not the picture that its sidecar names (length or sha256 differ).")
    try:
        header = validate_encoded(data)
    except FrameError as error:
        raise DatasetError(f"{kept.image_path}: {error.detail}.") from error
    kind = {"jpeg": "jpg"}.get(header.kind, header.kind)
    if (kind, header.width, header.height) != (image.format, image.width, image.height):
        raise DatasetError(
            f"{kept.image_path} is a {kind} of {header.width}x{header.height} px; its sidecar says {image.format} of "
            f"{image.width}x{image.height} px."
        )
    return data


def fetch_mask(storage: Storage, kept: CollectedFrame) -> bytes | None:
    """Return the mask that people drew on the frame; None where there is none. Raises DatasetError, StorageError."""
    path, image = f"{MASKS}/{kept.key}.png", kept.sidecar.image
    try:
        data = storage.read(path, limit=MAX_IMAGE_BYTES)
        header = validate_encoded(data)
    except ObjectMissingError:
        return None
    except (ObjectTooLargeError, FrameError) as error:
        raise DatasetError(f"{path} is no mask: {error}.") from error
    if (header.kind, header.width, header.height) != ("png", image.width, image.height):
        raise DatasetError(f"{path} is no PNG of the size of its picture, {image.width}x{image.height} px.")
    return data


def map_concurrently(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `work(item)` in the order of `items`, several at a time: waiting for a bucket is most of it."""
    source = iter(items)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="storage-reader") as pool:
        while chunk := list(itertools.islice(source, _CHUNK)):
            yield from pool.map(work, chunk)
