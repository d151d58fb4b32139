"""The findings and charts of the plant's report, from query results written by hand."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pipeline.analytics.queries import get_query
from pipeline.analytics.query_result import QueryResult, text_table
from pipeline.report.plant_report.plant_data import REPORT_QUERIES, PlantData
from pipeline.report.plant_report.plant_findings import Finding, findings
from pipeline.report.plant_report.plant_page import render_plant_report

if TYPE_CHECKING:
    from collections.abc import Sequence

DAY = datetime(2026, 3, 2)  # noqa: DTZ001 - the tables' times are UTC without a zone
WINDOW = {"first_day": "2026-03-02", "last_day": "2026-03-22"}


def plant(**rows: Sequence[dict[str, Any]]) -> PlantData:
    """The answers with these rows; columns that a row lacks are NULL, queries that are not named are empty."""
    answers = {}
    for name in REPORT_QUERIES:
        query = get_query(name)
        found = tuple(tuple(row.get(c.name) for c in query.columns) for row in rows.get(name, ()))
        answers[name] = QueryResult(query, query.bind({}, **WINDOW), found, 0.1)
    return PlantData(answers)


def days(oks: Sequence[int], line: str = "press-1") -> list[dict[str, Any]]:
    return [
        {"site": "kyoto", "line": line, "period": DAY + timedelta(days=i), "parts": 1_000, "ok": ok, "unknown": 0,
         "yield": ok / 1_000, "yield_low": ok / 1_000 - 0.01, "yield_high": min(1.0, ok / 1_000 + 0.01)}
        for i, ok in enumerate(oks)
    ]  # fmt: skip


def texts(of: PlantData, level: str) -> str:
    return " ".join(finding.text for finding in findings(of) if finding.level == level)


def test_a_yield_that_fell_is_told_with_the_week_it_was_best() -> None:
    found = texts(plant(yield_by_line=days([990] * 7 + [980] * 7 + [950] * 7)), "warning")
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
    assert "it is over" in texts(over, "warning")
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
    assert "Escapes are not known" in texts(of, "warning")
    assert "not known" in render_plant_report(of)


# --- no untruth -------------------------------------------------------------------------------------------------------


def of_day(parts: int, ok: int, *, unknown: int = 0, line: str = "press-1") -> list[dict[str, Any]]:
    inspected = parts - unknown
    return [
        {"site": "kyoto", "line": line, "period": DAY, "parts": parts, "ok": ok, "unknown": unknown,
         "yield": ok / inspected if inspected else None, "yield_low": 0.0, "yield_high": 1.0}
    ]  # fmt: skip


def test_a_line_that_rejects_every_part_is_bad_news_first_and_nothing_about_its_yield_is_green() -> None:
    of = plant(yield_by_line=of_day(209, 0), latency=[{"parts": 209, "late": 0, "p99_us": 4_000}])

    assert findings(of)[0] == Finding(
        "bad", "press-1: not one of the last 209 parts was let through. Check camera, light and model."
    )
    assert "yield" not in texts(of, "good")


def test_a_line_whose_parts_are_all_unknown_or_all_passed_is_no_good_news_either() -> None:
    unknown = plant(yield_by_line=of_day(300, 0, unknown=300))
    assert "none of the last 300 parts could be inspected" in texts(unknown, "bad")

    passed = plant(yield_by_line=of_day(20_000, 20_000))
    assert "every one of 20,000 parts was let through" in texts(passed, "warning")
    assert "yield" not in texts(passed, "good")


def test_a_steady_low_yield_is_not_green() -> None:
    assert "yield is 60.00 % in the last week" in texts(plant(yield_by_line=days([600] * 14)), "warning")


def test_twelve_parts_make_no_finding_and_the_page_says_what_lacks_data() -> None:
    row = {"line": "press-1", "model_version": "1.0.0", "passed": 11, "labelled_passed": 1, "escapes": 0.0,
           "escapes_low": 0.0, "escapes_high": 9.0, "escape_ppm": 0.0}  # fmt: skip
    of = plant(
        yield_by_line=of_day(12, 11),
        escapes=[row],
        loss=[{"line": "press-1", "frames": 12, "missing": 0, "unexplained": 0}],
        latency=[{"thing": "a", "date": date(2026, 3, 2), "parts": 12, "late": 0, "p99_us": 4_000}],
        camera_drift=camera(["steady"]),
    )

    assert findings(of) == []
    page = render_plant_report(of)
    assert "the yield of press-1 (12 parts in its last week)" in page
    assert "bad parts that were let through (1 label of the random sample)" in page
    assert "of a million verdicts" not in page
    assert "0 of a million" not in page


def test_a_fall_of_yield_within_chance_is_none() -> None:
    small = [{**day, "parts": 30, "ok": ok} for day, ok in zip(days([30] * 14), [30] * 7 + [29] * 7, strict=True)]

    assert "against the week" not in texts(plant(yield_by_line=small), "warning")


def test_no_escape_among_the_labels_stands_with_its_interval() -> None:
    row = {"line": "press-1", "model_version": "1.0.0", "passed": 41_300, "labelled_passed": 400, "escapes": 0.0,
           "escapes_low": 0.0, "escapes_high": 392.0, "escape_ppm": 0.0}  # fmt: skip
    of = plant(yield_by_line=days([990]), escapes=[row])

    assert "None of 400 labels of parts that were let through is bad: of a million at most 9,492" in texts(
        of, "warning"
    )
    assert "<b>0 to 9,492</b>" in render_plant_report(of)


def test_few_escapes_are_good_news_only_when_the_whole_interval_says_so() -> None:
    row = {"line": "press-1", "model_version": "1.0.0", "passed": 1e6, "labelled_passed": 90_000, "escapes": 120.0,
           "escapes_low": 70.0, "escapes_high": 200.0, "escape_ppm": 120.0}  # fmt: skip

    assert "about 120 are bad (70 to 200, from 90,000 labels)" in texts(
        plant(yield_by_line=days([990]), escapes=[row]), "good"
    )


def test_a_line_with_one_camera_has_no_other_cameras() -> None:
    steady = plant(yield_by_line=days([990]), camera_drift=camera(["steady"] * 5))
    assert "No camera has moved away from its own past." in texts(steady, "good")
    moved = plant(yield_by_line=days([990]), camera_drift=camera(["camera"] * 5))
    assert "moved away from its own past, on 5 days" in texts(moved, "bad")
    for of in (steady, moved):
        page = render_plant_report(of)
        assert "other" not in re.sub(r"<style>.*?</style>", "", page.split("How this was made")[0])
        assert "The camera against its own past" in page


def test_two_cameras_are_compared_with_each_other() -> None:
    rows = [*camera(["camera"] * 5), *camera(["steady"] * 5, "right")]
    of = plant(yield_by_line=days([990]), camera_drift=rows)

    assert "while the other cameras' did not" in texts(of, "bad")


def test_there_are_five_sentences_at_most_and_the_page_says_how_many_more_there_are() -> None:
    rows = [row for i in range(9) for row in of_day(500, 0, line=f"press-{i}")]
    of = plant(yield_by_line=rows)

    assert [finding.level for finding in findings(of)] == ["bad"] * 5
    assert "5 less urgent findings more" in render_plant_report(of)


def test_one_of_something_is_not_called_several() -> None:
    of = plant(
        yield_by_line=of_day(1, 1),
        loss=[{"line": "press-1", "frames": 2_000, "missing": 1, "unexplained": 1}],
    )

    assert "1 verdict is missing and no device reports why" in texts(of, "bad")
    page = render_plant_report(of)
    assert "1 line: press-1" in page
    assert "<b>1</b><span>part inspected</span>" in page
    assert "<b>1 of 2,000</b><span>verdict missing</span>" in page


def test_a_single_day_is_drawn() -> None:
    page = render_plant_report(plant(yield_by_line=of_day(209, 0)))

    assert "<circle class='fill c0'" in page.split("<h2>Yield</h2>")[1].split("</section>")[0]
    assert "3 Mar" not in page, "a day that is not there has no name on the axis"


def test_equal_data_give_equal_bytes_and_texts_of_the_tables_are_escaped() -> None:
    of = plant(yield_by_line=days([990] * 9, line="<script>alert('x')</script>"))

    page = render_plant_report(of)
    assert page == render_plant_report(of)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_page_of_nothing_but_a_day_is_whole() -> None:
    page = render_plant_report(plant(yield_by_line=days([990])))
    assert "No trial ran." in page
    assert "No labels have come back yet." in page
    assert "nan" not in re.sub(r"<[^>]*>", " ", page)
    for tag in ("section", "svg", "table", "ul"):
        assert page.count(f"<{tag}") == page.count(f"</{tag}>")


def test_a_table_for_a_terminal_aligns_numbers_to_the_right() -> None:
    text = text_table(("name", "n"), [("a", 1), ("bcd", 1_000), ("e", None)])
    assert text.splitlines() == ["name     n", "a        1", "bcd   1000", "e        –"]
