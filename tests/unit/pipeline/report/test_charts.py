"""The charts: inside their frames, with round ticks, escaped, and empty without data."""

from __future__ import annotations

import re
from datetime import date

import pytest

from pipeline.report import charts


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
    text = charts.trend_chart(
        {"<b>": points}, [charts.Annotation(date(2027, 1, 1), "far & away")], charts.ValueFormat(), "chart"
    )
    numbers = [float(n) for n in re.findall(r"[ ,'](-?\d+\.\d)(?=[ ,'])", text)]
    assert numbers
    assert all(-1 <= n <= 1_081 for n in numbers)
    assert "&lt;b&gt;" in text
    assert "far &amp; away" in text


def test_marks_that_would_run_into_each_other_take_two_rows_and_then_only_a_title() -> None:
    points = [charts.Point(date(2026, 3, 1), 1.0), charts.Point(date(2026, 3, 30), 2.0)]
    marks = [charts.Annotation(date(2026, 3, 10), f"release {i} on a line") for i in range(3)]
    text = charts.trend_chart({"a": points}, marks, charts.ValueFormat(), "chart")
    assert text.count("class=marked") == 2
    assert text.count("<title>") == 3


def test_a_chart_without_data_is_empty() -> None:
    assert not charts.trend_chart({}, [], charts.ValueFormat(), "trend")
    assert not charts.pareto_chart([], "pareto")
    assert not charts.interval_chart([], charts.ValueFormat(), "intervals")
    assert not charts.heatmap({}, "drift")
    assert not charts.precision_recall_curves({}, "curves")


def test_differences_are_drawn_around_zero_with_their_margins() -> None:
    rows = [
        charts.IntervalRow("all", 0.01, -0.02, 0.04, "good", margin=0.03),
        charts.IntervalRow("<b>", -0.2, -0.3, -0.1, "bad", margin=0.05),
    ]
    text = charts.interval_chart(rows, charts.ValueFormat(100.0, None), "slices", is_difference=True, note="points")

    assert "&lt;b&gt;" in text
    assert text.count("class='zero'") == 3
    assert text.count("class='fill good'") == text.count("class='fill bad'") == 1
    assert ">+20</text>" in text
    assert ">-20</text>" in text


def test_a_score_of_one_is_in_the_last_bar_and_every_threshold_has_its_line() -> None:
    text = charts.score_histogram({"ok": [0.0, 0.5], "defect": [1.0]}, [0.25, 0.75], "score")

    assert text.count("<rect") == 3
    assert text.count("class='mark'") == 2
    assert "threshold 0.750" in text
