"""A disk for lifecycles that skips fsync; power cuts are tested elsewhere."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY = Path("/dev/shm")  # noqa: S108 - where there is one


@contextmanager
def quick_disk() -> Iterator[Path]:
    """Yield a folder in memory, where there is such a thing, and remove it."""
    with tempfile.TemporaryDirectory(prefix="kensa-life-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)
