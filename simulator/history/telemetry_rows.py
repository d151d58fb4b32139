"""Heartbeats, gaps and release reports of a line's day, as SQL over the table `parts`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipeline.analytics.lake_schema import TABLES
from simulator.history.part_rows import quoted
from simulator.history.timeline import (
    BAD,
    BETTER,
    CAMERAS,
    CANARY,
    EPOCH_DAYS,
    FADING_CAMERA,
    MODEL,
    ROBUST,
    TRIAL_DAYS,
    release_day,
    thing_name,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulator.history.timeline import HistorySettings, LineDay, ModelVersion

_HEARTBEATS: Final = 96  # a day, one each 15 minutes


def _select(table: str, values: dict[str, str], source: str) -> str:
    """A SELECT of all columns of `table`: the given expressions, NULL for the others."""
    columns = ", ".join(
        f"CAST({values.get(column.name, 'NULL')} AS {column.type}) AS {column.name}" for column in TABLES[table].columns
    )
    return f"SELECT {columns} {source}"


def gaps_sql() -> str:
    """One gap message for each camera that lost something."""
    values = {
        "thing": "any_value(thing)",
        "camera": "camera",
        "inspection": "'surface'",
        "boot_epoch": "any_value(boot_epoch)",
        "lost_at": "max(captured_at)",
        "reason": "'evicted'",
        "lost": "count(*)",
        "first_seq": "min(seq)",
        "last_seq": "max(seq)",
        "exact": "true",
    }
    return _select("gaps", values, "FROM parts WHERE is_lost AND NOT is_dropped GROUP BY camera")


@dataclass(frozen=True, slots=True)
class FrameCounts:
    """A camera's frames since the agent's start."""

    captured: int
    dropped: int


def heartbeats_sql(shift: LineDay, before: Mapping[str, FrameCounts]) -> str:
    """One row for each camera and quarter of an hour; `before` are the frames of the days before this one."""
    things = " ".join(f"WHEN {quoted(c)} THEN {quoted(thing_name(shift.line, c))}" for c in CAMERAS)
    fading = f"CASE WHEN camera = {quoted(FADING_CAMERA)} THEN {40 * shift.drift:.3f} ELSE 0 END"
    values = {
        "thing": f"CASE camera {things} END",
        "camera": "camera",
        "inspection": "'surface'",
        "boot_epoch": str(shift.boot_epoch),
        "sent_at": f"TIMESTAMP {quoted(f'{shift.day:%Y-%m-%d} 00:00:00')} + to_minutes(n * 15)",
        "uptime_s": f"{(shift.index % EPOCH_DAYS) * 86_400} + n * 900",
        "agent_version": "'0.5.0'",
        "transport": "CASE WHEN hash(n, camera) % 200 = 0 THEN 'down' ELSE 'up' END",
        "state": "CASE WHEN hash(camera, n) % 300 = 0 THEN 'stalled' ELSE 'running' END",
        "fps": f"30.0 - {fading} - (hash(n, camera, 1) % 100) / 200.0",
        "captured": "captured",
        "inspected": "captured - dropped",
        "pending": "0",
        "dropped": "dropped",
        "dropped_overrun": "dropped",
        "model_name": quoted(MODEL),
        "model_version": quoted(shift.model.version),
        "model_sha256": quoted(shift.model.sha256),
        "model_trusted": "true",
        "latency_p50_us": str(shift.line.latency_us),
        "latency_p99_us": str(int(shift.line.latency_us * 1.9)),
        "cpu": "0.2 + (hash(n) % 100) / 1000.0",
        "rss_bytes": "105000000",
        "temperature_c": "48 + 8 * sin(n / 15.0)",
        "outbox_verdicts": "0",
    }
    return _select("heartbeats", values, f"FROM ({_cumulative_sql(before)})")


def _cumulative_sql(before: Mapping[str, FrameCounts]) -> str:
    """Frames of each camera up to each quarter `n` of the day."""
    starts = ", ".join(f"({quoted(name)}, {c.captured}, {c.dropped})" for name, c in before.items())
    quarter = "1 + (hour(captured_at) * 60 + minute(captured_at)) // 15"
    return f"""
WITH counted AS (
  SELECT camera, {quarter} AS n, count(*) AS captured, count_if(is_dropped) AS dropped FROM parts GROUP BY ALL
)
SELECT s.camera, r.n,
  s.captured + sum(coalesce(c.captured, 0)) OVER (PARTITION BY s.camera ORDER BY r.n) AS captured,
  s.dropped + sum(coalesce(c.dropped, 0)) OVER (PARTITION BY s.camera ORDER BY r.n) AS dropped
FROM range({_HEARTBEATS}) AS r(n) CROSS JOIN (VALUES {starts}) AS s(camera, captured, dropped)
LEFT JOIN counted AS c ON c.camera = s.camera AND c.n = r.n"""  # noqa: S608 - of the simulator's own numbers and names


@dataclass(frozen=True, slots=True)
class _StateReport:
    """A change of state that a device reports."""

    state: str
    model: ModelVersion  # that inspects
    candidate: ModelVersion | None = None
    share: float = 0.0
    refusal: str | None = None  # a stable code
    hour: int = 6


def model_reports_sql(shift: LineDay, settings: HistorySettings) -> str | None:
    """The reports of this day's rollouts; None where nothing happened."""
    steps = list(_state_reports(shift, settings))
    if not steps:
        return None
    devices = sorted({thing_name(shift.line, camera) for camera in CAMERAS})
    rows = [_report(shift, device, step) for device in devices for step in steps]
    return " UNION ALL ".join(rows)


def _state_reports(shift: LineDay, settings: HistorySettings) -> list[_StateReport]:
    model = shift.model
    for candidate in (BETTER, ROBUST):
        start = release_day(settings, shift.line, candidate)
        if shift.index == start and start > 0:
            return [_StateReport("committed", candidate), _StateReport("idle", candidate, hour=7)]
        if shift.index == max(0, start - TRIAL_DAYS) and shift.challenger is candidate:
            return [
                _StateReport("fetching", model, candidate, hour=4),
                _StateReport("selftest", model, candidate, hour=5),
                _StateReport("shadow", model, candidate),
                _StateReport("trial", model, candidate, share=0.5, hour=7),
            ]
    if shift.line.name == CANARY.name and shift.challenger is BAD:
        return [
            _StateReport("trial", model, BAD, share=0.5),
            _StateReport("rolling_back", model, BAD, refusal="rejects_more", hour=21),
            _StateReport("idle", model, refusal="rejects_more", hour=22),
        ]
    return []


def _report(shift: LineDay, device: str, step: _StateReport) -> str:
    at = f"TIMESTAMP {quoted(f'{shift.day:%Y-%m-%d} {step.hour:02d}:00:00')}"
    values = {
        "thing": quoted(device),
        "inspection": "'surface'",
        "boot_epoch": str(shift.boot_epoch),
        "reported_at": at,
        "state": quoted(step.state),
        "since_at": at,
        "active_name": quoted(MODEL),
        "active_version": quoted(step.model.version),
        "active_counter": str(step.model.counter),
        "active_sha256": quoted(step.model.sha256),
        "share": str(step.share),
        "progress": "'{}'",
    }
    if step.candidate is not None:
        values |= {
            "candidate_name": quoted(MODEL),
            "candidate_version": quoted(step.candidate.version),
            "candidate_counter": str(step.candidate.counter),
            "candidate_sha256": quoted(step.candidate.sha256),
        }
    if step.refusal is not None:
        refused = {"refused_name": quoted(MODEL), "refused_version": quoted(BAD.version)}
        values |= {"refusal_gate": "'verdicts'", "refusal_reason": quoted(step.refusal), **refused}
        values["refusal_text"] = "'the candidate rejects more parts than the limit allows'"
    return _select("model_reports", values, "")
