"""Parts of the demos' screens: frames, grids, bars, and tiles about verdicts. Pure."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agent.records import Outcome
from simulator.demos.common.verdict_metrics import Grade

if TYPE_CHECKING:
    from rich.console import RenderableType

    from simulator.demos.common.verdict_metrics import VerdictMetrics

WIDE: Final = 112  # columns from which a tile has room for a remark beside a number
BARS: Final = "▁▂▃▄▅▆▇█"
OUTCOME_STYLE: Final = {
    Outcome.OK: "green",
    Outcome.DEFECT: "bold red",
    Outcome.UNSURE: "yellow",
    Outcome.UNKNOWN: "magenta",
}


def sparkline(values: list[float], width: int) -> str:
    """Return the last `width` values as bars, scaled from 0 to their largest."""
    shown = values[-width:]
    top = max(shown, default=0.0)
    if top <= 0.0:
        return ""
    return "".join(BARS[min(int(v / top * len(BARS)), len(BARS) - 1)] for v in shown)


def render_svg(shown: RenderableType, *, title: str, width: int, height: int) -> str:
    """Return what a terminal of `width` x `height` characters would show as an SVG that loads nothing."""
    console = Console(record=True, file=io.StringIO(), force_terminal=True, width=width, height=height)
    console.print(shown)
    return re.sub(r"@font-face \{[^}]*\}\s*", "", console.export_svg(title=title))


def framed_panel(title: str, body: RenderableType) -> Panel:
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


def label_value_grid(rows: list[tuple[str, RenderableType]]) -> Group:
    """Lay out labels on the left, values on the right; row by row, so that a long value shortens only its own label."""
    tables = []
    for label, value in rows:
        table = Table.grid(expand=True)
        table.add_column(no_wrap=True, style="grey62", overflow="ellipsis", ratio=1)
        table.add_column(no_wrap=True, justify="right")
        table.add_row(label, value)
        tables.append(table)
    return Group(*tables)


def count_text(value: int, style: str = "bold") -> Text:
    """A zero is quiet, whatever it counts."""
    return Text(f"{value:,}", style if value else "grey50")


def verdict_rows(tally: VerdictMetrics) -> Group:
    """Return how many verdicts there are of each outcome."""
    return label_value_grid([(str(o), count_text(tally.outcomes[o], OUTCOME_STYLE[o])) for o in Outcome])


def grade_rows(tally: VerdictMetrics, *, roomy: bool) -> Group:
    """Return what the verdicts are worth; with a remark where there is room."""
    found, every = tally.detection_counts()
    weak = tally.by_difficulty["weak", Grade.ESCAPE]
    escapes = count_text(tally.grades[Grade.ESCAPE], "bold red")
    if weak and roomy:
        escapes.append(f" ({weak} weak)", "grey62")
    return label_value_grid(
        [
            ("found", Text(f"{found} of {every}", "bold green" if every else "grey50")),
            ("escapes", escapes),
            ("false rejects", count_text(tally.grades[Grade.FALSE_REJECT], "bold red")),
            ("to a person", count_text(tally.grades[Grade.REVIEW], "yellow")),
        ]
    )


def latency_rows(tally: VerdictMetrics) -> Group:
    """Return from exposure to decision: the quantiles, and their trend."""

    def text(share: float) -> Text:
        value = tally.latency_ms(share)
        return Text("-", "grey50") if value is None else Text(f"{value:.1f} ms", "bold cyan")

    return Group(
        label_value_grid([("p50", text(0.50)), ("p99", text(0.99))]),
        Text(sparkline(tally.trend_ms(), 16), "cyan", justify="right"),
        Text("p99 each second", "grey50", justify="right"),
    )
