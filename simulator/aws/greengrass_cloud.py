"""The cloud side of Greengrass V2: component versions, deployments, and core devices.

Devices carry out a deployment one after the other.

Promise: a deployment replaces the target's earlier one; each thing of the target gets it in the order of the group, as
soon as it is there (`away` holds those that are not), and `on_deployment` is what the device does with it. What that
raises fails the deployment on that thing, and the job's abortConfig is kept: enough failures cancel the rest.
"""

from __future__ import annotations

import base64
import logging
import threading
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import yaml

from simulator.aws.api_protocol import ACCOUNT, AwsRequest, AwsResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PERCENT: Final = 100.0
_MAX_REASON: Final = 1_000
_CREATED: Final = 201
_ENDED: Final = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "TIMED_OUT", "REJECTED"})
_log = logging.getLogger(__name__)


class DeploymentFailedError(Exception):
    """What a device answers when it does not take a deployment; the text is the reason."""


@dataclass(frozen=True, slots=True)
class CloudDeployment:
    """One revision for one target. `executions` says by thing what became of it, and why."""

    id: str
    target_arn: str
    name: str
    components: Mapping[str, Mapping[str, Any]]
    request: Mapping[str, Any]
    created_s: float
    status: str = "ACTIVE"  # COMPLETED, CANCELED, FAILED, INACTIVE (replaced)
    executions: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """What GetDeployment says; ListDeployments says less."""
        keys = ("deploymentPolicies", "iotJobConfiguration", "parentTargetArn")
        return {
            "deploymentId": self.id,
            "deploymentName": self.name,
            "deploymentStatus": self.status,
            "targetArn": self.target_arn,
            "revisionId": "1",
            "components": self.components,
            "creationTimestamp": self.created_s,
            "isLatestForTarget": self.status != "INACTIVE",
            "iotJobId": self.id,
            **{key: self.request[key] for key in keys if key in self.request},
        }


def _accept_everything(_thing: str, _deployment: CloudDeployment) -> None:
    """A device that takes everything."""


class GreengrassCloud:
    """The control plane of one account and region. Any thread; devices are asked by one of its own."""

    def __init__(self, *, things_of: Callable[[str], list[str]]) -> None:
        """`things_of` names the things of a target's ARN."""
        self.on_deployment: Callable[[str, CloudDeployment], None] = _accept_everything
        self._things_of = things_of
        self._lock = threading.Condition()
        self._offline: set[str] = set()
        self._components: dict[str, str] = {}  # ARN -> recipe
        self._deployments: dict[str, CloudDeployment] = {}  # by id, in the order of their making
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="greengrass-devices", daemon=True)

    def start(self) -> None:
        """Let devices work."""
        self._thread.start()

    def close(self) -> None:
        """End; a device that is at work ends first."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._thread.join()

    def clear(self) -> None:
        """Forget everything; devices are there again and take everything."""
        with self._lock:
            self.on_deployment = _accept_everything
            self._offline.clear()
            self._components.clear()
            self._deployments.clear()

    def set_offline(self, *things: str) -> None:
        """Let devices be offline: deployments wait for them."""
        with self._lock:
            self._offline.update(things)

    def set_online(self, *things: str) -> None:
        """Let devices be there again."""
        with self._lock:
            self._offline.difference_update(things)
            self._lock.notify_all()

    def deployments(self, target: str = "") -> list[CloudDeployment]:
        """Those of targets whose ARN ends like that, oldest first."""
        with self._lock:
            return [deployment for deployment in self._deployments.values() if deployment.target_arn.endswith(target)]

    # --- the API ------------------------------------------------------------------------------------------------------

    def answer(self, call: AwsRequest) -> AwsResponse | None:
        """Answer one request of greengrassv2."""
        operations: dict[str, Callable[[AwsRequest], AwsResponse]] = {
            "CreateComponentVersion": self._create_component,
            "DescribeComponent": self._describe_component,
            "CreateDeployment": self._create,
            "GetDeployment": self._get,
            "ListDeployments": self._list,
            "ListEffectiveDeployments": self._effective,
            "CancelDeployment": self._cancel,
        }
        if call.operation not in operations:
            return AwsResponse.error(
                "UnknownOperationException", f"{call.operation or 'This'} is not simulated.", status=404
            )
        with self._lock:
            return operations[call.operation](call)

    def _create_component(self, call: AwsRequest) -> AwsResponse:
        try:
            recipe = yaml.safe_load(base64.b64decode(call.json()["inlineRecipe"]))
            name, version = recipe["ComponentName"], recipe["ComponentVersion"]
        except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            return AwsResponse.error("ValidationException", f"The recipe is refused: {error}")
        arn = f"arn:aws:greengrass:{call.region}:{ACCOUNT}:components:{name}:versions:{version}"
        if arn in self._components:
            return AwsResponse.error("ConflictException", f"Component [{name} : {version}] already exists", status=409)
        self._components[arn] = recipe
        return AwsResponse.of(_component(arn), status=_CREATED)

    def _describe_component(self, call: AwsRequest) -> AwsResponse:
        arn = call.path["arn"]
        if arn not in self._components:
            return AwsResponse.error("ResourceNotFoundException", f"{arn} does not exist", status=404)
        return AwsResponse.of(_component(arn))

    def _create(self, call: AwsRequest) -> AwsResponse:
        request = call.json()
        target = request["targetArn"]
        try:
            things = self._things_of(target)
        except LookupError:
            return AwsResponse.error("ResourceNotFoundException", f"{target} does not exist", status=404)
        for known in list(self._deployments.values()):
            if known.target_arn == target and known.status != "INACTIVE":
                waiting = {t: e for t, e in known.executions.items() if e[0] in _ENDED}
                self._deployments[known.id] = replace(known, status="INACTIVE", executions=waiting)
        deployment = CloudDeployment(
            id=str(uuid.uuid4()),
            target_arn=target,
            name=request.get("deploymentName", ""),
            components=request.get("components", {}),
            request=request,
            created_s=time.time(),
            executions=dict.fromkeys(things, ("QUEUED", "")),
        )
        self._deployments[deployment.id] = deployment
        self._lock.notify_all()
        told = {"deploymentId": deployment.id, "iotJobId": deployment.id}
        job = f"arn:aws:iot:{call.region}:{ACCOUNT}:job/{deployment.id}"
        return AwsResponse.of({**told, "iotJobArn": job}, status=_CREATED)

    def _get(self, call: AwsRequest) -> AwsResponse:
        found = self._deployments.get(call.path["deploymentId"])
        return _not_found(call.path["deploymentId"]) if found is None else AwsResponse.of(found.summary())

    def _list(self, call: AwsRequest) -> AwsResponse:
        target, latest = call.query.get("targetArn", ""), call.query.get("historyFilter") == "LATEST_ONLY"
        found = [d.summary() for d in reversed(self._deployments.values()) if target in {"", d.target_arn}]
        return AwsResponse.of({"deployments": [entry for entry in found if not latest or entry["isLatestForTarget"]]})

    def _effective(self, call: AwsRequest) -> AwsResponse:
        thing = call.path["coreDeviceThingName"]
        found = [
            {
                "deploymentId": d.id,
                "deploymentName": d.name,
                "targetArn": d.target_arn,
                "coreDeviceExecutionStatus": d.executions[thing][0],
                "reason": d.executions[thing][1],
                "creationTimestamp": d.created_s,
                "modifiedTimestamp": d.created_s,
            }
            for d in reversed(self._deployments.values())
            if thing in d.executions and d.status != "INACTIVE"
        ]
        return AwsResponse.of({"effectiveDeployments": found})

    def _cancel(self, call: AwsRequest) -> AwsResponse:
        found = self._deployments.get(call.path["deploymentId"])
        if found is None:
            return _not_found(call.path["deploymentId"])
        if found.status != "ACTIVE":
            return AwsResponse.error("ConflictException", f"The deployment is {found.status}", status=409)
        self._deployments[found.id] = _cancelled(found)
        return AwsResponse.of({"message": "SUCCESS"})

    # --- the devices --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._lock:
                due = self._due()
                while due is None and not self._closed:
                    self._lock.wait()
                    due = self._due()
                if self._closed or due is None:
                    return
                deployment, thing = due
                hook = self.on_deployment
            outcome = ("SUCCEEDED", "")
            try:
                hook(thing, deployment)
            except DeploymentFailedError as error:
                outcome = ("FAILED", str(error)[:_MAX_REASON])
            except Exception as error:  # noqa: BLE001 - whatever a device raises fails the deployment on it
                _log.exception("the simulated device %s", thing)
                outcome = ("FAILED", f"{type(error).__name__}: {error}"[:_MAX_REASON])
            with self._lock:
                self._finish(deployment.id, thing, outcome)

    def _due(self) -> tuple[CloudDeployment, str] | None:
        for deployment in self._deployments.values():
            if deployment.status == "ACTIVE":
                for thing, (status, _) in deployment.executions.items():
                    if status == "QUEUED" and thing not in self._offline:
                        return deployment, thing
        return None

    def _finish(self, deployment_id: str, thing: str, outcome: tuple[str, str]) -> None:
        known = self._deployments.get(deployment_id)
        if known is None:  # forgotten meanwhile
            return
        known = replace(known, executions={**known.executions, thing: outcome})
        if known.status == "ACTIVE" and _must_abort(known):
            known = _cancelled(known)
        if known.status == "ACTIVE" and all(status in _ENDED for status, _ in known.executions.values()):
            known = replace(known, status="COMPLETED")
        self._deployments[deployment_id] = known


def _component(arn: str) -> dict[str, Any]:
    name, _, version = arn.partition(":components:")[2].partition(":versions:")
    status = {"componentState": "DEPLOYABLE", "message": "NONE", "errors": {}}
    told = {"arn": arn, "componentName": name, "componentVersion": version}
    return {**told, "creationTimestamp": time.time(), "status": status}


def _not_found(deployment_id: str) -> AwsResponse:
    return AwsResponse.error("ResourceNotFoundException", f"Deployment {deployment_id} does not exist", status=404)


def _cancelled(deployment: CloudDeployment) -> CloudDeployment:
    executions = {t: (e if e[0] in _ENDED else ("CANCELED", "")) for t, e in deployment.executions.items()}
    return replace(deployment, status="CANCELED", executions=executions)


def _must_abort(deployment: CloudDeployment) -> bool:
    criteria = deployment.request.get("iotJobConfiguration", {}).get("abortConfig", {}).get("criteriaList", [])
    ended = [status for status, _ in deployment.executions.values() if status in _ENDED]
    failed = sum(status != "SUCCEEDED" for status in ended)
    return any(
        len(ended) >= entry["minNumberOfExecutedThings"]
        and failed / len(ended) * _PERCENT >= entry["thresholdPercentage"]
        for entry in criteria
    )
