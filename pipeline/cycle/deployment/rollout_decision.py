"""What a fleet says of a release, and what follows from that: promote it, take it back, or wait.

Devices report every change of their lifecycle (`agent.wire.model_report`); a rule of IoT Core writes each report as
fleet/v1/THING/INSPECTION/BOOT_EPOCH-UTC_US.json. The newest counts: the agent's latest start, then the latest time.

A publication's digest is new, so that a report which names it was made after it, whatever the device's clock says:
committed     the release judges there
rolled back   the device, or its gates, refused it
failed        its deployment failed before that
pending       the device was heard since the deployment, and is not done
silent        it was not heard since: away

The rule. Canary: one that rolled back or failed ends it at once. When all have committed, and have stayed so for
`soak_s`, the release is promoted. When `watch_s` is over, it is promoted where a quorum has committed and all others
are silent; else it is taken back, without blame, because nothing was shown.
Fleet: more than `fleet_tolerance` of the things that rolled back or failed take it back everywhere; otherwise the watch
ends when all have answered, or `fleet_s` is over: what is away follows when it is back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal

from agent import wire
from agent.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agent.wire import ModelReport
    from pipeline.cloud.storage import Storage
    from pipeline.cycle.settings import CycleSettings

REPORT_PREFIX: Final = "fleet/v1"
BASELINE_PREFIX: Final = "cycle/v1/watch"  # what was known of the things when a deployment was made
_MAX_REPORT_BYTES: Final = 16 * 1024
_SHOWN: Final = 5  # things that a sentence names


class RolloutStatus(StrEnum):
    """Of one thing towards a release; see the module."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    PENDING = "pending"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class ThingRollout:
    """What is known of one thing."""

    thing: str
    status: RolloutStatus
    why: str = ""


@dataclass(frozen=True, slots=True)
class RolloutDecision:
    """What to do now. `blame`: the release itself is at fault, and nobody must try it again."""

    action: Literal["wait", "promote", "done", "roll_back"]
    reason: str
    revoke: bool = False


def newest_report(data: Storage, thing: str, inspection: str) -> ModelReport | None:
    """The newest report that can be read. Raises StorageError."""
    found: dict[tuple[int, int], str] = {}
    for stored in data.list(f"{REPORT_PREFIX}/{thing}/{inspection}/"):
        numbers = stored.key.rpartition("/")[2].removesuffix(".json").split("-")
        if len(numbers) == 2 and all(part.isdecimal() for part in numbers):  # noqa: PLR2004 - BOOT_EPOCH-UTC_US
            found[int(numbers[0]), int(numbers[1])] = stored.key
    for order in sorted(found, reverse=True):
        try:
            report = wire.decode(data.read(found[order], limit=_MAX_REPORT_BYTES))
        except MessageError:
            continue  # written by another version, or by nobody of ours
        if isinstance(report, wire.ModelReport) and (report.thing, report.inspection) == (thing, inspection):
            return report
    return None


def read_baseline(data: Storage, deployment_id: str) -> dict[str, list[int]]:
    """Thing -> order of its newest report when the deployment was made."""
    found: dict[str, list[int]] = json.loads(data.read(f"{BASELINE_PREFIX}/{deployment_id}.json"))
    return found


def report_order(report: ModelReport | None) -> list[int]:
    """What says which of two reports of a thing is newer; travels as JSON."""
    return [0, 0] if report is None else [report.boot_epoch, report.utc_us]


def rollout_status_of(
    report: ModelReport | None, *, thing: str, digest: str, before: Iterable[int], deployment: tuple[str, str]
) -> ThingRollout:
    """Where a thing stands. `before`: order of its newest report at the deployment; `deployment`: state and why."""
    if report is not None:
        if report.active is not None and report.active.digest == digest:
            return ThingRollout(thing, RolloutStatus.COMMITTED)
        if report.refused is not None and report.refused.digest == digest:
            refusal = report.refusal
            why = "" if refusal is None else f"{refusal.gate}: {refusal.reason}: {refusal.text}"
            return ThingRollout(thing, RolloutStatus.ROLLED_BACK, why)
    status, reason = deployment
    if status in {"FAILED", "REJECTED", "TIMED_OUT"}:
        return ThingRollout(thing, RolloutStatus.FAILED, f"deployment {status}: {reason}")
    heard = report_order(report) > list(before)
    return ThingRollout(
        thing, RolloutStatus.PENDING if heard else RolloutStatus.SILENT, "" if report is None else report.state
    )


def decide_canary(
    seen: list[ThingRollout], *, settings: CycleSettings, age_s: float, all_committed_s: float | None
) -> RolloutDecision:
    """`age_s` since the deployment; `all_committed_s` since all were first seen committed, None: they are not."""
    by = _by_status(seen)
    if refused := by[RolloutStatus.ROLLED_BACK]:
        return RolloutDecision("roll_back", f"{_name_things(refused)} refused the release", revoke=True)
    if failed := by[RolloutStatus.FAILED]:
        return RolloutDecision("roll_back", f"the deployment failed on {_name_things(failed)}")
    committed = by[RolloutStatus.COMMITTED]
    if all_committed_s is not None and all_committed_s >= settings.soak_s:
        return RolloutDecision("promote", f"all {len(seen)} things of the canary run it, for {all_committed_s:.0f} s")
    if age_s < settings.watch_s or all_committed_s is not None:
        return RolloutDecision("wait", f"{len(committed)} of {len(seen)} have committed")
    return _decide_canary_at_timeout(by, len(seen), settings)


def _decide_canary_at_timeout(
    by: Mapping[RolloutStatus, list[ThingRollout]], things: int, settings: CycleSettings
) -> RolloutDecision:
    """The canary's decision after `watch_s`, when nothing was refused and not all have committed."""
    committed = by[RolloutStatus.COMMITTED]
    if by[RolloutStatus.PENDING]:
        return RolloutDecision(
            "roll_back", f"{_name_things(by[RolloutStatus.PENDING])} did not finish within {settings.watch_s} s"
        )
    if committed and len(committed) >= settings.canary_quorum * things:
        return RolloutDecision(
            "promote", f"{len(committed)} of {things} run it; not heard: {_name_things(by[RolloutStatus.SILENT])}"
        )
    return RolloutDecision("roll_back", f"only {len(committed)} of {things} were heard within {settings.watch_s} s")


def decide_fleet(seen: list[ThingRollout], *, settings: CycleSettings, age_s: float) -> RolloutDecision:
    """See the module."""
    by = _by_status(seen)
    bad = [*by[RolloutStatus.ROLLED_BACK], *by[RolloutStatus.FAILED]]
    if len(bad) > settings.fleet_tolerance * len(seen):
        return RolloutDecision(
            "roll_back", f"{_name_things(bad)} did not take the release", revoke=bool(by[RolloutStatus.ROLLED_BACK])
        )
    open_things = [*by[RolloutStatus.PENDING], *by[RolloutStatus.SILENT]]
    told = f"{len(by[RolloutStatus.COMMITTED])} of {len(seen)} run it"
    if bad:
        told += f", {_name_things(bad)} did not take it"
    if not open_things:
        return RolloutDecision("done", told)
    if age_s >= settings.fleet_s:
        return RolloutDecision("done", f"{told}; {_name_things(open_things)} follow when they are back")
    return RolloutDecision("wait", told)


def count_by_status(seen: list[ThingRollout]) -> dict[str, int]:
    """How many things stand where."""
    return {standing.value: len(found) for standing, found in _by_status(seen).items()}


def _by_status(seen: list[ThingRollout]) -> Mapping[RolloutStatus, list[ThingRollout]]:
    return {standing: [one for one in seen if one.status is standing] for standing in RolloutStatus}


def _name_things(found: list[ThingRollout]) -> str:
    names = ", ".join(one.thing + (f" ({one.why})" if one.why else "") for one in found[:_SHOWN])
    return names + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


def to_json(seen: list[ThingRollout]) -> list[dict[str, Any]]:
    """For the execution's state: those that are not simply committed, at most `_SHOWN` of each standing."""
    shown = [one for found in _by_status(seen).values() for one in found[:_SHOWN]]
    return [{"thing": one.thing, "standing": one.status.value, "why": one.why[:300]} for one in shown]
