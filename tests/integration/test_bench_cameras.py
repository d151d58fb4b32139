"""A short run of `kensa bench cameras` counts correctly."""

from __future__ import annotations

import pytest

from simulator.bench.inspection.dead_cameras import run_dead_cameras
from simulator.bench.inspection.frame_age import KINDS, run_frame_age
from simulator.bench.inspection.live_cameras import to_json
from simulator.paths import DEFAULT_RELEASE

pytestmark = pytest.mark.slow


def test_dead_cameras_hold_up_neither_the_good_ones_nor_the_stop() -> None:
    said: list[str] = []
    result = run_dead_cameras(release=DEFAULT_RELEASE, rounds=1, seconds=10.0, report=said.append)
    [only] = result.rounds
    assert set(only.shares) == {"rtsp", "mjpeg", "v4l2", "folder", "video", "plugin"}
    assert result.worst_share > 0.5, "a generous bound: this machine may be busy"
    assert result.clean_stops == 1
    named = " ".join(only.errors.values())
    for words in ("(404)", "(401)", "refuses connections"):
        assert words in named
    assert "secret" not in named
    assert len(said) == 1
    assert to_json(result, [])["dead"]["stops_in_time"] == 1


def test_each_kind_is_accounted_for_to_the_frame() -> None:
    results = run_frame_age(seconds=3.0, report=lambda _: None)
    assert [result.kind for result in results] == list(KINDS)
    for result in results:
        assert result.inspected > 10
        assert result.captured == result.inspected + sum(result.dropped.values())
        assert result.unaccounted == 0 or result.kind == "v4l2"
