"""Maps a journal record to ModelStatus, with or without a running agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.lifecycle.state.journal import load_read_only
from agent.lifecycle.state.transitions import LifecycleState
from agent.release_records import ModelStatus

if TYPE_CHECKING:
    from pathlib import Path

    from agent.lifecycle.state.journal import LifecycleRecord
    from agent.release.installed_release import InstalledRelease
    from agent.release_records import ReleaseRef


def lifecycle_dir(state_dir: Path, inspection: str) -> Path:
    """Return the folder of an inspection's journal and releases."""
    return state_dir / "models" / inspection


def status_of(inspection: str, record: LifecycleRecord, *, others: list[str]) -> ModelStatus:
    """Return the status that `record` describes; `others` are alarms that no record has."""
    return ModelStatus(
        inspection=inspection,
        state=record.state,
        since_utc_s=record.since_utc_s,
        active=_ref(record.active),
        previous=_ref(record.previous),
        candidate=_ref(record.candidate),
        desired=record.desired,
        refusal=record.refusal,
        refused=record.refused,
        alarm=_alarm(record, others),
        counter_floor=record.counter_floor,
    )


def last_status(state_dir: Path, inspection: str) -> tuple[ModelStatus, LifecycleRecord]:
    """Return the status that the last agent left, without changing it; for when none runs. Raises StateDirError."""
    record, damage = load_read_only(lifecycle_dir(state_dir, inspection))
    return status_of(inspection, record, others=[] if damage is None else [damage]), record


def _alarm(record: LifecycleRecord, others: list[str]) -> str | None:
    alarms = list(others)
    if record.state is LifecycleState.NO_MODEL:
        alarms.insert(0, "No model can be loaded: every verdict is unknown. Publish a release.")
    if record.halted:
        count = len(record.rollbacks_utc_s)
        alarms.append(f"{count} automatic rollbacks within a day: nothing is tried before `kensa model retry`.")
    return " ".join(alarms) or None


def _ref(installed: InstalledRelease | None) -> ReleaseRef | None:
    return None if installed is None else installed.ref
