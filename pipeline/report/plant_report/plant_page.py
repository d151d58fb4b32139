"""Renders the plant's report: one self-contained page for the person who answers for the plant.

No script, no address: inline SVG and CSS, light or dark as the reader's screen. Every text from the tables is escaped.
"""

from __future__ import annotations

from datetime import date, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Final

from pipeline.report import charts
from pipeline.report.html_page import Cell, ReportTable, Tile, render_html
from pipeline.report.plant_report.plant_data import number, optional_number
from pipeline.report.plant_report.plant_findings import (
    MIN_LABELS,
    escapes,
    findings,
    insufficient_data,
    omitted_count,
)
from pipeline.report.text_format import NO_VALUE, count_with_noun, format_percent, key_values, signed_points

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.report.plant_report.plant_data import PlantData, Record

_MIN_P99_VERDICTS: Final = 100  # verdicts of a device and day: with fewer the p99 is just the slowest one
_MAX_CLASSES: Final = 10  # bars of the chart of rejected classes
_MAX_CLASSES_BY_LINE: Final = 4  # the vital few
_MAX_HISTORY: Final = 60  # rows, the latest ones
_PERCENT: Final = charts.ValueFormat(100.0, 1, " %")
_MILLISECONDS: Final = charts.ValueFormat(0.001, 1, " ms")
_EVENTS: Final = {"committed": "committed", "rolling_back": "rolled back"}


def render_plant_report(plant: PlantData) -> str:
    """Return the whole page."""
    first, last = (date.fromisoformat(day) for day in plant.window)
    sites = sorted({str(row["site"]) for row in plant.records("yield_by_line")})
    lines = sorted({str(row["line"]) for row in plant.records("yield_by_line")})
    return render_html(
        "plant.html.j2",
        kind="plant",
        title=f"Inspection in {', '.join(sites)}",
        about=f"{first:%d %B %Y} to {last:%d %B %Y} · {count_with_noun(len(lines), 'line')}: {', '.join(lines)}",
        numbers=_tiles(plant),
        findings=findings(plant),
        remarks=_remarks(plant),
        yield_chart=_yield(plant),
        pareto_chart=_pareto(plant),
        pareto_table=_pareto_table(plant),
        escape_chart=_estimates(plant, "escape_rate", "bad parts let through by line and model"),
        false_reject_chart=_estimates(plant, "false_reject_rate", "good parts rejected by line and model"),
        classes=_classes(plant),
        models=_model_comparison(plant),
        trials=_trials(plant),
        has_cameras=_camera_count(plant) > 1,
        drift_chart=_drift(plant),
        latency_chart=_latency(plant),
        losses=_losses(plant),
        cameras=_cameras(plant),
        history=_history(plant),
        queries=_queries(plant),
    )


# --- cells ------------------------------------------------------------------------------------------------------------


def _text(record: Record, name: str) -> str:
    value = record[name]
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return NO_VALUE if value is None else str(value)


def _count(record: Record, name: str) -> str:
    return f"{number(record, name):,.0f}"


def _percent(record: Record, name: str, digits: int = 2) -> str:
    return format_percent(optional_number(record, name), digits)


def _interval(record: Record, name: str, show: Callable[[float | None], str] = format_percent) -> Cell:
    low, high = optional_number(record, f"{name}_low"), optional_number(record, f"{name}_high")
    span = "" if low is None or high is None else f"({show(low)} to {show(high)})"
    return Cell(show(optional_number(record, name)), span)


# --- the cards --------------------------------------------------------------------------------------------------------


def _tiles(plant: PlantData) -> list[Tile]:
    days, loss, late = plant.records("yield_by_line"), plant.records("loss"), plant.records("latency")
    parts = sum(number(row, "parts") for row in days)
    inspected = parts - sum(number(row, "unknown") for row in days)
    frames, missing = (sum(number(row, name) for row in loss) for name in ("frames", "missing"))
    slowest = max((number(row, "p99_us") for row in late if number(row, "parts") >= _MIN_P99_VERDICTS), default=None)
    passed = sum(number(row, "ok") for row in days) / inspected if inspected else None
    return [
        Tile(f"{inspected:,.0f}", "part inspected" if round(inspected) == 1 else "parts inspected"),
        Tile(format_percent(passed), "of them let through (yield)"),
        Tile(_escapes_tile(plant), "bad of a million let through, 95 % interval"),
        Tile(_false_rejects_tile(plant), "of the rejected were good, 95 % interval"),
        Tile(f"{missing:,.0f} of {frames:,.0f}", "verdict missing" if round(missing) == 1 else "verdicts missing"),
        Tile(
            NO_VALUE if slowest is None else f"{slowest / 1000:.1f} ms",
            "within which 99 of 100 verdicts came, slowest day",
        ),
    ]


def _escapes_tile(plant: PlantData) -> str:
    """Only the interval: an estimate of 0 alone would read like a promise."""
    known = escapes(plant)
    return "not known" if known is None else f"{known[1]:,.0f} to {known[2]:,.0f}"


def _false_rejects_tile(plant: PlantData) -> str:
    known = [row for row in plant.records("escapes") if optional_number(row, "false_rejects_high") is not None]
    rejected = sum(number(row, "rejected") for row in known)
    if sum(number(row, "labelled_rejected") for row in known) < MIN_LABELS or not rejected:
        return "not known"
    low, high = (sum(number(row, f"false_rejects_{end}") for row in known) / rejected for end in ("low", "high"))
    return f"{100 * low:.0f} to {format_percent(high, 0)}"


def _remarks(plant: PlantData) -> str:
    """What the findings leave out, in sentences."""
    notes = []
    if more := omitted_count(plant):
        notes.append(f"{count_with_noun(more, 'less urgent finding')} more: see the cards below.")
    if short := insufficient_data(plant):
        notes.append(f"Too little data for a finding about {'; '.join(short)}.")
    return " ".join(notes)


def _camera_count(plant: PlantData) -> int:
    return len({(str(row["line"]), str(row["camera"])) for row in plant.records("camera_drift")})


def _rollout_annotations(plant: PlantData) -> list[charts.Annotation]:
    """The first commit and rollback of each release on each line; lines that moved on one day share a mark."""
    seen: dict[tuple[str, str, str], date] = {}
    for row in plant.records("release_history"):
        at, event = row["at"], _EVENTS.get(str(row["event"]))
        if event is None or not isinstance(at, datetime):
            continue
        seen.setdefault((str(row["release"]).rpartition("/")[2], event, str(row["line"])), at.date())
    lines: dict[tuple[date, str], list[str]] = {}
    for (version, event, line), day in seen.items():
        lines.setdefault((day, version if event == "committed" else f"{version} {event}"), []).append(line)
    return [charts.Annotation(day, f"{text}, {' + '.join(found)}") for (day, text), found in lines.items()]


def _yield(plant: PlantData) -> str:
    series = {
        line: [_point(row, "period", "yield") for row in rows if row["yield"] is not None]
        for line, rows in groupby(plant.records("yield_by_line"), key=lambda row: str(row["line"]))
    }
    return charts.trend_chart(series, _rollout_annotations(plant), _PERCENT, "yield by line and day")


def _point(row: Record, when: str, name: str) -> charts.Point:
    day = row[when]
    if isinstance(day, datetime):
        day = day.date()
    if not isinstance(day, date):  # pragma: no cover  the queries' types
        raise TypeError(f"{when} is {day!r}")
    low = optional_number(row, f"{name}_low") if f"{name}_low" in row else None
    high = optional_number(row, f"{name}_high") if f"{name}_high" in row else None
    return charts.Point(day, number(row, name), low, high)


def _pareto(plant: PlantData) -> str:
    whole: dict[str, float] = {}
    for row in plant.records("defect_pareto"):
        whole[str(row["class"])] = whole.get(str(row["class"]), 0.0) + number(row, "parts")
    bars = sorted(whole.items(), key=lambda item: (-item[1], item[0]))[:_MAX_CLASSES]
    return charts.pareto_chart(bars, "rejected parts by class")


def _pareto_table(plant: PlantData) -> ReportTable:
    rows = (
        (_text(r, "line"), _text(r, "class"), _count(r, "parts"), _percent(r, "share", 0), _count(r, "per_million"))
        for r in plant.records("defect_pareto")
        if number(r, "place") <= _MAX_CLASSES_BY_LINE
    )
    return ReportTable(
        ("line", "class", "rejected", "of the line's", "per million"), tuple(rows), "Nothing was rejected."
    )


def _estimates(plant: PlantData, name: str, title: str) -> str:
    lines = sorted({str(row["line"]) for row in plant.records("escapes")})
    rows = [
        charts.IntervalRow(
            f"{row['line']} {row['model_version']}",
            number(row, name),
            number(row, f"{name}_low"),
            number(row, f"{name}_high"),
            charts.colour_class(lines.index(str(row["line"]))),
        )
        for row in plant.records("escapes")
        if optional_number(row, f"{name}_high") is not None
    ]
    return charts.interval_chart(rows, _PERCENT, title)


def _classes(plant: PlantData) -> ReportTable:
    rows = (
        (
            _text(row, "line"),
            _text(row, "label_class"),
            _count(row, "labelled"),
            _count(row, "caught"),
            _count(row, "escapes"),
            _interval(row, "recall", lambda value: format_percent(value, 1)),
        )
        for row in plant.records("escapes_by_class")
    )
    names = ("line", "labelled class", "labelled", "caught, about", "let through, about", "recall (95 % interval)")
    return ReportTable(names, tuple(rows), "No labels have come back yet.")


def _model_comparison(plant: PlantData) -> ReportTable:
    rows = (
        (
            _text(row, "line"),
            f"{row['model_name']} {row['model_version']}",
            _text(row, "first_at"),
            _text(row, "last_at"),
            _count(row, "parts"),
            _interval(row | {"r": row["reject_rate"], "r_low": row["reject_low"], "r_high": row["reject_high"]}, "r"),
            NO_VALUE if row["difference"] is None else _interval(row, "difference", signed_points),
            _text(row, "finding"),
        )
        for row in plant.records("model_comparison")
    )
    names = (
        "line",
        "model",
        "first verdict",
        "last verdict",
        "parts",
        "not passed",
        "against the one before",
        "finding",
    )
    return ReportTable(names, tuple(rows), "No model has inspected a part.")


def _trials(plant: PlantData) -> ReportTable:
    rows = (
        (
            _text(row, "line"),
            _text(row, "champion_version"),
            str(row["challenger_version"] or row["challenger_sha256"])[:12],
            f"{_text(row, 'first_at')[:10]} to {_text(row, 'last_at')[5:10]}",
            Cell(_percent(row, "champion_rate"), f"of {_count(row, 'champion_parts')}"),
            Cell(_percent(row, "challenger_rate"), f"of {_count(row, 'challenger_parts')}"),
            _interval(row, "difference", signed_points),
            _text(row, "finding"),
            _percent(row, "let_through_rate"),
        )
        for row in plant.records("ab_readout")
    )
    names = ("line", "champion", "challenger", "from, to", "champion rejects", "challenger rejects",
             "difference, points", "finding", "would let through")  # fmt: skip
    return ReportTable(names, tuple(rows), "No trial ran.")


def _drift(plant: PlantData) -> str:
    rows: dict[str, dict[date, float]] = {}
    for row in plant.records("camera_drift"):
        day = row["date"]
        if isinstance(day, date):
            rows.setdefault(f"{row['line']} · {row['camera']}", {})[day] = number(row, "psi")
    return charts.heatmap(rows, "drift by camera and day")


def _latency(plant: PlantData) -> str:
    series = {
        str(thing): [_point(row, "date", "p99_us") for row in rows]
        for thing, rows in groupby(plant.records("latency"), key=lambda row: row["thing"])
    }
    return charts.trend_chart(series, [], _MILLISECONDS, "p99 latency by device and day", height=260)


def _losses(plant: PlantData) -> ReportTable:
    names = ("frames", "arrived", "missing", "dropped", "lost", "unexplained", "twice")
    rows = []
    for line, group in groupby(plant.records("loss"), key=lambda row: str(row["line"])):
        found = list(group)
        rows.append((line, *(f"{sum(number(row, name) for row in found):,.0f}" for name in names)))
    return ReportTable(("line", *names), tuple(rows), "No verdicts.")


def _cameras(plant: PlantData) -> ReportTable:
    rows = (
        (
            _text(row, "line"), _text(row, "thing"), _text(row, "camera"), _text(row, "last_seen"), _text(row, "state"),
            f"{number(row, 'fps'):.1f}", _text(row, "model"), _text(row, "agent_version"), _text(row, "alarm"),
            _count(row, "waiting"),
        )
        for row in plant.records("fleet")
    )  # fmt: skip
    names = ("line", "device", "camera", "last heartbeat", "state", "fps", "model", "agent", "alarm", "waiting")
    return ReportTable(names, tuple(rows), "No heartbeats.")


def _history(plant: PlantData) -> ReportTable:
    shown = [row for row in plant.records("release_history") if row["event"] not in {"idle", "first verdict"}]
    merged: dict[tuple[str, ...], list[str]] = {}
    for row in shown:
        key = tuple(_text(row, name) for name in ("at", "line", "release", "event", "detail"))
        merged.setdefault(key, []).append(_text(row, "thing"))
    rows = tuple((*key, ", ".join(things)) for key, things in list(merged.items())[-_MAX_HISTORY:])
    return ReportTable(("at, UTC", "line", "release", "state", "why", "devices"), rows, "No release moved.")


def _queries(plant: PlantData) -> ReportTable:
    rows = (
        (
            Cell(name, is_code=True),
            str(result.query.version),
            result.query.summary,
            Cell(key_values(result.parameters), is_code=True),
        )
        for name, result in plant.results.items()
    )
    return ReportTable(("query", "version", "question", "parameters"), tuple(rows))
