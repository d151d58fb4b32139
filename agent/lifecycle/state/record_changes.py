"""How requests, rollbacks and revocations change the record. Pure functions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.lifecycle.state.deny_list import deny_installed, is_denied_digest
from agent.lifecycle.state.refusals import revocation_refusal

if TYPE_CHECKING:
    from agent.config import RolloutLimits
    from agent.lifecycle.state.journal import LifecycleRecord
    from agent.release.installed_release import InstalledRelease
    from agent.release_records import DesiredRelease, Refusal

DAY_S: Final = 86_400.0


def candidate_of(record: LifecycleRecord) -> InstalledRelease:
    """Return the candidate of a state that has one."""
    if record.candidate is None:
        raise RuntimeError(f"the state {record.state} without a candidate")
    return record.candidate


# --- requests ---------------------------------------------------------------------------------------------------------


def is_known(record: LifecycleRecord, desired: DesiredRelease) -> bool:
    """Whether this request repeats the last one; a person may repeat a request whose rollout has ended."""
    known = record.desired
    same = known is not None and replace(known, source=desired.source) == desired
    return same and (record.wanted or desired.source != "control")


def with_desired(record: LifecycleRecord, desired: DesiredRelease) -> LifecycleRecord:
    """Request `desired`, unless it is the active release already."""
    active = record.active
    reached = desired.mode == "release" and active is not None and active.ref.release_id == desired.release_id
    return replace(record, desired=desired, wanted=not reached)


# --- rollbacks and revocations ----------------------------------------------------------------------------------------


def rollback_target(record: LifecycleRecord) -> InstalledRelease | None:
    """Return what a rollback of the active release leads to: the previous one unless denied, else the factory's."""
    previous = record.previous
    return None if previous is None or is_denied_digest(record, previous.ref.digest) else previous


def retire_active(record: LifecycleRecord, refusal: Refusal, *, utc_s: float) -> LifecycleRecord:
    """Deny the active release; the target of a rollback takes its place."""
    active, target = record.active, rollback_target(record)
    if active is not None:
        record = deny_installed(record, active, refusal, utc_s=utc_s)
    return replace(record, active=target, previous=active)


def deny_revoked_previous(record: LifecycleRecord, revoked: frozenset[str], *, utc_s: float) -> LifecycleRecord:
    """Deny the previous release if its publisher revoked it, and it is not denied yet."""
    previous = record.previous
    if previous is None or previous.ref.digest not in revoked or is_denied_digest(record, previous.ref.digest):
        return record
    return deny_installed(record, previous, revocation_refusal(previous), utc_s=utc_s)


def count_rollback(record: LifecycleRecord, *, utc_s: float, limits: RolloutLimits) -> LifecycleRecord:
    """Count an automatic rollback: begin the cool-down, and halt for a person after too many within a day."""
    # A time in the future was written by a clock that was wrong: it counts as of now, and expires with the day.
    last_day = (min(t, utc_s) for t in record.rollbacks_utc_s if t > utc_s - DAY_S)
    recent = (*last_day, utc_s)[-limits.max_rollbacks_per_day :]
    halted = record.halted or len(recent) >= limits.max_rollbacks_per_day
    return replace(record, rollbacks_utc_s=recent, cool_down_until_utc_s=utc_s + limits.cool_down_s, halted=halted)
