"""Labels as rows of the table `labels`: what people said, beside how the frame came to be collected."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pipeline.ingest.rows import Place, Row, day_of, row, timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pipeline.datasets.collected import Kept
    from pipeline.datasets.labels import Label


def label_rows(labels: Iterable[Label], kept: Mapping[str, Kept]) -> Iterator[Row]:
    """Yield a row for each label whose frame is in `kept` (by the verdict's key); others have no day and are left out.

    The row's day is that of the verdict, so that queries find both in the same partition.
    """
    for label in labels:
        frame = kept.get(label.key)
        if frame is None:
            continue
        verdict = frame.verdict
        place = Place("labels", frame.sidecar.site, verdict.origin.line, day_of(verdict.captured_utc_ns // 1_000))
        labelled = datetime.fromisoformat(label.labelled_at)
        yield row(
            place,
            {
                "key": label.key,
                "camera": verdict.origin.camera,
                "boot_epoch": verdict.origin.boot_epoch,
                "seq": verdict.seq,
                "label_class": label.label,
                "is_defect": label.is_defect,
                "source": label.source,
                "labelled_at": timestamp(round(labelled.timestamp() * 1e6)),
                "reason": str(frame.sidecar.reason),
                "sample_rate": frame.sidecar.sample_rate,
            },
        )
