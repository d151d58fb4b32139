"""Counts judgements by model, outcome and class, and charts the reject rate of each model.

Promise: memory is bounded (the newest `MAX_CHARTS` models and as many charts); the charts survive a restart, except for
the last `SAVE_S` seconds. A chart belongs to a model under one set of thresholds and one region: any change of what the
model rejects begins a new chart, and going back resumes the old one. Not thread-safe: the monitor serialises.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from agent.durable import replace_durably
from agent.evidence.reject_chart import PARTS_PER_SHIFT, SHIFT_S, ModelCounts, RejectChart, RejectRate
from agent.records import Outcome
from agent.timing.clock import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent.records import Box, DecisionRule, Judgement, ModelIdentity

MAX_CHARTS: Final = 4
SAVE_S: Final = 600.0
NO_JUDGEMENT_PARTS: Final = 20  # consecutive parts without a judgement that raise an alarm
_MAX_FILE_BYTES: Final = 64 * 1024
_log = logging.getLogger(__name__)


def chart_key(identity: ModelIdentity, rule: DecisionRule, roi: Box | None) -> str:
    """Return the identity of a chart: model bytes, thresholds and region decide what is rejected."""
    settings = json.dumps([identity.sha256, sorted(rule.thresholds.items()), rule.unsure_band, roi])
    return hashlib.sha256(settings.encode()).hexdigest()


@dataclass(slots=True)
class _Counts:
    identity: ModelIdentity
    outcomes: dict[str, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)


class OutcomeStatistics:
    """Counts and charts of one inspection."""

    def __init__(self, path: Path | None) -> None:
        """Read the charts of the last run at `path`; None: nothing is saved."""
        self._path = path
        self._models: dict[str, _Counts] = {}  # by sha256, the last used at the end
        self._charts: dict[str, RejectChart] = _read(path)  # by key, likewise
        self._active_key: str | None = None  # key of the active model's chart
        self._unknown_run = 0  # consecutive parts without a judgement
        self._unknown_reason = ""
        self._chart_start: tuple[int, int] = (0, 0)  # (monotonic ns, parts) when the present chart was resumed
        self._saved_ns: int | None = None

    def record_champion(
        self, key: str, identity: ModelIdentity, inspected: Sequence[tuple[str, Judgement]], *, now_ns: int
    ) -> None:
        """Count the active model's raw judgements of a batch, with their cameras, whatever became the verdict."""
        if key != self._active_key:
            self._switch_chart(key, now_ns)
        chart = self._charts[key]
        for camera, judgement in inspected:
            self._count(identity, judgement)
            if judgement.outcome is Outcome.UNKNOWN:  # no judgement: neither a reject nor a pass
                self._unknown_run += 1
                self._unknown_reason = judgement.reason or "no reason given"
                continue
            self._unknown_run = 0
            chart.add(camera, rejected=judgement.outcome is not Outcome.OK)
        began_ns, parts = self._chart_start
        if now_ns > began_ns:
            rate = (chart.parts - parts) * NS_PER_S / (now_ns - began_ns)
            chart.parts_per_shift = max(PARTS_PER_SHIFT, rate * SHIFT_S)

    def record_challenger(self, identity: ModelIdentity, judgements: Sequence[Judgement]) -> None:
        """Count a challenger's judgements; they do not enter a chart."""
        for judgement in judgements:
            self._count(identity, judgement)

    def reset_baseline(self) -> None:
        """Forget the active model's baseline rate and learn it from the parts that follow."""
        if self._active_key is not None:
            self._charts[self._active_key] = RejectChart()
            self._chart_start = (self._chart_start[0], 0)

    def _switch_chart(self, key: str, now_ns: int) -> None:
        chart = self._charts.pop(key, None) or RejectChart()
        self._charts[key] = chart
        while len(self._charts) > MAX_CHARTS:
            del self._charts[next(iter(self._charts))]
        self._active_key, self._unknown_run, self._chart_start = key, 0, (now_ns, chart.parts)

    def _count(self, identity: ModelIdentity, judgement: Judgement) -> None:
        found = self._models.get(identity.sha256)
        if found is None:
            found = self._models[identity.sha256] = _Counts(identity)
            while len(self._models) > MAX_CHARTS:
                del self._models[next(iter(self._models))]
        outcome = judgement.outcome.value
        found.outcomes[outcome] = found.outcomes.get(outcome, 0) + 1
        if judgement.class_name is not None and judgement.outcome is not Outcome.OK:
            found.classes[judgement.class_name] = found.classes.get(judgement.class_name, 0) + 1

    # --- reading ------------------------------------------------------------------------------------------------------

    def model_counts(self) -> tuple[ModelCounts, ...]:
        """Return the counts of the last models of this inspection."""
        return tuple(ModelCounts(m.identity, dict(m.outcomes), dict(m.classes)) for m in self._models.values())

    def reject_rate(self) -> RejectRate | None:
        """Return the active model's reject rate; None before its first part."""
        if self._active_key is None:
            return None
        chart = self._charts[self._active_key]
        parts, rejects = chart.recent
        return RejectRate(chart.state, parts, rejects, chart.baseline)

    @property
    def is_alarmed(self) -> bool:
        """Whether `alarms` returns any."""
        chart = None if self._active_key is None else self._charts[self._active_key]
        return self._unknown_run >= NO_JUDGEMENT_PARTS or (chart is not None and chart.is_out)

    def alarms(self) -> list[str]:
        """Return one sentence for each cause of an alarm."""
        found = []
        if self._unknown_run >= NO_JUDGEMENT_PARTS:
            found.append(f"no judgement on the last {self._unknown_run} parts: {self._unknown_reason}")
        if self._active_key is not None and (text := self._charts[self._active_key].alarm()) is not None:
            found.append(text)
        return found

    # --- persistence --------------------------------------------------------------------------------------------------

    def due_copy(self, now_ns: int, *, now: bool = False) -> bytes | None:
        """Return what must be written to disk, or None while the last copy is recent enough."""
        is_young = self._saved_ns is not None and now_ns - self._saved_ns < SAVE_S * NS_PER_S
        if self._path is None or self._active_key is None or (is_young and not now):
            return None
        self._saved_ns = now_ns
        return json.dumps({"v": 1, "charts": {key: chart.to_json() for key, chart in self._charts.items()}}).encode()

    def write(self, data: bytes) -> None:
        """Write what `due_copy` returned; after a disk error, which is logged, a restart learns the rates anew."""
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_durably(self._path, data)
        except OSError as error:
            _log.warning("the chart of the reject rate cannot be saved to %s: %s", self._path, error.strerror)


def _read(path: Path | None) -> dict[str, RejectChart]:
    """Return the charts of the last run; none, with a line in the log, where the file is invalid."""
    if path is None or not path.exists():
        return {}
    try:
        with path.open("rb") as file:
            tree: dict[str, Any] = json.loads(file.read(_MAX_FILE_BYTES))
        charts = tree["charts"].items()
        return {str(key): RejectChart.from_json(kept) for key, kept in list(charts)[-MAX_CHARTS:]}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        _log.warning("the charts of the reject rate start anew: %s cannot be used (%s)", path, error)
        return {}
