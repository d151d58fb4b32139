"""The live view: one moment of the demo as a screen that fits 80x24 and uses what is more.

Pure: a `Moment` in, something rich can print out. Nothing here reads a clock or the agent.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.layout import Layout
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agent.records import CameraState, Outcome
from simulator.demo.chronicle import panel
from simulator.demo.tally import Finding

if TYPE_CHECKING:
    from rich.console import RenderableType

    from agent.health.snapshot import Snapshot
    from simulator.demo.chronicle import Chronicle
    from simulator.demo.tally import Graded, Tally
    from simulator.subscriber import Counts

_BARS: Final = "▁▂▃▄▅▆▇█"
_ROOMY: Final = 96  # columns from which the table shows what 80 columns have no room for
_WIDE: Final = 112  # from which a tile has room for a remark beside a number
OUTCOME_STYLE: Final = {
    Outcome.OK: "green",
    Outcome.DEFECT: "bold red",
    Outcome.UNSURE: "yellow",
    Outcome.UNKNOWN: "magenta",
}
FINDING_STYLE: Final = {
    Finding.PASSED: "green",
    Finding.CAUGHT: "green",
    Finding.ESCAPE: "bold white on red",
    Finding.FALSE_REJECT: "bold red",
    Finding.ASIDE: "yellow",
    Finding.UNJUDGED: "magenta",
}
_MARK: Final = {
    Finding.PASSED: "✓",
    Finding.CAUGHT: "✓",
    Finding.ESCAPE: "✗",
    Finding.FALSE_REJECT: "✗",
    Finding.ASIDE: "→",
    Finding.UNJUDGED: "?",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything that the view shows."""

    elapsed_s: float
    seconds: float  # planned
    snapshot: Snapshot
    tally: Tally  # goes on counting
    arrived: int  # verdicts, before the snapshot was taken
    counts: Counts
    broker: str  # mosquitto, iotcore or amqtt
    frames_per_s: float
    cores: float  # processor use of this process
    note: str  # what is going on, in a few words
    note_style: str
    chronicle: Chronicle | None = None  # of the releases that arrive


def sparkline(values: list[float], width: int) -> str:
    """Return the last `width` values as bars, scaled from 0 to their largest."""
    shown = values[-width:]
    top = max(shown, default=0.0)
    if top <= 0.0:
        return ""
    return "".join(_BARS[min(int(v / top * len(_BARS)), len(_BARS) - 1)] for v in shown)


def screen(moment: Moment, *, width: int) -> RenderableType:
    """Return the whole screen for a terminal `width` columns wide."""
    layout = Layout()
    releases = [] if moment.chronicle is None else [Layout(_releases(moment.chronicle), size=6)]
    layout.split_column(
        Layout(
            header(elapsed_s=moment.elapsed_s, seconds=moment.seconds, note=moment.note, style=moment.note_style),
            size=1,
        ),
        Layout(name="tiles", size=6),
        Layout(name="state", size=6),
        *releases,
        Layout(_findings(moment, width=width), name="findings"),
        Layout(_footer(), size=1),
    )
    layout["tiles"].split_row(
        Layout(tile("Line", _cameras(moment))),
        Layout(tile("Verdicts", verdict_rows(moment.tally))),
        Layout(tile("Against truth", truth_rows(moment.tally, roomy=width >= _WIDE))),
        Layout(tile("Latency", latency_rows(moment.tally))),
    )
    layout["state"].split_row(
        Layout(tile("No frame is lost", _accounting(moment))),
        Layout(tile("Delivery over MQTT", _delivery(moment))),
        Layout(tile("Model and machine", _machine(moment))),
    )
    return layout


def picture(moment: Moment, *, width: int = 100, height: int = 30) -> str:
    """Return the screen as an SVG that loads nothing from anywhere."""
    return as_svg(screen(moment, width=width), title="kensa demo", width=width, height=height)


def as_svg(shown: RenderableType, *, title: str, width: int, height: int) -> str:
    """Return what a terminal of `width` x `height` characters would show as an SVG that loads nothing."""
    console = Console(record=True, file=io.StringIO(), force_terminal=True, width=width, height=height)
    console.print(shown)
    return re.sub(r"@font-face \{[^}]*\}\s*", "", console.export_svg(title=title))


def tile(title: str, body: RenderableType) -> Panel:
    """Return `body` in a frame with a title."""
    return Panel(body, title=f"[bold default]{title}[/]", title_align="left", border_style="grey39", padding=(0, 1))


def header(*, elapsed_s: float, seconds: float, note: str, style: str) -> RenderableType:
    """Return the first line of a screen: what goes on, and how much of the planned time is over."""
    row = Table.grid(expand=True, padding=(0, 1))
    row.add_column(no_wrap=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True, justify="right")
    row.add_row(
        Text(" KENSA ", "bold black on cyan"),
        Text(f"● {note}", style),
        ProgressBar(total=seconds, completed=min(elapsed_s, seconds), complete_style="cyan"),
        Text(f"{min(elapsed_s, seconds):.0f} of {seconds:.0f} s ", "cyan"),
    )
    return row


def _releases(chronicle: Chronicle) -> Panel:
    return tile(f"Releases for {chronicle.status.inspection}", panel(chronicle))


def _footer() -> Text:
    return Text(" Ctrl-C ends the demo early, drains, and writes the report", "grey50")


def pairs(rows: list[tuple[str, RenderableType]]) -> Group:
    """Lay out labels on the left, values on the right; row by row, so that a long value shortens only its own label."""
    tables = []
    for label, value in rows:
        table = Table.grid(expand=True)
        table.add_column(no_wrap=True, style="grey62", overflow="ellipsis", ratio=1)
        table.add_column(no_wrap=True, justify="right")
        table.add_row(label, value)
        tables.append(table)
    return Group(*tables)


def counted(value: int, style: str = "bold") -> Text:
    """A zero is quiet, whatever it counts."""
    return Text(f"{value:,}", style if value else "grey50")


def _cameras(moment: Moment) -> Group:
    rows: list[tuple[str, RenderableType]] = [("frames/s", Text(f"{moment.frames_per_s:.1f}", "bold cyan"))]
    for camera in moment.snapshot.cameras[:3]:
        running = camera.status.state is CameraState.RUNNING
        text = Text(f"{camera.status.fps:.1f} ", "bold") if running else Text(f"{camera.status.state} ", "yellow")
        rows.append((camera.camera, text.append("●", "green" if running else "red")))
    return pairs(rows)


def verdict_rows(tally: Tally) -> Group:
    """Return how many verdicts there are of each outcome."""
    return pairs([(str(o), counted(tally.outcomes[o], OUTCOME_STYLE[o])) for o in Outcome])


def truth_rows(tally: Tally, *, roomy: bool) -> Group:
    """Return what the verdicts are worth; with a remark where there is room."""
    found, every = tally.caught()
    weak = tally.by_difficulty["weak", Finding.ESCAPE]
    escapes = counted(tally.findings[Finding.ESCAPE], "bold red")
    if weak and roomy:
        escapes.append(f" ({weak} weak)", "grey62")
    return pairs(
        [
            ("found", Text(f"{found} of {every}", "bold green" if every else "grey50")),
            ("escapes", escapes),
            ("false rejects", counted(tally.findings[Finding.FALSE_REJECT], "bold red")),
            ("to a person", counted(tally.findings[Finding.ASIDE], "yellow")),
        ]
    )


def latency_rows(tally: Tally) -> Group:
    """Return from exposure to decision: the quantiles, and their trend."""

    def text(share: float) -> Text:
        value = tally.latency_ms(share)
        return Text("-", "grey50") if value is None else Text(f"{value:.1f} ms", "bold cyan")

    return Group(
        pairs([("p50", text(0.50)), ("p99", text(0.99))]),
        Text(sparkline(tally.trend_ms(), 16), "cyan", justify="right"),
        Text("p99 each second", "grey50", justify="right"),
    )


def _accounting(moment: Moment) -> Group:
    cameras = [camera.accounting for camera in moment.snapshot.cameras]
    reasons: dict[str, int] = {}
    for accounting in cameras:
        for reason, number in accounting.dropped.items():
            reasons[reason] = reasons.get(reason, 0) + number
    dropped = sum(reasons.values())
    why = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items())) or "nothing"
    return pairs(
        [
            ("captured", counted(sum(c.captured for c in cameras), "bold cyan")),
            ("= judged", counted(sum(c.judged for c in cameras))),
            ("+ waiting", counted(sum(c.pending for c in cameras))),
            ("+ dropped", Text(f"{dropped:,}: {why}" if dropped else "0", "bold red" if dropped else "grey50")),
        ]
    )


def _delivery(moment: Moment) -> Group:
    outbox = moment.snapshot.outbox
    up = moment.snapshot.transport == "up"
    return pairs(
        [
            (moment.broker, Text("up ●" if up else "away ●", "green" if up else "bold red")),
            ("in the outbox", counted(outbox.verdicts, "bold yellow")),
            ("arrived", counted(moment.arrived, "bold green")),
            ("duplicates", counted(moment.counts.duplicates)),
        ]
    )


def _machine(moment: Moment) -> Group:
    model = next((i.model for i in moment.snapshot.inspections if i.model is not None), None)
    usage = moment.snapshot.process
    name = Text("no usable model", "magenta")
    if model is not None:
        name = Text(f"{model.name} {model.version}", "bold")
    return pairs(
        [
            ("", name),
            ("sha256", Text(f"{model.sha256[:12]}" if model else "-", "grey62")),
            ("trust", Text("trusted", "green") if model and model.trusted else Text("local, unsigned", "yellow")),
            ("uses", Text(f"{moment.cores:.2f} cpu, {usage.rss_bytes / 1e6:.0f} MB", "bold")),
        ]
    )


def _findings(moment: Moment, *, width: int) -> Panel:
    roomy = width >= _ROOMY
    table = Table.grid(expand=True, padding=(0, 1))
    for _ in range(7 if roomy else 6):
        table.add_column(no_wrap=True, overflow="ellipsis")
    head = ["time", "camera", "part", "judged", "score", "truth", "result"]
    if not roomy:
        head.remove("camera")
    table.add_row(*(Text(name, "grey50") for name in head))
    for graded in reversed(moment.tally.recent):
        cells = finding_cells(graded)
        if not roomy:
            del cells[1]
        table.add_row(*cells)
    return tile("Last findings", table)


def finding_cells(graded: Graded) -> list[Text]:
    """Return time, camera, part, class found, score, truth and result of one finding."""
    verdict, truth, judgement = graded.verdict, graded.truth, graded.verdict.judgement
    time = datetime.fromtimestamp(verdict.captured_utc_ns / 1e9, tz=UTC).astimezone()
    filled = round(judgement.score * 6)
    bar = Text("━" * filled, "red" if judgement.outcome is Outcome.DEFECT else "yellow").append(
        "━" * (6 - filled), "grey23"
    )
    real = f"{truth.kind}, {truth.difficulty}" if truth.defective else "good"
    result = Text(f"{_MARK[graded.finding]} {graded.finding}", FINDING_STYLE[graded.finding])
    return [
        Text(time.strftime("%H:%M:%S"), "grey62"),
        Text(verdict.origin.camera, "grey62"),
        Text(truth.part_id),
        Text(judgement.class_name or str(judgement.outcome), OUTCOME_STYLE[judgement.outcome]),
        bar.append(f" {judgement.score:.2f}", "default"),
        Text(real, "default" if truth.defective else "grey62"),
        result,
    ]


def plain_line(moment: Moment) -> str:
    """Return one line for an output that is no terminal."""
    tally, snapshot = moment.tally, moment.snapshot
    dropped = sum(camera.accounting.dropped_total for camera in snapshot.cameras)
    p50, p99 = tally.latency_ms(0.5) or 0.0, tally.latency_ms(0.99) or 0.0
    outcomes = " ".join(f"{o} {tally.outcomes[o]}" for o in Outcome)
    return (
        f"{moment.elapsed_s:5.0f} s  {moment.frames_per_s:.1f} frames/s  {outcomes}  "
        f"escapes {tally.findings[Finding.ESCAPE]}  false rejects {tally.findings[Finding.FALSE_REJECT]}  "
        f"p50 {p50:.1f} ms  p99 {p99:.1f} ms  dropped {dropped}  outbox {snapshot.outbox.verdicts}  "
        f"arrived {tally.delivered}" + _releases_text(moment)
    )


def _releases_text(moment: Moment) -> str:
    if moment.chronicle is None or not moment.chronicle.chapters:
        return ""
    chapter = moment.chronicle.chapters[-1]
    return f"  release {chapter.published.version} {chapter.result}"
