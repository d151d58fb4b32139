"""Converts a message to flat rows: one for each verdict of an envelope or camera of a heartbeat.

Pure. `agent.wire` validates every message as hostile input: the result is MessageError, or rows that the tables can
hold. The rows of a message share one partition, whose day is that of the earliest row, so the rows of an envelope stay
together across midnight.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from agent import wire
from agent.errors import MessageError
from agent.records import DropReason
from agent.wire.codec import checked_name
from pipeline.ingest.table_rows import Partition, Row, Value, format_timestamp, make_row, utc_day

if TYPE_CHECKING:
    from agent.records import Verdict
    from agent.wire import CameraHealth, Gap, Heartbeat, InspectionHealth, ModelReport
    from agent.wire.model_report import ReleaseOnWire

_LATEST_US: Final = 4_102_444_800_000_000  # 2100: a device with a later clock is wrong
_EARLIEST_US: Final = 1_420_070_400_000_000  # 2015


def message_to_rows(message: bytes, *, site: str) -> tuple[Row, ...]:
    """Return the rows of one message from a device of `site`. Raises MessageError for an invalid message."""
    checked_name("site", site)
    found = wire.decode(message)
    match found:
        case wire.DecodedVerdicts():
            return _verdicts(found, site)
        case wire.Gap():
            return (_gap(found, site),)
        case wire.Heartbeat():
            return _heartbeat(found, site)
        case wire.ModelReport():
            return (_report(found, site),)
        case wire.StatusMessage() | wire.Probe():
            return ()  # the broker holds the newest status, and a probe carries no data of the line


def _partition(table: str, site: str, line: str, utc_us: int) -> Partition:
    if not _EARLIEST_US <= utc_us < _LATEST_US:
        raise MessageError(f"A message of {line} has the time {utc_us} µs: it must lie in 2015 to 2099. Set the clock.")
    return Partition(table, site, line, utc_day(utc_us))


def _verdicts(delivery: wire.DecodedVerdicts, site: str) -> tuple[Row, ...]:
    times = [verdict.captured_utc_ns // 1_000 for verdict in delivery.verdicts]
    line = delivery.verdicts[0].origin.line
    partition = _partition("verdicts", site, line, min(times))
    _partition("verdicts", site, line, max(times))
    return tuple(_verdict(partition, verdict, replay=delivery.replay) for verdict in delivery.verdicts)


def _verdict(partition: Partition, verdict: Verdict, *, replay: bool) -> Row:
    origin, judgement, model = verdict.origin, verdict.judgement, verdict.origin.model
    named: dict[str, Value] = {
        "thing": origin.thing,
        "camera": origin.camera,
        "inspection": origin.inspection,
        "boot_epoch": origin.boot_epoch,
        "seq": verdict.seq,
        "key": verdict.key,
        "captured_at": format_timestamp(verdict.captured_utc_ns // 1_000),
        "outcome": str(judgement.outcome),
        "class": judgement.class_name,
        "score": judgement.score,
        "latency_us": verdict.latency_us,
        "part_id": verdict.part_id,
        "arm": verdict.arm,
        "challenger_outcome": None if verdict.challenger_outcome is None else str(verdict.challenger_outcome),
        "challenger_sha256": verdict.challenger_sha256,
        "replay": replay,
        "image": verdict.image,
        "reason": judgement.reason,
        "preprocess_digest": origin.preprocess_digest,
        "config_digest": origin.config_digest,
    }
    if model is not None:
        named |= {
            "model_name": model.name,
            "model_version": model.version,
            "model_sha256": model.sha256,
            "model_counter": model.counter,
            "model_trusted": model.trusted,
        }
    if judgement.box is not None:
        named |= dict(zip(("box_x", "box_y", "box_width", "box_height"), judgement.box, strict=True))
    return make_row(partition, named)


def _gap(gap: Gap, site: str) -> Row:
    partition = _partition("gaps", site, gap.line, gap.lost_utc_us)
    edges = [edge for pair in gap.ranges for edge in pair]
    named: dict[str, Value] = {
        "thing": gap.thing,
        "camera": gap.camera,
        "inspection": gap.inspection,
        "boot_epoch": gap.boot_epoch,
        "lost_at": format_timestamp(gap.lost_utc_us),
        "reason": str(gap.reason),
        "lost": sum(gap.counts.values()),
        "first_seq": edges[0] if edges else None,
        "last_seq": edges[-1] if edges else None,
        "exact": gap.exact,
    }
    return make_row(partition, named)


def _heartbeat(heartbeat: Heartbeat, site: str) -> tuple[Row, ...]:
    partition = _partition("heartbeats", site, heartbeat.line, heartbeat.utc_us)
    models = {health.inspection: health for health in heartbeat.inspections}
    shared: dict[str, Value] = {
        "thing": heartbeat.thing,
        "boot_epoch": heartbeat.boot_epoch,
        "sent_at": format_timestamp(heartbeat.utc_us),
        "uptime_s": heartbeat.uptime_s,
        "agent_version": heartbeat.agent_version,
        "transport": heartbeat.transport,
        "latency_p50_us": heartbeat.latency_p50_us,
        "latency_p99_us": heartbeat.latency_p99_us,
        "cpu": heartbeat.cpu,
        "rss_bytes": heartbeat.rss_bytes,
        "temperature_c": heartbeat.temperature_c,
        "faults": heartbeat.faults,
        "frames_not_recorded": heartbeat.frames_not_recorded,
        "outbox_rows": heartbeat.outbox.rows,
        "outbox_verdicts": heartbeat.outbox.verdicts,
        "outbox_oldest_age_s": heartbeat.outbox.oldest_age_s,
        "outbox_evicted": heartbeat.outbox.evicted,
        "outbox_damaged": heartbeat.outbox.damaged,
    }
    return tuple(
        make_row(partition, shared | _camera(camera) | _model(models.get(camera.inspection)))
        for camera in heartbeat.cameras
    )


def _camera(camera: CameraHealth) -> dict[str, Value]:
    return {
        "camera": camera.camera,
        "inspection": camera.inspection,
        "state": str(camera.state),
        "fps": camera.fps,
        "captured": camera.captured,
        "inspected": camera.inspected,
        "pending": camera.pending,
        "dropped": sum(camera.dropped.values()),
        **{f"dropped_{reason}": camera.dropped.get(reason, 0) for reason in DropReason},
        "error": camera.error,
    }


def _model(health: InspectionHealth | None) -> dict[str, Value]:
    if health is None:
        return {}
    return {
        "model_name": health.model,
        "model_version": health.version,
        "model_sha256": health.sha256,
        "model_trusted": health.trusted,
        "model_state": health.state,
        "candidate": health.candidate,
        "alarm": health.alarm,
    }


def _report(report: ModelReport, site: str) -> Row:
    partition = _partition("model_reports", site, report.line, report.utc_us)
    in_range = _EARLIEST_US <= report.since_utc_us < _LATEST_US
    named: dict[str, Value] = {
        "thing": report.thing,
        "inspection": report.inspection,
        "boot_epoch": report.boot_epoch,
        "reported_at": format_timestamp(report.utc_us),
        "state": report.state,
        "since_at": format_timestamp(report.since_utc_us) if in_range else None,
        "share": report.share,
        "alarm": report.alarm,
        "progress": json.dumps(dict(report.progress), sort_keys=True, separators=(",", ":")),
        **_release("active", report.active, "name", "version", "counter", "digest", "sha256"),
        **_release("previous", report.previous, "name", "version", "sha256"),
        **_release("candidate", report.candidate, "name", "version", "counter", "digest", "sha256"),
        **_release("refused", report.refused, "name", "version", "digest"),
    }
    if report.desired is not None:
        named |= {
            "desired_release": report.desired.release,
            "desired_mode": report.desired.mode,
            "desired_source": report.desired.source,
        }
    if report.refusal is not None:
        named |= {
            "refusal_gate": str(report.refusal.gate),
            "refusal_reason": report.refusal.reason,
            "refusal_text": report.refusal.text,
        }
    return make_row(partition, named)


def _release(prefix: str, release: ReleaseOnWire | None, *fields: str) -> dict[str, Value]:
    if release is None:
        return {}
    values: dict[str, Value] = {
        "name": release.name,
        "version": release.version,
        "counter": release.counter,
        "digest": release.digest,
        "sha256": release.model_sha256,
    }
    return {f"{prefix}_{field}": values[field] for field in fields}
