"""Disk space that the outbox reserves and releases when the disk is full."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class DiskReserve:
    """Disk space that is released when the disk is full, so that the outbox can still evict and commit."""

    def __init__(self, path: Path, size: int) -> None:
        """Use the file `path`, of `size` bytes."""
        self._path = path
        self._size = size

    @property
    def is_reserved(self) -> bool:
        """Whether the space is reserved now."""
        return self._path.exists()

    def reserve(self) -> bool:
        """Reserve the space where it is not reserved; False when the disk does not have it."""
        try:
            if self._path.exists() and self._path.stat().st_size == self._size:
                return True
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._size)
        except OSError:
            self.release()
            return False
        return True

    def release(self) -> None:
        """Release the space."""
        self._path.unlink(missing_ok=True)
