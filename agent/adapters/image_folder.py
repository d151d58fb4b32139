"""A folder of images as a camera: real images without a camera, paced or as fast as inspected.

Promise: the order is that of `manifest.csv`, or by path where there is none, and the same at every start. Each image is
one part whose id is its path inside the folder. An image that is missing, truncated or not accepted by a line is a
FrameError with its name, so that its part becomes `unknown`; only a folder without any image is an error. Files of
other kinds, and folders that may not be read, are counted and named by `skipped_files`.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.errors import CameraError, FrameError, SourceEndedError
from agent.images.decode import MAX_IMAGE_BYTES, ImageDecoder
from agent.images.file_types import IMAGE_SUFFIXES, UNSUPPORTED_KINDS
from agent.inspection.pacing import Pacer
from agent.records import DropReason, Grab

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.records import Pixels
    from agent.timing.clock import Clock

_READ: Final = ", ".join(sorted(IMAGE_SUFFIXES))
MANIFEST: Final = "manifest.csv"
_NAMED: Final = 3  # of skipped files, and of kinds
_MAX_PICTURES: Final = 1_000_000  # of a folder or manifest; each costs a path in memory


class ImageFolderSource:
    """The images under `path`, or those that its `manifest.csv` lists (or `path` itself, when it is a `.csv`).

    `split` keeps the manifest's rows of that split. `fps` None means as fast as they are taken; `loop` starts over at
    the end, else the source is done.
    """

    def __init__(
        self, *, path: str | Path, clock: Clock, split: str | None = None, fps: float | None = None, loop: bool = False
    ) -> None:
        self._path = Path(path)
        self._split = split
        self._loop = loop
        self._pacer = Pacer(fps=fps, clock=clock)
        self._decoder = ImageDecoder()
        self._bytes = bytearray()  # of the encoded image; grows to the largest
        self._root = self._path
        self._pictures: list[str] = []
        self._next = 0
        self.skipped_files: str | None = None  # other content of the opened folder, for people

    def open(self) -> None:
        """See `FrameSource.open`; lists the images and starts at the first."""
        self.skipped_files = None
        try:
            self._pictures = self._list()
        except OSError as error:
            raise CameraError(f"{self._path} cannot be read ({error.strerror}): check path and rights") from error
        self._next = 0
        self._pacer.restart()

    def read(self, *, timeout_s: float, buffer: Pixels | None) -> Grab | None:
        """See `FrameSource.read`."""
        if self._next >= len(self._pictures):
            if not self._loop or not self._pictures:
                raise SourceEndedError(f"all {len(self._pictures)} pictures of {self._path} were read")
            self._next = 0
        due_ns = self._pacer.wait(timeout_s)
        if due_ns is None:
            return None
        name = self._pictures[self._next]
        self._next += 1
        try:
            pixels = self._decoder.decode(self._load(name), buffer)
        except FrameError as error:
            raise FrameError(error.reason, error.detail, name=name, part_id=name) from error
        return Grab(pixels=pixels, due_ns=due_ns, part_id=name)

    def close(self) -> None:
        """See `FrameSource.close`."""
        self._decoder.close()

    def _list(self) -> list[str]:
        if not self._path.exists():
            raise CameraError(f"{self._path} does not exist: give a folder of pictures or a {MANIFEST}")
        if self._path.is_dir():
            self._root, manifest = self._path, self._path / MANIFEST
        else:
            self._root, manifest = self._path.parent, self._path
        if manifest.is_file():
            if manifest.suffix != ".csv":
                raise CameraError(f"{self._path} is neither a folder nor a .csv manifest")
            return self._from_manifest(manifest)
        if self._split is not None:
            raise CameraError(f"{self._path} has no {MANIFEST}, so there is no split {self._split!r}: remove `split`")
        found, others, closed = self._walk()
        self.skipped_files = _describe_skipped(others, closed)
        if not found:
            besides = f"; {self.skipped_files}" if self.skipped_files else ""
            raise CameraError(f"{self._path} holds no pictures: {_READ} in any level{besides}")
        return sorted(found)

    def _walk(self) -> tuple[list[str], list[str], list[str]]:
        """Return the images below the folder, the files of other kinds, and the folders that may not be read."""
        found: list[str] = []
        others: list[str] = []
        closed: list[str] = []

        def refuse(error: OSError) -> None:
            closed.append(f"{error.filename} ({error.strerror})")

        count = 0
        for folder, _, files in os.walk(self._root, onerror=refuse):
            count += len(files)
            if count > _MAX_PICTURES:
                raise CameraError(f"{self._path} holds more than {_MAX_PICTURES:,} files: give a smaller folder")
            for name in files:
                path = Path(folder, name)
                suffix = path.suffix.lower()
                if (suffix in IMAGE_SUFFIXES or suffix in UNSUPPORTED_KINDS) and path.is_file():
                    (found if suffix in IMAGE_SUFFIXES else others).append(path.relative_to(self._root).as_posix())
        return found, others, closed

    def _from_manifest(self, manifest: Path) -> list[str]:
        pictures: list[str] = []
        splits: set[str] = set()
        try:
            with manifest.open(newline="", encoding="utf-8") as file:
                rows = csv.DictReader(file)
                self._check_columns(manifest, rows.fieldnames or ())
                for row in rows:
                    splits.add(row.get("split") or "")
                    if self._split in (None, row.get("split")):
                        pictures.append(self._inside(manifest, row["path"] or "", rows.line_num))
                    if len(pictures) > _MAX_PICTURES:
                        raise CameraError(f"{manifest} lists more than {_MAX_PICTURES:,} pictures")
        except (csv.Error, UnicodeDecodeError) as error:
            raise CameraError(f"{manifest} is not a CSV file in UTF-8 ({error})") from error
        if not pictures:
            known = f": its splits are {', '.join(sorted(splits))}" if splits else ""
            raise CameraError(f"{manifest} lists no pictures of split {self._split!r}{known}")
        return pictures

    def _check_columns(self, manifest: Path, columns: Sequence[str]) -> None:
        needed = {"path"} if self._split is None else {"path", "split"}
        if missing := needed - set(columns):
            seen = ", ".join(columns) or "none"
            raise CameraError(f"{manifest} needs the column {', '.join(sorted(missing))}; it has {seen}")

    def _inside(self, manifest: Path, name: str, line: int) -> str:
        """Refuse a path that leads out of the folder: a manifest is untrusted."""
        path = Path(name)
        if not name or path.is_absolute() or ".." in path.parts:
            raise CameraError(f"{manifest} line {line}: path {name!r} must be relative and inside {self._root}")
        return path.as_posix()

    def _load(self, name: str) -> memoryview:
        file = self._root / name
        try:
            with file.open("rb", buffering=0) as stream:
                size = file.stat().st_size
                if size > MAX_IMAGE_BYTES:
                    raise FrameError(DropReason.SIZE, f"{size:,} bytes; at most {MAX_IMAGE_BYTES:,} are read")
                if size > len(self._bytes):
                    self._bytes = bytearray(size)
                count = stream.readinto(memoryview(self._bytes)[:size])
        except OSError as error:
            raise FrameError(DropReason.CORRUPT, f"cannot be read ({error.strerror})") from error
        return memoryview(self._bytes)[: count or 0]


def _describe_skipped(others: Sequence[str], closed: Sequence[str]) -> str | None:
    """Describe the skipped files and folders in one sentence; None for none."""
    said = []
    if others:
        kinds = Counter(Path(name).suffix.lower() for name in others)
        by_count = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
        counts = ", ".join(f"{count} {kind}" for kind, count in by_count)
        number = _number(len(others), "picture")
        said.append(f"{number} of other kinds passed over: {counts} ({_some(others)}); read are {_READ}")
    if closed:
        said.append(f"{_number(len(closed), 'folder')} that cannot be read: {_some(closed)}")
    return "; ".join(said) or None


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _NAMED else ""
    return ", ".join(sorted(names)[:_NAMED]) + more


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
