"""After SIGKILL in the middle of rollouts the next start finds a verified model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.campaigns.crashes.lifecycle_kills import run_lifecycle_kills

if TYPE_CHECKING:
    from pathlib import Path


def test_a_hundred_kills_leave_no_unverified_model_no_lower_floor_and_lose_no_good_release(tmp_path: Path) -> None:
    result = run_lifecycle_kills(kills=100, seed=7, work_dir=tmp_path)
    assert result.is_clean, result
    assert result.kills == 100
    assert len(result.states) > 4, "kills have to hit the lifecycle in many states"
