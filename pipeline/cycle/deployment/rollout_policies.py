"""Selects the rollout policy of a release by its trigger and writes it to the signed manifest.

    config/SITE/MODEL/rollout.yaml      optional; without it the policy of the recipe applies
      default: {}                       a policy of agent.release.rollout_policy.RolloutPolicy
      drift: {may_pass_more: true}      replaces it in a cycle that drift started

After a drift the champion is known to be bad, so a good candidate disagrees with it on many parts. Only a policy can
allow for that; the limits of the site still take precedence on the device.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import yaml
from pydantic import Field

from agent.release.manifest import MANIFEST_NAME, parse_manifest
from agent.release.rollout_policy import RolloutPolicy
from pipeline.cloud.storage import ObjectMissingError
from pipeline.strict_json import PlanError, StrictJson, validate

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.cycle.execution import Execution

_MAX_BYTES: Final = 64 * 1024


class RolloutPolicies(StrictJson):
    """The policy file. A trigger without its own policy uses the default one."""

    default: RolloutPolicy = Field(default_factory=RolloutPolicy)
    schedule: RolloutPolicy | None = None
    drift: RolloutPolicy | None = None
    labels: RolloutPolicy | None = None
    manual: RolloutPolicy | None = None

    def for_trigger(self, trigger: str) -> RolloutPolicy:
        """The policy for a cycle with this trigger."""
        found: RolloutPolicy | None = getattr(self, trigger)
        return found or self.default


def write_rollout_policy(execution: Execution, release: Path) -> None:
    """Write the policy for this cycle into the release folder's manifest. Raises PlanError, StorageError."""
    request = execution.request
    key = f"config/{request.site}/{request.model}/rollout.yaml"
    try:
        tree = yaml.safe_load(execution.data.read(key, limit=_MAX_BYTES)) or {}
    except ObjectMissingError:
        return
    except yaml.YAMLError as error:
        raise PlanError(f"{key} is not YAML: {error}") from error
    policy = validate(RolloutPolicies, tree, key).for_trigger(request.trigger)
    path = release / MANIFEST_NAME
    manifest = json.loads(path.read_bytes()) | {"rollout": policy.model_dump(mode="json", exclude_unset=True)}
    path.write_bytes(parse_manifest(json.dumps(manifest).encode(), source=str(path)).to_json())
