"""The benchmark of the analytics, on a hundredth of its rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pipeline.analytics.queries import catalogue
from simulator.bench.query_cost import AnalyticsSettings, run_analytics
from simulator.history.generate import generate_history
from simulator.history.timeline import HistorySettings

if TYPE_CHECKING:
    from pathlib import Path


def test_every_query_is_measured_in_a_process_of_its_own_and_stays_within_its_memory(tmp_path: Path) -> None:
    generate_history(tmp_path, HistorySettings(rows=100_000, days=12))
    told: list[str] = []
    result = run_analytics(AnalyticsSettings(rounds=1, data=tmp_path), report=told.append)
    figures = json.loads(json.dumps(result.to_json()))
    assert [cost["query"] for cost in figures["queries"]] == list(catalogue())
    assert 99_000 < result.rows < 100_000
    assert len(told) == len(catalogue())
    for cost in result.queries:
        assert cost.answer_rows > 0
        assert 0 < cost.seconds <= result.slowest_s
        assert 20 < cost.peak_mb <= result.peak_mb < 2_000
