"""Reasons to refuse a fetched release before its bytes are used."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lifecycle.state.journal import DenyListEntry, LifecycleRecord
from agent.lifecycle.state.version_floor import check_counter_floor, check_release
from agent.release.installed_release import InstalledRelease
from agent.release_records import FetchedRelease, Gate, Refusal, ReleaseRef


def ref(counter: int, digest: str, name: str = "parts") -> ReleaseRef:
    return ReleaseRef(name, f"1.0.{counter}", counter, digest, "0" * 64)


ACTIVE, ROLLED_BACK = ref(3, "c"), ref(5, "e")
AFTER_A_ROLLBACK = LifecycleRecord(
    active=InstalledRelease(ACTIVE), counter_floor=5, floor_digest="e",
    deny_list=(DenyListEntry("parts/1.0.9", "bad", Refusal(Gate.CONTRACT, "worse", "It was worse."), 0.0),),
)  # fmt: skip


@pytest.mark.parametrize(
    ("found", "revoked", "reason"),
    [
        (ref(6, "f"), (), None),
        (ROLLED_BACK, (), None),  # it was committed here: a person may want it again
        (ACTIVE, (), None),
        (ref(4, "d"), (), "counter_below_floor"),
        (ref(5, "other bytes"), (), "counter_below_floor"),  # the floor's counter for other bytes
        (ref(1, "a"), (), "counter_below_floor"),
        (ref(6, "f"), ("f",), "revoked_by_publisher"),
        (ref(9, "bad"), (), "worse"),
        (ref(6, "f", name="others"), (), "other_release"),
    ],
    ids=["newer", "the floor's own", "active", "older", "same counter", "oldest", "taken back", "bad", "another"],
)
def test_a_fetched_release_is_refused_for_one_reason_or_none(
    found: ReleaseRef, revoked: tuple[str, ...], reason: str | None
) -> None:
    fetched = FetchedRelease(found, Path("/nowhere"), 0.0, frozenset(revoked))
    refusal = check_release(AFTER_A_ROLLBACK, fetched, release_id=f"parts/{found.version}")
    refusal = refusal or check_counter_floor(AFTER_A_ROLLBACK, found)
    assert (None if refusal is None else refusal.reason) == reason


@given(st.integers(0, 9), st.sampled_from("abc"), st.integers(0, 9), st.sampled_from("abc"))
def test_nothing_at_or_below_the_floor_is_taken_but_what_was_committed_itself(
    counter: int, digest: str, floor: int, floor_digest: str
) -> None:
    record = LifecycleRecord(counter_floor=floor, floor_digest=floor_digest)
    taken = check_counter_floor(record, ref(counter, digest)) is None
    assert taken == (counter > floor or digest == floor_digest)
