"""Writes parts with their truth as a folder of images.

The folder holds `manifest.csv`, `SPLIT/CLASS/NAME.png` and `masks/NAME.png`.

Invariants: images are the camera's ROI; equal (configuration, split, number) give equal files; each part is its own
group, so that no split leaks into another; writing one split again replaces it and leaves the others alone; the
manifest appears last and whole, so that a folder with a manifest is complete.
"""

from __future__ import annotations

import csv
import hashlib
import multiprocessing
import os
import re
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2

from agent.errors import OperatorError
from simulator.line.config import CLASSES, LineConfig
from simulator.line.render import SimulatedLine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.records import Pixels

ImageFormat = Literal["png", "jpg"]

DEFAULT_DEFECT_SHARE = 0.6  # of a training set
_PNG_FLAGS = (  # noise defeats dictionaries and adaptive filters: these settings are as small and twice as fast
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB),
)
_JPG_FLAGS = (cv2.IMWRITE_JPEG_QUALITY, 97)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """One line of the manifest; the column `class` is called `class_name` here."""

    path: str
    split: str
    class_name: str
    binary: str
    mask: str
    kind: str
    difficulty: str
    surface: str
    width: int
    height: int
    group: str
    sha256: str


_COLUMNS = tuple("class" if field.name == "class_name" else field.name for field in fields(ManifestRow))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What a worker process needs to write one part."""

    config: LineConfig
    out_dir: Path
    split: str
    index: int
    image_format: ImageFormat


@lru_cache(maxsize=1)
def _line(config: LineConfig) -> SimulatedLine:
    return SimulatedLine(config)


def _encode(pixels: Pixels, image_format: ImageFormat) -> bytes:
    flags = _PNG_FLAGS if image_format == "png" else _JPG_FLAGS
    _, data = cv2.imencode(f".{image_format}", pixels, list(flags))
    return data.tobytes()


def _write_part(job: _Job) -> ManifestRow:
    line = _line(job.config)
    truth = line.truth(job.index)
    pixels = line.render_roi(job.index)
    name = f"{truth.part_id}.{job.image_format}"
    path = Path(job.split) / truth.class_name / name
    data = _encode(pixels, job.image_format)
    (job.out_dir / path).write_bytes(data)
    mask = ""
    if truth.is_defective:
        mask = f"masks/{truth.part_id}.png"
        (job.out_dir / mask).write_bytes(_encode(line.mask_roi(job.index), "png"))
    return ManifestRow(
        path=path.as_posix(),
        split=job.split,
        class_name=truth.class_name,
        binary="defect" if truth.is_defective else "ok",
        mask=mask,
        kind=truth.kind,
        difficulty=truth.difficulty,
        surface=truth.surface,
        width=pixels.shape[1],
        height=pixels.shape[0],
        group=truth.part_id,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _write_parts(jobs: list[_Job], workers: int) -> Iterator[ManifestRow]:
    """Write the parts, in order, and yield their rows; one worker works in this process."""
    if workers == 1:
        yield from map(_write_part, jobs)
        return
    # A process per core, each with one OpenCV thread, renders faster than one image on all cores.
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.imap(_write_part, jobs, chunksize=8)


def _other_splits(manifest: Path, split: str, seed: int) -> list[dict[str, str]]:
    """Return the manifest's rows of other splits. Raises OperatorError when one of them holds parts of this seed."""
    if not manifest.exists():
        return []
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("split") != split]
    if any(row.get("group", "").startswith(f"S{seed}-") for row in rows):
        raise OperatorError(
            f"{manifest} already holds parts of seed {seed} in another split than {split!r}; "
            f"the same parts in two splits would leak. Give another --seed."
        )
    return rows


def _write_manifest(manifest: Path, rows: list[dict[str, str]]) -> None:
    partial = manifest.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(manifest)


def render_dataset(
    out_dir: Path,
    n: int,
    seed: int,
    split: str,
    *,
    config: LineConfig | None = None,
    image_format: ImageFormat = "png",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[ManifestRow]:
    """Write parts 0 to n-1 of line `seed` as split `split` of the dataset at `out_dir`, and return their rows.

    Without `config` the set is balanced for training: 60 % defective, kinds and surfaces evenly. PNG is lossless; JPEG
    (quality 97) is about twice as fast and four times smaller. `progress(done, n)` is called after every part.
    Raises OperatorError when `split` is no plain name or the folder holds parts of this seed in another split.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", split):
        raise OperatorError(f"split is {split!r}; it must be 1 to 32 letters, digits, '-' or '_', e.g. train")
    config = (config or LineConfig(defect_rate=DEFAULT_DEFECT_SHARE)).model_copy(update={"seed": seed, "pool": 0})
    manifest = out_dir / "manifest.csv"
    kept = _other_splits(manifest, split, seed)
    (out_dir / "masks").mkdir(parents=True, exist_ok=True)
    for class_name in CLASSES:
        (out_dir / split / class_name).mkdir(parents=True, exist_ok=True)
    jobs = [_Job(config=config, out_dir=out_dir, split=split, index=i, image_format=image_format) for i in range(n)]
    rows: list[ManifestRow] = []
    workers = min(workers or os.cpu_count() or 1, max(1, n // 8))
    for row in _write_parts(jobs, workers):
        rows.append(row)
        if progress is not None:
            progress(len(rows), n)
    new = [{"class" if key == "class_name" else key: str(value) for key, value in asdict(row).items()} for row in rows]
    _write_manifest(manifest, kept + new)
    return rows
