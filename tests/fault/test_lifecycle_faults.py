"""Every state of the lifecycle, and whatever can happen to it there: the line keeps a verified model."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

import pytest

from agent.model.transitions import RESTING, State
from simulator.cloud import Fault, Killed
from simulator.rollouts import Plant, Trap, full_disk, ignore, read_only_disk
from tests.lifecycle_kit import quick_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.records import ReleaseRef

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


def bring_to(plant: Plant, state: State) -> ReleaseRef:
    """Let a release be active, except in SAFE, and another one be on its way in `state`."""
    if state is State.SAFE:
        (plant.factory / "model.onnx").write_bytes(b"broken")
        plant.start()
        plant.until(State.SAFE)
        return plant.publish()
    plant.start()
    plant.desire(plant.publish())
    plant.rest()
    candidate = plant.publish()
    if state is State.IDLE:
        return candidate
    plant.desire(candidate, mode="ab" if state is State.AB else "release")
    if state is State.ROLLING_BACK:
        plant.until(State.SHADOW)
        plant.lifecycle.rollback("a test")
    plant.until(state)
    return candidate


def go_on(plant: Plant, *, steps: int = 60) -> None:
    """Step until rest, a comparison that stays, or a kill; nothing that must not be is there after any step."""
    compared = 0
    for _ in range(steps):
        plant.step()
        assert plant.faults() == []
        state = plant.lifecycle.status().state
        compared += state == State.AB
        if compared > 5 or (state in RESTING and not plant.record().wanted):
            return


def keep_stopping(plant: Plant, done: threading.Event) -> None:
    """End what hangs, as every request does, and the end of the agent."""
    while not done.wait(0.02):
        plant.lifecycle._parts.stop.set()


def finish(plant: Plant, candidate: ReleaseRef) -> None:
    """Without faults it ends, and the line has a model."""
    plant.trap = ignore
    go_on(plant, steps=400)
    if plant.lifecycle.status().state is State.AB:
        plant.lifecycle.stop_ab()
        go_on(plant)
    status = plant.lifecycle.status()
    if plant.serving() != candidate.version and status.desired is None:
        plant.desire(candidate)
        go_on(plant, steps=400)
    assert plant.lifecycle.status().state in RESTING
    assert plant.serving() in {"1.0.0", "2.0.0"}


@pytest.mark.parametrize("boundary", KILLS)
@pytest.mark.parametrize("state", list(State))
def test_a_kill_in_any_state_at_any_boundary_leaves_a_verified_model(folder: Path, state: State, boundary: str) -> None:
    plant = Plant(folder)
    candidate = bring_to(plant, state)
    plant.trap = Trap(boundary)
    if state in RESTING:
        plant.desire(candidate)
    try:
        go_on(plant)
    except Killed:
        plant.trap = ignore
        plant.start()
        assert plant.faults() == []
    finish(plant, candidate)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("state", list(State))
def test_a_disk_that_refuses_in_any_state_stops_the_lifecycle_and_not_the_line(
    folder: Path, state: State, number: int
) -> None:
    plant = Plant(folder)
    candidate = bring_to(plant, state)
    before, serving = plant.record(), plant.serving()
    plant.trap = Trap("journal: b", number=number, stays=True)
    if state in RESTING:
        plant.desire(candidate)
    if state is State.AB:
        plant.lifecycle.promote()  # a comparison writes nothing by itself
    for _ in range(10):
        plant.step()
        assert plant.faults() == []
        assert plant.serving() == serving
    assert plant.record() == before
    assert "cannot keep its journal" in str(plant.lifecycle.status().alarm)
    plant.trap = ignore
    go_on(plant, steps=400)
    finish(plant, candidate)
    assert plant.serving() != "0.0.0"


@pytest.mark.parametrize("disk", [full_disk("store"), read_only_disk("store")], ids=["full", "read-only"])
def test_a_store_that_cannot_be_written_is_an_alarm_and_is_tried_again(folder: Path, disk: Trap) -> None:
    plant = Plant(folder)
    candidate = bring_to(plant, State.STAGED)
    plant.trap = disk
    for _ in range(10):
        plant.step()
    assert "store of releases" in str(plant.lifecycle.status().alarm)
    assert plant.serving() == "1.0.0"
    finish(plant, candidate)
    assert plant.serving() == candidate.version


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.NO_SPACE, Fault.KILL, Fault.KILL_LATE, Fault.HANG])
@pytest.mark.parametrize("port", ["fetch", "examine"])
@pytest.mark.parametrize("state", list(State))
def test_whatever_the_ports_do_in_any_state_the_line_keeps_a_verified_model(
    folder: Path, state: State, port: str, fault: Fault
) -> None:
    plant = Plant(folder)
    candidate = bring_to(plant, state)
    plant.cloud.order(port, fault)
    if state in RESTING:
        plant.desire(candidate)
    done = threading.Event()
    impatient = threading.Thread(target=keep_stopping, args=(plant, done))
    if fault is Fault.HANG:
        impatient.start()
    try:
        go_on(plant)
    except Killed:
        plant.start()
    finally:
        done.set()
    plant.cloud.faults.clear()
    assert plant.faults() == []
    finish(plant, candidate)


def test_a_trial_whose_refusal_cannot_be_written_down_is_off_the_line_all_the_same(folder: Path) -> None:
    plant = Plant(folder)
    candidate = bring_to(plant, State.TRIAL)
    plant.step()
    plant.trap = full_disk()
    for _ in range(10):
        plant.step(failing=True)
    lease = plant.slot.lease()
    assert lease is not None
    assert lease.trial is None
    assert plant.record().state is State.TRIAL
    plant.trap = ignore
    plant.rest()
    assert [bad["digest"] for bad in plant.lifecycle.bad_list()] == [candidate.digest]
    assert plant.serving() == "1.0.0"


def test_a_person_gets_the_old_model_back_although_the_disk_is_full(folder: Path) -> None:
    plant = Plant(folder).start()
    for _ in range(2):
        plant.desire(plant.publish())
        plant.rest()
    plant.trap = full_disk()
    plant.lifecycle.rollback("it misses scratches")
    plant.step()
    assert plant.serving() == "1.0.0"
    plant.trap = ignore
    plant.rest()
    assert plant.start().serving() == "1.0.0"
