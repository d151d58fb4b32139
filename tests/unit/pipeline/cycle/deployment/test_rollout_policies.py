"""How releases are tried: the plant's policies reach the signed manifest, by what started the cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.release import manifest as manifests
from agent.release.rollout_policy import RolloutPolicy
from pipeline.cloud.storage import open_storage
from pipeline.cycle.deployment.rollout_policies import write_rollout_policy
from pipeline.cycle.execution import CycleRequest, Execution
from pipeline.cycle.settings import CycleSettings
from pipeline.strict_json import PlanError
from tests.kits.releases import write_release

if TYPE_CHECKING:
    from pathlib import Path

ARN = "arn:aws:iot:eu-central-1:123456789012:thinggroup/all"


def execution(folder: Path, trigger: str) -> Execution:
    settings = CycleSettings.model_validate(
        {
            "data": str(folder / "data"),
            "publisher": str(folder / "publisher"),
            "canary_target": ARN,
            "fleet_target": ARN,
            "training_role": "arn:aws:iam::123456789012:role/kensa",
            "training_image": "image",
            "training_source": "s3://code/source.tar.gz",
        }
    )
    request = CycleRequest.model_validate(
        {"trigger": trigger, "trigger_id": "1", "site": "plant-a", "model": "spots", "inspection": "surface"}
    )
    return Execution("arn:aws:states:eu-central-1:1:execution:cycle:one", request, {}, settings)


def laid(folder: Path, trigger: str, text: str | None) -> manifests.Manifest:
    (folder / "data").mkdir()
    if text is not None:
        open_storage(folder / "data").write("config/plant-a/spots/rollout.yaml", text.encode())
    release = write_release(folder / "release", name="spots", version="1.1.0")
    write_rollout_policy(execution(folder, trigger), release)
    return manifests.read_manifest(release)


def test_a_cycle_that_drift_started_gets_its_own_policy(tmp_path: Path) -> None:
    rollout = laid(tmp_path, "drift", "default: {shadow_parts: 400}\ndrift: {may_pass_more: true}\n").rollout
    assert rollout.may_pass_more
    assert rollout.shadow_parts == 300


def test_other_triggers_get_the_default_policy(tmp_path: Path) -> None:
    rollout = laid(tmp_path, "schedule", "default: {shadow_parts: 400}\ndrift: {may_pass_more: true}\n").rollout
    assert (rollout.may_pass_more, rollout.shadow_parts) == (False, 400)


def test_without_a_file_the_manifest_stays_as_it_was_trained(tmp_path: Path) -> None:
    assert laid(tmp_path, "drift", None).rollout == RolloutPolicy()


@pytest.mark.parametrize("text", ["drift: {may_pass: true}", "drift: [", "sometimes: {}"])
def test_a_file_that_makes_no_sense_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(PlanError, match=r"rollout\.yaml"):
        laid(tmp_path, "drift", text)
