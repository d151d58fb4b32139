"""The simulated past: the same from the same settings, and as the plan says."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from simulator.history.generate import generate_history
from simulator.history.part_rows import quoted
from simulator.history.timeline import BAD, CANARY, HistorySettings, line_days
from tests.kits.cloud.analytics import Past

if TYPE_CHECKING:
    from pathlib import Path


def rows(folder: Path, settings: HistorySettings, threads: int, table: str = "verdicts") -> list[dict[str, Any]]:
    generate_history(folder, settings, threads=threads)
    found = Past(folder, settings).rows(table)
    return sorted(found, key=lambda row: (row["key"], row["replay"]))


def test_equal_settings_give_equal_rows_on_any_number_of_threads(tmp_path: Path) -> None:
    settings = HistorySettings(rows=2_000, days=3, seed=5)
    one, two = rows(tmp_path / "a", settings, 1), rows(tmp_path / "b", settings, 2)
    assert one == two
    other = rows(tmp_path / "c", HistorySettings(rows=2_000, days=3, seed=6), 1)
    assert [row["score"] for row in one] != [row["score"] for row in other]


def test_chances_of_different_kinds_are_independent(tmp_path: Path) -> None:
    """A sample that avoided the escapes, or loved them, would make every estimate wrong."""
    settings = HistorySettings(rows=60_000, days=2, sample_rate=0.5, labelled=1.0, lost=0.0, dropped=0.0)
    generate_history(tmp_path, settings)
    past = Past(tmp_path, settings)
    sampled = {row["key"] for row in past.rows("labels") if row["sample_rate"] is not None}
    escaped = [
        row["key"] in sampled
        for row in past.verdicts
        if row["outcome"] == "ok" and (row["line"], row["camera"], row["boot_epoch"], row["seq"]) in past.truth
    ]
    assert len(escaped) >= 8
    assert 0.15 < sum(escaped) / len(escaped) < 0.85


def test_rows_days_and_cameras_are_as_many_as_were_asked_for(tmp_path: Path) -> None:
    settings = HistorySettings(rows=3_000, days=4, lost=0.0, dropped=0.0, duplicates=0.0)
    history = generate_history(tmp_path, settings)
    past = Past(tmp_path, settings)
    assert history.verdicts == len(past.verdicts) == 3_000
    assert {row["day"] for row in past.verdicts} == {
        (settings.first_day + timedelta(days=i)).isoformat() for i in range(4)
    }
    assert len({(row["line"], row["camera"]) for row in past.verdicts}) == 12
    beats = past.rows("heartbeats")
    assert all(row["captured"] == row["inspected"] + row["dropped"] + row["pending"] for row in beats)


def test_the_bad_version_is_tried_on_the_canary_only_and_never_judges() -> None:
    plan = list(line_days(HistorySettings(rows=1_000, days=90)))
    assert {shift.line.name for shift in plan if shift.challenger is BAD} == {CANARY.name}
    assert all(shift.model is not BAD for shift in plan)
    assert sum(shift.rows for shift in plan) == 1_000


@pytest.mark.parametrize("changed", [{"rows": 0}, {"days": 0}, {"days": 9_999}, {"lines": ()}])
def test_settings_that_give_no_history_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a history needs"):
        HistorySettings(**changed)


def test_an_older_history_is_not_written_over(tmp_path: Path) -> None:
    generate_history(tmp_path, HistorySettings(rows=30, days=1))
    with pytest.raises(FileExistsError, match="empty folder"):
        generate_history(tmp_path, HistorySettings(rows=30, days=1))


def test_a_name_with_a_quote_does_not_get_into_sql() -> None:
    with pytest.raises(ValueError, match="no name"):
        quoted("press'1")
