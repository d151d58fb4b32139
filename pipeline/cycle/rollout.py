"""From an approved candidate to a release that the fleet runs, or that was taken back: release, deploy, watch, end.

Promise: each step may be asked again and does nothing twice; what the fleet runs is remembered before anything is
deployed, and is what a roll-back leads to. A roll-back revokes a release that is to blame, publishes the one before
under a new counter where a device has gone past it (devices take nothing below their floor), and wishes for that one.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pipeline.cycle import fleet
from pipeline.cycle.deployments import request, wished, wishing
from pipeline.cycle.execution import to_bytes
from pipeline.cycle.services import deployments_of, publisher_of, registry_of
from pipeline.cycle.trying import lay_policy
from pipeline.selection.record import Status

if TYPE_CHECKING:
    from pipeline.cycle.execution import Execution

_MAX_WHY: Final = 500
Scope = Literal["canary", "fleet"]


def release(execution: Execution) -> dict[str, Any]:
    """Sign and publish the approved candidate; say what the fleet runs before."""
    candidate = execution.step("registered")
    name, version = str(candidate["name"]), str(candidate["version"])
    site, inspection = execution.wanted.site, execution.wanted.inspection
    registry, publisher = registry_of(execution), publisher_of(execution)
    settings = execution.settings
    before = wished(deployments_of().components(settings.fleet_target), inspection)
    others = {key: found for key, found in publisher.published(site).items() if key.startswith(f"{name}/")}
    newest = max(others.values(), key=lambda one: one.counter, default=None)
    if before is None and newest is not None and newest.release_id != f"{name}/{version}":
        before = newest.release_id
    with tempfile.TemporaryDirectory(prefix="kensa-release-") as temporary:
        folder = registry.fetch(name, version, Path(temporary) / "release")
        lay_policy(execution, folder)
        published = publisher.publish(folder, site)
    registry.change(name, version, Status.RELEASED, by=execution.arn, why=f"published with counter {published.counter}")
    return {**published.to_json(), "previous": before}


def deploy(execution: Execution, scope: Scope) -> dict[str, Any]:
    """Let the canary, or the fleet, wish for the release; returns what `watch` needs."""
    settings, deployments, wanted = execution.settings, deployments_of(), execution.wanted
    target = settings.canary_target if scope == "canary" else settings.fleet_target
    released = execution.step("released")
    things = deployments.things(target)
    made = {"scope": scope, "target": target, "things": len(things), "every_s": settings.every_s}
    known = deployments.latest(target)
    if (
        known is not None
        and execution.data.exists(_watch_key(known))
        and wished(deployments.components(target), wanted.inspection) == released["release_id"]
    ):  # asked again: it is there already
        return {**made, "deployment_id": known, "began_utc_s": time.time()}
    before = {thing: fleet.order_of(fleet.newest_report(execution.data, thing, wanted.inspection)) for thing in things}
    # The canary group may have no deployment of its own yet: its devices are part of the fleet, too.
    components = deployments.components(target) or deployments.components(settings.fleet_target)
    open_rollout = {"scope": scope, "released": released, "wanted": wanted.model_dump()}
    execution.data.write(execution.open_key, to_bytes(open_rollout))
    deployment_id = deployments.create(
        request(
            name=f"kensa {wanted.model} {scope}",
            target=target,
            components=wishing(components, wanted.inspection, released["release_id"]),
            settings=settings,
        )
    )
    execution.data.write(_watch_key(deployment_id), to_bytes(before))
    return {**made, "deployment_id": deployment_id, "began_utc_s": time.time()}


def _watch_key(deployment_id: str) -> str:
    return f"{fleet.WATCHED}/{deployment_id}.json"


def watch(execution: Execution) -> dict[str, Any]:
    """Look at what the things of the rollout report, and decide."""
    rollout, settings, wanted = execution.step("rollout"), execution.settings, execution.wanted
    deployments, data, now = deployments_of(), execution.data, time.time()
    before = fleet.read_before(data, rollout["deployment_id"])
    seen = []
    for thing, order in sorted(before.items()):
        report = fleet.newest_report(data, thing, wanted.inspection)
        digest = execution.step("released")["digest"]
        one = fleet.standing(report, thing=thing, digest=digest, before=order, deployment=("", ""))
        if one.standing in {fleet.Standing.PENDING, fleet.Standing.SILENT}:
            status = deployments.execution(thing, rollout["deployment_id"])
            one = fleet.standing(report, thing=thing, digest=digest, before=order, deployment=status)
        seen.append(one)
    age_s = now - float(rollout["began_utc_s"])
    earlier = execution.step("watch")
    all_since = None
    if all(one.standing is fleet.Standing.COMMITTED for one in seen):
        known = earlier.get("all_committed_utc_s") if earlier.get("deployment_id") == rollout["deployment_id"] else None
        all_since = now if known is None else float(known)
    if rollout["scope"] == "canary":
        committed_s = None if all_since is None else now - all_since
        decision = fleet.decide_canary(seen, settings=settings, age_s=age_s, all_committed_s=committed_s)
    else:
        decision = fleet.decide_fleet(seen, settings=settings, age_s=age_s)
    return {
        "deployment_id": rollout["deployment_id"],
        "action": decision.action,
        "reason": decision.reason[:_MAX_WHY],
        "blame": decision.blame,
        "all_committed_utc_s": all_since,
        "counts": fleet.counts(seen),
        "things": fleet.to_json(seen),
    }


def roll_back(execution: Execution) -> dict[str, Any]:
    """Take the release back wherever it was deployed, and lead to the one before; see the module."""
    settings, wanted = execution.settings, execution.wanted
    publisher, deployments = publisher_of(execution), deployments_of()
    released, rollout, watched = execution.step("released"), execution.step("rollout"), execution.step("watch")
    if (error := execution.state.get("error")) is not None:
        why, blame = f"the rollout broke: {error.get('Error', 'unknown error')}", False
    else:
        why, blame = str(watched.get("reason", "stopped by a person")), bool(watched.get("blame", False))
    release_id, previous = str(released["release_id"]), released.get("previous")
    if blame:
        publisher.revoke(release_id, wanted.site, why[:_MAX_WHY])
    went_past = rollout.get("scope") != "canary" or watched.get("counts", {}).get("committed", 1) > 0
    if previous is not None and went_past:
        publisher.publish_again(str(previous), wanted.site)
    targets = (
        [settings.canary_target]
        if rollout.get("scope") == "canary"
        else [
            settings.fleet_target,
            settings.canary_target,
        ]
    )
    made = []
    for target in dict.fromkeys(targets):
        components = deployments.components(target)
        if wished(components, wanted.inspection) == release_id:
            made.append(
                deployments.create(
                    request(
                        name=f"kensa {wanted.model} roll-back",
                        target=target,
                        components=wishing(components, wanted.inspection, previous),
                        settings=settings,
                    )
                )
            )
    name, _, version = release_id.partition("/")
    registry_of(execution).change(name, version, Status.ROLLED_BACK, by=execution.arn, why=why[:_MAX_WHY])
    close(execution)
    return {"reason": why[:_MAX_WHY], "blame": blame, "to": previous, "deployments": made}


def close(execution: Execution) -> None:
    """Nothing of this execution is half way any more."""
    execution.data.delete(execution.open_key)
