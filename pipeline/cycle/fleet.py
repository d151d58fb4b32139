"""What a fleet says of a release, and what follows from that: promote it, take it back, or wait.

Devices report every change of their lifecycle (`agent.wire.report`); a rule of IoT Core writes each report as
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
    from pipeline.cycle.settings import Settings

REPORTS: Final = "fleet/v1"
WATCHED: Final = "cycle/v1/watch"  # what was known of the things when a deployment was made
_MAX_REPORT_BYTES: Final = 16 * 1024
_SHOWN: Final = 5  # things that a sentence names


class Standing(StrEnum):
    """Of one thing towards a release; see the module."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    PENDING = "pending"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one thing."""

    thing: str
    standing: Standing
    why: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now. `blame`: the release itself is at fault, and nobody must try it again."""

    action: Literal["wait", "promote", "done", "roll_back"]
    reason: str
    blame: bool = False


def newest_report(data: Storage, thing: str, inspection: str) -> ModelReport | None:
    """The newest report that can be read. Raises StorageError."""
    found: dict[tuple[int, int], str] = {}
    for stored in data.list(f"{REPORTS}/{thing}/{inspection}/"):
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


def read_before(data: Storage, deployment_id: str) -> dict[str, list[int]]:
    """Thing -> order of its newest report when the deployment was made."""
    found: dict[str, list[int]] = json.loads(data.read(f"{WATCHED}/{deployment_id}.json"))
    return found


def order_of(report: ModelReport | None) -> list[int]:
    """What says which of two reports of a thing is newer; travels as JSON."""
    return [0, 0] if report is None else [report.boot_epoch, report.utc_us]


def standing(
    report: ModelReport | None, *, thing: str, digest: str, before: Iterable[int], deployment: tuple[str, str]
) -> Seen:
    """Where a thing stands. `before`: order of its newest report at the deployment; `deployment`: state and why."""
    if report is not None:
        if report.active is not None and report.active.digest == digest:
            return Seen(thing, Standing.COMMITTED)
        if report.refused is not None and report.refused.digest == digest:
            refusal = report.refusal
            why = "" if refusal is None else f"{refusal.gate}: {refusal.reason}: {refusal.text}"
            return Seen(thing, Standing.ROLLED_BACK, why)
    status, reason = deployment
    if status in {"FAILED", "REJECTED", "TIMED_OUT"}:
        return Seen(thing, Standing.FAILED, f"deployment {status}: {reason}")
    heard = order_of(report) > list(before)
    return Seen(thing, Standing.PENDING if heard else Standing.SILENT, "" if report is None else report.state)


def decide_canary(seen: list[Seen], *, settings: Settings, age_s: float, all_committed_s: float | None) -> Decision:
    """`age_s` since the deployment; `all_committed_s` since all were first seen committed, None: they are not."""
    by = _by_standing(seen)
    if refused := by[Standing.ROLLED_BACK]:
        return Decision("roll_back", f"{_named(refused)} refused the release", blame=True)
    if failed := by[Standing.FAILED]:
        return Decision("roll_back", f"the deployment failed on {_named(failed)}")
    committed = by[Standing.COMMITTED]
    if all_committed_s is not None and all_committed_s >= settings.soak_s:
        return Decision("promote", f"all {len(seen)} things of the canary run it, for {all_committed_s:.0f} s")
    if age_s < settings.watch_s or all_committed_s is not None:
        return Decision("wait", f"{len(committed)} of {len(seen)} have committed")
    return _when_time_is_over(by, len(seen), settings)


def _when_time_is_over(by: Mapping[Standing, list[Seen]], things: int, settings: Settings) -> Decision:
    """The canary's decision after `watch_s`, when nothing was refused and not all have committed."""
    committed = by[Standing.COMMITTED]
    if by[Standing.PENDING]:
        return Decision("roll_back", f"{_named(by[Standing.PENDING])} did not finish within {settings.watch_s} s")
    if committed and len(committed) >= settings.canary_quorum * things:
        return Decision("promote", f"{len(committed)} of {things} run it; not heard: {_named(by[Standing.SILENT])}")
    return Decision("roll_back", f"only {len(committed)} of {things} were heard within {settings.watch_s} s")


def decide_fleet(seen: list[Seen], *, settings: Settings, age_s: float) -> Decision:
    """See the module."""
    by = _by_standing(seen)
    bad = [*by[Standing.ROLLED_BACK], *by[Standing.FAILED]]
    if len(bad) > settings.fleet_tolerance * len(seen):
        return Decision("roll_back", f"{_named(bad)} did not take the release", blame=bool(by[Standing.ROLLED_BACK]))
    open_things = [*by[Standing.PENDING], *by[Standing.SILENT]]
    told = f"{len(by[Standing.COMMITTED])} of {len(seen)} run it"
    if bad:
        told += f", {_named(bad)} did not take it"
    if not open_things:
        return Decision("done", told)
    if age_s >= settings.fleet_s:
        return Decision("done", f"{told}; {_named(open_things)} follow when they are back")
    return Decision("wait", told)


def counts(seen: list[Seen]) -> dict[str, int]:
    """How many things stand where."""
    return {standing.value: len(found) for standing, found in _by_standing(seen).items()}


def _by_standing(seen: list[Seen]) -> Mapping[Standing, list[Seen]]:
    return {standing: [one for one in seen if one.standing is standing] for standing in Standing}


def _named(found: list[Seen]) -> str:
    names = ", ".join(one.thing + (f" ({one.why})" if one.why else "") for one in found[:_SHOWN])
    return names + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


def to_json(seen: list[Seen]) -> list[dict[str, Any]]:
    """For the execution's state: those that are not simply committed, at most `_SHOWN` of each standing."""
    shown = [one for found in _by_standing(seen).values() for one in found[:_SHOWN]]
    return [{"thing": one.thing, "standing": one.standing.value, "why": one.why[:300]} for one in shown]
