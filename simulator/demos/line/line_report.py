"""The closing report: what happened, for a plant manager, and the same as one JSON object for machines.

`verify` is the demo's own verdict: it lists what is missing, and an empty list is the only success.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agent.counters import quantile_us
from agent.records import Outcome
from simulator.demos.common.shell_commands import shell_command
from simulator.demos.common.verdict_metrics import Grade
from simulator.demos.line import release_log
from simulator.line import DEFECT_KINDS, DIFFICULTIES

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from agent.health.snapshot import AgentSnapshot
    from agent.records import ModelIdentity
    from simulator.demos.common.verdict_metrics import VerdictMetrics
    from simulator.demos.line.release_log import ReleaseLog
    from simulator.probes.verdict_subscriber import SubscriberCounts

_BUCKETS_MS: Final = (1.0, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)  # of the latency histogram


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
        """What judged at the end."""
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
                f"camera {camera.camera}: {accounting.captured} frames captured, but {accounting.inspected} judged and "
                f"{accounting.dropped_total} dropped: {accounting.pending} unaccounted for"
            )
        if unique < accounting.inspected:
            problems.append(
                f"camera {camera.camera}: {accounting.inspected - unique} of {accounting.inspected} verdicts did "
                f"not arrive"
            )
        elif unique > accounting.inspected:
            problems.append(
                f"camera {camera.camera}: {unique} verdicts arrived, only {accounting.inspected} were judged"
            )
    if counts.refused:
        problems.append(f"{counts.refused} messages could not be decoded by the subscriber")
    if counts.gaps:
        problems.append(f"the agent reported {counts.gaps} gaps: verdicts that it had to give up")
    if tally.delivered != counts.unique:
        problems.append(f"the subscriber counted {counts.unique} verdicts, but reported {tally.delivered}")
    return tuple(problems)


def histogram(tally: VerdictMetrics) -> list[tuple[str, int]]:
    """Return (label, verdicts) for each class of latency, from the lowest to the highest that occurred."""
    edges = (0.0, *_BUCKETS_MS, float("inf"))
    counts = [0] * (len(edges) - 1)
    for latency in tally.latencies_us:
        counts[next(i for i in range(len(counts)) if latency < edges[i + 1] * 1_000.0)] += 1
    labels = [f"< {upper:g} ms" if upper != edges[-1] else f">= {_BUCKETS_MS[-1]:g} ms" for upper in edges[1:]]
    filled = [i for i, n in enumerate(counts) if n]
    return [(labels[i], counts[i]) for i in range(filled[0], filled[-1] + 1)] if filled else []


def metric_values(tally: VerdictMetrics) -> dict[str, Any]:
    """Return what the verdicts said, what they are worth, and how soon they came."""
    found, defective = tally.detection_counts()
    return {
        "outcomes": {str(outcome): tally.outcomes[outcome] for outcome in Outcome},
        "defective": defective,
        "found": found,
        "escapes": tally.grades[Grade.ESCAPE],
        "false_rejects": tally.grades[Grade.FALSE_REJECT],
        "set_aside": tally.grades[Grade.REVIEW],
        "found_by_difficulty": {d: list(tally.detection_counts(d)) for d in DIFFICULTIES},
        "latency_p50_ms": _rounded(tally.latency_ms(0.50)),
        "latency_p99_ms": _rounded(tally.latency_ms(0.99)),
        "latency_histogram": dict(histogram(tally)),
    }


def to_json(result: LineResult) -> dict[str, Any]:
    """Return the report as one JSON object."""
    tally, model = result.metrics, result.model
    dropped: dict[str, int] = {}
    for camera in result.snapshot.cameras:
        for reason, number in camera.accounting.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + number
    return {
        "complete": not result.problems,
        "problems": list(result.problems),
        "seconds": round(result.seconds, 3),
        "captured": result.captured,
        "inspected": result.inspected,
        "dropped": result.dropped,
        "dropped_by_reason": dropped,
        "delivered": result.counts.unique,
        "duplicates": result.counts.duplicates,
        "replayed": result.counts.replayed,
        "frames_lost": result.captured - result.dropped - result.counts.unique,
        **metric_values(tally),
        "frames_per_s": round(result.inspected / result.seconds, 2) if result.seconds else 0.0,
        "cpu_cores": round(result.cores, 3),
        "rss_mb": round(result.snapshot.process.rss_bytes / 1e6, 1),
        "broker": result.broker,
        "outage_s": result.outage_s,
        "model": None
        if model is None
        else {"name": model.name, "version": model.version, "sha256": model.sha256, "trusted": model.trusted},
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


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


# --- for a person -----------------------------------------------------------------------------------------------------


def headline(result: LineResult) -> str:
    """Return the result in one line of plain text."""
    found, defective = result.metrics.detection_counts()
    escapes, rejects = (result.metrics.grades[f] for f in (Grade.ESCAPE, Grade.FALSE_REJECT))
    model = result.model
    name = f"{model.name} {model.version}" if model is not None else "no model"
    if result.release_log is not None:
        name += " at the end"  # others judged before it, and beside it in trials
    return (
        f"{result.inspected:,} parts inspected by {name}: {found} of {defective} defective parts found, "
        f"{escapes} escaped, {rejects} good parts rejected"
    )


def closing_report(result: LineResult) -> RenderableType:
    """Return the report for a person."""
    ok = not result.problems
    title = "Every frame is accounted for, every verdict arrived" if ok else "Something is missing"
    body: list[RenderableType] = [_summary(result), Text()]
    if result.release_log is not None:
        body += [
            release_log.accuracy_table(result.release_log),
            Text(),
            release_log.release_table(result.release_log),
            Text(),
        ]
    body += [Text(f"✗ {problem}", "bold red") for problem in result.problems]
    if result.problems:
        body.append(Text())
    tables = Table.grid(expand=True, padding=(0, 1))
    tables.add_column(ratio=1)
    tables.add_column(ratio=1)
    tables.add_row(recall_table(result.metrics), latency_bars(result.metrics))
    body += [tables, Text(), _next_steps(result)]
    style = "green" if ok else "red"
    return Padding(
        Panel(Group(*body), title=f"[bold]{'✓' if ok else '✗'} {title}[/]", border_style=style, padding=(1, 2)),
        (1, 0, 0, 0),
    )


def _summary(result: LineResult) -> Table:
    tally = result.metrics
    found, defective = tally.detection_counts()
    escapes, rejects, aside = (tally.grades[f] for f in (Grade.ESCAPE, Grade.FALSE_REJECT, Grade.REVIEW))
    weak = tally.by_difficulty["weak", Grade.ESCAPE]
    rate = result.inspected / result.seconds if result.seconds else 0.0
    rows = [
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
    table = Table.grid(padding=(0, 2))
    table.add_column(style="grey62", no_wrap=True)
    table.add_column()
    for label, text in rows:
        table.add_row(label, text)
    return table


def _speed(result: LineResult) -> str:
    p50, p99 = result.metrics.latency_ms(0.50), result.metrics.latency_ms(0.99)
    if p50 is None or p99 is None:
        return "nothing was judged"
    return f"half of the decisions within {p50:.1f} ms of the exposure, 99 of 100 within {p99:.1f} ms"


def _model_text(result: LineResult) -> str:
    model = result.model
    if model is None:
        return "no usable model: every part is unknown"
    trust = "" if model.trusted else ", a local release without a signature"
    return f"{model.name} {model.version}, sha256 {model.sha256[:12]}{trust}"


def recall_table(tally: VerdictMetrics) -> Table:
    """Found parts by how hard their defect is to see, and by kind."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_row(Text("Defects found", "bold"), "", "")
    for difficulty in reversed(DIFFICULTIES):
        found, every = tally.detection_counts(difficulty)
        if every:
            table.add_row(Text(difficulty, "grey62"), f"{found} of {every}", _bar(found / every, 8, "green"))
    for kind in DEFECT_KINDS:
        missed = tally.by_kind[kind, Grade.ESCAPE]
        every = missed + tally.by_kind[kind, Grade.CAUGHT] + tally.by_kind[kind, Grade.REVIEW]
        if every:
            label = kind.replace("_2px", ", 2 px wide")
            table.add_row(
                Text(label, "grey62"), f"{every - missed} of {every}", _bar((every - missed) / every, 8, "cyan")
            )
    return table


def latency_bars(tally: VerdictMetrics, *, title: str = "Exposure to decision") -> Table:
    """The latency histogram."""
    classes = histogram(tally)
    top = max((number for _, number in classes), default=1)
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row("", Text(title, "bold"), "")
    for label, number in classes:
        table.add_row(Text(label, "grey62"), _bar(number / top, 12, "cyan"), f"{number:,}")
    return table


def _bar(share: float, width: int, style: str) -> Text:
    eighths = round(share * width * 8)
    bar = "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")
    return Text(bar or ("▏" if share > 0 else ""), style)


def _next_steps(result: LineResult) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="grey62", no_wrap=True)
    table.add_column(overflow="fold")
    for name, path in result.files.items():
        table.add_row(name, Text(str(path), "cyan"))
    for number, (line, what) in enumerate(try_next(result)):
        table.add_row("" if number else "Try next", Text(line, "cyan").append(f"   {what}", "grey62"))
    table.add_row("", Text("docs/config.example.yaml", "cyan").append("   every key, for your own cameras", "grey62"))
    return table


def try_next(result: LineResult) -> list[tuple[str, str]]:
    """Return commands that work as they stand, each with what it shows."""
    lines = [] if result.outage_s else [(shell_command("scripts/demo", "--outage", "5"), "unplug the network for 5 s")]
    kept = [graded for graded in result.metrics.notable if graded.verdict.image is not None]
    if kept and (configuration := result.files.get("Configuration")) is not None:
        picture = configuration.with_name("explained.png")
        given = ("--config", str(configuration), "--out", str(picture))
        line = shell_command("kensa", "explain", kept[-1].verdict.key, *given)
        lines.append((line, "why this part was judged so"))
    return lines
