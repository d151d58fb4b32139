"""The deny list: refused releases that are not tried again until a person allows it.

Pure functions of the record. A release is found on the list by its digest, and also by `name/version`: after a refusal
nothing is fetched again under that name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.lifecycle.state.journal import MAX_DENY_LIST, DenyListEntry

if TYPE_CHECKING:
    from agent.lifecycle.state.journal import LifecycleRecord
    from agent.release.installed_release import InstalledRelease
    from agent.release_records import Refusal

_MIN_DIGEST_PREFIX: Final = 8  # characters of a digest that name an entry; git's convention is similar


def find_denied(record: LifecycleRecord, *, release_id: str, digest: str | None = None) -> DenyListEntry | None:
    """Return the newest entry for this release, or None."""
    for entry in reversed(record.deny_list):
        if entry.release_id == release_id or (digest is not None and entry.digest == digest):
            return entry
    return None


def deny(
    record: LifecycleRecord, *, release_id: str, digest: str | None, refusal: Refusal, utc_s: float
) -> LifecycleRecord:
    """Put a release on the deny list; the oldest entry makes room."""
    others = tuple(entry for entry in record.deny_list if (entry.release_id, entry.digest) != (release_id, digest))
    entry = DenyListEntry(release_id, digest, refusal, utc_s)
    return replace(record, deny_list=(*others, entry)[-MAX_DENY_LIST:])


def deny_installed(
    record: LifecycleRecord, installed: InstalledRelease, refusal: Refusal, *, utc_s: float
) -> LifecycleRecord:
    """Put an installed release on the deny list, and record it as the one that was refused last."""
    ref = installed.ref
    record = deny(record, release_id=ref.release_id, digest=ref.digest, refusal=refusal, utc_s=utc_s)
    return replace(record, refusal=refusal, refused=ref)


def is_denied_digest(record: LifecycleRecord, digest: str) -> bool:
    """Whether an entry has exactly this digest."""
    return any(entry.digest == digest for entry in record.deny_list)


def allow_again(record: LifecycleRecord, which: str | None) -> LifecycleRecord:
    """Take `which` (digest, its first 8 or more characters, or `name/version`) off the list; let rollouts continue.

    None takes nothing off. A desired release that was refused for such an entry is requested again; one whose rollout
    ended in another way is not.
    """
    kept = tuple(entry for entry in record.deny_list if which is None or not matches_entry(entry, which))
    allowed = replace(record, deny_list=kept, halted=False, cool_down_until_utc_s=0.0, rollbacks_utc_s=())
    desired = record.desired
    if desired is None or find_denied(allowed, release_id=desired.release_id):
        return allowed
    was_refused = find_denied(record, release_id=desired.release_id) is not None
    return replace(allowed, wanted=record.wanted or was_refused)


def matches_entry(entry: DenyListEntry, which: str) -> bool:
    """Whether `which` names this entry."""
    if entry.release_id == which:
        return True
    return entry.digest is not None and len(which) >= _MIN_DIGEST_PREFIX and entry.digest.startswith(which)
