"""Writes the table `labels`: the label of each collected frame with the reason of its collection.

Promise: a refresh rewrites the single file of each site, line and day with the latest label of each key, so repeating
it changes nothing and a corrected label replaces the old one. The day is that of the verdict, so queries find both in
the same partition.
"""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.ingest.lake_writer import write_parquet
from pipeline.ingest.table_rows import Partition, Row, format_timestamp, make_row, utc_day

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.cloud.storage import Storage
    from pipeline.datasets.collected_frames import CollectedFrame
    from pipeline.datasets.label_store import Label, LabelHistory


def refresh_labels(book: LabelHistory, kept: Iterable[CollectedFrame], lake: Storage) -> int:
    """Write the labels of the collected frames `kept` to `lake`; returns the number of rows. Raises StorageError.

    Labels of other keys are left out: without the frame its sampling probability is unknown.
    """
    partitions: dict[Partition, list[Row]] = {}
    for frame in kept:
        label = book.latest(frame.key)
        if label is not None:
            found = label_row(label, frame)
            partitions.setdefault(found.partition, []).append(found)
    with tempfile.TemporaryDirectory(prefix="kensa-labels-") as name:
        for number, (partition, rows) in enumerate(partitions.items()):
            for path in write_parquet(
                "labels", [r.to_json_line(with_partition=True) for r in rows], Path(name) / str(number)
            ):
                folder = "/".join(("labels", *(f"{key}={value}" for key, value in partition.partition_keys.items())))
                lake.write(f"{folder}/labels.parquet", path.read_bytes())
    return sum(map(len, partitions.values()))


def label_row(label: Label, frame: CollectedFrame) -> Row:
    """Return the row for the label of a collected frame."""
    verdict, sidecar = frame.verdict, frame.sidecar
    labelled = datetime.fromisoformat(label.labelled_at)
    return make_row(
        Partition("labels", sidecar.site, verdict.origin.line, utc_day(verdict.captured_utc_ns // 1_000)),
        {
            "key": label.key,
            "camera": verdict.origin.camera,
            "boot_epoch": verdict.origin.boot_epoch,
            "seq": verdict.seq,
            "label_class": label.label,
            "is_defect": label.is_defect,
            "source": label.source,
            "labelled_at": format_timestamp(round(labelled.timestamp() * 1e6)),
            "reason": str(sidecar.reason),
            "sample_rate": sidecar.sample_rate,
        },
    )
