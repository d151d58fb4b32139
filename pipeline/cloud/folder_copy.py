"""Copies folders to and from a storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.cloud.storage import Storage


def upload_folder(folder: Path, storage: Storage) -> int:
    """Upload the files of a folder that the storage does not hold yet; returns how many files the folder has."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        storage.create(path.relative_to(folder).as_posix(), path.read_bytes())
    return len(files)


def download_folder(storage: Storage, folder: Path, prefix: str = "") -> int:
    """Download the objects below a prefix to a folder; returns how many there were."""
    count = 0
    for stored in storage.list(prefix):
        target = folder / stored.key.removeprefix(prefix)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(storage.read(stored.key))
        count += 1
    return count
