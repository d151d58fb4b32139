"""What the plant's report says and draws, from answers written by hand."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.analytics import plant_charts as charts
from pipeline.analytics.answers import Answer, text_table
from pipeline.analytics.plant import ASKED, Plant
from pipeline.analytics.plant_findings import findings
from pipeline.analytics.plant_page import render
from pipeline.analytics.queries import named

if TYPE_CHECKING:
    from collections.abc import Sequence

DAY = datetime(2026, 3, 2)  # noqa: DTZ001 - the tables' times are UTC without a zone
WINDOW = {"first_day": "2026-03-02", "last_day": "2026-03-22"}


def plant(**rows: Sequence[dict[str, Any]]) -> Plant:
    """The answers with these rows; columns that a row lacks are NULL, queries that are not named are empty."""
    answers = {}
    for name in ASKED:
        query = named(name)
        found = tuple(tuple(row.get(c.name) for c in query.columns) for row in rows.get(name, ()))
        answers[name] = Answer(query, query.bind({}, **WINDOW), found, 0.1)
    return Plant(answers)


def days(oks: Sequence[int], line: str = "press-1") -> list[dict[str, Any]]:
    return [
        {"site": "kyoto", "line": line, "period": DAY + timedelta(days=i), "parts": 1_000, "ok": ok, "unknown": 0,
         "yield": ok / 1_000, "yield_low": ok / 1_000 - 0.01, "yield_high": min(1.0, ok / 1_000 + 0.01)}
        for i, ok in enumerate(oks)
    ]  # fmt: skip


def texts(of: Plant, level: str) -> str:
    return " ".join(finding.text for finding in findings(of) if finding.level == level)


def test_a_yield_that_fell_is_told_with_the_week_it_was_best() -> None:
    found = texts(plant(yield_by_line=days([990] * 7 + [980] * 7 + [950] * 7)), "look")
    assert "press-1: yield is 95.00 % in the last week, -4.00 points against the week of 02 Mar." in found


def test_a_steady_yield_is_good_news() -> None:
    assert "press-1: yield is 99.00 %" in texts(plant(yield_by_line=days([990] * 9)), "good")


def camera(found: Sequence[str], name: str = "left") -> list[dict[str, Any]]:
    return [
        {"site": "kyoto", "line": "press-1", "thing": "press-1-a", "camera": name, "date": date(2026, 3, 2 + i),
         "psi": 0.5 if finding == "camera" else 0.01, "finding": finding}
        for i, finding in enumerate(found)
    ]  # fmt: skip


def test_a_camera_that_stands_out_today_is_the_first_thing_to_know() -> None:
    of = plant(yield_by_line=days([990]), camera_drift=camera(["steady", "camera", "camera", "camera"]))
    first = findings(of)[0]
    assert first.level == "bad"
    assert "camera left on press-1-a" in first.text
    assert "has since 2026-03-03" in first.text


def test_a_camera_that_stood_out_is_history_and_a_single_day_is_chance() -> None:
    over = plant(yield_by_line=days([990]), camera_drift=camera(["camera", "camera", "camera", "steady"]))
    assert "it is over" in texts(over, "look")
    once = plant(yield_by_line=days([990]), camera_drift=camera(["steady", "camera", "steady"]))
    assert "No camera has moved away" in texts(once, "good")


def test_missing_verdicts_without_a_reason_are_bad_and_explained_ones_are_not() -> None:
    row = {"line": "press-1", "frames": 1_000, "missing": 10, "unexplained": 3}
    assert "3 verdicts are missing" in texts(plant(yield_by_line=days([990]), loss=[row]), "bad")
    explained = plant(yield_by_line=days([990]), loss=[row | {"unexplained": 0}])
    assert "dropped or given up: 10,000 of a million" in texts(explained, "good")


def test_escapes_without_labels_are_said_to_be_unknown_and_never_zero() -> None:
    row = {"line": "press-1", "model_version": "1.0.0", "passed": 1_000, "escapes": None, "escapes_high": None}
    of = plant(yield_by_line=days([990]), escapes=[row])
    assert "Escapes are not known" in texts(of, "look")
    assert "not known" in render(of)


def test_a_page_of_nothing_but_a_day_is_whole() -> None:
    page = render(plant(yield_by_line=days([990])))
    assert "No trial ran." in page
    assert "No labels have come back yet." in page
    assert "nan" not in re.sub(r"<[^>]*>", " ", page)
    for tag in ("section", "svg", "table", "ul"):
        assert page.count(f"<{tag}") == page.count(f"</{tag}>")


@pytest.mark.parametrize("low", [0.0, 0.5, 0.949, -3.0])
@pytest.mark.parametrize("span", [1e-9, 0.013, 1.0, 12_345.0])
def test_an_axis_has_a_few_round_ticks_between_its_ends(low: float, span: float) -> None:
    ticks = charts._ticks(low, low + span)
    assert 1 <= len(ticks) <= 8
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in ticks)


def test_a_chart_stays_inside_its_frame_whatever_the_numbers() -> None:
    points = [
        charts.Point(date(2026, 3, 1 + i), value, value - 1, value + 1) for i, value in enumerate([0, 1e6, -5, 3])
    ]
    text = charts.trend({"<b>": points}, [charts.Mark(date(2027, 1, 1), "far & away")], charts.Axis(), "chart")
    numbers = [float(n) for n in re.findall(r"[ ,'](-?\d+\.\d)(?=[ ,'])", text)]
    assert numbers
    assert all(-1 <= n <= 1_081 for n in numbers)
    assert "&lt;b&gt;" in text
    assert "far &amp; away" in text


def test_marks_that_would_run_into_each_other_take_two_rows_and_then_only_a_title() -> None:
    points = [charts.Point(date(2026, 3, 1), 1.0), charts.Point(date(2026, 3, 30), 2.0)]
    marks = [charts.Mark(date(2026, 3, 10), f"release {i} on a line") for i in range(3)]
    text = charts.trend({"a": points}, marks, charts.Axis(), "chart")
    assert text.count("class=marked") == 2
    assert text.count("<title>") == 3


def test_a_table_for_a_terminal_aligns_numbers_to_the_right() -> None:
    text = text_table(("name", "n"), [("a", 1), ("bcd", 1_000), ("e", None)])
    assert text.splitlines() == ["name     n", "a        1", "bcd   1000", "e        –"]
