"""Pure checks of a fetched release against the journal record, before a byte of it is used.

The lifecycle and the preflight of a deployment call the same functions, so that a deployment is never accepted for a
release that the lifecycle then refuses, nor the other way round. Order: another release than was requested, revoked by
its publisher, on the deny list, below the counter floor. The floor keeps old signed bytes from coming back through a
repository that an attacker controls (TUF, "rollback attack"): nothing at or below the highest counter that was ever
committed is accepted, except the very release that was committed with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.lifecycle.state.deny_list import find_denied
from agent.lifecycle.state.refusals import make_refusal, revocation_refusal
from agent.release.installed_release import InstalledRelease
from agent.release_records import Gate, Refusal

if TYPE_CHECKING:
    from agent.lifecycle.state.journal import LifecycleRecord
    from agent.release_records import FetchedRelease, ReleaseRef


def check_release(record: LifecycleRecord, fetched: FetchedRelease, *, release_id: str | None) -> Refusal | None:
    """Return why a release that was fetched for the request `release_id` is refused, or None.

    `check_counter_floor` checks its counter.
    """
    ref = fetched.ref
    if release_id is None or ref.release_id != release_id:
        text = f"The repository answered with {ref.release_id}, which was not requested. Check the publisher."
        return make_refusal(Gate.TRUST, "other_release", text)
    if ref.digest in fetched.revoked:
        return revocation_refusal(InstalledRelease(ref))
    entry = find_denied(record, release_id=ref.release_id, digest=ref.digest)
    return None if entry is None else entry.refusal


def check_counter_floor(record: LifecycleRecord, ref: ReleaseRef) -> Refusal | None:
    """Return the refusal of a release older than any that was committed here, unless it is that one or active."""
    is_known = ref.digest == record.floor_digest or (
        record.active is not None and record.active.ref.digest == ref.digest
    )
    if ref.counter > record.counter_floor or is_known:
        return None
    text = (
        f"{ref.release_id} has the release counter {ref.counter}, and {record.counter_floor} was committed here "
        "already: nothing older is accepted. It is not on the deny list. To return to these bytes, add their folder "
        "again with `kensa release add` (it gets a new counter) and publish; or, for the model before the active "
        "one, use `kensa model rollback`."
    )
    figures, limits = {"counter": float(ref.counter)}, {"counter": record.counter_floor + 1.0}
    return Refusal(Gate.TRUST, "counter_below_floor", text, figures, limits)
