"""A few hours of line time with faults, and proof that the soak run notices a breach.

A seeded slice of what `kensa bench faults --only soak` runs for 24 hours.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent.lifecycle.state.journal import Journal, LifecycleRecord
from agent.lifecycle.state.transitions import LifecycleState
from agent.records import Outcome, Outgoing
from agent.release.installed_release import InstalledRelease
from agent.release.release_store import ReleaseStore, read_ref
from agent.release_records import FetchedRelease, ModelStatus
from agent.wire import Gap, GapReason, encode_gap, encode_verdict
from simulator.campaigns.soak.agent_process import INSPECTION, SoakEnvironment, no_boundary_fault
from simulator.campaigns.soak.invariants import InvariantChecker
from simulator.campaigns.soak.soak_run import run_soak
from simulator.campaigns.soak.synthetic_models import make_release
from simulator.campaigns.soak.verdict_tracker import VerdictTracker
from simulator.doubles.clocks.lockstep_clock import LockstepClock
from tests.kits.outbox import make_verdict

if TYPE_CHECKING:
    from pathlib import Path

    from agent.release_records import ReleaseRef


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [4, 11])
def test_nothing_breaks_in_two_hours_of_faults(tmp_path: Path, seed: int) -> None:
    day = run_soak(hours=2.0, seed=seed, work_dir=tmp_path)

    assert day.problems == []
    assert day.parts > 40_000
    assert day.parts == day.inspected + sum(day.dropped.values())
    assert day.verdict_states["arrived"] > 40_000
    assert sum(day.requested.values()) == 2
    assert sum(day.faults.values()) >= 4


# --- the day would notice ---------------------------------------------------------------------------------------------


class Device:
    """A site's disk with one release on it, and its audit."""

    def __init__(self, folder: Path) -> None:
        factory = make_release(folder / "factory", "good", version="0.0.0", counter=0)
        self.site = SoakEnvironment(folder, LockstepClock(), random.Random(1), factory)
        self.audit = InvariantChecker(self.site)
        self.models = folder / "state" / "models" / INSPECTION
        self.store = ReleaseStore(self.models, checkpoint=no_boundary_fault)

    def install(self, kind: str, counter: int) -> ReleaseRef:
        """Publish a release of a kind, and put it into the store."""
        version = f"{counter}.0.0"
        fetched = make_release(self.store.staging_dir(f"day/{version}"), kind, version=version, counter=counter)
        ref = read_ref(fetched)
        self.audit.publish(ref, kind=kind)
        self.store.adopt(FetchedRelease(ref, fetched, 0.0))
        return ref

    def save(self, record: LifecycleRecord) -> None:
        """Write the journal, and let the audit look."""
        Journal(self.models, checkpoint=no_boundary_fault).save(record)
        self.audit.check_disk()


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_the_day_notices_a_bad_release_that_is_active(device: Device) -> None:
    device.save(LifecycleRecord(active=InstalledRelease(device.install("always_ok", 1)), counter_floor=1))

    assert "is active, and it is of the kind always_ok" in device.audit.problems[0]


def test_the_day_notices_a_floor_that_falls(device: Device) -> None:
    device.save(LifecycleRecord(counter_floor=7))
    (device.models / "counter_floor").unlink()
    device.save(LifecycleRecord(counter_floor=6))

    assert "the counter floor fell from 7 to 6" in device.audit.problems[0]


def test_the_day_notices_that_the_way_back_is_lost(device: Device) -> None:
    active, previous = device.install("good", 2), device.install("equal", 1)
    device.save(LifecycleRecord(active=InstalledRelease(active), previous=InstalledRelease(previous)))
    assert device.audit.problems == []

    device.store.sweep(keep={active.digest}, staging=None)
    device.audit.check_disk()

    assert "previous is lost" in device.audit.problems[0]


def test_the_day_notices_a_journal_that_cannot_be_read(device: Device) -> None:
    device.save(LifecycleRecord())
    (device.models / "journal.json").write_bytes(b"nonsense")
    device.audit.check_disk()

    assert "journal: The journal was damaged" in device.audit.problems[0]


def test_the_day_notices_a_release_that_is_tried_in_the_cool_down_or_while_a_person_is_waited_for(
    device: Device,
) -> None:
    device.save(LifecycleRecord(rollbacks_utc_s=(1.0,), halted=True))
    idle = ModelStatus(INSPECTION, "idle", 0.0, None, None, None, None)
    device.audit.on_status(idle)
    Journal(device.models, checkpoint=no_boundary_fault).save(
        LifecycleRecord(state=LifecycleState.FETCHING, rollbacks_utc_s=(1.0,), halted=True)
    )
    device.audit.on_status(replace(idle, state="fetching"))

    found = " ".join(device.audit.problems)
    assert "tried while a person is waited for" in found
    assert "600 s before the cool-down ends" in found


def test_the_day_notices_the_fourth_automatic_rollback_of_a_day(device: Device) -> None:
    for number in range(1, 5):
        device.save(LifecycleRecord(rollbacks_utc_s=tuple(float(n) for n in range(max(1, number - 2), number + 1))))

    assert "4 automatic rollbacks within a day" in device.audit.problems[-1]


def test_the_book_finds_what_is_missing_doubled_or_changed() -> None:
    book, verdicts = VerdictTracker(), [make_verdict(seq) for seq in range(6)]
    book.record_appended(verdicts[:4])
    book.record_committed()
    book.record_appended(verdicts[4:])
    book.record_killed()
    sent = [Outgoing(1, "t", encode_verdict(verdicts[0]))] * 2
    gap = Gap(
        thing="device-7",
        line="line1",
        inspection="top",
        camera="cam1",
        boot_epoch=1,
        reason=GapReason.EVICTED,
        lost_utc_us=1,
        counts={Outcome.OK: 1},
        ranges=((1, 1),),
    )
    book.record_delivered([*sent, Outgoing(2, "t", encode_gap(gap))])
    changed = make_verdict(2, Outcome.DEFECT)
    book.record_delivered([Outgoing(3, "t", encode_verdict(changed))])

    assert book.count_missing() == 1
    assert book.duplicates == 1
    assert book.count_states() == {"in_memory": 0, "on_disk": 1, "uncertain": 2, "arrived": 2, "reported_lost": 1}
    assert [text.split(" ", 1)[1] for text in book.problems] == [
        "arrived as defect, which the line did not decide",
        "verdicts are missing: 1/cam1/3",
    ]
