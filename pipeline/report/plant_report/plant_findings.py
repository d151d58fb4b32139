"""States what a plant manager should know, in sentences, the most urgent first.

Pure: query results in, sentences out. Promise: at most `MAX_FINDINGS` sentences, none on fewer parts, labels or days
than it needs (the `_MIN_` constants), no estimate without its interval, and nothing green where parts are not let
through. A subject with too little data is left out; `insufficient_data` names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Final, Literal

from agent.sequential_tests import wilson
from pipeline.report.plant_report.plant_data import number, optional_number
from pipeline.report.text_format import count_with_noun, percentage_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.report.plant_report.plant_data import PlantData, Record

Level = Literal["bad", "warning", "good"]

MAX_FINDINGS: Final = 5  # sentences; the cards below them show the rest
_YIELD_DROP: Final = 0.005  # of yield, last week against the best one: half a point is worth a sentence
_MIN_DRIFT_DAYS: Final = 3  # a camera must stand out on so many days: one day may be chance
_WEEK: Final = 7
_LATE_SHARE: Final = 0.001
_MIN_STOPPED_PARTS: Final = 20  # parts, to state that a line passes none: after 20 at most 16 % could be passed (95 %)
_MIN_PASSED_PARTS: Final = 10_000  # parts, to question that a line rejects none: below 0.04 % are then rejected (95 %)
_MIN_PARTS: Final = 200  # inspected in a week, or by a camera on a day, for a share of them or an index of drift
_MIN_VERDICTS: Final = 1_000  # for shares of a thousandth: missing and late verdicts
MIN_LABELS: Final = 50  # of the random sample, or of the rejected
_GOOD_YIELD: Final = 0.9  # below it a steady yield is no good news
_FEW_ESCAPES: Final = 1_000.0  # of a million: with the interval's upper end below it escapes are good news
_ORDER: Final[dict[Level, int]] = {"bad": 0, "warning": 1, "good": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence."""

    level: Level
    text: str


def findings(plant: PlantData) -> list[Finding]:
    """The sentences, at most `MAX_FINDINGS`, the most urgent first."""
    return _all(plant)[:MAX_FINDINGS]


def omitted_count(plant: PlantData) -> int:
    """How many sentences the page has no room for; they are the least urgent."""
    return max(0, len(_all(plant)) - MAX_FINDINGS)


def _all(plant: PlantData) -> list[Finding]:
    found = [*_yields(plant), *_cameras(plant), *_escapes(plant), *_rollbacks(plant), *_loss(plant), *_latency(plant)]
    return sorted(found, key=lambda finding: _ORDER[finding.level])


def insufficient_data(plant: PlantData) -> list[str]:
    """Subjects on which there is too little data for a sentence, with what there is."""
    short = []
    for line, group in groupby(plant.records("yield_by_line"), key=_line):
        parts = _inspected_count(last := _weeks(list(group))[-1])
        if parts < _MIN_PARTS and not _passes_nothing(last):
            short.append(f"the yield of {line} ({count_with_noun(parts, 'part')} in its last week)")
    labels = sum(number(row, "labelled_passed") for row in _labelled(plant))
    if 0 < labels < MIN_LABELS:
        short.append(f"bad parts that were let through ({count_with_noun(labels, 'label')} of the random sample)")
    for query, column, about in (("loss", "frames", "missing verdicts"), ("latency", "parts", "late verdicts")):
        count = sum(number(row, column) for row in plant.records(query))
        if 0 < count < _MIN_VERDICTS:
            short.append(f"{about} ({count_with_noun(count, 'verdict')})")
    return short


def _line(record: Record) -> str:
    return str(record["line"])


# --- yield ------------------------------------------------------------------------------------------------------------


def _yields(plant: PlantData) -> list[Finding]:
    found, steady = [], []
    for line, group in groupby(plant.records("yield_by_line"), key=_line):
        weeks = _weeks(list(group))
        whole = [row for week in weeks for row in week]
        if (odd := _implausible_yield(line, weeks[-1], whole)) is not None:
            found.append(odd)
            continue
        if _inspected_count(weeks[-1]) < _MIN_PARTS:
            continue
        enough = [week for week in weeks if _inspected_count(week) >= _MIN_PARTS]
        best, last = max(enough, key=_yield_share), weeks[-1]
        text = f"{line}: yield is {100 * _yield_share(last):.2f} % in the last {_span(last)}"
        if _has_fallen(best, last):
            when = best[0]["period"]
            since = f"{when:%d %b}" if isinstance(when, datetime) else str(when)
            fell = percentage_points(_yield_share(last) - _yield_share(best))
            found.append(Finding("warning", f"{text}, {fell} against the week of {since}."))
        elif _yield_share(last) < _GOOD_YIELD:
            stopped = (
                f"of {count_with_noun(_inspected_count(last), 'part')} {_stopped_count(last):,.0f} were not let through"
            )
            found.append(Finding("warning", f"{text}: {stopped}. Check what is rejected."))
        else:
            steady.append(text + (", close to its best" if len(enough) > 1 else ""))
    return [*found, *([Finding("good", "; ".join(steady) + ".")] if steady else [])]


def _implausible_yield(line: str, last: list[Record], whole: list[Record]) -> Finding | None:
    """A line that passes nothing, inspects nothing or passes everything: its yield is not a sign of quality."""
    parts, inspected = sum(number(row, "parts") for row in last), _inspected_count(last)
    if parts >= _MIN_STOPPED_PARTS and inspected == 0:
        return Finding(
            "bad",
            f"{line}: none of the last {count_with_noun(parts, 'part')} could be inspected. Check camera and model.",
        )
    if _passes_nothing(last):
        count = count_with_noun(inspected, "part")
        text = f"{line}: not one of the last {count} was let through. Check camera, light and model."
        return Finding("bad", text)
    if _inspected_count(whole) >= _MIN_PASSED_PARTS and _yield_share(whole) == 1.0:
        count = count_with_noun(_inspected_count(whole), "part")
        text = f"{line}: every one of {count} was let through. Run a bad part past it: is it found?"
        return Finding("warning", text)
    return None


def _passes_nothing(rows: list[Record]) -> bool:
    return _inspected_count(rows) >= _MIN_STOPPED_PARTS and _yield_share(rows) == 0.0


def _weeks(days: list[Record]) -> list[list[Record]]:
    """Whole weeks up to the last day; all days where there are fewer than a week."""
    return [days[i : i + _WEEK] for i in range(len(days) % _WEEK, len(days), _WEEK)] or [days]


def _span(rows: list[Record]) -> str:
    return "week" if len(rows) >= _WEEK else count_with_noun(len(rows), "day") if len(rows) > 1 else "day"


def _inspected_count(rows: list[Record]) -> float:
    return sum(number(row, "parts") - number(row, "unknown") for row in rows)


def _stopped_count(rows: list[Record]) -> float:
    return _inspected_count(rows) - sum(number(row, "ok") for row in rows)


def _yield_share(rows: list[Record]) -> float:
    parts = _inspected_count(rows)
    return sum(number(row, "ok") for row in rows) / parts if parts else 0.0


def _has_fallen(best: list[Record], last: list[Record]) -> bool:
    """Whether yield fell by half a point at least and by more than chance: the two 95 % intervals do not touch."""
    if _yield_share(best) - _yield_share(last) < _YIELD_DROP:
        return False
    (low, _), (_, high) = (
        wilson(round(_inspected_count(r) - _stopped_count(r)), round(_inspected_count(r))) for r in (best, last)
    )
    return high < low


# --- cameras ----------------------------------------------------------------------------------------------------------


def _cameras(plant: PlantData) -> list[Finding]:
    found = []
    rows = [row for row in plant.records("camera_drift") if (optional_number(row, "parts") or _MIN_PARTS) >= _MIN_PARTS]
    if len({str(row["date"]) for row in rows}) < _MIN_DRIFT_DAYS:
        return []
    latest = max(str(row["date"]) for row in rows)
    names = {(_line(row), str(row["camera"])) for row in rows}
    for (line, thing, camera), group in groupby(rows, key=lambda r: (_line(r), str(r["thing"]), str(r["camera"]))):
        stood_out = [row for row in group if row["finding"] == "camera"]
        if len(stood_out) >= _MIN_DRIFT_DAYS:
            has_others = sum(other == line for other, _ in names) > 1
            found.append(
                _drift_finding(f"{line}, camera {camera} on {thing}", stood_out, latest, has_others=has_others)
            )
    if found:
        return found
    subject = (
        "No camera has moved away from the others." if len(names) > 1 else "No camera has moved away from its own past."
    )
    return [Finding("good", subject)]


def _drift_finding(where: str, stood_out: Sequence[Record], latest: str, *, has_others: bool) -> Finding:
    first, last = str(stood_out[0]["date"]), str(stood_out[-1]["date"])
    worst = max(number(row, "psi") for row in stood_out)
    over = last < latest
    state = f"did from {first} to {last}; it is over" if over else f"has since {first}"
    others = " while the other cameras' did not" if has_others else ""
    remedy = "Check lens, light and mounting" if has_others else "Check lens, light, mounting and material"
    text = (
        f"{where}: its scores moved away from its own past{others}, on "
        f"{count_with_noun(len(stood_out), 'day')} (index up to "
        f"{worst:.2f}): it {state}. {remedy}."
    )
    return Finding("warning" if over else "bad", text)


# --- escapes ----------------------------------------------------------------------------------------------------------


def _labelled(plant: PlantData) -> list[Record]:
    return [row for row in plant.records("escapes") if optional_number(row, "escapes_high") is not None]


def escapes(plant: PlantData) -> tuple[float, float, float] | None:
    """Bad parts of a million that were let through: estimate, low and high; None with too few labels.

    Sums over versions and lines, of the ends of their intervals too: the sum covers at least as often.
    """
    rows = _labelled(plant)
    passed = sum(number(row, "passed") for row in rows)
    if sum(number(row, "labelled_passed") for row in rows) < MIN_LABELS or not passed:
        return None
    names = ("escapes", "escapes_low", "escapes_high")
    estimate, low, high = (1e6 * sum(number(row, name) for row in rows) / passed for name in names)
    return estimate, low, high


def _escapes(plant: PlantData) -> list[Finding]:
    rows = _labelled(plant)
    if not rows:
        return [Finding("warning", "Escapes are not known: no labels of the random sample have come back.")]
    known = escapes(plant)
    if known is None:
        return []
    estimate, low, high = known
    labels = count_with_noun(sum(number(row, "labelled_passed") for row in rows), "label")
    bad = f"about {estimate:,.0f} are bad ({low:,.0f} to {high:,.0f}, from {labels})"
    text = f"Of a million parts that were let through {bad}"
    if not estimate:
        most = f"of a million at most {high:,.0f} are (95 % interval)"
        text = f"None of {labels} of parts that were let through is bad: {most}"
    worst = max(rows, key=lambda row: number(row, "escape_ppm"))
    if len(rows) > 1 and number(worst, "labelled_passed") >= MIN_LABELS and number(worst, "escape_ppm") > estimate:
        text += f"; the most with {worst['model_version']} on {worst['line']}"
    return [Finding("good" if high <= _FEW_ESCAPES else "warning", text + ".")]


# --- releases, losses, time -------------------------------------------------------------------------------------------


def _rollbacks(plant: PlantData) -> list[Finding]:
    seen: dict[tuple[str, str], Record] = {}
    for row in plant.records("release_history"):
        if row["event"] == "rolling_back":
            seen.setdefault((_line(row), str(row["release"])), row)
    return [
        Finding(
            "warning", f"{line}: {release} was rolled back on {str(row['at'])[:10]} ({_reason_text(row['detail'])})."
        )
        for (line, release), row in seen.items()
    ]


def _reason_text(detail: object) -> str:
    """A reason code as text."""
    return str(detail).replace("_", " ") if detail else "no reason given"


def _loss(plant: PlantData) -> list[Finding]:
    rows = plant.records("loss")
    unexplained = sum(number(row, "unexplained") for row in rows)
    frames = sum(number(row, "frames") for row in rows)
    missing = sum(number(row, "missing") for row in rows)
    if unexplained:
        are = "verdict is" if round(unexplained) == 1 else "verdicts are"
        return [Finding("bad", f"{unexplained:,.0f} {are} missing and no device reports why: see the table of losses.")]
    if frames < _MIN_VERDICTS:
        return []
    share = f"{1e6 * missing / frames:,.0f} of a million" if missing else f"none of {frames:,.0f}"
    return [Finding("good", f"No verdict is missing without an explanation; dropped or given up: {share}.")]


def _latency(plant: PlantData) -> list[Finding]:
    rows = plant.records("latency")
    parts, late = sum(number(row, "parts") for row in rows), sum(number(row, "late") for row in rows)
    if parts < _MIN_VERDICTS:
        return []
    limit = float(plant.results["latency"].parameters["limit_us"]) / 1000
    share = (
        f"{1e6 * late / parts:,.0f} of a million verdicts" if late else f"None of {count_with_noun(parts, 'verdict')}"
    )
    return [Finding("warning" if late / parts > _LATE_SHARE else "good", f"{share} took longer than {limit:g} ms.")]
