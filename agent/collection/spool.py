"""The spool: collected frames on this disk until the target has acknowledged them.

`images/CAMERA-EPOCH-SEQ.png|jpg` holds the images, `spool.db` (SQLite, WAL, synchronous=FULL) everything else:
sidecars, counts, the day's budget, uploads. Order of writing: image (fsync, rename, fsync of the folder), then one
transaction that records it as a kept frame and adds its bytes to the day; after the upload one transaction that records
it as uploaded, then the image is removed. So after kill -9 or a power cut at any point, an image without a row is
removed at the next start, no row lacks its image, and every count equals that of the rows.

Budgets are checked in the transaction that adds: they are never exceeded. The cap on the disk drops kept frames: the
random sample first, then disagreement, unsure, defects; within each the oldest; never the one that is being uploaded.

Used from two threads of one process, which holds the folder's lock.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from agent.children.collect_protocol import SpoolStatus
from agent.collection.spool_items import CollectDropReason, NewSpoolItem, SpoolItem, UploadedChunk, UploadState
from agent.durable import sync_directory
from agent.timing.clock import NS_PER_S
from agent.wire.collected_frame import CollectReason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.config import CollectionConfig
    from agent.timing.clock import Clock

SPOOL_FOLDER: Final = "collected"  # below the state directory
IMAGES_FOLDER: Final = "images"
_DAYS_KEPT: Final = 3
_EVICTION_ORDER: Final = ("sample", "disagreement", "unsure", "defect")  # when the disk's cap is reached, in this order


@dataclass(slots=True)
class _Totals:
    """Sums over the rows; changed only after a commit."""

    waiting: int = 0
    waiting_bytes: int = 0
    set_aside: int = 0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    days: Counter[tuple[str, str, str]] = field(default_factory=Counter)


class Spool:
    """See the module. Open it with `agent.collection.spool_opening.open_spool`."""

    def __init__(self, folder: Path, *, connection: sqlite3.Connection, lock_fd: int, clock: Clock) -> None:
        self._folder = folder
        self._images = folder / IMAGES_FOLDER
        self._db = connection
        self._lock_fd = lock_fd
        self._clock = clock
        self._lock = threading.RLock()
        self._uploading: int | None = None
        self._uncommitted_counts = Counter[tuple[str, str]]()  # that the disk refused to write
        self._totals = _Totals()
        self.added = threading.Event()  # there may be something to upload
        self._recover()

    def close(self) -> None:
        """Close the database and release the lock."""
        with self._lock:
            self._db.close()
            os.close(self._lock_fd)

    # --- in -----------------------------------------------------------------------------------------------------------

    def is_known_job(self, boot_epoch: int, number: int) -> bool:
        """Whether this job was kept or dropped before: by a child that died before it could report it."""
        with self._lock:
            row = self._db.execute("SELECT boot_epoch, number FROM job").fetchone()
        return row is not None and row[0] == boot_epoch and number <= row[1]

    def has_room(
        self, reason: CollectReason, class_name: str | None, settings: CollectionConfig, *, need: int = 1
    ) -> bool:
        """Whether the day's budgets allow `need` more bytes; checked before encoding and again after it."""
        day = self._today()
        with self._lock:
            days = self._totals.days
            limits = [(("all", ""), settings.max_bytes_per_day)]
            if (of_reason := settings.max_bytes_per_day_of_reason.get(reason.value)) is not None:
                limits.append((("reason", reason.value), of_reason))
            if class_name is not None and (of_class := settings.max_bytes_per_day_of_class.get(class_name)) is not None:
                limits.append((("class", class_name), of_class))
            return all(days[day, kind, name] + need <= limit for (kind, name), limit in limits)

    def drop(self, cause: CollectDropReason, *, job: tuple[int, int]) -> None:
        """Count a chosen frame that is not kept."""
        with self._lock:
            self._uncommitted_counts["dropped", cause.value] += 1
            try:
                with self._transaction():
                    self._record_job(job)
            except sqlite3.Error:  # the next transaction that the disk takes counts it
                return

    def add(self, item: NewSpoolItem, *, settings: CollectionConfig, job: tuple[int, int]) -> CollectDropReason | None:
        """Keep a frame, or return why not; counted either way, once per `job` (boot epoch, number)."""
        size = len(item.image)
        cause: CollectDropReason | None = None
        if self._has_stem(item.stem):
            cause = CollectDropReason.REPEATED
        elif not self.has_room(item.reason, item.class_name, settings, need=size):
            cause = CollectDropReason.BUDGET
        elif size > settings.max_disk_bytes:
            cause = CollectDropReason.DISK_CAP
        elif self._free_bytes() < size + settings.min_free_disk_bytes:
            cause = CollectDropReason.DISK_FULL
        if cause is None:
            path = self._images / f"{item.stem.rpartition('/')[2]}.{item.suffix}"
            try:
                self._write(path, item.image)
                self._insert_row(item, path, settings, job)
            except (OSError, sqlite3.Error):
                path.unlink(missing_ok=True)
                cause = CollectDropReason.DISK_FULL
        if cause is not None:
            self.drop(cause, job=job)
            return cause
        with self._lock, suppress(sqlite3.Error):  # the next frame that is kept tries again
            self._enforce_cap(settings.max_disk_bytes)
        self.added.set()
        return None

    def _has_stem(self, stem: str) -> bool:
        with self._lock:
            return self._db.execute("SELECT 1 FROM item WHERE stem = ?", (stem,)).fetchone() is not None

    def _write(self, path: Path, image: bytes) -> None:
        partial = path.with_name(path.name + ".part")
        try:
            with partial.open("wb") as file:
                file.write(image)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        sync_directory(self._images)

    def _insert_row(self, item: NewSpoolItem, path: Path, settings: CollectionConfig, job: tuple[int, int]) -> None:
        day, size, sums = self._today(), len(item.image), self._totals
        booked = [("all", ""), ("reason", item.reason.value), ("class", item.class_name or "")]
        with self._lock:
            with self._transaction():
                self._db.execute(
                    "INSERT INTO item(stem, file, reason, bytes, sha256, sidecar) VALUES(?, ?, ?, ?, ?, ?)",
                    (
                        item.stem,
                        path.name,
                        item.reason.value,
                        size,
                        item.sha256,
                        item.sidecar,
                    ),
                )
                for kind, name in booked:
                    self._db.execute(
                        "INSERT INTO day VALUES(?, ?, ?, ?) ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes",
                        (day, kind, name, size),
                    )
                self._db.execute(
                    "DELETE FROM day WHERE day <> ? AND day NOT IN "  # a wrong clock may have left days to come
                    "(SELECT DISTINCT day FROM day ORDER BY day DESC LIMIT ?)",
                    (day, _DAYS_KEPT),
                )
                self._count("kept", item.reason.value)
                self._record_job(job)
            sums.waiting += 1
            sums.waiting_bytes += size
            sums.counts["kept", item.reason.value] += 1
            for kind, name in booked:
                sums.days[day, kind, name] += size

    def _enforce_cap(self, max_bytes: int) -> None:
        """Drop the excess in `_EVICTION_ORDER`; counts and rows change in one transaction."""
        excess = self._totals.waiting_bytes - max_bytes
        if excess <= 0:
            return
        victims: list[tuple[int, str, int, str]] = []
        for reason in _EVICTION_ORDER:
            rows = self._db.execute("SELECT id, file, bytes, state FROM item WHERE reason = ? ORDER BY id", (reason,))
            for row in rows:
                if excess <= 0:
                    break
                if row[0] != self._uploading:
                    victims.append(row)
                    excess -= row[2]
        with self._transaction():
            self._db.executemany("DELETE FROM item WHERE id = ?", [(victim[0],) for victim in victims])
            self._count("dropped", CollectDropReason.DISK_CAP, len(victims))
        self._totals.counts["dropped", CollectDropReason.DISK_CAP.value] += len(victims)
        for _, file, size, state in victims:
            self._remove_row(file, size, state)

    # --- out ----------------------------------------------------------------------------------------------------------

    def set_target(self, target: str) -> None:
        """Restart every upload, those set aside too, when `target` is not the one before."""
        with self._lock:
            if self._db.execute("SELECT 1 FROM target WHERE name = ?", (target,)).fetchone() is not None:
                return
            with self._transaction():
                self._db.execute("DELETE FROM part")
                self._db.execute("UPDATE item SET state = 'waiting', upload_id = NULL")
                self._db.execute("INSERT OR REPLACE INTO target VALUES(1, ?)", (target,))
            self._totals.set_aside = 0

    def next_item(self) -> SpoolItem | None:
        """Return the oldest waiting frame; the cap spares it until `complete`, `set_aside` or `release_item`."""
        with self._lock:
            row = self._db.execute(
                "SELECT id, stem, file, bytes, sha256, sidecar, state, upload_id FROM item WHERE state <> 'aside' "
                "ORDER BY id LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            number, stem, file, size, sha256, sidecar, state, upload_id = row
            parts = self._db.execute("SELECT number, etag, sha256 FROM part WHERE item = ? ORDER BY number", (number,))
            self._uploading = number
            return SpoolItem(
                id=number,
                stem=stem,
                path=self._images / file,
                size=size,
                sha256=sha256,
                sidecar=sidecar,
                state=UploadState(state),
                upload_id=upload_id,
                chunks=tuple(UploadedChunk(*part) for part in parts),
            )

    def release_item(self) -> None:
        """Note that no frame is being uploaded."""
        with self._lock:
            self._uploading = None

    def begin_multipart(self, item: SpoolItem, upload_id: str | None) -> None:
        """Record the multipart upload of the image; None: it is gone, and its chunks are void."""
        with self._lock, self._transaction():
            self._db.execute("DELETE FROM part WHERE item = ?", (item.id,))
            self._db.execute("UPDATE item SET upload_id = ? WHERE id = ?", (upload_id, item.id))

    def record_chunk(self, item: SpoolItem, part: UploadedChunk) -> None:
        """Record an acknowledged chunk."""
        with self._lock, self._transaction():
            self._db.execute("INSERT INTO part VALUES(?, ?, ?, ?)", (item.id, part.number, part.etag, part.sha256))

    def mark_image_uploaded(self, item: SpoolItem) -> None:
        """Record that the image is at the target; its sidecar comes next."""
        with self._lock, self._transaction():
            self._db.execute("UPDATE item SET state = 'sidecar' WHERE id = ?", (item.id,))

    def complete(self, item: SpoolItem) -> None:
        """Record that image and sidecar are at the target, and remove the frame from this disk."""
        with self._lock:
            with self._transaction():
                self._db.execute("DELETE FROM item WHERE id = ?", (item.id,))
                self._count("uploaded", "")
            self._totals.counts["uploaded", ""] += 1
            self._uploading = None
            self._remove_row(item.path.name, item.size, item.state)

    def mark_missing(self, item: SpoolItem) -> None:
        """Record that the image was removed or changed by another program."""
        with self._lock:
            with self._transaction():
                self._db.execute("DELETE FROM item WHERE id = ?", (item.id,))
                self._count("dropped", CollectDropReason.MISSING)
            self._totals.counts["dropped", CollectDropReason.MISSING.value] += 1
            self._uploading = None
            self._remove_row(item.path.name, item.size, item.state)

    def set_aside(self, item: SpoolItem) -> None:
        """Set aside a frame that the target refuses: nothing is overwritten there or deleted here; the others go on."""
        with self._lock:
            with self._transaction():
                self._db.execute("UPDATE item SET state = 'aside' WHERE id = ?", (item.id,))
            self._totals.set_aside += 1
            self._uploading = None

    def status(self, *, error: str | None = None) -> SpoolStatus:
        """Return the status of the spool."""
        day = self._today()
        with self._lock:
            sums = self._totals
            counts = sums.counts + self._uncommitted_counts
            return SpoolStatus(
                kept={CollectReason(name): n for (kind, name), n in counts.items() if kind == "kept"},
                dropped={name: n for (kind, name), n in counts.items() if kind == "dropped"},
                uploaded=counts["uploaded", ""],
                waiting=sums.waiting,
                waiting_bytes=sums.waiting_bytes,
                set_aside=sums.set_aside,
                day_bytes=sums.days[day, "all", ""],
                error=error,
            )

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _remove_row(self, file: str, size: int, state: str) -> None:
        self._totals.waiting -= 1
        self._totals.waiting_bytes -= size
        self._totals.set_aside -= state == UploadState.ASIDE
        (self._images / file).unlink(missing_ok=True)

    def _count(self, kind: str, name: str, n: int = 1) -> None:
        self._db.execute(
            "INSERT INTO count VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", (kind, name, n)
        )

    def _record_job(self, job: tuple[int, int]) -> None:
        self._db.execute("INSERT OR REPLACE INTO job VALUES(1, ?, ?)", job)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit on the way out, with what could not be counted before. Raises sqlite3.Error; then nothing changed."""
        late = Counter(self._uncommitted_counts)
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for (kind, name), n in late.items():
                self._count(kind, name, n)
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._totals.counts.update(late)
        self._uncommitted_counts -= late

    def _recover(self) -> None:
        """Remove rows without images and images without rows, then compute the sums."""
        rows = self._db.execute("SELECT id, file, bytes FROM item").fetchall()
        lost = [(number,) for number, file, size in rows if _size(self._images / file) != size]
        if lost:
            with self._transaction():
                self._db.executemany("DELETE FROM item WHERE id = ?", lost)
                self._count("dropped", CollectDropReason.MISSING, len(lost))
        known = {file for (file,) in self._db.execute("SELECT file FROM item")}
        for path in self._images.iterdir():
            if path.name not in known:
                path.unlink()  # written, and not kept yet; or uploaded, and not removed yet
        sums = self._totals
        sums.waiting, sums.waiting_bytes, sums.set_aside = self._db.execute(
            "SELECT count(*), coalesce(sum(bytes), 0), coalesce(sum(state = 'aside'), 0) FROM item"
        ).fetchone()
        sums.counts.update({(kind, name): n for kind, name, n in self._db.execute("SELECT * FROM count")})
        sums.days.update({(day, kind, name): n for day, kind, name, n in self._db.execute("SELECT * FROM day")})

    def _today(self) -> str:
        return datetime.fromtimestamp(self._clock.utc_ns() / NS_PER_S, UTC).date().isoformat()

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._images)
        return disk.f_bavail * disk.f_frsize


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
