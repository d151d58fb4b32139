"""A rollout waits while the line is not healthy: verdicts that prove nothing judge no candidate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.lifecycle.state.transitions import LifecycleState
from simulator.doubles.lifecycle.lifecycle_harness import LifecycleHarness

if TYPE_CHECKING:
    from pathlib import Path

FLOOD = "500 of the last 500 parts (100.0%) are rejected"


@pytest.mark.parametrize("mode", ["release", "ab"])
def test_nothing_is_promoted_or_compared_on_a_line_that_rejects_everything(tmp_path: Path, mode: str) -> None:
    plant = LifecycleHarness(tmp_path, unhealthy=FLOOD).start()
    plant.desire(plant.publish(), mode=mode)
    for _ in range(150):
        plant.step()
    status = plant.lifecycle.status()
    assert status.state == LifecycleState.SHADOW
    assert FLOOD in (status.alarm or "")
    assert "continues by itself" in (status.alarm or "")
    assert plant.active_version() == "0.0.0"

    plant.unhealthy = None
    if mode == "ab":
        plant.step_until(LifecycleState.AB)
    else:
        plant.step_until_idle()
        assert plant.active_version() == "1.0.0"
    assert plant.lifecycle.status().alarm is None


def test_a_trial_that_is_held_keeps_its_share_and_is_not_blamed_for_the_time(tmp_path: Path) -> None:
    plant = LifecycleHarness(tmp_path).start()
    plant.desire(plant.publish())
    plant.step_until(LifecycleState.TRIAL)
    plant.step()
    share = plant.lifecycle.status().share
    plant.unhealthy = "camera cam: dark: lamp"
    plant.step()
    plant.clock.advance(200 * 3_600.0)  # far beyond limits.max_hours
    for _ in range(20):
        plant.step()
    status = plant.lifecycle.status()
    assert (status.state, status.share, status.refusal) == (LifecycleState.TRIAL, share, None)
    plant.unhealthy = None
    plant.step_until_idle()
    assert plant.active_version() == "1.0.0"


def test_a_person_may_give_a_held_rollout_up(tmp_path: Path) -> None:
    plant = LifecycleHarness(tmp_path, unhealthy=FLOOD).start()
    plant.desire(plant.publish())
    plant.step_until(LifecycleState.SHADOW)
    plant.step()
    plant.lifecycle.rollback("the lamp first")
    plant.step_until_idle()
    assert plant.active_version() == "0.0.0"
    assert plant.lifecycle.status().alarm is None


def test_without_any_model_a_new_one_is_not_held(tmp_path: Path) -> None:
    plant = LifecycleHarness(tmp_path, unhealthy=FLOOD)
    (plant.factory_dir / "model.onnx").unlink()
    plant.start()
    plant.step_until(LifecycleState.NO_MODEL)
    plant.desire(plant.publish())
    plant.step_until_idle()
    assert plant.active_version() == "1.0.0"
