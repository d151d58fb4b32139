"""In every state of the lifecycle, whatever happens, the line keeps a verified model."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

import pytest

from agent.lifecycle.state.transitions import RESTING_STATES, LifecycleState
from simulator.doubles.lifecycle.fake_repository import RepositoryFault, SimulatedKill
from simulator.doubles.lifecycle.lifecycle_harness import (
    BoundaryFault,
    LifecycleHarness,
    full_disk,
    ignore_boundary,
    read_only_disk,
)
from tests.kits.lifecycle_disk import quick_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.release_records import ReleaseRef

KILLS = [
    "journal: before",
    "journal: beside",
    "journal: between",
    "journal: floor",
    "journal: after",
    "store: synced",
    "store: moved",
    "store: adopted",
    "slot: before",
    "slot: after",
]


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_disk() as path:
        yield path


def bring_to(plant: LifecycleHarness, state: LifecycleState) -> ReleaseRef:
    """Let a release be active, except in NO_MODEL, and another one be on its way in `state`."""
    if state is LifecycleState.NO_MODEL:
        (plant.factory_dir / "model.onnx").write_bytes(b"broken")
        plant.start()
        plant.step_until(LifecycleState.NO_MODEL)
        return plant.publish()
    plant.start()
    plant.desire(plant.publish())
    plant.step_until_idle()
    candidate = plant.publish()
    if state is LifecycleState.IDLE:
        return candidate
    plant.desire(candidate, mode="ab" if state is LifecycleState.AB else "release")
    if state is LifecycleState.ROLLING_BACK:
        plant.step_until(LifecycleState.SHADOW)
        plant.lifecycle.rollback("a test")
    plant.step_until(state)
    return candidate


def go_on(plant: LifecycleHarness, *, steps: int = 60) -> None:
    """Step until rest, a comparison that stays, or a kill; nothing that must not be is there after any step."""
    compared = 0
    for _ in range(steps):
        plant.step()
        assert plant.violations() == []
        state = plant.lifecycle.status().state
        compared += state == LifecycleState.AB
        if compared > 5 or (state in RESTING_STATES and not plant.record().wanted):
            return


def keep_stopping(plant: LifecycleHarness, done: threading.Event) -> None:
    """End what hangs, as every request does, and the end of the agent."""
    while not done.wait(0.02):
        plant.lifecycle._deps.stop.set()


def finish(plant: LifecycleHarness, candidate: ReleaseRef) -> None:
    """Without faults it ends, and the line has a model."""
    plant.boundary_fault = ignore_boundary
    go_on(plant, steps=400)
    if plant.lifecycle.status().state is LifecycleState.AB:
        plant.lifecycle.stop_ab()
        go_on(plant)
    status = plant.lifecycle.status()
    if plant.active_version() != candidate.version and status.desired is None:
        plant.desire(candidate)
        go_on(plant, steps=400)
    assert plant.lifecycle.status().state in RESTING_STATES
    assert plant.active_version() in {"1.0.0", "2.0.0"}


@pytest.mark.parametrize("boundary", KILLS)
@pytest.mark.parametrize("state", list(LifecycleState))
def test_a_kill_in_any_state_at_any_boundary_leaves_a_verified_model(
    folder: Path, state: LifecycleState, boundary: str
) -> None:
    plant = LifecycleHarness(folder)
    candidate = bring_to(plant, state)
    plant.boundary_fault = BoundaryFault(boundary)
    if state in RESTING_STATES:
        plant.desire(candidate)
    try:
        go_on(plant)
    except SimulatedKill:
        plant.boundary_fault = ignore_boundary
        plant.start()
        assert plant.violations() == []
    finish(plant, candidate)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("state", list(LifecycleState))
def test_a_disk_that_refuses_in_any_state_stops_the_lifecycle_and_not_the_line(
    folder: Path, state: LifecycleState, number: int
) -> None:
    plant = LifecycleHarness(folder)
    candidate = bring_to(plant, state)
    before, serving = plant.record(), plant.active_version()
    plant.boundary_fault = BoundaryFault("journal: b", os_errno=number, is_persistent=True)
    if state in RESTING_STATES:
        plant.desire(candidate)
    if state is LifecycleState.AB:
        plant.lifecycle.promote()  # a comparison writes nothing by itself
    for _ in range(10):
        plant.step()
        assert plant.violations() == []
        assert plant.active_version() == serving
    assert plant.record() == before
    assert "cannot keep its journal" in str(plant.lifecycle.status().alarm)
    plant.boundary_fault = ignore_boundary
    go_on(plant, steps=400)
    finish(plant, candidate)
    assert plant.active_version() != "0.0.0"


@pytest.mark.parametrize("disk", [full_disk("store"), read_only_disk("store")], ids=["full", "read-only"])
def test_a_store_that_cannot_be_written_is_an_alarm_and_is_tried_again(folder: Path, disk: BoundaryFault) -> None:
    plant = LifecycleHarness(folder)
    candidate = bring_to(plant, LifecycleState.STAGED)
    plant.boundary_fault = disk
    for _ in range(10):
        plant.step()
    assert "store of releases" in str(plant.lifecycle.status().alarm)
    assert plant.active_version() == "1.0.0"
    finish(plant, candidate)
    assert plant.active_version() == candidate.version


@pytest.mark.parametrize(
    "fault",
    [
        RepositoryFault.ERROR,
        RepositoryFault.NO_SPACE,
        RepositoryFault.KILL,
        RepositoryFault.KILL_LATE,
        RepositoryFault.HANG,
    ],
)
@pytest.mark.parametrize("port", ["fetch", "run_self_test"])
@pytest.mark.parametrize("state", list(LifecycleState))
def test_whatever_the_ports_do_in_any_state_the_line_keeps_a_verified_model(
    folder: Path, state: LifecycleState, port: str, fault: RepositoryFault
) -> None:
    plant = LifecycleHarness(folder)
    candidate = bring_to(plant, state)
    plant.repository.inject(port, fault)
    if state in RESTING_STATES:
        plant.desire(candidate)
    done = threading.Event()
    impatient = threading.Thread(target=keep_stopping, args=(plant, done))
    if fault is RepositoryFault.HANG:
        impatient.start()
    try:
        go_on(plant)
    except SimulatedKill:
        plant.start()
    finally:
        done.set()
    plant.repository.faults.clear()
    assert plant.violations() == []
    finish(plant, candidate)


def test_a_trial_whose_refusal_cannot_be_written_down_is_off_the_line_all_the_same(folder: Path) -> None:
    plant = LifecycleHarness(folder)
    candidate = bring_to(plant, LifecycleState.TRIAL)
    plant.step()
    plant.boundary_fault = full_disk()
    for _ in range(10):
        plant.step(failing=True)
    lease = plant.slot.lease()
    assert lease is not None
    assert lease.trial is None
    assert plant.record().state is LifecycleState.TRIAL
    plant.boundary_fault = ignore_boundary
    plant.step_until_idle()
    assert [bad["digest"] for bad in plant.lifecycle.deny_list()] == [candidate.digest]
    assert plant.active_version() == "1.0.0"


def test_a_person_gets_the_old_model_back_although_the_disk_is_full(folder: Path) -> None:
    plant = LifecycleHarness(folder).start()
    for _ in range(2):
        plant.desire(plant.publish())
        plant.step_until_idle()
    plant.boundary_fault = full_disk()
    plant.lifecycle.rollback("it misses scratches")
    plant.step()
    assert plant.active_version() == "1.0.0"
    plant.boundary_fault = ignore_boundary
    plant.step_until_idle()
    assert plant.start().active_version() == "1.0.0"
