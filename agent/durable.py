"""Writes files that must survive a power cut, and computes digests of files.

A replaced file needs fsync(file), rename, fsync(directory): without the last, a power cut can bring the old one back.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.errors import StateDirError

if TYPE_CHECKING:
    from pathlib import Path

Checkpoint = Callable[[str], None]  # called at each boundary between persisting and acting; fault tests kill there


def usable_directory(path: Path) -> Path:
    """Create `path` where needed and check that it can be written. Raises StateDirError with the remedy."""
    probe = path / f".probe-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"kensa")
        probe.unlink()
    except OSError as error:
        probe.unlink(missing_ok=True) if path.is_dir() and os.access(path, os.W_OK) else None
        raise StateDirError(
            f"The state directory {path} cannot be written: {error.strerror}. "
            "Give this user the right to write there, free disk space, or set another state directory."
        ) from error
    return path


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, lower-case hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_directory(path: Path) -> None:
    """Make renames and new files in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_durably(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a power cut leaves either the old or the new file, whole."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Make the content of an existing file durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
