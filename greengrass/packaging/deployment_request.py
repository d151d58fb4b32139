"""Composes the requests that deploy component versions to things, without sending them.

Promise: every request is checked by botocore's own parameter validation, and every configuration by the agent's model,
before the first one is sent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agent.errors import OperatorError
from greengrass.packaging import checks, recipe
from greengrass.packaging.recipe import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

BUCKET_PLACEHOLDER: Final = "BUCKET_NAME"


class DeployError(OperatorError):
    """A deployment is not possible as requested; the text names the remedy."""


@dataclass(frozen=True, slots=True)
class ComponentVersion:
    """A component version as scripts/build-component wrote it."""

    name: str
    version: str
    recipe: str  # with the bucket filled in
    artifacts: tuple[Path, ...]
    bucket: str

    def artifact_key(self, artifact: Path) -> str:
        """Return the key of an artifact in the bucket."""
        return f"{self.name}/{self.version}/{artifact.name}"

    def creation_parameters(self) -> dict[str, Any]:
        """Return the parameters of CreateComponentVersion."""
        return {"inlineRecipe": self.recipe.encode()}


@dataclass(frozen=True, slots=True)
class ConfigurationUpdate:
    """Change of one component's configuration by a deployment."""

    merge: Mapping[str, Any]
    reset: tuple[str, ...]  # JSON pointers; applied first


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """Speed of a rollout, and when it stops. By default ten things a minute, until one in ten fails."""

    per_minute: int = 10
    abort_percent: float = 10.0  # of failed, timed out or refused things
    abort_after: int = 5  # things that must have ended before that applies
    timeout_min: int = 90  # of one thing; installing on a small device takes minutes
    notify_s: int = 60  # a component that does not answer is updated after this
    validate_s: int = 60  # to fetch, verify and self-test; above the component's own `validate_s`

    def deployment_policies(self) -> dict[str, Any]:
        """Return the parameter deploymentPolicies."""
        return {
            "failureHandlingPolicy": "ROLLBACK",
            "componentUpdatePolicy": {"action": "NOTIFY_COMPONENTS", "timeoutInSeconds": self.notify_s},
            "configurationValidationPolicy": {"timeoutInSeconds": self.validate_s},
        }

    def job_configuration(self, *, group: bool) -> dict[str, Any]:
        """Return the parameter iotJobConfiguration; rate and limit apply to a group only."""
        job: dict[str, Any] = {"timeoutConfig": {"inProgressTimeoutInMinutes": self.timeout_min}}
        if group:
            job["jobExecutionsRolloutConfig"] = {"maximumPerMinute": self.per_minute}
            job["abortConfig"] = {
                "criteriaList": [
                    {
                        "failureType": "ALL",
                        "action": "CANCEL",
                        "thresholdPercentage": self.abort_percent,
                        "minNumberOfExecutedThings": self.abort_after,
                    }
                ]
            }
        return job


@dataclass(frozen=True, slots=True)
class DeploymentTarget:
    """A thing or a group of things."""

    kind: str  # `thing` or `thinggroup`
    name: str

    def arn(self, *, partition: str, region: str, account: str) -> str:
        """Return its ARN."""
        return f"arn:{partition}:iot:{region}:{account}:{self.kind}/{self.name}"


def read_version(out: Path, name: str, version: str | None, *, bucket: str) -> ComponentVersion:
    """Find a built version below `out`; without `version` the only one there. Raises DeployError or RecipeError."""
    found = sorted((out / "recipes").glob(f"{name}-{version or '*'}.yaml"))
    if len(found) != 1:
        there = ", ".join(path.stem for path in sorted((out / "recipes").glob("*.yaml"))) or "nothing"
        raise DeployError(f"{out} has {there}; build {name} with scripts/build-component, or name the version")
    text = found[0].read_text(encoding="utf-8").replace(f"s3://{BUCKET_PLACEHOLDER}/", f"s3://{bucket}/")
    parsed = recipe.parse(text, source=found[0].name, defaults=checks.DEFAULTS_CHECKS[name])
    folder = out / "artifacts" / name / parsed.ComponentVersion
    paths = tuple(folder / artifact for artifact in parsed.artifacts())
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise DeployError(f"{', '.join(missing)} is missing: build the component again")
    if f"s3://{bucket}/" not in text:
        raise DeployError(f"{found[0]} was built for another bucket; build it without --bucket, or with this one")
    return ComponentVersion(name, parsed.ComponentVersion, text, paths, bucket)


def read_configuration_updates(path: Path) -> dict[str, ConfigurationUpdate]:
    """Read a deployment's configuration (recipes/deployments). Raises DeployError or RecipeError."""
    tree = recipe.load_yaml(path.read_text(encoding="utf-8"), source=str(path))
    if not isinstance(tree, dict):
        raise DeployError(f"{path}: expected component names at the top")
    changes = {}
    for name, change in tree.items():
        if not isinstance(change, dict) or change.keys() - {"merge", "reset"}:
            raise DeployError(f"{path}: {name}: expected the keys merge and reset")
        merge, reset = change.get("merge", {}), change.get("reset", [])
        if not isinstance(merge, dict) or not isinstance(reset, list) or not all(str(p).startswith("/") for p in reset):
            raise DeployError(
                f"{path}: {name}: merge is a map, reset a list of JSON pointers such as /inspections/main"
            )
        changes[str(name)] = ConfigurationUpdate(merge, tuple(reset))
    return changes


def validate_update(name: str, change: ConfigurationUpdate) -> None:
    """Validate the recipe's defaults, merged with `change`, by the agent's model. Raises DeployError.

    Changes by earlier deployments on a device are not known here: the device validates the whole again.
    """
    if name not in checks.DEFAULTS_CHECKS:
        return
    source = ROOT / "recipes" / f"{name}.yaml"
    parsed = recipe.parse(source.read_text(encoding="utf-8"), source=source.name, defaults=checks.DEFAULTS_CHECKS[name])
    merged = merge_configuration(parsed.ComponentConfiguration.DefaultConfiguration, change.merge)
    try:
        checks.DEFAULTS_CHECKS[name](merged)
    except OperatorError as error:
        raise DeployError(f"the configuration of {name} would be refused by the device: {error}") from error


def merge_configuration(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Merge as a nucleus does for MERGE: maps are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = merge_configuration(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def create_deployment_request(
    *,
    name: str,
    target_arn: str,
    components: Mapping[str, str],
    changes: Mapping[str, ConfigurationUpdate],
    current: Mapping[str, Any],
    rollout: RolloutConfig,
    remove: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the parameters of CreateDeployment.

    Raises DeployError for a component that is removed and deployed at once, and for one that is unknown.

    Args:
        name: Name of the deployment.
        target_arn: A thing or a thing group.
        components: Version by name.
        changes: Configuration updates by name; earlier merges are kept unless something is reset.
        current: Components of the target's current deployment. A new deployment replaces it completely, so that its
            other components and their configuration are included again.
        rollout: Speed and limits.
        remove: Components that are not included again.
    """
    requested: dict[str, Any] = {component: dict(entry) for component, entry in current.items()}
    for component in remove:
        if component in components or component in changes:
            raise DeployError(f"{component} is to be removed and to be deployed or configured: leave one of them out")
        if component not in requested:
            there = ", ".join(sorted(requested)) or "nothing"
            raise DeployError(f"{component} is not part of the current deployment, which has {there}")
        del requested[component]
    for component, version in components.items():
        requested[component] = {**requested.get(component, {}), "componentVersion": version}
    for component, change in changes.items():
        if component not in requested:
            raise DeployError(
                f"{component} is configured, but neither deployed here nor part of the current deployment"
            )
        update: dict[str, Any] = {}
        if change.merge:
            before = (
                {}
                if change.reset
                else json.loads(requested[component].get("configurationUpdate", {}).get("merge", "{}"))
            )
            update["merge"] = json.dumps(merge_configuration(before, change.merge), sort_keys=True)
        if change.reset:
            update["reset"] = list(change.reset)
        requested[component]["configurationUpdate"] = update
    return {
        "targetArn": target_arn,
        "deploymentName": name,
        "components": dict(sorted(requested.items())),
        "iotJobConfiguration": rollout.job_configuration(group=":thinggroup/" in target_arn),
        "deploymentPolicies": rollout.deployment_policies(),
    }
