"""The rollout of an approved candidate: publish, deploy, monitor, and roll back.

Promise: each step is idempotent. The release that the fleet runs is recorded before anything is deployed; a roll-back
restores it. A roll-back revokes the release if it is at fault, publishes the previous one under a new counter if a
device has committed a newer one (devices accept nothing below their version floor), and deploys the previous one.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pipeline.cycle.deployment import rollout_decision
from pipeline.cycle.deployment.deployments import deployment_request, desired_release, with_desired_release
from pipeline.cycle.deployment.rollout_policies import write_rollout_policy
from pipeline.cycle.execution import to_json_bytes
from pipeline.cycle.services import deployments_of, publisher_of, registry_of
from pipeline.selection.candidate_record import CandidateStatus

if TYPE_CHECKING:
    from pipeline.cycle.execution import Execution

_MAX_WHY: Final = 500
Scope = Literal["canary", "fleet"]


def publish(execution: Execution) -> dict[str, Any]:
    """Sign and publish the approved candidate; returns it with the release that the fleet ran before."""
    candidate = execution.step_result("registered")
    name, version = str(candidate["name"]), str(candidate["version"])
    site, inspection = execution.request.site, execution.request.inspection
    registry, publisher = registry_of(execution), publisher_of(execution)
    settings = execution.settings
    before = desired_release(deployments_of().components(settings.fleet_target), inspection)
    others = {key: found for key, found in publisher.published(site).items() if key.startswith(f"{name}/")}
    newest = max(others.values(), key=lambda one: one.counter, default=None)
    if before is None and newest is not None and newest.release_id != f"{name}/{version}":
        before = newest.release_id
    with tempfile.TemporaryDirectory(prefix="kensa-release-") as temporary:
        folder = registry.download(name, version, Path(temporary) / "release")
        write_rollout_policy(execution, folder)
        published = publisher.publish(folder, site)
    registry.set_status(
        name, version, CandidateStatus.RELEASED, by=execution.arn, why=f"published with counter {published.counter}"
    )
    return {**published.to_json(), "previous": before}


def deploy(execution: Execution, scope: Scope) -> dict[str, Any]:
    """Deploy the release to the canary or the fleet; returns the input of `monitor`."""
    settings, deployments, request = execution.settings, deployments_of(), execution.request
    target = settings.canary_target if scope == "canary" else settings.fleet_target
    released = execution.step_result("released")
    things = deployments.things(target)
    made = {"scope": scope, "target": target, "things": len(things), "poll_interval_s": settings.poll_interval_s}
    known = deployments.latest(target)
    if (
        known is not None
        and execution.data.exists(_baseline_key(known))
        and desired_release(deployments.components(target), request.inspection) == released["release_id"]
    ):  # a retry: it is already deployed
        return {**made, "deployment_id": known, "began_utc_s": time.time()}
    before = {
        thing: rollout_decision.report_order(rollout_decision.newest_report(execution.data, thing, request.inspection))
        for thing in things
    }
    # The canary group may not have a deployment of its own yet; its devices belong to the fleet, too.
    components = deployments.components(target) or deployments.components(settings.fleet_target)
    open_rollout = {"scope": scope, "released": released, "request": request.model_dump()}
    execution.data.write(execution.open_rollout_key, to_json_bytes(open_rollout))
    deployment_id = deployments.create(
        deployment_request(
            name=f"kensa {request.model} {scope}",
            target=target,
            components=with_desired_release(components, request.inspection, released["release_id"]),
            settings=settings,
        )
    )
    execution.data.write(_baseline_key(deployment_id), to_json_bytes(before))
    return {**made, "deployment_id": deployment_id, "began_utc_s": time.time()}


def _baseline_key(deployment_id: str) -> str:
    return f"{rollout_decision.BASELINE_PREFIX}/{deployment_id}.json"


def monitor(execution: Execution) -> dict[str, Any]:
    """Evaluate the reports of the things in the rollout, and decide."""
    rollout, settings, request = execution.step_result("rollout"), execution.settings, execution.request
    deployments, data, now = deployments_of(), execution.data, time.time()
    before = rollout_decision.read_baseline(data, rollout["deployment_id"])
    seen = []
    for thing, order in sorted(before.items()):
        report = rollout_decision.newest_report(data, thing, request.inspection)
        digest = execution.step_result("released")["digest"]
        one = rollout_decision.rollout_status_of(report, thing=thing, digest=digest, before=order, deployment=("", ""))
        if one.status in {rollout_decision.RolloutStatus.PENDING, rollout_decision.RolloutStatus.SILENT}:
            status = deployments.execution_status(thing, rollout["deployment_id"])
            one = rollout_decision.rollout_status_of(
                report, thing=thing, digest=digest, before=order, deployment=status
            )
        seen.append(one)
    age_s = now - float(rollout["began_utc_s"])
    earlier = execution.step_result("monitor")
    all_since = None
    if all(one.status is rollout_decision.RolloutStatus.COMMITTED for one in seen):
        known = earlier.get("all_committed_utc_s") if earlier.get("deployment_id") == rollout["deployment_id"] else None
        all_since = now if known is None else float(known)
    if rollout["scope"] == "canary":
        committed_s = None if all_since is None else now - all_since
        decision = rollout_decision.decide_canary(seen, settings=settings, age_s=age_s, all_committed_s=committed_s)
    else:
        decision = rollout_decision.decide_fleet(seen, settings=settings, age_s=age_s)
    return {
        "deployment_id": rollout["deployment_id"],
        "action": decision.action,
        "reason": decision.reason[:_MAX_WHY],
        "revoke": decision.revoke,
        "all_committed_utc_s": all_since,
        "counts": rollout_decision.count_by_status(seen),
        "things": rollout_decision.to_json(seen),
    }


def roll_back(execution: Execution) -> dict[str, Any]:
    """Roll the release back wherever it was deployed, and restore the previous one; see the module."""
    settings, request = execution.settings, execution.request
    publisher, deployments = publisher_of(execution), deployments_of()
    released, rollout, monitored = (
        execution.step_result("released"),
        execution.step_result("rollout"),
        execution.step_result("monitor"),
    )
    if (error := execution.state.get("error")) is not None:
        why, revoke = f"the rollout failed: {error.get('Error', 'unknown error')}", False
    else:
        why, revoke = str(monitored.get("reason", "stopped by a person")), bool(monitored.get("revoke", False))
    release_id, previous = str(released["release_id"]), released.get("previous")
    if revoke:
        publisher.revoke(release_id, request.site, why[:_MAX_WHY])
    has_newer = rollout.get("scope") != "canary" or monitored.get("counts", {}).get("committed", 1) > 0
    if previous is not None and has_newer:
        publisher.republish(str(previous), request.site)
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
        if desired_release(components, request.inspection) == release_id:
            made.append(
                deployments.create(
                    deployment_request(
                        name=f"kensa {request.model} roll-back",
                        target=target,
                        components=with_desired_release(components, request.inspection, previous),
                        settings=settings,
                    )
                )
            )
    name, _, version = release_id.partition("/")
    registry_of(execution).set_status(name, version, CandidateStatus.ROLLED_BACK, by=execution.arn, why=why[:_MAX_WHY])
    clear_open_rollout(execution)
    return {"reason": why[:_MAX_WHY], "revoke": revoke, "to": previous, "deployments": made}


def clear_open_rollout(execution: Execution) -> None:
    """Delete the note on a rollout in progress."""
    execution.data.delete(execution.open_rollout_key)
