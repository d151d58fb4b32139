"""The plant's report: one self-contained page for the person who answers for the plant.

No script, no address: inline SVG and CSS, light or dark as the reader's screen. Every text from the tables is escaped.
"""

from __future__ import annotations

from datetime import date, datetime
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.analytics.plant_report import plant_charts as charts
from pipeline.analytics.plant_report.plant_data import number, optional_number
from pipeline.analytics.plant_report.plant_findings import (
    MIN_LABELS,
    count_with_noun,
    escapes,
    findings,
    insufficient_data,
    omitted_count,
)
from pipeline.evaluation.markdown_report import format_percent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.analytics.plant_report.plant_data import PlantData, Record

_STYLE: Final = (Path(__file__).parent / "plant.css").read_text(encoding="utf-8")
_MIN_P99_VERDICTS: Final = 100  # verdicts of a device and day: with fewer the p99 is just the slowest one
_PERCENT: Final = charts.ValueFormat(100.0, 1, " %")
_EVENTS: Final = {"committed": "committed", "rolling_back": "taken back"}


def render(plant: PlantData) -> str:
    """Return the whole page."""
    first, last = (date.fromisoformat(day) for day in plant.window)
    sites = sorted({str(row["site"]) for row in plant.records("yield_by_line")})
    title = f"Inspection in {', '.join(sites)}"
    lines = sorted({str(row["line"]) for row in plant.records("yield_by_line")})
    about = f"{first:%d %B %Y} to {last:%d %B %Y} · {count_with_noun(len(lines), 'line')}: {', '.join(lines)}"
    body = [
        f"<h1>{escape(title)}</h1><p class=sub>{escape(about)}</p>",
        _tiles(plant),
        _card("What to know", _sentences(plant)),
        _card("Yield", _yield(plant)),
        _row(_card("What is rejected", _pareto(plant)), _card("By line", _pareto_table(plant))),
        _row(
            _card("Bad parts let through", _estimates(plant, "escape_rate")),
            _card("Good parts rejected", _estimates(plant, "false_reject_rate")),
        ),
        _card("Kinds of defect", _classes(plant)),
        _card("Model versions", _model_comparison(plant)),
        _card("Trials", _trials(plant)),
        _card(
            "Cameras against their own past" if _cameras(plant) > 1 else "The camera against its own past",
            _heatmap(plant),
        ),
        _card("Time to a verdict", _latency(plant)),
        _card("Losses", _loss(plant)),
        _card("Cameras now", _fleet(plant)),
        _card("What happened to releases", _history(plant)),
        _card("How this was made", _method(plant)),
    ]
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{escape(title)}</title>"
        "<meta name=viewport content='width=device-width'><meta name=color-scheme content='light dark'>"
        f"<style>{_STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _card(title: str, content: str) -> str:
    return f"<section class=card><h2>{escape(title)}</h2>{content}</section>"


def _row(*cards: str) -> str:
    return f"<div class=row>{''.join(cards)}</div>"


def _note(text: str) -> str:
    return f"<p class=note>{text}</p>"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> str:
    """`rows` are HTML already."""
    if not rows:
        return _note(empty)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    cells = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{cells}</table>"


def _text(record: Record, name: str) -> str:
    value = record[name]
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return "–" if value is None else escape(str(value))


def _count(record: Record, name: str) -> str:
    return f"{number(record, name):,.0f}"


def _interval(record: Record, name: str, show: Callable[[float | None], str] = format_percent) -> str:
    low, high = optional_number(record, f"{name}_low"), optional_number(record, f"{name}_high")
    span = "" if low is None or high is None else f" <small>({show(low)} to {show(high)})</small>"
    return f"{show(optional_number(record, name))}{span}"


# --- the cards --------------------------------------------------------------------------------------------------------


def _tiles(plant: PlantData) -> str:
    days, loss, late = plant.records("yield_by_line"), plant.records("loss"), plant.records("latency")
    parts = sum(number(row, "parts") for row in days)
    inspected = parts - sum(number(row, "unknown") for row in days)
    frames, missing = (sum(number(row, name) for row in loss) for name in ("frames", "missing"))
    slowest = max((number(row, "p99_us") for row in late if number(row, "parts") >= _MIN_P99_VERDICTS), default=None)
    shown = [
        ("parts judged" if round(inspected) != 1 else "part judged", f"{inspected:,.0f}"),
        (
            "of them let through (yield)",
            format_percent(sum(number(row, "ok") for row in days) / inspected if inspected else None),
        ),
        ("bad of a million let through, 95 % interval", _escapes_tile(plant)),
        ("of the rejected were good, 95 % interval", _false_rejects_tile(plant)),
        ("verdicts missing" if round(missing) != 1 else "verdict missing", f"{missing:,.0f} of {frames:,.0f}"),
        ("within which 99 of 100 verdicts came, slowest day", "–" if slowest is None else f"{slowest / 1000:.1f} ms"),
    ]
    return (
        "<div class=tiles>" + "".join(f"<div class=tile><b>{v}</b><span>{n}</span></div>" for n, v in shown) + "</div>"
    )


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


def _sentences(plant: PlantData) -> str:
    items = "".join(f"<li class={f.level}>{escape(f.text)}</li>" for f in findings(plant))
    notes = []
    if more := omitted_count(plant):
        notes.append(f"{count_with_noun(more, 'less urgent thing')} more: see the cards below.")
    if short := insufficient_data(plant):
        notes.append(f"Too little data to say anything about {'; '.join(short)}.")
    return f"<ul class=findings>{items}</ul>" + _note(escape(" ".join(notes))) * bool(notes)


def _cameras(plant: PlantData) -> int:
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
    note = "Share of judged parts that were let through, by day, with its 95 % interval. Dashed: releases."
    return charts.trend_chart(series, _rollout_annotations(plant), _PERCENT, "yield by line and day") + _note(note)


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
    bars = sorted(whole.items(), key=lambda item: (-item[1], item[0]))[:10]
    return charts.pareto_chart(bars, "rejected parts by class")


def _pareto_table(plant: PlantData) -> str:
    rows = [
        (
            _text(r, "line"),
            _text(r, "class"),
            _count(r, "parts"),
            format_percent(optional_number(r, "share"), 0),
            _count(r, "per_million"),
        )
        for r in plant.records("defect_pareto")
        if number(r, "place") <= 4  # noqa: PLR2004 - the vital few
    ]
    return _table(("line", "class", "rejected", "of the line's", "per million"), rows, "Nothing was rejected.")


def _estimates(plant: PlantData, name: str) -> str:
    lines = sorted({str(row["line"]) for row in plant.records("escapes")})
    rows = [
        charts.Whisker(
            f"{row['line']} {row['model_version']}",
            number(row, name),
            number(row, f"{name}_low"),
            number(row, f"{name}_high"),
            lines.index(str(row["line"])),
        )
        for row in plant.records("escapes")
        if optional_number(row, f"{name}_high") is not None
    ]
    of = "of all bad parts, from the random sample" if name == "escape_rate" else "of all good parts, from the rejected"
    return charts.whisker_chart(rows, charts.ValueFormat(100.0, 1, " %"), name) + _note(
        f"Estimate {of}, with its 95 % interval."
    )


def _classes(plant: PlantData) -> str:
    rows = [
        (
            _text(row, "line"),
            _text(row, "label_class"),
            _count(row, "labelled"),
            _count(row, "caught"),
            _count(row, "escapes"),
            _interval(row, "recall", lambda value: format_percent(value, 1)),
        )
        for row in plant.records("escapes_by_class")
    ]
    names = ("line", "really is", "labelled", "caught, about", "let through, about", "caught of all (95 % interval)")
    return _table(names, rows, "No labels have come back yet.")


def _model_comparison(plant: PlantData) -> str:
    rows = [
        (
            _text(row, "line"),
            escape(f"{row['model_name']} {row['model_version']}"),
            _text(row, "first_at"),
            _text(row, "last_at"),
            _count(row, "parts"),
            _interval(row | {"r": row["reject_rate"], "r_low": row["reject_low"], "r_high": row["reject_high"]}, "r"),
            "–" if row["difference"] is None else _interval(row, "difference", _signed),
            _text(row, "finding"),
        )
        for row in plant.records("model_comparison")
    ]
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
    note = "Parts change over time: a difference here is a reason to look, a trial below is evidence."
    return _table(names, rows, "No model has judged.") + _note(note)


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.2f}"


def _trials(plant: PlantData) -> str:
    rows = [
        (
            _text(row, "line"),
            _text(row, "champion_version"),
            escape(str(row["challenger_version"] or row["challenger_sha256"])[:12]),
            f"{_text(row, 'first_at')[:10]} to {_text(row, 'last_at')[5:10]}",
            (
                f"{format_percent(optional_number(row, 'champion_rate'))} <small>of "
                f"{_count(row, 'champion_parts')}</small>"
            ),
            (
                f"{format_percent(optional_number(row, 'challenger_rate'))} <small>of "
                f"{_count(row, 'challenger_parts')}</small>"
            ),
            _interval(row, "difference", _signed),
            _text(row, "finding"),
            format_percent(optional_number(row, "let_through_rate")),
        )
        for row in plant.records("ab_readout")
    ]
    names = ("line", "champion", "challenger", "from, to", "champion rejects", "challenger rejects",
             "difference, points", "finding", "would let through")  # fmt: skip
    note = "Chance decides which parts a challenger judges: the difference is the models', with its 95 % interval."
    return _table(names, rows, "No trial ran.") + (_note(note) if rows else "")


def _heatmap(plant: PlantData) -> str:
    rows: dict[str, dict[date, float]] = {}
    for row in plant.records("camera_drift"):
        day = row["date"]
        if isinstance(day, date):
            rows.setdefault(f"{row['line']} · {row['camera']}", {})[day] = number(row, "psi")
    note = "Population stability index of each day's scores against the model's first days on the line."
    return charts.heatmap(rows, "drift by camera and day") + _note(note)


def _latency(plant: PlantData) -> str:
    series = {
        str(thing): [_point(row, "date", "p99_us") for row in rows]
        for thing, rows in groupby(plant.records("latency"), key=lambda row: row["thing"])
    }
    return charts.trend_chart(
        series, [], charts.ValueFormat(0.001, 1, " ms"), "p99 latency by device and day", height=260
    ) + _note("99 of 100 verdicts of a device were faster on that day.")


def _loss(plant: PlantData) -> str:
    names = ("frames", "arrived", "missing", "dropped", "lost", "unexplained", "twice")
    rows = []
    for line, group in groupby(plant.records("loss"), key=lambda row: str(row["line"])):
        found = list(group)
        sums = {name: sum(number(row, name) for row in found) for name in names}
        rows.append((escape(line), *(f"{sums[name]:,.0f}" for name in names)))
    note = "Dropped: given up before judging, by the heartbeats. Lost: given up by a full outbox, by the gap messages."
    return _table(("line", *names), rows, "No verdicts.") + _note(note)


def _fleet(plant: PlantData) -> str:
    rows = [
        (
            _text(row, "line"), _text(row, "thing"), _text(row, "camera"), _text(row, "last_seen"), _text(row, "state"),
            f"{number(row, 'fps'):.1f}", _text(row, "model"), _text(row, "agent_version"), _text(row, "alarm"),
            _count(row, "waiting"),
        )
        for row in plant.records("fleet")
    ]  # fmt: skip
    names = ("line", "device", "camera", "last heard of", "state", "fps", "model", "agent", "alarm", "waiting")
    return _table(names, rows, "No heartbeats.")


def _history(plant: PlantData) -> str:
    shown = [row for row in plant.records("release_history") if row["event"] not in {"idle", "first verdict"}]
    merged: dict[tuple[str, ...], list[str]] = {}
    for row in shown:
        key = tuple(_text(row, name) for name in ("at", "line", "release", "event", "detail"))
        merged.setdefault(key, []).append(_text(row, "thing"))
    rows = [(*key, ", ".join(things)) for key, things in list(merged.items())[-60:]]
    return _table(("at, UTC", "line", "release", "state", "why", "devices"), rows, "No release moved.")


def _method(plant: PlantData) -> str:
    rows = [
        (f"<code>{name}</code>", f"{answer.query.version}", escape(answer.query.summary),
         f"<code>{escape(', '.join(f'{k}={v}' for k, v in answer.parameters.items()))}</code>")
        for name, answer in plant.results.items()
    ]  # fmt: skip
    note = (
        "Each verdict is counted once by its key. Intervals: Wilson for shares, Newcombe for differences. What was let "
        "through is judged from the random sample only, each part weighted by one over its chance to be drawn."
    )
    return _note(note) + _table(("query", "version", "question", "parameters"), rows, "")
