"""Writes every verdict and every dropped frame as a row of a file: `kensa run --results FILE`.

Promise: the file is new (an existing one is refused, never overwritten or continued); each row is whole; recent
verdicts are in the file at once, for a process that reads it meanwhile; memory is bounded. The disk of the file never
stops the line: a write error ends the file after its last whole row, a disk that hangs blocks the workers once for
`_FULL_WAIT_S`; rows that are not in the file are counted, and `error` is the reason.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import queue
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from agent.errors import OperatorError, UsageError
from agent.records import DroppedFrames, Verdict
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from agent.supervision import ThreadSupervisor

COLUMNS: Final = (
    "inspection", "camera", "boot_epoch", "seq", "count", "captured_utc", "part_id", "outcome", "class", "score",
    "reason", "box", "latency_ms", "model", "version", "image", "arm",
)  # fmt: skip
_WAITING: Final = 256  # batches between the workers and the file
_FULL_WAIT_S: Final = 2.0
_CLOSE_S: Final = 10.0
_log = logging.getLogger(__name__)


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    """Return the columns of a verdict, and `scores` by class, which only JSON lines have."""
    origin, judgement = verdict.origin, verdict.judgement
    captured = datetime.fromtimestamp(verdict.captured_utc_ns / NS_PER_S, UTC)
    return {
        "inspection": origin.inspection,
        "camera": origin.camera,
        "boot_epoch": origin.boot_epoch,
        "seq": verdict.seq,
        "count": 1,
        "captured_utc": captured.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "part_id": verdict.part_id,
        "outcome": str(judgement.outcome),
        "class": judgement.class_name,
        "score": round(judgement.score, 6),
        "reason": judgement.reason,
        "box": judgement.box,
        "latency_ms": round(verdict.latency_us / 1_000, 3),
        "model": None if origin.model is None else origin.model.name,
        "version": None if origin.model is None else origin.model.version,
        "image": verdict.image,
        "arm": verdict.arm,
        "scores": dict(zip(origin.classes, (round(score, 6) for score in judgement.scores), strict=False)),
    }


def drop_row(dropped: DroppedFrames, *, inspection: str) -> dict[str, Any]:
    """Return the columns of `count` frames without a verdict; `part_id` is the image's name where it has one."""
    reason = str(dropped.reason) if dropped.detail is None else f"{dropped.reason}: {dropped.detail}"
    known = {
        "inspection": inspection,
        "camera": dropped.camera,
        "seq": dropped.seq,
        "count": dropped.count,
        "part_id": dropped.name,
        "outcome": "dropped",
        "reason": reason,
    }
    return {**dict.fromkeys(COLUMNS), **known, "scores": {}}


def _csv_line(row: Mapping[str, Any]) -> str:
    text = io.StringIO()
    box = row["box"]
    cells = {**row, "box": None if box is None else " ".join(map(str, box))}
    csv.writer(text, lineterminator="\n").writerow([cells[name] for name in COLUMNS])
    return text.getvalue()


def _json_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


_FORMATS: Final[dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]]] = {
    ".csv": (",".join(COLUMNS) + "\n", _csv_line),
    ".jsonl": ("", _json_line),
}


class ResultsFile:
    """Takes verdicts and drops from any thread and writes them in one of its own, `kensa-results`."""

    def __init__(self, path: Path, *, inspections: Mapping[str, str], supervisor: ThreadSupervisor) -> None:
        """Create the file; `inspections` maps each camera to its inspection.

        Raises UsageError for a name that does not end in .csv or .jsonl, OperatorError for a file that exists or cannot
        be created.
        """
        self.path: Final = path
        self.rows = 0  # in the file
        self.lost = 0  # not in the file
        self.error: str | None = None  # why rows are not in the file
        self._inspections = inspections
        self._supervisor = supervisor
        self._waiting: queue.Queue[Sequence[Verdict] | DroppedFrames | None] = queue.Queue(_WAITING)
        self._lock = threading.Lock()
        if path.suffix not in _FORMATS:
            raise UsageError(f"--results {path}: the name must end in {' or '.join(_FORMATS)}")
        head, self._line = _FORMATS[path.suffix]
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError as error:
            raise OperatorError(f"--results {path}: it exists already. Give another name, or move it away") from error
        except OSError as error:
            raise OperatorError(f"--results {path}: it cannot be created: {error.strerror}") from error
        self._size = 0
        self._write(head, 0)
        self._thread = supervisor.thread(self._run, kind="results", on_fault=lambda fault: self._fail(fault.text))
        self._thread.start()

    def add_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """Take verdicts, as the agent's observer."""
        self._put(verdicts, len(verdicts))

    def add_dropped(self, dropped: DroppedFrames) -> None:
        """Take frames that get no verdict; from any thread."""
        self._put(dropped, 1)

    def _put(self, item: Sequence[Verdict] | DroppedFrames, rows: int) -> None:
        try:
            if self.error is None:
                self._waiting.put(item, timeout=_FULL_WAIT_S)
            else:
                self._waiting.put_nowait(item)
        except queue.Full:
            self._lose(rows, f"its disk does not take the rows in time ({_FULL_WAIT_S:g} s)")

    def close(self) -> None:
        """Write what was taken and close the file, within some seconds. Raises OperatorError when rows are missing."""
        try:
            self._waiting.put(None, timeout=_CLOSE_S)
        except queue.Full:
            self._lose(0, "its disk does not take the rows in time")
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            self._lose(self._waiting.qsize(), f"its disk did not answer within {_CLOSE_S:g} s")
        elif self._file >= 0:
            try:
                os.fsync(self._file)
            except OSError as error:
                self._lose(0, f"the disk did not confirm it: {error.strerror}")
            os.close(self._file)
            self._file = -1
        if self.error is not None:
            raise OperatorError(
                f"--results {self.path} is not complete: {self.lost} rows are missing, {self.rows} are in it: "
                f"{self.error}. Free disk space or choose another disk; the line and its outbox went on"
            )

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        is_open = True
        while is_open:
            items = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(items) < _WAITING:
                    items.append(self._waiting.get_nowait())
            is_open = None not in items
            lines = [self._line(row) for item in items if item is not None for row in self._rows(item)]
            self._write("".join(lines), len(lines))

    def _rows(self, item: Sequence[Verdict] | DroppedFrames) -> list[dict[str, Any]]:
        if isinstance(item, DroppedFrames):
            return [drop_row(item, inspection=self._inspections.get(item.camera, ""))]
        return [verdict_row(verdict) for verdict in item]

    def _write(self, text: str, rows: int) -> None:
        """Write all rows; after an error none of them, and none ever again."""
        if self._file < 0:
            self._lose(rows, self.error or "it is closed")
            return
        data = memoryview(text.encode("utf-8", "replace"))
        size = len(data)
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            self._lose(rows, f"the disk refuses it: {error.strerror}")
            with contextlib.suppress(OSError):  # where even this fails a partial row remains
                os.ftruncate(self._file, self._size)
            os.close(self._file)
            self._file = -1
            return
        self._size += size
        self.rows += rows

    def _lose(self, rows: int, reason: str) -> None:
        with self._lock:
            is_new = self.error is None
            self.error = self.error or reason
            self.lost += rows
        if rows:
            self._supervisor.losses.count("results_rows", rows)
        if is_new:
            _log.error("--results %s is not complete: %s; the line goes on", self.path, reason)

    def _fail(self, text: str) -> None:
        self._lose(0, f"writing met a bug: {text}")
