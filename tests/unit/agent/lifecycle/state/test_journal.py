"""The journal: what was written is what is read, whatever happens to the file."""

from __future__ import annotations

import errno
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import StateDirError
from agent.lifecycle.state.deny_list import allow_again, deny, find_denied
from agent.lifecycle.state.journal import (
    MAX_DENY_LIST,
    MAX_HISTORY,
    DenyListEntry,
    HistoryEntry,
    Journal,
    LifecycleRecord,
    decode,
    encode,
)
from agent.lifecycle.state.record_changes import count_rollback, rollback_target
from agent.lifecycle.state.record_store import RecordStore
from agent.lifecycle.state.transitions import LifecycleEvent, LifecycleState
from agent.release.installed_release import InstalledRelease
from agent.release_records import DesiredRelease, Gate, Refusal, ReleaseRef
from simulator.doubles.clocks.manual_clock import ManualClock
from simulator.doubles.lifecycle.fake_repository import SimulatedKill
from simulator.doubles.lifecycle.lifecycle_harness import LIMITS, BoundaryFault, ignore_boundary

if TYPE_CHECKING:
    from pathlib import Path

REF = ReleaseRef("surface", "1.2.0", 7, "d" * 64, "e" * 64)
NO = Refusal(Gate.GOLDEN, "golden_scores_differ", "They differ.", {"difference": math.inf}, {"difference": 0.05})
FULL = LifecycleRecord(
    state=LifecycleState.TRIAL,
    since_utc_s=1.5,
    active=InstalledRelease(REF, "optimised.onnx", "f" * 64),
    candidate=InstalledRelease(replace(REF, version="2.0.0")),
    desired=DesiredRelease("surface/2.0.0", mode="ab", share=0.25, source="shadow"),
    wanted=True,
    step=3,
    attempts=2,
    counter_floor=7,
    deny_list=(DenyListEntry("surface/0.1.0", None, NO, 3.0),),
    refusal=NO,
    refused=REF,
    rollbacks_utc_s=(1.0, 2.0),
    history=(HistoryEntry(1.0, LifecycleState.IDLE, "desired", LifecycleState.FETCHING, "surface/2.0.0"),),
)


def journal(folder: Path, trap: BoundaryFault | None = None) -> Journal:
    return Journal(folder, checkpoint=trap or ignore_boundary)


def test_what_was_written_is_read_back_whole(tmp_path: Path) -> None:
    journal(tmp_path).save(FULL)
    assert journal(tmp_path).load() == (FULL, None)


def test_a_line_that_never_had_a_journal_starts_from_the_factory_without_an_alarm(tmp_path: Path) -> None:
    assert journal(tmp_path / "absent").load() == (LifecycleRecord(), None)


@given(st.data())
def test_any_change_to_the_bytes_is_noticed(data: st.DataObject) -> None:
    content = bytearray(encode(FULL))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match=r"journal|checksum"):
        decode(bytes(content))


@given(st.integers(0, len(encode(FULL)) - 1))
def test_a_file_that_was_cut_is_noticed(length: int) -> None:
    with pytest.raises(ValueError, match=r"journal|checksum"):
        decode(encode(FULL)[:length])


def test_a_damaged_journal_falls_back_to_the_one_before_with_an_alarm(tmp_path: Path) -> None:
    journal(tmp_path).save(FULL)
    journal(tmp_path).save(replace(FULL, step=4))
    (tmp_path / "journal.json").write_bytes(b"\0" * 100)
    record, alarm = journal(tmp_path).load()
    assert record == FULL
    assert "the one before it counts" in str(alarm)
    journal(tmp_path).save(replace(FULL, step=5))  # and the good one before is not pushed out by the damaged
    (tmp_path / "journal.json").write_bytes(b"{}")
    assert journal(tmp_path).load()[0] == FULL


def test_two_damaged_journals_mean_the_factory_with_an_alarm_and_the_floor_stays(tmp_path: Path) -> None:
    journal(tmp_path).save(FULL)
    journal(tmp_path).save(FULL)
    for name in ("journal.json", "journal.prev.json"):
        (tmp_path / name).write_bytes(b"nonsense")
    record, alarm = journal(tmp_path).load()
    assert record == LifecycleRecord(counter_floor=FULL.counter_floor)
    assert "factory" in str(alarm)


def test_an_unreadable_journal_is_an_alarm_and_no_crash(tmp_path: Path) -> None:
    (tmp_path / "journal.json").mkdir()
    record, alarm = journal(tmp_path).load()
    assert record == LifecycleRecord()
    assert "cannot be read" in str(alarm)


@pytest.mark.parametrize("boundary", ["journal: before", "journal: beside", "journal: between", "journal: after"])
def test_a_kill_at_any_boundary_leaves_the_old_record_or_the_new(tmp_path: Path, boundary: str) -> None:
    journal(tmp_path).save(FULL)
    new = replace(FULL, step=4)
    with pytest.raises(SimulatedKill):
        journal(tmp_path, BoundaryFault(boundary)).save(new)
    record, alarm = journal(tmp_path).load()
    assert record == (new if boundary == "journal: after" else FULL)
    assert alarm is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("boundary", ["journal: before", "journal: beside"])
def test_a_disk_that_refuses_is_a_clear_error_and_the_old_record_stays(
    tmp_path: Path, boundary: str, number: int
) -> None:
    journal(tmp_path).save(FULL)
    with pytest.raises(StateDirError, match="the line continues with the model it has"):
        journal(tmp_path, BoundaryFault(boundary, os_errno=number)).save(replace(FULL, step=4))
    assert journal(tmp_path).load() == (FULL, None)


def test_an_illegal_event_changes_neither_memory_nor_disk(tmp_path: Path) -> None:
    ledger = RecordStore("top", journal(tmp_path), ManualClock())
    ledger.update(replace(FULL, state=LifecycleState.TRIAL))
    before = ledger.record
    with pytest.raises(Exception, match="settled means nothing in the state trial"):
        ledger.transition(LifecycleEvent.SETTLED)
    assert ledger.record is before
    assert journal(tmp_path).load()[0] == before


def test_history_and_deny_list_are_bounded() -> None:
    record = LifecycleRecord()
    for i in range(MAX_DENY_LIST + 10):
        record = deny(record, release_id=f"m/{i}.0.0", digest=None, refusal=NO, utc_s=float(i))
    assert len(record.deny_list) == MAX_DENY_LIST
    assert find_denied(record, release_id="m/9.0.0") is None
    assert find_denied(record, release_id=f"m/{MAX_DENY_LIST + 9}.0.0") is not None


def test_a_history_of_any_length_keeps_the_last_hundred(tmp_path: Path) -> None:
    ledger = RecordStore("top", journal(tmp_path), ManualClock())
    for i in range(MAX_HISTORY + 5):
        ledger.annotate(replace(ledger.record, step=i), "remark", str(i))
    assert [line.note for line in ledger.record.history][:1] == ["5"]
    assert len(ledger.record.history) == MAX_HISTORY


def test_three_automatic_rollbacks_within_a_day_halt_and_a_person_lets_it_go_on() -> None:
    record = LifecycleRecord(desired=DesiredRelease("surface/2.0.0"))
    for hour in (0.0, 8.0, 16.0):
        assert not record.halted
        record = count_rollback(record, utc_s=hour * 3_600, limits=LIMITS)
    assert record.halted
    record = allow_again(record, None)
    assert not record.halted
    assert not record.wanted, "a wish that has ended stays ended"


def test_rollbacks_of_another_day_do_not_count() -> None:
    record = LifecycleRecord()
    for day in range(6):
        record = count_rollback(record, utc_s=day * 13 * 3_600.0, limits=LIMITS)
    assert not record.halted


def test_a_pardon_finds_a_release_by_name_and_by_the_beginning_of_its_digest() -> None:
    record = deny(LifecycleRecord(), release_id=REF.release_id, digest=REF.digest, refusal=NO, utc_s=0.0)
    assert allow_again(record, "d" * 7).deny_list == record.deny_list
    assert allow_again(record, "d" * 8).deny_list == ()
    assert allow_again(record, "surface/1.2.0").deny_list == ()


def test_a_pardon_opens_the_wish_that_was_refused_and_no_other() -> None:
    record = deny(
        LifecycleRecord(desired=DesiredRelease(REF.release_id)),
        release_id=REF.release_id,
        digest=None,
        refusal=NO,
        utc_s=0.0,
    )
    assert allow_again(record, REF.release_id).wanted
    assert not allow_again(record, None).wanted
    assert not allow_again(replace(record, desired=DesiredRelease("other/1.0.0")), REF.release_id).wanted


def test_the_way_back_leads_past_a_release_that_is_bad() -> None:
    record = LifecycleRecord(active=InstalledRelease(replace(REF, digest="a" * 64)), previous=InstalledRelease(REF))
    assert rollback_target(record) == InstalledRelease(REF)
    bad = deny(record, release_id=REF.release_id, digest=REF.digest, refusal=NO, utc_s=0.0)
    assert rollback_target(bad) is None
    by_name = deny(record, release_id=REF.release_id, digest=None, refusal=NO, utc_s=0.0)
    assert rollback_target(by_name) == InstalledRelease(REF), (
        "a hint that was refused by name takes no installed bytes away"
    )
