"""Trains the release of a plan; shared by searches, jobs and reproductions.

Needs torch. The head and the epochs that a plan leaves open follow from the data, as for `kensa train`.
"""

from __future__ import annotations

import os
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from pipeline.dataset_reader import Dataset, DatasetError
from pipeline.selection.training_plan import TrainingPlan
from pipeline.strict_json import PlanError
from pipeline.training.auto_config import DEFAULT_EPOCHS, choose_head
from pipeline.training.recipe import TrainingParameters

if TYPE_CHECKING:
    from pathlib import Path

    from agent.release.manifest import Manifest
    from pipeline.progress import Progress
    from pipeline.release_writer import ReleaseFiles


def load_planned_dataset(plan: TrainingPlan, data: Path) -> Dataset:
    """Load the data set. Raises DatasetError when it is not the one that the plan names."""
    dataset = Dataset.load(data)
    if plan.dataset_digest not in {None, dataset.digest}:
        raise DatasetError(
            f"{data} has the digest {dataset.digest[:12]}, the plan was made for {str(plan.dataset_digest)[:12]}. Give "
            "the data set version that the plan names, or make a new plan."
        )
    return dataset


def train_plan(plan: TrainingPlan, data: Path, *, progress: Progress, training_job: str | None = None) -> ReleaseFiles:
    """Train. Raises DatasetError, PlanError, OperatorError."""
    # libgomp reads this when torch is loaded. Waiting threads must sleep: spinning halves the speed of a shared
    # machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    dataset = load_planned_dataset(plan, data)
    from pipeline.training.release_builder import TrainingRequest, build_release  # noqa: PLC0415 - loads torch, which takes seconds

    head = plan.head or choose_head(dataset)
    parameters = plan.parameters if "epochs" in plan.parameters else {**plan.parameters, "epochs": DEFAULT_EPOCHS[head]}
    request = TrainingRequest(
        data=data,
        name=plan.name,
        version=plan.version,
        parameters=plan.model_copy(update={"parameters": parameters}).training_parameters(),
        geometry=plan.geometry,
        head=head,
        target_cpu=plan.target_cpu,
        false_rejects=plan.false_rejects,
    )
    files = build_release(request, progress=progress)
    if training_job is None:
        return files
    lineage = files.manifest.lineage.model_copy(update={"training_job": training_job})
    return replace(files, manifest=files.manifest.model_copy(update={"lineage": lineage}))


def plan_from_manifest(manifest: Manifest) -> TrainingPlan:
    """The plan that made a release, from its lineage. Raises PlanError when the lineage lacks something."""
    lineage = manifest.lineage
    known = {field.name for field in fields(TrainingParameters)}
    lacking = sorted(
        {"net", "epochs", "batch", "learning_rate", "threads", "geometry", "head"} - set(lineage.parameters)
    )
    if lacking:
        raise PlanError(
            f"the lineage of {manifest.name} {manifest.version} lacks {', '.join(lacking)}: it was not made by "
            "`kensa train` and cannot be reproduced."
        )
    given = lineage.parameters
    return TrainingPlan(
        name=manifest.name,
        version=manifest.version,
        dataset_digest=lineage.dataset_sha256,
        parameters={key: value for key, value in given.items() if key in known},
        geometry=given["geometry"],
        head=given["head"],
        target_cpu=given.get("target_cpu", "any"),
        false_rejects=given.get("false_rejects"),
    )
