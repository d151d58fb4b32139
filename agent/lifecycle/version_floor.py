"""What a release that was fetched is refused for before a byte of it is used: pure functions of the journal's record.

The lifecycle and the rehearsal of a deployment ask the same functions, so that a deployment is never accepted for what
the lifecycle then refuses, nor the other way round. Order: another release than was asked for, taken back by its
publisher, on the deny list, older than the counter floor. The floor keeps old signed bytes from coming back through a
repository that an attacker holds (TUF, "rollback attack"): nothing at or below the highest counter that was ever
committed is taken, but the very release that was committed with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.lifecycle.lifecycle_context import revocation_refusal
from agent.lifecycle.state.record_store import find_denied, make_refusal
from agent.release.installed_release import InstalledRelease
from agent.release_records import Gate, Refusal

if TYPE_CHECKING:
    from agent.lifecycle.state.journal import LifecycleRecord
    from agent.release_records import FetchedRelease, ReleaseRef


def check_release(record: LifecycleRecord, fetched: FetchedRelease, *, release_id: str | None) -> Refusal | None:
    """Say what is wrong with a release that was fetched for the wish `release_id`.

    See `check_counter_floor` for its age.
    """
    ref = fetched.ref
    if release_id is None or ref.release_id != release_id:
        text = f"The repository answered with {ref.release_id}, which nobody asked for. Check the publisher."
        return make_refusal(Gate.TRUST, "other_release", text)
    if ref.digest in fetched.revoked:
        return revocation_refusal(InstalledRelease(ref))
    bad = find_denied(record, release_id=ref.release_id, digest=ref.digest)
    return None if bad is None else bad.refusal


def check_counter_floor(record: LifecycleRecord, ref: ReleaseRef) -> Refusal | None:
    """Say that the release is older than what was committed here, unless it is what was, or what is active."""
    is_known = ref.digest == record.floor_digest or (
        record.active is not None and record.active.ref.digest == ref.digest
    )
    if ref.counter > record.counter_floor or is_known:
        return None
    text = (
        f"{ref.release_id} has the release counter {ref.counter}, and {record.counter_floor} was committed here "
        "already: nothing older is taken. It is not on the deny list. To go back to these bytes, add their folder "
        "again with `kensa release add` (it gets a new counter) and publish; or, for the model before the active "
        "one, use `kensa model rollback`."
    )
    figures, limits = {"counter": float(ref.counter)}, {"counter": record.counter_floor + 1.0}
    return Refusal(Gate.TRUST, "counter_below_floor", text, figures, limits)
