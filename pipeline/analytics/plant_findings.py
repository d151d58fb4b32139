"""What a plant manager should know, in sentences, the most urgent first. Pure: answers in, sentences out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Final, Literal

from pipeline.analytics.plant import maybe, number

if TYPE_CHECKING:
    from pipeline.analytics.plant import Plant, Record

Level = Literal["bad", "look", "good"]

_FELL: Final = 0.005  # of yield, last week against the best one: half a point is worth a sentence
_RUN_DAYS: Final = 3  # a camera must stand out on so many days: one day may be chance
_WEEK: Final = 7
_LATE_SHARE: Final = 0.001
_ORDER: Final[dict[Level, int]] = {"bad": 0, "look": 1, "good": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence."""

    level: Level
    text: str


def findings(plant: Plant) -> list[Finding]:
    """All sentences; at least one a subject, so that silence never has to be read."""
    found = [*_yields(plant), *_cameras(plant), *_escapes(plant), *_rollbacks(plant), *_loss(plant), *_latency(plant)]
    return sorted(found, key=lambda finding: _ORDER[finding.level])


def points(value: float) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * value:+.2f} points"


def _line(record: Record) -> str:
    return str(record["line"])


def _yields(plant: Plant) -> list[Finding]:
    found = []
    for line, group in groupby(plant.records("yield_by_line"), key=_line):
        days = list(group)
        weeks = [days[i : i + _WEEK] for i in range(len(days) % _WEEK, len(days), _WEEK)] or [days]
        rates = [_share(week) for week in weeks]
        best, last = max(rates), rates[-1]
        if best - last >= _FELL:
            when = weeks[rates.index(best)][0]["period"]
            since = f"{when:%d %b}" if isinstance(when, datetime) else str(when)
            text = f"{line}: yield is {100 * last:.2f} % in the last week, {points(last - best)} against the week "
            text += f"of {since}."
            found.append(Finding("look", text))
        else:
            found.append(Finding("good", f"{line}: yield is {100 * last:.2f} % in the last week, close to its best."))
    return found


def _share(rows: list[Record]) -> float:
    parts = sum(number(row, "parts") - number(row, "unknown") for row in rows)
    return sum(number(row, "ok") for row in rows) / parts if parts else 0.0


def _cameras(plant: Plant) -> list[Finding]:
    found = []
    rows = plant.records("camera_drift")
    latest = max((str(row["date"]) for row in rows), default="")
    for (line, thing, camera), group in groupby(rows, key=lambda r: (_line(r), str(r["thing"]), str(r["camera"]))):
        days = list(group)
        stood_out = [row for row in days if row["finding"] == "camera"]
        if len(stood_out) < _RUN_DAYS:
            continue
        first, last = str(stood_out[0]["date"]), str(stood_out[-1]["date"])
        worst = max(number(row, "psi") for row in stood_out)
        over = last < latest
        state = f"did from {first} to {last}; it is over" if over else f"has since {first}"
        text = (
            f"{line}, camera {camera} on {thing}: its scores moved away from its own past while the other cameras' did "
            f"not, on {len(stood_out)} days (index up to {worst:.2f}): it {state}. Look at lens, light and mounting."
        )
        found.append(Finding("look" if over else "bad", text))
    return found or [Finding("good", "No camera has moved away from the others.")]


def _escapes(plant: Plant) -> list[Finding]:
    rows = [row for row in plant.records("escapes") if maybe(row, "escapes_high") is not None]
    if not rows:
        return [Finding("look", "Escapes are not known: no labels of the random sample have come back.")]
    passed = sum(number(row, "passed") for row in rows)
    ppm = 1e6 * sum(number(row, "escapes") for row in rows) / passed
    worst = max(rows, key=lambda row: number(row, "escape_ppm"))
    text = (
        f"About {ppm:,.0f} of a million passed parts are bad; the most, {number(worst, 'escape_ppm'):,.0f}, with "
        f"{worst['model_version']} on {worst['line']}."
    )
    return [Finding("look", text)]


def _rollbacks(plant: Plant) -> list[Finding]:
    seen: dict[tuple[str, str], Record] = {}
    for row in plant.records("release_history"):
        if row["event"] == "rolling_back":
            seen.setdefault((_line(row), str(row["release"])), row)
    return [
        Finding("look", f"{line}: {release} was taken back on {str(row['at'])[:10]} ({row['detail'] or 'no reason'}).")
        for (line, release), row in seen.items()
    ]


def _loss(plant: Plant) -> list[Finding]:
    rows = plant.records("loss")
    unexplained = sum(number(row, "unexplained") for row in rows)
    frames = sum(number(row, "frames") for row in rows)
    missing = sum(number(row, "missing") for row in rows)
    if unexplained:
        return [
            Finding("bad", f"{unexplained:,.0f} verdicts are missing and no device says why: see the table of losses.")
        ]
    share = f"{1e6 * missing / frames:,.0f} of a million" if frames else "none"
    return [Finding("good", f"No verdict is missing without an explanation; dropped or given up: {share}.")]


def _latency(plant: Plant) -> list[Finding]:
    rows = plant.records("latency")
    parts, late = sum(number(row, "parts") for row in rows), sum(number(row, "late") for row in rows)
    limit = float(plant.answers["latency"].parameters["limit_us"]) / 1000
    text = f"{1e6 * late / parts if parts else 0:,.0f} of a million verdicts took longer than {limit:g} ms."
    return [Finding("look" if parts and late / parts > _LATE_SHARE else "good", text)]
