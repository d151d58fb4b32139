"""Counts the verdicts of a run for the table that `kensa run` prints when finite cameras end."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Final

from agent.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.records import DroppedFrames, Verdict

_ORDER: Final = (*map(str, (Outcome.OK, Outcome.DEFECT, Outcome.UNSURE, Outcome.UNKNOWN)), "dropped")
_MAX_REASONS: Final = 24  # of one camera that are counted separately
_REASON_CHARS: Final = 40
_OTHER: Final = "other reasons"


class RunSummary:
    """Counts verdicts and drops; memory is bounded by the number of cameras, classes and kinds of reasons."""

    def __init__(self, inspections: Mapping[str, str]) -> None:
        """`inspections` maps each camera to its inspection."""
        self._inspections = inspections
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[tuple[str, str]]] = {camera: Counter() for camera in inspections}

    def add_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """Count verdicts, as the agent's observer."""
        with self._lock:
            for verdict in verdicts:
                judgement = verdict.judgement
                counts = self._counts[verdict.origin.camera]
                outcome = str(judgement.outcome)
                counts[outcome, judgement.class_name or self._kind(counts, outcome, judgement.reason)] += 1

    def add_dropped(self, dropped: DroppedFrames) -> None:
        """Count frames that get no verdict."""
        with self._lock:
            self._counts[dropped.camera]["dropped", str(dropped.reason)] += dropped.count

    @staticmethod
    def _kind(counts: Counter[tuple[str, str]], outcome: str, reason: str | None) -> str:
        """Return the reason without its details."""
        kind = (reason or "").split(":", 1)[0][:_REASON_CHARS]
        return kind if (outcome, kind) in counts or len(counts) < _MAX_REASONS else _OTHER

    def text(self) -> str:
        """Return the table: a row for each camera, outcome and class (of `unknown` and `dropped`: the reason)."""
        with self._lock:
            counts = {camera: dict(found) for camera, found in self._counts.items()}
        rows: list[tuple[str, ...]] = [("inspection", "camera", "outcome", "class or reason", "frames", "share")]
        for camera, found in counts.items():
            total = sum(found.values())
            for (outcome, what), count in sorted(found.items(), key=_camera_of):
                rows.append((self._inspections[camera], camera, outcome, what, f"{count:,}", f"{count / total:.2%}"))
            rows.append((self._inspections[camera], camera, "all", "", f"{total:,}", ""))
        return _aligned(rows)


def _camera_of(item: tuple[tuple[str, str], int]) -> tuple[int, int, str]:
    (outcome, what), count = item
    return _ORDER.index(outcome), -count, what


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if index >= len(row) - 2 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
