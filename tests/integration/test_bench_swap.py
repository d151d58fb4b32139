"""`kensa bench swap` on a small scale: it measures what it says, and no frame is lost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from agent.adapters.onnx import OnnxModel
from simulator.bench.inspection.frame_sources import render_pool
from simulator.bench.inspection.model_swap import SwapSettings, run_rate
from simulator.bench.inspection.staged_releases import measure_second_model, stage_release
from simulator.doubles.network.mqtt_broker import open_broker
from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from pathlib import Path

RELEASE = ROOT / "releases" / "default"


def test_models_come_and_go_under_a_line_and_no_frame_is_lost(tmp_path: Path) -> None:
    staged = [stage_release(RELEASE, tmp_path / version, version=version) for version in ("1.0.1", "1.0.2")]
    first, second = (OnnxModel.load(s.folder).identity for s in staged)
    assert first.sha256 != second.sha256, "other bytes"
    settings = SwapSettings(release=RELEASE, swaps=2, cycle_s=1.0, window_s=0.4, phase_s=0.4, rollbacks=1)
    with open_broker() as broker:
        result = run_rate(settings, fps=60, staged=staged, frames=render_pool(frames=4), broker=broker)
    assert result.lost == 0
    assert result.swaps == 2
    assert result.frames > 200
    assert 0 < result.near_frames < result.frames
    assert result.shadowed > 0
    assert math.isfinite(result.ratio)
    rollback = max(r.batches for r in (*result.reverts, *result.trial_ends))
    assert rollback <= result.workers, "the next batch after the decision is judged by the old choice"
    assert f"p99_ratio_{result.fps}fps" in result.to_json()
    assert 0 < measure_second_model(staged) < 100
