"""The live view: one moment of the demo as a screen that fits 80x24 and uses what is more.

Pure: a snapshot in, something rich can print out. Nothing here reads a clock or the agent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from rich.layout import Layout
from rich.table import Table
from rich.text import Text

from agent.records import CameraState, Outcome
from simulator.demos.common.screen_parts import (
    OUTCOME_STYLE,
    WIDE,
    count_text,
    framed_panel,
    grade_rows,
    header,
    label_value_grid,
    latency_rows,
    render_svg,
    verdict_rows,
)
from simulator.demos.common.verdict_metrics import Grade
from simulator.demos.line.release_log import release_panel

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.panel import Panel

    from agent.health.snapshot import AgentSnapshot
    from simulator.demos.common.verdict_metrics import GradedVerdict, VerdictMetrics
    from simulator.demos.line.release_log import ReleaseLog
    from simulator.probes.verdict_subscriber import SubscriberCounts

_ROOMY: Final = 96  # columns from which the table shows what 80 columns have no room for
GRADE_STYLE: Final = {
    Grade.PASSED: "green",
    Grade.CAUGHT: "green",
    Grade.ESCAPE: "bold white on red",
    Grade.FALSE_REJECT: "bold red",
    Grade.REVIEW: "yellow",
    Grade.NOT_INSPECTED: "magenta",
}
_MARK: Final = {
    Grade.PASSED: "✓",
    Grade.CAUGHT: "✓",
    Grade.ESCAPE: "✗",
    Grade.FALSE_REJECT: "✗",
    Grade.REVIEW: "→",
    Grade.NOT_INSPECTED: "?",
}


@dataclass(frozen=True, slots=True)
class LineSnapshot:
    """Everything that the view shows."""

    elapsed_s: float
    seconds: float  # planned
    snapshot: AgentSnapshot
    metrics: VerdictMetrics  # goes on counting
    arrived: int  # verdicts, before the snapshot was taken
    counts: SubscriberCounts
    broker: str  # mosquitto, iotcore or amqtt
    frames_per_s: float
    cores: float  # processor use of this process
    note: str  # what is going on, in a few words
    note_style: str
    release_log: ReleaseLog | None = None  # of the releases that arrive


def screen(moment: LineSnapshot, *, width: int) -> RenderableType:
    """Return the whole screen for a terminal `width` columns wide."""
    layout = Layout()
    releases = [] if moment.release_log is None else [Layout(_releases(moment.release_log), size=6)]
    layout.split_column(
        Layout(
            header(elapsed_s=moment.elapsed_s, seconds=moment.seconds, note=moment.note, style=moment.note_style),
            size=1,
        ),
        Layout(name="tiles", size=6),
        Layout(name="state", size=6),
        *releases,
        Layout(_verdict_table(moment, width=width), name="findings"),
        Layout(_footer(), size=1),
    )
    layout["tiles"].split_row(
        Layout(framed_panel("Line", _cameras(moment))),
        Layout(framed_panel("Verdicts", verdict_rows(moment.metrics))),
        Layout(framed_panel("Against truth", grade_rows(moment.metrics, roomy=width >= WIDE))),
        Layout(framed_panel("Latency", latency_rows(moment.metrics))),
    )
    layout["state"].split_row(
        Layout(framed_panel("No frame is lost", _accounting(moment))),
        Layout(framed_panel("Delivery over MQTT", _delivery(moment))),
        Layout(framed_panel("Model and machine", _machine(moment))),
    )
    return layout


def screen_svg(moment: LineSnapshot, *, width: int = 100, height: int = 30) -> str:
    """Return the screen as an SVG that loads nothing from anywhere."""
    return render_svg(screen(moment, width=width), title="kensa demo", width=width, height=height)


def _releases(log: ReleaseLog) -> Panel:
    return framed_panel(f"Releases for {log.status.inspection}", release_panel(log))


def _footer() -> Text:
    return Text(" Ctrl-C ends the demo early, drains, and writes the report", "grey50")


def _cameras(moment: LineSnapshot) -> Group:
    rows: list[tuple[str, RenderableType]] = [("frames/s", Text(f"{moment.frames_per_s:.1f}", "bold cyan"))]
    for camera in moment.snapshot.cameras[:3]:
        running = camera.status.state is CameraState.RUNNING
        text = Text(f"{camera.status.fps:.1f} ", "bold") if running else Text(f"{camera.status.state} ", "yellow")
        rows.append((camera.camera, text.append("●", "green" if running else "red")))
    return label_value_grid(rows)


def _accounting(moment: LineSnapshot) -> Group:
    cameras = [camera.accounting for camera in moment.snapshot.cameras]
    reasons: dict[str, int] = {}
    for accounting in cameras:
        for reason, number in accounting.dropped.items():
            reasons[reason] = reasons.get(reason, 0) + number
    dropped = sum(reasons.values())
    why = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items())) or "nothing"
    return label_value_grid(
        [
            ("captured", count_text(sum(c.captured for c in cameras), "bold cyan")),
            ("= judged", count_text(sum(c.inspected for c in cameras))),
            ("+ waiting", count_text(sum(c.pending for c in cameras))),
            ("+ dropped", Text(f"{dropped:,}: {why}" if dropped else "0", "bold red" if dropped else "grey50")),
        ]
    )


def _delivery(moment: LineSnapshot) -> Group:
    outbox = moment.snapshot.outbox
    up = moment.snapshot.transport == "up"
    return label_value_grid(
        [
            (moment.broker, Text("up ●" if up else "away ●", "green" if up else "bold red")),
            ("in the outbox", count_text(outbox.verdicts, "bold yellow")),
            ("arrived", count_text(moment.arrived, "bold green")),
            ("duplicates", count_text(moment.counts.duplicates)),
        ]
    )


def _machine(moment: LineSnapshot) -> Group:
    model = next((i.model for i in moment.snapshot.inspections if i.model is not None), None)
    usage = moment.snapshot.process
    name = Text("no usable model", "magenta")
    if model is not None:
        name = Text(f"{model.name} {model.version}", "bold")
    return label_value_grid(
        [
            ("", name),
            ("sha256", Text(f"{model.sha256[:12]}" if model else "-", "grey62")),
            ("trust", Text("trusted", "green") if model and model.trusted else Text("local, unsigned", "yellow")),
            ("uses", Text(f"{moment.cores:.2f} cpu, {usage.rss_bytes / 1e6:.0f} MB", "bold")),
        ]
    )


def _verdict_table(moment: LineSnapshot, *, width: int) -> Panel:
    roomy = width >= _ROOMY
    table = Table.grid(expand=True, padding=(0, 1))
    for _ in range(7 if roomy else 6):
        table.add_column(no_wrap=True, overflow="ellipsis")
    head = ["time", "camera", "part", "inspected", "score", "truth", "result"]
    if not roomy:
        head.remove("camera")
    table.add_row(*(Text(name, "grey50") for name in head))
    for graded in reversed(moment.metrics.recent):
        cells = verdict_cells(graded)
        if not roomy:
            del cells[1]
        table.add_row(*cells)
    return framed_panel("Last findings", table)


def verdict_cells(graded: GradedVerdict) -> list[Text]:
    """Return time, camera, part, class found, score, truth and result of one finding."""
    verdict, truth, judgement = graded.verdict, graded.truth, graded.verdict.judgement
    time = datetime.fromtimestamp(verdict.captured_utc_ns / 1e9, tz=UTC).astimezone()
    filled = round(judgement.score * 6)
    bar = Text("━" * filled, "red" if judgement.outcome is Outcome.DEFECT else "yellow").append(
        "━" * (6 - filled), "grey23"
    )
    real = f"{truth.kind}, {truth.difficulty}" if truth.is_defective else "good"
    result = Text(f"{_MARK[graded.grade]} {graded.grade}", GRADE_STYLE[graded.grade])
    return [
        Text(time.strftime("%H:%M:%S"), "grey62"),
        Text(verdict.origin.camera, "grey62"),
        Text(truth.part_id),
        Text(judgement.class_name or str(judgement.outcome), OUTCOME_STYLE[judgement.outcome]),
        bar.append(f" {judgement.score:.2f}", "default"),
        Text(real, "default" if truth.is_defective else "grey62"),
        result,
    ]


def plain_line(moment: LineSnapshot) -> str:
    """Return one line for an output that is no terminal."""
    tally, snapshot = moment.metrics, moment.snapshot
    dropped = sum(camera.accounting.dropped_total for camera in snapshot.cameras)
    p50, p99 = tally.latency_ms(0.5) or 0.0, tally.latency_ms(0.99) or 0.0
    outcomes = " ".join(f"{o} {tally.outcomes[o]}" for o in Outcome)
    return (
        f"{moment.elapsed_s:5.0f} s  {moment.frames_per_s:.1f} frames/s  {outcomes}  "
        f"escapes {tally.grades[Grade.ESCAPE]}  false rejects {tally.grades[Grade.FALSE_REJECT]}  "
        f"p50 {p50:.1f} ms  p99 {p99:.1f} ms  dropped {dropped}  outbox {snapshot.outbox.verdicts}  "
        f"arrived {tally.delivered}" + _releases_text(moment)
    )


def _releases_text(moment: LineSnapshot) -> str:
    if moment.release_log is None or not moment.release_log.outcomes:
        return ""
    outcome = moment.release_log.outcomes[-1]
    return f"  release {outcome.published.version} {outcome.result}"
