"""Writes reproducible zip archives: sorted names, one date, one mode.

Nothing is compressed: wheels and models are already, and compressors differ between machines.

Promise: `write` makes the same file on every machine and day, and leaves no partial file.
"""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_DATE: Final = (1980, 1, 1, 0, 0, 0)  # the earliest date of the format
_MODE: Final = 0o100644 << 16  # a plain file, readable by the component's user
_UNIX: Final = 3


@dataclass(frozen=True, slots=True)
class ArchiveEntry:
    """A file of an archive: its name there, and its bytes."""

    name: str
    content: bytes


def write(path: Path, entries: Iterable[ArchiveEntry]) -> None:
    """Write a zip, through a temporary file beside it that is renamed when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".zip-", delete=False) as file:
        temporary = Path(file.name)
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            for entry in sorted(entries, key=lambda entry: entry.name):
                info = zipfile.ZipInfo(entry.name, _DATE)
                info.external_attr = _MODE
                info.create_system = _UNIX
                info.compress_type = zipfile.ZIP_STORED
                archive.writestr(info, entry.content)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
