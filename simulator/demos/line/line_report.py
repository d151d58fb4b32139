"""The closing report, for a plant manager and as one JSON object for machines.

`verify` is the demo's own verdict: it lists what is missing, and an empty list is the only success.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.text import Text

from agent.counters import quantile_us
from simulator.demos.common.report_parts import (
    closing_panel,
    delivery_values,
    label_text_grid,
    latency_bars,
    metric_values,
    model_values,
    next_steps,
    outcome_values,
    recall_table,
    two_columns,
)
from simulator.demos.common.shell_commands import shell_command
from simulator.demos.common.verdict_metrics import Grade
from simulator.demos.line import release_log

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from agent.health.snapshot import AgentSnapshot
    from agent.records import ModelIdentity
    from simulator.demos.common.verdict_metrics import VerdictMetrics
    from simulator.demos.line.release_log import ReleaseLog
    from simulator.probes.verdict_subscriber import SubscriberCounts


@dataclass(frozen=True, slots=True)
class LineResult:
    """A demo that has ended: taken after the drain."""

    seconds: float  # that frames were taken
    broker: str
    outage_s: float
    snapshot: AgentSnapshot
    metrics: VerdictMetrics
    counts: SubscriberCounts
    cores: float  # mean processor use of the process, the simulated line and the view included
    problems: tuple[str, ...] = ()
    release_log: ReleaseLog | None = None  # of the releases that arrived
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def model(self) -> ModelIdentity | None:
        """What inspected at the end."""
        return next((i.model for i in self.snapshot.inspections if i.model is not None), None)

    @property
    def captured(self) -> int:
        """Frames that the cameras delivered."""
        return sum(camera.accounting.captured for camera in self.snapshot.cameras)

    @property
    def inspected(self) -> int:
        """Frames that got a verdict."""
        return sum(camera.accounting.inspected for camera in self.snapshot.cameras)

    @property
    def dropped(self) -> int:
        """Frames that got none, each counted under a reason."""
        return sum(camera.accounting.dropped_total for camera in self.snapshot.cameras)


def verify(snapshot: AgentSnapshot, tally: VerdictMetrics, counts: SubscriberCounts) -> tuple[str, ...]:
    """Return what is missing, one sentence each; captured = inspected + dropped, and each verdict arrived once."""
    problems: list[str] = []
    for camera in snapshot.cameras:
        accounting, arrived = camera.accounting, counts.cameras.get(camera.camera)
        unique = arrived.unique if arrived is not None else 0
        if accounting.pending:
            problems.append(
                f"camera {camera.camera}: {accounting.captured} frames captured, but {accounting.inspected} inspected "
                f"and {accounting.dropped_total} dropped: {accounting.pending} unaccounted for"
            )
        if unique < accounting.inspected:
            problems.append(
                f"camera {camera.camera}: {accounting.inspected - unique} of {accounting.inspected} verdicts did "
                f"not arrive"
            )
        elif unique > accounting.inspected:
            problems.append(
                f"camera {camera.camera}: {unique} verdicts arrived, only {accounting.inspected} were inspected"
            )
    if counts.refused:
        problems.append(f"{counts.refused} messages could not be decoded by the subscriber")
    if counts.gaps:
        problems.append(f"the agent reported {counts.gaps} gaps: verdicts that it had to give up")
    if tally.delivered != counts.unique:
        problems.append(f"the subscriber counted {counts.unique} verdicts, but reported {tally.delivered}")
    return tuple(problems)


def to_json(result: LineResult) -> dict[str, Any]:
    """Return the report as one JSON object."""
    tally, model = result.metrics, result.model
    dropped: dict[str, int] = {}
    for camera in result.snapshot.cameras:
        for reason, number in camera.accounting.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + number
    return {
        **outcome_values(result.problems, result.seconds),
        "captured": result.captured,
        "inspected": result.inspected,
        "dropped": result.dropped,
        "dropped_by_reason": dropped,
        **delivery_values(result.counts),
        "frames_lost": result.captured - result.dropped - result.counts.unique,
        **metric_values(tally),
        "frames_per_s": round(result.inspected / result.seconds, 2) if result.seconds else 0.0,
        "cpu_cores": round(result.cores, 3),
        "rss_mb": round(result.snapshot.process.rss_bytes / 1e6, 1),
        "broker": result.broker,
        "outage_s": result.outage_s,
        "model": None
        if model is None
        else model_values(model.name, model.version, model.sha256, trusted=model.trusted),
        "cameras": {
            camera.camera: {
                "captured": camera.accounting.captured,
                "inspected": camera.accounting.inspected,
                "dropped": camera.accounting.dropped,
                "latency_p99_us": quantile_us(camera.latency, 0.99),
            }
            for camera in result.snapshot.cameras
        },
        "updates": None if result.release_log is None else release_log.to_json(result.release_log),
        "try_next": [line for line, _ in try_next(result)],
        "files": {name: str(path) for name, path in result.files.items()},
    }


# --- for a person -----------------------------------------------------------------------------------------------------


def headline(result: LineResult) -> str:
    """Return the result in one line of plain text."""
    found, defective = result.metrics.detection_counts()
    escapes, rejects = (result.metrics.grades[f] for f in (Grade.ESCAPE, Grade.FALSE_REJECT))
    model = result.model
    name = f"{model.name} {model.version}" if model is not None else "no model"
    if result.release_log is not None:
        name += " at the end"  # others inspected before it, and beside it in trials
    return (
        f"{result.inspected:,} parts inspected by {name}: {found} of {defective} defective parts found, "
        f"{escapes} escaped, {rejects} good parts rejected"
    )


def closing_report(result: LineResult) -> RenderableType:
    """Return the report for a person."""
    log = result.release_log
    body: list[RenderableType] = [_summary(result), Text()]
    if log is not None:
        body += [release_log.accuracy_table(log), Text(), release_log.release_table(log), Text()]
    tables = two_columns(recall_table(result.metrics), latency_bars(result.metrics))
    steps = [*try_next(result), ("docs/config.example.yaml", "every key, for your own cameras")]
    last: list[RenderableType] = [tables, Text(), next_steps(result.files, steps)]
    return closing_panel("Every frame is accounted for, every verdict arrived", body, last, result.problems)


def _summary(result: LineResult) -> RenderableType:
    tally = result.metrics
    found, defective = tally.detection_counts()
    escapes, rejects, aside = (tally.grades[f] for f in (Grade.ESCAPE, Grade.FALSE_REJECT, Grade.REVIEW))
    weak = tally.by_difficulty["weak", Grade.ESCAPE]
    rate = result.inspected / result.seconds if result.seconds else 0.0
    rows: list[tuple[str, RenderableType]] = [
        ("Parts", f"{result.inspected:,} inspected in {result.seconds:.0f} s, {rate:.1f} a second"),
        (
            "Defects",
            f"{found} of {defective} defective parts found; {escapes} escaped"
            + (f" ({weak} of them barely visible)" if weak else ""),
        ),
        ("Good parts", f"{rejects} rejected by mistake; {aside} parts were set aside for a person to look at"),
        ("Speed", _speed(result)),
        (
            "Delivery",
            f"{result.counts.unique:,} of {result.inspected:,} verdicts arrived over MQTT ({result.broker}), "
            f"{result.counts.duplicates} twice; {result.dropped} frames dropped"
            + (
                f"; {result.counts.replayed} waited while the network was away for {result.outage_s:g} s"
                if result.outage_s
                else ""
            ),
        ),
        ("Model", _model_text(result)),
        (
            "Machine",
            f"{result.cores:.2f} processor cores, {result.snapshot.process.rss_bytes / 1e6:.0f} MB with line and view",
        ),
    ]
    return label_text_grid(rows)


def _speed(result: LineResult) -> str:
    p50, p99 = result.metrics.latency_ms(0.50), result.metrics.latency_ms(0.99)
    if p50 is None or p99 is None:
        return "nothing was inspected"
    return f"half of the decisions within {p50:.1f} ms of the exposure, 99 of 100 within {p99:.1f} ms"


def _model_text(result: LineResult) -> str:
    model = result.model
    if model is None:
        return "no usable model: every part is unknown"
    trust = "" if model.trusted else ", a local release without a signature"
    return f"{model.name} {model.version}, sha256 {model.sha256[:12]}{trust}"


def try_next(result: LineResult) -> list[tuple[str, str]]:
    """Return commands that work as they stand, each with what it shows."""
    lines = [] if result.outage_s else [(shell_command("scripts/demo", "--outage", "5"), "unplug the network for 5 s")]
    kept = [graded for graded in result.metrics.notable if graded.verdict.image is not None]
    if kept and (configuration := result.files.get("Configuration")) is not None:
        picture = configuration.with_name("explained.png")
        given = ("--config", str(configuration), "--out", str(picture))
        line = shell_command("kensa", "explain", kept[-1].verdict.key, *given)
        lines.append((line, "why this part got this verdict"))
    return lines
