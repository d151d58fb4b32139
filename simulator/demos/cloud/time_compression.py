"""The plant's data lake in compressed time: ten seconds of the line are a day of the lake.

Messages come through IoT rules, Firehose and its transformation; only where rows are written their times are stretched.
Nothing else of them is changed, and the queries are the plant's own.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from pipeline.analytics.duckdb_engine import DuckDbEngine
from pipeline.analytics.lake_schema import TABLES
from pipeline.analytics.queries import get_query
from pipeline.cloud.storage import open_storage
from pipeline.cycle.triggers.drift_trigger import largest_psi
from pipeline.datasets.collected_frames import scan_frames
from pipeline.datasets.label_store import Label, LabelHistory, LabelStore
from pipeline.ingest.labels_table import refresh_labels
from pipeline.ingest.lake_writer import LakeWriter
from pipeline.ingest.table_rows import Partition, format_timestamp, make_row, utc_day
from pipeline.report.plant_report.plant_data import collect_plant_data
from pipeline.report.plant_report.plant_page import render_plant_report
from simulator.demos.cloud.cloud_account import STREAMS, TRANSFORM
from simulator.demos.cloud.cloud_line import INSPECTION, SITE

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.cloud.storage import Storage
    from pipeline.ingest.table_rows import Row
    from simulator.aws.local_aws import LocalAws

DAY_S: Final = 10.0  # of the line
REFERENCE_DAYS: Final = 2
DRIFT_PSI: Final = 0.25  # population stability index; the stack's own threshold
_FACTOR: Final = 86_400.0 / DAY_S
_BACK: Final = timedelta(days=60)  # the lake's first day, before today: nothing lies in the future
_US: Final = 1_000_000
_FORMAT: Final = "%Y-%m-%d %H:%M:%S.%f"
_TIMES: Final = {
    name: tuple(column.name for column in table.columns if column.type == "TIMESTAMP") for name, table in TABLES.items()
}
_DAY_OF: Final = {"verdicts": "captured_at", "heartbeats": "sent_at", "model_reports": "reported_at"}


class TimeCompression:
    """Times of the line -> times of the lake."""

    def __init__(self, began_utc_s: float) -> None:
        """The story began at `began_utc_s`."""
        first = (datetime.fromtimestamp(began_utc_s, UTC) - _BACK).replace(hour=0, minute=0, second=0, microsecond=0)
        self._began_us = round(began_utc_s * _US)
        self._first_us = round(first.timestamp()) * _US

    def compress(self, utc_us: int) -> int:
        """Microseconds since 1970 UTC, both."""
        return self._first_us + round(max(0, utc_us - self._began_us) * _FACTOR)

    def day(self, at_s: float) -> str:
        """The lake's day at a second of the story."""
        return utc_day(self.compress(self._began_us + round(at_s * _US)))

    def text(self, given: str) -> str:
        """A row's time."""
        return format_timestamp(
            self.compress(round(datetime.strptime(given, _FORMAT).replace(tzinfo=UTC).timestamp() * _US))
        )


class CompressedLake:
    """Any thread."""

    def __init__(self, folder: Path, aws: LocalAws, *, began_utc_s: float) -> None:
        """Write below `folder`."""
        self.folder = folder
        self._aws = aws
        self._compression = TimeCompression(began_utc_s)
        self._writer = LakeWriter(folder, site=SITE)
        self._lock = threading.Lock()
        folder.mkdir(parents=True)

    def deliver(self) -> None:
        """Let Firehose deliver what waits."""
        with self._lock:
            for table in STREAMS:
                done = self._aws.firehose.deliver(f"kensa-{table}", function=TRANSFORM)
                pairs = zip(done.rows, done.partition_keys, strict=True)
                self._writer.add(self._compressed_times(table, found, keys) for found, keys in pairs)
            self._writer.flush()

    def score_drift(self, at_s: float) -> float | None:
        """The scores' drift on the last whole day, by the plant's own query; None while there is nothing to compare."""
        days = int(at_s / DAY_S)
        if days <= REFERENCE_DAYS:
            return None
        given = {
            "last_day": self._compression.day((days - 1) * DAY_S),
            "reference_days": str(REFERENCE_DAYS),
            "bins": "5",  # a day of this lake has a hundred parts
        }
        with self._lock, DuckDbEngine(self.folder) as lake:
            return largest_psi(lake.execute(get_query("score_drift"), given).records())

    def ingest_labels(self, data: Storage, *, refused: str) -> None:
        """Bring the labels into the lake, but for those of the job `refused`."""
        found = scan_frames(data, site=SITE, inspection=INSPECTION)
        believed = (one for one in LabelStore(data).load().all() if not one.source.endswith(f":{refused}"))
        book = LabelHistory.from_labels(map(self._labelled, believed))
        kept = [
            replace(
                one, verdict=replace(one.verdict, captured_utc_ns=self._compression.compress(_capture_us(one)) * 1_000)
            )
            for one in found.frames
        ]
        with self._lock:
            refresh_labels(book, kept, open_storage(self.folder))

    def write_page(self, path: Path) -> None:
        """The plant manager's report."""
        with self._lock, DuckDbEngine(self.folder) as lake:
            path.write_text(render_plant_report(collect_plant_data(lake, {})), encoding="utf-8")

    def _labelled(self, one: Label) -> Label:
        given = datetime.fromisoformat(one.labelled_at)
        at = datetime.fromtimestamp(self._compression.compress(round(given.timestamp() * _US)) / _US, UTC)
        return replace(one, labelled_at=at.strftime("%Y-%m-%dT%H:%M:%SZ"))

    def _compressed_times(self, table: str, found: dict[str, Any], keys: dict[str, str]) -> Row:
        named_ = {**found, **{name: self._compression.text(found[name]) for name in _TIMES[table] if found.get(name)}}
        return make_row(Partition(table, keys["site"], keys["line"], named_[_DAY_OF[table]][:10]), named_)


def _capture_us(one: Any) -> int:
    return int(one.verdict.captured_utc_ns) // 1_000
