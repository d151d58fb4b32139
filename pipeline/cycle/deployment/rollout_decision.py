"""Decides from the reports of a fleet whether to promote a release, to roll it back, or to wait.

Devices report every change of their lifecycle (`agent.wire.model_report`); a rule of IoT Core writes each report as
fleet/v1/THING/INSPECTION/BOOT_EPOCH-UTC_US.json. The newest counts: the agent's latest start, then the latest time.

Every publication has a new digest, so a report that names it was made after the publication, whatever the device's
clock says. The status of a thing towards a release:
committed     the release is active there
rolled back   the device, or one of its gates, refused it
failed        its deployment failed before that
pending       the device has reported since the deployment, and has not finished
silent        the device has not reported since the deployment: it is away

Canary: one thing that rolled back or failed ends the rollout at once. When all things have committed, and have stayed
so for `soak_s`, the release is promoted. After `canary_timeout_s` it is promoted if a quorum has committed and all
others are silent; otherwise it is rolled back without being revoked, because nothing was proved against it.
Fleet: the release is rolled back everywhere when more than `fleet_tolerance` of the things rolled back or failed.
Otherwise monitoring ends when all things have finished, or after `fleet_timeout_s`: things that are away get the
release when they return.
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
BASELINE_PREFIX: Final = "cycle/v1/baselines"  # newest report of each thing when a deployment was made
_MAX_REPORT_BYTES: Final = 16 * 1024
_SHOWN: Final = 5  # things that a message names


class RolloutStatus(StrEnum):
    """Status of one thing towards a release; see the module."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    PENDING = "pending"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class ThingRollout:
    """One thing with its status, and the reason where it has one."""

    thing: str
    status: RolloutStatus
    why: str = ""


@dataclass(frozen=True, slots=True)
class RolloutDecision:
    """The next action. `revoke`: the release itself is at fault, and no device may try it again."""

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
            continue  # written by another version, or not by an agent
        if isinstance(report, wire.ModelReport) and (report.thing, report.inspection) == (thing, inspection):
            return report
    return None


def read_baseline(data: Storage, deployment_id: str) -> dict[str, list[int]]:
    """Thing -> order of its newest report when the deployment was made. Raises StorageError."""
    found: dict[str, list[int]] = json.loads(data.read(f"{BASELINE_PREFIX}/{deployment_id}.json"))
    return found


def report_order(report: ModelReport | None) -> list[int]:
    """Sort key of the reports of a thing, newest last; a list, so that it survives JSON."""
    return [0, 0] if report is None else [report.boot_epoch, report.utc_us]


def rollout_status_of(
    report: ModelReport | None, *, thing: str, digest: str, before: Iterable[int], deployment: tuple[str, str]
) -> ThingRollout:
    """Status of a thing. `before`: order of its newest report at the deployment; `deployment`: status and reason."""
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
    has_reported = report_order(report) > list(before)
    return ThingRollout(
        thing, RolloutStatus.PENDING if has_reported else RolloutStatus.SILENT, "" if report is None else report.state
    )


def decide_canary(
    seen: list[ThingRollout], *, settings: CycleSettings, age_s: float, all_committed_s: float | None
) -> RolloutDecision:
    """Decide for the canary, `age_s` after the deployment.

    `all_committed_s`: time since all were first seen committed; None while they are not.
    """
    by = _by_status(seen)
    if refused := by[RolloutStatus.ROLLED_BACK]:
        return RolloutDecision("roll_back", f"{_name_things(refused)} refused the release", revoke=True)
    if failed := by[RolloutStatus.FAILED]:
        return RolloutDecision("roll_back", f"the deployment failed on {_name_things(failed)}")
    committed = by[RolloutStatus.COMMITTED]
    if all_committed_s is not None and all_committed_s >= settings.soak_s:
        return RolloutDecision(
            "promote", f"all {len(seen)} things of the canary have run it for {all_committed_s:.0f} s"
        )
    if age_s < settings.canary_timeout_s or all_committed_s is not None:
        return RolloutDecision("wait", f"{len(committed)} of {len(seen)} have committed")
    return _decide_canary_at_timeout(by, len(seen), settings)


def _decide_canary_at_timeout(
    by: Mapping[RolloutStatus, list[ThingRollout]], things: int, settings: CycleSettings
) -> RolloutDecision:
    """Decide for the canary after `canary_timeout_s`, when no thing refused and not all have committed."""
    committed = by[RolloutStatus.COMMITTED]
    if by[RolloutStatus.PENDING]:
        return RolloutDecision(
            "roll_back",
            f"{_name_things(by[RolloutStatus.PENDING])} did not finish within {settings.canary_timeout_s} s",
        )
    if committed and len(committed) >= settings.canary_quorum * things:
        return RolloutDecision(
            "promote", f"{len(committed)} of {things} run it; no report from {_name_things(by[RolloutStatus.SILENT])}"
        )
    return RolloutDecision(
        "roll_back", f"only {len(committed)} of {things} reported within {settings.canary_timeout_s} s"
    )


def decide_fleet(seen: list[ThingRollout], *, settings: CycleSettings, age_s: float) -> RolloutDecision:
    """Decide for the fleet, `age_s` after the deployment."""
    by = _by_status(seen)
    bad = [*by[RolloutStatus.ROLLED_BACK], *by[RolloutStatus.FAILED]]
    if len(bad) > settings.fleet_tolerance * len(seen):
        return RolloutDecision(
            "roll_back", f"{_name_things(bad)} did not accept the release", revoke=bool(by[RolloutStatus.ROLLED_BACK])
        )
    open_things = [*by[RolloutStatus.PENDING], *by[RolloutStatus.SILENT]]
    summary = f"{len(by[RolloutStatus.COMMITTED])} of {len(seen)} run it"
    if bad:
        summary += f", {_name_things(bad)} did not accept it"
    if not open_things:
        return RolloutDecision("done", summary)
    if age_s >= settings.fleet_timeout_s:
        return RolloutDecision("done", f"{summary}; {_name_things(open_things)} follow when they return")
    return RolloutDecision("wait", summary)


def count_by_status(seen: list[ThingRollout]) -> dict[str, int]:
    """Number of things in each status."""
    return {status.value: len(found) for status, found in _by_status(seen).items()}


def _by_status(seen: list[ThingRollout]) -> Mapping[RolloutStatus, list[ThingRollout]]:
    return {status: [one for one in seen if one.status is status] for status in RolloutStatus}


def _name_things(found: list[ThingRollout]) -> str:
    names = ", ".join(one.thing + (f" ({one.why})" if one.why else "") for one in found[:_SHOWN])
    return names + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


def to_json(seen: list[ThingRollout]) -> list[dict[str, Any]]:
    """Entries for the execution's state, at most `_SHOWN` of each status."""
    shown = [one for found in _by_status(seen).values() for one in found[:_SHOWN]]
    return [{"thing": one.thing, "status": one.status.value, "why": one.why[:300]} for one in shown]
