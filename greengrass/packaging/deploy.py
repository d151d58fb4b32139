"""`python -m greengrass.packaging.deploy` uploads, registers and deploys component versions.

    scripts/deploy --bucket B --group line-3 --component com.kensa.Inspector --configuration recipes/deployments/x.yaml
    scripts/deploy --bucket B --group line-3 --remove com.kensa.Model
    scripts/deploy ... --dry-run --account 123456789012        print the requests, send nothing

The command line of scripts/deploy.

Promise: artifacts of a version never change once uploaded, and a version that exists is used as it is.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from botocore.validate import ParamValidator

from agent.durable import sha256_of
from agent.errors import KensaError, UsageError
from agent.timing.clock import NS_PER_S, Clock, SystemClock
from greengrass.packaging import deployment_request
from greengrass.packaging.deployment_request import (
    ComponentVersion,
    ConfigurationUpdate,
    DeployError,
    DeploymentTarget,
    RolloutConfig,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

_DEPLOYABLE_TIMEOUT_S: Final = 120.0  # a version is checked by the cloud before it can be deployed
_POLL_S: Final = 2.0


def s3_checksum(path: Path) -> str:
    """Return the SHA-256 of a file in base64, as S3 writes it."""
    return base64.b64encode(bytes.fromhex(sha256_of(path))).decode()


class GreengrassCloud:
    """Amazon S3 and Greengrass; every parameter is validated before it is sent."""

    def __init__(self, *, s3: Any, greengrass: Any, clock: Clock) -> None:
        """Wrap clients of boto3."""
        self._s3 = s3
        self._greengrass = greengrass
        self._clock = clock
        self._never = threading.Event()

    def validate_parameters(self, operation: str, parameters: Mapping[str, Any]) -> None:
        """Validate the parameters of an operation of Greengrass with botocore. Raises DeployError."""
        shape = self._greengrass.meta.service_model.operation_model(operation).input_shape
        report = ParamValidator().validate(parameters, shape)
        if report.has_errors():
            raise DeployError(f"{operation} would be refused: {report.generate_report()}")

    def upload(self, version: ComponentVersion) -> list[str]:
        """Upload the artifacts that are missing; return their keys. Raises DeployError."""
        uploaded = []
        for path in version.artifacts:
            key = version.artifact_key(path)
            digest = s3_checksum(path)
            existing = self._checksum(version.bucket, key)
            if existing == digest:
                continue
            if existing is not None:
                raise DeployError(
                    f"s3://{version.bucket}/{key} exists with other bytes, which devices would refuse: give the "
                    "component a new version"
                )
            with path.open("rb") as file:
                self._s3.put_object(Bucket=version.bucket, Key=key, Body=file, ChecksumSHA256=digest)
            uploaded.append(key)
        return uploaded

    def _checksum(self, bucket: str, key: str) -> str | None:
        """Return the SHA-256 (base64) of an object, "" where S3 has none, None where there is no object."""
        try:
            head = self._s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in {403, 404}:  # 403: the bucket may not be listed
                return None
            raise
        return str(head.get("ChecksumSHA256", ""))

    def register(self, version: ComponentVersion) -> str:
        """Create the version, and wait until it can be deployed; return its ARN, or "" for one that exists."""
        try:
            answer = self._greengrass.create_component_version(**version.creation_parameters())
        except ClientError as error:
            if error.response["Error"]["Code"] == "ConflictException":
                return ""
            raise
        arn = str(answer["arn"])
        deadline_ns = self._clock.monotonic_ns() + int(_DEPLOYABLE_TIMEOUT_S * NS_PER_S)
        while True:
            status = self._greengrass.describe_component(arn=arn)["status"]
            if status["componentState"] == "DEPLOYABLE":
                return arn
            if status["componentState"] != "REQUESTED" or self._clock.monotonic_ns() > deadline_ns:
                raise DeployError(f"{arn} is {status['componentState']}: {status.get('message', 'no reason given')}")
            self._clock.wait(self._never, _POLL_S)

    def current_components(self, target_arn: str) -> dict[str, Any]:
        """Return the components of the target's current deployment."""
        listed = self._greengrass.list_deployments(targetArn=target_arn, historyFilter="LATEST_ONLY")["deployments"]
        if not listed:
            return {}
        components: dict[str, Any] = self._greengrass.get_deployment(deploymentId=listed[0]["deploymentId"])[
            "components"
        ]
        return components

    def broken_components(self, thing: str) -> dict[str, str]:
        """Return the BROKEN components of a core device, with its details; empty where nothing is known."""
        try:
            pages = self._greengrass.get_paginator("list_installed_components").paginate(coreDeviceThingName=thing)
            installed = [component for page in pages for component in page["installedComponents"]]
        except ClientError as error:
            if error.response["Error"]["Code"] in {"ResourceNotFoundException", "AccessDeniedException"}:
                return {}  # it never reported, or this user may not ask: the deployment continues
            raise
        return {
            component["componentName"]: str(component.get("lifecycleStateDetails") or "no details")
            for component in installed
            if component.get("lifecycleState") == "BROKEN"
        }

    def deploy(self, parameters: Mapping[str, Any]) -> str:
        """Create the deployment; return its id."""
        return str(self._greengrass.create_deployment(**parameters)["deploymentId"])


def run(
    cloud: GreengrassCloud,
    *,
    name: str,
    target_arn: str,
    versions: Sequence[ComponentVersion],
    changes: Mapping[str, ConfigurationUpdate],
    rollout: RolloutConfig,
    dry_run: bool,
    remove: Sequence[str] = (),
) -> dict[str, Any]:
    """Deploy, or with `dry_run` only return the requests; return what is printed. Raises KensaError."""
    for component, change in changes.items():
        deployment_request.validate_update(component, change)
    for version in versions:
        cloud.validate_parameters("CreateComponentVersion", version.creation_parameters())
    parameters = deployment_request.create_deployment_request(
        name=name,
        target_arn=target_arn,
        components={version.name: version.version for version in versions},
        changes=changes,
        current={name: {} for name in remove} if dry_run else cloud.current_components(target_arn),
        rollout=rollout,
        remove=remove,
    )
    cloud.validate_parameters("CreateDeployment", parameters)
    if dry_run:
        return {
            "PutObject": [f"s3://{v.bucket}/{v.artifact_key(path)}" for v in versions for path in v.artifacts],
            "CreateComponentVersion": [v.recipe for v in versions],
            "CreateDeployment": parameters,
        }
    warnings = _warnings(cloud, target_arn, kept=parameters["components"].keys() - {v.name for v in versions})
    uploaded = [key for version in versions for key in cloud.upload(version)]
    registered = [arn for version in versions if (arn := cloud.register(version))]
    done = {"uploaded": uploaded, "registered": registered, "deployment_id": cloud.deploy(parameters)}
    return done | ({"warnings": warnings} if warnings else {})


def _warnings(cloud: GreengrassCloud, target_arn: str, *, kept: AbstractSet[str]) -> list[str]:
    """Return warnings about a single device before its next deployment."""
    _, _, thing = target_arn.partition(":thing/")
    if not thing:
        return []
    return [
        f"{name} is BROKEN on {thing} ({details}) and stays part of the deployment. Nucleus lite tries it again with "
        f"every deployment, and fails that as long as it is BROKEN: remove it with --remove {name}, or deploy a "
        "version that starts"
        for name, details in sorted(cloud.broken_components(thing).items())
        if name in kept
    ]


def _arguments(argv: list[str]) -> argparse.Namespace:
    rollout = RolloutConfig()
    parser = argparse.ArgumentParser(
        prog="scripts/deploy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--group", help="thing group")
    target.add_argument("--thing", help="a single core device")
    parser.add_argument("--bucket", required=True, help="of the artifacts; readable for the token exchange role")
    parser.add_argument(
        "--component", action="append", default=[], metavar="NAME[=VERSION]", help="built version; may be repeated"
    )
    parser.add_argument(
        "--remove",
        action="append",
        default=[],
        metavar="NAME",
        help="remove a component from the target; may be repeated",
    )
    parser.add_argument("--configuration", type=Path, help="YAML, see recipes/deployments")
    parser.add_argument(
        "--built", type=Path, default=Path("build/components"), help="where scripts/build-component wrote"
    )
    parser.add_argument("--name", default="kensa", help="of the deployment")
    parser.add_argument("--region", help="default: as boto3 is configured")
    parser.add_argument("--account", help="default: that of the credentials; a dry run needs it")
    parser.add_argument("--per-minute", type=int, default=rollout.per_minute, help="things of the group")
    parser.add_argument("--abort-percent", type=float, default=rollout.abort_percent)
    parser.add_argument(
        "--abort-after", type=int, default=rollout.abort_after, help="things, before the percentage counts"
    )
    parser.add_argument("--timeout-min", type=int, default=rollout.timeout_min, help="of one thing")
    parser.add_argument("--notify-s", type=int, default=rollout.notify_s, help="how long a component may defer")
    parser.add_argument("--validate-s", type=int, default=rollout.validate_s, help="to validate a configuration")
    parser.add_argument("--dry-run", action="store_true", help="print the requests, send nothing")
    return parser.parse_args(argv)


def _target_arn(arguments: argparse.Namespace, session: Any) -> str:
    region = arguments.region or session.region_name
    if region is None:
        raise UsageError("no region is configured; give --region")
    account = arguments.account
    if account is None:
        if arguments.dry_run:
            raise UsageError("a dry run sends nothing; give --account")
        account = session.client("sts", region_name=region).get_caller_identity()["Account"]
    target = (
        DeploymentTarget("thinggroup", arguments.group)
        if arguments.group
        else DeploymentTarget("thing", arguments.thing)
    )
    return target.arn(partition=session.get_partition_for_region(region), region=region, account=account)


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    session = boto3.Session(region_name=arguments.region)
    target_arn = _target_arn(arguments, session)
    pairs = [component.partition("=") for component in arguments.component]
    versions = [
        deployment_request.read_version(arguments.built, name, version or None, bucket=arguments.bucket)
        for name, _, version in pairs
    ]
    changes = (
        {}
        if arguments.configuration is None
        else deployment_request.read_configuration_updates(arguments.configuration)
    )
    if not versions and not changes and not arguments.remove:
        raise UsageError("nothing to deploy; give --component, --configuration or --remove")
    return run(
        GreengrassCloud(s3=session.client("s3"), greengrass=session.client("greengrassv2"), clock=SystemClock()),
        name=arguments.name,
        target_arn=target_arn,
        versions=versions,
        changes=changes,
        rollout=RolloutConfig(
            per_minute=arguments.per_minute,
            abort_percent=arguments.abort_percent,
            abort_after=arguments.abort_after,
            timeout_min=arguments.timeout_min,
            notify_s=arguments.notify_s,
            validate_s=arguments.validate_s,
        ),
        dry_run=arguments.dry_run,
        remove=arguments.remove,
    )


def main(argv: list[str]) -> int:
    """Deploy; return 0 when done, else the error's exit code; 4 when the cloud refused."""
    arguments = _arguments(argv)
    try:
        done = _run(arguments)
    except KensaError as error:
        sys.stderr.write(f"kensa: {error}\n")
        return error.exit_code
    except (BotoCoreError, ClientError) as error:
        sys.stderr.write(f"kensa: the cloud: {error}\n")
        return 4
    for warning in done.get("warnings", ()):
        sys.stderr.write(f"kensa: {warning}\n")
    sys.stdout.write(json.dumps(done, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
