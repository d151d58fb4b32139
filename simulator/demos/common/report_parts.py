"""Parts of the demos' closing reports: values about verdicts, tables, and the frame. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agent.records import Outcome
from simulator.demos.common.verdict_metrics import Grade
from simulator.line import DEFECT_KINDS, DIFFICULTIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from simulator.demos.common.verdict_metrics import VerdictMetrics
    from simulator.probes.verdict_subscriber import SubscriberCounts

_BUCKETS_MS: Final = (1.0, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)  # of the latency histogram


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
        "sent_to_review": tally.grades[Grade.REVIEW],
        "found_by_difficulty": {d: list(tally.detection_counts(d)) for d in DIFFICULTIES},
        "latency_p50_ms": _rounded(tally.latency_ms(0.50)),
        "latency_p99_ms": _rounded(tally.latency_ms(0.99)),
        "latency_histogram": dict(histogram(tally)),
    }


def outcome_values(problems: Sequence[str], seconds: float) -> dict[str, Any]:
    """Return whether the demo is complete, what is missing, and how long it ran."""
    return {"complete": not problems, "problems": list(problems), "seconds": round(seconds, 3)}


def delivery_values(counts: SubscriberCounts) -> dict[str, Any]:
    """Return what the independent subscriber received."""
    return {"delivered": counts.unique, "duplicates": counts.duplicates, "replayed": counts.replayed}


def model_values(name: str, version: str | None, sha256: str | None, *, trusted: bool) -> dict[str, Any]:
    """Return the identity of a model."""
    return {"name": name, "version": version, "sha256": sha256, "trusted": trusted}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


# --- for a person -----------------------------------------------------------------------------------------------------


def closing_panel(
    title: str, body: Sequence[RenderableType], last: Sequence[RenderableType], problems: Sequence[str]
) -> RenderableType:
    """Return the whole report: `body`, the problems, `last`; without problems under `title`."""
    ok = not problems
    found: list[RenderableType] = [Text(f"✗ {problem}", "bold red") for problem in problems]
    if problems:
        found.append(Text())
    return Padding(
        Panel(
            Group(*body, *found, *last),
            title=f"[bold]{'✓' if ok else '✗'} {title if ok else 'Something is missing'}[/]",
            border_style="green" if ok else "red",
            padding=(1, 2),
        ),
        (1, 0, 0, 0),
    )


def two_columns(left: RenderableType, right: RenderableType) -> Table:
    """Return two halves beside each other."""
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(ratio=1)
    table.add_column(ratio=1)
    table.add_row(left, right)
    return table


def label_text_grid(rows: Iterable[tuple[str, RenderableType]] = ()) -> Table:
    """Return labels on the left, texts of any length on the right."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="grey62", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, text)
    return table


def next_steps(files: Mapping[str, Path], steps: Sequence[tuple[str, str]]) -> Table:
    """Return the files, and commands or documents to go on with, each with what it is for."""
    table = label_text_grid((name, Text(str(path), "cyan")) for name, path in files.items())
    for number, (line, what) in enumerate(steps):
        table.add_row("" if number else "Try next", Text(line, "cyan").append(f"   {what}", "grey62"))
    return table


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
