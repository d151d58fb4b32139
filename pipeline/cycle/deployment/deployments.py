"""Greengrass deployments: the pure functions that build the requests, and the calls.

The configuration of com.kensa.Inspector names the desired release (`inspections.NAME.desired`); devices fetch it
themselves. A new deployment replaces the target's current one completely, so it repeats all components and merged
configuration. The rollout limits mean the same as in scripts/deploy; a test compares the requests.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from agent.errors import OperatorError
from pipeline.cloud.aws_clients import translate_aws_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.cycle.settings import CycleSettings

INSPECTOR: Final = "com.kensa.Inspector"
NO_DESIRED_RELEASE: Final = ""  # the inspection keeps its current release


class DeploymentError(OperatorError):
    """The targets do not allow the deployment; the text names the remedy."""


def desired_release(components: Mapping[str, Any], inspection: str) -> str | None:
    """The desired release of an inspection in a deployment's components; None if there is none."""
    update = components.get(INSPECTOR, {}).get("configurationUpdate", {})
    desired = json.loads(update.get("merge") or "{}").get("inspections", {}).get(inspection, {}).get("desired")
    return str(desired["release"]) if isinstance(desired, dict) and desired.get("release") else None


def with_desired_release(components: Mapping[str, Any], inspection: str, release_id: str | None) -> dict[str, Any]:
    """The same components with `release_id` as desired release; None: no desired release. Raises DeploymentError."""
    if INSPECTOR not in components:
        raise DeploymentError(
            f"{INSPECTOR} is not part of the target's deployment: deploy the agent first (docs/deploy.md)"
        )
    inspector = dict(components[INSPECTOR])
    update = dict(inspector.get("configurationUpdate") or {})
    merge = json.loads(update.get("merge") or "{}")
    desired = NO_DESIRED_RELEASE if release_id is None else {"release": release_id, "mode": "release"}
    merge.setdefault("inspections", {}).setdefault(inspection, {})["desired"] = desired
    update["merge"] = json.dumps(merge, sort_keys=True)
    update.pop("reset", None)  # already applied by the deployment that requested it
    return {**components, INSPECTOR: {**inspector, "configurationUpdate": update}}


def deployment_request(
    *, name: str, target: str, components: Mapping[str, Any], settings: CycleSettings
) -> dict[str, Any]:
    """Parameters of CreateDeployment."""
    job: dict[str, Any] = {"timeoutConfig": {"inProgressTimeoutInMinutes": settings.timeout_min}}
    if ":thinggroup/" in target:
        job["jobExecutionsRolloutConfig"] = {"maximumPerMinute": settings.per_minute}
        criteria = {
            "failureType": "ALL",
            "action": "CANCEL",
            "thresholdPercentage": settings.abort_percent,
            "minNumberOfExecutedThings": settings.abort_after,
        }
        job["abortConfig"] = {"criteriaList": [criteria]}
    return {
        "targetArn": target,
        "deploymentName": name,
        "components": dict(sorted(components.items())),
        "iotJobConfiguration": job,
        "deploymentPolicies": {
            "failureHandlingPolicy": "ROLLBACK",
            "componentUpdatePolicy": {"action": "NOTIFY_COMPONENTS", "timeoutInSeconds": settings.notify_s},
            "configurationValidationPolicy": {"timeoutInSeconds": settings.validate_s},
        },
    }


class Deployments:
    """The deployments of an account. Methods raise AwsError and DeploymentError."""

    def __init__(self, *, greengrass: Any, iot: Any) -> None:
        """Clients of boto3."""
        self._greengrass = greengrass
        self._iot = iot

    def components(self, target: str) -> dict[str, Any]:
        """Components of the target's current deployment; empty if it has none."""
        deployment_id = self.latest(target)
        if deployment_id is None:
            return {}
        with translate_aws_errors(f"the deployment {deployment_id}"):
            found = self._greengrass.get_deployment(deploymentId=deployment_id)["components"]
        return {name: _without_empty(component) for name, component in found.items()}

    def latest(self, target: str) -> str | None:
        """Id of the target's current deployment; None if it has none."""
        with translate_aws_errors(f"the current deployment of {target}"):
            listed = self._greengrass.list_deployments(targetArn=target, historyFilter="LATEST_ONLY")["deployments"]
        return str(listed[0]["deploymentId"]) if listed else None

    def create(self, parameters: Mapping[str, Any]) -> str:
        """Create a deployment; returns its id."""
        with translate_aws_errors(f"a deployment for {parameters['targetArn']}"):
            return str(self._greengrass.create_deployment(**parameters)["deploymentId"])

    def things(self, target: str) -> list[str]:
        """Names of the things of a target, sorted. Raises DeploymentError if there are none."""
        kind, _, name = target.rpartition(":")[2].partition("/")
        if kind == "thing":
            return [name]
        with translate_aws_errors(f"the things of {name}"):
            pages = self._iot.get_paginator("list_things_in_thing_group").paginate(thingGroupName=name, recursive=True)
            found = sorted(thing for page in pages for thing in page["things"])
        if not found:
            raise DeploymentError(f"the thing group {name} is empty: add the thing on which releases are to be tried")
        return found

    def execution_status(self, thing: str, deployment_id: str) -> tuple[str, str]:
        """Status and reason of a deployment on a thing; two empty strings if it did not get there."""
        with translate_aws_errors(f"the deployments of {thing}"):
            try:
                pages = self._greengrass.get_paginator("list_effective_deployments").paginate(coreDeviceThingName=thing)
                for page in pages:
                    for entry in page["effectiveDeployments"]:
                        if entry["deploymentId"] == deployment_id:
                            return str(entry["coreDeviceExecutionStatus"]), str(entry.get("reason", ""))
            except self._greengrass.exceptions.ResourceNotFoundException:  # the thing has never been a core device
                return "", ""
        return "", ""


def _without_empty(component: Mapping[str, Any]) -> dict[str, Any]:
    """A component as CreateDeployment accepts it: GetDeployment adds members that are null."""
    return {key: value for key, value in component.items() if value is not None}
